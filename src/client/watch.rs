//! Streams that bring what is new: a lease's next credentials, and the trust bundle.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use prost::Message as _;
use tonic::{Status, Streaming, transport::Channel};
use zeroize::Zeroizing;

use super::{
    Client, Limit, MAX_ANSWER,
    connect::Connection,
    convert, credentials,
    csr::Csr,
    error::{Error, Result},
    types::{Credential, IssueOrder, Lease, OrderInput, TrustBundle},
};
use crate::proto::v1::{self, trust_service_client::TrustServiceClient as Trust};

/// What to watch.
#[derive(Debug, Clone)]
pub enum WatchOrder {
    /// A new lease. Its request id makes a repetition give the same one.
    Issue(IssueOrder),
    /// A lease that the caller holds.
    Held {
        /// The lease.
        lease_id: String,
        /// The newest generation that the caller has.
        generation: u32,
        /// The wanted life of each credential; none means the role's default.
        ttl: Option<SignedDuration>,
        /// For the credential that the stream begins with where one was made that never arrived.
        input: OrderInput,
    },
}

/// How a lease stands, and its new credential when there is one.
pub struct Watched {
    /// The lease.
    pub lease: Lease,
    /// The credential.
    pub credential: Option<Credential>,
    message: Zeroizing<Vec<u8>>,
}

impl Watched {
    fn new(message: v1::WatchResponse) -> Result<Self> {
        let bytes = Zeroizing::new(message.encode_to_vec());
        let v1::WatchResponse { lease, credential } = message;
        let credential = credential.map(|credential| convert::credential(Some(credential))).transpose()?;
        Ok(Self { lease: convert::lease(lease)?, credential, message: bytes })
    }

    /// As it came over the wire, to be kept: a secret.
    pub fn as_bytes(&self) -> &[u8] {
        &self.message
    }

    /// From what [`Watched::as_bytes`] gave.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::new(v1::WatchResponse::decode(bytes).map_err(|_| Error::bad_answer("is no credential that was kept"))?)
    }
}

/// A lease's stream.
pub struct Watching {
    connection: Connection,
    stream: Streaming<v1::WatchResponse>,
}

impl Watching {
    /// The next message; none when the server ended the stream without a word.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn next(&mut self) -> Result<Option<Watched>> {
        match self.stream.message().await {
            Ok(message) => message.map(Watched::new).transpose(),
            Err(status) => Err(ended(&self.connection, &status)),
        }
    }
}

/// The trust bundle's stream.
pub struct WatchingBundle {
    connection: Connection,
    stream: Streaming<v1::WatchTrustBundleResponse>,
}

impl WatchingBundle {
    /// The bundle as it is now, with the name of this stream; none when the server ended the stream without a word.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn next(&mut self) -> Result<Option<(TrustBundle, String)>> {
        match self.stream.message().await {
            Ok(None) => Ok(None),
            Ok(Some(v1::WatchTrustBundleResponse { bundle, watch_id })) => {
                let bundle = bundle.ok_or_else(|| Error::bad_answer("lacks the trust bundle"))?;
                Ok(Some((trust_bundle(bundle), watch_id)))
            }
            Err(status) => Err(ended(&self.connection, &status)),
        }
    }
}

impl Client {
    /// Watches a lease. `next` is the request for the certificate after the first one that comes.
    pub async fn watch(&mut self, order: WatchOrder, next: Option<&Csr>) -> Result<Watching> {
        let what = match order {
            WatchOrder::Issue(order) => v1::watch_request::What::Issue(convert::issue_request(order)),
            WatchOrder::Held { lease_id, generation, ttl, input } => {
                let input = match input {
                    OrderInput::Csr(csr_der) => Some(v1::held_lease::Input::X509(v1::X509Input { csr_der })),
                    OrderInput::Audience(audience) => Some(v1::held_lease::Input::Jwt(v1::JwtInput { audience })),
                    OrderInput::Nothing => None,
                };
                v1::watch_request::What::Held(v1::HeldLease { lease_id, generation, ttl: ttl.map(convert::duration), input })
            }
        };
        let request = v1::WatchRequest { what: Some(what), next_x509: next.map(x509) };
        let sent = self.send(request, Limit::Beginning, async |channel, request| credentials(channel).watch(request).await).await;
        self.spend_token();
        let (connection, stream) = sent?;
        Ok(Watching { connection, stream })
    }

    /// Says that a credential is in its place, and gives the request for the next one.
    pub async fn acknowledge(&mut self, lease_id: &str, generation: u32, next: Option<&Csr>) -> Result<Lease> {
        let request = v1::AcknowledgeRequest { lease_id: lease_id.to_owned(), generation, next_x509: next.map(x509) };
        let answer = self.call(request, async |channel, request| credentials(channel).acknowledge(request).await).await?;
        let v1::AcknowledgeResponse { lease } = answer;
        convert::lease(lease)
    }

    /// Watches the trust bundle.
    pub async fn watch_trust_bundle(&mut self) -> Result<WatchingBundle> {
        let request = v1::WatchTrustBundleRequest {};
        let send = async |channel, request| trust(channel).watch_trust_bundle(request).await;
        let (connection, stream) = self.send(request, Limit::Beginning, send).await?;
        Ok(WatchingBundle { connection, stream })
    }

    /// Says that a bundle from a stream of this very client is in use.
    pub async fn acknowledge_trust_bundle(&mut self, watch_id: &str, version: &str) -> Result<()> {
        let request = v1::AcknowledgeTrustBundleRequest { watch_id: watch_id.to_owned(), version: version.to_owned() };
        let send = async |channel, request| trust(channel).acknowledge_trust_bundle(request).await;
        let v1::AcknowledgeTrustBundleResponse {} = self.call(request, send).await?;
        Ok(())
    }
}

fn x509(csr: &Csr) -> v1::X509Input {
    v1::X509Input { csr_der: csr.der().to_vec() }
}

fn trust(channel: Channel) -> Trust<Channel> {
    Trust::new(channel).max_decoding_message_size(MAX_ANSWER)
}

fn ended(connection: &Connection, status: &Status) -> Error {
    connection.refusal().unwrap_or_else(|| Error::from_status(status))
}

fn trust_bundle(got: v1::GetTrustBundleResponse) -> TrustBundle {
    let v1::GetTrustBundleResponse { authorities, refresh_after: _, version, jwks } = got;
    let mut roots_der: Vec<Vec<u8>> = Vec::new();
    let mut cas: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for v1::CertificateAuthority { name, chain_der: _, root_der, crl_url: _, state: _, ca } in authorities {
        // A server that does not rotate CAs says one name only.
        let of_ca = cas.entry(if ca.is_empty() { name } else { ca }).or_default();
        for root in root_der {
            if !of_ca.contains(&root) {
                of_ca.push(root.clone());
            }
            if !roots_der.contains(&root) {
                roots_der.push(root);
            }
        }
    }
    TrustBundle { version, roots_der, jwks, cas }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(name: &str, ca: &str, root: u8) -> v1::CertificateAuthority {
        v1::CertificateAuthority {
            name: name.to_owned(),
            ca: ca.to_owned(),
            root_der: vec![vec![root]],
            ..v1::CertificateAuthority::default()
        }
    }

    #[test]
    fn roots_of_another_ca_are_not_beside() {
        let authorities = vec![
            authority("web-1", "web", 1),
            authority("web-2", "web", 2),
            authority("partners-1", "partners", 3),
            authority("old", "", 4),
        ];
        let bundle = trust_bundle(v1::GetTrustBundleResponse { authorities, ..v1::GetTrustBundleResponse::default() });
        assert_eq!(bundle.roots_der, [[1], [2], [3], [4]]);
        let beside = |own: u8| bundle.roots_beside(&[vec![own]]).cloned().collect::<Vec<_>>();
        assert_eq!((beside(1), beside(2)), (vec![vec![2]], vec![vec![1]]));
        assert_eq!((beside(3), beside(4), beside(5)), (vec![], vec![], vec![]));
    }
}
