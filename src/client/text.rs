//! Text from elsewhere, made safe for a terminal.

/// One line without control characters: line ends and tabs become a space, anything else that a terminal would obey, or
/// that reorders what is read (Unicode bidirectional controls, Trojan Source), becomes U+FFFD.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' if line.ends_with(' ') => {}
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => line.push(' '),
            c if c.is_control() || reorders(c) => line.push(char::REPLACEMENT_CHARACTER),
            c => line.push(c),
        }
    }
    line
}

fn reorders(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_and_reordering_do_not_pass() {
        assert_eq!(one_line("a\u{1b}]0;x\u{7}b\u{9b}2J\u{202e}c\u{7f}"), "a\u{fffd}]0;x\u{fffd}b\u{fffd}2J\u{fffd}c\u{fffd}");
        assert_eq!(one_line(" one\r\n\ttwo\n"), "one two");
    }

    proptest! {
        #[test]
        fn no_text_keeps_a_control_character(text in "\\PC*|.*|[\\x00-\\x9f]*") {
            let line = one_line(&text);
            prop_assert!(!line.chars().any(|c| c.is_control() || reorders(c)));
            prop_assert_eq!(one_line(&line), line);
        }
    }
}
