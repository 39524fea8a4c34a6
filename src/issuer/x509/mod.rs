//! X.509 certificates: a role says what they say, a CSR gives a public key and nothing else.
//!
//! | file | what it holds |
//! |---|---|
//! | [`csr`], `der` | a request becomes a verified public key |
//! | [`plan`], [`name`] | a role over an identity becomes the plan of a leaf |
//! | [`authority`], `chain` | an issuing CA, checked at load; builds and signs |
//! | `cas`, [`maker`] | the CAs by their configured names: fixed, or rings of keys; makes the keys of a ring |
//! | [`own`] | the certificate of this service itself |
//! | [`lint`] | what was built is read back before it is signed |
//! | [`crl`] | revocation lists |
//! | [`role_check`] | every fault of a role, at load |
//! | [`key`] | keys that sign, and the guard before them |
//! | [`token_ca`] | a CA of another sort: it certifies the keys that sign registry tokens |
//! | [`bootstrap`] | a throwaway CA for `daypassd dev` and for tests |

pub mod authority;
pub mod bootstrap;
mod cas;
mod chain;
pub mod crl;
pub mod csr;
mod der;
pub mod key;
pub mod lint;
pub mod maker;
pub mod name;
pub mod own;
pub mod plan;
pub mod role_check;
pub mod token_ca;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use rcgen::PublicKeyData;

pub use authority::{Authority, CaConfig, DEFAULT_CRL_LIFE, SignedLeaf};
pub use cas::{Ca, Cas, Standing};
pub use crl::Crl;
pub use csr::{ParsedCsr, SubjectKey};
pub use key::{CaKey, FileKey};
pub use maker::{CaMaker, RingRoot};
pub use own::OwnCertificate;
pub use plan::{LeafPlan, San, Serial};
pub use role_check::RoleReport;
pub use token_ca::TokenCa;

use super::{Again, Issuer, Minted, NotMinted, Order};
use crate::{
    clock,
    model::{
        Timestamp,
        credential::{Credential, X509Credential},
        error::{Code, Error, Result},
        hex,
        identity::Identity,
        lease::{Handle, Lease, LeaseId, LeaseState, LiveSerial, MAX_LIVE_SERIALS, MAX_LIVE_SERIALS_ENROLLED, Reach},
        name::CaName,
        request::Input,
        role::{Role, RoleSpec, X509Role},
    },
};

/// Issues X.509 certificates from any number of CAs.
pub struct X509Issuer {
    cas: Cas,
}

/// What a grant allows, as plain values. The house reaches [`X509Issuer::issue`] through the [`Issuer`] port only, which
/// makes this of an [`Order`]; tests make it directly.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// The role.
    pub role: &'a Role,
    /// The caller.
    pub identity: &'a Identity,
    /// When the credential must end.
    pub expires_at: Timestamp,
    /// The lease that its serial names.
    pub lease: LeaseId,
    /// Which certificate of the lease it will be, from 1.
    pub generation: u32,
}

impl<'a> From<&Order<'a>> for Ask<'a> {
    fn from(order: &Order<'a>) -> Self {
        let Order { grant, lease, generation, .. } = order;
        Self { role: grant.role(), identity: grant.identity(), expires_at: grant.expires_at(), lease: *lease, generation: *generation }
    }
}

#[async_trait]
impl Issuer for X509Issuer {
    async fn mint(&self, order: &Order<'_>) -> Result<Minted, NotMinted> {
        Ok(self.issue(order.into(), order.input, order.earlier, order.now)?)
    }

    async fn remint(&self, order: &Order<'_>, lease: &Lease) -> Result<Again> {
        self.reissue(order.into(), order.input, lease, order.now).map(Again::Same)
    }
}

impl X509Issuer {
    /// An issuer over CAs that do not rotate.
    pub fn new(authorities: BTreeMap<CaName, Arc<Authority>>) -> Self {
        Self::over(Cas::new(authorities.into_iter().map(|(name, authority)| (name, Ca::Fixed(authority))).collect()))
    }

    /// An issuer over these CAs.
    pub fn over(cas: Cas) -> Self {
        Self { cas }
    }

    /// The CAs.
    pub fn cas(&self) -> &Cas {
        &self.cas
    }

    /// The authorities that relying parties should know at `now`, by configured name, oldest first.
    pub fn published(&self, now: Timestamp) -> Vec<Standing> {
        self.cas.published(now)
    }

    /// A published authority by its own name.
    pub fn authority(&self, name: &CaName, now: Timestamp) -> Option<Arc<Authority>> {
        self.cas.authority(name, now).map(|standing| standing.authority)
    }

    /// Issues a certificate; `now` becomes the lease's `issued_at`, from which [`Self::reissue`] derives the same dates.
    pub fn issue(&self, ask: Ask<'_>, input: &Input, earlier: Option<&Handle>, now: Timestamp) -> Result<Minted> {
        let spec = x509_role(ask.role)?;
        let authority = self.cas.issuing(&spec.ca, now)?;
        let most = if spec.enrollment { MAX_LIVE_SERIALS_ENROLLED } else { MAX_LIVE_SERIALS };
        let living = living_serials(earlier, authority.name(), most, now)?;
        let (key, next_key) = key_of(spec, input, earlier)?;
        let validity = authority.validity(now, ask.expires_at)?;
        let serial = Serial::of_lease(ask.lease, ask.generation, clock::random());
        let plan = LeafPlan::render(ask.role, ask.identity, serial, validity)?;
        let leaf = authority.sign_leaf(&plan, &key)?;
        let newest = LiveSerial { serial: plan.serial.to_hex(), not_after: plan.not_after, ca: None };
        Ok(Minted {
            expires_at: plan.not_after,
            handle: Handle::X509 {
                ca: authority.name().clone(),
                serials: living.into_iter().chain([newest]).collect(),
                tbs: leaf.tbs,
                next_key,
            },
            credential: credential(&authority, self.cas.roots(&spec.ca, now), leaf.der, &plan),
            reach: Reach::Crl,
        })
    }

    /// Makes the certificate of a stored lease again. Role, identity, key, CA and dates must all be what they were: then the
    /// signature covers the same bytes, and nothing new is in the world.
    pub fn reissue(&self, ask: Ask<'_>, input: &Input, lease: &Lease, now: Timestamp) -> Result<Credential> {
        let Handle::X509 { ca, serials, tbs, .. } = &lease.handle else {
            return Err(reused("the role vends another kind of credential since"));
        };
        let spec = x509_role(ask.role)?;
        if !matches!(lease.state, LeaseState::Active | LeaseState::Pending) || lease.expires_at <= now {
            return Err(Error::new(Code::LeaseState, "the lease of this request id has ended; ask again with a new request id"));
        }
        if lease.generation != 1 {
            return Err(reused("the lease of this request id was renewed since"));
        }
        let Some(Standing { ca: configured, authority, .. }) = self.cas.authority(ca, now) else {
            return Err(reused("the CA that issued its certificate is gone"));
        };
        if spec.ca != configured {
            return Err(reused("the role issues from another CA since"));
        }
        let newest = serials.last().ok_or_else(|| Error::internal(format_args!("the lease {} has no serial", lease.id)))?;
        let serial =
            Serial::from_hex(&newest.serial).ok_or_else(|| reused("its certificate was made by an earlier version of this server"))?;
        if ask.expires_at < newest.not_after {
            return Err(reused("the certificate that was issued for it lives longer than this request may"));
        }
        let key = ParsedCsr::parse(csr_of(input)?)?.verify(&spec.key_types)?;
        let validity = authority.validity(lease.issued_at, newest.not_after)?;
        let plan = LeafPlan::render(ask.role, ask.identity, serial, validity)?;
        let leaf = authority.sign_leaf(&plan, &key)?;
        if leaf.tbs != *tbs {
            return Err(reused("the CSR has another key, or the role or your identity changed since"));
        }
        Ok(credential(&authority, self.cas.roots(&configured, now), leaf.der, &plan))
    }

    /// The key of a request that is given ahead, as a lease keeps it: SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7) in hex. Its holder
    /// has signed it, and the role takes keys of its type.
    pub fn key_ahead(&self, role: &Role, csr_der: &[u8]) -> Result<String> {
        let key = ParsedCsr::parse(csr_der)?.verify(&x509_role(role)?.key_types)?;
        Ok(hex::encode(&key.subject_public_key_info()))
    }
}

fn x509_role(role: &Role) -> Result<&X509Role> {
    match &role.spec {
        RoleSpec::X509(spec) => Ok(spec),
        _ => Err(Error::internal(format_args!("the role {} is not of kind x509", role.name))),
    }
}

/// The key that a certificate is for, and the one that is left for the certificate after it: a request that comes now goes first, else the
/// key that was given ahead is used up.
fn key_of(spec: &X509Role, input: &Input, earlier: Option<&Handle>) -> Result<(SubjectKey, Option<String>)> {
    let ahead = match earlier {
        Some(Handle::X509 { next_key, .. }) => next_key.as_ref(),
        _ => None,
    };
    match (input, ahead) {
        (Input::Jwt { .. } | Input::None, Some(ahead)) => Ok((SubjectKey::given_ahead(ahead, &spec.key_types)?, None)),
        _ => Ok((ParsedCsr::parse(csr_of(input)?)?.verify(&spec.key_types)?, ahead.cloned())),
    }
}

fn csr_of(input: &Input) -> Result<&[u8]> {
    match input {
        Input::X509 { csr_der } => Ok(csr_der),
        Input::Jwt { .. } | Input::None => {
            Err(Error::new(Code::InvalidRequest, "the role vends X.509 certificates; send a PKCS #10 request (CSR)"))
        }
    }
}

/// The certificates of a renewed lease that still live, oldest first, as they stand beside one that `ca` issues: a revocation must reach
/// each of them at the CA that issued it. Refused when there are `most` already.
fn living_serials(earlier: Option<&Handle>, ca: &CaName, most: usize, now: Timestamp) -> Result<Vec<LiveSerial>> {
    let (earlier_ca, serials) = match earlier {
        None => return Ok(Vec::new()),
        Some(Handle::X509 { ca, serials, .. }) => (ca, serials),
        Some(_) => {
            return Err(Error::new(
                Code::NotRenewable,
                "the role vends another kind of credential since this lease began; ask for a new lease",
            ));
        }
    };
    // A certificate is valid through the whole second of its notAfter.
    let living = serials.iter().filter(|serial| serial.not_after.as_second() >= now.as_second());
    let beside = |live: &LiveSerial| {
        let issued_by = live.ca.as_ref().unwrap_or(earlier_ca);
        LiveSerial { ca: (issued_by != ca).then(|| issued_by.clone()), ..live.clone() }
    };
    let living: Vec<_> = living.map(beside).collect();
    if living.len() >= most {
        let count = living.len();
        let why = format!("{count} certificates live under this lease; wait until one expires, or ask for a new lease");
        return Err(Error::new(Code::NotRenewable, why));
    }
    Ok(living)
}

fn credential(authority: &Authority, root_der: Vec<Vec<u8>>, leaf: Vec<u8>, plan: &LeafPlan) -> Credential {
    let mut chain_der = Vec::with_capacity(1 + authority.chain_der().len());
    chain_der.push(leaf);
    chain_der.extend_from_slice(authority.chain_der());
    Credential::X509(X509Credential { chain_der, root_der, not_before: plan.not_before, not_after: plan.not_after })
}

fn reused(why: &str) -> Error {
    Error::new(Code::RequestIdReused, format!("this request id cannot be answered again: {why}; ask again with a new request id"))
}
