//! deploy/policy.cedar over deploy/daypass.toml, and with what docs/enrolment.md adds: what their texts promise.

use std::sync::Arc;

use daypass::{
    model::{
        error::Code,
        identity::{Identity, PeerCertificate, Proof},
    },
    policy::{LeaseAction, PolicyBook},
};

use super::world::{lease, now, peer, text, token};
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

fn jobs() -> [Arc<Identity>; 2] {
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

/// docs/enrolment.md over the sample: the role, the tenant and the policies that it says are needed.
#[test]
fn what_the_enrolment_page_shows_holds_together() {
    let page = include_str!("../../../docs/enrolment.md");
    let blocks = |of: &str| page.split(&format!("```{of}\n")).skip(1).map(|rest| rest.split("```").next().unwrap()).collect::<String>();
    let (config, policies) =
        (SAMPLE.to_owned() + &blocks("toml"), include_str!("../../../deploy/policy.cedar").to_owned() + &blocks("cedar"));
    let dir = etc();
    std::fs::write(dir.path().join("policy.cedar"), policies).unwrap();
    let loaded = load(dir.path(), &config).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(loaded.warnings, Vec::new());
    let book = loaded.rules.book;
    let (operator, agent) = (member("platform", "operator"), member("acme", "agent/acme/web-1"));
    let may_enroll = |tenant: &str| book.may_enroll(&operator, &tenant.parse().unwrap(), &"agent".parse().unwrap(), None, now()).is_ok();
    assert!(may_enroll("acme") && !may_enroll("shop"));
    book.decide_issue(&agent, &"web".parse().unwrap(), None, None, now()).unwrap();
    for role in ["agent", "web"] {
        book.decide_renew(&agent, &lease(role, &agent), None, None, now()).unwrap();
    }
}

fn member(tenant: &str, path: &str) -> Arc<Identity> {
    let peer = PeerCertificate { trust_domain: "example.org".parse().unwrap(), ..peer(&format!("spiffe://example.org/{path}")) };
    Arc::new(Identity { tenant: tenant.parse().unwrap(), proof: Proof::Certificate(peer) })
}
