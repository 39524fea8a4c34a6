//! Makes the keys of a CA that rotates: each one an authority of its own, under a root or its own root.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    PublicKeyData, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    authority::{Authority, BACKDATE, CaConfig, crl_faults, date_time, issuing_params},
    chain::{self, pem_certificate},
    key::{Borrowed, CaKey, FileKey, key_identifier},
    plan::Serial,
};
use crate::{
    keys::{KeyMaker, NewKey, Times},
    model::{
        SignedDuration, Timestamp,
        error::{Error, Result},
        hex,
        name::{CaName, MAX_NAME},
        role::MAX_LIFE,
        time::whole_second,
    },
};

/// What stands for an authority's own name in the address of its CRL.
pub const CA_IN_URL: &str = "{ca}";

/// The longest configured name of a CA that rotates, in bytes: `-` and the number of a key follow it in an authority's own name.
pub const MAX_ROTATING_NAME: usize = MAX_NAME - 11;

/// The longest life of an authority's certificate.
pub const MAX_AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(24 * 366 * 20);

/// An authority's own name: the CA's configured one and the key's number.
///
/// # Errors
/// When it is longer than a name can be, see [`MAX_ROTATING_NAME`].
pub fn own_name(ca: &CaName, number: u32) -> Result<CaName, String> {
    format!("{ca}-{number}").parse().map_err(|fault| format!("{fault}"))
}

/// The root under which the authorities of a ring are made.
pub struct RingRoot {
    /// Its certificate, DER.
    certificate: Vec<u8>,
    key: Arc<dyn CaKey>,
    params: CertificateParams,
    not_after: Timestamp,
}

impl RingRoot {
    /// Checks a root at `now`. Gives every fault.
    pub fn load(certificate_pem: &[u8], key: Arc<dyn CaKey>, now: Timestamp) -> Result<Self, Vec<String>> {
        let ders = chain::read_pem(certificate_pem, "root").map_err(|fault| vec![fault])?;
        let [der] = ders.as_slice() else {
            return Err(vec![format!("the root file has {} certificates; it must have exactly one", ders.len())]);
        };
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| vec![format!("the root's certificate does not parse: {error}")])?;
        let mut faults = chain::ca_faults(&certificate, 1, now);
        faults.extend(chain::link_faults(&certificate, &certificate));
        let mut faults: Vec<String> = faults.into_iter().map(|fault| format!("the root {fault}")).collect();
        if key.der_bytes() != &*certificate.public_key().subject_public_key.data {
            faults.push("the root's key is not its certificate's".to_owned());
        }
        if chain::subject_key_id(&certificate).is_none() {
            faults.push("the root has no subject key identifier (RFC 5280 section 4.2.1.2)".to_owned());
        }
        let params = issuing_params(&certificate).map_err(|fault| faults.push(fault)).ok();
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok();
        match (params, not_after, faults.is_empty()) {
            (Some(params), Some(not_after), true) => Ok(Self { certificate: der.clone(), key, params, not_after }),
            _ => Err(faults),
        }
    }

    /// When it expires.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Its certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.certificate
    }
}

/// Makes and reads the authorities of a CA that rotates.
pub struct CaMaker {
    /// The configured name.
    pub ca: CaName,
    /// Where the CRL of each authority can be had: [`CA_IN_URL`] stands for its own name.
    pub crl_url: String,
    /// As [`CaConfig::crl_life`].
    pub crl_life: SignedDuration,
    /// From an authority's publication to the end of its certificate.
    pub life: SignedDuration,
    /// The root; without one each authority is its own.
    pub root: Option<RingRoot>,
    /// Where the root's CRL can be had, if it has one.
    pub root_crl_url: Option<String>,
    /// Whether a prepared key signs as soon as everybody who watches the trust bundle has it, once it is published for so long; none: it waits
    /// for its turn.
    pub acknowledged_after: Option<SignedDuration>,
}

impl CaMaker {
    /// What is wrong with it, in words for the operator.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.ca.as_str().len() > MAX_ROTATING_NAME {
            faults.push(format!("the name of a CA that rotates has {MAX_ROTATING_NAME} characters at most: each key adds its number"));
        }
        if !self.crl_url.contains(CA_IN_URL) {
            faults.push(format!("crl_url must hold {CA_IN_URL}, for each key has a CRL of its own"));
        }
        faults.extend(crl_faults(&self.crl_url_of(&self.ca), self.crl_life));
        if self.life > MAX_AUTHORITY_LIFE {
            faults.push(format!("rotation.life is at most {}h", MAX_AUTHORITY_LIFE.as_hours()));
        }
        faults
    }

    fn crl_url_of(&self, name: &CaName) -> String {
        self.crl_url.replace(CA_IN_URL, name.as_str())
    }

    /// The certificate of a new key.
    fn certify(&self, number: u32, times: Times, pair: &FileKey) -> Result<Vec<u8>, String> {
        let name = own_name(&self.ca, number)?;
        let serial = Serial::random();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        // Two services, or two lives of one, may have a CA of one name: path building must never take the one for the other.
        params.distinguished_name.push(DnType::from_oid(&SERIAL_NUMBER), hex::encode(&serial.as_bytes()[..8]));
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(pair.der_bytes()));
        let start = times.published_at.checked_sub(BACKDATE).map_err(|error| error.to_string())?;
        let end = times.published_at.checked_add(self.life).map_err(|error| error.to_string())?;
        params.not_before = date_time(whole_second(start))?;
        let signed = match &self.root {
            None => {
                params.not_after = date_time(whole_second(end))?;
                // Who looks up a CRL for each certificate of a chain (OpenSSL's -crl_check_all, nginx) finds this one's own.
                params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![self.crl_url_of(&name)] }];
                params.self_signed(pair)
            }
            Some(root) => {
                params.not_after = date_time(whole_second(end.min(root.not_after)))?;
                params.use_authority_key_identifier_extension = true;
                params.crl_distribution_points =
                    self.root_crl_url.iter().map(|url| CrlDistributionPoint { uris: vec![url.clone()] }).collect();
                params.signed_by(pair, &Issuer::from_params(&root.params, Borrowed(&*root.key)))
            }
        };
        signed.map(|certificate| certificate.der().to_vec()).map_err(|error| error.to_string())
    }
}

/// The attribute `serialNumber` of a name (X.520; RFC 4519 section 2.31).
const SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];

impl KeyMaker for CaMaker {
    type Key = Authority;

    /// The public part is the authority's certificate and then its root's, where it has one; PEM.
    fn make(&self, number: u32, times: Times) -> Result<NewKey> {
        let pair = FileKey::generate().map_err(Error::internal)?;
        let certificate = self.certify(number, times, &pair).map_err(Error::internal)?;
        let root = self.root.iter().map(|root| pem_certificate(&root.certificate));
        let public = [pem_certificate(&certificate)].into_iter().chain(root).collect::<String>().into_bytes();
        // What cannot be read again is not published.
        let secret = pair.to_der();
        self.load(number, &public, &secret, times.published_at).map_err(Error::internal)?;
        Ok(NewKey { public, secret })
    }

    /// The times of its certificate are looked at by who signs with it: a server whose clock is a little off must be able to publish the
    /// CRL of an authority all the same.
    fn load(&self, number: u32, public: &[u8], secret: &[u8], now: Timestamp) -> Result<Authority, String> {
        let ders: Vec<_> =
            CertificateDer::pem_slice_iter(public).collect::<Result<_, _>>().map_err(|_| "its certificate is not in PEM".to_owned())?;
        let pem = |der: &CertificateDer<'_>| pem_certificate(der).into_bytes();
        let (chain_pem, root_pem) = match ders.as_slice() {
            [own] => (Vec::new(), pem(own)),
            [own, root] => (pem(own), pem(root)),
            other => return Err(format!("it has {} certificates", other.len())),
        };
        let name = own_name(&self.ca, number)?;
        names_itself(&ders, &name)?;
        let at = within_validity(&ders, now)?;
        let config = CaConfig {
            crl_url: self.crl_url_of(&name),
            name,
            chain_pem,
            root_pem,
            key: Arc::new(FileKey::from_der(secret)?),
            crl_life: self.crl_life,
        };
        let loaded = if ders.len() == 1 { Authority::load_self_signed(config, at) } else { Authority::load(config, at) };
        loaded.map_err(|faults| faults.join("; "))
    }

    /// No role's certificate lives longer than [`MAX_LIFE`], whatever the configuration was when it was made, and none longer than its CA's.
    fn last_dead(&self, key: &Authority, superseded_at: Timestamp) -> Timestamp {
        superseded_at.checked_add(MAX_LIFE).unwrap_or(Timestamp::MAX).min(key.not_after())
    }

    fn algorithm(&self, key: &Authority) -> String {
        key.algorithm().to_owned()
    }

    /// SHA-256 of its certificate, lower-case hex.
    fn id(&self, key: &Authority) -> String {
        hex::encode(digest(&SHA256, key.certificate_der()).as_ref())
    }

    /// Another root was configured, or none any more.
    fn outdated(&self, key: &Authority) -> bool {
        match &self.root {
            Some(root) => key.root_der() != root.der(),
            None => !key.chain_der().is_empty(),
        }
    }
}

/// That an authority's certificate says its own name: under another one its revocations would go where no relying party looks for them.
fn names_itself(ders: &[CertificateDer<'_>], name: &CaName) -> Result<(), String> {
    let (_, own) = X509Certificate::from_der(&ders[0]).map_err(|_| "its certificate does not parse".to_owned())?;
    let says = own.subject().iter_common_name().next().and_then(|said| said.as_str().ok());
    if says == Some(name.as_str()) { Ok(()) } else { Err(format!("its certificate is not that of {name}")) }
}

/// The time nearest to `now` at which all of these are valid.
fn within_validity(ders: &[CertificateDer<'_>], now: Timestamp) -> Result<Timestamp, String> {
    let parsed: Vec<X509Certificate<'_>> = ders
        .iter()
        .map(|der| X509Certificate::from_der(der).map(|(_, parsed)| parsed))
        .collect::<Result<_, _>>()
        .map_err(|_| "its certificate does not parse".to_owned())?;
    let (start, end) = chain::validity(&parsed).ok_or("its certificate's times are out of range")?;
    let last = end.checked_sub(SignedDuration::from_secs(1)).unwrap_or(end);
    Ok(now.max(start).min(last))
}
