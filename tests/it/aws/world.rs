//! Roles, callers, grants and issuers to test with.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_sdk_sts::config::{Credentials, SharedCredentialsProvider};
use daypass::{
    clock::{Clock, SystemClock},
    issuer::{
        Issuer, Minted, NotMinted, Order, TokenSigner,
        aws::{AwsConfig, AwsIdentity, AwsIssuer},
    },
    model::{
        SignedDuration, Timestamp,
        catalog::Catalog,
        claim::{ClaimSpec, ClaimType, ClaimValue, Claims},
        credential::{AwsCredential, Credential},
        identity::{Identity, Proof, Subject, TokenUse, VerifiedToken},
        lease::{Handle, LeaseId},
        policy_template::PolicyTemplate,
        request::Input,
        role::{AwsMode, AwsOverflow, AwsRevocation, AwsRole, Role, RoleOwner, RoleSpec},
        template::Template,
        tenant::{Member, Tenant, TenantKind},
    },
    policy::{Grant, PolicyBook},
};

use crate::support::parts::boto::Keys;

/// The claims that callers have.
pub const CLAIMS: [&str; 2] = ["project", "team"];

pub fn now() -> Timestamp {
    SystemClock.now()
}

pub fn template(source: &str) -> Template {
    Template::parse(source).unwrap()
}

/// A role that is assumed by `aws.main`, and whose sessions are told apart by their tag.
pub fn deploy(role_arn: &str) -> AwsRole {
    AwsRole {
        aws: "main".parse().unwrap(),
        role_arn: role_arn.to_owned(),
        mode: AwsMode::AssumeRole,
        session_name: template("ci-{lease}"),
        session_policy: None,
        policy_arns: vec![],
        tags: BTreeMap::new(),
        transitive_tags: vec![],
        source_identity: None,
        external_id: None,
        revocation: AwsRevocation::SessionTag,
        overflow: AwsOverflow::Fail,
    }
}

pub fn session_policy(text: &str) -> Option<PolicyTemplate> {
    Some(PolicyTemplate::parse(text).unwrap())
}

/// A permission for a caller with these claims. The tenant ends at `ends_at`.
pub fn grant_until(spec: RoleSpec, claims: &[(&str, &str)], ttl: SignedDuration, at: Timestamp, ends_at: Option<Timestamp>) -> Grant {
    let role = Role {
        name: "deploy".parse().unwrap(),
        owner: RoleOwner::Shared,
        default_ttl: SignedDuration::from_mins(15),
        max_ttl: SignedDuration::from_hours(12),
        max_life: SignedDuration::from_hours(24),
        max_life_per_token: SignedDuration::from_hours(1),
        on_clone: daypass::model::role::OnClone::Revoke,
        spec,
    };
    let has = BTreeMap::from([("kind".to_owned(), ClaimValue::String("job".to_owned()))]);
    let tenant = Tenant {
        name: "jobs".parse().unwrap(),
        kind: TenantKind::Team,
        ends_at,
        members: vec![Member::Token { issuer: "ci".parse().unwrap(), claims: has.clone() }],
        max_live_leases: 1000,
        max_live_leases_per_caller: 1000,
    };
    let claim = |name: &str| ClaimSpec { name: name.to_owned(), path: vec![name.to_owned()], ty: ClaimType::String, required: false };
    let catalog = Catalog {
        issuers: BTreeMap::from([("ci".parse().unwrap(), CLAIMS.iter().chain(&["kind"]).map(|name| claim(name)).collect())]),
        tenants: BTreeMap::from([(tenant.name.clone(), Arc::new(tenant))]),
        roles: BTreeMap::from([(role.name.clone(), Arc::new(role))]),
        ..Catalog::default()
    };
    let policy = r#"@id("all") @reason("a test's own") permit(principal, action, resource);"#;
    let book = PolicyBook::load("policy.cedar", policy, Arc::new(catalog), "test").unwrap();
    let claims: Claims =
        has.into_iter().chain(claims.iter().map(|(n, v)| ((*n).to_owned(), ClaimValue::String((*v).to_owned())))).collect();
    let token = VerifiedToken {
        issuer: "ci".parse().unwrap(),
        sub: "job".to_owned(),
        subject: Subject::try_from("oidc:ci:job".to_owned()).unwrap(),
        claims,
        token_id: [7; 16],
        token_use: TokenUse::Any,
        expires_at: at + SignedDuration::from_mins(5),
    };
    let identity = Arc::new(Identity { tenant: "jobs".parse().unwrap(), proof: Proof::Token { token, peer: None } });
    book.decide_issue(&identity, &"deploy".parse().unwrap(), Some(ttl), None, at).unwrap_or_else(|denial| panic!("{:?}", denial.error))
}

pub fn grant(spec: RoleSpec, claims: &[(&str, &str)]) -> Grant {
    grant_until(spec, claims, SignedDuration::from_mins(16), now(), None)
}

/// A lease that nobody had before.
pub fn lease() -> LeaseId {
    LeaseId::new(now(), daypass::clock::random(), &"jobs".parse().unwrap())
}

pub fn order<'a>(grant: &'a Grant, lease: LeaseId) -> Order<'a> {
    Order { grant, lease, input: &Input::None, generation: 1, earlier: None, now: now() }
}

/// A way into AWS at an endpoint of a test.
pub fn way(url: &str, keys: &Keys) -> AwsConfig {
    let mut credentials = Credentials::builder().access_key_id(&keys.id).secret_access_key(&keys.secret).provider_name("test");
    credentials.set_session_token(keys.token.clone());
    AwsConfig {
        endpoint: Some(url.to_owned()),
        identity: AwsIdentity::Given(SharedCredentialsProvider::new(credentials.build())),
        ..AwsConfig::new("main".parse().unwrap(), "us-east-1")
    }
}

/// The same, impatient.
pub fn hasty(url: &str) -> AwsConfig {
    let keys = Keys { id: "AKIATEST".to_owned(), secret: "a test's own".to_owned(), token: None };
    AwsConfig { timeout: Duration::from_millis(900), ..way(url, &keys) }
}

pub fn issuer(way: AwsConfig, role: &AwsRole, signer: Option<&Arc<dyn TokenSigner>>) -> AwsIssuer {
    AwsIssuer::new([way], [role], signer)
}

/// What the vending of one session gives.
pub async fn mint(issuer: &AwsIssuer, grant: &Grant, lease: LeaseId) -> Result<Minted, NotMinted> {
    let order = order(grant, lease);
    let reserved = issuer.reserve(&order)?.expect("what AWS makes is on record first");
    let minted = issuer.mint(&order).await?;
    assert!(minted.expires_at <= reserved.expires_at, "{} > {}", minted.expires_at, reserved.expires_at);
    assert_eq!(minted.reach, reserved.reach);
    let (Handle::Aws { deny, role_arn, session, .. }, Handle::Aws { deny: to, role_arn: arn, session: name, key_id }) =
        (&minted.handle, &reserved.handle)
    else {
        panic!("another handle")
    };
    assert_eq!((deny, role_arn, session, &None), (to, arn, name, key_id));
    Ok(minted)
}

pub fn session(minted: Minted) -> AwsCredential {
    let Credential::Aws(credential) = minted.credential else { panic!("no AWS session") };
    credential
}

pub fn keys(credential: &AwsCredential) -> Keys {
    Keys {
        id: credential.access_key_id.clone(),
        secret: credential.secret_access_key.expose().to_owned(),
        token: Some(credential.session_token.expose().to_owned()),
    }
}
