//! Keys on the wire.

use crate::{
    issuer::x509::Authority,
    keys::{KeyShown, KeyState},
    model::Timestamp,
    proto::admin::{Key, KeyState as WireState},
};

/// A key that rotates.
pub(super) fn key(key: &KeyShown) -> Key {
    let KeyShown { ring, number: _, state, times, until, algorithm, fault: _ } = key;
    Key {
        name: key.name(),
        ring: ring.clone(),
        state: wire_state(*state).into(),
        published_at: Some(timestamp(times.published_at)),
        signs_from: Some(timestamp(times.signs_from)),
        published_until: until.map(timestamp),
        rotates: true,
        algorithm: algorithm.clone(),
    }
}

/// A CA that is configured and does not rotate.
pub(super) fn fixed(authority: &Authority) -> Key {
    let name = authority.name().to_string();
    Key {
        name: name.clone(),
        ring: name,
        state: WireState::Active.into(),
        published_at: Some(timestamp(authority.not_before())),
        signs_from: Some(timestamp(authority.not_before())),
        published_until: Some(timestamp(authority.not_after())),
        rotates: false,
        algorithm: authority.algorithm().to_owned(),
    }
}

fn wire_state(state: KeyState) -> WireState {
    match state {
        KeyState::Prepared => WireState::Prepared,
        KeyState::Active => WireState::Active,
        KeyState::Retired => WireState::Retired,
    }
}

fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

/// A time from the wire; none when it is none.
pub(super) fn from_timestamp(at: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok())
}

/// What a state is called.
pub(super) fn state_text(state: i32) -> &'static str {
    match WireState::try_from(state) {
        Ok(WireState::Prepared) => "prepared",
        Ok(WireState::Active) => "active",
        Ok(WireState::Retired) => "retired",
        Ok(WireState::Unspecified) | Err(_) => "unknown",
    }
}
