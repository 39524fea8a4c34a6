//! The secrets by their names, as Envoy takes them: PEM in line.

use std::{collections::BTreeSet, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256};
use prost::Message;
use prost_types::Any;
use tonic::Status;
use zeroize::{Zeroize, Zeroizing};

use super::subscription::Names;
use crate::{
    agent::{
        desk::Bundle,
        sockets::view::{Certificate, View},
    },
    client::text::one_line,
    model::{hex, pem, spiffe::SpiffeId},
    proto::envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, TlsCertificate, secret::Type},
    },
};

/// What a secret's type is called.
pub(super) const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The certificate of the first role, where SPIRE's users expect it.
const DEFAULT: &str = "default";

/// The bundle, where SPIRE's users expect it.
const ROOT_CA: &str = "ROOTCA";

/// What there is of what is wanted.
pub(super) struct Found {
    /// Names this content: it is the same when the content is.
    pub version: String,
    /// The secrets.
    pub secrets: Vec<Any>,
}

/// What there is now of what is wanted.
///
/// # Errors
/// `PERMISSION_DENIED` for a name that the process may not have, or that nothing can have.
pub(super) fn secrets(view: &View, names: &Names) -> Result<Found, Status> {
    let all: BTreeSet<String>;
    let certificates = view.certificates();
    let names = match names {
        Names::Of(names) => names,
        Names::All => {
            let roles = certificates.iter().map(|certificate| certificate.role.clone());
            all = roles.chain([ROOT_CA.to_owned()]).collect();
            &all
        }
    };
    let mut version = Version(Context::new(&SHA256));
    let mut found = Vec::new();
    for name in names {
        match what(view, &certificates, name)? {
            Some(What::Certificate(certificate)) => {
                version.add(name, certificate.chain());
                found.push(tls_certificate(name, certificate));
            }
            Some(What::Bundle(bundle)) => {
                version.add(name, &bundle.roots_der);
                found.push(validation_context(name, &bundle));
            }
            None => {}
        }
    }
    Ok(Found { version: version.finish(), secrets: found })
}

enum What<'c> {
    Certificate(&'c Certificate),
    Bundle(Arc<Bundle>),
}

/// What a name means now; none when it may mean something later.
fn what<'c>(view: &View, certificates: &'c [Certificate], name: &str) -> Result<Option<What<'c>>, Status> {
    let named = |found: &dyn Fn(&Certificate) -> bool| certificates.iter().find(|&certificate| found(certificate)).map(What::Certificate);
    let shown = |bundle: Option<Arc<Bundle>>| bundle.filter(|bundle| !bundle.roots_der.is_empty()).map(What::Bundle);
    let id = name.parse::<SpiffeId>().ok();
    let (found, may_come) = match (name, &id) {
        // A role's name comes first: it is the operator's own.
        (role, _) if view.is_waiting_for(role) => (None, true),
        (role, _) if certificates.iter().any(|certificate| certificate.role == role) => (named(&|found| found.role == role), false),
        (ROOT_CA, _) => (shown(view.bundle()), true),
        (DEFAULT, _) => (view.default_role().and_then(|role| named(&|found| found.role == role)), view.is_waiting()),
        (_, Some(id)) if id.path.is_empty() => {
            let is_known = view.trust_domains().contains(&id.trust_domain);
            (is_known.then(|| shown(view.bundle_of(&id.trust_domain))).flatten(), true)
        }
        (_, Some(_)) => (named(&|found| found.id == id), view.is_waiting()),
        _ => (None, false),
    };
    if found.is_none() && !may_come {
        return Err(Status::permission_denied(format!("there is no secret {:?} for you here", one_line(name))));
    }
    Ok(found)
}

fn tls_certificate(name: &str, certificate: &Certificate) -> Any {
    let mut key = Zeroizing::new(String::new());
    pem::push(&mut key, "PRIVATE KEY", certificate.key());
    let chain = Some(inline(certificates_pem(certificate.chain()).into_bytes()));
    let ty = Type::TlsCertificate(TlsCertificate { certificate_chain: chain, private_key: Some(inline(key.as_bytes().to_vec())) });
    any(Secret { name: name.to_owned(), r#type: Some(ty) })
}

fn validation_context(name: &str, bundle: &Bundle) -> Any {
    let roots = Some(inline(certificates_pem(&bundle.roots_der).into_bytes()));
    let ty = Type::ValidationContext(CertificateValidationContext { trusted_ca: roots, crl: None });
    any(Secret { name: name.to_owned(), r#type: Some(ty) })
}

fn certificates_pem(certificates: &[Vec<u8>]) -> String {
    let mut text = String::new();
    certificates.iter().for_each(|der| pem::push(&mut text, "CERTIFICATE", der));
    text
}

fn inline(bytes: Vec<u8>) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)) }
}

/// The encoded secret; what it was made of is wiped.
fn any(mut secret: Secret) -> Any {
    let value = secret.encode_to_vec();
    if let Some(Type::TlsCertificate(certificate)) = &mut secret.r#type
        && let Some(DataSource { specifier: Some(Specifier::InlineBytes(key)) }) = &mut certificate.private_key
    {
        key.zeroize();
    }
    Any { type_url: TYPE_URL.to_owned(), value }
}

/// A digest of what is public of a response: a certificate says which key it is for.
struct Version(Context);

impl Version {
    fn add(&mut self, name: &str, certificates: &[Vec<u8>]) {
        self.bytes(name.as_bytes());
        self.0.update(&certificates.len().to_be_bytes());
        certificates.iter().for_each(|der| self.bytes(der));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&bytes.len().to_be_bytes());
        self.0.update(bytes);
    }

    fn finish(self) -> String {
        hex::encode(&self.0.finish().as_ref()[..16])
    }
}
