//! A registry lease from its issue to the last token of its last exchange.

use std::time::Instant;

use daypass::{
    issuer::registry::MAX_TOKEN_TTL,
    model::{
        SignedDuration, Timestamp,
        credential::{Credential, RegistryCredential},
        error::Code,
        event::Outcome,
        lease::{Lease, LeaseState, REGISTRY_LEEWAY, Reach},
        request::IssueRequest,
        role::{Role, RoleOwner, RoleSpec},
        secret::Secret,
    },
    vend::{EXCHANGE_REFUSED, Exchanged, Issued, Origin},
};

use super::{
    faulty::When,
    world::{SERVICE, World, operator, renewal},
};

const SCOPE: &str = "repository:demo/app:pull,push";

fn origin() -> Origin {
    Origin { method: "Registry/Token", peer_address: Some([127, 0, 0, 1].into()), call_id: "exchange".to_owned() }
}

fn credential(issued: &Issued) -> &RegistryCredential {
    let Credential::Registry(credential) = &issued.credential else { panic!("not for a registry") };
    credential
}

impl World {
    async fn push(&self, request_id: Option<&str>) -> Issued {
        self.session(&operator(), "push", request_id).await.unwrap()
    }

    async fn exchange(&self, username: &str, secret: &Secret) -> daypass::model::error::Result<Exchanged> {
        self.vend.exchange(&origin(), username, secret, SERVICE, &[SCOPE.to_owned()]).await
    }

    async fn exchange_of(&self, issued: &Issued) -> daypass::model::error::Result<Exchanged> {
        let credential = credential(issued);
        self.exchange(&credential.username, &credential.secret).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_exchanged_on_record_until_its_lease_is_revoked() {
    let world = World::new();
    let issued = world.push(None).await;
    assert_eq!((issued.lease.reach, issued.lease.live_until), (Reach::Lease, issued.lease.expires_at + REGISTRY_LEEWAY));
    assert_eq!(world.events().len(), 1, "made here: one record");
    let exchanged = world.exchange_of(&issued).await.unwrap();
    assert_eq!(exchanged.token.granted, [SCOPE]);
    let event = world.events().pop().unwrap();
    let actor = event.actor.as_ref().unwrap();
    assert_eq!((&*event.method, event.outcome, event.lease_id), ("Registry/Token", Outcome::Done, Some(issued.lease.id)));
    assert_eq!((&*actor.subject, &*actor.method, &*actor.authority), ("spiffe://dev/operator", "registry", "dev"));
    assert_eq!((event.detail, event.lease), (vec![SCOPE.to_owned()], None));

    let revoked = world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
    assert_eq!(revoked.state, LeaseState::Revoked);
    assert_eq!(revoked.live_until, world.vend.now() + MAX_TOKEN_TTL + REGISTRY_LEEWAY, "the token of an exchange just before");
    assert!(exchange_ends(&exchanged) + REGISTRY_LEEWAY <= revoked.live_until);
    assert_eq!(world.exchange_of(&issued).await.err().unwrap().code(), Code::Unauthenticated);
    assert_eq!(world.cloud.publications(), 0);
}

fn exchange_ends(exchanged: &Exchanged) -> Timestamp {
    exchanged.issued_at + SignedDuration::from_secs(exchanged.token.expires_in.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoke_shortly_before_the_end_claims_no_later_end() {
    let world = World::new();
    let issued = world.push(None).await;
    world.clock.forward(SignedDuration::from_mins(29));
    let revoked = world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
    assert_eq!(revoked.live_until, issued.lease.expires_at + REGISTRY_LEEWAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_the_same_and_goes_on_record_under_no_tenant() {
    let world = World::new();
    let issued = world.push(None).await;
    let other = world.push(None).await;
    let session = world.session(&operator(), "deploy", None).await.unwrap();
    let (name, secret) = (issued.lease.id.to_string(), credential(&issued).secret.clone());
    let wrong = Secret::new("dpr_wrong".to_owned());
    let cases = [
        (String::new(), secret.clone()),
        ("admin".to_owned(), secret.clone()),
        ("0192f0c1-7b5a-7000-8000-000000000000".to_owned(), secret.clone()),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff".to_owned(), secret.clone()),
        (name.clone(), wrong),
        (other.lease.id.to_string(), secret.clone()),
        (session.lease.id.to_string(), secret.clone()),
    ];
    for (username, secret) in cases {
        let refused = world.exchange(&username, &secret).await.err().expect("it is refused");
        assert_eq!((refused.code(), refused.public()), (Code::Unauthenticated, EXCHANGE_REFUSED), "{username}");
        let told = world.vend.exchange_refused(&origin(), &username, refused).await;
        assert_eq!(told.public(), EXCHANGE_REFUSED);
        let event = world.events().pop().unwrap();
        assert_eq!((event.outcome, event.tenant, event.lease_id), (Outcome::Denied, None, username.parse().ok()), "{username}");
    }
    let elsewhere = world.vend.exchange(&origin(), &name, &secret, "another.example", &[]).await.err().unwrap();
    assert_eq!((elsewhere.code(), elsewhere.public()), (Code::Unauthenticated, EXCHANGE_REFUSED));
    world.clock.forward(SignedDuration::from_mins(31));
    let expired = world.exchange(&name, &secret).await.err().unwrap();
    assert_eq!((expired.code(), expired.public()), (Code::Unauthenticated, EXCHANGE_REFUSED));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_became_somebody_elses_serves_its_old_leases_no_more() {
    let world = World::new();
    let issued = world.push(None).await;
    let changed = |change: fn(&mut Role)| {
        world.reload(|catalog| {
            let mut role = catalog.roles[&issued.lease.role].as_ref().clone();
            change(&mut role);
            catalog.roles.insert(role.name.clone(), role.into());
        });
    };
    changed(|role| role.owner = RoleOwner::Tenant("ops".parse().unwrap()));
    world.exchange_of(&issued).await.expect("it is of its own tenant");
    changed(|role| role.owner = RoleOwner::Tenant("jobs".parse().unwrap()));
    let refused = world.exchange_of(&issued).await.err().expect("the role is another tenant's");
    assert_eq!((refused.code(), refused.public()), (Code::Unauthenticated, EXCHANGE_REFUSED));
    changed(|role| {
        let RoleSpec::Registry(spec) = &mut role.spec else { panic!("another kind") };
        spec.registry = "other".parse().unwrap();
    });
    let refused = world.exchange_of(&issued).await.err().expect("the role is for another registry");
    assert_eq!((refused.code(), refused.public()), (Code::Unauthenticated, EXCHANGE_REFUSED));
    changed(|_| {});
    world.exchange_of(&issued).await.expect("as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_no_lease_takes_as_long_as_one_that_is() {
    let world = World::new();
    let issued = world.push(None).await;
    let wrong = Secret::new("dpr_wrong".to_owned());
    let mut took = [Vec::new(), Vec::new(), Vec::new()];
    let names = [issued.lease.id.to_string(), "0192f0c1-7b5a-7000-8000-000000000000".to_owned(), "nobody".to_owned()];
    for _ in 0..300 {
        for (name, took) in names.iter().zip(&mut took) {
            let begun = Instant::now();
            world.exchange(name, &wrong).await.err().unwrap();
            took.push(begun.elapsed());
        }
    }
    let median = took.map(|mut took| {
        took.sort_unstable();
        took[took.len() / 2]
    });
    // Each asks the store once: what would tell is a look that is left out, which is most of the time.
    let (least, most) = (median.iter().min().unwrap(), median.iter().max().unwrap());
    assert!(*most < *least * 3, "{median:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_cannot_be_recorded_gives_nothing() {
    for when in [When::Before, When::After] {
        let world = World::new();
        let issued = world.push(None).await;
        world.faults.plan("append", 0, when);
        assert_eq!(world.exchange_of(&issued).await.err().unwrap().code(), Code::AuditUnavailable);
        world.faults.plan("get", 0, when);
        assert_eq!(world.exchange_of(&issued).await.err().unwrap().code(), Code::StoreUnavailable);
        world.faults.heal();
        world.exchange_of(&issued).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_gives_a_second_secret_and_a_revoke_ends_both() {
    let world = World::new();
    let issued = world.push(None).await;
    world.clock.forward(SignedDuration::from_mins(10));
    let renewed = world.vend.renew(&operator(), renewal(issued.lease.id, world.input())).await.unwrap();
    assert_ne!(credential(&issued).secret, credential(&renewed).secret);
    for held in [&issued, &renewed] {
        world.exchange_of(held).await.unwrap();
    }
    world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
    for held in [&issued, &renewed] {
        world.exchange_of(held).await.err().expect("it is revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_ends_the_secret_that_was_lost() {
    let world = World::new();
    let lost = world.push(Some("step")).await;
    let found = world.push(Some("step")).await;
    world.exchange_of(&lost).await.err().expect("it was replaced");
    world.exchange_of(&found).await.unwrap();
    let live: Vec<Lease> = world.leases().await.into_iter().filter(|lease| lease.state.is_live()).collect();
    assert_eq!(live, [found.lease]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_issue_failed_exchanges_nothing() {
    for (operation, when) in [("put", When::After), ("append", When::Before), ("append", When::After)] {
        let world = World::new();
        world.faults.plan(operation, 0, when);
        let request = IssueRequest { role: "push".parse().unwrap(), ttl: None, request_id: None, input: world.input() };
        world.vend.issue(&operator(), request).await.err().expect("a fault gives an error");
        world.faults.heal();
        world.settle().await;
        assert!(world.leases().await.iter().all(|lease| lease.state == LeaseState::Revoked), "{operation} {when:?}");
    }
}
