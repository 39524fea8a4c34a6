//! What `docker login` at Amazon ECR takes, had by a session's own credentials.

use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    connection::{Connection, within},
    failure::{Failed, Sent, failed},
    session::Session,
};
use crate::model::{
    Timestamp,
    credential::RegistryCredential,
    error::{Code, Error},
    secret::Secret,
};

/// Asks ECR. The session is made by then: whatever fails here, something exists. `ends_at` is when the session's policy ends it, whatever ECR
/// says.
pub(super) async fn login(
    connection: &Connection,
    session: &Session,
    ends_at: Timestamp,
    deadline: Instant,
) -> Result<RegistryCredential, Failed> {
    let asked = "ecr:GetAuthorizationToken";
    let sent = Sent::default();
    let call = connection.ecr(session.credentials()).get_authorization_token().customize().interceptor(sent.clone()).send();
    let made = |failed: Failed| Failed { maybe_made: true, ..failed };
    let answer = within(deadline, asked, &sent, call).await.map_err(made)?.map_err(|error| made(failed(&error, asked, &sent)))?;
    let given = answer.authorization_data().first();
    let read = given.and_then(|data| credential(data.authorization_token()?, data.proxy_endpoint()?, ends_at));
    read.ok_or_else(|| Failed {
        error: Error::new(Code::IssuerUnavailable, format!("AWS' answer to {asked} cannot be read; try again later")),
        name: None,
        maybe_made: true,
        passing: false,
    })
}

/// `AWS:<password>` in base64, and `https://<registry>` (`AuthorizationData` in the ECR API reference).
fn credential(token: &str, endpoint: &str, expires_at: Timestamp) -> Option<RegistryCredential> {
    let plain = Zeroizing::new(STANDARD.decode(token).ok()?);
    let (username, secret) = std::str::from_utf8(&plain).ok()?.split_once(':')?;
    let registry = endpoint.strip_prefix("https://").unwrap_or(endpoint).trim_end_matches('/');
    let legal = |b: u8| b.is_ascii_alphanumeric() || b".-:".contains(&b);
    let fits = !username.is_empty() && !secret.is_empty() && !registry.is_empty() && registry.bytes().all(legal);
    fits.then(|| RegistryCredential {
        registry: registry.to_owned(),
        username: username.to_owned(),
        secret: Secret::new(secret.to_owned()),
        expires_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(plain: &str, endpoint: &str) -> Option<RegistryCredential> {
        credential(&STANDARD.encode(plain), endpoint, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_token_is_user_and_password() {
        let read = read("AWS:pass:word", "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com").unwrap();
        assert_eq!((read.username.as_str(), read.secret.expose()), ("AWS", "pass:word"));
        assert_eq!(read.registry, "123456789012.dkr.ecr.eu-central-1.amazonaws.com");
    }

    #[test]
    fn what_is_none_is_refused() {
        for (plain, endpoint) in
            [("AWS", "https://r"), ("AWS:", "https://r"), (":p", "https://r"), ("AWS:p", ""), ("AWS:p", "https://r/x y")]
        {
            assert!(read(plain, endpoint).is_none(), "{plain} {endpoint}");
        }
        assert!(credential("not base64!", "https://r", Timestamp::UNIX_EPOCH).is_none());
    }
}
