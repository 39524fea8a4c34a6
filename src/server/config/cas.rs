//! `[[ca]]`: fixed ones, and those that rotate; and the server's own certificate from one of them.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use zeroize::Zeroizing;

use super::{
    build::hint,
    file::{At, Reader},
    roles::KindSection,
    roles::RoleDraft,
    sections::{CaSection, OwnCertificateSection, RotationSection, ServerSection},
};
use crate::{
    issuer::{
        jwt::maker::RING,
        x509::{Authority, Ca, CaConfig, CaMaker, Cas, FileKey, RingRoot, San, maker::CA_IN_URL, name::check_dns},
    },
    keys::{KeyRing, Schedule, parse_key_name},
    model::{SignedDuration, name::CaName, role::MAX_LIFE},
};

/// For how long the key of a CA is published before it signs, unless the configuration says.
pub const DEFAULT_PUBLISH_AHEAD: SignedDuration = SignedDuration::from_hours(24);

/// The shortest and the longest time between two keys of a CA.
pub const CA_ROTATE_EVERY: [SignedDuration; 2] = [SignedDuration::from_hours(1), SignedDuration::from_hours(24 * 366 * 5)];

/// The shortest and the longest time after which the acknowledgement of all who watch has a key sign.
pub const ACKNOWLEDGED_AFTER: [SignedDuration; 2] = [SignedDuration::from_secs(1), SignedDuration::from_hours(24 * 7)];

/// The most authorities of one ring that may be published at once, going by its configuration.
pub const MAX_AUTHORITIES: i128 = 32;

/// The shortest and the longest life of the server's own certificate.
pub const OWN_LIFE: [SignedDuration; 2] = [SignedDuration::from_mins(1), SignedDuration::from_hours(24 * 90)];

/// The most names of the server's own certificate.
pub const MAX_OWN_NAMES: usize = 32;

/// The server's own certificate, from a CA of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCertificateConfig {
    /// The configured CA.
    pub ca: CaName,
    /// What clients call the server.
    pub names: Vec<San>,
    /// How long each one lives.
    pub life: SignedDuration,
}

/// What a TLS client is shown.
pub enum ServerIdentity {
    /// A certificate chain and its key, both PEM.
    Files {
        /// The chain, leaf first.
        certificate: Vec<u8>,
        /// The key.
        key: Zeroizing<Vec<u8>>,
    },
    /// One that the service makes for itself.
    Own(OwnCertificateConfig),
}

impl Reader {
    /// The CAs by their configured names, without those that have faults. The keys of those that rotate are elsewhere.
    pub(super) fn cas(
        &mut self,
        sections: &[At<CaSection>],
        roles: &[RoleDraft],
        server: Option<&At<ServerSection>>,
        keys_seen: bool,
    ) -> Cas {
        let own = server.and_then(|server| server.value.certificate_from.as_ref());
        let mut cas = BTreeMap::new();
        for At { line, value } in sections {
            let before = self.faults.len();
            let ca = match &value.rotation {
                None => self.fixed(*line, value).map(|authority| Ca::Fixed(Arc::new(authority))),
                Some(rotation) => self.ring(*line, value, rotation, longest_life(&value.name, roles, own)).map(Ca::Rotating),
            };
            for fault in &mut self.faults[before..] {
                fault.message = format!("ca {}: {}", value.name, fault.message);
            }
            if value.rotation.is_some() {
                self.needs_wrapper(*line, &format!("ca {}", value.name), keys_seen);
            }
            let Some(ca) = ca else { continue };
            if cas.insert(value.name.clone(), ca).is_some() {
                self.fault(*line, format!("there are two CAs of the name {}", value.name));
            }
        }
        self.own_names_are_apart(sections);
        Cas::new(cas)
    }

    fn fixed(&mut self, line: usize, section: &CaSection) -> Option<Authority> {
        let (Some(certificate), Some(root), Some(key)) = (&section.certificate, &section.root, &section.key) else {
            self.fault(line, "say its certificate, key and root, or how its keys follow each other ([ca.rotation])");
            return None;
        };
        let (chain, root, key) = (self.read(line, certificate), self.read(line, root), self.read(line, key));
        let (chain_pem, root_pem, key_pem) = (chain?, root?, key?);
        let loaded = file_key(key_pem).and_then(|key| {
            let config = CaConfig {
                name: section.name.clone(),
                chain_pem,
                root_pem,
                key: Arc::new(key),
                crl_url: section.crl_url.clone(),
                crl_life: section.crl_life,
            };
            Authority::load(config, self.now)
        });
        loaded.map_err(|faults| faults.into_iter().for_each(|fault| self.fault(line, fault))).ok()
    }

    fn ring(
        &mut self,
        line: usize,
        section: &CaSection,
        rotation: &RotationSection,
        longest: SignedDuration,
    ) -> Option<Arc<KeyRing<CaMaker>>> {
        let before = self.faults.len();
        if section.certificate.is_some() || section.key.is_some() || section.root.is_some() {
            self.fault(
                line,
                "with [ca.rotation] its certificates and keys are made here: certificate, key and root go; a root is rotation.root",
            );
        }
        if section.name.as_str() == RING {
            self.fault(line, format!("{RING} is the name of the keys that sign JWTs"));
        }
        let root = match &rotation.root {
            None => None,
            Some(files) => Some(self.ring_root(line, &files.certificate, &files.key)?),
        };
        let schedule = Schedule { every: rotation.every, publish_ahead: rotation.publish_ahead };
        for fault in schedule.faults("every", CA_ROTATE_EVERY) {
            self.fault(line, format!("rotation.{fault}"));
        }
        let [shortest, most] = ACKNOWLEDGED_AFTER;
        if !(shortest..=most).contains(&rotation.acknowledged_after) {
            self.fault(line, format!("rotation.acknowledged_after is {shortest:#} to {most:#}"));
        }
        let least = rotation.every.saturating_add(rotation.publish_ahead).saturating_add(longest);
        let life = rotation.life.unwrap_or_else(|| least.saturating_add(rotation.publish_ahead));
        if life < least {
            self.fault(
                line,
                format!(
                    "rotation.life is {life:#}; it must be at least {least:#}: every, publish_ahead, and {longest:#}, the longest life of a certificate \
                     that it issues"
                ),
            );
        }
        let published = life.min(rotation.every.saturating_add(MAX_LIFE));
        if published.as_nanos() / rotation.every.as_nanos().max(1) > MAX_AUTHORITIES {
            self.fault(
                line,
                format!("rotation: more than {MAX_AUTHORITIES} of its keys would be published at once; make life shorter, or every longer"),
            );
        }
        if root.as_ref().is_some_and(|root| self.now.checked_add(life).is_ok_and(|end| end > root.not_after())) {
            self.fault(line, format!("rotation.life is longer than its root still lives ({})", root.as_ref()?.not_after()));
        }
        let root_crl_url = section.root_crl.as_ref().map(|_| section.crl_url.replace(CA_IN_URL, &format!("root-{}", section.name)));
        if root.is_none() && section.root_crl.is_some() {
            self.fault(line, "root_crl: each key is its own root here, and its CRL is signed by itself");
        }
        let maker = CaMaker {
            ca: section.name.clone(),
            crl_url: section.crl_url.clone(),
            crl_life: section.crl_life,
            life,
            root,
            root_crl_url,
            acknowledged_after: rotation.activate_when_acknowledged.then_some(rotation.acknowledged_after),
        };
        for fault in maker.faults() {
            self.fault(line, fault);
        }
        (self.faults.len() == before).then(|| Arc::new(KeyRing::new(section.name.to_string(), schedule, maker)))
    }

    fn ring_root(&mut self, line: usize, certificate: &Path, key: &Path) -> Option<RingRoot> {
        let (certificate, key) = (self.read(line, certificate), self.read(line, key));
        let (certificate, key) = (certificate?, key?);
        let loaded = file_key(key).and_then(|key| RingRoot::load(&certificate, Arc::new(key), self.now));
        loaded.map_err(|faults| faults.into_iter().for_each(|fault| self.fault(line, format!("rotation: {fault}")))).ok()
    }

    /// A CA's own name is the name of its CRL: no other may have it.
    fn own_names_are_apart(&mut self, sections: &[At<CaSection>]) {
        for At { line, value } in sections {
            let taken = parse_key_name(value.name.as_str())
                .is_some_and(|(ring, _)| sections.iter().any(|other| other.value.rotation.is_some() && other.value.name.as_str() == ring));
            if taken {
                self.fault(*line, format!("ca {0}: a key of another CA, which rotates, has the name {0}", value.name));
            }
        }
    }

    /// The server's own certificate from a CA of ours.
    pub(super) fn own_certificate(&mut self, line: usize, section: &OwnCertificateSection, cas: &Cas) -> Option<OwnCertificateConfig> {
        let before = self.faults.len();
        if cas.get(&section.ca).is_none() {
            let hint = hint(section.ca.as_str(), cas.iter().map(|(name, _)| name.as_str()));
            self.fault(line, format!("server.certificate_from: there is no CA {}{hint}", section.ca));
        }
        if section.names.is_empty() || section.names.len() > MAX_OWN_NAMES {
            self.fault(line, format!("server.certificate_from: names has 1 to {MAX_OWN_NAMES} host names and addresses"));
        }
        let [least, most] = OWN_LIFE;
        if !(least..=most).contains(&section.life) {
            self.fault(line, format!("server.certificate_from: life is {least:#} to {most:#}"));
        }
        let mut names = Vec::new();
        for name in &section.names {
            match (name.parse(), check_dns(name, false)) {
                (Ok(address), _) => names.push(San::Ip(address)),
                (Err(_), Ok(())) => names.push(San::Dns(name.clone())),
                (Err(_), Err(why)) => self.fault(line, format!("server.certificate_from: {why}")),
            }
        }
        (self.faults.len() == before).then(|| OwnCertificateConfig { ca: section.ca.clone(), names, life: section.life })
    }
}

fn file_key(pem: Vec<u8>) -> Result<FileKey, Vec<String>> {
    FileKey::from_pem(&String::from_utf8_lossy(&Zeroizing::new(pem))).map_err(|fault| vec![fault])
}

/// The longest life of a certificate that a CA may issue, going by the configuration.
fn longest_life(ca: &CaName, roles: &[RoleDraft], own: Option<&OwnCertificateSection>) -> SignedDuration {
    let of_roles = roles.iter().filter_map(|draft| match &draft.kind {
        KindSection::X509(section) if section.ca == *ca => Some(draft.common.value.max_ttl),
        _ => None,
    });
    let of_server = own.filter(|own| own.ca == *ca).map(|own| own.life);
    of_roles.chain(of_server).max().unwrap_or(SignedDuration::ZERO).max(SignedDuration::ZERO)
}
