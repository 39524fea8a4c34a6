//! deploy/policy.cedar over deploy/daypass.toml: what its comments promise to jobs.

use daypass::{
    model::{error::Code, identity::Identity},
    policy::{LeaseAction, PolicyBook},
};

use super::world::{lease, now, text, token};
use crate::config::{SAMPLE, etc, load};

fn sample() -> PolicyBook {
    let dir = etc();
    load(dir.path(), SAMPLE).unwrap_or_else(|faults| panic!("{faults:#?}")).rules.book
}

/// Of a token of GitHub: the preset's required claims.
const CLAIMS: [(&str, &str); 9] = [
    ("repository", "acme/site"),
    ("repository_id", "74512345"),
    ("repository_owner", "acme"),
    ("repository_owner_id", "65"),
    ("repository_visibility", "private"),
    ("ref", "refs/heads/main"),
    ("event_name", "push"),
    ("run_id", "1"),
    ("runner_environment", "github-hosted"),
];

fn jobs() -> [std::sync::Arc<Identity>; 2] {
    let main = CLAIMS.map(|(name, value)| (name, text(value)));
    let farm = [("project_id", text("8")), ("branch", text("main"))];
    [token("shop", "github", "repo:acme/site", &main), token("shop", "build-farm", "project:8", &farm)]
}

#[test]
fn a_job_of_the_sample_has_renews_and_revokes_its_own_lease() {
    let book = sample();
    for job in jobs() {
        book.decide_issue(&job, &"web".parse().unwrap(), None, None, now()).unwrap();
        let own = lease("web", &job);
        let renewed = book.decide_renew(&job, &own, None, None, now()).unwrap();
        assert_eq!(renewed.policies(), ["shop-own-leases"]);
        for action in [LeaseAction::Read, LeaseAction::Revoke] {
            book.decide_lease(action, &job, &own, None, now()).unwrap();
        }
    }
}

#[test]
fn a_job_of_the_sample_reaches_no_lease_of_another() {
    let book = sample();
    let [github, farm] = jobs();
    for (caller, holder) in [(&github, &farm), (&farm, &github)] {
        let other = lease("web", holder);
        assert_eq!(book.decide_renew(caller, &other, None, None, now()).unwrap_err().error.code(), Code::LeaseNotFound);
        for action in [LeaseAction::Read, LeaseAction::Revoke] {
            assert_eq!(book.decide_lease(action, caller, &other, None, now()).unwrap_err().error.code(), Code::LeaseNotFound);
        }
    }
}
