//! Who may make a code, and for what: each refusal, and that nothing is left of it.

use daypass::{
    model::{error::Code, event::Outcome, role::OnClone, template::Template},
    store::Collection,
};

use super::world::{World, caller, failed, operator, peer};

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_of_a_code_has_its_reason_and_is_on_record() {
    let world = World::on_sqlite();
    let stranger = caller("acme", peer("spiffe://dev/agent/acme/x", "0a".repeat(20)));
    let cases = [
        (&stranger, "agent", "acme", Code::Denied, "no policy lets an agent make codes"),
        (&operator(), "agent", "unasked", Code::Denied, "the policy names the tenants"),
        (&operator(), "gone", "acme", Code::Denied, "who may not is not told whether there is such a role"),
        (&operator(), "acme-agent", "ops", Code::RoleNotFound, "another tenant's role"),
        (&operator(), "web", "acme", Code::InvalidRequest, "a role that is not for enrolment"),
        (&operator(), "web", "unknown", Code::InvalidRequest, "there is no such tenant"),
        (&operator(), "agent", "ended", Code::TenantEnded, "its contract has ended"),
        (&operator(), "agent", "nobody", Code::NoTenant, "the certificate would belong to nobody"),
        (&operator(), "agent", "lost", Code::NoTenant, "it would be another tenant's"),
    ];
    for (at, (call, role, tenant, code, why)) in cases.into_iter().enumerate() {
        let refused = failed(world.try_create(call, role, tenant, Some("a")).await);
        assert_eq!(refused.code(), code, "{why}: {refused}");
        let events = world.events();
        assert_eq!(events.len(), at + 1, "{why}");
        let event = &events[at];
        assert_eq!((event.outcome, event.reason.as_deref()), (Outcome::Denied, Some(code.as_str())), "{why}");
        assert_eq!(event.role.as_ref().unwrap().as_str(), role);
    }
    assert!(world.entries.entries(Collection::Enrollments).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_domain_that_reads_another_name_makes_nobody_of_it() {
    let world = World::on_sqlite();
    world.reload(|catalog| {
        let domain = "dev".parse().unwrap();
        catalog.trust_domains.insert(domain, daypass::model::identity::CertificateIdentity::Cn);
    });
    assert_eq!(failed(world.try_create(&operator(), "agent", "acme", Some("a")).await).code(), Code::NoTenant);
}

#[test]
fn the_name_stands_in_roles_for_enrolment_only() {
    let source = "spiffe://dev/{tenant}/{enrollment.name}";
    assert!(Template::parse(source).is_err());
    assert!(Template::parse_policy("arn:aws:s3:::x/{enrollment.name}").is_err());
    let template = Template::parse_for_enrollment(source).unwrap();
    assert!(template.names_enrollment() && !template.is_literal());
    assert!(Template::parse_for_enrollment("{enrollment.id}").is_err());
    assert_eq!(OnClone::default(), OnClone::Revoke);
}
