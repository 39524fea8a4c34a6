//! What a holder presents at the token endpoint: `dpr_<lease id, 32 hex digits>_<256 random bits, URL-safe base64>`.
//!
//! The prefix lets secret scanners know it. The lease's id, which is no secret, is in it because a refresh token comes without a user name.

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use crate::{
    clock,
    model::{
        Timestamp,
        lease::{LeaseId, LiveSecret},
        secret::Secret,
    },
};

/// How every secret begins.
pub const SECRET_PREFIX: &str = "dpr_";

/// A lease's id in hex.
const ID_LEN: usize = 32;

/// Random bytes of a secret.
const RANDOM_BYTES: usize = 32;

/// A new secret of a lease.
pub(super) fn generate(lease: LeaseId) -> Secret {
    let random = Zeroizing::new(clock::random::<RANDOM_BYTES>());
    let random = Zeroizing::new(URL_SAFE_NO_PAD.encode(*random));
    Secret::new(format!("{SECRET_PREFIX}{}_{}", lease.to_hex(), *random))
}

/// The lease that a secret names, if it has the form of one. Whether it is one of that lease's is another question.
pub fn lease_named_in(secret: &Secret) -> Option<LeaseId> {
    let (id, random) = secret.expose().strip_prefix(SECRET_PREFIX)?.split_at_checked(ID_LEN)?;
    if !random.starts_with('_') {
        return None;
    }
    let mut bytes = [0; ID_LEN / 2];
    for (byte, pair) in bytes.iter_mut().zip(id.as_bytes().chunks_exact(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(LeaseId::from_bytes(bytes))
}

/// Lower case only: each id has one form.
fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// What is kept of a secret: SHA-256 in lower-case hex. A slow hash would protect no more: there are 256 random bits under it.
pub(super) fn fingerprint(secret: &Secret) -> String {
    digest(&SHA256, secret.expose().as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The one of the secrets that was presented, if it lives still. Every one is compared in full, so that the time tells nothing.
pub(super) fn presented<'a>(secret: &Secret, secrets: &'a [LiveSecret], now: Timestamp) -> Option<&'a LiveSecret> {
    let shown = fingerprint(secret);
    let mut found = None;
    for live in secrets {
        let same = verify_slices_are_equal(shown.as_bytes(), live.sha256.as_bytes()).is_ok();
        if same && live.not_after > now {
            found = Some(live);
        }
    }
    found
}
