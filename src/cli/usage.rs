//! A command line that does not parse: one line that says what to do, as for any other error.

use std::{ffi::OsString, io::Write};

use clap::error::ErrorKind;

use super::{exit::Exit, output};
use crate::client::{error::Error, text::one_line};

/// Tells what clap says. Help and version are no errors, and keep their form.
pub fn tell(error: &clap::Error, as_json: bool) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed pipe ends quietly.
            let _ = write!(std::io::stdout(), "{}", error.render());
            Exit::Done
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !as_json => {
            let _ = write!(std::io::stderr(), "{}", error.render());
            Exit::Usage
        }
        _ => {
            output::error(&Error::usage(message(&error.render().to_string())), as_json);
            Exit::Usage
        }
    }
}

/// Whether the words ask for JSON, as far as can be told when they do not parse.
pub fn wants_json(words: &[OsString]) -> bool {
    let is = |word: Option<&OsString>, text: &str| word.is_some_and(|word| word == text);
    words.iter().enumerate().any(|(at, word)| match word.to_str() {
        Some("-ojson" | "-o=json" | "--output=json") => true,
        Some("-o" | "--output") => is(words.get(at + 1), "json"),
        _ => false,
    })
}

/// The first paragraph and the tips, on one line; where the help is, instead of the usage.
fn message(rendered: &str) -> String {
    let paragraphs: Vec<_> = rendered.split("\n\n").map(one_line).collect();
    let mut parts = Vec::new();
    for paragraph in &paragraphs {
        if let Some(text) = paragraph.strip_prefix("error: ") {
            parts.push(text.to_owned());
        } else if paragraph.starts_with("tip: ") || paragraph.starts_with('[') {
            parts.push(paragraph.clone());
        }
    }
    let usage = paragraphs.iter().find_map(|paragraph| paragraph.strip_prefix("Usage: "));
    let command: Vec<_> =
        usage.unwrap_or("daypass").split(' ').take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect();
    parts.push(format!("see `{} --help`", command.join(" ")));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{super::args::Args, *};

    fn told(line: &str) -> String {
        message(&Args::try_parse_from(line.split(' ')).unwrap_err().render().to_string())
    }

    #[test]
    fn a_usage_error_is_one_line_with_the_way_to_the_help() {
        let text = told("daypass lease get");
        assert!(text.contains("<ID>") && text.ends_with("see `daypass lease get --help`") && !text.contains('\n'), "{text}");
        let text = told("daypass issue web --tll 5m");
        assert!(text.contains("--tll") && text.contains("--ttl") && text.ends_with("see `daypass issue --help`"), "{text}");
        let text = told("daypass issue web --ttl soon");
        assert!(text.contains("write a span like 15m"), "{text}");
        let text = told("daypass isue web");
        assert!(text.contains("'isue'") && text.contains("'issue'"), "{text}");
    }

    #[test]
    fn json_is_seen_in_words_that_do_not_parse() {
        let wants = |line: &str| wants_json(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        for line in ["daypass issue -o json", "daypass -ojson", "daypass x --output=json", "daypass x --output json --bad"] {
            assert!(wants(line), "{line}");
        }
        for line in ["daypass issue json", "daypass issue -o text", "daypass -o"] {
            assert!(!wants(line), "{line}");
        }
    }
}
