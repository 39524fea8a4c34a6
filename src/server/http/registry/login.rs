//! Who asks: a lease's id and secret.

use axum::http::{HeaderMap, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{model::secret::Secret, vend::username_in};

/// What was presented.
pub(super) struct Login {
    pub username: String,
    pub secret: Secret,
}

impl Login {
    pub(super) fn new(username: String, secret: String) -> Self {
        Self { username, secret: Secret::new(secret) }
    }

    /// By a refresh token, which is a lease's secret and names its lease itself.
    pub(super) fn by_refresh_token(token: String) -> Self {
        let secret = Secret::new(token);
        Self { username: username_in(&secret), secret }
    }

    /// Basic credentials (RFC 7617 section 2); none without an `Authorization`. One that cannot be read stands for credentials that nobody
    /// has, so that it is answered, counted and recorded as wrong ones are.
    pub(super) fn basic(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let first = values.next()?;
        let alone = values.next().is_none();
        let pair = alone.then(|| first.to_str().ok().and_then(user_and_password)).flatten();
        Some(pair.unwrap_or_else(|| Self::new(String::new(), String::new())))
    }
}

fn user_and_password(authorization: &str) -> Option<Login> {
    let (scheme, credentials) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(credentials.trim_matches(' ')).ok()?);
    let (username, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(Login::new(username.to_owned(), secret.to_owned()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn basic(values: &[&str]) -> Option<(String, String)> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        Login::basic(&headers).map(|login| (login.username, login.secret.expose().to_owned()))
    }

    #[test]
    fn basic_credentials_are_read_in_one_way() {
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(basic(&[]), None);
        // RFC 7617 section 2.
        assert_eq!(basic(&["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]), pair("Aladdin", "open sesame"));
        assert_eq!(basic(&["basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]), pair("Aladdin", "open sesame"));
        assert_eq!(basic(&["Basic YTpiOmM="]), pair("a", "b:c"));
        let good = "Basic YTpi";
        for bad in ["", "Basic", "Basic ", "Bearer YTpi", "Basic YTp", "Basic YTpi=", "Basic YQ==", "Basic !!!!", "Basic /zo6", "BasicYTpi"]
        {
            assert_eq!(basic(&[bad]), pair("", ""), "{bad}");
        }
        assert_eq!(basic(&[good, good]), pair("", ""), "two are none");
    }
}
