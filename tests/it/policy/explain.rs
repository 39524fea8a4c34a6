//! Why a role was denied, in the policy's own words.

use daypass::{
    model::claim::ClaimValue,
    policy::{MAX_CONDITION_TEXT, MAX_EXPLAINED_CONDITIONS, MAX_EXPLAINED_POLICIES},
};

use super::world::{book, job, job_with, now, operator, text, vendor};

const TEXT: &str = r#"@id("deploy-main")
permit(
  principal is Token::github in Tenant::"ci",
  action == Action::"issue",
  resource == Role::"web"
) when {
  // the repository, not its name
  principal.claims.repository_id == "74512345" &&
  principal.claims.ref ==
    "refs/heads/main" &&
  (principal.claims has environment && principal.claims.environment == "prod") &&
  (context.ttl_seconds <= 600 || context has peer)
} unless {
  principal.claims has labels && principal.claims.labels.contains("frozen") ||
  principal.claims has protected && !principal.claims.protected
};

permit(principal is Certificate in Tenant::"operators", action, resource == Role::"web");

@id("hours")
forbid(principal, action == Action::"issue", resource) when { context.ttl_seconds > 1800 };

permit(principal is Certificate in Tenant::"vendor", action == Action::"read", resource in Role::"web");
"#;

fn lines(identity: &std::sync::Arc<daypass::model::identity::Identity>, seconds: i64) -> Vec<String> {
    let text = TEXT.replace(
        "permit(principal is Certificate in Tenant::\"operators\"",
        "@reason(\"ops\") permit(principal is Certificate in Tenant::\"operators\"",
    );
    let ttl = Some(daypass::model::SignedDuration::from_secs(seconds));
    book(&text).explain_issue(identity, &"web".parse().unwrap(), ttl, None, now()).lines()
}

const REST: [&str; 2] = [
    "policy policy2 (line 18): failed: principal is Certificate in Tenant::\"operators\"",
    "policy hours (line 20): failed: context.ttl_seconds > 1800",
];

fn with_rest(first: &[&str]) -> Vec<String> {
    first.iter().chain(&REST).map(ToString::to_string).collect()
}

#[test]
fn each_failed_condition_is_named_with_its_claims() {
    assert_eq!(
        lines(&job("refs/heads/x"), 300),
        with_rest(&[
            "policy deploy-main (line 1): failed: principal.claims.ref == \"refs/heads/main\" (claim ref)",
            "policy deploy-main (line 1): failed: principal.claims has environment (claim environment is absent)",
        ])
    );
    let dev = job_with("refs/heads/main", &[("environment", text("dev"))]);
    assert_eq!(
        lines(&dev, 900),
        with_rest(&[
            "policy deploy-main (line 1): failed: principal.claims.environment == \"prod\" (claim environment)",
            "policy deploy-main (line 1): failed: context.ttl_seconds <= 600 || context has peer",
        ])
    );
    let prod = ("environment", text("prod"));
    let frozen = job_with("refs/heads/main", &[prod.clone(), ("labels", ClaimValue::Strings(vec!["frozen".into()]))]);
    assert_eq!(
        lines(&frozen, 300),
        with_rest(&[
            "policy deploy-main (line 1): failed: unless principal.claims has labels && principal.claims.labels.contains(\"frozen\") (claim labels)"
        ])
    );
    let open = job_with("refs/heads/main", &[prod.clone(), ("protected", ClaimValue::Boolean(false))]);
    assert_eq!(
        lines(&open, 300),
        with_rest(&[
            "policy deploy-main (line 1): failed: unless principal.claims has protected && !principal.claims.protected (claim protected)"
        ])
    );
    assert_eq!(lines(&job_with("refs/heads/main", &[prod]), 300), with_rest(&["policy deploy-main (line 1): permits"]));
}

#[test]
fn a_scope_that_did_not_hold_is_named_alone() {
    assert_eq!(
        lines(&operator(), 3600),
        [
            "policy deploy-main (line 1): failed: principal is Token::github in Tenant::\"ci\"",
            "policy deploy-main (line 1): failed: context.ttl_seconds <= 600 || context has peer",
            "policy policy2 (line 18): permits",
            "policy hours (line 20): forbids",
        ]
    );
}

#[test]
fn an_explanation_says_how_it_ends() {
    let book = book(
        "@id(\"a\") permit(principal is Certificate in Tenant::\"operators\", action == Action::\"issue\", resource == Role::\"web\");",
    );
    let web = "web".parse().unwrap();
    let yes = book.explain_issue(&operator(), &web, None, None, now());
    assert!(yes.allowed && yes.reason.is_empty() && yes.policy_version == "v1" && yes.lines() == ["policy a (line 1): permits"]);
    let no = book.explain_issue(&vendor(), &web, None, None, now());
    assert!(!no.allowed && no.reason == "DENIED" && no.policy_version == "v1");
    let hidden = book.explain_issue(&operator(), &"db".parse().unwrap(), None, None, now());
    assert!(!hidden.allowed && hidden.reason == "ROLE_NOT_FOUND" && hidden.policies.is_empty());
    let long = book.explain_issue(&operator(), &web, Some(daypass::model::SignedDuration::from_hours(2)), None, now());
    assert!(!long.allowed && long.reason == "INVALID_REQUEST");
}

#[test]
fn an_explanation_is_bounded() {
    let conditions: Vec<_> = (0..40).map(|n| format!("principal.subject == \"{n}{}\"", "é".repeat(400))).collect();
    let other = "forbid(principal in Tenant::\"vendor\", action == Action::\"issue\", resource == Role::\"web\") when { principal.subject == \"x\" };\n";
    let mine = format!(
        "@id(\"mine\") permit(principal is Certificate in Tenant::\"operators\", action == Action::\"issue\", resource == Role::\"web\") when {{ {} }};",
        conditions.join(" && ")
    );
    let book = book(&(other.repeat(150) + &mine));
    let explanation = book.explain_issue(&operator(), &"web".parse().unwrap(), None, None, now());
    assert_eq!(explanation.policies.len(), MAX_EXPLAINED_POLICIES);
    let mine = explanation.policies.iter().find(|policy| policy.id == "mine").expect("the policy about the caller comes first");
    assert_eq!(mine.failed.len(), MAX_EXPLAINED_CONDITIONS);
    assert!(mine.failed.iter().all(|failed| failed.condition.len() <= MAX_CONDITION_TEXT && failed.condition.ends_with('…')));
    assert!(explanation.lines().iter().all(|line| !line.contains(char::is_control)));
}
