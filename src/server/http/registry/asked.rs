//! What was asked, by either of the two specifications.

use std::collections::BTreeMap;

use axum::{
    body::{Body, to_bytes},
    http::{HeaderMap, header},
};
use url::form_urlencoded;

use super::login::Login;
use crate::model::error::{Code, Error, Result};

/// The largest form, in bytes. The query of a GET is bounded with its head.
pub(super) const MAX_FORM: usize = 16 * 1024;

/// Which of the specifications the client follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// "Token Authentication Specification"
    Get,
    /// "OAuth2 Token Authentication"
    Post,
}

/// What a client asks for.
pub(super) struct Asked {
    pub flow: Flow,
    /// None when the client is anonymous.
    pub login: Option<Login>,
    pub service: String,
    pub scopes: Vec<String>,
    /// It wants something to keep for the next exchange.
    pub offline: bool,
}

impl Asked {
    pub(super) fn by_get(headers: &HeaderMap, query: &str) -> Result<Self> {
        let mut fields = Fields::parse(query.as_bytes())?;
        Ok(Self {
            flow: Flow::Get,
            login: Login::basic(headers),
            service: fields.take("service").unwrap_or_default(),
            offline: fields.take("offline_token").is_some_and(|asked| asked == "true" || asked == "1"),
            scopes: fields.scopes,
        })
    }

    /// The body may come in chunks and without a length: skopeo sends it so.
    pub(super) async fn by_post(headers: &HeaderMap, body: Body) -> Result<Self> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(invalid("send a form: Content-Type: application/x-www-form-urlencoded"));
        }
        let form = to_bytes(body, MAX_FORM).await;
        let form = form.map_err(|error| invalid(&format!("the form is no more than {MAX_FORM} bytes and whole")).because(error))?;
        let mut fields = Fields::parse(&form)?;
        let missing = |name: &str| invalid(&format!("the parameter {name} is missing"));
        let login = match fields.take("grant_type").as_deref() {
            Some("password") => {
                let username = fields.take("username").ok_or_else(|| missing("username"))?;
                Login::new(username, fields.take("password").ok_or_else(|| missing("password"))?)
            }
            Some("refresh_token") => Login::by_refresh_token(fields.take("refresh_token").ok_or_else(|| missing("refresh_token"))?),
            Some(_) => return Err(invalid("grant_type is password or refresh_token")),
            None => return Err(missing("grant_type")),
        };
        Ok(Self {
            flow: Flow::Post,
            login: Some(login),
            service: fields.take("service").unwrap_or_default(),
            offline: fields.take("access_type").is_some_and(|asked| asked == "offline"),
            scopes: fields.scopes,
        })
    }
}

/// The parameters of a query or a form. Only `scope` may stand more than once (RFC 6749 section 3.2).
struct Fields {
    once: BTreeMap<String, String>,
    scopes: Vec<String>,
}

impl Fields {
    fn parse(encoded: &[u8]) -> Result<Self> {
        let mut fields = Self { once: BTreeMap::new(), scopes: Vec::new() };
        for (name, value) in form_urlencoded::parse(encoded) {
            if name == "scope" {
                fields.scopes.extend(value.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned));
            } else if fields.once.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(invalid("a parameter other than scope stands there twice"));
            }
        }
        Ok(fields)
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.once.remove(name)
    }
}

fn invalid(why: &str) -> Error {
    Error::new(Code::InvalidRequest, why)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    async fn post(form: &str) -> Result<Asked> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8"));
        Asked::by_post(&headers, Body::from(form.to_owned())).await
    }

    fn shown(login: Option<Login>) -> (String, String) {
        let login = login.unwrap();
        (login.username, login.secret.expose().to_owned())
    }

    #[test]
    fn a_get_repeats_its_scopes() {
        let query =
            "account=a&client_id=docker&offline_token=true&service=registry%2Edev&scope=repository%3Aa%3Apull&scope=repository:b:push+c";
        let asked = Asked::by_get(&HeaderMap::new(), query).unwrap();
        assert_eq!((asked.flow, asked.service.as_str(), asked.offline), (Flow::Get, "registry.dev", true));
        assert_eq!(asked.scopes, ["repository:a:pull", "repository:b:push", "c"]);
        assert!(asked.login.is_none());
        let nothing = Asked::by_get(&HeaderMap::new(), "").unwrap();
        assert_eq!((nothing.service.as_str(), nothing.offline, nothing.scopes.len()), ("", false, 0));
        assert!(Asked::by_get(&HeaderMap::new(), "service=a&service=b").is_err(), "which of them?");
    }

    #[tokio::test]
    async fn a_post_names_its_grant() {
        let asked = post("grant_type=password&username=u&password=p%26q&service=s&scope=a+b&access_type=offline").await.unwrap();
        assert_eq!((asked.flow, asked.offline, asked.scopes), (Flow::Post, true, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(shown(asked.login), ("u".to_owned(), "p&q".to_owned()));
        let token = "dpr_0192f0c17b5a70008000000000000000_x";
        let asked = post(&format!("grant_type=refresh_token&refresh_token={token}&service=s")).await.unwrap();
        assert_eq!(shown(asked.login), ("0192f0c1-7b5a-7000-8000-000000000000".to_owned(), token.to_owned()));
        assert!(!asked.offline);
        for bad in [
            "",
            "grant_type=password&username=u",
            "grant_type=password&password=p",
            "grant_type=refresh_token",
            "grant_type=client_credentials&username=u&password=p",
            "grant_type=password&grant_type=refresh_token&username=u&password=p",
            "username=u&password=p",
        ] {
            assert_eq!(post(bad).await.err().map(|error| error.code()), Some(Code::InvalidRequest), "{bad}");
        }
        assert!(Asked::by_post(&HeaderMap::new(), Body::from("grant_type=password&username=u&password=p")).await.is_err());
    }

    #[tokio::test]
    async fn a_form_has_a_limit() {
        let form = |length: usize| {
            let start = "grant_type=password&username=u&password=";
            format!("{start}{}", "p".repeat(length - start.len()))
        };
        assert!(post(&form(MAX_FORM)).await.is_ok());
        assert!(post(&form(MAX_FORM + 1)).await.is_err());
        assert!(post(&form(1 << 20)).await.is_err());
    }
}
