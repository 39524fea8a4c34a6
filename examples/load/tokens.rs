//! CI tokens, minted ahead with the key of `daypassd dev`'s throwaway issuer: the shape of GitHub Actions', RS256.

use std::{fs, path::Path, thread};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use daypass::clock::{self, Clock, SystemClock};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::Result;

/// A token's life, in seconds, as at GitHub.
const LIFE: i64 = 300;

/// So many tokens, each with an id of its own.
pub fn mint(dir: &Path, count: u64) -> Result<Vec<String>> {
    let sample = sample_claims(dir)?;
    let key = EncodingKey::from_rsa_pem(&fs::read(dir.join("issuer/key.pem"))?)?;
    let header = Header { kid: Some("dev".to_owned()), ..Header::new(Algorithm::RS256) };
    let cores = thread::available_parallelism()?.get() as u64;
    let shares = (0..cores).map(|core| count / cores + u64::from(core < count % cores));
    thread::scope(|scope| {
        let minting: Vec<_> = shares
            .map(|share| {
                let (sample, key, header) = (sample.clone(), &key, &header);
                scope.spawn(move || (0..share).map(|_| token(&sample, header, key)).collect::<Result<Vec<_>>>())
            })
            .collect();
        let mut tokens = Vec::new();
        for share in minting {
            tokens.extend(share.join().map_err(|_| "a minting thread panicked")??);
        }
        Ok(tokens)
    })
}

/// What the server's own sample token says.
fn sample_claims(dir: &Path) -> Result<Value> {
    let token = fs::read_to_string(dir.join("job.jwt"))?;
    let payload = token.split('.').nth(1).ok_or("job.jwt is no token")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?)
}

fn token(sample: &Value, header: &Header, key: &EncodingKey) -> Result<String> {
    let now = SystemClock.now().as_second();
    let mut claims = sample.clone();
    claims["jti"] = json!(u128::from_be_bytes(clock::random()).to_string());
    for (name, at) in [("iat", now), ("nbf", now), ("exp", now + LIFE)] {
        claims[name] = json!(at);
    }
    Ok(format!("Bearer {}", jsonwebtoken::encode(header, &claims, key)?))
}
