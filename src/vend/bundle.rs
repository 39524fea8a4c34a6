//! The trust bundle: what relying parties need in order to verify credentials from here.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{Context, SHA256};

use super::Vend;
use crate::{
    issuer::x509::Standing,
    keys::KeyState,
    model::{hex, name::CaName},
};

/// An issuing CA as everybody may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicCa {
    /// Its own name.
    pub name: CaName,
    /// The configured name.
    pub ca: CaName,
    /// Where it stands.
    pub state: KeyState,
    /// Whether it is one of a ring.
    pub rotates: bool,
    /// The issuing certificate first, then what lies between it and the root, each DER; empty for a CA that is its own root.
    pub chain_der: Vec<Vec<u8>>,
    /// The roots, each DER.
    pub root_der: Vec<Vec<u8>>,
    /// Where its CRL is served.
    pub crl_url: String,
}

/// The trust bundle at one moment.
#[derive(Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// Names the content: the first 16 bytes of SHA-256 over it, lower-case hex. It is the same at every server that has the same keys.
    pub version: String,
    /// The issuing CAs that are prepared, active or retired: by configured name, oldest first.
    pub authorities: Vec<PublicCa>,
    /// The keys that sign JWTs (RFC 7517 section 5); empty when this service signs none.
    pub jwks: String,
}

impl TrustBundle {
    /// A bundle of this content.
    pub fn new(authorities: Vec<PublicCa>, jwks: String) -> Self {
        let version = version(&authorities, &jwks);
        Self { version, authorities, jwks }
    }

    /// The names of the authorities that rotate.
    pub fn ring_keys(&self) -> BTreeSet<CaName> {
        self.authorities.iter().filter(|ca| ca.rotates).map(|ca| ca.name.clone()).collect()
    }
}

impl Vend {
    /// The trust bundle as it is now.
    pub fn trust_bundle(&self) -> TrustBundle {
        let rules = self.rules.load();
        let now = self.now();
        let authorities = rules.issuers.x509.published(now).into_iter().map(public).collect();
        TrustBundle::new(authorities, rules.issuers.jwt.jwks(now).map(|document| document.body).unwrap_or_default())
    }
}

fn public(Standing { ca, state, rotates, authority }: Standing) -> PublicCa {
    PublicCa {
        name: authority.name().clone(),
        ca,
        state,
        rotates,
        chain_der: authority.chain_der().to_vec(),
        root_der: vec![authority.root_der().to_vec()],
        crl_url: authority.crl_url().to_owned(),
    }
}

/// Every part with its length before it, so that no two bundles spell the same bytes.
fn version(authorities: &[PublicCa], jwks: &str) -> String {
    let mut context = Context::new(&SHA256);
    let mut part = |bytes: &[u8]| {
        context.update(&(bytes.len() as u64).to_be_bytes());
        context.update(bytes);
    };
    part(&authorities.len().to_be_bytes());
    for PublicCa { name, ca, state, rotates: _, chain_der, root_der, crl_url } in authorities {
        part(name.as_str().as_bytes());
        part(ca.as_str().as_bytes());
        part(match state {
            KeyState::Prepared => b"prepared",
            KeyState::Active => b"active",
            KeyState::Retired => b"retired",
        });
        for ders in [chain_der, root_der] {
            part(&ders.len().to_be_bytes());
            ders.iter().for_each(|der| part(der));
        }
        part(crl_url.as_bytes());
    }
    part(jwks.as_bytes());
    hex::encode(&context.finish().as_ref()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca(name: &str, state: KeyState) -> PublicCa {
        PublicCa {
            name: name.parse().unwrap(),
            ca: "issuing".parse().unwrap(),
            state,
            rotates: true,
            chain_der: vec![b"ab".to_vec()],
            root_der: vec![b"c".to_vec()],
            crl_url: "http://a/crl".to_owned(),
        }
    }

    #[test]
    fn the_version_changes_with_each_part_and_with_nothing_else() {
        let of = |authorities: &[PublicCa], jwks: &str| TrustBundle::new(authorities.to_vec(), jwks.to_owned()).version;
        let (one, two) = (ca("issuing-1", KeyState::Active), ca("issuing-2", KeyState::Prepared));
        let first = of(&[one.clone(), two.clone()], "{}");
        assert_eq!((first.len(), &first), (32, &of(&[one.clone(), two.clone()], "{}")));
        let changed = [
            of(std::slice::from_ref(&one), "{}"),
            of(&[two.clone(), one.clone()], "{}"),
            of(&[one.clone(), two.clone()], "{ }"),
            of(&[one.clone(), PublicCa { state: KeyState::Active, ..two.clone() }], "{}"),
            of(&[one.clone(), PublicCa { chain_der: vec![b"a".to_vec(), b"b".to_vec()], ..two.clone() }], "{}"),
            of(&[one.clone(), PublicCa { chain_der: vec![b"a".to_vec()], root_der: vec![b"bc".to_vec()], ..two.clone() }], "{}"),
            of(&[one.clone(), PublicCa { crl_url: "http://a/crm".to_owned(), ..two.clone() }], "{}"),
        ];
        assert_eq!(changed.iter().chain([&first]).collect::<BTreeSet<_>>().len(), changed.len() + 1);
    }
}
