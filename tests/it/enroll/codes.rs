//! What a code gives, once, and what it does not.

use std::sync::Arc;

use daypass::{
    model::{
        SignedDuration,
        error::Code,
        event::Outcome,
        lease::{LeaseState, Serial},
        request::Input,
        role::{RoleOwner, RoleSpec},
        secret::Secret,
        template::Template,
    },
    store::Collection,
    vend::{CODE_PREFIX, ENROLLMENT_REFUSED, MAX_OPEN_ENROLLMENTS, NewEnrollment},
};

use super::world::{Key, World, caller, failed, holder, leaf, operator, origin, peer};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_code_gives_a_certificate_whose_serial_names_its_lease() {
    let world = World::on_sqlite();
    let created = world.create("acme").await;
    assert!(created.code.expose().starts_with(CODE_PREFIX) && created.code.expose().len() == 47);
    let issued = world.redeem(&created.code, &Key::new()).await.unwrap();
    let lease = &issued.lease;
    assert_eq!((lease.subject.as_str(), lease.tenant.as_str()), ("spiffe://dev/agent/acme/scanner", "acme"));
    assert!(lease.enrolled && lease.generation == 1 && lease.state == LeaseState::Active);
    let serial = Serial::from_hex(lease.handle.credential_id()).unwrap();
    assert_eq!((serial.lease(), serial.generation(1)), (Some(lease.id), 1));
    assert_eq!(lease.expires_at, issued.now + MINUTE * 60, "the role's default");

    // On record, with who made the code, and never the code.
    let events = world.events();
    let of = |method: &str| events.iter().find(|event| event.method == method).unwrap_or_else(|| panic!("no {method}"));
    let (made, redeemed) = (of("EnrollmentService/Create"), of("EnrollmentService/Redeem"));
    assert_eq!((made.outcome, made.policies.as_slice()), (Outcome::Done, ["enroll".to_owned()].as_slice()));
    assert_eq!((made.tenant.as_ref().unwrap().as_str(), made.role.as_ref().unwrap().as_str()), ("acme", "agent"));
    let actor = redeemed.actor.as_ref().unwrap();
    assert_eq!(actor.subject, format!("enrollment:{}", created.enrollment.id));
    assert_eq!((actor.method.as_ref(), actor.authority.as_str()), ("enrollment", "spiffe://dev/operator"));
    assert_eq!(redeemed.lease.as_ref().unwrap().id, lease.id);
    let secret = created.code.expose().strip_prefix(CODE_PREFIX).unwrap();
    assert!(world.lines().iter().all(|line| !line.contains(secret)));
    for entry in world.entries.entries(Collection::Enrollments).await.unwrap() {
        assert!(!String::from_utf8(entry.body).unwrap().contains(secret) && !entry.key.contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_name_the_enrolment_names_the_agent() {
    let world = World::on_sqlite();
    let created = world.try_create(&operator(), "agent", "acme", None).await.unwrap();
    let issued = world.redeem(&created.code, &Key::new()).await.unwrap();
    assert_eq!(issued.lease.subject.as_str(), format!("spiffe://dev/agent/acme/{}", created.enrollment.id));
}

/// An answer that was lost is no harm.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_code_with_the_same_key_gives_the_same_certificate_at_any_server() {
    for world in [World::on_sqlite(), World::on_redis()] {
        let (created, key) = (world.create("acme").await, Key::new());
        let first = world.redeem(&created.code, &key).await.unwrap();
        for server in &world.servers {
            let again = server.enrollments.redeem(&origin("EnrollmentService/Redeem"), &created.code, key.csr()).await.unwrap();
            assert_eq!((again.lease.id, leaf(&again)), (first.lease.id, leaf(&first)));
        }
        assert_eq!(world.active().await.len(), 1);

        let refused = failed(world.redeem(&created.code, &Key::new()).await);
        assert_eq!((refused.code(), refused.public()), (Code::EnrollmentCode, ENROLLMENT_REFUSED), "another key");

        // What was revoked does not come back by the code that it came with.
        world.servers[1].vend.revoke(&operator(), first.lease.id, "lost").await.unwrap();
        let refused = failed(world.redeem(&created.code, &key).await);
        assert_eq!((refused.code(), refused.public()), (Code::EnrollmentCode, ENROLLMENT_REFUSED));
        assert!(world.active().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_code_the_answer_is_one() {
    let world = World::on_sqlite();
    let (old, taken_back) = (world.create("acme").await, world.create("acme").await);
    world.servers[1].enrollments.delete(&operator(), taken_back.enrollment.id).await.unwrap();
    let unknown = format!("{CODE_PREFIX}{}", "A".repeat(43));
    let longer = format!("{}A", old.code.expose());
    let wrong: Vec<Secret> =
        [unknown, longer, String::new(), "x".repeat(60_000), old.code.expose().to_lowercase(), format!(" {}", old.code.expose())]
            .map(Secret::new)
            .into_iter()
            .chain([taken_back.code])
            .collect();
    for code in &wrong {
        let refused = failed(world.redeem(code, &Key::new()).await);
        assert_eq!((refused.code(), refused.public()), (Code::EnrollmentCode, ENROLLMENT_REFUSED));
    }
    world.clock.forward(MINUTE * 10);
    let refused = failed(world.redeem(&old.code, &Key::new()).await);
    assert_eq!((refused.code(), refused.public()), (Code::EnrollmentCode, ENROLLMENT_REFUSED));
    assert!(refused.cause().unwrap().contains("past its time"), "the log says why: {refused}");
    assert!(world.active().await.is_empty());

    // On record by who bounds guesses, with the reason and without the code.
    let error = world.servers[0].enrollments.refused(&origin("EnrollmentService/Redeem"), refused).await;
    assert_eq!(error.code(), Code::EnrollmentCode);
    let event = world.events().into_iter().rfind(|event| event.method == "EnrollmentService/Redeem").unwrap();
    assert_eq!((event.outcome, event.reason.as_deref()), (Outcome::Denied, Some("ENROLLMENT_CODE")));
    assert!(event.detail[0].contains("past its time") && event.tenant.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_no_good_leaves_the_code_as_good_as_it_was() {
    let world = World::on_sqlite();
    let created = world.create("acme").await;
    let origin = origin("EnrollmentService/Redeem");
    let redeem = |input| world.servers[0].enrollments.redeem(&origin, &created.code, input);
    assert_eq!(failed(redeem(Input::None).await).code(), Code::InvalidRequest);
    assert_eq!(failed(redeem(Input::X509 { csr_der: b"nonsense".to_vec() }).await).code(), Code::InvalidCsr);
    world.reload(|catalog| {
        let role = catalog.roles.get_mut(&"agent".parse().unwrap()).unwrap();
        Arc::make_mut(role).owner = RoleOwner::Tenant("ops".parse().unwrap());
    });
    assert_eq!(failed(redeem(Key::new().csr()).await).code(), Code::RoleNotFound, "the role is another tenant's by now");
    world.reload(|_| {});
    assert!(redeem(Key::new().csr()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_are_listed_and_taken_back_by_those_who_might_have_made_them() {
    let world = World::on_sqlite();
    let first = world.create("acme").await.enrollment;
    world.clock.forward(SignedDuration::from_millis(1));
    let second = world.create("ops").await.enrollment;
    let server = &world.servers[1].enrollments;
    let ids = |found: Vec<daypass::model::enrollment::Enrollment>| found.into_iter().map(|one| one.id).collect::<Vec<_>>();
    assert_eq!(ids(server.list(&operator(), None).await.unwrap()), [first.id, second.id]);
    assert_eq!(ids(server.list(&operator(), Some(&"acme".parse().unwrap())).await.unwrap()), [first.id]);

    let (_, agent) = world.agent("acme").await;
    assert!(server.list(&agent, None).await.unwrap().is_empty(), "who may make none sees none");
    assert_eq!(failed(server.delete(&agent, first.id).await).code(), Code::EnrollmentNotFound);

    server.delete(&operator(), first.id).await.unwrap();
    assert_eq!(ids(server.list(&operator(), None).await.unwrap()), [second.id]);
    assert_eq!(failed(server.delete(&operator(), first.id).await).code(), Code::EnrollmentNotFound, "it is gone");
    world.clock.forward(MINUTE * 10);
    assert!(server.list(&operator(), None).await.unwrap().is_empty(), "what is past its time is not listed");
    assert_eq!(failed(server.delete(&operator(), second.id).await).code(), Code::EnrollmentNotFound);
    let deleted = world.events().into_iter().filter(|event| event.method == "EnrollmentService/Redeem").count();
    assert_eq!(deleted, 1, "the agent's own");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_redeemed_cannot_be_taken_back() {
    let world = World::on_sqlite();
    let created = world.create("acme").await;
    world.redeem(&created.code, &Key::new()).await.unwrap();
    assert_eq!(failed(world.servers[0].enrollments.delete(&operator(), created.enrollment.id).await).code(), Code::EnrollmentNotFound);
    assert!(world.servers[0].enrollments.list(&operator(), None).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_codes_of_a_tenant_wait() {
    let world = World::on_sqlite();
    let mut last = None;
    for _ in 0..MAX_OPEN_ENROLLMENTS {
        last = Some(world.create("acme").await.enrollment);
    }
    assert_eq!(failed(world.try_create(&operator(), "agent", "acme", None).await).code(), Code::LeaseCap);
    assert!(world.try_create(&operator(), "agent", "ops", None).await.is_ok(), "another tenant's are not counted");
    world.servers[0].enrollments.delete(&operator(), last.unwrap().id).await.unwrap();
    assert!(world.try_create(&operator(), "agent", "acme", None).await.is_ok());

    // And forgotten when their time has passed, with a margin for other servers' clocks.
    world.clock.forward(MINUTE * 10);
    assert_eq!(world.servers[0].enrollments.purge(world.servers[0].vend.now()).await.unwrap(), 0);
    world.clock.forward(MINUTE + SignedDuration::from_secs(1));
    assert_eq!(world.servers[0].enrollments.purge(world.servers[0].vend.now()).await.unwrap(), MAX_OPEN_ENROLLMENTS + 1);
    assert!(world.entries.entries(Collection::Enrollments).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_has_bounds() {
    let world = World::on_sqlite();
    let new = |seconds| NewEnrollment {
        tenant: "acme".parse().unwrap(),
        role: "agent".parse().unwrap(),
        name: None,
        ttl: Some(SignedDuration::from_secs(seconds)),
    };
    for bad in [-1, 0, 9, 3601] {
        assert_eq!(failed(world.servers[0].enrollments.create(&operator(), new(bad)).await).code(), Code::InvalidRequest, "{bad}");
    }
    let made = world.servers[0].enrollments.create(&operator(), new(10)).await.unwrap();
    assert_eq!(made.enrollment.expires_at, made.enrollment.created_at + SignedDuration::from_secs(10));
}

/// A sibling with the same names is another identity (CVE-2026-39388 in OpenBao).
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_renews_only_itself() {
    let world = World::on_sqlite();
    let ((first, first_call), (second, second_call)) = (world.agent("acme").await, world.agent("acme").await);
    assert_eq!((first.subject.clone(), first.tenant.clone()), (second.subject.clone(), second.tenant.clone()));
    let own_name = caller("acme", peer(first.subject.as_str(), Serial::from_random([9; 20]).to_hex()));
    let forged = Serial::of_lease(first.id, 1, [0; 2]).to_hex();
    let foreign = caller("acme", peer(first.subject.as_str(), forged));
    for stranger in [&second_call, &own_name, &foreign] {
        assert_eq!(failed(world.renew(stranger, first.id, None).await).code(), Code::LeaseNotFound);
        assert_eq!(failed(world.servers[0].vend.get(stranger, first.id).await).code(), Code::LeaseNotFound);
        assert_eq!(failed(world.servers[0].vend.revoke(stranger, first.id, "").await).code(), Code::LeaseNotFound);
        assert_eq!(failed(world.servers[0].vend.acknowledge(stranger, first.id, 1, None).await).code(), Code::LeaseNotFound);
        let listed = world.servers[0].vend.list(stranger, &Default::default(), None, 100).await.unwrap();
        assert!(listed.leases.iter().all(|lease| lease.id != first.id));
    }
    assert_eq!(world.stored(first.id).await.state, LeaseState::Active);

    let (renewed, next) = world.renew(&first_call, first.id, Some(1)).await.unwrap();
    assert_eq!((renewed.generation, renewed.enrolled), (2, true));
    let serial = Serial::from_hex(renewed.handle.credential_id()).unwrap();
    assert_eq!((serial.lease(), serial.generation(2)), (Some(first.id), 2));
    assert!(world.renew(&next, first.id, Some(2)).await.is_ok());
    assert!(world.renew(&second_call, second.id, None).await.is_ok(), "each has its own");
    let other = world.servers[0].vend.get(&operator(), first.id).await;
    assert!(other.is_ok(), "whom policy lets see every lease sees these too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_for_first_identities_is_never_issued() {
    let world = World::on_sqlite();
    let (_, agent) = world.agent("acme").await;
    for call in [&agent, &operator()] {
        for role in ["agent", "acme-agent"] {
            let request =
                daypass::model::request::IssueRequest { role: role.parse().unwrap(), ttl: None, request_id: None, input: Key::new().csr() };
            let code = failed(world.servers[0].vend.issue(call, request).await).code();
            assert!(matches!(code, Code::Denied | Code::RoleNotFound), "{role}: {code:?}");
        }
        let who = world.servers[0].vend.who_am_i(call).await.unwrap();
        assert_eq!(who.roles.iter().map(daypass::model::name::RoleName::as_str).collect::<Vec<_>>(), ["web"]);
    }
    assert_eq!(world.active().await.len(), 1, "the agent's own");
}

/// A lost answer at the end of the code's life: what it was redeemed for counts as the agent's own.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_uses_its_identity_as_any_certificate() {
    let world = World::on_sqlite();
    let created = world.create("acme").await;
    let issued = world.redeem(&created.code, &Key::new()).await.unwrap();
    let agent = holder(&issued);
    let request =
        daypass::model::request::IssueRequest { role: "web".parse().unwrap(), ttl: None, request_id: None, input: Key::new().csr() };
    let web = world.servers[1].vend.issue(&agent, request).await.unwrap();
    assert!(!web.lease.enrolled);
    assert_eq!(web.lease.subject, issued.lease.subject);
    // A lease that is no identity may be renewed with the agent's next certificate.
    let (_, next) = world.renew(&agent, issued.lease.id, None).await.unwrap();
    assert!(world.renew(&next, web.lease.id, None).await.is_ok());
}

/// Under another name the lease would be nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_says_the_name_that_the_certificate_has_or_nothing() {
    let world = World::on_sqlite();
    let (lease, first) = world.agent("acme").await;
    let (renewed, second) = world.renew(&first, lease.id, None).await.unwrap();
    assert_eq!(renewed.subject, lease.subject);
    assert_eq!(second.identity.subject(), first.identity.subject());
    let rename = |uri: &'static str, enrollment: bool| {
        world.reload(|catalog| {
            let role = Arc::make_mut(catalog.roles.get_mut(&"agent".parse().unwrap()).unwrap());
            let RoleSpec::X509(spec) = &mut role.spec else { panic!("no certificate") };
            spec.uri_sans = vec![Template::parse_for_enrollment(uri).unwrap()];
            spec.enrollment = enrollment;
        });
    };
    for (uri, enrollment) in [
        ("spiffe://dev/machine/{tenant}/{enrollment.name}", true),
        ("spiffe://dev/agent/{tenant}/{enrollment.name}/x", true),
        ("spiffe://dev/agent/{tenant}/other", true),
        ("spiffe://dev/agent/{tenant}/scanner", false),
    ] {
        rename(uri, enrollment);
        assert_eq!(failed(world.renew(&second, lease.id, None).await).code(), Code::NotRenewable, "{uri}");
    }
    rename("spiffe://dev/agent/{tenant}/scanner", true);
    assert!(world.renew(&second, lease.id, None).await.is_ok(), "the same name, written another way");
}
