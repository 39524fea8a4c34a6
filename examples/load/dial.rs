//! Connections: the operator's TLS, or nobody's.

use std::{fs, io, net::SocketAddr, path::Path, sync::Arc};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, client::Resumption, crypto::aws_lc_rs, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::Result;

/// A new connection. Once it is lost it stays so: a run dials anew by itself, or not at all.
pub async fn dial(tls: &TlsConnector, address: SocketAddr) -> Result<Channel> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    let stream = tls.connect(ServerName::IpAddress(address.ip().into()), tcp).await?;
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| std::future::ready(once.take().ok_or(io::Error::from(io::ErrorKind::NotConnected))));
    Ok(Endpoint::from_shared(format!("https://{address}"))?.connect_with_connector(connector).await?)
}

/// TLS 1.3 without resumption, with the certificate of the operator of a `daypassd dev` or with none.
pub fn connector(dir: &Path, with_certificate: bool) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(dir.join("ca.pem"))?)?)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?.with_root_certificates(roots);
    let mut tls = if with_certificate {
        let chain = fs::read(dir.join("operator.pem"))?;
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<std::result::Result<_, _>>()?;
        builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&fs::read(dir.join("operator.key"))?)?)?
    } else {
        builder.with_no_client_auth()
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    tls.resumption = Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(tls)))
}
