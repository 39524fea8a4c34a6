//! The outer form of a signed token: JWS compact serialization (RFC 7515 section 7.1).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::secret::Secret;

/// The longest signature that is given: of RSA with 4096 bits.
const MAX_SIGNATURE: usize = 512;

/// A token of a protected header, in base64url already, and a payload; `sign` gives the signature over what it gets.
///
/// # Errors
/// Those of `sign`.
pub fn compact<S: AsRef<[u8]>, E>(header: &str, payload: &str, sign: impl FnOnce(&[u8]) -> Result<S, E>) -> Result<Secret, E> {
    // Room for all of it: a text that grows leaves a copy behind.
    let length = header.len() + (payload.len() + MAX_SIGNATURE).div_ceil(3) * 4 + 4;
    let mut token = String::with_capacity(length);
    token.push_str(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    let signature = sign(token.as_bytes())?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    Ok(Secret::new(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_parts_of_base64url_joined_by_dots() {
        let mut signed = Vec::new();
        let token = compact("eyJ9", "{\"sub\":\"a\"}", |bytes| {
            signed = bytes.to_vec();
            Ok::<_, ()>([0xff; MAX_SIGNATURE])
        });
        let token = token.unwrap();
        assert_eq!(signed, b"eyJ9.eyJzdWIiOiJhIn0");
        let signature = token.expose().strip_prefix("eyJ9.eyJzdWIiOiJhIn0.").unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(signature).unwrap(), [0xff; MAX_SIGNATURE]);
        assert_eq!(compact("a", "b", |_| Err::<[u8; 0], _>("no")).unwrap_err(), "no");
    }
}
