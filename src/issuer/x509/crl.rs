//! Certificate revocation lists (RFC 5280 section 5).

use std::collections::BTreeMap;

use rcgen::{
    CertificateParams, CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, Issuer, RevokedCertParams,
    SerialNumber, SigningKey,
};

use super::authority::{Authority, date_time};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Code, Error, Result},
    hex,
    revocation::RevokedSerial,
    time::whole_second,
};

/// A signed CRL.
pub struct Crl {
    /// The CRL.
    pub der: Vec<u8>,
    /// Its number: one more than that of the CRL before it.
    pub number: u64,
    /// When it was made, in whole seconds.
    pub this_update: Timestamp,
    /// When the next one comes at the latest, in whole seconds.
    pub next_update: Timestamp,
}

impl Authority {
    /// Signs a CRL of version 2 that names `revoked`, each serial once with its first revocation, in the serials' order.
    /// The numbers must grow. The caller leaves out what has expired.
    ///
    /// Its issuing distribution point (critical) has the CRL's address, as the leaves have it, and no scope: it covers
    /// whatever the CA issued (RFC 5280 section 5.2.5).
    pub fn sign_crl(&self, number: u64, revoked: &[RevokedSerial], this_update: Timestamp) -> Result<Crl> {
        let content = CrlContent { number, revoked, this_update, life: self.crl_life, url: Some(&self.crl_url) };
        content.sign(&self.params, &*self.key).map_err(|failure| match failure {
            CrlFailure::Content(why) => Error::internal(format_args!("the CRL of the CA {}: {why}", self.name)),
            CrlFailure::Key(error) => Error::new(Code::IssuerUnavailable, "the CA's key cannot be used now; try again later")
                .because(format_args!("the CRL of the CA {}: {error}", self.name)),
        })
    }
}

/// What a CRL says.
pub(super) struct CrlContent<'a> {
    pub(super) number: u64,
    pub(super) revoked: &'a [RevokedSerial],
    pub(super) this_update: Timestamp,
    pub(super) life: SignedDuration,
    pub(super) url: Option<&'a str>,
}

pub(super) enum CrlFailure {
    Content(String),
    Key(rcgen::Error),
}

impl CrlContent<'_> {
    pub(super) fn sign(&self, issuer: &CertificateParams, key: impl SigningKey) -> Result<Crl, CrlFailure> {
        let this_update = whole_second(self.this_update);
        let next_update = this_update.checked_add(self.life).map_err(|error| CrlFailure::Content(error.to_string()))?;
        let params = CertificateRevocationListParams {
            this_update: date_time(this_update).map_err(CrlFailure::Content)?,
            next_update: date_time(next_update).map_err(CrlFailure::Content)?,
            crl_number: SerialNumber::from(self.number),
            issuing_distribution_point: self.url.map(|url| CrlIssuingDistributionPoint {
                distribution_point: CrlDistributionPoint { uris: vec![url.to_owned()] },
                scope: None,
            }),
            revoked_certs: self.entries(this_update).map_err(CrlFailure::Content)?,
            key_identifier_method: issuer.key_identifier_method.clone(),
        };
        let crl = params.signed_by(&Issuer::from_params(issuer, key)).map_err(CrlFailure::Key)?;
        Ok(Crl { der: crl.der().to_vec(), number: self.number, this_update, next_update })
    }

    fn entries(&self, this_update: Timestamp) -> Result<Vec<RevokedCertParams>, String> {
        let mut first: BTreeMap<Vec<u8>, Timestamp> = BTreeMap::new();
        for entry in self.revoked {
            let serial = hex::decode(&entry.serial)
                .filter(|bytes| (1..=20).contains(&bytes.len()))
                .ok_or_else(|| format!("the serial {:?} is no lower-case hex of 1 to 20 bytes", entry.serial))?;
            // A revocation within this very second must not lie after the CRL that names it.
            let at = entry.revoked_at.min(this_update);
            first.entry(serial).and_modify(|known| *known = at.min(*known)).or_insert(at);
        }
        let entry = |(serial, at): (Vec<u8>, Timestamp)| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time(at)?,
                reason_code: None,
                invalidity_date: None,
            })
        };
        first.into_iter().map(entry).collect()
    }
}
