//! Textual encoding (RFC 7468 section 3): certificates and keys as the text that files hold.

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// The most characters of a line.
pub const COLUMNS: usize = 64;

/// Appends what stands between two boundaries, and those. What is between is wiped, and `text` grows before it holds any of it: who wipes
/// `text` has wiped a key.
pub fn push(text: &mut String, label: &str, der: &[u8]) {
    let encoded = Zeroizing::new(STANDARD.encode(der));
    text.reserve(encoded.len() + encoded.len() / COLUMNS + 2 * label.len() + 40);
    text.extend(["-----BEGIN ", label, "-----\n"]);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(COLUMNS));
        text.extend([line, "\n"]);
        rest = more;
    }
    text.extend(["-----END ", label, "-----\n"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_hold_what_was_given() {
        for length in [0, 1, 47, 48, 49, 96, 1000] {
            let mut text = String::new();
            push(&mut text, "CERTIFICATE", &vec![7; length]);
            assert!(text.starts_with("-----BEGIN CERTIFICATE-----\n") && text.ends_with("\n-----END CERTIFICATE-----\n"));
            let body: Vec<&str> = text.lines().filter(|line| !line.starts_with('-')).collect();
            assert!(body.iter().rev().skip(1).all(|line| line.len() == COLUMNS), "{length}");
            assert_eq!(STANDARD.decode(body.concat()).unwrap(), vec![7; length]);
        }
    }
}
