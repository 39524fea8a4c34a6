//! A digest that names something without saying it.

use aws_lc_rs::digest::{Context, SHA256};

use crate::model::hex;

/// A SHA-256 over fields, each with its length before it, so that no two lists of fields give the same bytes.
pub struct Fingerprint(Context);

impl Fingerprint {
    /// Begins with what it is for, so that digests for two purposes never agree.
    pub fn of(purpose: &str) -> Self {
        Self(Context::new(&SHA256)).field(purpose.as_bytes())
    }

    /// Adds one field.
    #[must_use]
    pub fn field(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
        self
    }

    /// 64 lower-case hex digits.
    pub fn hex(self) -> String {
        hex::encode(self.0.finish().as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_field_ends_counts() {
        let of = |fields: &[&str]| fields.iter().fold(Fingerprint::of("test"), Fingerprint::field).hex();
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        let all = [of(&["ab"]), of(&["a", "b"]), of(&["", "ab"]), of(&["b", "a"]), Fingerprint::of("other").field("ab").hex()];
        for (at, one) in all.iter().enumerate() {
            assert_eq!(one.len(), 64);
            assert!(!all[at + 1..].contains(one));
        }
    }
}
