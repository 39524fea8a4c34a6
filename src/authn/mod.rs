//! A certificate or a token becomes a proof of identity.
//!
//! | file | what it does |
//! |---|---|
//! | [`oidc`] | verifies a token of a configured issuer, keeps the issuers' keys |
//! | [`mtls`] | verifies a client certificate of a configured trust domain, and the TLS that carries it |
//! | here | decides which of the two is the caller |

pub mod mtls;
pub mod oidc;

use std::sync::Arc;

use crate::model::{
    Timestamp,
    error::{Code, Error, Result},
    identity::{PeerCertificate, Proof},
};
use oidc::TokenVerifier;

/// Turns what a connection and a request carry into a [`Proof`].
#[derive(Clone)]
pub struct Authenticator {
    verifier: Arc<TokenVerifier>,
}

impl Authenticator {
    /// An authenticator over the configured issuers; certificates were verified with their connection.
    pub fn new(verifier: Arc<TokenVerifier>) -> Self {
        Self { verifier }
    }

    /// The verifier of tokens, for metrics and prefetching.
    pub fn verifier(&self) -> &Arc<TokenVerifier> {
        &self.verifier
    }

    /// Who is calling. `authorization` is the value of the request's one Authorization header, see [`one_authorization`].
    ///
    /// A token beside a certificate is the caller, the certificate its peer. A bad token never falls back to the
    /// certificate: whoever sends a token means to be known by it.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`] with neither, or with a header that is no Bearer token; else as [`TokenVerifier::verify`].
    pub async fn proof(&self, peer: Option<&PeerCertificate>, authorization: Option<&str>, now: Timestamp) -> Result<Proof> {
        match (authorization, peer) {
            (Some(header), _) => {
                let token = self.verifier.verify(bearer(header)?, now).await?;
                Ok(Proof::Token { token, peer: peer.cloned() })
            }
            (None, Some(peer)) => Ok(Proof::Certificate(peer.clone())),
            (None, None) => Err(Error::new(
                Code::Unauthenticated,
                "you sent neither a client certificate nor a token; connect with a client certificate, or send \
                 'authorization: Bearer TOKEN' with an OIDC token of your CI job",
            )),
        }
    }
}

/// The one Authorization header of a request.
///
/// # Errors
/// [`Code::Unauthenticated`] when there is more than one, or one that is not visible ASCII: which of two would count is
/// for nobody to guess.
pub fn one_authorization<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a str>> {
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::new(Code::Unauthenticated, "send the authorization header once, not more often"));
    }
    match std::str::from_utf8(first) {
        Ok(text) if text.is_ascii() => Ok(Some(text)),
        _ => Err(Error::new(Code::Unauthenticated, "the authorization header holds bytes that are not ASCII")),
    }
}

/// The token of a Bearer header (RFC 6750 section 2.1; the scheme is case-insensitive, RFC 9110 section 11.1).
fn bearer(header: &str) -> Result<&str> {
    let refuse = || Error::new(Code::Unauthenticated, "the authorization header must be 'Bearer TOKEN', with one token and nothing else");
    let (scheme, rest) = header.split_once(' ').ok_or_else(refuse)?;
    let token = rest.trim_start_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.contains([' ', ',', '\t']) {
        return Err(refuse());
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_header_holds_one_token() {
        for good in ["Bearer a.b.c", "bearer a.b.c", "BEARER   a.b.c"] {
            assert_eq!(bearer(good).unwrap(), "a.b.c");
        }
        for bad in
            ["", "Bearer", "Bearer ", "Basic a.b.c", "a.b.c", "Bearer a b", "Bearer a.b.c, Bearer d.e.f", "Bearer\ta.b.c", " Bearer a"]
        {
            assert_eq!(bearer(bad).unwrap_err().code(), Code::Unauthenticated, "{bad:?}");
        }
    }

    #[test]
    fn one_header_or_none() {
        assert_eq!(one_authorization(std::iter::empty()).unwrap(), None);
        assert_eq!(one_authorization([b"Bearer x".as_slice()].into_iter()).unwrap(), Some("Bearer x"));
        for bad in [vec![b"Bearer x".as_slice(), b"Bearer x"], vec![b"Bearer \xff".as_slice()], vec!["Bearer ä".as_bytes()]] {
            assert_eq!(one_authorization(bad.into_iter()).unwrap_err().code(), Code::Unauthenticated);
        }
    }
}
