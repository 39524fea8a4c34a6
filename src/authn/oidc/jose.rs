//! The outer form of a token: JWS compact serialization (RFC 7515 section 7.1) and its header.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    Algorithm,
    json::{NotThatType, Object},
};
use crate::model::error::{Code, Error, Result};

/// The longest token, in bytes. GitHub's are about 2 KiB.
pub const MAX_TOKEN: usize = 16 * 1024;
/// The longest `kid`, in bytes.
pub const MAX_KID: usize = 256;

/// Header parameters that would have us trust a key that the token itself names, or that change what is signed or how it
/// is read (RFC 7515 section 4.1, RFC 7516 section 4.1, RFC 7797). No issuer's token has one.
const REFUSED: [&str; 11] = ["jku", "jwk", "x5u", "x5c", "crit", "b64", "cty", "enc", "zip", "epk", "p2c"];

/// A token, cut at its dots. Nothing of it is verified.
#[derive(Debug)]
pub(super) struct Compact<'a> {
    /// What the signature covers: header, dot, payload.
    pub signed: &'a str,
    /// The signature, base64url.
    pub signature: &'a str,
    /// The decoded header.
    pub header: String,
    /// The decoded payload.
    pub payload: String,
}

impl<'a> Compact<'a> {
    /// Cuts and decodes a token.
    pub fn parse(token: &'a str) -> Result<Self> {
        if token.len() > MAX_TOKEN {
            return Err(refuse(format!("the token is longer than {MAX_TOKEN} bytes")));
        }
        let form = || refuse("the token is not a signed JWT in compact form: three parts of base64url without padding, joined by dots");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(form)?;
        let (header, payload) = signed.split_once('.').ok_or_else(form)?;
        if signature.is_empty() || !signature.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(form());
        }
        let decode = |part: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| form())?;
            String::from_utf8(bytes).map_err(|_| form())
        };
        Ok(Self { signed, signature, header: decode(header)?, payload: decode(payload)? })
    }
}

/// The header, checked.
#[derive(Debug)]
pub(super) struct Header {
    /// The algorithm; whether the issuer's configuration takes it is still to check.
    pub alg: Algorithm,
    /// Which of the issuer's keys signed it.
    pub kid: Option<String>,
}

impl Header {
    /// Reads a decoded header.
    pub fn parse(text: &str) -> Result<Self> {
        let header = Object::parse(text).map_err(|fault| refuse(format!("the token's header {fault}")))?;
        if let Some(name) = REFUSED.into_iter().find(|name| header.get(name).is_some()) {
            return Err(refuse(format!("the token's header has the parameter {name}, which is not taken here")));
        }
        let alg = match header.string("alg") {
            Ok(Some(alg)) => Algorithm::of(alg).ok_or_else(|| refuse("the token's alg is not one that this service takes"))?,
            Ok(None) | Err(NotThatType) => return Err(refuse("the token's header has no alg that is a string")),
        };
        match header.string("typ") {
            // Media types are compared without case (RFC 7515 section 4.1.9).
            Ok(None) => {}
            Ok(Some(typ)) if typ.eq_ignore_ascii_case("JWT") => {}
            _ => return Err(refuse("the token's typ is not JWT; send an ID token, not an access token or another kind")),
        }
        Ok(Self { alg, kid: Self::kid(&header)? })
    }

    fn kid(header: &Object<'_>) -> Result<Option<String>> {
        match header.string("kid") {
            Ok(None) => Ok(None),
            Ok(Some(kid)) if !kid.is_empty() && kid.len() <= MAX_KID && kid.bytes().all(|b| (0x20..0x7f).contains(&b)) => {
                Ok(Some(kid.to_owned()))
            }
            _ => Err(refuse(format!("the token's kid is not a string of 1 to {MAX_KID} printable ASCII characters"))),
        }
    }
}

fn refuse(text: impl Into<String>) -> Error {
    Error::new(Code::Unauthenticated, text)
}
