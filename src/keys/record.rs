//! A key as it is stored: its times and what everybody may know in the clear, the key itself sealed.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use aws_lc_rs::digest::{SHA256, digest};

use super::{Stage, Times};
use crate::model::{Timestamp, hex, lease::Claim};

/// The form of records that this version writes and reads.
const FORM: u8 = 1;

/// A key's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    form: u8,
    /// Since when it is published. It never changes.
    published_at: Timestamp,
    /// From when on it signs. It changes once at most: when the key is made to sign.
    signs_from: Timestamp,
    /// What everybody may know.
    #[serde(with = "base64_bytes")]
    pub public: Vec<u8>,
    /// The sealed key, or when it was taken out: nothing of it is left then but its number, which must not be given again.
    pub key: Kept,
    /// The server that made it.
    pub made_by: String,
    /// What is on record of it.
    pub told: Option<Stage>,
    /// Who is about to put more on record.
    pub claim: Option<Claim>,
}

/// What is kept of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kept {
    /// The key, as a wrapper sealed it.
    #[serde(with = "base64_bytes")]
    Sealed(Vec<u8>),
    /// Nothing: it was taken out then.
    OutSince(Timestamp),
}

impl Record {
    /// A new key's record.
    pub fn new(times: Times, public: Vec<u8>, sealed: Vec<u8>, made_by: String) -> Self {
        let Times { signs_from, published_at } = times;
        Self { form: FORM, published_at, signs_from, public, key: Kept::Sealed(sealed), made_by, told: None, claim: None }
    }

    /// Reads a record; why not, in words.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(body).map_err(|error| format!("its record cannot be read: {error}"))?;
        if record.form != FORM {
            return Err(format!("its record has the form {}, which is newer than this server", record.form));
        }
        if record.signs_from < record.published_at {
            return Err("its record has it sign before it was published".to_owned());
        }
        Ok(record)
    }

    /// The record as it is stored.
    pub fn body(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is made of texts and numbers, which JSON can always say")
    }

    /// Its times.
    pub fn times(&self) -> Times {
        Times { signs_from: self.signs_from, published_at: self.published_at }
    }

    /// Takes the key out: nothing of it is left but its number and its times.
    pub fn take_out(&mut self, now: Timestamp) {
        self.key = Kept::OutSince(now);
        self.public.clear();
    }

    /// Has it sign from another time on.
    pub fn sign_from(&mut self, signs_from: Timestamp) {
        self.signs_from = signs_from;
    }
}

/// What a key is sealed to: its name, what is published of it and since when. Only when it signs may change.
pub(super) fn context(name: &str, published_at: Timestamp, public: &[u8]) -> String {
    let public = hex::encode(digest(&SHA256, public).as_ref());
    format!("daypass key {name} published {} public {public}", published_at.as_second())
}

mod base64_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Engine, STANDARD};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lease::ServerId;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn record() -> Record {
        let times = Times { published_at: at(1_800_000_000), signs_from: at(1_800_003_601) };
        Record::new(times, b"public".to_vec(), b"sealed".to_vec(), "0a".to_owned())
    }

    #[test]
    fn a_record_comes_back_whole() {
        let mut record = record();
        assert_eq!(Record::parse(&record.body()), Ok(record.clone()));
        record.key = Kept::OutSince(at(1_800_000_001));
        record.told = Some(Stage::Active);
        record.claim = Some(Claim { by: ServerId(7), until: at(1_800_000_010) });
        record.sign_from(at(1_800_000_000));
        assert_eq!(Record::parse(&record.body()), Ok(record));
    }

    #[test]
    fn a_record_of_another_form_or_order_is_refused() {
        let text = String::from_utf8(record().body()).unwrap();
        for (from, to, says) in [
            ("\"form\":1", "\"form\":2", "newer than this server"),
            ("2027-01-15T09:00:01Z", "2026-01-15T09:00:01Z", "before it was published"),
            ("\"c2VhbGVk\"", "\"?\"", "cannot be read"),
            ("{\"form\"", "{\"frm\"", "cannot be read"),
        ] {
            let broken = text.replacen(from, to, 1);
            assert_ne!(broken, text, "{from} is not in {text}");
            let fault = Record::parse(broken.as_bytes()).unwrap_err();
            assert!(fault.contains(says), "{fault}");
        }
    }

    #[test]
    fn a_key_is_sealed_to_all_that_must_not_change() {
        let of = context("jwt-1", at(5), b"a");
        for other in [context("jwt-2", at(5), b"a"), context("jwt-1", at(6), b"a"), context("jwt-1", at(5), b"b")] {
            assert_ne!(of, other);
        }
    }
}
