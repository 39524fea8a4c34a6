//! What a lease has is what its role names: no value of a claim changes the meaning of a scope.

use std::{collections::BTreeMap, sync::Arc};

use daypass::{
    issuer::{
        Again, Issuer, Minted, Order,
        registry::{Exchange, RegistryConfig, RegistryIssuer, SECRET_PREFIX, lease_named_in},
        x509::{TokenCa, bootstrap},
    },
    model::{
        SignedDuration, Timestamp,
        catalog::Catalog,
        claim::{ClaimSpec, ClaimType, ClaimValue, Claims},
        credential::{Credential, CredentialKind, RegistryCredential},
        error::{Code, Error},
        identity::{Identity, Proof, Subject, TokenUse, VerifiedToken},
        lease::{Handle, Lease, LeaseId, LeaseState, MAX_LIVE_SERIALS, Reach},
        request::Input,
        role::{RegistryAction, RegistryRole, Role, RoleOwner, RoleSpec},
        template::Template,
        tenant::{Member, Tenant, TenantKind},
    },
    policy::{Grant, PolicyBook},
};
use futures::FutureExt;
use proptest::{collection::vec, prelude::*, sample::select};

use super::world::claims;

const SERVICE: &str = "registry.test";

fn now() -> Timestamp {
    "2027-01-15T08:00:00Z".parse().unwrap()
}

struct World {
    issuer: RegistryIssuer,
    book: PolicyBook,
}

impl World {
    fn new(registry: &str, repositories: &[&str]) -> Self {
        let made = bootstrap::create_root("Token CA", now(), SignedDuration::from_hours(48)).unwrap();
        let ca = Arc::new(TokenCa::load(made.certificate_pem.as_bytes(), bootstrap::file_key(&made).unwrap(), now()).unwrap());
        let config = |name: &str| RegistryConfig {
            name: name.parse().unwrap(),
            host: format!("{name}.example"),
            service: SERVICE.to_owned(),
            issuer: "daypass.test".to_owned(),
            rotate_every: SignedDuration::from_hours(24),
            ca: ca.clone(),
        };
        let issuer = RegistryIssuer::new([config("main"), config("second")]);
        let policy = "@id(\"all\") @reason(\"a test\") permit(principal, action, resource);";
        let book = PolicyBook::load("policy.cedar", policy, Arc::new(catalog(registry, repositories)), "test").unwrap();
        Self { issuer, book }
    }

    fn grant(&self, a: ClaimValue, b: ClaimValue) -> Grant {
        let token = VerifiedToken {
            issuer: "ci".parse().unwrap(),
            sub: "job".to_owned(),
            subject: Subject::try_from("oidc:ci:job".to_owned()).unwrap(),
            claims: Claims::from([("a".to_owned(), a), ("b".to_owned(), b), ("id".to_owned(), text("7"))]),
            token_id: [0; 16],
            token_use: TokenUse::Any,
            expires_at: now() + SignedDuration::from_mins(5),
        };
        let identity = Identity { tenant: "jobs".parse().unwrap(), proof: Proof::Token { token, peer: None } };
        self.book.decide_issue(&Arc::new(identity), &"push".parse().unwrap(), None, None, now()).unwrap()
    }

    fn mint(&self, grant: &Grant, earlier: Option<&Handle>, at: Timestamp) -> Result<Minted, Error> {
        let order = Order { grant, lease: id(), input: &Input::None, generation: 1, earlier, now: at };
        let minted = self.issuer.mint(&order).now_or_never().expect("nothing is asked of anybody");
        minted.map_err(|failed| {
            assert!(!failed.maybe_made);
            failed.error
        })
    }

    fn repositories(&self, a: &str, b: &str) -> Result<Vec<String>, Code> {
        let minted = self.mint(&self.grant(text(a), text(b)), None, now()).map_err(|error| error.code())?;
        let Handle::Registry { repositories, .. } = minted.handle else { panic!("another kind") };
        Ok(repositories)
    }

    /// What a token grants of what is asked under a lease.
    fn granted(&self, minted: &Minted, scopes: &[String]) -> Vec<String> {
        let lease = lease(minted);
        let asked = Exchange { secret: &credential(minted).secret, service: SERVICE, scopes, token_ttl: SignedDuration::from_mins(5) };
        self.issuer.exchange(&lease, &asked, now()).unwrap().granted
    }
}

fn id() -> LeaseId {
    "0192f0c1-7b5a-7000-8000-000000000003".parse().unwrap()
}

fn text(text: &str) -> ClaimValue {
    ClaimValue::String(text.to_owned())
}

fn credential(minted: &Minted) -> &RegistryCredential {
    let Credential::Registry(credential) = &minted.credential else { panic!("another kind") };
    credential
}

fn lease(minted: &Minted) -> Lease {
    Lease {
        id: id(),
        version: 1,
        role: "push".parse().unwrap(),
        kind: CredentialKind::Registry,
        tenant: "jobs".parse().unwrap(),
        subject: Subject::try_from("oidc:ci:job".to_owned()).unwrap(),
        state: LeaseState::Active,
        issued_at: now(),
        expires_at: minted.expires_at,
        renew_until: minted.expires_at,
        generation: 1,
        reach: minted.reach,
        live_until: minted.expires_at,
        revoked_at: None,
        renewed_at: None,
        held_until: None,
        acknowledged: 0,
        claim: None,
        enrolled: false,
        handle: minted.handle.clone(),
    }
}

fn catalog(registry: &str, repositories: &[&str]) -> Catalog {
    let tenant = Tenant {
        name: "jobs".parse().unwrap(),
        kind: TenantKind::Team,
        ends_at: None,
        members: vec![Member::Token { issuer: "ci".parse().unwrap(), claims: BTreeMap::from([("id".to_owned(), text("7"))]) }],
        max_live_leases: 1000,
        max_live_leases_per_caller: 1000,
    };
    let role = Role {
        name: "push".parse().unwrap(),
        owner: RoleOwner::Shared,
        default_ttl: SignedDuration::from_mins(15),
        max_ttl: SignedDuration::from_hours(1),
        max_life: SignedDuration::from_hours(8),
        max_life_per_token: SignedDuration::from_hours(1),
        on_clone: daypass::model::role::OnClone::Revoke,
        spec: RoleSpec::Registry(RegistryRole {
            registry: registry.parse().unwrap(),
            repositories: repositories.iter().map(|source| Template::parse(source).unwrap()).collect(),
            actions: vec![RegistryAction::Pull, RegistryAction::Push],
            token_ttl: SignedDuration::from_mins(5),
        }),
    };
    let claim = |name: &str| ClaimSpec { name: name.to_owned(), path: vec![name.to_owned()], ty: ClaimType::String, required: false };
    Catalog {
        issuers: BTreeMap::from([("ci".parse().unwrap(), vec![claim("a"), claim("b"), claim("id")])]),
        trust_domains: BTreeMap::new(),
        tenants: BTreeMap::from([(tenant.name.clone(), Arc::new(tenant))]),
        roles: BTreeMap::from([(role.name.clone(), Arc::new(role))]),
    }
}

#[test]
fn a_lease_carries_what_its_role_names_and_a_hash_of_its_secret() {
    let world = World::new("main", &["{tenant}/{claims.a}", "base/*", "{role}/x"]);
    let minted = world.mint(&world.grant(text("app-1"), text("b")), None, now()).unwrap();
    let own = credential(&minted);
    assert_eq!(
        (own.registry.as_str(), own.username.as_str(), own.expires_at),
        ("main.example", id().to_string().as_str(), minted.expires_at)
    );
    assert!(own.secret.expose().starts_with(SECRET_PREFIX));
    assert_eq!(lease_named_in(&own.secret), Some(id()));
    assert_eq!((minted.reach, minted.expires_at), (Reach::Lease, now() + SignedDuration::from_mins(15)));
    let Handle::Registry { repositories, actions, secrets, registry } = &minted.handle else { panic!("another kind") };
    assert_eq!(repositories, &["jobs/app-1", "base/*", "push/x"]);
    assert_eq!((registry.as_str(), actions.as_slice(), secrets.len()), ("main", &[RegistryAction::Pull, RegistryAction::Push][..], 1));
    let kept = serde_json::to_string(&minted.handle).unwrap();
    assert!(!kept.contains(&own.secret.expose()[40..]), "{kept}");
    assert_eq!((secrets[0].sha256.len(), secrets[0].not_after), (64, minted.expires_at));
    let (grant, lease) = (world.grant(text("app-1"), text("b")), lease(&minted));
    let order = Order { grant: &grant, lease: id(), input: &Input::None, generation: 1, earlier: None, now: now() };
    let again = world.issuer.remint(&order, &lease);
    assert!(matches!(again.now_or_never(), Some(Ok(Again::Never))), "no secret is kept that could be handed out again");
}

#[test]
fn a_renewal_keeps_what_lives_and_no_more_than_the_limit() {
    let world = World::new("main", &["demo/*"]);
    let grant = world.grant(text("a"), text("b"));
    let mut minted = world.mint(&grant, None, now()).unwrap();
    let count = |minted: &Minted| match &minted.handle {
        Handle::Registry { secrets, .. } => secrets.len(),
        _ => 0,
    };
    for live in 2..=MAX_LIVE_SERIALS {
        minted = world.mint(&grant, Some(&minted.handle), now()).unwrap();
        assert_eq!(count(&minted), live);
    }
    let refused = world.mint(&grant, Some(&minted.handle), now()).err().unwrap();
    assert_eq!(refused.code(), Code::NotRenewable);
    let elsewhere = World::new("second", &["demo/*"]);
    let refused = elsewhere.mint(&elsewhere.grant(text("a"), text("b")), Some(&minted.handle), now()).err().unwrap();
    assert_eq!(refused.code(), Code::NotRenewable, "the role is for another registry since");
    let jwt = Handle::Jwt { jti: String::new(), aud: String::new(), claims: Default::default() };
    assert_eq!(world.mint(&grant, Some(&jwt), now()).err().unwrap().code(), Code::NotRenewable);
}

#[test]
fn a_claim_that_could_mean_more_than_itself_is_refused() {
    let world = World::new("main", &["ci/{claims.a}/img"]);
    for good in ["a", "acme", "a-b.c__d", "7"] {
        assert_eq!(world.repositories(good, "b").unwrap(), [format!("ci/{good}/img")]);
    }
    for bad in [
        "",
        "*",
        "**",
        "a*",
        "a/b",
        "/",
        "a/",
        "..",
        ".",
        "a..b",
        "A",
        "a:b",
        "a,b",
        "a b",
        "a\0",
        "a%2fb",
        "ä",
        "a\n",
        "-a",
        "a-",
        "_a",
        "a___b",
        "{tenant}",
        "a?b",
        "a@sha256",
        &"a".repeat(300),
    ] {
        assert_eq!(world.repositories(bad, "b"), Err(Code::ClaimNotUsable), "{bad:?}");
    }
    let token = claims_of(&world);
    assert_eq!(token["sub"], id().to_string());
}

fn claims_of(world: &World) -> serde_json::Value {
    let minted = world.mint(&world.grant(text("a"), text("b")), None, now()).unwrap();
    let asked = Exchange { secret: &credential(&minted).secret, service: SERVICE, scopes: &[], token_ttl: SignedDuration::from_mins(1) };
    claims(world.issuer.exchange(&lease(&minted), &asked, now()).unwrap().token.expose())
}

/// Values that try to be more than a segment, beside usual ones.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z0-9]{1,4}(-[a-z0-9]{1,3})?",
        3 => vec(select(vec!["a", "b", "/", "*", ".", "..", ":", ",", "-", "_", "A", "%2f", " ", "\0", "{", "}"]), 0..5).prop_map(|parts| parts.concat()),
        1 => ".{0,12}",
    ]
}

/// What no name of a repository holds, and a scope or a template gives a meaning.
const MARKS: [char; 5] = [':', ',', ' ', '%', '{'];

const TEMPLATES: [&str; 6] =
    ["ci/{claims.a}", "{claims.a}/{claims.b}", "ci/{claims.a}/*", "x-{claims.a}", "{tenant}/{claims.b}/img", "*/{claims.a}"];

proptest! {
    #[test]
    fn no_claim_changes_how_many_segments_a_role_names_or_which_are_free(a in value(), b in value(), template in select(TEMPLATES.to_vec())) {
        let world = World::new("main", &[template]);
        if let Ok(repositories) = world.repositories(&a, &b) {
            let (named, wanted): (Vec<_>, Vec<_>) = (repositories[0].split('/').collect(), template.split('/').collect());
            prop_assert_eq!(named.len(), wanted.len(), "{} of {}", repositories[0], template);
            for (named, wanted) in named.iter().zip(&wanted) {
                prop_assert_eq!(*named == "*", *wanted == "*");
                prop_assert!(!named.is_empty());
            }
            prop_assert!(!repositories[0].contains(MARKS));
        }
    }

    #[test]
    fn two_callers_get_the_same_repository_only_with_the_same_values(a in value(), b in value(), c in value(), d in value(), template in select(vec!["{claims.a}/{claims.b}", "x/{claims.a}/{claims.b}-y"])) {
        let world = World::new("main", &[template]);
        if let (Ok(one), Ok(other)) = (world.repositories(&a, &b), world.repositories(&c, &d)) {
            prop_assert_eq!(one == other, (&a, &b) == (&c, &d));
        }
    }

    #[test]
    fn what_is_granted_lies_within_the_role_whatever_the_claims_and_the_scopes_are(
        a in value(),
        b in value(),
        names in vec(value(), 1..4),
        template in select(TEMPLATES.to_vec()),
    ) {
        let world = World::new("main", &[template]);
        let Ok(minted) = world.mint(&world.grant(text(&a), text(&b)), None, now()) else { return Ok(()) };
        let mut scopes: Vec<String> = names.iter().map(|name| format!("repository:{name}:*")).collect();
        scopes.push(format!("repository:{}:pull", names.join("/")));
        for granted in world.granted(&minted, &scopes) {
            let name = granted.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':')).unwrap().0;
            let filled = template.replace("{claims.a}", &a).replace("{claims.b}", &b).replace("{tenant}", "jobs");
            let (named, wanted): (Vec<_>, Vec<_>) = (name.split('/').collect(), filled.split('/').collect());
            prop_assert_eq!(named.len(), wanted.len());
            prop_assert!(named.iter().zip(&wanted).all(|(named, wanted)| named == wanted || *wanted == "*"), "{} by {}", name, filled);
            prop_assert!(!granted.contains("delete"));
        }
    }
}
