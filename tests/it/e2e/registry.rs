//! Images: from what `daypassd dev` prints to a push through docker's and skopeo's own credential helper, and to its end.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use daypass::model::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    token,
    world::{Caller, World},
};
use crate::support::parts::{
    Ran,
    containers::{ContainerUser, Image},
    nginx::curl,
    registry::Registry,
    run, wait_until,
};

const SERVICE: &str = "registry.dev.daypass.test";

/// How long something may take that takes seconds.
const SOON: Duration = Duration::from_secs(60);

/// The throwaway world, and the registry that it wrote the configuration of.
struct Place {
    world: World,
    registry: Registry,
}

impl Place {
    fn start() -> Self {
        let world = World::start();
        let registry = Registry::from_file(&world.file("registry.yml"));
        // The file says port 5000, and only one test at a time could have that.
        world.reconfigure(|world| world.edit("daypass.toml", "host = \"127.0.0.1:5000\"", &format!("host = \"{}\"", registry.host())));
        Self { world, registry }
    }

    fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.host())
    }

    /// The exchanges on record.
    fn exchanges(&self) -> Vec<Value> {
        self.world.records().into_iter().filter(|record| record["method"] == "registry/exchange").collect()
    }

    fn leases(&self) -> Vec<Value> {
        let said = self.world.cli(&self.world.operator(), ["lease", "list", "--role", "push", "-o", "json"]).json();
        said.as_array().unwrap().clone()
    }

    /// Revokes a lease by its id; until when it may be accepted, and the lease.
    fn revoke(&self, lease: &str) -> (Timestamp, Value) {
        let said = self.world.cli(&self.world.operator(), ["lease", "revoke", lease, "--reason", "a laptop was lost", "-o", "json"]);
        let told = said.json();
        assert_eq!((&told["matched"], &told["revoked"]), (&json!(1), &json!(1)), "{told}");
        (time(&told, "live_until"), self.lease(lease))
    }

    fn lease(&self, lease: &str) -> Value {
        self.world.cli(&self.world.operator(), ["lease", "get", lease, "-o", "json"]).json()
    }

    /// The client in the environment of one who uses containers, as a caller of the world.
    fn daypass(&self, user: &ContainerUser, caller: &Caller) -> Command {
        let mut command = user.command(env!("CARGO_BIN_EXE_daypass").into());
        command.env("DAYPASS_ADDR", format!("127.0.0.1:{}", self.world.grpc)).env("DAYPASS_CA", self.world.file("ca.pem"));
        if let Some(pair) = &caller.pair {
            command.env("DAYPASS_CERT", &pair.cert).env("DAYPASS_KEY", &pair.key);
        }
        if let Some(token) = &caller.token {
            command.env("DAYPASS_TOKEN", token);
        }
        command
    }
}

/// One who has the credential helper on the path, and no login anywhere.
fn user() -> ContainerUser {
    let user = ContainerUser::new();
    let helper = "docker-credential-daypass";
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_docker-credential-daypass"), user.bin().join(helper)).unwrap();
    user
}

/// Refused by the registry's token check, and not for any other reason.
fn is_denied(ran: &Ran) -> bool {
    let said = ran.all();
    !ran.ok && ["unauthorized", "denied", "authentication required"].iter().any(|word| said.contains(word))
}

#[track_caller]
fn works(ran: &Ran) {
    assert!(ran.ok, "{}", ran.all());
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}"))
}

fn time(value: &Value, name: &str) -> Timestamp {
    text(value, name).parse().unwrap_or_else(|error| panic!("{name} ({error}) in {value}"))
}

/// A part of a token, unverified: its header (0) or its claims (1).
fn part(token: &str, number: usize) -> Value {
    let part = URL_SAFE_NO_PAD.decode(token.split('.').nth(number).expect("a JWT has three parts")).unwrap();
    serde_json::from_slice(&part).unwrap()
}

/// A token of the endpoint, for what `demo/a` allows.
fn exchange(world: &World, user: &str, secret: &str) -> String {
    let url = format!("http://127.0.0.1:{}/token?service={SERVICE}&scope=repository:demo/a:pull,push", world.http);
    let ran = curl(&["--user", &format!("{user}:{secret}"), &url]);
    let answer: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {}", ran.all()));
    text(&answer, "token").to_owned()
}

/// A script, as somebody would paste it who has the client on the path.
fn paste(user: &ContainerUser, script: &str) -> Ran {
    let programs = PathBuf::from(env!("CARGO_BIN_EXE_daypass")).parent().unwrap().display().to_string();
    let docker = crate::support::parts::tools().join("bin").display().to_string();
    let mut command = user.command("sh".into());
    run(command.args(["-e", "-c", script]).env("PATH", format!("{programs}:{docker}:/usr/bin:/bin")))
}

#[test]
fn what_dev_prints_is_all_that_a_push_needs() {
    let world = World::start();
    let greeting = world.greeting();
    let printed = |begin: &str| {
        let line = greeting.lines().map(str::trim).find(|line| line.starts_with(begin));
        line.unwrap_or_else(|| panic!("no {begin:?} is printed: {greeting}")).to_owned()
    };
    let serve = printed("docker-registry serve ");
    let registry = Registry::from_file(Path::new(serve.trim_start_matches("docker-registry serve ").trim_matches('\'')));
    let (user, image) = (user(), Image::new());
    let ran = paste(&user, &format!("{}\n{}", printed(". "), printed("daypass issue push -o json")));
    works(&ran);
    let said: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let credential = &said["credential"];
    assert_eq!(credential.as_object().unwrap().keys().collect::<Vec<_>>(), ["registry", "username", "secret", "expires_at"]);
    assert_eq!((text(credential, "registry"), credential["expires_at"] == said["lease"]["expires_at"]), ("127.0.0.1:5000", true));
    let login = Some((text(credential, "username"), text(credential, "secret")));
    let reference = |name: &str| format!("{}/{name}", registry.host());
    works(&user.skopeo_push(&image, &reference("demo/a:v1"), login));
    works(&user.skopeo_pull(&reference("demo/a:v1"), login));
    let denied = user.skopeo_push(&image, &reference("other/a:v1"), login);
    assert!(is_denied(&denied), "{}", denied.all());
}

#[test]
fn docker_logs_in_with_exported_lines_and_out_again() {
    let place = Place::start();
    let (user, image) = (user(), Image::new());
    let pasted = format!(
        ". '{}'\neval \"$(daypass issue push -o env)\"\n\
         printf %s \"$DAYPASS_REGISTRY_SECRET\" | docker login -u \"$DAYPASS_REGISTRY_USERNAME\" --password-stdin \"$DAYPASS_REGISTRY\"",
        place.world.file("env.sh").display()
    );
    works(&paste(&user, &pasted));
    works(&user.skopeo_push(&image, &place.reference("demo/a:v1"), None));
    works(&user.docker_push_list(&place.reference("demo/a:list"), &place.reference("demo/a:v1")));
    works(&user.docker(&["logout", &place.registry.host()]));
    let denied = user.docker(&["manifest", "inspect", "--insecure", &place.reference("demo/a:v1")]);
    assert!(is_denied(&denied), "{}", denied.all());
}

/// Pushes and pulls by both tools, which find the helper by themselves; then all that must not work.
fn through_the_helper(place: &Place, user: &ContainerUser) {
    let image = Image::new();
    for name in ["demo/a:v1", "demo/b:v1"] {
        works(&user.skopeo_push(&image, &place.reference(name), None));
        works(&user.skopeo_pull(&place.reference(name), None));
    }
    works(&user.docker_push_list(&place.reference("demo/a:list"), &place.reference("demo/a:v1")));
    works(&user.docker(&["manifest", "inspect", "--insecure", &place.reference("demo/a:list")]));
    for denied in [
        user.skopeo_push(&image, &place.reference("other/a:v1"), None),
        user.docker_push_list(&place.reference("other/a:list"), &place.reference("demo/a:v1")),
    ] {
        assert!(is_denied(&denied), "{}", denied.all());
    }
    // Docker would store there what it logged in with.
    let [lease] = place.leases().try_into().expect("one lease for all of it");
    let (name, secret) = (text(&lease, "id").to_owned(), "a-secret-of-somebody-else");
    let refused = user.docker_login(&place.registry.host(), &name, secret);
    assert!(!refused.ok && !refused.all().contains(secret), "{}", refused.all());
    works(&user.docker(&["logout", &place.registry.host()]));
    works(&user.skopeo_pull(&place.reference("demo/a:v1"), None));
}

/// What the record says of every exchange of a lease.
fn each_exchange_is_on_record(place: &Place, lease: &Value, tenant: &str) {
    let (issued_at, now) = (time(lease, "issued_at"), Timestamp::from_second(token::now() + 1).unwrap());
    let records = place.exchanges();
    let granted: Vec<_> = records.iter().filter(|record| record["outcome"] == "done").collect();
    assert!(granted.len() >= 8, "{records:?}");
    for record in granted {
        assert!(issued_at <= time(record, "time") && time(record, "time") <= now, "{record}");
        assert_eq!(
            (&record["lease_id"], &record["role"], &record["tenant"], &record["peer_address"]),
            (&lease["id"], &json!("push"), &json!(tenant), &json!("127.0.0.1")),
            "{record}"
        );
        assert_eq!((&record["actor"]["subject"], &record["actor"]["method"]), (&lease["subject"], &json!("registry")), "{record}");
    }
    let scopes: BTreeSet<&str> = records.iter().filter_map(|record| record["detail"][0].as_str()).collect();
    assert!(scopes.contains("repository:demo/a:pull,push") && !scopes.iter().any(|scope| scope.contains("other/")), "{scopes:?}");
}

/// `registry login`, with what names the caller; docker and skopeo then run with nothing of that.
fn log_in(place: &Place, user: &ContainerUser, caller: &Caller, more: &[(&str, String)]) {
    let mut command = place.daypass(user, caller);
    let ran = run(command.args(["registry", "login", "push", &place.registry.host()]).envs(more.iter().map(|(name, value)| (name, value))));
    assert!(ran.ok && ran.stderr.is_empty(), "{}", ran.all());
}

#[test]
fn an_operators_pushes_by_the_helper_are_one_lease_until_it_is_revoked() {
    let place = Place::start();
    let user = user();
    let operator = place.world.operator();
    log_in(&place, &user, &operator, &[]);
    through_the_helper(&place, &user);
    let [lease] = place.leases().try_into().expect("one lease");
    each_exchange_is_on_record(&place, &lease, "platform");

    let (_, revoked) = place.revoke(text(&lease, "id"));
    assert_eq!((text(&revoked, "state"), text(&revoked["revocation"], "reach")), ("revoked", "lease"), "{revoked}");
    for denied in [
        user.skopeo_push(&Image::new(), &place.reference("demo/a:v9"), None),
        user.docker(&["manifest", "inspect", "--insecure", &place.reference("demo/a:v1")]),
    ] {
        assert!(is_denied(&denied), "{}", denied.all());
    }
    let last = place.exchanges().pop().unwrap();
    assert_eq!((&last["outcome"], &last["lease_id"]), (&json!("denied"), &lease["id"]), "{last}");

    // What is cached is dead; who may still have the role logs out, and in again.
    works(&run(place.daypass(&user, &operator).args(["registry", "logout"])));
    log_in(&place, &user, &operator, &[]);
    works(&user.skopeo_push(&Image::new(), &place.reference("demo/a:v10"), None));
    works(&run(place.daypass(&user, &operator).args(["registry", "logout"])));
    assert!(place.leases().len() == 2 && place.leases().iter().all(|lease| lease["state"] == "revoked"), "{:?}", place.leases());
    let anonymous = user.skopeo_pull(&place.reference("demo/a:v1"), None);
    assert!(is_denied(&anonymous), "{}", anonymous.all());
}

#[test]
fn a_jobs_pushes_by_the_helper_are_one_lease_though_its_token_changes() {
    let place = Place::start();
    let user = user();
    let file = place.world.file("job.jwt").display().to_string();
    log_in(&place, &user, &Caller::nobody(), &[("DAYPASS_TOKEN_FILE", file)]);
    let first = place.world.job_token();
    assert_ne!(first, place.world.job_token(), "the file changes meanwhile");
    through_the_helper(&place, &user);
    let [lease] = place.leases().try_into().expect("one lease");
    each_exchange_is_on_record(&place, &lease, "widget");
}

#[test]
fn a_jobs_one_token_in_a_variable_is_enough_for_many_pushes() {
    let place = Place::start();
    let mut user = user();
    let job = place.world.job();
    log_in(&place, &user, &job, &[]);
    // A step of a job has it in its environment all the time; it is good for one lease of the role.
    user.set_env("DAYPASS_TOKEN", job.token.as_deref().unwrap());
    through_the_helper(&place, &user);
    let [lease] = place.leases().try_into().expect("one lease");
    assert_eq!(text(&lease, "subject"), "oidc:github:repo:acme/widget:ref:refs/heads/main");
}

#[test]
fn a_command_of_exec_pushes_with_nothing_else_and_its_lease_ends_with_it() {
    let place = Place::start();
    let (user, image) = (ContainerUser::new(), Image::new());
    let source = format!("dir:{}", image.folder().display());
    let copy = |caller: &Caller, target: &str| {
        let mut command = place.daypass(&user, caller);
        command.args(["exec", "push", "--", "skopeo", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false", &source]);
        run(command.arg(format!("docker://{}", place.reference(target))))
    };
    for (number, caller) in [place.world.operator(), place.world.job()].iter().enumerate() {
        works(&copy(caller, &format!("demo/a:v{number}")));
    }
    let refused = copy(&place.world.operator(), "other/a:v1");
    assert!(is_denied(&refused) && refused.code == Some(1), "the exit code is skopeo's: {}", refused.all());

    let list = place.reference("demo/a:list");
    let docker = crate::support::parts::tool("docker").display().to_string();
    let script = format!(
        "'{docker}' manifest create --insecure '{list}' '{image}' && '{docker}' manifest push --purge --insecure '{list}'",
        image = place.reference("demo/a:v0")
    );
    works(&run(place.daypass(&user, &place.world.operator()).args(["exec", "push", "--", "sh", "-c", &script])));

    let leases = place.leases();
    assert!(leases.len() == 4 && leases.iter().all(|lease| lease["state"] == "revoked"), "{leases:?}");
    let left = fs::read_to_string(user.configuration()).unwrap_or_default();
    assert!(!left.contains("auth"), "nothing of it stays with the user: {left}");
    let gone = user.skopeo_pull(&place.reference("demo/a:v0"), None);
    assert!(is_denied(&gone), "{}", gone.all());
}

#[test]
fn a_revocation_says_until_when_the_last_token_is_taken() {
    let place = Place::start();
    let said = place.world.cli(&place.world.operator(), ["issue", "push", "-o", "json"]).json();
    let (lease, user, secret) = (text(&said["lease"], "id"), text(&said["credential"], "username"), text(&said["credential"], "secret"));
    let minute = SignedDuration::from_mins(1);
    let before = place.lease(lease);
    assert!(time(&before["revocation"], "live_until") <= time(&before, "expires_at") + minute, "{before}");

    let token = exchange(&place.world, user, secret);
    let (live_until, revoked) = place.revoke(lease);
    // The registry takes a token for a minute past its end.
    let accepted_until = Timestamp::from_second(part(&token, 1)["exp"].as_i64().unwrap()).unwrap() + minute;
    assert!(accepted_until <= live_until, "{accepted_until} {live_until}");
    assert!(live_until <= accepted_until + minute, "no more than the time since: {accepted_until} {live_until}");
    assert!(live_until <= time(&revoked, "expires_at") + minute);
    assert_eq!((time(&revoked["revocation"], "live_until"), text(&revoked, "state")), (live_until, "revoked"), "{revoked}");
    assert_eq!(place.registry.status("POST", "/v2/demo/a/blobs/uploads/", &token), 202, "it is as honest as that");
    assert_eq!(place.revoke(lease).0, live_until, "another revocation moves nothing");
    let people = place.world.cli(&place.world.operator(), ["lease", "get", lease]);
    assert!(people.stdout.contains(&format!("may be accepted until {}", text(&revoked["revocation"], "live_until"))), "{people:?}");
}

#[test]
fn signing_keys_change_under_pushes_that_go_on_and_across_a_restart() {
    let mut place = Place::start();
    let user = user();
    log_in(&place, &user, &place.world.operator(), &[]);
    let said = place.world.cli(&place.world.operator(), ["issue", "push", "-o", "json"]).json();
    let (name, secret) = (text(&said["credential"], "username").to_owned(), text(&said["credential"], "secret").to_owned());
    works(&user.skopeo_push(&Image::new(), &place.reference("demo/a:v0"), None));
    let mut tokens = vec![exchange(&place.world, &name, &secret)];

    let (enough, pushed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures: Vec<String> = thread::scope(|scope| {
        let pushes = scope.spawn(|| {
            let mut failures = Vec::new();
            while !enough.load(Ordering::SeqCst) {
                let ran = user.skopeo_push(&Image::new(), &place.reference("demo/a:v1"), None);
                if !ran.ok {
                    failures.push(ran.all());
                }
                pushed.fetch_add(1, Ordering::SeqCst);
            }
            failures
        });
        for _ in 0..4 {
            place.world.reconfigure(|world| world.append("daypass.toml", ""));
            tokens.push(exchange(&place.world, &name, &secret));
            let seen = pushed.load(Ordering::SeqCst);
            wait_until(SOON, "a push since", || (pushed.load(Ordering::SeqCst) > seen + 1).then_some(()));
        }
        enough.store(true, Ordering::SeqCst);
        pushes.join().unwrap()
    });
    assert_eq!(failures, Vec::<String>::new(), "of {} pushes", pushed.load(Ordering::SeqCst));

    place.world.stop();
    place.world.start_again();
    works(&user.skopeo_push(&Image::new(), &place.reference("demo/a:v2"), None));
    tokens.push(exchange(&place.world, &name, &secret));
    let keys: BTreeSet<String> = tokens.iter().map(|token| part(token, 0)["x5c"][0].to_string()).collect();
    assert_eq!(keys.len(), tokens.len(), "each was signed by another key");
    for token in &tokens {
        assert_eq!(place.registry.status("GET", "/v2/demo/a/tags/list", token), 200, "an earlier key's are good for their time");
    }
}
