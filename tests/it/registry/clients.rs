//! A real registry, started by the file that the throwaway world wrote for it, under skopeo and the docker CLI as they are.

use std::fs;

use daypass::client::types::Reach;

use super::world::{Login, SERVICE, claims, get, login, revoke};
use crate::{
    e2e::world::World,
    support::parts::{
        Ran,
        containers::{ContainerUser, Image},
        registry::Registry,
    },
};

/// The world, its registry, and its operator's lease.
fn start() -> (World, Registry, Login) {
    let world = World::start();
    let registry = Registry::from_file(&world.file("registry.yml"));
    let holder = login(&world, "push");
    (world, registry, holder)
}

/// Refused by the registry's token check, and not for any other reason.
fn is_denied(ran: &Ran) -> bool {
    let said = ran.all();
    !ran.ok && ["unauthorized", "denied", "authentication required"].iter().any(|word| said.contains(word))
}

#[test]
fn the_registry_sends_its_clients_to_us() {
    let (world, registry, _) = start();
    let challenge = registry.challenge();
    assert_eq!(challenge, format!("Bearer realm=\"http://127.0.0.1:{}/token\",service=\"{SERVICE}\"", world.http));
}

#[test]
fn skopeo_pushes_and_pulls_what_the_role_allows_and_nothing_else() {
    let (world, registry, holder) = start();
    let (user, image) = (ContainerUser::new(), Image::new());
    let reference = |name: &str| format!("{}/{name}", registry.host());
    let push = |name: &str, login| user.skopeo_push(&image, &reference(name), login);

    for name in ["demo/a:v1", "demo/b-2_x:v1"] {
        let (pushed, pulled) = (push(name, holder.pair()), user.skopeo_pull(&reference(name), holder.pair()));
        assert!(pushed.ok && pulled.ok, "{name}: {} {}", pushed.all(), pulled.all());
    }
    for name in ["other/a:v1", "demo/a/b:v1", "a:v1"] {
        let pushed = push(name, holder.pair());
        assert!(is_denied(&pushed), "{name}: {}", pushed.all());
    }
    for login in [None, Some((holder.user.as_str(), "wrong")), Some(("nobody", holder.secret.as_str()))] {
        let (pushed, pulled) = (push("demo/a:v2", login), user.skopeo_pull(&reference("demo/a:v1"), login));
        assert!(is_denied(&pushed) && is_denied(&pulled), "{login:?}: {} {}", pushed.all(), pulled.all());
    }
    let creds = format!("--creds={}:{}", holder.user, holder.secret);
    let deleted = user.skopeo(&["delete", "--tls-verify=false", &creds, &format!("docker://{}", reference("demo/a:v1"))]);
    assert!(is_denied(&deleted), "the role has no delete: {}", deleted.all());
    let still = user.skopeo_pull(&reference("demo/a:v1"), holder.pair());
    assert!(still.ok, "{}", still.all());
    drop(world);
}

#[test]
fn what_a_role_allows_is_what_the_registry_allows() {
    let world = World::start();
    world.reconfigure(|world| {
        for (name, repositories, actions) in [
            ("reader", "demo/a", "\"pull\""),
            ("cleaner", "demo/*", "\"pull\", \"delete\""),
            ("tenants", "{tenant}/*", "\"pull\", \"push\""),
        ] {
            let role = format!(
                "[[role]]\nname = \"{name}\"\nshared = true\nkind = \"registry\"\nregistry = \"dev\"\nrepositories = [\"{repositories}\"]\n\
                 actions = [{actions}]\ndefault_ttl = \"5m\"\nmax_ttl = \"5m\"\n"
            );
            world.append("daypass.toml", &role);
        }
        for role in ["reader", "cleaner", "tenants"] {
            let permit = "permit(principal is Certificate in Tenant::\"platform\", action == Action::\"issue\", resource == Role::";
            world.append("policy.cedar", &format!("@id(\"{role}\")\n{permit}\"{role}\");\n"));
        }
    });
    let registry = Registry::from_file(&world.file("registry.yml"));
    let (user, image) = (ContainerUser::new(), Image::new());
    let reference = |name: &str| format!("{}/{name}", registry.host());
    let pusher = login(&world, "push");
    for name in ["demo/a:v1", "demo/b:v1"] {
        let pushed = user.skopeo_push(&image, &reference(name), pusher.pair());
        assert!(pushed.ok, "{}", pushed.all());
    }
    let delete = |login: &Login, name: &str| {
        let creds = format!("--creds={}:{}", login.user, login.secret);
        user.skopeo(&["delete", "--tls-verify=false", &creds, &format!("docker://{}", reference(name))])
    };
    let reader = login(&world, "reader");
    assert!(user.skopeo_pull(&reference("demo/a:v1"), reader.pair()).ok);
    for denied in [
        user.skopeo_pull(&reference("demo/b:v1"), reader.pair()),
        user.skopeo_push(&image, &reference("demo/a:v2"), reader.pair()),
        delete(&reader, "demo/a:v1"),
    ] {
        assert!(is_denied(&denied), "{}", denied.all());
    }
    let cleaner = login(&world, "cleaner");
    let denied = user.skopeo_push(&image, &reference("demo/a:v2"), cleaner.pair());
    assert!(is_denied(&denied), "{}", denied.all());
    let deleted = delete(&cleaner, "demo/b:v1");
    assert!(deleted.ok, "{}", deleted.all());
    assert!(!user.skopeo_pull(&reference("demo/b:v1"), pusher.pair()).ok, "it is gone");

    let tenants = login(&world, "tenants");
    let pushed = user.skopeo_push(&image, &reference("platform/app:v1"), tenants.pair());
    assert!(pushed.ok, "{}", pushed.all());
    let denied = user.skopeo_push(&image, &reference("widget/app:v1"), tenants.pair());
    assert!(is_denied(&denied), "another tenant's: {}", denied.all());
}

#[test]
fn the_docker_cli_logs_in_pushes_reads_and_is_denied_the_rest() {
    let (world, registry, holder) = start();
    let (user, image) = (ContainerUser::new(), Image::new());
    let reference = |name: &str| format!("{}/{name}", registry.host());
    let refused = user.docker_login(&registry.host(), &holder.user, "wrong");
    assert!(!refused.ok && refused.all().contains("no live lease takes this user name and password"), "{}", refused.all());

    let logged_in = user.docker_login(&registry.host(), &holder.user, &holder.secret);
    assert!(logged_in.ok, "{}", logged_in.all());
    let kept = fs::read_to_string(user.configuration()).unwrap();
    assert!(kept.contains("identitytoken") && kept.contains(&holder.secret), "it goes on by refresh token: {kept}");

    let pushed = user.skopeo_push(&image, &reference("demo/a:v1"), holder.pair());
    assert!(pushed.ok, "{}", pushed.all());
    let pushed = user.docker_push_list(&reference("demo/a:list"), &reference("demo/a:v1"));
    assert!(pushed.ok, "{}", pushed.all());
    let read = user.docker(&["manifest", "inspect", "--insecure", &reference("demo/a:list")]);
    assert!(read.ok && read.all().contains("manifests"), "{}", read.all());
    let across = user.docker_push_list(&reference("demo/other:list"), &reference("demo/a:v1"));
    assert!(across.ok, "an image of another repository is mounted: {}", across.all());
    let denied = user.docker_push_list(&reference("other/a:list"), &reference("demo/a:v1"));
    assert!(is_denied(&denied), "{}", denied.all());

    revoke(&world, &holder);
    let denied = user.docker(&["manifest", "inspect", "--insecure", &reference("demo/a:v1")]);
    assert!(is_denied(&denied), "the refresh token is dead with its lease: {}", denied.all());
}

#[test]
fn a_revoked_lease_gets_no_more_tokens_and_another_goes_on() {
    let (world, registry, gone) = start();
    let (user, image) = (ContainerUser::new(), Image::new());
    let other = login(&world, "push");
    let push = |name: &str, login: &Login| user.skopeo_push(&image, &format!("{}/{name}", registry.host()), login.pair());
    assert!(push("demo/a:v1", &gone).ok && push("demo/a:v2", &other).ok);
    let revoked = revoke(&world, &gone);
    assert_eq!(revoked.revocation.reach, Reach::Lease);
    let denied = push("demo/a:v3", &gone);
    assert!(is_denied(&denied), "{}", denied.all());
    let pushed = push("demo/a:v4", &other);
    assert!(pushed.ok, "{}", pushed.all());
}

#[test]
fn the_signing_key_changes_while_pushes_go_on_and_the_registry_is_not_touched() {
    let (world, registry, holder) = start();
    let (user, image) = (ContainerUser::new(), Image::new());
    let scope = format!("service={SERVICE}&scope=repository:demo/a:pull");
    let token = || get(&world, &scope, &holder.basic()).json()["token"].as_str().unwrap().to_owned();
    let read = |token: &str| registry.status("GET", "/v2/demo/a/tags/list", token);
    let mut tokens = Vec::new();
    for round in 0..3 {
        let pushed = user.skopeo_push(&image, &format!("{}/demo/a:v{round}", registry.host()), holder.pair());
        assert!(pushed.ok, "round {round}: {}", pushed.all());
        tokens.push(token());
        // Each configuration that is taken into force begins with a key of its own.
        world.reconfigure(|world| world.append("daypass.toml", ""));
    }
    for token in &tokens {
        assert_eq!(read(token), 200, "what an earlier key signed is good for its time");
    }
    let mut keys: Vec<_> = tokens.iter().map(|token| token.split('.').next().unwrap()).collect();
    keys.dedup();
    assert_eq!(keys.len(), tokens.len(), "each was signed by another key");
    assert_eq!(claims(&tokens[0])["sub"], holder.lease.as_str());
}

#[test]
fn a_token_that_was_tampered_with_or_signed_under_another_ca_is_no_token() {
    let (world, registry, holder) = start();
    let pushed = ContainerUser::new().skopeo_push(&Image::new(), &format!("{}/demo/a:v1", registry.host()), holder.pair());
    assert!(pushed.ok, "{}", pushed.all());
    let answer = get(&world, &format!("service={SERVICE}&scope=repository:demo/a:pull"), &holder.basic());
    let good = answer.json()["token"].as_str().unwrap().to_owned();
    let read = |token: &str| registry.status("GET", "/v2/demo/a/tags/list", token);
    assert_eq!(read(&good), 200);
    let parts: Vec<&str> = good.split('.').collect();
    let mut forged = claims(&good);
    forged["access"][0]["actions"] = serde_json::json!(["*"]);
    let forged = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, forged.to_string());
    assert_eq!(read(&[parts[0], &forged, parts[2]].join(".")), 401);
    let other = World::start();
    let stranger = login(&other, "push");
    let answer = get(&other, &format!("service={SERVICE}&scope=repository:demo/a:pull"), &stranger.basic());
    assert_eq!(read(answer.json()["token"].as_str().unwrap()), 401, "the same names, another CA");
    assert_eq!(registry.status("GET", "/v2/_catalog", &good), 401);
}
