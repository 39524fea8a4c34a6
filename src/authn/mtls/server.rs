//! The TLS of the server: 1.3 only, and every connection shows its certificate to the verifier that counts now.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    server::{
        NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    time_provider::TimeProvider,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;

use super::{
    store::TrustStore,
    verdict::{self, Verdict},
};
use crate::{
    clock::Clock,
    model::{
        Timestamp,
        error::{Code, Error, Result},
        identity::PeerCertificate,
        lease::Serial,
    },
};

/// Verifies client certificates against the trust store of the moment.
pub struct ClientVerifier {
    current: ArcSwap<Current>,
    version: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
    provider: Arc<CryptoProvider>,
}

/// A store and its version, which are only ever seen together.
struct Current {
    store: Arc<TrustStore>,
    version: u64,
}

impl ClientVerifier {
    /// A verifier over a first store.
    pub fn new(store: TrustStore, clock: Arc<dyn Clock>) -> Self {
        let provider = Arc::new(provider());
        let current = Current { store: Arc::new(store), version: 0 };
        Self { version: watch::Sender::new(current.version), current: ArcSwap::from_pointee(current), clock, provider }
    }

    /// The store of the moment.
    pub fn store(&self) -> Arc<TrustStore> {
        self.current.load().store.clone()
    }

    /// Puts another store in place, for every handshake from now on, and ticks the version.
    pub fn replace(&self, store: TrustStore) {
        // Under the lock of the version, so that two who replace at once leave the store of the greater version.
        self.version.send_modify(|version| {
            *version += 1;
            self.current.store(Arc::new(Current { store: Arc::new(store), version: *version }));
        });
    }

    /// The version of the store. When it ticks, whoever holds live connections verifies their certificates again with
    /// [`Self::judge`], and ends those that no longer pass.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Verifies a chain against the store of the moment, as [`TrustStore::verify`].
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<PeerCertificate> {
        self.store().verify(chain, self.clock.now())
    }

    /// Verifies a chain against the store of the moment, as [`TrustStore::verify`], and gives what can be kept.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<Verdict> {
        let current = self.current.load();
        let peer = current.store.verify(chain, now)?;
        Ok(Verdict::new(peer, current.version, current.store.steady(chain, now)))
    }

    /// Whether a chain is of a certificate that its CRL names and that names its lease, in a handshake whose end somebody waits for. Such a
    /// client is refused only after it has proved to hold the key: a certificate alone can be had by others, and who shows a copy of it must
    /// not bring its holder under suspicion.
    fn is_worth_a_look(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> bool {
        let revoked = self.store().revoked(chain, now);
        let of_lease = |peer: &PeerCertificate| Serial::from_hex(&peer.serial).is_some_and(|serial| serial.lease().is_some());
        revoked.filter(of_lease).is_some_and(verdict::doubt)
    }

    /// Whether [`Self::judge`] would find the same again: it costs a few comparisons in place of signatures. When not, nothing is
    /// said of the client; judge it again.
    pub fn stands(&self, verdict: &Verdict, now: Timestamp) -> bool {
        verdict.is_under(self.current.load().version) && verdict.is_steady_at(now)
    }
}

impl ClientCertVerifier for ClientVerifier {
    /// Callers with a token come without a certificate.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: any list would tell strangers whose CAs are trusted, and could not follow [`ClientVerifier::replace`].
    /// A client then shows the certificate that it has (RFC 8446 section 4.2.4).
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let now = Timestamp::from_second(seconds).map_err(|_| rustls::Error::FailedToGetCurrentTime)?;
        let chain: Vec<_> = std::iter::once(end_entity).chain(intermediates).map(|der| CertificateDer::from_slice(der)).collect();
        match self.judge(&chain, now) {
            Ok(verdict) => {
                verdict::hand_over(verdict);
                Ok(ClientCertVerified::assertion())
            }
            Err(error) => {
                tracing::info!(%error, "a client certificate was refused");
                if error.code() == Code::CertificateRevoked && self.is_worth_a_look(&chain, now) {
                    return Ok(ClientCertVerified::assertion());
                }
                Err(rustls::Error::InvalidCertificate(match error.code() {
                    Code::CertificateRevoked => CertificateError::Revoked,
                    _ => CertificateError::Other(OtherError(Arc::new(error))),
                }))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let valid = verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)?;
        if verdict::proved() {
            return Err(rustls::Error::InvalidCertificate(CertificateError::Revoked));
        }
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier").field("version", &*self.version.borrow()).finish_non_exhaustive()
    }
}

/// The server's TLS: version 1.3 only, ALPN h2, client certificates optional and verified by `verifier`. X25519MLKEM768 is
/// the first of the key exchanges; rustls follows the client's order, in which current clients have it first too.
///
/// There is no resumption of any kind: rustls does not run the verifier on a resumed handshake, and a client that was
/// revoked must not ride on its last session. A handshake's size is bounded by rustls (64 KiB of certificates).
///
/// # Errors
/// [`Code::Internal`] when the provider cannot do TLS 1.3, which would be a defect.
pub fn server_config(verifier: Arc<ClientVerifier>, resolver: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>> {
    let time = Arc::new(ClockTime(verifier.clock.clone()));
    let mut config = ServerConfig::builder_with_details(verifier.provider.clone(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|fault| Error::internal(format_args!("no TLS 1.3: {fault}")))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(Arc::new(config))
}

fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
    ];
    provider
}

/// rustls' time, from the process's one clock.
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

impl fmt::Debug for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClockTime")
    }
}
