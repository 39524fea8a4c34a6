//! An issuing CA: its certificate and chain, checked as a whole at load, and its key.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rcgen::{
    CertificateParams, CrlDistributionPoint, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::{asn1_rs::Tag, certificate::X509Certificate, prelude::FromDer, x509::X509Name};

use super::{
    chain,
    csr::SubjectKey,
    key::{CaKey, GuardedKey, Outcome},
    lint::lint,
    plan::{LeafPlan, San},
};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Code, Error, Result},
    name::CaName,
    role::{ExtKeyUsage, KeyType},
    time::whole_second,
};

/// How far a certificate's start lies before its issue, for verifiers whose clock is slow.
pub const BACKDATE: SignedDuration = SignedDuration::from_secs(30);
/// The life of a CRL when the configuration does not say.
pub const DEFAULT_CRL_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// The shortest life of a CRL.
pub const MIN_CRL_LIFE: SignedDuration = SignedDuration::from_mins(1);
/// The longest life of a CRL.
pub const MAX_CRL_LIFE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What an [`Authority`] is loaded from.
pub struct CaConfig {
    /// Its own name: as configured, or of a CA that rotates with the key's number.
    pub name: CaName,
    /// The issuing certificate first, then what stands between it and the root; PEM.
    pub chain_pem: Vec<u8>,
    /// The one root; PEM. Its key is not needed.
    pub root_pem: Vec<u8>,
    /// The issuing key.
    pub key: Arc<dyn CaKey>,
    /// Where its CRL can be had: http or https.
    pub crl_url: String,
    /// From one CRL's thisUpdate to its nextUpdate: [`MIN_CRL_LIFE`] to [`MAX_CRL_LIFE`], mostly [`DEFAULT_CRL_LIFE`].
    pub crl_life: SignedDuration,
}

/// An issuing CA that may sign. Immutable, but for whether its CRL is out: a reload makes a new one.
pub struct Authority {
    pub(super) name: CaName,
    pub(super) key: Arc<dyn CaKey>,
    pub(super) crl_url: String,
    pub(super) crl_life: SignedDuration,
    /// What rcgen needs of the issuing certificate: name, key identifier, key usage.
    pub(super) params: CertificateParams,
    pub(super) subject_raw: Vec<u8>,
    pub(super) key_id: Vec<u8>,
    chain_der: Vec<Vec<u8>>,
    root_der: Vec<u8>,
    chain_pem: String,
    not_before: Timestamp,
    not_after: Timestamp,
    crl_is_out: AtomicBool,
}

/// A signed leaf.
pub struct SignedLeaf {
    /// The certificate.
    pub der: Vec<u8>,
    /// The first 16 bytes of SHA-256 over its TBSCertificate, lower-case hex.
    pub tbs: String,
}

impl Authority {
    /// Loads a CA and checks all of it at `now`: the chain's links and signatures up to the root, CA flags, key usages and
    /// path lengths, validity, key identifiers, that the key is the certificate's, the CRL's address. Gives every fault.
    pub fn load(config: CaConfig, now: Timestamp) -> Result<Self, Vec<String>> {
        let chain = chain::Chain::read(&config.chain_pem, &config.root_pem).map_err(|fault| vec![fault])?;
        Self::of(chain, config, now)
    }

    /// The same for a CA that is its own root; `chain_pem` is not looked at.
    pub(super) fn load_self_signed(config: CaConfig, now: Timestamp) -> Result<Self, Vec<String>> {
        let chain = chain::Chain::self_signed(&config.root_pem).map_err(|fault| vec![fault])?;
        Self::of(chain, config, now)
    }

    fn of(chain: chain::Chain, config: CaConfig, now: Timestamp) -> Result<Self, Vec<String>> {
        let CaConfig { name, chain_pem: _, root_pem: _, key, crl_url, crl_life } = config;
        let mut faults = Vec::new();
        let certificates = chain.parse().map_err(|fault| vec![fault])?;
        faults.extend(chain::faults(&certificates, now));
        faults.extend(crl_faults(&crl_url, crl_life));
        let issuing = &certificates[0];
        if key.der_bytes() != &*issuing.public_key().subject_public_key.data {
            faults.push("the key is not the issuing certificate's".to_owned());
        }
        let params = issuing_params(issuing).map_err(|fault| faults.push(fault)).ok();
        let validity = chain::validity(&certificates);
        let (Some(params), Some((not_before, not_after)), true) = (params, validity, faults.is_empty()) else {
            return Err(faults);
        };
        let authority = Self {
            name,
            crl_url,
            crl_life,
            params,
            subject_raw: issuing.subject().as_raw().to_vec(),
            key_id: chain::subject_key_id(issuing).unwrap_or_default().to_vec(),
            chain_pem: chain.to_pem(),
            not_before,
            not_after,
            key,
            chain_der: Vec::new(),
            root_der: Vec::new(),
            crl_is_out: AtomicBool::new(false),
        };
        authority.prove_key(issuing, now).map_err(|fault| vec![fault])?;
        let (chain_der, root_der) = chain.into_der();
        Ok(Self { chain_der, root_der, ..authority })
    }

    /// Signs an empty CRL and verifies it with the issuing certificate: so the key works, wherever it lies, and the CA's
    /// name is repeated byte for byte, which relying parties compare.
    fn prove_key(&self, issuing: &X509Certificate<'_>, now: Timestamp) -> Result<(), String> {
        let crl = self.sign_crl(0, &[], now).map_err(|error| format!("the key does not sign: {error}"))?;
        let (_, crl) = x509_parser::revocation_list::CertificateRevocationList::from_der(&crl.der)
            .map_err(|error| format!("a CRL signed by the key does not parse: {error}"))?;
        if crl.issuer().as_raw() != issuing.subject().as_raw() {
            return Err("the issuing certificate's name has a form that cannot be repeated byte for byte; use UTF8String or \
                        PrintableString, each attribute once"
                .to_owned());
        }
        crl.verify_signature(issuing.public_key()).map_err(|_| "what the key signs does not verify with the issuing certificate".to_owned())
    }

    /// The validity of a leaf issued at `issued_at` that should live until `wanted_end`: never outside the chain's own.
    /// Both ends are whole seconds. Refuses when nothing is left.
    pub fn validity(&self, issued_at: Timestamp, wanted_end: Timestamp) -> Result<(Timestamp, Timestamp)> {
        let start = issued_at.checked_sub(BACKDATE).unwrap_or(Timestamp::MIN).max(self.not_before);
        let end = wanted_end.min(self.not_after);
        let (start, end) = (whole_second(start), whole_second(end));
        if end <= issued_at || end <= start {
            return Err(Error::internal(format_args!(
                "nothing can be issued by the CA {}: a certificate from {issued_at} until {wanted_end} would end at {end}, for the \
                 chain ends at {}",
                self.name, self.not_after
            )));
        }
        Ok((start, end))
    }

    /// Builds, lints and signs a leaf. What the linter refuses is never signed.
    pub fn sign_leaf(&self, plan: &LeafPlan, key: &SubjectKey) -> Result<SignedLeaf> {
        let params = leaf_params(plan, key, &self.crl_url).map_err(Error::internal)?;
        let guarded = GuardedKey::new(&*self.key, |tbs| lint(tbs, plan, key, self));
        let signed = params.signed_by(key, &Issuer::from_params(&self.params, &guarded));
        match (signed, guarded.take_outcome()) {
            (Ok(certificate), Outcome::Passed(tbs)) => Ok(SignedLeaf { der: certificate.der().to_vec(), tbs }),
            (_, Outcome::Refused(faults)) => {
                Err(Error::internal(format_args!("the linter refused a certificate of the CA {}: {}", self.name, faults.join("; "))))
            }
            (Err(error), Outcome::Passed(_)) => Err(Error::new(
                Code::IssuerUnavailable,
                "the CA's key cannot be used now; try again later, and tell the operators if it stays so",
            )
            .because(format_args!("CA {}: {error}", self.name))),
            (outcome, Outcome::Unused) => {
                Err(Error::internal(format_args!("no certificate of the CA {} could be built: {:?}", self.name, outcome.err())))
            }
        }
    }

    /// Says that relying parties can have a CRL of it from now on.
    pub fn crl_is_out(&self) {
        self.crl_is_out.store(true, Ordering::Release);
    }

    /// Whether relying parties can have a CRL of it.
    pub fn has_crl(&self) -> bool {
        self.crl_is_out.load(Ordering::Acquire)
    }

    /// Its own name: as configured, or of a CA that rotates with the key's number.
    pub fn name(&self) -> &CaName {
        &self.name
    }

    /// What its key signs with, in the words of JWA (RFC 7518 section 3.1).
    pub fn algorithm(&self) -> &'static str {
        let algorithm = self.key.algorithm();
        if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
            "ES256"
        } else if algorithm == &rcgen::PKCS_ECDSA_P384_SHA384 {
            "ES384"
        } else if algorithm == &rcgen::PKCS_ED25519 {
            "EdDSA"
        } else {
            "RS256"
        }
    }

    /// How long its CRLs hold.
    pub fn crl_life(&self) -> SignedDuration {
        self.crl_life
    }

    /// Where its CRL can be had.
    pub fn crl_url(&self) -> &str {
        &self.crl_url
    }

    /// When the first certificate of its chain, root included, expires.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// When the last certificate of its chain, root included, begins to be valid.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Its own certificate, with which it issues; DER.
    pub fn certificate_der(&self) -> &[u8] {
        self.chain_der.first().map_or(&self.root_der, Vec::as_slice)
    }

    /// Issuing certificate, intermediates, and not the root; PEM. Empty for a CA that is its own root.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// Issuing certificate, intermediates, and not the root; each DER. Empty for a CA that is its own root.
    pub fn chain_der(&self) -> &[Vec<u8>] {
        &self.chain_der
    }

    /// The root, DER.
    pub fn root_der(&self) -> &[u8] {
        &self.root_der
    }
}

pub(super) fn crl_faults(crl_url: &str, crl_life: SignedDuration) -> Vec<String> {
    let mut faults = Vec::new();
    let parsed = super::name::check_uri(crl_url).and_then(|()| url::Url::parse(crl_url).map_err(|error| error.to_string()));
    match parsed {
        Ok(url) if matches!(url.scheme(), "http" | "https") => {}
        Ok(_) => faults.push(format!("the CRL's address {crl_url:?} is not http or https")),
        Err(why) => faults.push(format!("the CRL's address: {why}")),
    }
    if !(MIN_CRL_LIFE..=MAX_CRL_LIFE).contains(&crl_life) {
        faults.push(format!("the CRL's life is {crl_life:#}; it must be {MIN_CRL_LIFE:#} to {MAX_CRL_LIFE:#}"));
    }
    faults
}

pub(super) fn issuing_params(issuing: &X509Certificate<'_>) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(issuing.subject())?;
    params.key_identifier_method = KeyIdMethod::PreSpecified(chain::subject_key_id(issuing).unwrap_or_default().to_vec());
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// The CA's name for rcgen. What rcgen cannot write again shows in [`Authority::prove_key`].
fn distinguished_name(name: &X509Name<'_>) -> Result<DistinguishedName, String> {
    let mut out = DistinguishedName::new();
    for attribute in name.iter_attributes() {
        let oid: Vec<u64> =
            attribute.attr_type().iter().ok_or("the issuing certificate's name has an attribute of no known type")?.collect();
        let text = std::str::from_utf8(attribute.attr_value().data).map_err(|_| "the issuing certificate's name is not in UTF-8")?;
        let value = match attribute.attr_value().tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(text.try_into().map_err(|_| "a PrintableString in the CA's name is none")?),
            Tag::Ia5String => DnValue::Ia5String(text.try_into().map_err(|_| "an IA5String in the CA's name is none")?),
            tag => return Err(format!("the issuing certificate's name has a string of type {tag}; use UTF8String or PrintableString")),
        };
        out.push(DnType::from_oid(&oid), value);
    }
    Ok(out)
}

fn leaf_params(plan: &LeafPlan, key: &SubjectKey, crl_url: &str) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::default();
    params.not_before = date_time(plan.not_before)?;
    params.not_after = date_time(plan.not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(plan.serial.as_bytes()));
    params.subject_alt_names = plan.sans.iter().map(san).collect::<Result<_, _>>()?;
    params.distinguished_name = DistinguishedName::new();
    if let Some(common_name) = &plan.common_name {
        params.distinguished_name.push(DnType::CommonName, common_name.as_str());
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if wants_key_encipherment(plan, key) {
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    params.extended_key_usages = plan.ext_key_usage.iter().copied().map(purpose).collect();
    params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![crl_url.to_owned()] }];
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::PreSpecified(super::key::key_identifier(rcgen::PublicKeyData::der_bytes(key)));
    Ok(params)
}

/// RSA key transport, in TLS 1.2 and before, needs the bit at a server's key, and nowhere else.
pub(super) fn wants_key_encipherment(plan: &LeafPlan, key: &SubjectKey) -> bool {
    key.key_type() == KeyType::Rsa && plan.ext_key_usage.contains(&ExtKeyUsage::ServerAuth)
}

fn san(san: &San) -> Result<SanType, String> {
    let ascii = |text: &String| text.as_str().try_into().map_err(|_| format!("the SAN {text:?} is not ASCII"));
    Ok(match san {
        San::Uri(uri) => SanType::URI(ascii(uri)?),
        San::Dns(name) => SanType::DnsName(ascii(name)?),
        San::Ip(address) => SanType::IpAddress(*address),
    })
}

fn purpose(usage: ExtKeyUsage) -> ExtendedKeyUsagePurpose {
    match usage {
        ExtKeyUsage::ServerAuth => ExtendedKeyUsagePurpose::ServerAuth,
        ExtKeyUsage::ClientAuth => ExtendedKeyUsagePurpose::ClientAuth,
    }
}

pub(super) fn date_time(at: Timestamp) -> Result<OffsetDateTime, String> {
    OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| format!("{at} cannot stand in a certificate"))
}
