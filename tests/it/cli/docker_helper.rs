//! `registry login`, and the credential helper that docker then runs.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use super::{
    Run, run,
    server::{GOOD, Server, Trouble},
    vended::{MOVED, REGISTRY},
};

const HELPER: &str = env!("CARGO_BIN_EXE_docker-credential-daypass");

impl Server {
    fn home(&self) -> PathBuf {
        let home = self.pki.path("user");
        fs::create_dir_all(&home).unwrap();
        home
    }

    fn registry(&self, line: &str) -> Command {
        let mut command = self.daypass(&format!("registry {line}"));
        let helpers = PathBuf::from(HELPER).parent().unwrap().to_owned();
        command.env("HOME", self.home()).env("PATH", helpers);
        command
    }

    fn docker_config(&self) -> Value {
        serde_json::from_slice(&fs::read(self.home().join(".docker/config.json")).unwrap()).unwrap()
    }

    /// The helper with nothing in its environment but a home: so docker may be run anywhere.
    fn helper(&self, verb: &str, input: &str) -> Run {
        run_helper(Command::new(HELPER).arg(verb).env_clear().env("HOME", self.home()), input)
    }

    fn logged_in() -> Self {
        let server = Self::new();
        let login = run(&mut server.registry("login registry-900"));
        assert_eq!((login.code, login.stderr.as_str()), (0, ""), "{login:?}");
        server
    }
}

fn run_helper(command: &mut Command, input: &str) -> Run {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A verb that reads nothing may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Run { code: status.code().unwrap(), stdout: String::from_utf8(stdout).unwrap(), stderr: String::from_utf8(stderr).unwrap() }
}

#[test]
fn after_a_login_docker_gets_credentials_that_cost_one_lease() {
    let server = Server::logged_in();
    assert_eq!(server.docker_config(), json!({"credHelpers": {REGISTRY: "daypass"}}));
    for asked in [REGISTRY.to_owned(), format!("{REGISTRY}\n"), format!("https://{REGISTRY}/v2/")] {
        let got = server.helper("get", &asked);
        assert_eq!((got.code, got.stderr.as_str()), (0, ""), "{got:?}");
        assert_eq!(got.json(), json!({"ServerURL": asked.trim(), "Username": "lease-1", "Secret": "canary-secret-1"}));
    }
    let children: Vec<_> = (0..20)
        .map(|_| {
            let mut command = Command::new(HELPER);
            let mut child =
                command.arg("get").env_clear().env("HOME", server.home()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(REGISTRY.as_bytes()).unwrap();
            child
        })
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    assert_eq!(server.seen.calls("registry-900"), 1);
    assert_eq!(server.helper("list", "").json(), json!({REGISTRY: "registry-900"}));
}

#[test]
fn nothing_secret_is_remembered() {
    let server = Server::new();
    let login = run(server.registry("login registry-900").env("DAYPASS_TOKEN", "canary.own.token"));
    assert_eq!(login.code, 0, "{login:?}");
    let known = fs::read_to_string(server.home().join(".config/daypass/registries.json")).unwrap();
    assert!(!known.contains("canary"), "{known}");
    let docker = fs::read_to_string(server.home().join(".docker/config.json")).unwrap();
    assert!(!docker.contains("canary") && !format!("{login:?}").contains("canary"), "{docker}");
}

#[test]
fn an_unknown_registry_is_said_as_the_protocol_has_it() {
    let server = Server::logged_in();
    for (server, asked) in [(&server, "other.example.org"), (&server, "\u{1b}[31m"), (&server, ""), (&Server::new(), REGISTRY)] {
        let got = server.helper("get", asked);
        assert_eq!((got.code, got.stdout.as_str()), (1, "credentials not found in native keychain\n"), "{got:?}");
    }
}

#[test]
fn what_goes_wrong_is_said_on_stdout_where_docker_shows_it() {
    let server = Server::logged_in();
    fs::remove_dir_all(server.home().join(".cache")).unwrap();
    server.seen.trouble(Trouble::Denies);
    let denied = server.helper("get", REGISTRY);
    assert_eq!((denied.code, denied.stdout.as_str()), (1, "no policy permits it; ask the owner of the role\n"), "{denied:?}");
    server.seen.trouble(Trouble::Down);
    let down = server.helper("get", REGISTRY);
    assert_eq!((down.code, down.stdout.as_str()), (1, "the lease store does not answer\n"), "{down:?}");
    for (verb, text) in [("store", "stores none"), ("erase", "nothing was erased"), ("nonsense", "usage: docker-credential-daypass")] {
        let refused = server.helper(verb, "{\"ServerURL\":\"x\",\"Username\":\"u\",\"Secret\":\"canary\"}");
        assert!(refused.code == 1 && refused.stdout.contains(text) && refused.stdout.lines().count() == 1, "{refused:?}");
        assert!(!format!("{refused:?}").contains("canary"));
    }
    let version = server.helper("version", "");
    assert!(version.code == 0 && version.stdout.starts_with("docker-credential-daypass (daypass) v"), "{version:?}");
}

#[test]
fn a_link_to_the_client_is_the_helper() {
    let server = Server::logged_in();
    let link = server.home().join("docker-credential-daypass");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_daypass"), &link).unwrap();
    let got = run_helper(Command::new(link).arg("get").env_clear().env("HOME", server.home()), REGISTRY);
    assert_eq!((got.code, &got.json()["Username"]), (0, &json!("lease-1")));
}

#[test]
fn a_logout_undoes_it_and_revokes_what_was_kept() {
    let server = Server::new();
    let config = server.home().join(".docker/config.json");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    let before = json!({"auths": {"x": {}}, "credHelpers": {"gcr.io": "gcloud"}, "currentContext": "c"});
    fs::write(&config, before.to_string()).unwrap();
    assert_eq!(run(&mut server.registry("login registry-900")).code, 0);
    assert_eq!(server.docker_config()["credHelpers"], json!({"gcr.io": "gcloud", REGISTRY: "daypass"}));
    let logout = run(&mut server.registry("logout"));
    assert_eq!((logout.code, logout.stderr.as_str()), (0, ""), "{logout:?}");
    assert_eq!(server.docker_config(), before);
    assert_eq!(*server.seen.revoked.lock().unwrap(), [GOOD]);
    assert_eq!(server.helper("get", REGISTRY).code, 1);
    let again = run(&mut server.registry(&format!("logout {REGISTRY}")));
    assert_eq!(again.code, 5, "{again:?}");
}

#[test]
fn a_login_that_cannot_be_leaves_everything_as_it_was() {
    let server = Server::new();
    let config = server.home().join(".docker/config.json");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "{\"auths\": ").unwrap();
    let broken = run(&mut server.registry("login registry-900"));
    assert!(broken.code == 2 && broken.stderr.contains("config.json"), "{broken:?}");
    assert_eq!((fs::read_to_string(&config).unwrap().as_str(), server.seen.calls("registry-900")), ("{\"auths\": ", 0));
    fs::write(&config, json!({"credHelpers": {REGISTRY: "other"}}).to_string()).unwrap();
    let taken = run(&mut server.registry("login registry-900"));
    assert!(taken.code == 2 && taken.stderr.contains("docker-credential-other"), "{taken:?}");
    for (role, code) in [("denied", 4), ("aws-900", 2), ("No_Such", 5)] {
        let refused = run(&mut server.registry(&format!("login {role}")));
        assert_eq!(refused.code, code, "{refused:?}");
    }
    assert_eq!(server.docker_config(), json!({"credHelpers": {REGISTRY: "other"}}));
    assert!(!server.home().join(".config").exists());
}

#[test]
fn another_name_of_the_registry_can_be_given() {
    let server = Server::new();
    let login = run(server.registry("login registry-900 https://localhost:5000").env("PATH", "/nonexistent"));
    assert!(login.code == 0 && login.stderr.contains("is for the registry 127.0.0.1:5000"), "{login:?}");
    assert!(login.stderr.contains("docker-credential-daypass is not on PATH"), "{login:?}");
    assert_eq!(server.helper("get", "localhost:5000").json()["Secret"], "canary-secret-1");
    assert_eq!(server.helper("get", REGISTRY).code, 1);
}

#[test]
fn a_registry_never_sees_the_secret_of_another_to_which_the_role_was_moved() {
    let server = Server::new();
    // By its own name, and by another one.
    for (login, asked) in [("login moved-900", REGISTRY), ("login moved-900 localhost:5000", "localhost:5000")] {
        assert_eq!(run(&mut server.registry(login)).code, 0);
        assert_eq!(server.helper("get", asked).code, 0);
    }
    fs::remove_dir_all(server.home().join(".cache")).unwrap();
    for asked in [REGISTRY, "localhost:5000"] {
        let got = server.helper("get", asked);
        assert!(got.code == 1 && got.stdout.contains(MOVED) && got.stdout.contains("registry logout"), "{got:?}");
        assert!(!format!("{got:?}").contains("canary"), "{got:?}");
    }
    // A login made afterwards knows the new one.
    assert_eq!(run(&mut server.registry("login moved-900")).code, 0);
    assert_eq!(server.helper("get", MOVED).code, 0);
    assert_eq!(server.helper("get", REGISTRY).code, 1);
}
