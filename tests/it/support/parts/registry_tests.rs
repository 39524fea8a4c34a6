//! A registry, the docker CLI and skopeo against a token server that is as small as can be.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use daypass::clock::{Clock, SystemClock};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::{
    containers::{ContainerUser, Image},
    http::{HttpServer, Request},
    openssl::{Ca, Pair, to_der},
    registry::{Registry, TokenAuth},
};

const USER: &str = "job";
const SECRET: &str = "secret-of-a-lease";

/// Signs tokens for the registry `images` as the issuer `tests`.
struct Signer {
    key: EncodingKey,
    certificate: String,
}

impl Signer {
    fn new(pair: &Pair) -> Self {
        let key = EncodingKey::from_ec_pem(&fs::read(&pair.key).expect("a key")).expect("a P-256 key");
        Self { key, certificate: STANDARD.encode(to_der("x509", &pair.cert)) }
    }

    fn sign(&self, access: &Value) -> String {
        let now = SystemClock.now().as_second();
        let header = Header { x5c: Some(vec![self.certificate.clone()]), ..Header::new(Algorithm::ES256) };
        let claims = json!({"iss": "tests", "aud": "images", "sub": USER, "nbf": now - 5, "exp": now + 60, "access": access});
        encode(&header, &claims, &self.key).expect("it can be signed")
    }
}

/// A registry and its token server, which lets [`USER`] pull and push under `demo/`.
struct World {
    registry: Registry,
    signer: Arc<Signer>,
    _token_server: HttpServer,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "tokens");
    let signer = Arc::new(Signer::new(&ca.client("signer", &[])));
    let signer_of_server = signer.clone();
    let token_server = HttpServer::start(move |request| exchange(&signer_of_server, request));
    let realm = format!("{}/token", token_server.url());
    let registry = Registry::start(&TokenAuth { realm: &realm, service: "images", issuer: "tests", roots: &ca.cert });
    let challenge = registry.challenge();
    assert_eq!(challenge, format!(r#"Bearer realm="{realm}",service="images""#));
    World { registry, signer, _token_server: token_server, _folder: folder }
}

/// `GET /token`
fn exchange(signer: &Signer, request: &Request) -> (u16, Value) {
    let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{SECRET}")));
    if request.header("authorization") != Some(&basic) {
        return (401, json!({"details": "no such lease"}));
    }
    let access = request.query("scope").iter().filter_map(|scope| grant(scope)).collect();
    (200, json!({"token": signer.sign(&access)}))
}

fn grant(scope: &str) -> Option<Value> {
    let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
    let actions: Vec<_> = actions.split(',').filter(|action| ["pull", "push"].contains(action)).collect();
    name.starts_with("demo/").then(|| json!({"type": "repository", "name": name, "actions": actions}))
}

#[test]
fn the_registry_takes_what_the_tokens_say() {
    let world = world();
    let access = |actions: &[&str]| world.signer.sign(&json!([{"type": "repository", "name": "demo/app", "actions": actions}]));
    let (tags, uploads) = ("/v2/demo/app/tags/list", "/v2/demo/app/blobs/uploads/");
    assert_eq!(world.registry.status("GET", tags, "no token"), 401);
    assert_eq!(world.registry.status("GET", tags, &access(&["pull"])), 404, "allowed, and nothing is there");
    assert_eq!(world.registry.status("POST", uploads, &access(&["pull"])), 401);
    assert_eq!(world.registry.status("POST", uploads, &access(&["pull", "push"])), 202);
    assert_eq!(world.registry.status("GET", "/v2/other/tags/list", &access(&["pull"])), 401);

    let folder = tempfile::tempdir().expect("a folder");
    let stranger = Signer::new(&Ca::new(folder.path(), "strangers").client("signer", &[]));
    let forged = stranger.sign(&json!([{"type": "repository", "name": "demo/app", "actions": ["pull"]}]));
    assert_eq!(world.registry.status("GET", tags, &forged), 401, "it trusts another CA");
}

#[test]
fn skopeo_pushes_and_pulls() {
    let world = world();
    let (user, image) = (ContainerUser::new(), Image::new());
    let app = format!("{}/demo/app:v1", world.registry.host());
    let ran = user.skopeo_push(&image, &app, Some((USER, SECRET)));
    assert!(ran.ok, "{}", ran.all());
    let ran = user.skopeo_pull(&app, Some((USER, SECRET)));
    assert!(ran.ok, "{}", ran.all());
    for (reference, login, refusal) in [
        (format!("{}/other:v1", world.registry.host()), Some((USER, SECRET)), "denied"),
        (app.clone(), Some((USER, "another")), "unauthorized: no such lease"),
        (app, None, "unauthorized: no such lease"),
    ] {
        let ran = user.skopeo_push(&image, &reference, login);
        assert!(!ran.ok && ran.all().contains(refusal), "{}", ran.all());
    }
}

#[test]
fn docker_logs_in_and_pushes_without_a_daemon() {
    let world = world();
    let user = ContainerUser::new();
    let (app, list) = (format!("{}/demo/app:v1", world.registry.host()), format!("{}/demo/app:list", world.registry.host()));
    assert!(user.skopeo_push(&Image::new(), &app, Some((USER, SECRET))).ok);
    let ran = user.docker_push_list(&list, &app);
    assert!(!ran.ok, "it is not logged in: {}", ran.all());
    assert!(!user.docker_login(&world.registry.host(), USER, "another").ok);
    let ran = user.docker_login(&world.registry.host(), USER, SECRET);
    assert!(ran.ok, "{}", ran.all());
    let ran = user.docker_push_list(&list, &app);
    assert!(ran.ok, "{}", ran.all());
    let ran = user.docker(&["manifest", "inspect", "--insecure", &list]);
    assert!(ran.ok && ran.text().contains("manifest.list.v2+json"), "{}", ran.all());
    let ran = user.docker_push_list(&format!("{}/other:list", world.registry.host()), &app);
    assert!(!ran.ok && ran.all().contains("denied"), "another repository: {}", ran.all());
}

#[test]
fn a_credential_helper_is_asked_by_both() {
    let world = world();
    let mut user = ContainerUser::new();
    let helper = user.bin().join("docker-credential-tests");
    let answer = json!({"ServerURL": world.registry.host(), "Username": USER, "Secret": SECRET});
    fs::write(&helper, format!("#!/bin/sh\necho \"$1 $(cat)\" >>\"$CALLS\"\necho '{answer}'\n")).expect("a file");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::write(user.configuration(), json!({"credHelpers": {world.registry.host(): "tests"}}).to_string()).expect("a file");
    let calls = user.bin().join("calls");
    user.set_env("CALLS", &calls.display().to_string());

    let app = format!("{}/demo/app:v1", world.registry.host());
    let ran = user.skopeo_push(&Image::new(), &app, None);
    assert!(ran.ok, "{}", ran.all());
    let asked_by_skopeo = fs::read_to_string(&calls).expect("it was called").lines().count();
    let ran = user.docker(&["manifest", "inspect", "--insecure", &app]);
    assert!(ran.ok, "{}", ran.all());
    let lines = fs::read_to_string(&calls).expect("it was called");
    assert!(lines.lines().count() > asked_by_skopeo, "docker asked too");
    assert!(lines.lines().all(|line| line == format!("get {}", world.registry.host())), "{lines}");
}

#[test]
fn a_registry_starts_from_a_file_of_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let ca = Ca::new(folder.path(), "tokens");
    let token = json!({"realm": "http://tests/token", "service": "images", "issuer": "tests", "rootcertbundle": ca.cert});
    let configuration = json!({
        "version": "0.1", "storage": {"inmemory": {}}, "http": {"addr": "127.0.0.1:5000"}, "auth": {"token": token},
    });
    let file = folder.path().join("registry.yml");
    fs::write(&file, configuration.to_string()).expect("a file");
    assert!(Registry::from_file(&file).challenge().contains("http://tests/token"));
}
