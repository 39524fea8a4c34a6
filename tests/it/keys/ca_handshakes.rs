//! A CA rotates under continuous handshakes between holders of old and new certificates: none fails.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use daypass::proto::v1::{IssueRequest, KeyState, X509Input, credential::Kind, issue_request::Input};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection, crypto::aws_lc_rs, server::WebPkiClientVerifier, version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::sync::watch;

use super::ca_world::{Follower, Under, ca_ok, crl, roots, rotating, trust};
use crate::{
    e2e::{
        wire::{block_on, credentials},
        world::World,
    },
    support::parts::openssl::{openssl, to_pem, verify},
};

const HOLDERS: usize = 4;

/// A certificate with its key, from some authority.
struct Identity {
    authority: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
}

/// Who shows its certificate, and trusts by the bundle that it follows.
struct Holder {
    identity: Mutex<Arc<Identity>>,
    follower: Follower,
}

impl Holder {
    fn identity(&self) -> Arc<Identity> {
        self.identity.lock().unwrap().clone()
    }

    async fn renew(&self, world: &World) {
        let identity = issue(world).await;
        *self.identity.lock().unwrap() = Arc::new(identity);
    }
}

async fn issue(world: &World) -> Identity {
    let pair = KeyPair::generate().unwrap();
    let csr_der = CertificateParams::default().serialize_request(&pair).unwrap().der().to_vec();
    let request =
        IssueRequest { role: "web".to_owned(), ttl: None, request_id: String::new(), input: Some(Input::X509(X509Input { csr_der })) };
    let issued = credentials(world, &world.operator()).await.issue(request).await.unwrap().into_inner();
    let Some(Kind::X509(made)) = issued.credential.and_then(|credential| credential.kind) else { panic!("no certificate") };
    let chain: Vec<_> = made.chain_der.into_iter().map(CertificateDer::from).collect();
    let (_, leaf) = <x509_parser::certificate::X509Certificate<'_> as x509_parser::prelude::FromDer<_>>::from_der(&chain[0]).unwrap();
    let authority = leaf.issuer().iter_common_name().next().unwrap().as_str().unwrap().to_owned();
    Identity { authority, chain, key: pair.serialize_der().into() }
}

/// One handshake in memory, both sides verified; the error says which side refused.
fn handshake(client: &Holder, server: &Holder) -> Result<(String, String), String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (ours, theirs) = (client.identity(), server.identity());
    let key = |identity: &Identity| PrivateKeyDer::from(identity.key.clone_key());
    let trusted = |bundle: &watch::Receiver<_>| roots(&bundle.borrow());
    let client_config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(trusted(&client.follower.bundle))
        .with_client_auth_cert(ours.chain.clone(), key(&ours))
        .unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(trusted(&server.follower.bundle)), provider.clone()).build().unwrap();
    let server_config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(theirs.chain.clone(), key(&theirs))
        .unwrap();
    let name = ServerName::try_from("web.dev.daypass.test").unwrap();
    let mut client = ClientConnection::new(Arc::new(client_config), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server_config)).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut sent = wire.as_slice();
        while !sent.is_empty() {
            server.read_tls(&mut sent).unwrap();
            server.process_new_packets().map_err(|error| format!("{} refused {}: {error}", theirs.authority, ours.authority))?;
        }
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        let mut sent = wire.as_slice();
        while !sent.is_empty() {
            client.read_tls(&mut sent).unwrap();
            client.process_new_packets().map_err(|error| format!("{} refused {}: {error}", ours.authority, theirs.authority))?;
        }
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() && !server.wants_write() {
            return Ok((ours.authority.clone(), theirs.authority.clone()));
        }
    }
    Err("the handshake does not end".to_owned())
}

/// What came of the handshakes so far.
#[derive(Default)]
struct Seen {
    /// By the authorities of both sides.
    done: Mutex<BTreeMap<(String, String), usize>>,
    failed: Mutex<Vec<String>>,
    count: AtomicUsize,
    over: AtomicBool,
}

fn shake_hands(holders: &[Holder], seen: &Seen, offset: usize) {
    let mut turn = offset;
    while !seen.over.load(Ordering::Relaxed) {
        let (client, server) = (&holders[turn % HOLDERS], &holders[(turn / HOLDERS) % HOLDERS]);
        match handshake(client, server) {
            Ok(pair) => *seen.done.lock().unwrap().entry(pair).or_default() += 1,
            Err(error) => seen.failed.lock().unwrap().push(error),
        }
        seen.count.fetch_add(1, Ordering::Relaxed);
        turn += 1;
    }
}

impl Seen {
    /// Until so many more handshakes were tried.
    async fn more(&self, count: usize) {
        let until = self.count.load(Ordering::Relaxed) + count;
        let reached = async {
            while self.count.load(Ordering::Relaxed) < until {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("handshakes go on");
        assert_eq!(*self.failed.lock().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn no_handshake_fails_while_a_ca_is_prepared_activated_and_retired() {
    let world = rotating(None, Under::Itself);
    block_on(async {
        let mut holders = Vec::new();
        for _ in 0..HOLDERS {
            let follower = Follower::start(trust(&world).await, true).await;
            holders.push(Holder { identity: Mutex::new(Arc::new(issue(&world).await)), follower });
        }
        let (holders, seen) = (Arc::new(holders), Arc::new(Seen::default()));
        let shaking: Vec<_> = (0..2)
            .map(|offset| {
                let (holders, seen) = (holders.clone(), seen.clone());
                std::thread::spawn(move || shake_hands(&holders, &seen, offset * 7))
            })
            .collect();
        seen.more(50).await;
        let first = &holders[0].follower;
        first.until(&[("issuing-1", KeyState::Active)]).await;

        // Everybody acknowledges the bundle with the prepared key, and so it signs long before its time.
        ca_ok(&world, &["prepare", "issuing"]);
        first.until(&[("issuing-1", KeyState::Retired), ("issuing-2", KeyState::Active)]).await;
        openssl_agrees(&world, &holders[0]);
        for holder in holders.iter() {
            seen.more(30).await;
            holder.renew(&world).await;
            assert_eq!(holder.identity().authority, "issuing-2");
        }
        openssl_agrees(&world, &holders[0]);
        seen.more(50).await;

        ca_ok(&world, &["retire", "issuing-1"]);
        first.until(&[("issuing-2", KeyState::Active)]).await;
        seen.more(50).await;
        seen.over.store(true, Ordering::Relaxed);
        shaking.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*seen.failed.lock().unwrap(), Vec::<String>::new());
        let done = seen.done.lock().unwrap();
        let name = |number: u32| format!("issuing-{number}");
        for pair in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            assert!(done.get(&(name(pair.0), name(pair.1))).is_some_and(|count| *count > 0), "{pair:?}: {done:?}");
        }
    });
}

/// A judge that is not rustls: the holder's certificate holds under the bundle, its CRL looked up.
fn openssl_agrees(world: &World, holder: &Holder) {
    let identity = holder.identity();
    let bundle = holder.follower.bundle.borrow().clone();
    let (leaf, trusted, crls) = (world.file("leaf.pem"), world.file("bundle.pem"), world.file("crls.pem"));
    to_pem("x509", &identity.chain[0], &leaf);
    let (mut roots, mut lists) = (String::new(), String::new());
    for authority in &bundle.authorities {
        let (root, list) = (world.file("one.pem"), world.file("one.crl.pem"));
        to_pem("x509", &authority.root_der[0], &root);
        to_pem("crl", &crl(world.http, &authority.name), &list);
        let signed = openssl(world.dir(), ["crl", "-noout", "-verify", "-CAfile", root.to_str().unwrap(), "-in", list.to_str().unwrap()]);
        assert!(signed.all().contains("verify OK"), "{} has not signed its CRL: {}", authority.name, signed.all());
        roots += &fs::read_to_string(root).unwrap();
        lists += &fs::read_to_string(list).unwrap();
    }
    fs::write(&trusted, roots).unwrap();
    fs::write(&crls, lists).unwrap();
    let judged = verify(&leaf, &trusted, None, Some(&crls));
    assert!(judged.ok, "{}: {}", identity.authority, judged.all());
}
