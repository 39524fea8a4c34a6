//! A job on a simulated runner, with an issuer of its own, against the real service: nothing is configured but the server's address.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, process::Command, sync::Arc};

use serde_json::{Value, json};

use super::world::{Caller, World};
use crate::support::parts::{
    Ran,
    actions::{Behaviour, Runner},
    containers::{ContainerUser, Image},
    github::{Issuer, Token},
    registry::Registry,
    run,
};

/// Trusts one more issuer, which is asked for its keys over HTTP, and its jobs as one more tenant that may have `web` and `push`.
fn trust(world: &World, name: &str, url: &str, member: (&str, &str)) {
    let (claim, value) = member;
    world.reconfigure(|world| {
        world.append(
            "daypass.toml",
            &format!(
                "[[issuer]]\nname = \"{name}\"\npreset = \"{}\"\nurl = \"{url}\"\naudiences = [\"daypass\"]\nallow_private_network = true\n\n\
                 [[tenant]]\nname = \"{name}-jobs\"\nkind = \"team\"\nmembers = [{{ issuer = \"{name}\", claims = {{ {claim} = \"{value}\" }} }}]\n",
                name.trim_end_matches("-real"),
            ),
        );
        for role in ["web", "push"] {
            world.append(
                "policy.cedar",
                &format!(
                    "@id(\"{name}-{role}\") permit(principal is Token::{} in Tenant::\"{name}-jobs\", action == Action::\"issue\", \
                     resource == Role::\"{role}\") when {{ principal.claims.{claim} == \"{value}\" }};\n\
                     @id(\"{name}-own-{role}\") permit(principal is Token::{} in Tenant::\"{name}-jobs\", \
                     action in [Action::\"renew\", Action::\"read\", Action::\"revoke\"], resource in Role::\"{role}\") \
                     when {{ resource.own }};\n",
                    principal(name),
                    principal(name),
                ),
            );
        }
    });
}

fn principal(issuer: &str) -> String {
    if issuer.contains('-') { format!("\"{issuer}\"") } else { issuer.to_owned() }
}

/// The client in a job: the server's address and CA, a path, and what the CI system sets.
fn job<'a>(world: &World, variables: impl IntoIterator<Item = (&'a str, String)>, line: &str) -> Command {
    let mut command = world.command(&Caller::nobody());
    command.args(line.split_whitespace()).env("PATH", "/usr/bin:/bin").envs(variables);
    command
}

fn json_of(ran: &Ran) -> Value {
    assert!(ran.ok, "{}", ran.all());
    serde_json::from_slice(&ran.stdout).unwrap()
}

fn states(world: &World, role: &str) -> Vec<String> {
    let said = world.cli(&world.operator(), ["lease", "list", "--role", role, "-o", "json"]).json();
    said.as_array().unwrap().iter().map(|lease| lease["state"].as_str().unwrap().to_owned()).collect()
}

/// A world that takes tokens of a live issuer in the place of its own.
fn with_github() -> (World, Arc<Issuer>, Runner) {
    let (world, issuer) = (World::start(), Arc::new(Issuer::start()));
    world.reconfigure(|world| {
        world.edit("daypass.toml", "https://token.actions.dev.daypass.test", issuer.url());
        world.edit("daypass.toml", "keys_file = \"issuer/jwks.json\"", "allow_private_network = true");
    });
    let runner = Runner::start(issuer.clone());
    (world, issuer, runner)
}

#[test]
fn a_github_job_takes_what_it_may_have_with_nothing_configured() {
    let (world, _issuer, runner) = with_github();
    let whoami = run(&mut job(&world, runner.environment(), "whoami -o json"));
    let note: Value = serde_json::from_str(whoami.stderr.trim()).unwrap();
    assert_eq!(note["note"]["message"], "identity: GitHub Actions (audience daypass)");
    let whoami = json_of(&whoami);
    assert_eq!((&whoami["tenant"], &whoami["authority"]), (&json!("widget"), &json!("github")), "{whoami}");

    let issued = json_of(&run(&mut job(&world, runner.environment(), "issue web -o json")));
    assert_eq!(issued["lease"]["tenant"], "widget");
    let record = world.records().into_iter().rfind(|record| record["method"] == "CredentialService/Issue").unwrap();
    let claims = &record["actor"]["claims"];
    assert_eq!((&record["lease_id"], &claims["repository_id"]), (&issued["lease"]["id"], &json!("74")), "{record}");
    assert_eq!(claims["run_id"], "30433642", "{record}");
    let revoked = run(&mut job(&world, runner.environment(), &format!("lease revoke {}", issued["lease"]["id"].as_str().unwrap())));
    assert!(revoked.ok, "another token of the same job ends its lease: {}", revoked.all());

    let foreign = run(&mut job(&world, runner.environment(), "issue vendor-client"));
    assert_eq!(foreign.code, Some(5), "{}", foreign.all());
    let other = run(&mut job(&world, runner.environment(), "issue web -q -o json --token-audience another"));
    assert!(other.code == Some(3) && other.stderr.contains("TOKEN_AUDIENCE"), "{}", other.all());
    runner.set_behaviour(Behaviour::Fails(500));
    let down = run(&mut job(&world, runner.environment(), "issue web -q -o json"));
    assert!(down.code == Some(6) && down.stderr.contains("IDENTITY_UNAVAILABLE"), "{}", down.all());
    assert_eq!(states(&world, "web"), ["revoked"], "who was refused holds nothing");
}

#[test]
fn a_github_jobs_command_renews_past_an_expiry_and_leaves_nothing() {
    let (world, _issuer, runner) = with_github();
    let script = r#"
        first=$(openssl x509 -in "$DAYPASS_TLS_CERT" -noout -serial); tries=0
        cp "$DAYPASS_TLS_CERT" "$OUT/first.crt"
        while openssl x509 -in "$OUT/first.crt" -noout -checkend 0 > /dev/null; do
            tries=$((tries+1)); test $tries -lt 600 || exit 9; sleep 0.1
        done
        test "$(openssl x509 -in "$DAYPASS_TLS_CERT" -noout -serial)" != "$first" || exit 8
        openssl verify -CAfile "$DAYPASS_TLS_CA" -untrusted "$DAYPASS_TLS_CERT" "$DAYPASS_TLS_CERT" && exit 7"#;
    let mut command = job(&world, runner.environment(), "exec web --ttl 6s -- sh -c");
    let ran = run(command.arg(script).env("OUT", world.dir()));
    assert_eq!(ran.code, Some(7), "{}", ran.all());
    assert!(!ran.all().contains("request-token"), "{}", ran.all());
    assert_eq!(states(&world, "web"), ["revoked"]);
}

#[test]
fn a_github_job_pushes_an_image() {
    let (world, _issuer, runner) = with_github();
    let registry = Registry::from_file(&world.file("registry.yml"));
    world.reconfigure(|world| world.edit("daypass.toml", "host = \"127.0.0.1:5000\"", &format!("host = \"{}\"", registry.host())));
    let (user, image) = (ContainerUser::new(), Image::new());
    let mut command = user.command(env!("CARGO_BIN_EXE_daypass").into());
    command.env("DAYPASS_ADDR", format!("127.0.0.1:{}", world.grpc)).env("DAYPASS_CA", world.file("ca.pem")).envs(runner.environment());
    command.args(["exec", "push", "--", "skopeo", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]);
    let ran = run(command.arg(format!("dir:{}", image.folder().display())).arg(format!("docker://{}/demo/app:v1", registry.host())));
    assert!(ran.ok, "{}", ran.all());
    assert_eq!(states(&world, "push"), ["revoked"]);
}

/// A program of a CI system, first on the path.
fn program(world: &World, name: &str, script: &str) -> String {
    let dir = world.file("ci-bin");
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join(name);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:/usr/bin:/bin", dir.display())
}

/// What a token of such a system says beyond the registered claims.
fn claims(system: &str) -> Value {
    match system {
        "gitlab" => json!({
            "namespace_id": "1", "namespace_path": "acme", "project_id": "74", "project_path": "acme/widget", "pipeline_id": "9",
            "pipeline_source": "push", "job_id": "5", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main",
            "ref_protected": "true", "aud": "daypass", "sub": "project_path:acme/widget:ref_type:branch:ref:main",
        }),
        "buildkite" => json!({
            "organization_slug": "acme", "pipeline_slug": "widget", "pipeline_id": "74", "build_branch": "main",
            "build_commit": "a".repeat(40), "job_id": "5", "agent_id": "6", "build_number": 7, "aud": "daypass",
            "sub": "organization:acme:pipeline:widget:ref:refs/heads/main:commit:abc:step:build",
        }),
        "circleci" => json!({
            "oidc.circleci.com/project-id": "74", "oidc.circleci.com/org-id": "1", "aud": "daypass",
            "sub": "org/1/project/74/user/2",
        }),
        other => panic!("no claims of {other}"),
    }
}

#[test]
fn jobs_of_other_systems_are_known_by_their_own_claims() {
    let world = World::start();
    for (system, claim) in [("gitlab", "project_id"), ("buildkite", "pipeline_id"), ("circleci", "project_id")] {
        let issuer = Issuer::start();
        trust(&world, system, issuer.url(), (claim, "74"));
        let mint = |changes: &[(&str, Value)]| {
            let mut claims = claims(system);
            changes.iter().for_each(|(name, value)| claims[*name] = value.clone());
            issuer.mint(&Token { claims, ..Token::default() })
        };
        let issue = |token: &str| {
            let variables: BTreeMap<&str, String> = match system {
                "gitlab" => [("GITLAB_CI", "true".to_owned()), ("DAYPASS_ID_TOKEN", token.to_owned())].into(),
                "buildkite" => {
                    let path = program(
                        &world,
                        "buildkite-agent",
                        &format!("test \"$*\" = 'oidc request-token --audience daypass' && echo {token}"),
                    );
                    [("BUILDKITE", "true".to_owned()), ("PATH", path)].into()
                }
                _ => {
                    let words = r#"run oidc get --claims {"aud":"daypass"}"#;
                    let path = program(&world, "circleci", &format!("test \"$*\" = '{words}' && echo {token}"));
                    [("CIRCLECI", "true".to_owned()), ("PATH", path)].into()
                }
            };
            run(&mut job(&world, variables, "issue web -o json"))
        };
        let issued = issue(&mint(&[]));
        assert!(issued.stderr.contains("identity: "), "{system}: {}", issued.all());
        let issued = json_of(&issued);
        assert_eq!(issued["lease"]["tenant"], format!("{system}-jobs"), "{issued}");
        let record = world.records().into_iter().rfind(|record| record["method"] == "CredentialService/Issue").unwrap();
        assert_eq!((&record["actor"]["authority"], &record["actor"]["claims"][claim]), (&json!(system), &json!("74")), "{record}");

        let own = if system == "circleci" { "oidc.circleci.com/project-id" } else { claim };
        let stranger = issue(&mint(&[(own, json!("75"))]));
        assert!(stranger.code == Some(4) && stranger.stderr.contains("NO_TENANT"), "{system}: {}", stranger.all());
        let elsewhere = issue(&mint(&[("aud", json!("https://elsewhere.example"))]));
        assert!(elsewhere.code == Some(3) && elsewhere.stderr.contains("TOKEN_AUDIENCE"), "{system}: {}", elsewhere.all());
    }
    assert_eq!(states(&world, "web").len(), 3);
}
