//! What deploy/ci/ gives to CI systems, run as their runners run it, against a real `daypassd`.

mod kinds;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::runner::{Runner, http};
use crate::{
    e2e::world::World,
    support::parts::{Ran, aws_cli::python, run, tool, wait_until},
};

const ISSUE: &str = "deploy/ci/github/action.yml";
const REVOKE: &str = "deploy/ci/github/revoke/action.yml";
const GITLAB: &str = "deploy/ci/gitlab/templates/daypass.yml";

/// By which GitLab's runner names its directory beside a project's files.
const GITLAB_TEMP: &str = "RUNNER_TEMP_PROJECT_DIR";

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The documents of a YAML file.
fn yaml(path: &str) -> Vec<Value> {
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let ran = run(Command::new(python()).args(["-c", script]).arg(file(path)));
    assert!(ran.ok, "{path}: {}", ran.all());
    serde_json::from_slice(&ran.stdout).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

fn programs() -> String {
    let daypass = Path::new(env!("CARGO_BIN_EXE_daypass")).parent().unwrap();
    format!("{}:/usr/bin:/bin", daypass.display())
}

/// A job of GitHub Actions: what one step leaves for the next, and the sample job's identity.
struct Job<'a> {
    world: &'a World,
    runner: Runner,
    temp: TempDir,
    env: BTreeMap<String, String>,
}

impl<'a> Job<'a> {
    fn new(world: &'a World) -> Self {
        let token = world.file("job.jwt");
        let mut last = String::new();
        let runner = Runner::new(move |_| {
            // Each of its tokens may be used once.
            last = wait_until(Duration::from_secs(10), "a fresh token", || fs::read_to_string(&token).ok().filter(|text| *text != last));
            Some(http("200 OK", &format!("{{\"value\":\"{}\"}}", last.trim())))
        });
        let temp = tempfile::tempdir().unwrap();
        let env =
            [("DAYPASS_ADDR", format!("127.0.0.1:{}", world.grpc)), ("PATH", programs()), ("HOME", temp.path().display().to_string())];
        Self { world, runner, temp, env: env.map(|(name, value)| (name.to_owned(), value)).into() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Uses an action: its steps until one fails, as a runner does.
    fn uses(&mut self, path: &str, with: &[(&str, &str)]) -> Ran {
        let action = &yaml(path)[0];
        let declared = action["inputs"].as_object().cloned().unwrap_or_default();
        assert!(with.iter().all(|(name, _)| declared.contains_key(*name)), "an input that is not declared");
        let input = |name: &str| {
            let given = with.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            given.unwrap_or_else(|| declared[name]["default"].as_str().unwrap_or_else(|| panic!("{name} is required")).to_owned())
        };
        let mut all = String::new();
        for step in action["runs"]["steps"].as_array().unwrap() {
            let wanted = match step["if"].as_str() {
                None => true,
                Some("inputs.run != ''") => !input("run").is_empty(),
                Some("inputs.run == ''") => input("run").is_empty(),
                Some(other) => panic!("an expression that this runner does not know: {other}"),
            };
            if !wanted {
                continue;
            }
            let empty = serde_json::Map::new();
            let env = step["env"].as_object().unwrap_or(&empty);
            let env: Vec<_> = env.iter().map(|(name, value)| (name.clone(), self.evaluate(&text(value), &input))).collect();
            let ran = self.step(path, &text(&step["run"]), &env);
            all += &ran.all();
            if !ran.ok {
                return Ran { stdout: all.into_bytes(), ..ran };
            }
        }
        Ran { ok: true, code: Some(0), stdout: all.into_bytes(), stderr: String::new() }
    }

    /// `${{ inputs.NAME }}`, or `${{ inputs.NAME || env.NAME }}`.
    fn evaluate(&self, text: &str, input: &dyn Fn(&str) -> String) -> String {
        let Some(inner) = text.strip_prefix("${{ ").and_then(|text| text.strip_suffix(" }}")) else { return text.to_owned() };
        let value = |term: &str| match term.split_once('.') {
            Some(("inputs", name)) => input(name),
            Some(("env", name)) => self.env.get(name).cloned().unwrap_or_default(),
            _ => panic!("an expression that this runner does not know: {term}"),
        };
        inner.split(" || ").map(value).find(|value| !value.is_empty()).unwrap_or_default()
    }

    /// One `run` with `shell: bash`.
    fn step(&mut self, action: &str, script: &str, env: &[(String, String)]) -> Ran {
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script]);
        self.runner.step(command.env_clear().current_dir(self.temp.path()).envs(&self.env));
        command.env("GITHUB_ACTION_PATH", file(action).parent().unwrap()).env("RUNNER_TEMP", self.path("temp"));
        for name in ["GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT"] {
            command.env(name, self.path(name));
        }
        let ran = run(command.env("GITHUB_RUN_ID", "42").envs(env.iter().map(|(name, value)| (name, value))));
        self.take_env();
        ran
    }

    /// What steps left in GITHUB_ENV: `NAME<<END`, lines, `END`.
    fn take_env(&mut self) {
        let left = self.read("GITHUB_ENV");
        let mut lines = left.lines();
        while let Some(head) = lines.next() {
            let (name, end) = head.split_once("<<").unwrap_or_else(|| panic!("{head:?} begins no value"));
            let value: Vec<_> = lines.by_ref().take_while(|line| *line != end).collect();
            self.env.insert(name.to_owned(), value.join("\n"));
        }
    }

    fn state(&self, lease: &str) -> String {
        text(&self.world.cli(&self.world.operator(), ["lease", "get", lease, "-o", "json"]).json()["state"])
    }
}

#[test]
fn a_github_job_has_a_certificate_until_its_last_step() {
    let world = World::start();
    let mut job = Job::new(&world);
    let ca = world.read("ca.pem");
    let issued = job.uses(ISSUE, &[("role", "web"), ("ca", &ca), ("ttl", "5m")]);
    assert!(issued.ok, "{}", issued.all());
    let (certificate, key) = (job.env["DAYPASS_TLS_CERT"].clone(), job.env["DAYPASS_TLS_KEY"].clone());
    assert!(fs::read_to_string(&certificate).unwrap().contains("BEGIN CERTIFICATE"));
    // The body of the key is masked, line by line, and stands nowhere else.
    let pem = fs::read_to_string(&key).unwrap();
    let body: Vec<_> = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let log = issued.all();
    assert!(!body.is_empty() && body.iter().all(|line| log.lines().any(|said| said == format!("::add-mask::{line}"))), "{log}");
    let rest: String = log.lines().filter(|line| !line.starts_with("::add-mask::")).collect();
    for place in [rest, job.read("GITHUB_ENV"), job.read("GITHUB_OUTPUT"), job.read("GITHUB_PATH")] {
        assert!(body.iter().all(|line| !place.contains(line)), "{place}");
    }
    let lease = job.env["DAYPASS_LEASE_ID"].clone();
    assert_eq!(job.read("GITHUB_OUTPUT"), format!("lease-id={lease}\n"));
    assert_eq!(job.state(&lease), "active");
    // With `if: always()` this comes after whatever failed.
    let revoked = job.uses(REVOKE, &[]);
    assert!(revoked.ok && revoked.all().contains("revoked"), "{}", revoked.all());
    assert_eq!(job.state(&lease), "revoked");
    assert!(!Path::new(&key).exists(), "its key is gone");
    let again = job.uses(REVOKE, &[]);
    assert!(again.ok && again.all().contains("nothing was issued"), "{}", again.all());
}

#[test]
fn a_github_job_that_is_refused_has_nothing_to_revoke() {
    let world = World::start();
    let mut job = Job::new(&world);
    let ca = world.read("ca.pem");
    let refused = job.uses(ISSUE, &[("role", "vendor-client"), ("ca", &ca)]);
    assert!(refused.code == Some(5), "{}", refused.all());
    assert!(!job.env.contains_key("DAYPASS_LEASE_ID"));
    let injected = job.uses(ISSUE, &[("role", "web; touch injected"), ("ca", &ca)]);
    assert!(!injected.ok && !job.path("injected").exists(), "{}", injected.all());
    let revoked = job.uses(REVOKE, &[]);
    assert!(revoked.ok && revoked.all().contains("nothing was issued"), "{}", revoked.all());
}

#[test]
fn a_lease_that_cannot_be_revoked_fails_the_step_and_its_key_goes() {
    let mut world = World::start();
    let ca = world.read("ca.pem");
    let (key, revoked) = {
        let mut job = Job::new(&world);
        let issued = job.uses(ISSUE, &[("role", "web"), ("ca", &ca)]);
        assert!(issued.ok, "{}", issued.all());
        let key = job.env["DAYPASS_TLS_KEY"].clone();
        assert!(Path::new(&key).exists());
        job.env.insert("DAYPASS_ADDR".to_owned(), "127.0.0.1:1".to_owned());
        let revoked = job.uses(REVOKE, &[]);
        (Path::new(&key).exists(), revoked)
    };
    assert!(!key && !revoked.ok && revoked.all().contains("::error"), "{}", revoked.all());
    world.stop();
}

#[test]
fn a_github_step_runs_under_the_credential_and_its_lease_ends_with_it() {
    let world = World::start();
    let mut job = Job::new(&world);
    let ca = world.read("ca.pem");
    let script = "echo \"lease=$DAYPASS_LEASE_ID\"\nopenssl x509 -in \"$DAYPASS_TLS_CERT\" -noout -subject\nfalse | true\necho not reached";
    let ran = job.uses(ISSUE, &[("role", "web"), ("ca", &ca), ("ttl", "5m"), ("run", script)]);
    let said = ran.all();
    assert!(ran.code == Some(1) && said.contains("subject=") && !said.contains("not reached"), "{said}");
    let lease = said.lines().find_map(|line| line.strip_prefix("lease=")).unwrap().to_owned();
    assert_eq!(job.state(&lease), "revoked");
    assert_eq!((job.read("GITHUB_ENV").as_str(), job.read("GITHUB_OUTPUT").as_str()), ("", ""));
    let passed = job.uses(ISSUE, &[("role", "web"), ("ca", &ca), ("run", "exit 0")]);
    assert!(passed.ok, "{}", passed.all());
    // What an input says is data, and no code of the action's own.
    let injected = job.uses(ISSUE, &[("role", "web; touch injected"), ("ca", &ca), ("run", "exit 0")]);
    assert!(!injected.ok && !job.path("injected").exists(), "{}", injected.all());
}

#[test]
fn a_program_that_could_be_any_other_is_not_run() {
    let world = World::start();
    let mut job = Job::new(&world);
    for (with, why) in [
        ([("url", "http://127.0.0.1:1/daypass"), ("sha256", "")], "must be https"),
        ([("url", "https://127.0.0.1:1/daypass"), ("sha256", "")], "with url goes sha256"),
        ([("version", "0.0.1"), ("sha256", "")], "version 0.0.1 is wanted"),
    ] {
        let ran = job.uses(ISSUE, &[[("role", "web")].as_slice(), &with].concat());
        assert!(!ran.ok && ran.all().contains(why), "{}", ran.all());
    }
    job.env.insert("PATH".to_owned(), "/usr/bin:/bin".to_owned());
    let absent = job.uses(ISSUE, &[("role", "web")]);
    assert!(!absent.ok && absent.all().contains("not on PATH"), "{}", absent.all());
}

/// The scripts of the GitLab component, with the inputs in them.
struct Component {
    before: String,
    after: String,
}

impl Component {
    fn read(inputs: &[(&str, &str)]) -> Self {
        let documents = yaml(GITLAB);
        let [spec, content] = documents.as_slice() else { panic!("a header and a body are due") };
        let declared = spec["spec"]["inputs"].as_object().unwrap();
        let interpolate = |text: &str| {
            let inputs = declared.iter().map(|(name, declared)| {
                let given = inputs.iter().find(|(known, _)| known == name).map(|(_, value)| (*value).to_owned());
                (format!("$[[ inputs.{name} ]]"), given.or_else(|| declared["default"].as_str().map(str::to_owned)))
            });
            let text = inputs.fold(text.to_owned(), |text, (name, value)| match value {
                Some(value) => text.replace(&name, &value),
                None => text,
            });
            assert!(!text.contains("$[["), "an input is neither given nor declared: {text}");
            text
        };
        let (name, job) = content.as_object().unwrap().iter().next().unwrap();
        assert_eq!(interpolate(name), ".daypass");
        assert_eq!(interpolate(&text(&job["id_tokens"]["DAYPASS_ID_TOKEN"]["aud"])), "daypass");
        let script = |name: &str| interpolate(&job[name].as_array().unwrap().iter().map(text).collect::<Vec<_>>().join("\n"));
        Self { before: script("before_script"), after: script("after_script") }
    }

    fn run(&self, shell: &[&str], script: &str, job: &[(&str, &str)]) -> Ran {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", script]).env_clear().env("PATH", programs()).env("GITLAB_CI", "true");
        run(command.envs(job.iter().copied()).stdin(Stdio::null()))
    }
}

#[test]
fn a_gitlab_job_has_a_certificate_while_its_script_runs_and_no_longer_when_it_fails() {
    let world = World::start();
    let temp = tempfile::tempdir().unwrap();
    let (ca, tmp) = (world.file("ca.pem").display().to_string(), temp.path().display().to_string());
    let component = Component::read(&[("role", "web"), ("addr", &format!("127.0.0.1:{}", world.grpc)), ("ca", "VEND_CA"), ("ttl", "5m")]);
    for (id, shell) in [("1", ["sh", "-e"].as_slice()), ("2", &["bash", "-eo", "pipefail"])] {
        let token = world.job_token();
        let job = [("CI_JOB_ID", id), ("DAYPASS_ID_TOKEN", token.as_str()), ("VEND_CA", ca.as_str()), (GITLAB_TEMP, tmp.as_str())];
        let script = format!("{}\ncat \"$DAYPASS_TLS_CERT\"\necho \"lease=$DAYPASS_LEASE_ID\"\nexit 7", component.before);
        let ran = component.run(shell, &script, &job);
        assert_eq!(ran.code, Some(7), "the job's own failure: {}", ran.all());
        let said = ran.text();
        assert!(said.contains("BEGIN CERTIFICATE") && !ran.all().contains("PRIVATE KEY") && !ran.all().contains(&token), "{}", ran.all());
        let lease = said.lines().find_map(|line| line.strip_prefix("lease=")).unwrap().to_owned();
        let state = || text(&world.cli(&world.operator(), ["lease", "get", &lease, "-o", "json"]).json()["state"]);
        assert_eq!(state(), "active");
        let after = component.run(shell, &component.after, &job);
        assert!(after.ok, "{}", after.all());
        assert_eq!((state().as_str(), fs::read_dir(temp.path()).unwrap().count()), ("revoked", 0));
        assert!(component.run(shell, &component.after, &job).ok, "nothing is left to revoke");
    }
}

#[test]
fn a_gitlab_job_that_is_refused_fails_before_its_script() {
    let world = World::start();
    let temp = tempfile::tempdir().unwrap();
    let (ca, tmp) = (world.file("ca.pem").display().to_string(), temp.path().display().to_string());
    let component = Component::read(&[("role", "vendor-client"), ("addr", &format!("127.0.0.1:{}", world.grpc)), ("ca", "VEND_CA")]);
    let token = world.job_token();
    let job = [("CI_JOB_ID", "1"), ("DAYPASS_ID_TOKEN", token.as_str()), ("VEND_CA", ca.as_str()), (GITLAB_TEMP, tmp.as_str())];
    let ran = component.run(&["sh", "-e"], &format!("{}\necho the script runs", component.before), &job);
    assert!(ran.code == Some(5) && !ran.all().contains("the script runs"), "{}", ran.all());
    assert!(component.run(&["sh", "-e"], &component.after, &job).ok);
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn no_variable_of_a_pipeline_changes_what_a_gitlab_job_does() {
    let job = &yaml(GITLAB)[1][".daypass"];
    assert!(job.is_null(), "its name is an input");
    let job = yaml(GITLAB)[1].as_object().unwrap().values().next().unwrap().clone();
    assert!(job["variables"].is_null(), "a variable of a job gives way to one of its pipeline: {job}");
    let world = World::start();
    let temp = tempfile::tempdir().unwrap();
    let (ca, tmp) = (world.file("ca.pem").display().to_string(), temp.path().display().to_string());
    let component = Component::read(&[("role", "web"), ("addr", &format!("127.0.0.1:{}", world.grpc)), ("ca", "VEND_CA")]);
    let (token, code) = (world.job_token(), format!("x; touch {tmp}/ran"));
    let job = [
        ("CI_JOB_ID", "1"),
        ("DAYPASS_ID_TOKEN", token.as_str()),
        ("VEND_CA", ca.as_str()),
        (GITLAB_TEMP, tmp.as_str()),
        // What a pipeline may be started with.
        ("DAYPASS_ADDR", "127.0.0.1:1"),
        ("DAYPASS_CA", "/nonexistent"),
        ("DAYPASS_CI_ROLE", "vendor-client"),
        ("DAYPASS_CI_CA", code.as_str()),
        ("DAYPASS_CI_URL", "https://127.0.0.1:1/daypass"),
        ("DAYPASS_CI_SHA256", &"0".repeat(64)),
        ("daypass_role", "vendor-client"),
        ("daypass_url", "https://127.0.0.1:1/daypass"),
    ];
    let before = component.run(&["sh", "-e"], &component.before, &job);
    assert!(before.ok && before.text().contains("issued web under the lease"), "{}", before.all());
    let after = component.run(&["sh", "-e"], &component.after, &job);
    assert!(after.ok && after.all().contains("revoked"), "{}", after.all());
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}

#[test]
fn a_gitlab_input_is_never_code() {
    let spec = &yaml(GITLAB)[0]["spec"]["inputs"];
    // RE2, as GitLab has it, and Python's `re` mean the same by these, but for `$` before a last line end.
    let matches = |regex: &str, value: &str| {
        let script = "import re, sys; sys.exit(not re.search(sys.argv[1].replace('$', chr(92) + 'Z'), sys.argv[2]))";
        run(Command::new(python()).args(["-c", script, regex, value])).ok
    };
    let good = [
        ("role", "web-1"),
        ("addr", "vend.example.org:7443"),
        ("addr", "[2001:db8::1]:443"),
        ("as", ".daypass-2"),
        ("audience", "https://vend.example.org/x"),
        ("ttl", "1h30m"),
        ("ca", "VEND_CA"),
        ("url", "https://files.example.org/a/daypass-0.1.0?x=%20"),
        ("sha256", &"aB".repeat(32)),
    ];
    for (name, value) in good {
        let regex = spec[name]["regex"].as_str().unwrap_or_else(|| panic!("{name} has no regex"));
        assert!(matches(regex, value), "{name}: {value}");
        for bad in ["'", "\"", "$", "`", "\\", "\n", " ", ";", "$(id)", "$CI_JOB_TOKEN"] {
            assert!(!matches(regex, &format!("{value}{bad}")) && !matches(regex, &format!("{bad}{value}")), "{name}: {bad:?}");
        }
        let default = spec[name]["default"].as_str();
        assert!(default.is_none_or(|default| matches(regex, default)), "{name}");
    }
    assert_eq!(spec.as_object().unwrap().len(), 8, "each input is tried above");
    assert!(!matches(spec["url"]["regex"].as_str().unwrap(), "http://files.example.org/daypass"));
}

#[test]
fn a_gitlab_job_runs_the_program_with_the_right_digest_only() {
    let world = World::start();
    let temp = tempfile::tempdir().unwrap();
    let (ca, tmp) = (world.file("ca.pem").display().to_string(), temp.path().join("job.tmp").display().to_string());
    // In the place of a download: what the URL names, beside a path that has no daypass.
    let bin = temp.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let program = env!("CARGO_BIN_EXE_daypass");
    fs::write(bin.join("curl"), format!("#!/bin/sh\nwhile [ \"$1\" != -o ]; do shift; done\ncp '{program}' \"$2\"\n")).unwrap();
    fs::set_permissions(bin.join("curl"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let digest = text(&Value::from(run(Command::new("sha256sum").arg(program)).text())).split(' ').next().unwrap().to_owned();
    for (sha256, right) in [(digest.as_str(), true), (&"0".repeat(64), false), ("", false)] {
        let addr = format!("127.0.0.1:{}", world.grpc);
        let inputs = [("role", "web"), ("addr", &addr), ("ca", "VEND_CA"), ("url", "https://files.example.org/d"), ("sha256", sha256)];
        let component = Component::read(&inputs);
        let token = world.job_token();
        let job = [
            ("CI_JOB_ID", "1"),
            ("DAYPASS_ID_TOKEN", token.as_str()),
            ("VEND_CA", ca.as_str()),
            (GITLAB_TEMP, tmp.as_str()),
            ("PATH", path.as_str()),
        ];
        let before = component.run(&["sh", "-e"], &component.before, &job);
        assert_eq!((before.ok, before.all().contains("issued web")), (right, right), "{}", before.all());
        let after = component.run(&["sh", "-e"], &component.after, &job);
        assert!(after.ok && after.all().contains("revoked") == right, "{}", after.all());
        assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
    }
}

#[test]
fn nothing_that_another_made_for_a_gitlab_job_is_run() {
    let temp = tempfile::tempdir().unwrap();
    let tmp = temp.path().display().to_string();
    let component = Component::read(&[("role", "web"), ("addr", "127.0.0.1:1")]);
    let with_url =
        Component::read(&[("role", "web"), ("addr", "127.0.0.1:1"), ("url", "https://127.0.0.1:1/d"), ("sha256", &"0".repeat(64))]);
    let evil = format!("#!/bin/sh\necho run >>{tmp}/ran\n");
    // Another's by its mode, another's by its owner, and one that an earlier job of the same user left.
    for (job, mode, owner) in [("1", 0o755, None), ("2", 0o700, Some(65_534)), ("3", 0o700, None)] {
        for component in [&component, &with_url] {
            let dir = temp.path().join(format!("daypass-{job}"));
            fs::create_dir_all(dir.join("bin")).unwrap();
            fs::write(dir.join("bin/daypass"), &evil).unwrap();
            fs::set_permissions(dir.join("bin/daypass"), fs::Permissions::from_mode(0o755)).unwrap();
            fs::write(dir.join("env"), &evil).unwrap();
            fs::write(dir.join("lease"), "--help").unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
            if let Some(owner) = owner {
                // Only root can give a directory away; anybody else tries the other two.
                let _ = std::os::unix::fs::chown(&dir, Some(owner), None);
            }
            // In the place where a job's directory once was, too.
            let job = [("CI_JOB_ID", job), (GITLAB_TEMP, tmp.as_str()), ("TMPDIR", tmp.as_str()), ("DAYPASS_ID_TOKEN", "a.b.c")];
            let before = component.run(&["sh", "-e"], &component.before, &job);
            assert!(!before.ok && before.all().contains("exists"), "{}", before.all());
            let after = component.run(&["sh", "-e"], &component.after, &job);
            assert!(after.ok && !after.all().contains("Usage"), "{}", after.all());
            assert!(!temp.path().join("ran").exists(), "{}", after.all());
        }
    }
}

#[test]
fn the_scripts_are_clean() {
    let mut scripts: Vec<PathBuf> = fs::read_dir(file("deploy/ci/github/scripts")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(scripts.len() > 3);
    let temp = tempfile::tempdir().unwrap();
    let component = Component::read(&[("role", "web"), ("addr", "h:1")]);
    for (name, script) in [("before.sh", &component.before), ("after.sh", &component.after)] {
        // What it reads is written while the job runs.
        let script = script.replace(". \"$daypass_dir/env\"", "# shellcheck source=/dev/null\n. \"$daypass_dir/env\"");
        fs::write(temp.path().join(name), format!("#!/bin/sh\n{script}\necho \"${{DAYPASS_LEASE_ID-}}\"\n")).unwrap();
        scripts.push(temp.path().join(name));
    }
    let ran = run(Command::new(tool("shellcheck")).arg("-x").args(scripts).current_dir(env!("CARGO_MANIFEST_DIR")));
    assert!(ran.ok, "{}", ran.all());
}

#[test]
fn actions_declare_what_they_use_and_use_what_they_declare() {
    for path in [ISSUE, REVOKE] {
        let action = &yaml(path)[0];
        assert_eq!(action["runs"]["using"], "composite");
        let steps = action["runs"]["steps"].to_string();
        for name in action["inputs"].as_object().into_iter().flat_map(serde_json::Map::keys) {
            assert!(steps.contains(&format!("inputs.{name}")), "{path} does not use {name}");
        }
        for step in action["runs"]["steps"].as_array().unwrap() {
            assert_eq!(step["shell"], "bash", "a composite action must say it");
            assert!(!text(&step["run"]).contains("${{"), "an input inside a script is code: {step}");
        }
    }
}
