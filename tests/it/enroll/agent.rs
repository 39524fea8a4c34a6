//! From a code to an identity that keeps itself, with the binaries as they are built.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use daypass::{
    agent::identity::{Identity, IdentityDir, Keeper},
    client::{
        error::{Error, Kind},
        settings::Roots,
    },
    clock::SystemClock,
    proto::v1::{RedeemRequest, X509Input, enrollment_service_client::EnrollmentServiceClient},
};
use rustls::{ClientConfig, RootCertStore, client::ResolvesClientCert, crypto::aws_lc_rs, sign::CertifiedKey, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{io::AsyncReadExt, sync::watch};

use crate::e2e::{
    wire::{block_on, channel, connect},
    world::{Caller, Said, World},
};

fn create(world: &World, more: &[&str]) -> Said {
    world.cli(&world.operator(), [&["enroll", "create", "--role", "agent"], more].concat())
}

fn code(world: &World) -> String {
    let said = create(world, &["--tenant", "fleet"]);
    assert_eq!(said.code, 0, "{said:?}");
    said.stdout.trim().to_owned()
}

/// `agent enroll` with the code on standard input.
fn enroll(world: &World, state_dir: &Path, code: &str) -> Said {
    let mut command = world.command(&Caller::nobody());
    command.args(["agent", "enroll", "-o", "json", "--state-dir"]).arg(state_dir);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{code}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn an_operator_makes_a_code_and_a_machine_trades_it() {
    let world = World::start();
    let listed = || world.cli(&world.operator(), ["enroll", "list", "-o", "json"]).json();
    let made = create(&world, &["--tenant", "acme-scan", "--name", "scanner-7", "--ttl", "30m", "-o", "json"]).json();
    let code = made["code"].as_str().unwrap();
    assert_eq!(made["enrollment"]["created_by"], "spiffe://dev.daypass.test/operator");
    assert_eq!(listed().as_array().unwrap().len(), 1);
    assert!(!listed().to_string().contains(code));
    let table = world.cli(&world.operator(), ["enroll", "list", "--tenant", "acme-scan"]);
    assert!(table.stdout.contains("scanner-7"), "{table:?}");

    let state = world.file("state");
    let enrolled = enroll(&world, &state, code).json();
    assert_eq!(enrolled["identity"]["subject"], "spiffe://dev.daypass.test/agent/acme-scan/scanner-7");
    assert!(listed().as_array().unwrap().is_empty());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&state), mode(&state.join("identity"))), (0o700, 0o700));
    for name in ["key.pem", "cert.pem", "ca.pem", "lease.json"] {
        assert_eq!(mode(&state.join("identity").join(name)), 0o600, "{name}");
    }
    let left: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left.len(), 2, "the identity and its link: {left:?}");

    // It is a certificate as any other, and says who its holder is.
    let agent = Caller::files(state.join("identity/cert.pem"), state.join("identity/key.pem"));
    let who = world.cli(&agent, ["whoami", "-o", "json"]).json();
    assert_eq!((&who["tenant"], &who["subject"]), (&"acme-scan".into(), &enrolled["identity"]["subject"]));
    let lease = world.cli(&agent, ["lease", "get", enrolled["identity"]["lease_id"].as_str().unwrap(), "-o", "json"]).json();
    assert_eq!(lease["enrolled"], true);
    for file in fs::read_dir(world.dir()).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        let bytes = fs::read(file.path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(code), "{}", file.path().display());
    }
    assert!(world.records().iter().all(|record| !record.to_string().contains(code)));
}

#[test]
fn each_refusal_has_its_exit_code_and_says_what_to_do() {
    let world = World::start();
    let state = world.file("state");
    for (who, tenant, exit, reason) in [
        (world.vendor(), "acme-scan", 4, "DENIED"),
        (world.operator(), "widget", 4, "DENIED"),
        (Caller::nobody(), "fleet", 3, "UNAUTHENTICATED"),
    ] {
        let said = world.cli(&who, ["enroll", "create", "--role", "agent", "--tenant", tenant, "-o", "json"]);
        assert_eq!((said.code, said.error().0.as_str()), (exit, reason), "{said:?}");
    }
    let refused = enroll(&world, &state, "dpe_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    assert_eq!((refused.code, refused.error().0.as_str()), (4, "ENROLLMENT_CODE"), "{refused:?}");
    assert!(!state.join("identity").exists());
    assert_eq!(enroll(&world, &state, "").code, 2, "no code is a mistake of the caller's");

    let taken_back = create(&world, &["--tenant", "fleet", "-o", "json"]).json();
    let id = taken_back["enrollment"]["id"].as_str().unwrap();
    assert_eq!(world.cli(&world.vendor(), ["enroll", "delete", id]).code, 5, "who may not make it does not see it");
    assert_eq!(world.cli(&world.operator(), ["enroll", "delete", id]).code, 0);
    assert_eq!(world.cli(&world.operator(), ["enroll", "delete", id]).code, 5);
    assert_eq!(enroll(&world, &state, taken_back["code"].as_str().unwrap()).code, 4);

    let good = code(&world);
    assert_eq!(enroll(&world, &state, &good).code, 0);
    let again = enroll(&world, &state, &code(&world));
    assert_eq!(again.code, 2, "an identity is not overwritten: {again:?}");
    assert_eq!(enroll(&world, &world.file("other"), &good).code, 4, "it was redeemed, with another key");
    let agent = Caller::files(state.join("identity/cert.pem"), state.join("identity/key.pem"));
    let issued = world.cli(&agent, ["issue", "agent", "-o", "json"]);
    assert_eq!((issued.code, issued.error().0.as_str()), (4, "DENIED"));
    // Each refusal is on record, and none tells a code.
    let records = world.records();
    let refusals = records.iter().filter(|record| record["reason"] == "ENROLLMENT_CODE").count();
    assert_eq!(refusals, 3);
}

/// The machine loses its power between the server's answer and the disk.
#[test]
fn a_run_that_was_cut_short_is_repeated_with_the_same_code() {
    let world = World::start();
    let (state, code) = (world.file("state"), code(&world));
    assert_eq!(enroll(&world, &state, &code).code, 0);
    let first = fs::read(state.join("identity/cert.pem")).unwrap();
    // As it was before the answer: the key alone is on disk.
    let key = fs::read(state.join("identity/key.pem")).unwrap();
    fs::remove_dir_all(&state).unwrap();
    fs::create_dir(&state).unwrap();
    fs::write(state.join("enroll.key"), key).unwrap();
    let again = enroll(&world, &state, &code);
    assert_eq!(again.code, 0, "{again:?}");
    let serial = |pem: &[u8]| {
        use x509_parser::prelude::FromDer;
        let der = CertificateDer::from_pem_slice(pem).unwrap();
        x509_parser::certificate::X509Certificate::from_der(&der).unwrap().1.raw_serial().to_vec()
    };
    assert_eq!(serial(&fs::read(state.join("identity/cert.pem")).unwrap()), serial(&first));
    let leases = world.cli(&world.operator(), ["lease", "list", "--role", "agent", "--state", "active", "-o", "json"]).json();
    assert_eq!(leases.as_array().unwrap().len(), 1);
}

#[test]
fn wrong_codes_of_one_address_are_bounded() {
    let mut world = World::start();
    world.stop();
    world.limit("failed_logins_per_address_per_minute = 2");
    world.start_again();
    let state = world.file("state");
    let wrong: Vec<String> = (0..6).map(|n| enroll(&world, &state, &format!("dpe_{n}{}", "A".repeat(42))).error().0).collect();
    assert_eq!(wrong[..2], ["ENROLLMENT_CODE", "ENROLLMENT_CODE"]);
    assert!(wrong[2..].iter().all(|code| code == "RATE_LIMITED"), "{wrong:?}");
    let recorded = world.records().iter().filter(|record| record["method"] == "EnrollmentService/Redeem").count();
    assert_eq!(recorded, 2, "and so is their record");
    assert_eq!(enroll(&world, &state, &code(&world)).code, 0, "a good code is good all the same");
}

/// Who has a good code must not write into the record without bound.
#[test]
fn what_is_refused_under_a_good_code_is_bounded_too() {
    let mut world = World::start();
    world.stop();
    world.limit("failed_logins_per_address_per_minute = 1");
    world.start_again();
    let code = code(&world);
    let refused = block_on(async {
        let mut service = EnrollmentServiceClient::new(channel(&world, &Caller::nobody()).await);
        let mut refused = Vec::new();
        for _ in 0..12 {
            let request = RedeemRequest { code: code.clone(), x509: Some(X509Input { csr_der: vec![0x30, 0] }) };
            refused.push(service.redeem(request).await.unwrap_err().code());
        }
        refused
    });
    assert!(refused[..10].iter().all(|code| *code == tonic::Code::InvalidArgument), "{refused:?}");
    assert!(refused[10..].iter().all(|code| *code == tonic::Code::ResourceExhausted), "{refused:?}");
    let recorded = world.records().iter().filter(|record| record["method"] == "EnrollmentService/Redeem").count();
    assert_eq!(recorded, 10);
}

fn keeper(world: &World, dir: IdentityDir) -> Keeper {
    let certificates = vec![CertificateDer::from_pem_file(world.file("ca.pem")).unwrap()];
    Keeper {
        dir,
        address: format!("127.0.0.1:{}", world.grpc).parse().unwrap(),
        roots: Roots::Only { source: "the world's CA".to_owned(), certificates },
        timeout: Duration::from_secs(5),
        settle: Duration::from_millis(300),
        doubts: Arc::default(),
        clock: Arc::new(SystemClock),
    }
}

/// A short life: the keeper renews, everybody takes the new one up, and only then the old one ends.
#[test]
fn an_identity_keeps_itself_through_its_renewals() {
    let world = World::start();
    world.reconfigure(|world| world.edit("daypass.toml", "default_ttl = \"24h\"", "default_ttl = \"6s\""));
    let state = world.file("state");
    assert_eq!(enroll(&world, &state, &code(&world)).code, 0);
    let dir = IdentityDir::open(&state).unwrap();
    let first = Arc::new(dir.load().unwrap());
    let keeper = keeper(&world, dir.clone());
    let (current, mut seen) = watch::channel(first.clone());
    let (lost, _) = watch::channel(None);
    block_on(async {
        let keeping = keeper.run(&current, &lost);
        let following = async {
            let told = async { seen.wait_for(|now| now.kept.generation >= 4 && now.kept.acknowledged).await.map(|now| now.kept.clone()) };
            tokio::time::timeout(Duration::from_secs(40), told).await.expect("three renewals in time").unwrap()
        };
        tokio::select! {
            () = keeping => panic!("the keeper ended"),
            kept = following => assert_eq!(kept.lease_id, first.kept.lease_id),
        }
    });
    let now = dir.load().unwrap();
    assert!(now.kept.generation >= 4 && now.kept.expires_at > first.kept.expires_at);
    let agent = Caller::files(state.join("identity/cert.pem"), state.join("identity/key.pem"));
    assert_eq!(world.cli(&agent, ["whoami"]).code, 0);
    assert!(world.records().iter().all(|record| record["method"] != "clone/found"), "its own renewals are no clones");

    // Revoked: the keeper says so.
    assert_eq!(world.cli(&world.operator(), ["lease", "revoke", &now.kept.lease_id]).code, 0);
    let ended = why_lost(&keeper, &current);
    assert_eq!((ended.kind(), ended.code()), (Kind::NotAuthenticated, "CERTIFICATE_REVOKED"), "{ended}");
}

/// Somebody takes the tenant's member away, and sees what that does.
#[test]
fn an_identity_that_is_not_known_for_a_while_is_told_and_kept() {
    let world = World::start();
    world.reconfigure(|world| world.edit("daypass.toml", "default_ttl = \"24h\"", "default_ttl = \"16s\""));
    let state = world.file("state");
    assert_eq!(enroll(&world, &state, &code(&world)).code, 0);
    let dir = IdentityDir::open(&state).unwrap();
    let (current, mut followed) = watch::channel(Arc::new(dir.load().unwrap()));
    let keeper = Keeper { settle: Duration::from_millis(10), ..keeper(&world, dir) };
    let [member, nobody] = ["agent/fleet/*", "nobody/fleet/*"].map(|id| format!("spiffe://dev.daypass.test/{id}"));
    world.reconfigure(|world| world.edit("daypass.toml", &member, &nobody));
    let (lost, mut said) = watch::channel(None::<Error>);
    block_on(async {
        let following = async {
            let told = said.wait_for(Option::is_some).await.unwrap().clone().unwrap();
            assert_eq!(told.code(), "NO_TENANT", "{told}");
            world.reconfigure(|world| world.edit("daypass.toml", &nobody, &member));
            said.wait_for(Option::is_none).await.unwrap();
            followed.wait_for(|now| now.kept.generation > 1).await.map(drop).unwrap();
        };
        tokio::select! {
            () = keeper.run(&current, &lost) => panic!("the keeper ended"),
            in_time = tokio::time::timeout(Duration::from_secs(40), following) => in_time.expect("it is told and renewed in time"),
        }
    });
}

/// What the keeper says when the identity cannot be kept.
fn why_lost(keeper: &Keeper, current: &watch::Sender<Arc<Identity>>) -> Error {
    let (lost, mut said) = watch::channel(None);
    block_on(async {
        let noticed = async {
            let told = tokio::time::timeout(Duration::from_secs(20), said.wait_for(Option::is_some)).await;
            told.expect("it notices").unwrap().clone().expect("it is there")
        };
        tokio::select! {
            () = keeper.run(current, &lost) => panic!("the keeper ended"),
            why = noticed => why,
        }
    })
}

#[test]
fn an_identity_that_expired_is_told_as_that() {
    let world = World::start();
    world.reconfigure(|world| {
        world.edit(
            "daypass.toml",
            "default_ttl = \"24h\"\nmax_ttl = \"24h\"\nmax_life = \"2160h\"",
            "default_ttl = \"2s\"\nmax_ttl = \"2s\"\nmax_life = \"2s\"",
        );
    });
    let state = world.file("state");
    assert_eq!(enroll(&world, &state, &code(&world)).code, 0);
    let dir = IdentityDir::open(&state).unwrap();
    let (current, _seen) = watch::channel(Arc::new(dir.load().unwrap()));
    let keeper = Keeper { roots: Roots::System, timeout: Duration::from_secs(1), settle: Duration::from_millis(10), ..keeper(&world, dir) };
    let ended = why_lost(&keeper, &current);
    assert_eq!(ended.code(), "IDENTITY_EXPIRED", "{ended}");
}

/// A client that shows one certificate and signs with another one's key.
#[derive(Debug)]
struct Pretender(Arc<CertifiedKey>);

impl ResolvesClientCert for Pretender {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

/// Whether the server refused it for its signature, and not for its certificate.
pub fn handshake_with_another_key(world: &World, certificate: &Path, key: &Path) -> bool {
    let chain = CertificateDer::pem_file_iter(certificate).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let key = aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::from_pem_file(key).unwrap()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(world.file("ca.pem")).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Pretender(Arc::new(CertifiedKey::new(chain, key)))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let error = block_on(async {
        let mut stream = connect(world, Arc::new(config)).await.expect("the client is done before the server has looked");
        let mut scratch = [0; 64];
        stream.read(&mut scratch).await.expect_err("it is refused")
    });
    let text = error.to_string();
    assert!(!text.contains("CertificateRevoked"), "{text}");
    text.contains("DecryptError") || text.contains("BadCertificate") || text.contains("decrypt")
}

/// What the sample policy lets the sample agents do, and that the greeting's own line works.
#[test]
fn the_greeting_says_how_and_it_works() {
    let world = World::start();
    assert!(world.greeting().contains("daypass agent enroll"), "{}", world.greeting());
    let ran = Command::new("sh")
        .arg("-c")
        .arg(". ./env.sh && daypass enroll create --tenant fleet --role agent | daypass agent enroll --state-dir agent-state")
        .current_dir(world.dir())
        .env("PATH", format!("{}:{}", Path::new(env!("CARGO_BIN_EXE_daypass")).parent().unwrap().display(), std::env::var("PATH").unwrap()))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let agent = Caller::files(world.file("agent-state/identity/cert.pem"), world.file("agent-state/identity/key.pem"));
    let roles = world.cli(&agent, ["whoami", "-o", "json"]).json()["roles"].clone();
    assert_eq!(roles, serde_json::json!(["web"]), "an agent of the fleet keeps web, and is no operator");
    assert_eq!(world.cli(&agent, ["lease", "list", "-o", "json"]).json().as_array().unwrap().len(), 1, "it sees its own alone");
}
