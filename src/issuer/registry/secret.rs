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
        Timestamp, hex,
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
    Some(LeaseId::from_bytes(hex::decode(id)?.try_into().ok()?))
}

/// What is kept of a secret: SHA-256 in lower-case hex. A slow hash would protect no more: there are 256 random bits under it.
pub(super) fn fingerprint(secret: &Secret) -> String {
    hex::encode(digest(&SHA256, secret.expose().as_bytes()).as_ref())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SignedDuration;

    fn id() -> LeaseId {
        "0192f0c1-7b5a-7000-8000-000000000003".parse().unwrap()
    }

    #[test]
    fn a_secret_names_its_lease_and_no_two_are_the_same() {
        let (one, other) = (generate(id()), generate(id()));
        assert_ne!(one, other);
        assert_eq!(one.expose().len(), SECRET_PREFIX.len() + 32 + 1 + 43);
        assert!(
            one.expose().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
            "it stands in a URL and in a header as it is"
        );
        assert_eq!(lease_named_in(&one), Some(id()));
        assert!(!fingerprint(&one).contains(&one.expose()[40..50]));
    }

    #[test]
    fn what_is_no_secret_names_no_lease() {
        let hex = "0192f0c17b5a70008000000000000003";
        assert!(lease_named_in(&Secret::new(format!("dpr_{hex}_x"))).is_some());
        for bad in [
            String::new(),
            "dpr_".to_owned(),
            format!("dpr_{hex}"),
            format!("dpr_{hex}x"),
            format!("DPR_{hex}_x"),
            format!("dpr_{}_x", hex.to_uppercase().replace('0', "A")),
            format!("dpr_{}g_x", &hex[1..]),
            format!("dpr_{}ä_x", &hex[2..]),
            format!(" dpr_{hex}_x"),
        ] {
            assert_eq!(lease_named_in(&Secret::new(bad.clone())), None, "{bad:?}");
        }
    }

    #[test]
    fn each_live_secret_is_found_and_a_dead_one_is_not() {
        let now: Timestamp = "2027-01-15T08:00:00Z".parse().unwrap();
        let secrets: Vec<Secret> = (0..3).map(|_| generate(id())).collect();
        let kept =
            |(secret, life): (&Secret, i64)| LiveSecret { sha256: fingerprint(secret), not_after: now + SignedDuration::from_secs(life) };
        let live: Vec<LiveSecret> = secrets.iter().zip([0, 1, 60]).map(kept).collect();
        assert_eq!(presented(&secrets[0], &live, now), None, "its time has come");
        assert_eq!(presented(&secrets[1], &live, now), Some(&live[1]));
        assert_eq!(presented(&secrets[2], &live, now), Some(&live[2]));
        let cut = |secret: &Secret, text: String| presented(&Secret::new(text), &live, now).is_none() && !secret.expose().is_empty();
        assert!(cut(&secrets[2], secrets[2].expose()[..70].to_owned()));
        assert!(cut(&secrets[2], fingerprint(&secrets[2])), "what the store keeps opens nothing");
        assert!(cut(&secrets[2], String::new()));
        assert_eq!(presented(&generate(id()), &live, now), None);
    }
}
