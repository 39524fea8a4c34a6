//! JWT-SVIDs (SPIFFE, JWT-SVID standard), verified with the key set of a trust bundle.

use super::{
    Algorithm,
    claims::{self, MAX_AUDIENCES, refuse},
    jose::{Compact, Header},
    json::{Json, Object},
    keys::{KeySet, Selection},
};
use crate::model::{
    SignedDuration, Timestamp,
    error::{Code, Error, Result},
    spiffe::SpiffeId,
};

/// What a JWT-SVID may be signed with (section 2.1) and is taken here: no EdDSA.
const ALGORITHMS: [Algorithm; 6] =
    [Algorithm::Rs256, Algorithm::Rs384, Algorithm::Rs512, Algorithm::Ps256, Algorithm::Es256, Algorithm::Es384];

/// How far the clock of who signed may be ahead. None is granted behind `exp`.
pub const SVID_LEEWAY: SignedDuration = SignedDuration::from_secs(10);

/// What a JWT-SVID says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSvid {
    /// Its `sub`: a workload's.
    pub id: SpiffeId,
    /// Its claims: a JSON object, no name twice at any level.
    pub claims: String,
}

/// Verifies a JWT-SVID for an audience with a JWK Set. Whether its trust domain is that of the key set is the caller's to check.
///
/// # Errors
/// [`Code::TokenExpired`], [`Code::TokenAudience`], or [`Code::Unauthenticated`] for anything else; [`Code::IssuerUnavailable`] when the key
/// set cannot be used.
pub fn verify_svid(token: &str, audience: &str, jwks: &str, now: Timestamp) -> Result<JwtSvid> {
    let token = Compact::parse(token)?;
    let header = Header::parse(&token.header)?;
    let keys = KeySet::parse(jwks.as_bytes(), &ALGORITHMS)
        .map_err(|fault| Error::new(Code::IssuerUnavailable, "the trust bundle has no key that verifies JWT-SVIDs").because(fault))?;
    let key = match keys.select(header.kid.as_deref(), header.alg) {
        Selection::Found(key) => key,
        Selection::Unknown => return Err(refuse("the trust bundle has no key of the token's kid")),
        Selection::OtherAlgorithm => return Err(refuse("the token's alg is not that of its key")),
        Selection::Ambiguous => return Err(refuse("the token names no key, and more than one fits")),
    };
    if !key.verifies(header.alg, token.signed, token.signature) {
        return Err(refuse("the token's signature does not verify with the trust bundle"));
    }
    let payload = Object::parse(&token.payload).map_err(|fault| refuse(format!("the token's payload {fault}")))?;
    check_audience(&payload, audience)?;
    check_times(&payload, now)?;
    let sub = payload.string("sub").ok().flatten().ok_or_else(|| refuse("the token has no sub that is a string"))?;
    let id: SpiffeId = sub.parse().map_err(|fault| refuse(format!("the token's sub is no SPIFFE ID: {fault}")))?;
    if id.path.is_empty() {
        return Err(refuse("the token's sub names a trust domain and no workload"));
    }
    Ok(JwtSvid { id, claims: token.payload.clone() })
}

/// Section 4.1.2: the verifier's audience must be among the token's.
fn check_audience(payload: &Object<'_>, audience: &str) -> Result<()> {
    let is_ours = |value: &Json<'_>| matches!(value, Json::String(text) if text == audience);
    let fits = match payload.get("aud") {
        Some(value @ Json::String(_)) => is_ours(value),
        Some(Json::Array(values)) => values.len() <= MAX_AUDIENCES && values.iter().any(is_ours),
        _ => false,
    };
    if fits { Ok(()) } else { Err(Error::new(Code::TokenAudience, "the token is for another audience")) }
}

/// `exp` is required and counts without leeway (section 4.1.3).
fn check_times(payload: &Object<'_>, now: Timestamp) -> Result<()> {
    let expires_at = claims::time(payload, "exp")?.ok_or_else(|| refuse("the token has no exp"))?;
    if expires_at <= now {
        return Err(Error::new(Code::TokenExpired, "the token has expired"));
    }
    for name in ["nbf", "iat"] {
        if claims::time(payload, name)?.is_some_and(|time| time.duration_since(now) > SVID_LEEWAY) {
            return Err(refuse(format!("the token's {name} is in the future")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
    };
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
    use serde_json::{Value, json};

    use super::*;

    const NOW: i64 = 1_900_000_000;

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
        }

        fn jwks(&self) -> String {
            let point = self.0.public_key().as_ref();
            let (x, y) = (B64.encode(&point[1..33]), B64.encode(&point[33..]));
            json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "use": "sig", "x": x, "y": y}]}).to_string()
        }

        fn sign(&self, header: &Value, claims: &str) -> String {
            let signed = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims));
            let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", B64.encode(signature))
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    fn claims() -> Value {
        json!({"sub": "spiffe://example.org/web", "aud": "db", "exp": NOW + 1, "iat": NOW + 10, "nbf": NOW, "deep": {"a": [1.5]}})
    }

    #[test]
    fn a_good_one_gives_its_id_and_claims() {
        let signer = Signer::new();
        for header in [json!({"alg": "ES256", "kid": "k", "typ": "JWT"}), json!({"alg": "ES256"})] {
            let svid = verify_svid(&signer.sign(&header, &claims().to_string()), "db", &signer.jwks(), now()).unwrap();
            assert_eq!(svid.id.to_string(), "spiffe://example.org/web");
            assert_eq!(serde_json::from_str::<Value>(&svid.claims).unwrap(), claims());
        }
        let mut many = claims();
        many["aud"] = json!(["web", "db"]);
        let token = signer.sign(&json!({"alg": "ES256", "kid": "k"}), &many.to_string());
        assert!(verify_svid(&token, "db", &signer.jwks(), now()).is_ok(), "one audience of several is enough for a JWT-SVID");
    }

    #[test]
    fn what_it_says_is_checked() {
        let signer = Signer::new();
        for (claim, value, code) in [
            ("aud", json!("web"), Code::TokenAudience),
            ("aud", json!([]), Code::TokenAudience),
            ("aud", json!(["d", "b"]), Code::TokenAudience),
            ("aud", json!(7), Code::TokenAudience),
            ("aud", Value::Null, Code::TokenAudience),
            ("aud", json!(vec!["db"; MAX_AUDIENCES + 1]), Code::TokenAudience),
            ("exp", json!(NOW), Code::TokenExpired),
            ("exp", json!("1900000001"), Code::Unauthenticated),
            ("exp", json!(1.9e9 + 0.5), Code::Unauthenticated),
            ("exp", Value::Null, Code::Unauthenticated),
            ("nbf", json!(NOW + 11), Code::Unauthenticated),
            ("iat", json!(NOW + 11), Code::Unauthenticated),
            ("iat", json!(true), Code::Unauthenticated),
            ("sub", json!("spiffe://example.org"), Code::Unauthenticated),
            ("sub", json!("web"), Code::Unauthenticated),
            ("sub", json!(["spiffe://example.org/web"]), Code::Unauthenticated),
        ] {
            let mut bad = claims();
            bad[claim] = value.clone();
            let token = signer.sign(&json!({"alg": "ES256", "kid": "k"}), &bad.to_string());
            let error = verify_svid(&token, "db", &signer.jwks(), now()).unwrap_err();
            assert_eq!(error.code(), code, "{claim} = {value}: {error}");
        }
        for missing in ["aud", "exp", "sub"] {
            let mut bad = claims();
            bad.as_object_mut().unwrap().remove(missing);
            assert!(
                verify_svid(&signer.sign(&json!({"alg": "ES256"}), &bad.to_string()), "db", &signer.jwks(), now()).is_err(),
                "{missing}"
            );
        }
        let twice = claims().to_string().replacen('{', r#"{"sub":"spiffe://example.org/other","#, 1);
        assert!(verify_svid(&signer.sign(&json!({"alg": "ES256"}), &twice), "db", &signer.jwks(), now()).is_err());
    }

    #[test]
    fn another_key_another_form_and_eddsa_are_refused() {
        let (signer, other) = (Signer::new(), Signer::new());
        let good = signer.sign(&json!({"alg": "ES256", "kid": "k"}), &claims().to_string());
        let refused = |token: &str, jwks: &str| verify_svid(token, "db", jwks, now()).unwrap_err().code();
        assert_eq!(refused(&good, &other.jwks()), Code::Unauthenticated);
        assert_eq!(refused(&good, r#"{"keys":[]}"#), Code::IssuerUnavailable);
        assert_eq!(refused(&good, ""), Code::IssuerUnavailable);
        for header in [
            json!({"alg": "none"}),
            json!({"alg": "HS256", "kid": "k"}),
            json!({"alg": "ES384", "kid": "k"}),
            json!({"alg": "ES256", "kid": "other"}),
            json!({"alg": "ES256", "kid": "k", "jwk": {}}),
            json!({"alg": "ES256", "kid": "k", "crit": ["b64"]}),
        ] {
            assert_eq!(refused(&signer.sign(&header, &claims().to_string()), &signer.jwks()), Code::Unauthenticated, "{header}");
        }
        let (cut, _) = good.rsplit_once('.').unwrap();
        for bad in [cut, "", "a.b.c", &format!("{good}=") as &str, &format!("{good}.x")] {
            assert_eq!(refused(bad, &signer.jwks()), Code::Unauthenticated, "{bad}");
        }
        let edwards = Ed25519KeyPair::generate().unwrap();
        let x = B64.encode(edwards.public_key().as_ref());
        let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]}).to_string();
        let signed = format!("{}.{}", B64.encode(r#"{"alg":"EdDSA","kid":"k"}"#), B64.encode(claims().to_string()));
        let token = format!("{signed}.{}", B64.encode(edwards.sign(signed.as_bytes())));
        assert_eq!(refused(&token, &jwks), Code::IssuerUnavailable);
    }
}
