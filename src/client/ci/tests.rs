//! Which identity is found, and what is said when there is none.

use std::{collections::HashMap, ffi::OsString, fs};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::*;
use crate::client::error::Kind;

fn found(wanted: Identity, env: &[(&str, &str)]) -> Result<Option<TokenSource>> {
    let env: HashMap<String, OsString> = env.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
    find(wanted, DEFAULT_AUDIENCE, &|name| env.get(name).cloned())
}

fn name(env: &[(&str, &str)]) -> String {
    found(Identity::Auto, env).unwrap().expect("an identity is here").name().to_owned()
}

fn fault(wanted: Identity, env: &[(&str, &str)]) -> String {
    let error = found(wanted, env).err().expect("there is none");
    assert_eq!((error.kind(), error.code()), (Kind::NotAuthenticated, "NO_IDENTITY"));
    error.message().to_owned()
}

fn token(aud: &serde_json::Value) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(json!({ "aud": aud }).to_string()))
}

const GITHUB: [(&str, &str); 3] = [
    ("GITHUB_ACTIONS", "true"),
    ("ACTIONS_ID_TOKEN_REQUEST_URL", "https://run.example.org/t?api-version=2"),
    ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runner"),
];

#[test]
fn each_platform_is_found_by_its_environment() {
    assert_eq!(name(&GITHUB), "GitHub Actions (audience daypass)");
    assert_eq!(name(&[("GITLAB_CI", "true"), (GITLAB_VARIABLE, "a.b.c")]), "GitLab CI (DAYPASS_ID_TOKEN)");
    assert_eq!(name(&[("BUILDKITE", "true")]), "Buildkite (audience daypass)");
    assert_eq!(name(&[("CIRCLECI", "true")]), "CircleCI (audience daypass)");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, "a.b.c").unwrap();
    let path = file.to_str().unwrap();
    let pod = [("KUBERNETES_SERVICE_HOST", "10.0.0.1"), (KUBERNETES_FILE_VARIABLE, path)];
    assert_eq!(name(&pod), format!("Kubernetes ({path})"));
    // A GitLab runner in a pod.
    assert!(name(&[pod[0], pod[1], ("GITLAB_CI", "true"), (GITLAB_VARIABLE, "a.b.c")]).starts_with("GitLab"));
    assert!(found(Identity::Auto, &[]).unwrap().is_none());
    assert!(found(Identity::None, &GITHUB).unwrap().is_none());
    assert!(found(Identity::Of(Platform::Buildkite), &GITHUB).unwrap().unwrap().name().starts_with("Buildkite"));
}

#[test]
fn where_there_is_none_it_says_what_to_set() {
    assert!(fault(Identity::Auto, &[("GITHUB_ACTIONS", "true")]).contains("permissions: id-token: write"));
    assert!(fault(Identity::Of(Platform::Github), &[]).contains("permissions: id-token: write"));
    let gitlab = fault(Identity::Auto, &[("GITLAB_CI", "true")]);
    assert!(gitlab.contains("id_tokens: {DAYPASS_ID_TOKEN: {aud: daypass}}"), "{gitlab}");
    let pod = fault(Identity::Auto, &[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]);
    assert!(pod.contains("audience: daypass") && pod.contains(KUBERNETES_FILE), "{pod}");
}

#[test]
fn circlecis_own_token_is_used_only_for_the_wanted_audience() {
    let named = |aud| name(&[("CIRCLECI", "true"), ("CIRCLE_OIDC_TOKEN_V2", token(&aud).as_str())]);
    assert_eq!(named(json!("daypass")), "CircleCI (CIRCLE_OIDC_TOKEN_V2)");
    assert_eq!(named(json!(["x", "daypass"])), "CircleCI (CIRCLE_OIDC_TOKEN_V2)");
    for other in [json!("org-id"), json!(null), json!(["org-id"]), json!(7), json!("daypass2")] {
        assert_eq!(named(other), "CircleCI (audience daypass)");
    }
}

#[test]
fn the_audience_goes_behind_the_query_that_is_there() {
    let env = |name: &str| GITHUB.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
    let caller = |audience| TokenRequest::from_env(audience, &env).unwrap().caller();
    assert_eq!(caller("daypass"), caller("daypass"));
    assert_ne!(caller("daypass"), caller("other"));
}

#[test]
fn the_runners_token_goes_over_https_or_stays_here() {
    let taken = |url: &str| {
        let env = |name: &str| GITHUB.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        TokenRequest::from_env("daypass", &|name| if name == "ACTIONS_ID_TOKEN_REQUEST_URL" { Some(url.into()) } else { env(name) }).is_ok()
    };
    for good in ["https://run.example.org/t?a=b", "http://127.0.0.1:9/t", "http://[::1]:9/t", "http://localhost:9/t"] {
        assert!(taken(good), "{good}");
    }
    for bad in
        ["http://run.example.org/t", "http://127.0.0.1.example.org/t", "http://localhost.example.org/t", "http://10.0.0.1/t", "ftp://h/"]
    {
        assert!(!taken(bad), "{bad}");
    }
}

#[test]
fn names_of_identities() {
    assert_eq!("auto".parse(), Ok(Identity::Auto));
    assert_eq!("none".parse(), Ok(Identity::None));
    for platform in PLATFORMS {
        assert_eq!(platform.as_str().parse(), Ok(Identity::Of(platform)));
    }
    assert!("GitHub".parse::<Identity>().unwrap_err().contains("kubernetes"));
    assert!(audience("https://vend.example.org/x").is_ok());
    for bad in ["", "a b", "\u{e4}", &"a".repeat(MAX_AUDIENCE + 1)] {
        assert!(audience(bad).is_err(), "{bad}");
    }
}
