//! The same for images and JWTs.

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;
use crate::support::parts::{containers::Image, registry::Registry};

/// A world whose roles are for a registry that runs.
fn start() -> (World, Registry) {
    let world = World::start();
    let registry = Registry::from_file(&world.file("registry.yml"));
    world.reconfigure(|world| world.edit("daypass.toml", "host = \"127.0.0.1:5000\"", &format!("host = \"{}\"", registry.host())));
    (world, registry)
}

/// What a step does that pushes an image.
fn copy(image: &Image, registry: &Registry, name: &str) -> String {
    let folder = image.folder().display();
    format!("skopeo copy --quiet --preserve-digests --dest-tls-verify=false 'dir:{folder}' 'docker://{}/{name}'", registry.host())
}

/// Where skopeo keeps things of its own; without it tests would share them.
fn apart(home: &Path) -> Vec<(String, String)> {
    let home = home.display().to_string();
    let one = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    vec![one("_CONTAINERS_ROOTLESS_UID", "1000"), one("XDG_DATA_HOME", &home), one("XDG_RUNTIME_DIR", &home)]
}

/// The `auth` of docker's file, and the secret in it.
fn login(folder: &str, registry: &Registry) -> [String; 2] {
    let config: Value = serde_json::from_slice(&fs::read(Path::new(folder).join("config.json")).unwrap()).unwrap();
    let auth = text(&config["auths"][registry.host()]["auth"]);
    let pair = String::from_utf8(STANDARD.decode(&auth).unwrap()).unwrap();
    [pair.split_once(':').unwrap().1.to_owned(), auth]
}

fn all_revoked(world: &World, roles: &[&str]) {
    for role in roles {
        let leases = world.cli(&world.operator(), ["lease", "list", "--role", role, "-o", "json"]).json();
        let leases = leases.as_array().unwrap();
        assert!(!leases.is_empty() && leases.iter().all(|lease| lease["state"] == "revoked"), "{role}: {leases:?}");
    }
}

#[test]
fn steps_of_a_github_job_push_and_show_a_jwt_until_the_last_one() {
    let (world, registry) = start();
    let mut job = Job::new(&world);
    let (ca, image) = (world.read("ca.pem"), Image::new());
    let mut log = String::new();
    for role in ["push", "federate"] {
        let issued = job.uses(ISSUE, &[("role", role), ("ca", &ca)]);
        assert!(issued.ok, "{role}: {}", issued.all());
        log += &issued.all();
    }
    let token_file = job.env["DAYPASS_JWT_FILE"].clone();
    let token = fs::read_to_string(&token_file).unwrap();
    let config = job.env["DOCKER_CONFIG"].clone();
    let secrets: Vec<String> = login(&config, &registry).into_iter().chain([token]).collect();
    let rest: String = log.lines().filter(|line| !line.starts_with("::add-mask::")).collect();
    for secret in &secrets {
        assert!(log.lines().any(|line| line == format!("::add-mask::{secret}")), "one of them is not masked: {rest}");
        for place in [&rest, &job.read("GITHUB_ENV"), &job.read("GITHUB_OUTPUT")] {
            assert!(!place.contains(secret), "{place}");
        }
    }
    let home = apart(job.temp.path());
    let pushed = job.step(ISSUE, &copy(&image, &registry, "demo/app:v1"), &home);
    assert!(pushed.ok, "{}", pushed.all());
    let denied = job.step(ISSUE, &copy(&image, &registry, "other/app:v1"), &home);
    assert!(!denied.ok && denied.all().contains("denied"), "{}", denied.all());
    // The file goes, and what somebody kept of it is worth nothing.
    let kept = job.path("kept");
    fs::create_dir(&kept).unwrap();
    fs::copy(Path::new(&config).join("config.json"), kept.join("config.json")).unwrap();
    let revoked = job.uses(REVOKE, &[]);
    assert!(revoked.ok, "{}", revoked.all());
    all_revoked(&world, &["push", "federate"]);
    assert!(!Path::new(&config).exists() && !Path::new(&token_file).exists());
    job.env.insert("DOCKER_CONFIG".to_owned(), kept.display().to_string());
    let late = job.step(ISSUE, &copy(&image, &registry, "demo/app:v2"), &home);
    assert!(!late.ok && late.all().contains("unauthorized"), "{}", late.all());
}

#[test]
fn a_github_step_runs_under_several_roles_at_once() {
    let (world, registry) = start();
    let mut job = Job::new(&world);
    for (name, value) in apart(job.temp.path()) {
        job.env.insert(name, value);
    }
    let (ca, image) = (world.read("ca.pem"), Image::new());
    let script = format!(
        "{}\ntest -s \"$DAYPASS_JWT_FILE\"\nopenssl x509 -in \"$DAYPASS_TLS_CERT\" -noout -subject\nexit 5",
        copy(&image, &registry, "demo/app:v1")
    );
    let ran = job.uses(ISSUE, &[("role", "push federate web"), ("ca", &ca), ("run", &script)]);
    assert!(ran.code == Some(5) && ran.all().contains("subject="), "{}", ran.all());
    all_revoked(&world, &["push", "federate", "web"]);
    assert_eq!((job.read("GITHUB_ENV"), job.read("GITHUB_OUTPUT")), (String::new(), String::new()));
}

#[test]
fn a_gitlab_job_pushes_while_its_script_runs() {
    let (world, registry) = start();
    let temp = tempfile::tempdir().unwrap();
    let (ca, tmp) = (world.file("ca.pem").display().to_string(), temp.path().join("tmp").display().to_string());
    fs::create_dir(&tmp).unwrap();
    let (token, image, home) = (world.job_token(), Image::new(), apart(temp.path()));
    let component = Component::read(&[("role", "push"), ("addr", &format!("127.0.0.1:{}", world.grpc)), ("ca", "VEND_CA")]);
    let mut job = vec![("CI_JOB_ID", "1"), ("DAYPASS_ID_TOKEN", token.as_str()), ("VEND_CA", ca.as_str()), ("TMPDIR", tmp.as_str())];
    job.extend(home.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let script = format!("{}\n{}\necho \"config=$DOCKER_CONFIG\"\nexit 7", component.before, copy(&image, &registry, "demo/app:v1"));
    let ran = component.run(&["sh", "-e"], &script, &job);
    assert_eq!(ran.code, Some(7), "the job's own failure: {}", ran.all());
    let config = ran.text().lines().find_map(|line| line.strip_prefix("config=").map(str::to_owned)).unwrap();
    assert!(login(&config, &registry).iter().all(|secret| !ran.all().contains(secret)), "{}", ran.all());
    let after = component.run(&["sh", "-e"], &component.after, &job);
    assert!(after.ok, "{}", after.all());
    all_revoked(&world, &["push"]);
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0, "nothing stays");
}
