//! A CA that certifies the keys by which registry tokens are signed. It is no issuing CA: nobody else gets a certificate of it, and it
//! has no CRL, because a registry reads none; its certificates are short instead.

use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SerialNumber};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    authority::{date_time, issuing_params},
    chain,
    csr::SubjectKey,
    key::{Borrowed, CaKey, key_identifier},
    plan::Serial,
};
use crate::{
    issuer::KeyCertifier,
    model::{
        Timestamp,
        error::{Code, Error, Result},
        time::whole_second,
    },
};

/// The subject of every certificate that it makes; registries read no more of it than that it is there.
const SUBJECT: &str = "registry token signer";

/// A CA for keys that sign registry tokens, checked at load.
pub struct TokenCa {
    key: Arc<dyn CaKey>,
    params: CertificateParams,
    /// What a token carries above its key's certificate: every certificate of the file that is not self-signed.
    above: Vec<Vec<u8>>,
    /// The public key of every certificate of the file: a registry takes each of them for a root.
    trusted: Vec<Vec<u8>>,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl TokenCa {
    /// Loads a CA and checks it at `now`. The file has the issuing certificate first, then those above it, if any; a registry's
    /// `rootcertbundle` is this very file, so that all of it must be what a registry can read: of version 2.8 an Ed25519 key there ends the
    /// process. Gives every fault.
    pub fn load(certificate_pem: &[u8], key: Arc<dyn CaKey>, now: Timestamp) -> Result<Self, Vec<String>> {
        let ders = chain::read_pem(certificate_pem, "certificate").map_err(|fault| vec![fault])?;
        if ders.is_empty() || ders.len() > chain::MAX_CHAIN {
            return Err(vec![format!("the certificate file has {} certificates; it must have 1 to {}", ders.len(), chain::MAX_CHAIN)]);
        }
        let certificates = parse(&ders).map_err(|fault| vec![fault])?;
        let mut faults = faults(&certificates, now);
        let issuing = &certificates[0];
        if key.der_bytes() != &*issuing.public_key().subject_public_key.data {
            faults.push("the key is not the first certificate's".to_owned());
        }
        let params = issuing_params(issuing).map_err(|fault| faults.push(fault)).ok();
        let (Some(params), Some((not_before, not_after)), true) = (params, chain::validity(&certificates), faults.is_empty()) else {
            return Err(faults);
        };
        let sent = |certificate: &X509Certificate<'_>| certificate.subject().as_raw() != certificate.issuer().as_raw();
        let above = certificates.iter().zip(&ders).filter(|(certificate, _)| sent(certificate)).map(|(_, der)| der.clone()).collect();
        let trusted = certificates.iter().map(key_bits).collect();
        let ca = Self { key, params, above, trusted, not_before, not_after };
        ca.prove_key(issuing, now).map_err(|fault| vec![fault])?;
        Ok(ca)
    }

    /// Whether one of these certificates (DER) has a key that the file has too: what such a CA certifies a registry takes for certified by
    /// this one, and with any such key it takes a token. The key decides, for a CA may have several certificates.
    pub fn shares_key_with<'a>(&self, certificates: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let keys = certificates.into_iter().filter_map(|der| X509Certificate::from_der(der).ok()).map(|(_, parsed)| key_bits(&parsed));
        keys.into_iter().any(|key| self.trusted.contains(&key))
    }

    /// Certifies its own key and verifies that with its certificate: so the key works, and the CA's name is repeated byte for byte.
    fn prove_key(&self, issuing: &X509Certificate<'_>, now: Timestamp) -> Result<(), String> {
        let key = super::FileKey::generate().map_err(|error| error.to_string())?;
        let der = self.sign(&SubjectKey::p256(key.der_bytes()), now, self.not_after)?;
        let (_, leaf) = X509Certificate::from_der(&der).map_err(|error| format!("a certificate by the key does not parse: {error}"))?;
        match chain::link_faults(&leaf, issuing).as_slice() {
            [] => Ok(()),
            faults => Err(format!("a certificate that the key signs {}", faults.join("; it "))),
        }
    }

    fn sign(&self, key: &SubjectKey, not_before: Timestamp, not_after: Timestamp) -> Result<Vec<u8>, String> {
        let mut params = CertificateParams::default();
        params.not_before = date_time(whole_second(not_before.max(self.not_before)))?;
        params.not_after = date_time(whole_second(not_after.min(self.not_after)))?;
        params.serial_number = Some(SerialNumber::from_slice(Serial::random().as_bytes()));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, SUBJECT);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(key.der_bytes()));
        let issuer = Issuer::from_params(&self.params, Borrowed(&*self.key));
        params.signed_by(key, &issuer).map(|certificate| certificate.der().to_vec()).map_err(|error| error.to_string())
    }
}

impl KeyCertifier for TokenCa {
    fn certify(&self, public_key: &[u8], not_before: Timestamp, not_after: Timestamp) -> Result<Vec<Vec<u8>>> {
        let key = SubjectKey::p256_from_spki(public_key).ok_or_else(|| Error::internal("no P-256 key was given to be certified"))?;
        let leaf = self.sign(&key, not_before, not_after).map_err(|error| {
            let public = "no token can be signed for this registry now; try again later, and tell the operators if it stays so";
            Error::new(Code::IssuerUnavailable, public).because(format_args!("the registry's token CA: {error}"))
        })?;
        Ok([leaf].into_iter().chain(self.above.iter().cloned()).collect())
    }

    fn not_after(&self) -> Timestamp {
        self.not_after
    }
}

/// A public key without its algorithm, which can be written in several ways for one key.
fn key_bits(certificate: &X509Certificate<'_>) -> Vec<u8> {
    certificate.public_key().subject_public_key.data.to_vec()
}

fn parse(ders: &[Vec<u8>]) -> Result<Vec<X509Certificate<'_>>, String> {
    ders.iter()
        .enumerate()
        .map(|(position, der)| match X509Certificate::from_der(der) {
            Ok(([], certificate)) => Ok(certificate),
            Ok(_) => Err(format!("certificate {} has bytes after its end", position + 1)),
            Err(error) => Err(format!("certificate {} does not parse: {error}", position + 1)),
        })
        .collect()
}

fn faults(certificates: &[X509Certificate<'_>], now: Timestamp) -> Vec<String> {
    let mut faults = Vec::new();
    for (below, certificate) in certificates.iter().enumerate() {
        let what = format!("certificate {} ({})", below + 1, certificate.subject());
        let mut own = chain::ca_faults(certificate, below, now);
        if !registries_know_key_of(certificate) {
            own.push("has a key that registries do not take there; use P-256, P-384 or RSA".to_owned());
        }
        let self_signed = certificate.subject().as_raw() == certificate.issuer().as_raw();
        if let Some(signer) = certificates.get(below + 1).or(self_signed.then_some(certificate)) {
            own.extend(chain::link_faults(certificate, signer));
        }
        faults.extend(own.into_iter().map(|fault| format!("{what} {fault}")));
    }
    if certificates.first().is_some_and(|issuing| chain::subject_key_id(issuing).is_none()) {
        faults.push("the first certificate has no subject key identifier (RFC 5280 section 4.2.1.2)".to_owned());
    }
    faults
}

/// What distribution 2.8 finds a place for.
fn registries_know_key_of(certificate: &X509Certificate<'_>) -> bool {
    use x509_parser::public_key::PublicKey;
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(_)) => true,
        Ok(PublicKey::EC(point)) => matches!(point.key_size(), 256 | 384),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        encoding::{AsDer, PublicKeyX509Der},
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _},
    };
    use rcgen::{BasicConstraints, KeyPair};

    use super::*;
    use crate::{
        issuer::x509::bootstrap::{self, Made},
        model::SignedDuration,
    };

    fn now() -> Timestamp {
        "2027-01-15T08:00:00Z".parse().unwrap()
    }

    fn hours(hours: i64) -> SignedDuration {
        SignedDuration::from_hours(hours)
    }

    fn load(made: &Made, at: Timestamp) -> Result<TokenCa, Vec<String>> {
        TokenCa::load(made.certificate_pem.as_bytes(), bootstrap::file_key(made).unwrap(), at)
    }

    fn fault(made: &Made) -> String {
        load(made, now()).err().expect("it is refused").join("\n")
    }

    /// A self-signed certificate of any key and any extensions.
    fn made(algorithm: &'static rcgen::SignatureAlgorithm, change: impl FnOnce(&mut CertificateParams)) -> Made {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Token CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = date_time(now() - hours(1)).unwrap();
        params.not_after = date_time(now() + hours(48)).unwrap();
        change(&mut params);
        Made { certificate_pem: params.self_signed(&key).unwrap().pem(), key_pem: key.serialize_pem().into() }
    }

    fn public_key(algorithm: &'static EcdsaSigningAlgorithm) -> Vec<u8> {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        der.as_ref().to_vec()
    }

    #[test]
    fn a_certificate_is_within_the_cas_and_says_what_a_registry_needs() {
        let root = bootstrap::create_root("Root", now() - hours(1), hours(100)).unwrap();
        let issuing = bootstrap::create_issuing(&root, "Token CA", None, now(), hours(50)).unwrap();
        let alone = load(&root, now()).unwrap();
        let below = load(&issuing, now()).unwrap();
        let both =
            Made { certificate_pem: format!("{}{}", issuing.certificate_pem, root.certificate_pem), key_pem: issuing.key_pem.clone() };
        let both = load(&both, now()).unwrap();
        let key = public_key(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let chain = |ca: &TokenCa| ca.certify(&key, now() - hours(9999), now() + hours(9999)).unwrap();
        assert_eq!([chain(&alone).len(), chain(&below).len(), chain(&both).len()], [1, 2, 2], "all below what a bundle may hold alone");
        let ders = chain(&both);
        let (leaf, ca) = (X509Certificate::from_der(&ders[0]).unwrap().1, X509Certificate::from_der(&ders[1]).unwrap().1);
        leaf.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(leaf.public_key().raw, key);
        assert!(!leaf.is_ca() && leaf.key_usage().unwrap().unwrap().value.digital_signature());
        assert_eq!(leaf.validity().not_after.timestamp(), both.not_after().as_second());
        assert_eq!(leaf.validity().not_before, ca.validity().not_before);
        assert_ne!(leaf.raw_serial(), X509Certificate::from_der(&chain(&both)[0]).unwrap().1.raw_serial());
    }

    #[test]
    fn only_a_key_on_p256_is_certified() {
        let ca = load(&bootstrap::create_root("Root", now(), hours(100)).unwrap(), now()).unwrap();
        for bad in [public_key(&ECDSA_P384_SHA384_FIXED_SIGNING), Vec::new(), vec![0x30, 0]] {
            assert!(ca.certify(&bad, now(), now() + hours(1)).is_err());
        }
    }

    #[test]
    fn keys_that_registries_take_are_taken() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
            assert!(load(&made(algorithm, |_| ()), now()).is_ok());
        }
        // A registry of version 2.8 ends when it finds one.
        assert!(fault(&made(&rcgen::PKCS_ED25519, |_| ())).contains("has a key that registries do not take"));
    }

    #[test]
    fn what_is_no_ca_is_refused_with_every_fault() {
        let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
        assert!(fault(&made(p256, |params| params.is_ca = IsCa::ExplicitNoCa)).contains("is no CA"));
        assert!(fault(&made(p256, |params| params.key_usages = vec![KeyUsagePurpose::CrlSign])).contains("may not sign certificates"));
        let early = made(p256, |params| params.not_before = date_time(now() + hours(1)).unwrap());
        assert!(fault(&early).contains("is not valid before"));
        let late = made(p256, |params| params.not_after = date_time(now()).unwrap());
        assert!(fault(&late).contains("expired at"));
        let (one, other) = (made(p256, |_| ()), made(p256, |_| ()));
        let mixed = |certificate_pem: String| Made { certificate_pem, key_pem: other.key_pem.clone() };
        assert!(fault(&mixed(one.certificate_pem.clone())).contains("the key is not the first certificate's"));
        assert!(fault(&mixed(String::new())).contains("0 certificates"));
        assert!(fault(&mixed(other.certificate_pem.repeat(5))).contains("5 certificates"));
        assert!(fault(&mixed("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned())).contains("does not parse"));
        let unrelated = mixed(format!("{}{}", other.certificate_pem, one.certificate_pem));
        assert!(fault(&unrelated).contains("certificate 1"), "{}", fault(&unrelated));
    }
}
