//! `exec` in the throwaway world: real certificates, real revocation.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::Value;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::world::{Caller, World};
use crate::support::parts::{run, wait_until};

/// How long something may take that takes seconds.
const SOON: Duration = Duration::from_secs(60);

/// `exec web --ttl TTL -- sh -c SCRIPT`, which finds the folder of the world in `$OUT`.
fn exec(world: &World, caller: &Caller, ttl: &str, script: &str) -> Command {
    let mut command = world.command(caller);
    let runtime = world.file("run");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&runtime).unwrap();
    command.args(["exec", "web", "--ttl", ttl, "--", "sh", "-c", script]).stdin(Stdio::null());
    command.env("PATH", "/usr/bin:/bin").env("OUT", world.dir()).env("XDG_RUNTIME_DIR", runtime);
    command
}

fn wait_for(world: &World, name: &str) -> String {
    wait_until(SOON, name, || fs::read_to_string(world.file(name)).ok().filter(|text| text.ends_with('\n')))
}

fn state(world: &World, id: &str) -> String {
    let said = world.cli(&world.operator(), ["lease", "get", id, "-o", "json"]);
    said.json()["state"].as_str().unwrap().to_owned()
}

fn ended(mut child: Child) -> i32 {
    wait_until(SOON, "exec ends", || child.try_wait().unwrap()).code().expect("no signal ends it")
}

#[test]
fn a_command_has_a_certificate_that_verifies_and_that_is_revoked_when_it_ends() {
    let world = World::start();
    let script = r#"
        openssl verify -CAfile "$DAYPASS_TLS_CA" -untrusted "$DAYPASS_TLS_CERT" "$DAYPASS_TLS_CERT" || exit 1
        echo "$DAYPASS_LEASE_ID" > "$OUT/id"; exit 42"#;
    let ran = run(&mut exec(&world, &world.operator(), "15m", script));
    assert_eq!(ran.code, Some(42), "{}", ran.all());
    let lease = world.cli(&world.operator(), ["lease", "get", wait_for(&world, "id").trim(), "-o", "json"]).json();
    assert_eq!(lease["state"], "revoked");
    let crl = world.fetch("/crl/issuing.crl");
    let (_, crl) = CertificateRevocationList::from_der(&crl).unwrap();
    let serial = |raw: &[u8]| raw.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let named = crl.iter_revoked_certificates().any(|revoked| serial(revoked.raw_serial()).trim_start_matches("00") == lease["serial"]);
    assert!(named, "{lease} is in the CRL");
    assert_eq!(fs::read_dir(world.file("run")).unwrap().count(), 0);
}

#[test]
fn a_job_renews_past_the_end_with_fresh_tokens() {
    let world = World::start();
    // It ends when it has seen three keys and the first certificate is over.
    let script = r#"
        first=$(openssl x509 -in "$DAYPASS_TLS_CERT" -noout -serial); keys=" "
        cp "$DAYPASS_TLS_CERT" "$OUT/first.crt"
        while :; do
            key=$(cksum < "$DAYPASS_TLS_KEY" | tr -d ' ')
            case $keys in *" $key "*) ;; *) keys="$keys$key ";; esac
            if test "$(echo $keys | wc -w)" -ge 3 && ! openssl x509 -in "$OUT/first.crt" -noout -checkend 0 > /dev/null; then break; fi
            sleep 0.1
        done
        echo "$DAYPASS_LEASE_ID" > "$OUT/id"
        openssl x509 -in "$DAYPASS_TLS_CERT" -noout -checkend 0"#;
    let mut command = exec(&world, &Caller::nobody(), "4s", script);
    // The world writes a new token twice a second: each use finds one that nobody had before, as with a kubelet.
    let child = command.env("DAYPASS_TOKEN_FILE", world.file("job.jwt")).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(ended(child), 0);
    let id = wait_for(&world, "id");
    let lease = world.cli(&world.operator(), ["lease", "get", id.trim(), "-o", "json"]).json();
    assert!(lease["generation"].as_u64().unwrap() >= 3 && lease["state"] == "revoked", "{lease}");
}

#[test]
fn a_command_has_a_token_and_a_registrys_secret() {
    let world = World::start();
    let mut command = world.command(&world.operator());
    let script = r#"cp "$DAYPASS_JWT_FILE" "$OUT/token" && cp "$REGISTRY_AUTH_FILE" "$OUT/auth" && echo "$DAYPASS_REGISTRY""#;
    command.args(["exec", "federate", "push", "--audience", "federate=demo", "--", "sh", "-c", script]);
    let ran = run(command.env("PATH", "/usr/bin:/bin").env("OUT", world.dir()));
    assert_eq!((ran.code, ran.all().as_str()), (Some(0), "127.0.0.1:5000\n"));
    let token = world.read("token");
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!((&claims["aud"], &claims["tenant"]), (&"demo".into(), &"platform".into()), "{claims}");
    let auth: Value = serde_json::from_str(&world.read("auth")).unwrap();
    let pair = STANDARD.decode(auth["auths"]["127.0.0.1:5000"]["auth"].as_str().unwrap()).unwrap();
    assert_eq!(pair.iter().filter(|byte| **byte == b':').count(), 1, "a user and a secret");
    for role in ["federate", "push"] {
        let leases = world.cli(&world.operator(), ["lease", "list", "--role", role, "-o", "json"]).json();
        assert_eq!((leases.as_array().unwrap().len(), &leases[0]["state"]), (1, &"revoked".into()), "{leases}");
    }
    let denied = world.cli(&world.operator(), ["exec", "federate", "--audience", "other", "--", "true"]);
    assert_ne!(denied.code, 0, "{denied:?}");
}

#[test]
fn what_is_killed_leaves_no_live_lease() {
    let world = World::start();
    let script = r#"echo "$DAYPASS_LEASE_ID $$" > "$OUT/told"; exec sleep 300"#;
    // The command, then exec itself.
    for victim in ["command", "exec"] {
        let _ = fs::remove_file(world.file("told"));
        let mut child = exec(&world, &world.operator(), "15m", script).spawn().unwrap();
        let told = wait_for(&world, "told");
        let (id, command) = told.trim().split_once(' ').unwrap();
        assert_eq!(state(&world, id), "active");
        match victim {
            "exec" => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            _ => {
                assert!(run(Command::new("kill").args(["-KILL", command])).ok);
                assert_eq!(ended(child), 137);
            }
        }
        wait_until(SOON, "the lease is revoked", || (state(&world, id) == "revoked").then_some(()));
        wait_until(SOON, "the command is gone", || {
            let stat = fs::read_to_string(Path::new("/proc").join(command).join("stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
        wait_until(SOON, "the files are gone", || (fs::read_dir(world.file("run")).unwrap().count() == 0).then_some(()));
    }
}
