//! What a token must say, checked one by one after its signature held. A text names the claim to mend and never quotes
//! the token.

use super::{
    IssuerConfig,
    json::{Json, NotThatType, Object},
};
use crate::model::{
    SignedDuration, Timestamp,
    claim::{ClaimSpec, ClaimType, ClaimValue, Claims},
    error::{Code, Error, Result},
};

/// The longest `sub`, in bytes. OpenID Connect Core section 2 bounds it at 255; customised subjects of CI issuers are longer.
pub const MAX_SUB: usize = 440;
/// The longest `jti`, in bytes.
pub const MAX_JTI: usize = 256;
/// The most audiences of one token.
pub const MAX_AUDIENCES: usize = 16;
/// The longest span from `iat` to `exp`. Kubernetes gives a year.
pub const MAX_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(366 * 24);

/// `aud` (RFC 7519 section 4.1.3): a string or an array of strings, each of them an audience of ours. One that is not
/// ours beside one that is would let that other party use the token here (OpenID Connect Core section 3.1.3.7, step 3).
pub(super) fn audience(payload: &Object<'_>, config: &IssuerConfig) -> Result<()> {
    let ours = |audience: &str| config.audiences.iter().any(|own| own == audience);
    let fits = match payload.get("aud") {
        None => false,
        Some(Json::String(audience)) => ours(audience),
        Some(Json::Array(audiences)) => {
            if audiences.len() > MAX_AUDIENCES || !audiences.iter().all(|audience| matches!(audience, Json::String(_))) {
                return Err(refuse(format!("the token's aud is an array of more than {MAX_AUDIENCES}, or of something else than strings")));
            }
            !audiences.is_empty() && audiences.iter().all(|audience| matches!(audience, Json::String(audience) if ours(audience)))
        }
        Some(_) => return Err(refuse("the token's aud is neither a string nor an array of strings")),
    };
    if fits {
        return Ok(());
    }
    let expected = config.audiences.join("\" or \"");
    Err(Error::new(Code::TokenAudience, format!("the token is for another audience; request one whose only audience is \"{expected}\"")))
}

/// `exp`, `iat` and `nbf` (RFC 7519 sections 4.1.4 to 4.1.6), in whole seconds; gives `exp`.
pub(super) fn times(payload: &Object<'_>, config: &IssuerConfig, now: Timestamp) -> Result<Timestamp> {
    let expires_at = time(payload, "exp")?.ok_or_else(|| refuse("the token has no exp"))?;
    let issued_at = time(payload, "iat")?.ok_or_else(|| refuse("the token has no iat"))?;
    let not_before = time(payload, "nbf")?;
    if now.duration_since(expires_at) >= config.leeway {
        return Err(Error::new(Code::TokenExpired, "the token has expired; request a fresh one"));
    }
    if expires_at <= issued_at || expires_at.duration_since(issued_at) > MAX_TOKEN_LIFE {
        return Err(refuse("the token's exp is not after its iat, or more than a year after it"));
    }
    if issued_at.duration_since(now) > config.leeway {
        return Err(refuse("the token's iat is in the future; check the clocks of its issuer and of this service"));
    }
    if not_before.is_some_and(|not_before| not_before.duration_since(now) > config.leeway) {
        return Err(refuse("the token's nbf is in the future: it is not valid yet"));
    }
    if now.duration_since(issued_at) > config.max_token_age.saturating_add(config.leeway) {
        let age = config.max_token_age;
        return Err(Error::new(Code::TokenExpired, format!("the token was issued more than {age:#} ago; request a fresh one")));
    }
    Ok(expires_at)
}

pub(super) fn time(payload: &Object<'_>, name: &str) -> Result<Option<Timestamp>> {
    let bad = || refuse(format!("the token's {name} is not a time in whole seconds since 1970"));
    match payload.integer(name) {
        Ok(None) => Ok(None),
        Ok(Some(seconds)) if seconds > 0 => Timestamp::from_second(seconds).map(Some).map_err(|_| bad()),
        Ok(Some(_)) | Err(NotThatType) => Err(bad()),
    }
}

/// `sub` (RFC 7519 section 4.1.2).
pub(super) fn subject(payload: &Object<'_>) -> Result<String> {
    bounded_text(payload, "sub", MAX_SUB)?.ok_or_else(|| refuse("the token has no sub"))
}

/// `jti` (RFC 7519 section 4.1.7).
pub(super) fn token_id(payload: &Object<'_>, config: &IssuerConfig) -> Result<Option<String>> {
    match bounded_text(payload, "jti", MAX_JTI)? {
        None if config.jti_required => Err(refuse("the token has no jti")),
        jti => Ok(jti),
    }
}

fn bounded_text(payload: &Object<'_>, name: &str, longest: usize) -> Result<Option<String>> {
    match payload.string(name) {
        Ok(None) => Ok(None),
        Ok(Some(text)) if !text.is_empty() && text.len() <= longest && !text.chars().any(char::is_control) => Ok(Some(text.to_owned())),
        _ => Err(refuse(format!("the token's {name} is not a string of 1 to {longest} bytes without control characters"))),
    }
}

/// The configured claims, each of its type. One that is optional and null counts as absent: GitLab and Buildkite write
/// what a job does not have as null.
pub(super) fn configured(payload: &Object<'_>, specs: &[ClaimSpec]) -> Result<Claims> {
    let mut claims = Claims::new();
    for spec in specs {
        let value = match lookup(payload, &spec.path) {
            Err(NotThatType) => return Err(wrong_type(spec)),
            Ok(None) => None,
            Ok(Some(Json::Null)) if !spec.required => None,
            Ok(Some(value)) => Some(typed(value, spec.ty).ok_or_else(|| wrong_type(spec))?),
        };
        match value {
            Some(ClaimValue::String(text)) if spec.required && text.is_empty() => {
                return Err(refuse(format!("the token's claim {} is empty", shown(spec))));
            }
            Some(value) => {
                claims.insert(spec.name.clone(), value);
            }
            None if spec.required => {
                return Err(refuse(format!("the token has no claim {}, which this issuer's tokens must have", shown(spec))));
            }
            None => {}
        }
    }
    Ok(claims)
}

fn lookup<'p, 'a>(payload: &'p Object<'a>, path: &[String]) -> Result<Option<&'p Json<'a>>, NotThatType> {
    let Some((last, parents)) = path.split_last() else { return Ok(None) };
    let mut object = payload;
    for name in parents {
        match object.get(name) {
            None | Some(Json::Null) => return Ok(None),
            Some(Json::Object(inner)) => object = inner,
            Some(_) => return Err(NotThatType),
        }
    }
    Ok(object.get(last))
}

fn typed(value: &Json<'_>, ty: ClaimType) -> Option<ClaimValue> {
    match (ty, value) {
        (ClaimType::String, Json::String(text)) => Some(ClaimValue::String(text.clone().into_owned())),
        (ClaimType::Integer, Json::Integer(number)) => Some(ClaimValue::Integer(*number)),
        (ClaimType::Boolean, Json::Bool(value)) => Some(ClaimValue::Boolean(*value)),
        (ClaimType::Strings, Json::Array(values)) => values
            .iter()
            .map(|value| match value {
                Json::String(text) => Some(text.clone().into_owned()),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map(ClaimValue::Strings),
        _ => None,
    }
}

fn wrong_type(spec: &ClaimSpec) -> Error {
    let ty = match spec.ty {
        ClaimType::String => "a string",
        ClaimType::Integer => "an integer",
        ClaimType::Boolean => "a boolean",
        ClaimType::Strings => "an array of strings",
    };
    refuse(format!("the token's claim {} is not {ty}", shown(spec)))
}

/// A claim as the operator finds it in the token: its configured path.
fn shown(spec: &ClaimSpec) -> String {
    spec.path.join(" › ")
}

pub(super) fn refuse(text: impl Into<String>) -> Error {
    Error::new(Code::Unauthenticated, text)
}
