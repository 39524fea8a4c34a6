//! What a reload looks at, and what it cannot take up.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use aws_lc_rs::digest::{SHA256, digest};

use super::{
    build::Draft,
    file::{At, Reader},
};

/// What a reload looks at, and what it cannot take up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// Every file whose change asks for a reload.
    pub files: Vec<PathBuf>,
    /// By section: what only a start takes up, in any form that can be compared.
    at_start: BTreeMap<&'static str, String>,
}

impl Watched {
    /// The sections in which `new` says something else that only a restart takes up, in order of name.
    pub fn need_restart(&self, new: &Self) -> Vec<&'static str> {
        let sections: BTreeSet<&'static str> = self.at_start.keys().chain(new.at_start.keys()).copied().collect();
        sections.into_iter().filter(|section| self.at_start.get(section) != new.at_start.get(section)).collect()
    }
}

impl Reader {
    /// Taken before anything is taken out of the draft. The key files of issuers are not among the files: whoever reads them looks at
    /// them by itself.
    pub(super) fn watched(&self, draft: &Draft, root_crls: &[(String, Vec<u8>)]) -> Watched {
        let server = draft.server.iter().flat_map(|at| at.value.certificate.iter().chain(&at.value.key));
        let cas = draft.cas.iter().flat_map(|At { value, .. }| {
            let ring_root =
                value.rotation.iter().filter_map(|rotation| rotation.root.as_ref()).flat_map(|root| [&root.certificate, &root.key]);
            value.certificate.iter().chain(&value.key).chain(&value.root).chain(&value.root_crl).chain(ring_root)
        });
        let domains = draft.trust_domains.iter().flat_map(|at| at.value.crls.iter().chain(&at.value.ca));
        let issuers = draft.issuers.iter().filter_map(|at| at.value.ca.as_ref());
        let registries = draft.registries.iter().flat_map(|at| [&at.value.certificate, &at.value.key]);
        let policy = draft.policy.iter().map(|at| &at.value.file);
        let wrapping = draft.keys.iter().flat_map(|at| &at.value.wrapping_keys);
        let named =
            server.chain(cas).chain(domains).chain(issuers).chain(registries).chain(wrapping).chain(policy).map(|path| self.path(path));
        let files: BTreeSet<PathBuf> = named.chain([PathBuf::from(&self.file)]).collect();
        Watched { files: files.into_iter().collect(), at_start: at_start(draft, root_crls) }
    }
}

/// The sections hold no secrets, only the names of their files; and an absent key is as its default, so that writing it out is no change.
fn at_start(draft: &Draft, root_crls: &[(String, Vec<u8>)]) -> BTreeMap<&'static str, String> {
    let addresses = draft.server.as_ref().map(|at| format!("{} {}", at.value.grpc, at.value.http));
    let https = draft.server.as_ref().map(|at| format!("{:?}", at.value.https));
    let admin = draft.server.as_ref().map(|at| format!("{:?}", at.value.admin));
    let limits = draft.limits.as_ref().map(|at| at.value.clone()).unwrap_or_default();
    let log = draft.log.as_ref().map_or_else(|| format!("{:?}", super::sections::LogSection::default()), |at| format!("{:?}", at.value));
    let crls: Vec<_> = root_crls.iter().map(|(name, der)| format!("{name} {:?}", digest(&SHA256, der))).collect();
    let ring_crls: Vec<_> = draft
        .cas
        .iter()
        .filter(|at| at.value.rotation.is_some())
        .map(|At { value, .. }| format!("{} {} {}", value.name, value.crl_url, value.crl_life))
        .collect();
    BTreeMap::from([
        ("server.grpc, server.http", addresses.unwrap_or_default()),
        ("server.https", https.unwrap_or_default()),
        ("server.admin", admin.unwrap_or_default()),
        ("server.limits", format!("{limits:?}")),
        ("log", log),
        ("store", draft.store.as_ref().map(|at| format!("{:?}", at.value)).unwrap_or_default()),
        ("audit", draft.audit.as_ref().map(|at| format!("{:?}", at.value)).unwrap_or_default()),
        ("ca.root_crl", crls.join(" ")),
        ("ca.crl_url, ca.crl_life", ring_crls.join(" ")),
    ])
}
