//! The form of a record and of the head: how they are written, and what makes them whole. The page of the room describes it.

use std::{borrow::Cow, fmt, io::Write, str};

use aws_lc_rs::digest::{SHA256, digest};
use serde::Deserialize;

use crate::model::{Timestamp, event::Event};

/// The longest record, in bytes, its newline included.
pub const MAX_RECORD: usize = 64 * 1024;

/// What a record ends with, before its newline: `,"hash":"<64 hex>"}`.
const HASH_MEMBER: usize = HASH_OPEN.len() + 64 + HASH_CLOSE.len();
const HASH_OPEN: &[u8] = br#","hash":""#;
const HASH_CLOSE: &[u8] = br#""}"#;

/// A SHA-256 as 64 characters of lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Hash([u8; 64]);

impl Hash {
    /// What the first record names as the one before it.
    pub(super) const ZERO: Self = Self([b'0'; 64]);

    fn of(bytes: &[u8]) -> Self {
        const HEX: [u8; 16] = *b"0123456789abcdef";
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(digest(&SHA256, bytes).as_ref()) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        Self(hex)
    }

    fn parse(hex: &[u8]) -> Option<Self> {
        let legal = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        hex.iter().all(legal).then_some(())?;
        hex.try_into().ok().map(Self)
    }

    /// The hex as text.
    pub(super) fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of the chain: the number and the hash of a record. The next one is linked to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    /// The sequence number; 0 before the first record.
    pub(super) seq: u64,
    /// The hash.
    pub(super) hash: Hash,
}

/// An event that is too long for a record.
#[derive(Debug)]
pub(super) struct TooLong;

impl Link {
    /// Where a log starts.
    pub(super) const START: Self = Self { seq: 0, hash: Hash::ZERO };

    /// Writes the record of an event after this link, with its newline, to the end of `buffer`, and gives the next link. Leaves
    /// the buffer as it was when the event is too long.
    pub(super) fn write(self, event: &Event, buffer: &mut Vec<u8>) -> Result<Self, TooLong> {
        let start = buffer.len();
        let seq = self.seq + 1;
        let written = write!(buffer, r#"{{"seq":{seq},"prev":"{}""#, self.hash.as_str()).is_ok();
        let members = buffer.len();
        if !written || serde_json::to_writer(&mut *buffer, event).is_err() {
            buffer.truncate(start);
            return Err(TooLong);
        }
        // The event is an object with at least a time: its opening brace becomes the comma after `prev`, its closing one goes.
        buffer[members] = b',';
        buffer.pop();
        let hash = Hash::of(&buffer[start..]);
        buffer.extend_from_slice(HASH_OPEN);
        buffer.extend_from_slice(&hash.0);
        buffer.extend_from_slice(HASH_CLOSE);
        buffer.push(b'\n');
        if buffer.len() - start > MAX_RECORD {
            buffer.truncate(start);
            return Err(TooLong);
        }
        Ok(Self { seq, hash })
    }

    /// Checks that `line`, without its newline, is the record after this link, and gives the next link; or says what is wrong.
    pub(super) fn check(self, line: &[u8]) -> Result<Self, String> {
        let next = Self::of(line)?;
        let expected = self.seq + 1;
        if next.seq != expected {
            return Err(format!("record {expected} should stand here, found record {}", next.seq));
        }
        let members: Members<'_> = serde_json::from_slice(line).map_err(|error| format!("it is no record: {error}"))?;
        if members.prev != self.hash.as_str() {
            return Err(format!("its \"prev\" is not the hash of the record before it, {}", self.hash.as_str()));
        }
        let covered = &line[..line.len() - HASH_MEMBER];
        if Hash::of(covered) != next.hash {
            return Err(String::from("its \"hash\" is not the hash of what it says: the record was changed"));
        }
        Ok(next)
    }

    /// The number and the hash that a line claims to have; or why it is no record.
    pub(super) fn of(line: &[u8]) -> Result<Self, String> {
        let seq = seq_of(line).ok_or("it does not begin with {\"seq\":N,")?;
        let hash = line
            .len()
            .checked_sub(HASH_MEMBER)
            .and_then(|at| line[at..].strip_prefix(HASH_OPEN)?.strip_suffix(HASH_CLOSE))
            .and_then(Hash::parse)
            .ok_or("it does not end with its hash")?;
        Ok(Self { seq, hash })
    }

    /// The link that a record claims to follow; or why it is no record.
    pub(super) fn before(line: &[u8]) -> Result<Self, String> {
        let members: Members<'_> = serde_json::from_slice(line).map_err(|error| format!("it is no record: {error}"))?;
        let hash = Hash::parse(members.prev.as_bytes()).ok_or("its \"prev\" is no hash")?;
        let seq = seq_of(line).ok_or("it does not begin with {\"seq\":N,")? - 1;
        if seq == 0 && hash != Hash::ZERO {
            return Err(String::from("it is record 1, and its \"prev\" is not 64 zeros"));
        }
        Ok(Self { seq, hash })
    }

    /// The head file that names this link.
    pub(super) fn to_head(self) -> Vec<u8> {
        format!("{:020} {}\n", self.seq, self.hash.as_str()).into_bytes()
    }

    /// The link that a head file names.
    pub(super) fn from_head(head: &[u8]) -> Option<Self> {
        let (seq, rest) = head.split_at_checked(20)?;
        let hash = rest.strip_prefix(b" ")?.strip_suffix(b"\n")?;
        let link = Self { seq: digits(seq)?, hash: Hash::parse(hash)? };
        (link.seq > 0 || link == Self::START).then_some(link)
    }
}

/// The members that every record has, whatever later versions add. Serde refuses them when they are there twice.
#[derive(Deserialize)]
struct Members<'a> {
    #[serde(rename = "seq")]
    _seq: u64,
    #[serde(borrow)]
    prev: Cow<'a, str>,
    #[serde(borrow, rename = "hash")]
    _hash: Cow<'a, str>,
    #[serde(rename = "time")]
    _time: Timestamp,
    #[serde(borrow, rename = "method")]
    _method: Cow<'a, str>,
    #[serde(borrow, rename = "outcome")]
    _outcome: Cow<'a, str>,
}

/// The sequence number with which a line begins.
pub(super) fn seq_of(line: &[u8]) -> Option<u64> {
    let rest = line.strip_prefix(br#"{"seq":"#)?;
    let end = rest.iter().position(|byte| *byte == b',')?;
    digits(&rest[..end]).filter(|_| rest[0] != b'0')
}

/// A number of 1 to 20 digits, and nothing else.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    text.iter().all(u8::is_ascii_digit).then_some(())?;
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Outcome;

    fn event() -> Event {
        Event::new(Timestamp::from_second(1_800_000_000).unwrap(), "CredentialService/Issue", Outcome::Done)
    }

    #[test]
    fn a_record_is_linked_and_checks() {
        let mut buffer = Vec::new();
        let first = Link::START.write(&event(), &mut buffer).unwrap();
        let second = first.write(&event(), &mut buffer).unwrap();
        assert_eq!(second.seq, 2);
        let lines: Vec<&[u8]> = buffer.split(|byte| *byte == b'\n').collect();
        assert_eq!(Link::START.check(lines[0]).unwrap(), first);
        assert_eq!(first.check(lines[1]).unwrap(), second);
        assert!(lines[1].starts_with(format!(r#"{{"seq":2,"prev":"{}","time":"#, first.hash.as_str()).as_bytes()));
    }

    #[test]
    fn a_record_may_be_64_kib_and_not_a_byte_more() {
        let mut buffer = b"before".to_vec();
        let mut event = event();
        Link::START.write(&event, &mut buffer).unwrap();
        let room = MAX_RECORD - (buffer.len() - 6) - r#","detail":[""]"#.len();
        for (length, fits) in [(room, true), (room + 1, false)] {
            buffer.truncate(6);
            event.detail = vec!["x".repeat(length)];
            assert_eq!(Link::START.write(&event, &mut buffer).is_ok(), fits);
            assert_eq!(buffer.len(), if fits { 6 + MAX_RECORD } else { 6 });
        }
    }

    #[test]
    fn a_head_reads_back_and_bends_nowhere() {
        let link = Link { seq: 12, hash: Hash::of(b"x") };
        let head = link.to_head();
        assert_eq!((head.len(), Link::from_head(&head)), (86, Some(link)));
        for at in 0..head.len() {
            let mut bent = head.clone();
            bent[at] ^= 0x80;
            assert_eq!(Link::from_head(&bent), None, "at {at}");
            assert_eq!(Link::from_head(&head[..at]), None);
        }
    }

    #[test]
    fn numbers_have_one_form() {
        for bad in [r#"{"seq":01,"#, r#"{"seq":0,"#, r#"{"seq":+1,"#, r#"{"seq": 1,"#, r#"{"seq":,"#, r#"{"seq":1"#, ""] {
            assert_eq!(seq_of(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(seq_of(br#"{"seq":18446744073709551615,"#), Some(u64::MAX));
    }
}
