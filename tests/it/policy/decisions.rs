//! What a decision yields, and what a refusal says.

use std::sync::Arc;

use daypass::{
    model::{
        SignedDuration, Timestamp,
        catalog::Catalog,
        claim::ClaimValue,
        credential::CredentialKind,
        error::Code,
        identity::Identity,
        lease::{Lease, LeaseState},
        name::RoleName,
        role::{Role, RoleOwner, RoleSpec},
        tenant::Tenant,
    },
    policy::{Denial, Grant, LeaseAction, MAX_REMEMBERED, MIN_TTL, PolicyBook, WatchTerms},
};

use super::world::{book, book_over, catalog, certificate, job, lease, now, operator, text, token, vendor};
use crate::aws::world::deploy;

const SAMPLE: &str = include_str!("sample.cedar");
const ALL: &str = "@reason(\"test\") permit(principal, action, resource);";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn secs(n: i64) -> Option<SignedDuration> {
    Some(SignedDuration::from_secs(n))
}

fn issue(book: &PolicyBook, identity: &Arc<Identity>, role: &str, ttl: Option<SignedDuration>) -> Result<Grant, Box<Denial>> {
    book.decide_issue(identity, &role.parse().unwrap(), ttl, None, now())
}

fn renew(book: &PolicyBook, lease: &Lease, ttl: Option<SignedDuration>, when: &str) -> Result<Grant, Box<Denial>> {
    book.decide_renew(&vendor(), lease, ttl, None, at(when))
}

fn with_tenant(name: &str, change: impl FnOnce(&mut Tenant)) -> Catalog {
    let mut catalog = catalog();
    let entry = catalog.tenants.get_mut(&name.parse().unwrap()).unwrap();
    change(Arc::make_mut(entry));
    catalog
}

fn with_role(name: &str, change: impl FnOnce(&mut Role)) -> Catalog {
    let mut catalog = catalog();
    let entry = catalog.roles.get_mut(&name.parse().unwrap()).unwrap();
    change(Arc::make_mut(entry));
    catalog
}

/// The code and the public text.
fn refusal<T: std::fmt::Debug>(result: Result<T, Box<Denial>>) -> (Code, String) {
    let denial = result.unwrap_err();
    assert_eq!(denial.explanation.reason, denial.error.code().as_str());
    assert_eq!(denial.explanation.policy_version, "v1");
    (denial.error.code(), denial.error.public().to_owned())
}

#[test]
fn a_grant_lasts_as_asked_within_the_role_and_the_tenant() {
    let book = book(SAMPLE);
    let grant = issue(&book, &operator(), "web", None).unwrap();
    assert_eq!((grant.expires_at(), grant.renew_until()), (at("2026-03-01T12:05:00Z"), at("2026-03-02T12:00:00Z")));
    assert_eq!((grant.policies(), &**grant.policy_version()), (&["operator-web".to_owned()][..], "v1"));
    assert_eq!((grant.role().name.as_str(), grant.tenant().name.as_str(), grant.identity()), ("web", "operators", &operator()));
    assert_eq!(issue(&book, &operator(), "web", secs(1)).unwrap().expires_at(), at("2026-03-01T12:00:01Z"));
    // The vendor's contract ends at 12:10.
    let vendor = issue(&book, &vendor(), "vendor-client", secs(1800)).unwrap();
    assert_eq!((vendor.expires_at(), vendor.renew_until()), (at("2026-03-01T12:10:00Z"), at("2026-03-01T12:10:00Z")));
}

#[test]
fn a_life_outside_the_role_is_refused_by_name_of_the_maximum() {
    let book = book(ALL);
    assert!(issue(&book, &operator(), "web", secs(3600)).is_ok());
    for ttl in [
        SignedDuration::from_secs(3601),
        SignedDuration::ZERO,
        MIN_TTL - SignedDuration::from_nanos(1),
        SignedDuration::from_secs(-5),
        SignedDuration::MAX,
    ] {
        let (code, public) = refusal(issue(&book, &operator(), "web", Some(ttl)));
        assert_eq!(code, Code::InvalidRequest);
        assert!(public.starts_with("the role \"web\" gives 1s to 3600s"), "{public}");
    }
}

#[test]
fn a_tenant_that_ended_gets_nothing() {
    let ended = |end: &str| book_over(ALL, with_tenant("vendor", |tenant| tenant.ends_at = Some(at(end))));
    for end in ["2026-03-01T12:00:00Z", "2026-03-01T12:00:00.9Z", "2020-01-01T00:00:00Z"] {
        let (code, public) = refusal(issue(&ended(end), &vendor(), "web", None));
        assert_eq!(code, Code::TenantEnded);
        assert!(public.starts_with("the contract of tenant \"vendor\" ended at"), "{public}");
        assert_eq!(refusal(ended(end).decide_renew(&vendor(), &lease("web", &vendor()), None, None, now())).0, Code::TenantEnded);
        assert!(ended(end).roles_for(&vendor(), None, now()).is_empty());
    }
    assert_eq!(issue(&ended("2026-03-01T12:00:01Z"), &vendor(), "web", None).unwrap().expires_at(), at("2026-03-01T12:00:01Z"));
    // Reading what one had is not vending.
    assert!(ended("2020-01-01T00:00:00Z").decide_lease(LeaseAction::Read, &vendor(), &lease("web", &vendor()), None, now()).is_ok());
}

/// What is said of a role that nothing is near to.
const NONE_OF: &str = "there is no role \"ROLE\" for you; `daypass whoami` lists those that you may have";

#[test]
fn another_tenants_role_looks_like_none() {
    let book = book(ALL);
    let (code, other) = refusal(issue(&book, &operator(), "vendor-client", None));
    let (_, none) = refusal(issue(&book, &operator(), "vendor-klient", None));
    assert_eq!(code, Code::RoleNotFound);
    assert_eq!(other, none.replace("klient", "client"));
    assert_eq!(other, NONE_OF.replace("ROLE", "vendor-client"));
}

#[test]
fn a_role_is_suggested_only_to_who_may_have_it() {
    let book = book(SAMPLE);
    assert_eq!(
        refusal(issue(&book, &operator(), "wbe", None)),
        (Code::RoleNotFound, "there is no role \"wbe\" for you; did you mean \"web\"?".into())
    );
    assert_eq!(refusal(issue(&book, &vendor(), "wbe", None)).1, NONE_OF.replace("ROLE", "wbe"));
    assert_eq!(
        refusal(issue(&book, &vendor(), "vendor-cliet", None)).1,
        "there is no role \"vendor-cliet\" for you; did you mean \"vendor-client\"?"
    );
    assert_eq!(refusal(issue(&book, &operator(), "vendor-cliet", None)).1, NONE_OF.replace("ROLE", "vendor-cliet"));
    let roles = |identity: Arc<Identity>| book.roles_for(&identity, None, now()).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(roles(operator()), ["web"]);
    assert_eq!(roles(vendor()), ["vendor-client"]);
    assert_eq!(roles(job("refs/heads/main")), ["web"]);
    assert_eq!(roles(job("refs/heads/x")), [""; 0]);
}

#[test]
fn a_denial_says_what_to_ask_for() {
    let book = book(SAMPLE);
    assert_eq!(
        refusal(issue(&book, &vendor(), "web", None)),
        (
            Code::Denied,
            "no policy lets you issue the role \"web\"; ask the operators of tenant \"vendor\" for a policy that permits it (daypass explain web shows why, if you may)".into()
        )
    );
    assert_eq!(
        refusal(issue(&book, &operator(), "web", secs(1801))).1,
        "a policy forbids you to issue the role \"web\"; ask the operators of tenant \"operators\" whether that policy is meant for you (daypass explain web shows why, if you may)"
    );
    assert_eq!(
        refusal(book.decide_audit(&vendor(), &"ci".parse().unwrap(), None, now())).1,
        "no policy lets you see the records of tenant \"ci\"; ask the operators of tenant \"vendor\" for a policy that permits it"
    );
    let inside = Some("::ffff:10.0.0.9".parse().unwrap());
    assert!(book.decide_issue(&operator(), &"web".parse().unwrap(), secs(1801), inside, now()).is_ok());
}

#[test]
fn a_forbid_that_cannot_be_evaluated_forbids() {
    let text = format!(
        "{ALL}\n@id(\"broken\") forbid(principal, action == Action::\"issue\", resource) when {{ context.ttl_seconds * 9223372036854775807 > 0 }};"
    );
    let denial = issue(&book(&text), &operator(), "web", None).unwrap_err();
    assert_eq!(denial.error.code(), Code::Denied);
    assert_eq!(denial.explanation.lines(), ["policy policy1 (line 1): permits", "policy broken (line 2): forbids"]);
    let permit = "permit(principal, action == Action::\"issue\", resource) when { context.ttl_seconds * 9223372036854775807 > 0 };";
    assert_eq!(refusal(issue(&book(&format!("@reason(\"test\") {permit}")), &operator(), "web", None)).0, Code::Denied);
}

#[test]
fn a_caller_that_the_catalog_no_longer_has_is_refused() {
    let book = book(ALL);
    let web: RoleName = "web".parse().unwrap();
    let mut foreign = operator().as_ref().clone();
    if let daypass::model::identity::Proof::Certificate(peer) = &mut foreign.proof {
        peer.trust_domain = "gone".parse().unwrap();
    }
    let cases = [
        (certificate("gone", "spiffe://dev/x"), Code::NoTenant),
        (Arc::new(foreign), Code::CertificateRevoked),
        (token("ci", "gone", "x", &[]), Code::Unauthenticated),
        (token("ci", "github", "x", &[("repository_id", text("1")), ("ref", text("x"))]), Code::Unauthenticated),
        (token("ci", "plain-sso", "x", &[("team", ClaimValue::Integer(1))]), Code::Unauthenticated),
    ];
    for (identity, code) in cases {
        assert_eq!(refusal(book.decide_issue(&identity, &web, None, None, now())).0, code);
        assert_eq!(refusal(book.decide_renew(&identity, &lease("web", &identity), None, None, now())).0, code);
        assert_eq!(refusal(book.decide_lease(LeaseAction::Read, &identity, &lease("web", &identity), None, now())).0, code);
        assert_eq!(refusal(book.decide_explain(&identity, &web, None, now())).0, code);
        assert_eq!(refusal(book.decide_audit(&identity, &"ci".parse().unwrap(), None, now())).0, code);
        assert!(book.lease_decisions(LeaseAction::Read, &identity, None, now()).is_err());
        assert!(book.roles_for(&identity, None, now()).is_empty());
    }
    // A claim that the configuration does not name is not there for policies, and harms nobody.
    assert!(
        book.decide_issue(&token("ci", "plain-sso", "x", &[("team", text("a")), ("more", text("b"))]), &web, None, None, now()).is_ok()
    );
}

#[test]
fn a_renewal_extends_and_never_shortens() {
    let book = book(SAMPLE);
    let held = lease("vendor-client", &vendor());
    let now = "2026-03-01T12:00:00.25Z";
    assert_eq!(renew(&book, &held, None, now).unwrap().expires_at(), at("2026-03-01T12:05:00Z"));
    assert_eq!(renew(&book, &held, secs(10), now).unwrap().expires_at(), held.expires_at);
    // The tenant's end, then `renew_until`.
    assert_eq!(renew(&book, &held, secs(1800), now).unwrap().expires_at(), at("2026-03-01T12:10:00Z"));
    let near = Lease { renew_until: at("2026-03-01T12:04:30Z"), ..held.clone() };
    let grant = renew(&book, &near, None, now).unwrap();
    assert_eq!((grant.expires_at(), grant.renew_until()), (near.renew_until, near.renew_until));
    assert_eq!(grant.policies(), ["vendor-own-leases"]);
}

#[test]
fn only_an_active_lease_with_life_left_is_renewed() {
    let book = book(ALL);
    let held = lease("vendor-client", &vendor());
    for state in LeaseState::ALL.into_iter().filter(|state| *state != LeaseState::Active) {
        let (code, public) = refusal(renew(&book, &Lease { state, ..held.clone() }, None, super::world::NOW));
        assert_eq!(
            (code, public),
            (Code::LeaseState, format!("the lease is {}; only an active one can be renewed: issue a new one", state.as_str()))
        );
    }
    assert_eq!(refusal(renew(&book, &held, None, "2026-03-01T12:04:00Z")).0, Code::LeaseState);
    let spent = Lease { renew_until: held.expires_at, ..held.clone() };
    assert_eq!(refusal(renew(&book, &spent, None, super::world::NOW)).0, Code::NotRenewable);
    assert_eq!(refusal(renew(&book, &held, secs(3601), super::world::NOW)).0, Code::InvalidRequest);
    // What a reload made shorter is not made longer by a lease from before.
    let tenant_end = with_tenant("vendor", |tenant| tenant.ends_at = Some(at("2026-03-01T12:03:00Z")));
    let short = with_role("vendor-client", |role| {
        role.max_ttl = SignedDuration::from_secs(60);
        role.default_ttl = role.max_ttl;
    });
    for catalog in [tenant_end, short] {
        assert_eq!(refusal(renew(&book_over(ALL, catalog), &held, None, super::world::NOW)).0, Code::NotRenewable);
    }
    let mut without = catalog();
    without.roles.remove(&"vendor-client".parse().unwrap());
    let given_away = with_role("vendor-client", |role| role.owner = RoleOwner::Tenant("ci".parse().unwrap()));
    for catalog in [without, given_away] {
        assert_eq!(refusal(renew(&book_over(ALL, catalog), &held, None, super::world::NOW)).0, Code::RoleNotFound);
    }
}

/// A session at AWS is 15 minutes long at least: what ends before that is no use in asking AWS for.
#[test]
fn a_session_is_not_rotated_into_what_is_too_short_for_one() {
    let spec = deploy("arn:aws:iam::123456789012:role/x");
    let aws = |ends_at: Option<&str>| {
        let mut catalog = with_role("web", |role| role.spec = RoleSpec::Aws(spec.clone()));
        let tenant = catalog.tenants.get_mut(&"ci".parse().unwrap()).unwrap();
        Arc::make_mut(tenant).ends_at = ends_at.map(at);
        book_over(ALL, catalog)
    };
    let caller = job("refs/heads/main");
    let held = Lease { kind: CredentialKind::Aws, ..lease("web", &caller) };
    let rotate = |book: &PolicyBook, shown_at: &str| {
        let terms = WatchTerms { ttl: secs(1800), shown_at: at(shown_at) };
        book.decide_rotate(&caller, &held, terms, None, now()).map(|grant| grant.expires_at())
    };
    // The token vouches for an hour.
    let open = aws(None);
    assert_eq!(rotate(&open, "2026-03-01T11:20:00Z").unwrap(), at("2026-03-01T12:20:00Z"));
    assert_eq!(refusal(rotate(&open, "2026-03-01T11:15:20Z")).0, Code::TokenExpired);
    assert!(rotate(&aws(Some("2026-03-01T12:15:30Z")), super::world::NOW).is_ok());
    assert_eq!(refusal(rotate(&aws(Some("2026-03-01T12:15:29Z")), super::world::NOW)).0, Code::NotRenewable);
    let near = Lease { renew_until: at("2026-03-01T12:15:29Z"), ..held.clone() };
    assert_eq!(refusal(open.decide_renew(&caller, &near, None, None, now())).0, Code::NotRenewable);
}

#[test]
fn nobody_elses_lease_is_renewed_even_by_who_may_do_everything() {
    let book = book(ALL);
    let held = lease("web", &vendor());
    let elsewhere = certificate("operators", "spiffe://dev/vendor/agent");
    for caller in [operator(), certificate("vendor", "spiffe://dev/vendor/b"), elsewhere] {
        let (code, public) = refusal(book.decide_renew(&caller, &held, None, None, now()));
        assert_eq!((code, public.as_str()), (Code::LeaseNotFound, daypass::policy::NO_SUCH_LEASE));
    }
}

#[test]
fn a_lease_that_may_not_be_read_is_not_there() {
    let book = book("permit(principal is Certificate in Tenant::\"operators\", action == Action::\"read\", resource in Role::\"web\");");
    let web = lease("web", &vendor());
    let revoke = |caller: &Identity, lease: &Lease| book.decide_lease(LeaseAction::Revoke, caller, lease, None, now());
    assert_eq!(refusal(revoke(&vendor(), &web)), (Code::LeaseNotFound, daypass::policy::NO_SUCH_LEASE.into()));
    assert_eq!(refusal(revoke(&operator(), &lease("db", &vendor()))).0, Code::LeaseNotFound);
    assert_eq!(
        refusal(revoke(&operator(), &web)),
        (Code::Denied, "no policy lets you revoke this lease of the role \"web\"; ask the operators of tenant \"operators\" for a policy that permits it".into())
    );
}

#[test]
fn a_lease_is_in_its_holders_tenant_whoever_owns_its_role_by_now() {
    let text = "permit(principal in Tenant::\"ci\", action == Action::\"read\", resource in Tenant::\"ci\");";
    let given_away = with_role("vendor-client", |role| role.owner = RoleOwner::Tenant("ci".parse().unwrap()));
    let book = book_over(text, given_away);
    let read = |lease| book.decide_lease(LeaseAction::Read, &job("refs/heads/main"), &lease, None, now());
    assert_eq!(refusal(read(lease("vendor-client", &vendor()))).0, Code::LeaseNotFound);
    assert!(read(lease("vendor-client", &job("refs/heads/x"))).is_ok());
}

#[test]
fn many_leases_cost_few_questions() {
    let book = book(SAMPLE);
    for (caller, action, expected) in [
        (operator(), LeaseAction::Read, 10_000),
        (operator(), LeaseAction::Revoke, 10_000),
        (vendor(), LeaseAction::Read, 2_500),
        (job("refs/heads/main"), LeaseAction::Read, 0),
    ] {
        let mut many = book.lease_decisions(action, &caller, None, now()).unwrap();
        let leases = [lease("web", &vendor()), lease("vendor-client", &vendor()), lease("web", &operator()), lease("gone", &operator())];
        let allowed = (0..10_000).filter(|n| many.allows(&leases[n % 4]).unwrap()).count();
        assert_eq!((allowed, many.remembered()), (expected, 4));
    }
    let operator = operator();
    let mut many = book.lease_decisions(LeaseAction::Read, &operator, None, now()).unwrap();
    for n in 0..=MAX_REMEMBERED {
        assert!(many.allows(&lease("web", &certificate("vendor", &format!("spiffe://dev/vendor/{n}")))).unwrap());
    }
    assert_eq!(many.remembered(), MAX_REMEMBERED);
}

/// Prints what one decision costs; only a release build says anything: `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn a_decision_among_200_policies() {
    let mut catalog = catalog();
    let mut text = String::new();
    for n in 0..200 {
        let role = super::world::role(&format!("role-{n}"), RoleOwner::Shared);
        text += &format!(
            "permit(principal is Token::github in Tenant::\"ci\", action == Action::\"issue\", resource == Role::\"role-{n}\")\nwhen {{ principal.claims.repository_id == \"74512345\" && principal.claims.ref == \"refs/heads/main\" }};\n"
        );
        catalog.roles.insert(role.name.clone(), Arc::new(role));
    }
    let loading = std::time::Instant::now();
    let book = book_over(&text, catalog);
    println!("load of 200 policies: {:?}", loading.elapsed());
    let (role, address) = ("role-77".parse().unwrap(), Some("10.0.0.1".parse().unwrap()));
    for (name, identity, ok) in [("granted", job("refs/heads/main"), true), ("denied, explained", job("refs/heads/x"), false)] {
        let rounds = 20_000;
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            assert_eq!(book.decide_issue(&identity, &role, None, address, now()).is_ok(), ok);
        }
        println!("{name}: {:?} each", start.elapsed() / rounds);
    }
}
