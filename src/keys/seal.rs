//! Seals keys under a key from a file: AES-256-GCM (NIST SP 800-38D), a fresh random nonce for each sealing. So few are ever sealed that
//! nonces do not meet.
//!
//! A sealed key is: one byte that says the form, eight that name the wrapping key, twelve of nonce, the ciphertext, sixteen of tag. What
//! stands before the nonce is authenticated with the context.

use std::{fmt, path::Path};

use async_trait::async_trait;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::{Zeroize, Zeroizing};

use super::{KeyWrapper, private_file};
use crate::{
    clock,
    model::{
        error::{Code, Error, Result},
        hex,
    },
};

/// How long a wrapping key is, in bytes.
pub const KEY_BYTES: usize = 32;

/// The most wrapping keys of a service: the one in use, and those that it takes the place of.
pub const MAX_WRAPPING_KEYS: usize = 8;

/// The form of what this version seals.
const FORM: u8 = 1;

/// How long the name of a wrapping key is, in bytes.
const ID_BYTES: usize = 8;

const HEAD_BYTES: usize = 1 + ID_BYTES;

/// Wrapping keys from files. The first wraps; each unwraps what it wrapped, so that a new one can take over.
pub struct FileKek {
    keys: Vec<WrappingKey>,
}

struct WrappingKey {
    /// The first bytes of SHA-256 over a text and the key: it names the key and tells nothing of it.
    id: [u8; ID_BYTES],
    key: LessSafeKey,
}

impl FileKek {
    /// Reads wrapping keys from files: 32 random bytes in base64 (RFC 4648 section 4) each.
    ///
    /// # Errors
    /// What is wrong with them, in words that hold nothing of them.
    pub fn load<P: AsRef<Path>>(paths: &[P]) -> std::result::Result<Self, String> {
        let keys: Vec<_> = paths.iter().map(|path| read(path.as_ref())).collect::<std::result::Result<_, _>>()?;
        Self::new(&keys)
    }

    /// Over wrapping keys.
    ///
    /// # Errors
    /// There is none, there are too many, one stands there twice.
    pub fn new(keys: &[Zeroizing<[u8; KEY_BYTES]>]) -> std::result::Result<Self, String> {
        if keys.is_empty() || keys.len() > MAX_WRAPPING_KEYS {
            return Err(format!("name 1 to {MAX_WRAPPING_KEYS} wrapping keys"));
        }
        let mut own: Vec<WrappingKey> = Vec::with_capacity(keys.len());
        for key in keys {
            let id = id_of(key);
            if own.iter().any(|other| other.id == id) {
                return Err("two of the wrapping keys are the same key".to_owned());
            }
            let key = UnboundKey::new(&AES_256_GCM, &key[..]).map_err(|_| "AES-256-GCM does not take a wrapping key".to_owned())?;
            own.push(WrappingKey { id, key: LessSafeKey::new(key) });
        }
        Ok(Self { keys: own })
    }

    /// A new wrapping key as the text of its file.
    pub fn generate() -> Zeroizing<String> {
        let key = Zeroizing::new(clock::random::<KEY_BYTES>());
        let mut text = Zeroizing::new(String::with_capacity(KEY_BYTES * 2));
        STANDARD.encode_string(&key[..], &mut text);
        text.push('\n');
        text
    }

    fn seal(&self, context: &str, key: &[u8]) -> Option<Vec<u8>> {
        let WrappingKey { id, key: wrapping } = self.keys.first()?;
        let nonce = clock::random::<NONCE_LEN>();
        let mut sealed = Vec::with_capacity(HEAD_BYTES + NONCE_LEN + key.len() + AES_256_GCM.tag_len());
        sealed.push(FORM);
        sealed.extend(id);
        let aad = Aad::from([&sealed[..], context.as_bytes()].concat());
        sealed.extend(nonce);
        sealed.extend(key);
        let (_, plain) = sealed.split_at_mut(HEAD_BYTES + NONCE_LEN);
        match wrapping.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, plain) {
            Ok(tag) => {
                sealed.extend(tag.as_ref());
                Some(sealed)
            }
            Err(_) => {
                sealed.zeroize();
                None
            }
        }
    }

    fn open(&self, context: &str, sealed: &[u8]) -> std::result::Result<Zeroizing<Vec<u8>>, String> {
        let (id, head, rest) = parse(sealed).ok_or("it is not sealed in a form that this server knows")?;
        let wrapping = self.keys.iter().find(|key| key.id == id).ok_or_else(|| {
            format!("it is sealed under the wrapping key {}, which is none of this server's ([keys] wrapping_keys)", hex::encode(&id))
        })?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or("it is cut off")?;
        let aad = Aad::from([head, context.as_bytes()].concat());
        // Room for all of it from the beginning; what is left of the tag is wiped with the rest.
        let mut opened = Zeroizing::new(ciphertext.to_vec());
        let length = match wrapping.key.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut opened) {
            Ok(plain) => plain.len(),
            Err(_) => return Err("it was changed, or put in another key's place".to_owned()),
        };
        opened.truncate(length);
        Ok(opened)
    }
}

/// Nothing of the keys.
impl fmt::Debug for FileKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| hex::encode(&key.id))).finish()
    }
}

#[async_trait]
impl KeyWrapper for FileKek {
    async fn wrap(&self, context: &str, key: &[u8]) -> Result<Vec<u8>> {
        self.seal(context, key).ok_or_else(|| Error::internal("a key could not be sealed"))
    }

    async fn unwrap(&self, context: &str, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        self.open(context, wrapped).map_err(|why| Error::new(Code::IssuerUnavailable, "a key of the service does not open").because(why))
    }

    fn is_current(&self, wrapped: &[u8]) -> bool {
        parse(wrapped).is_some_and(|(id, ..)| self.keys.first().is_some_and(|first| first.id == id))
    }
}

/// The name of the wrapping key, what is authenticated of the head, and what follows it.
fn parse(sealed: &[u8]) -> Option<([u8; ID_BYTES], &[u8], &[u8])> {
    let (head, rest) = sealed.split_at_checked(HEAD_BYTES)?;
    let [FORM, id @ ..] = head else { return None };
    Some((id.try_into().ok()?, head, rest))
}

fn id_of(key: &[u8; KEY_BYTES]) -> [u8; ID_BYTES] {
    let text = Zeroizing::new([b"daypass wrapping key ".as_slice(), key].concat());
    let digest = digest(&SHA256, &text);
    let mut id = [0; ID_BYTES];
    id.copy_from_slice(&digest.as_ref()[..ID_BYTES]);
    id
}

fn read(path: &Path) -> std::result::Result<Zeroizing<[u8; KEY_BYTES]>, String> {
    let text = private_file::read(path)?;
    let refuse = || {
        let name = path.display();
        format!(
            "{name}: it does not hold {KEY_BYTES} bytes in base64; make one with: (umask 077; openssl rand -base64 {KEY_BYTES} > {name})"
        )
    };
    // Room for what a decoder may want beyond the key.
    let mut bytes = Zeroizing::new([0; 2 * KEY_BYTES]);
    let length = STANDARD.decode_slice(text.trim_ascii(), &mut bytes[..]).map_err(|_| refuse())?;
    let key = bytes.get(..length).and_then(|key| <[u8; KEY_BYTES]>::try_from(key).ok());
    key.map(Zeroizing::new).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn kek(bytes: &[u8]) -> FileKek {
        FileKek::new(&bytes.iter().map(|byte| Zeroizing::new([*byte; KEY_BYTES])).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_in_its_place_alone() {
        let kek = kek(&[1]);
        let sealed = kek.seal("jwt-1", b"secret").unwrap();
        assert_eq!(&kek.open("jwt-1", &sealed).unwrap()[..], b"secret");
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert!(kek.open("jwt-2", &sealed).unwrap_err().contains("another key's place"));
        assert_ne!(kek.seal("jwt-1", b"secret"), kek.seal("jwt-1", b"secret"), "a nonce was used twice");
    }

    #[test]
    fn another_wrapping_key_does_not_open_it_and_says_which_would() {
        let sealed = kek(&[1]).seal("jwt-1", b"secret").unwrap();
        let why = kek(&[2]).open("jwt-1", &sealed).unwrap_err();
        assert!(why.contains(&hex::encode(&id_of(&[1; KEY_BYTES]))), "{why}");
        // With the name of another key put in, that key does not open it either.
        let mut renamed = sealed.clone();
        renamed[1..HEAD_BYTES].copy_from_slice(&id_of(&[2; KEY_BYTES]));
        assert!(kek(&[2]).open("jwt-1", &renamed).unwrap_err().contains("it was changed"));
    }

    #[test]
    fn a_wrapping_key_rotates() {
        let (old, both, new) = (kek(&[1]), kek(&[2, 1]), kek(&[2]));
        let before = old.seal("jwt-1", b"secret").unwrap();
        assert!(old.is_current(&before) && !both.is_current(&before));
        let opened = both.open("jwt-1", &before).unwrap();
        let after = both.seal("jwt-1", &opened).unwrap();
        assert!(both.is_current(&after) && new.is_current(&after));
        assert_eq!(new.open("jwt-1", &after).unwrap(), opened);
        assert!(old.open("jwt-1", &after).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_changed_byte_opens(
            key in prop::collection::vec(any::<u8>(), 0..300), context in "\\PC{0,40}", at in any::<prop::sample::Index>(), bit in 0..8_u8,
        ) {
            let kek = kek(&[3]);
            let sealed = kek.seal(&context, &key).unwrap();
            prop_assert_eq!(&kek.open(&context, &sealed).unwrap()[..], &key[..]);
            let mut flipped = sealed.clone();
            flipped[at.index(sealed.len())] ^= 1 << bit;
            prop_assert!(kek.open(&context, &flipped).is_err());
            prop_assert!(kek.open(&context, &sealed[..at.index(sealed.len())]).is_err());
            let other = format!("{context}x");
            prop_assert!(kek.open(&other, &sealed).is_err());
        }

        #[test]
        fn nothing_that_is_not_sealed_ends_the_process(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(kek(&[3]).open("jwt-1", &bytes).is_err());
        }
    }

    #[test]
    fn files_are_read_with_care() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wrap.key");
        let load = |content: &str, mode: u32| {
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            FileKek::load(&[&path])
        };
        let good = FileKek::generate();
        let sealed = load(&good, 0o600).unwrap().seal("a", b"b").unwrap();
        assert_eq!(&load(good.trim_end(), 0o400).unwrap().open("a", &sealed).unwrap()[..], b"b");
        assert!(load(&good, 0o644).unwrap_err().contains("everybody on this machine"));
        for bad in ["", "AAAA", &good[..40], "not base64!", &format!("{}{}", good.trim_end(), good.trim_end())] {
            let fault = load(bad, 0o600).unwrap_err();
            assert!(fault.contains("32 bytes in base64") && (bad.is_empty() || !fault.contains(bad)), "{fault}");
        }
        load(&good, 0o600).unwrap();
        assert!(FileKek::load(&[&path, &path]).unwrap_err().contains("the same key"));
        assert!(FileKek::load::<&Path>(&[]).unwrap_err().contains("1 to 8"));
        assert!(FileKek::new(&(0..9).map(|byte| Zeroizing::new([byte; KEY_BYTES])).collect::<Vec<_>>()).is_err());
    }

    #[test]
    fn it_prints_names_alone() {
        let key = [7; KEY_BYTES];
        assert_eq!(format!("{:?}", kek(&[7])), format!("[{:?}]", hex::encode(&id_of(&key))));
        assert_ne!(&id_of(&key)[..], &digest(&SHA256, &key).as_ref()[..ID_BYTES], "a digest of the bare key may be in use elsewhere");
    }
}
