//! A small catalog and its callers.

use std::{collections::BTreeMap, sync::Arc};

use daypass::{
    model::{
        SignedDuration, Timestamp,
        catalog::Catalog,
        claim::{ClaimSpec, ClaimType, ClaimValue, Claims},
        credential::CredentialKind,
        identity::{CertificateIdentity, Identity, PeerCertificate, Proof, Subject, TokenUse, VerifiedToken},
        lease::{Handle, Lease, LeaseId, LeaseState, Reach},
        name::TenantName,
        role::{ExtKeyUsage, KeyType, Role, RoleOwner, RoleSpec, X509Role},
        tenant::{Member, Tenant, TenantKind},
    },
    policy::PolicyBook,
};

pub const NOW: &str = "2026-03-01T12:00:00.25Z";
pub const VENDOR_END: &str = "2026-03-01T12:10:00Z";
pub const REPOSITORY: &str = "74512345";

pub fn now() -> Timestamp {
    NOW.parse().unwrap()
}

pub fn text(value: &str) -> ClaimValue {
    ClaimValue::String(value.to_owned())
}

pub fn claim(name: &str, ty: ClaimType, required: bool) -> ClaimSpec {
    ClaimSpec { name: name.to_owned(), path: vec![name.to_owned()], ty, required }
}

/// Operators by certificate, `ci` by token of one repository, `vendor` by certificate and with an end.
pub fn catalog() -> Catalog {
    use ClaimType::{Boolean, Integer, String as Text, Strings};
    let github = [
        claim("repository_id", Text, true),
        claim("repository", Text, true),
        claim("ref", Text, true),
        claim("environment", Text, false),
        claim("run_attempt", Integer, false),
        claim("protected", Boolean, false),
        claim("labels", Strings, false),
    ];
    let plain = [claim("team", Text, true), claim("tier", Integer, false)];
    let member = |id: &str| Member::Certificate { trust_domain: "dev".parse().unwrap(), id: id.to_owned() };
    let job = Member::Token { issuer: "github".parse().unwrap(), claims: BTreeMap::from([("repository_id".to_owned(), text(REPOSITORY))]) };
    let staff = Member::Token { issuer: "plain-sso".parse().unwrap(), claims: BTreeMap::from([("team".to_owned(), text("ops"))]) };
    let vendor = Tenant {
        kind: TenantKind::SubProcessor,
        ends_at: Some(VENDOR_END.parse().unwrap()),
        ..tenant("vendor", vec![member("spiffe://dev/vendor/*")])
    };
    let tenants = [tenant("operators", vec![member("spiffe://dev/operator")]), tenant("ci", vec![job, staff]), vendor];
    let roles = [
        role("web", RoleOwner::Shared),
        role("db", RoleOwner::Tenant("ci".parse().unwrap())),
        role("vendor-client", RoleOwner::Tenant("vendor".parse().unwrap())),
    ];
    Catalog {
        issuers: BTreeMap::from([("github".parse().unwrap(), github.to_vec()), ("plain-sso".parse().unwrap(), plain.to_vec())]),
        trust_domains: BTreeMap::from([("dev".parse().unwrap(), CertificateIdentity::Spiffe)]),
        tenants: tenants.into_iter().map(|tenant| (tenant.name.clone(), Arc::new(tenant))).collect(),
        roles: roles.into_iter().map(|role| (role.name.clone(), Arc::new(role))).collect(),
    }
}

pub fn tenant(name: &str, members: Vec<Member>) -> Tenant {
    Tenant {
        name: name.parse().unwrap(),
        kind: TenantKind::Team,
        ends_at: None,
        members,
        max_live_leases: 100,
        max_live_leases_per_caller: 10,
    }
}

pub fn role(name: &str, owner: RoleOwner) -> Role {
    let x509 = X509Role {
        ca: "main".parse().unwrap(),
        common_name: None,
        uri_sans: Vec::new(),
        dns_sans: Vec::new(),
        ip_sans: Vec::new(),
        ext_key_usage: vec![ExtKeyUsage::ClientAuth],
        key_types: vec![KeyType::P256],
        enrollment: false,
    };
    Role {
        name: name.parse().unwrap(),
        owner,
        default_ttl: SignedDuration::from_mins(5),
        max_ttl: SignedDuration::from_hours(1),
        max_life: SignedDuration::from_hours(24),
        max_life_per_token: SignedDuration::from_hours(1),
        on_clone: daypass::model::role::OnClone::Revoke,
        spec: RoleSpec::X509(x509),
    }
}

pub fn peer(id: &str) -> PeerCertificate {
    PeerCertificate {
        trust_domain: "dev".parse().unwrap(),
        identity: CertificateIdentity::Spiffe,
        id: id.to_owned(),
        subject: Subject::try_from(id.to_owned()).unwrap(),
        serial: "0a1b".to_owned(),
        fingerprint: "00".repeat(32),
        not_after: "2027-01-01T00:00:00Z".parse().unwrap(),
    }
}

pub fn certificate(tenant: &str, id: &str) -> Arc<Identity> {
    Arc::new(Identity { tenant: tenant.parse().unwrap(), proof: Proof::Certificate(peer(id)) })
}

pub fn operator() -> Arc<Identity> {
    certificate("operators", "spiffe://dev/operator")
}

pub fn vendor() -> Arc<Identity> {
    certificate("vendor", "spiffe://dev/vendor/agent")
}

pub fn token(tenant: &str, issuer: &str, sub: &str, claims: &[(&str, ClaimValue)]) -> Arc<Identity> {
    let claims: Claims = claims.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let token = VerifiedToken {
        issuer: issuer.parse().unwrap(),
        sub: sub.to_owned(),
        subject: Subject::try_from(format!("oidc:{issuer}:{sub}")).unwrap(),
        claims,
        token_id: [7; 16],
        token_use: TokenUse::Any,
        expires_at: "2026-03-01T12:05:00Z".parse().unwrap(),
    };
    Arc::new(Identity { tenant: tenant.parse().unwrap(), proof: Proof::Token { token, peer: None } })
}

pub fn job(reference: &str) -> Arc<Identity> {
    job_with(reference, &[])
}

pub fn job_with(reference: &str, more: &[(&str, ClaimValue)]) -> Arc<Identity> {
    let mut claims = vec![("repository_id", text(REPOSITORY)), ("repository", text("acme/site")), ("ref", text(reference))];
    claims.extend_from_slice(more);
    token("ci", "github", "repo:acme/site", &claims)
}

pub fn staff() -> Arc<Identity> {
    token("ci", "plain-sso", "alice", &[("team", text("ops"))])
}

/// An active lease, issued a minute ago, with four minutes left.
pub fn lease(role: &str, holder: &Identity) -> Lease {
    let tenant: TenantName = holder.tenant.clone();
    let issued_at = now() - SignedDuration::from_mins(1);
    Lease {
        id: LeaseId::new(issued_at, [1; 10], &tenant),
        version: 1,
        role: role.parse().unwrap(),
        kind: CredentialKind::X509,
        tenant,
        subject: holder.subject().clone(),
        state: LeaseState::Active,
        issued_at,
        expires_at: "2026-03-01T12:04:00Z".parse().unwrap(),
        renew_until: "2026-03-02T11:59:00Z".parse().unwrap(),
        generation: 1,
        reach: Reach::Crl,
        live_until: "2026-03-01T12:04:00Z".parse().unwrap(),
        revoked_at: None,
        renewed_at: None,
        held_until: None,
        acknowledged: 0,
        claim: None,
        enrolled: false,
        handle: Handle::X509 { ca: "main".parse().unwrap(), serials: Vec::new(), tbs: "00".repeat(16), next_key: None },
    }
}

pub fn book(text: &str) -> PolicyBook {
    book_over(text, catalog())
}

pub fn book_over(text: &str, catalog: Catalog) -> PolicyBook {
    PolicyBook::load("policy.cedar", text, Arc::new(catalog), "v1").unwrap_or_else(|faults| panic!("{faults:#?}"))
}

/// The faults of a text, each as `line: message`.
pub fn faults(text: &str) -> Vec<String> {
    let faults = PolicyBook::load("policy.cedar", text, Arc::new(catalog()), "v1").err().unwrap_or_default();
    assert!(faults.iter().all(|fault| fault.file == "policy.cedar"));
    faults.iter().map(|fault| format!("{}: {}", fault.line, fault.message)).collect()
}
