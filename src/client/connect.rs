//! One TLS connection to the server, and what its refusals mean.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, client::Resumption, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use super::{
    error::{Error, Kind, Result},
    settings::{Address, ClientCertificate, Roots},
};

/// How often a quiet connection is probed, so that a stream from a dead server ends.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long a probe waits for its answer.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes connections to one server.
pub(super) struct Connector {
    address: Address,
    server_name: ServerName<'static>,
    roots: String,
    tls: Arc<ClientConfig>,
}

/// A connection. The TLS alert that the server may send is kept beside it: with TLS 1.3 a client certificate is refused only
/// after the handshake is over for the client, and HTTP/2 would report no more than a broken pipe.
#[derive(Clone)]
pub(super) struct Connection {
    pub channel: Channel,
    alert: Arc<OnceLock<AlertDescription>>,
}

impl Connection {
    /// Why the server broke the connection, when it said so.
    pub fn refusal(&self) -> Option<Error> {
        self.alert.get().copied().and_then(refusal)
    }
}

impl Connector {
    pub fn new(address: Address, roots: Roots, identity: Option<ClientCertificate>) -> Result<Self> {
        let server_name = ServerName::try_from(address.host.clone())
            .map_err(|_| Error::usage(format!("the address's host {:?} is no host name", address.host)))?;
        let (roots_name, store) = root_store(roots)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Error::new(Kind::Other, "TLS", format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(store);
        let mut tls = match identity {
            Some(ClientCertificate { chain, key }) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| Error::usage(format!("the client certificate cannot be used with its key: {error}")))?,
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        // One short-lived process rarely comes back; and a ticket would be one more thing to refuse.
        tls.resumption = Resumption::disabled();
        Ok(Self { address, server_name, roots: roots_name, tls: Arc::new(tls) })
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Dials, shakes hands, and speaks HTTP/2. Has no time limit of its own.
    pub async fn connect(&self) -> Result<Connection> {
        let tcp = self.dial().await?;
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        let stream = tls.connect(self.server_name.clone(), tcp).await.map_err(|error| self.explain(&error))?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Error::new(Kind::Other, "TLS", format!("{} speaks TLS but not gRPC: is it daypassd's gRPC port?", self.address)));
        }
        let alert = Arc::new(OnceLock::new());
        let stream = AlertKeeper { stream, alert: Arc::clone(&alert) };
        // The channel would dial again when its connection is lost; it must not, because we know better when to.
        let mut once = Some(TokioIo::new(stream));
        let connector = tower::service_fn(move |_| {
            let stream = once.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
            std::future::ready(stream)
        });
        let channel = self.endpoint()?.connect_with_connector(connector).await;
        let channel = channel.map_err(|_| Error::unavailable(format!("{} closed the connection; try again", self.address)))?;
        Ok(Connection { channel, alert })
    }

    async fn dial(&self) -> Result<TcpStream> {
        let Address { host, port } = &self.address;
        let found = tokio::net::lookup_host((host.as_str(), *port)).await;
        let found: Vec<_> = found
            .map_err(|_| Error::unavailable(format!("the host {host} has no address: is DAYPASS_ADDR right, and does DNS work here?")))?
            .collect();
        let tcp = TcpStream::connect(found.as_slice()).await.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                Error::unavailable(format!("nothing listens at {}: is daypassd running, and is DAYPASS_ADDR right?", self.address))
            }
            _ => Error::unavailable(format!("{} cannot be reached: {error}", self.address)),
        })?;
        // A small call must not wait for the acknowledgement of the one before; without it it is merely slower.
        let _ = tcp.set_nodelay(true);
        Ok(tcp)
    }

    fn endpoint(&self) -> Result<Endpoint> {
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address))
            .and_then(|endpoint| endpoint.user_agent(concat!("daypass/", env!("CARGO_PKG_VERSION"))))
            .map_err(|_| Error::usage(format!("{} cannot stand in a request", self.address)))?;
        Ok(endpoint.http2_keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE_TIMEOUT).keep_alive_while_idle(true))
    }

    /// What a failed handshake means.
    fn explain(&self, error: &io::Error) -> Error {
        let address = &self.address;
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => self.explain_certificate(why),
            // The server has not proved yet who it is, so anybody on the way can have sent this; and it has not seen a certificate of ours:
            // what it says of that comes when the handshake is over for us (RFC 8446 section 4.4).
            Some(rustls::Error::AlertReceived(alert)) => refusal(*alert)
                .filter(|refusal| refusal.kind() != Kind::NotAuthenticated)
                .unwrap_or_else(|| Error::unavailable(format!("{address} broke off the TLS handshake ({alert:?}); try again"))),
            Some(rustls::Error::InvalidMessage(_)) => {
                Error::new(Kind::Other, "TLS", format!("{address} does not speak TLS: is it the gRPC port? (the HTTP port is another)"))
            }
            Some(rustls::Error::PeerIncompatible(why)) => {
                Error::new(Kind::Other, "TLS", format!("{address} does not speak TLS 1.3 as daypassd does ({why:?}): is a proxy between?"))
            }
            Some(why) => Error::new(Kind::Other, "TLS", format!("the TLS handshake with {address} failed: {why}")),
            None => Error::unavailable(format!("{address} closed the connection during the TLS handshake: {error}; try again")),
        }
    }

    fn explain_certificate(&self, why: &CertificateError) -> Error {
        use CertificateError as C;
        let Self { address, roots, .. } = self;
        let clock = "is it due for renewal, or is this machine's clock wrong?";
        let text = match why {
            // A CA that was made anew under its old name shows as a bad signature.
            C::UnknownIssuer | C::BadSignature => {
                format!("it is signed by no CA of {roots}; set DAYPASS_CA to the server's ca.pem if you trust it")
            }
            C::NotValidForName | C::NotValidForNameContext { .. } => {
                format!("it is not for the name {}; use a name that is in it", address.host)
            }
            C::ExpiredContext { time, not_after } => {
                format!("it expired at {} and it is {} here: {clock}", shown(*not_after), shown(*time))
            }
            C::Expired => format!("it has expired: {clock}"),
            C::NotValidYetContext { time, not_before } => {
                format!("it is valid from {} and it is {} here: is this machine's clock wrong?", shown(*not_before), shown(*time))
            }
            C::NotValidYet => "it is not valid yet: is this machine's clock wrong?".to_owned(),
            other => format!("{other}; ask who runs the server"),
        };
        Error::new(Kind::Other, "SERVER_NOT_TRUSTED", format!("the certificate of {address} is not trusted: {text}"))
    }
}

fn root_store(roots: Roots) -> Result<(String, RootCertStore)> {
    let mut store = RootCertStore::empty();
    let name = match roots {
        Roots::Only { source, certificates } => {
            for certificate in certificates {
                store.add(certificate).map_err(|error| Error::usage(format!("{source} holds a certificate that is no CA's: {error}")))?;
            }
            source
        }
        Roots::System => {
            // A root that does not parse helps nobody, and must not lock out the others.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            "this system".to_owned()
        }
    };
    if store.is_empty() {
        return Err(Error::usage("this system has no root certificates: set DAYPASS_CA or --ca to the server's ca.pem"));
    }
    Ok((name, store))
}

/// What an alert (RFC 8446, section 6) says about the caller; none when it says nothing about it.
fn refusal(alert: AlertDescription) -> Option<Error> {
    use AlertDescription as A;
    let unauthenticated = |code, text| Some(Error::new(Kind::NotAuthenticated, code, text));
    match alert {
        A::CertificateRevoked => {
            unauthenticated("CERTIFICATE_REVOKED", "the server refused the client certificate: it is revoked; get a new one".to_owned())
        }
        A::CertificateExpired => unauthenticated(
            "CERTIFICATE_EXPIRED",
            "the server refused the client certificate: it is not valid now; get a new one, and see that the clocks agree".to_owned(),
        ),
        A::UnknownCA => unauthenticated(
            "UNAUTHENTICATED",
            "the server refused the client certificate: it does not trust the CA that signed it; is DAYPASS_CERT the right file?"
                .to_owned(),
        ),
        A::CertificateRequired => {
            unauthenticated("UNAUTHENTICATED", "the server wants a client certificate: set DAYPASS_CERT and DAYPASS_KEY".to_owned())
        }
        A::BadCertificate | A::UnsupportedCertificate | A::CertificateUnknown | A::AccessDenied | A::DecryptError => unauthenticated(
            "UNAUTHENTICATED",
            format!("the server refused the client certificate ({alert:?}): is DAYPASS_CERT the right file, for client authentication?"),
        ),
        A::HandshakeFailure | A::ProtocolVersion | A::InsufficientSecurity | A::NoApplicationProtocol | A::UnrecognisedName => {
            Some(Error::new(Kind::Other, "TLS", format!("the server refused the TLS handshake ({alert:?}): is it daypassd's gRPC port?")))
        }
        _ => None,
    }
}

fn shown(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| "an impossible time".to_owned(), |at| at.to_string())
}

/// A TLS stream that remembers the fatal alert it received.
struct AlertKeeper {
    stream: TlsStream<TcpStream>,
    alert: Arc<OnceLock<AlertDescription>>,
}

impl AlertKeeper {
    fn keep(&self, error: &io::Error) {
        if let Some(rustls::Error::AlertReceived(alert)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            // Only the first one counts.
            let _ = self.alert.set(*alert);
        }
    }

    /// After a failed write the server may have said why before it closed, and nobody would read it any more: so the error
    /// waits until everything that came has been read. A broken connection is readable to its end, so this is short; the
    /// call's time limit bounds it.
    fn after_write<T>(&mut self, cx: &mut Context<'_>, outcome: io::Result<T>) -> Poll<io::Result<T>> {
        if let Err(error) = &outcome {
            self.keep(error);
            ready!(self.read_out(cx));
        }
        Poll::Ready(outcome)
    }

    fn read_out(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) => return Poll::Ready(()),
                Err(error) => {
                    self.keep(&error);
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl AsyncRead for AlertKeeper {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if let Err(error) = &outcome {
            self.keep(error);
        }
        Poll::Ready(outcome)
    }
}

impl AsyncWrite for AlertKeeper {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.after_write(cx, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.after_write(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_about_the_caller_are_told_and_others_are_not() {
        let revoked = refusal(AlertDescription::CertificateRevoked).unwrap();
        assert_eq!((revoked.kind(), revoked.code()), (Kind::NotAuthenticated, "CERTIFICATE_REVOKED"));
        for alert in [AlertDescription::UnknownCA, AlertDescription::CertificateExpired, AlertDescription::BadCertificate] {
            assert_eq!(refusal(alert).unwrap().kind(), Kind::NotAuthenticated);
        }
        assert_eq!(refusal(AlertDescription::ProtocolVersion).unwrap().kind(), Kind::Other);
        assert_eq!(refusal(AlertDescription::InternalError), None);
        assert_eq!(refusal(AlertDescription::CloseNotify), None);
    }

    /// Until the server has proved who it is anybody on the way can send an alert, in the clear; an agent that believed it to be revoked would
    /// give its identity up.
    #[tokio::test]
    async fn an_alert_of_nobody_says_nothing_about_the_caller() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let root = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.der().clone();
        for (alert, code) in [(44, "UNAVAILABLE"), (45, "UNAVAILABLE"), (48, "UNAVAILABLE"), (116, "UNAVAILABLE"), (40, "TLS")] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string().parse().unwrap();
            let roots = Roots::Only { source: "test".to_owned(), certificates: vec![root.clone()] };
            let connector = Connector::new(address, roots, None).unwrap();
            let liar = async {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let hello = tcp.read(&mut [0; 4096]).await.unwrap();
                tcp.write_all(&[21, 3, 3, 0, 2, 2, alert]).await.unwrap();
                (hello, tcp)
            };
            let (connected, _liar) = tokio::join!(connector.connect(), liar);
            assert_eq!(connected.err().map(|error| error.code().to_owned()), Some(code.to_owned()), "{alert}");
        }
    }

    #[test]
    fn the_post_quantum_group_is_first() {
        let groups = aws_lc_rs::default_provider().kx_groups;
        assert_eq!(groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    }
}
