//! Tokens of the throwaway issuer that `daypassd dev` would not write.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use daypass::clock::{self, Clock, SystemClock};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::world::World;

/// Now, in seconds since 1970.
pub fn now() -> i64 {
    SystemClock.now().as_second()
}

/// The sample job's token with other claims, an id of its own, and a signature that holds.
pub fn mint(world: &World, changes: Value) -> String {
    let mut claims = claims(&world.read("job.jwt"));
    claims["jti"] = json!(uuid::Builder::from_random_bytes(clock::random()).into_uuid().to_string());
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    for (name, value) in changes {
        claims[name] = value;
    }
    let header = Header { kid: Some("dev".to_owned()), ..Header::new(Algorithm::RS256) };
    jsonwebtoken::encode(&header, &claims, &key(world)).unwrap()
}

/// What a token says, unverified.
pub fn claims(token: &str) -> Value {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).expect("a JWT has three parts")).unwrap();
    serde_json::from_slice(&claims).unwrap()
}

fn key(world: &World) -> EncodingKey {
    EncodingKey::from_rsa_pem(world.read("issuer/key.pem").as_bytes()).unwrap()
}
