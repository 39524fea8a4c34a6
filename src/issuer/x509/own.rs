//! The certificate of this service itself, from one of its own CAs: the key is made here, and nothing of it is stored.

use zeroize::Zeroizing;

use super::{
    X509Issuer,
    chain::pem_certificate,
    csr::SubjectKey,
    key::FileKey,
    plan::{LeafPlan, San, Serial},
};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Error, Result},
    name::CaName,
    role::ExtKeyUsage,
};

/// A certificate of this service, with its key.
pub struct OwnCertificate {
    /// The leaf and then the chain without the root, PEM.
    pub chain_pem: String,
    /// The key, PKCS #8 PEM; wiped when dropped.
    pub key_pem: Zeroizing<String>,
    /// Its serial, lower-case hex.
    pub serial: String,
    /// The authority that issued it, by its own name.
    pub issued_by: CaName,
    /// When it was made.
    pub made_at: Timestamp,
    /// When it expires, in whole seconds.
    pub not_after: Timestamp,
}

impl X509Issuer {
    /// Makes a certificate for a TLS server of these names, over a P-256 key that is made for it.
    ///
    /// # Errors
    /// As for any certificate of that CA.
    pub fn own_certificate(&self, ca: &CaName, names: &[San], life: SignedDuration, now: Timestamp) -> Result<OwnCertificate> {
        let authority = self.cas().issuing(ca, now)?;
        let pair = FileKey::generate().map_err(Error::internal)?;
        let end = now.checked_add(life).map_err(Error::internal)?;
        let (not_before, not_after) = authority.validity(now, end)?;
        let ext_key_usage = vec![ExtKeyUsage::ServerAuth];
        let plan = LeafPlan { common_name: None, sans: names.to_vec(), ext_key_usage, serial: Serial::random(), not_before, not_after };
        let leaf = authority.sign_leaf(&plan, &SubjectKey::p256(rcgen::PublicKeyData::der_bytes(&pair)))?;
        Ok(OwnCertificate {
            chain_pem: pem_certificate(&leaf.der) + authority.chain_pem(),
            key_pem: pair.to_pem(),
            serial: plan.serial.to_hex(),
            issued_by: authority.name().clone(),
            made_at: now,
            not_after,
        })
    }
}
