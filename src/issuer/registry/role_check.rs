//! What is wrong with a role's repositories, found when it is loaded and not when somebody asks.

use super::scope::is_pattern;
use crate::model::template::Template;

/// The most repositories of a role: each lease of it carries them.
pub const MAX_REPOSITORIES: usize = 32;

/// Every fault of a role's repositories.
pub fn repository_faults(repositories: &[Template]) -> Vec<String> {
    let mut faults = Vec::new();
    if repositories.is_empty() {
        faults.push("repositories is missing: name at least one".to_owned());
    }
    if repositories.len() > MAX_REPOSITORIES {
        faults.push(format!("there are {} repositories; name at most {MAX_REPOSITORIES}, or more with one *", repositories.len()));
    }
    for template in repositories {
        let source = template.source();
        if template.names_lease() {
            faults.push(format!("{{lease}} cannot stand in the repository {source:?}: a repository outlives a lease"));
            continue;
        }
        let segments = segments(source);
        if !is_pattern(&filled(source)) {
            faults.push(format!(
                "the repository {source:?} is no name of one: segments of [a-z0-9] with single . _ or dashes inside, parted by /, and * \
                 for one whole segment"
            ));
        } else if let Some(segment) = segments.iter().find(|segment| values(segment) > 1) {
            faults.push(format!(
                "the repository {source:?} puts two values into the segment {segment:?}: callers with other values could get the same \
                 name; part them by /"
            ));
        }
    }
    faults
}

/// The template with something usual in the place of each value.
fn filled(source: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for c in source.chars() {
        match c {
            '{' => {
                inside = true;
                text.push('x');
            }
            '}' => inside = false,
            _ if inside => {}
            _ => text.push(c),
        }
    }
    text
}

/// The segments of a template; a `/` in the name of a claim parts nothing.
fn segments(source: &str) -> Vec<String> {
    let mut segments = vec![String::new()];
    let mut inside = false;
    for c in source.chars() {
        inside = (inside || c == '{') && c != '}';
        match segments.last_mut() {
            Some(last) if c != '/' || inside => last.push(c),
            _ => segments.push(String::new()),
        }
    }
    segments
}

/// How many values that depend on the caller stand in a segment; a role's own name does not.
fn values(segment: &str) -> usize {
    segment.matches('{').count() - segment.matches("{role}").count()
}
