//! Reads the paths that a source file uses: `use` trees and paths in code, without comments, strings and test modules.

use std::collections::{HashMap, HashSet};

/// A path in the source, absolute as far as it can be told: `crate::store::LeaseStore`, `redis::Script`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// From 1.
    pub line: usize,
    /// The segments.
    pub path: Vec<String>,
    /// Whether the source reaches up with `super::super`.
    pub reaches_up: bool,
}

/// The paths that production code in a file uses. `file` is its path from the repository's root.
pub fn used(file: &str, source: &str) -> Vec<Used> {
    let tokens = without_tests(&tokens(source));
    let here = module_of(file);
    let children: HashSet<&str> = tokens.windows(2).filter(|pair| pair[0].text == "mod").map(|pair| pair[1].text.as_str()).collect();
    let (imports, raw) = (imports(&tokens), inline(&tokens));
    let absolute = |path: &[String], names: &HashMap<String, Vec<String>>| resolve(path, &here, &children, names);
    let none = HashMap::new();
    let mut names = HashMap::new();
    for import in &imports {
        names.insert(import.name.clone(), absolute(&import.path, &none));
    }
    let imported = imports.iter().map(|import| (import.line, &import.path, absolute(&import.path, &none)));
    let inlined = raw.iter().map(|(line, path)| (*line, path, absolute(path, &names)));
    imported
        .chain(inlined)
        .map(|(line, written, path)| Used { line, path, reaches_up: written.starts_with(&["super".into(), "super".into()]) })
        .collect()
}

/// `src/store/redis/mod.rs` is `crate::store::redis`.
fn module_of(file: &str) -> Vec<String> {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    let mut module = vec!["crate".to_owned()];
    if !matches!(inner, "lib" | "main") {
        module.extend(inner.split('/').map(Into::into));
    }
    module
}

fn resolve(path: &[String], here: &[String], children: &HashSet<&str>, names: &HashMap<String, Vec<String>>) -> Vec<String> {
    let ups = path.iter().take_while(|segment| *segment == "super").count();
    let rest = &path[ups..];
    let first = rest.first().map(String::as_str);
    let mut found = match first {
        _ if ups > 0 => here[..here.len().saturating_sub(ups)].to_vec(),
        Some("self") => return [here, &rest[1..]].concat(),
        // Both binaries call the library by its name.
        Some("daypass") => return [&["crate".into()], &rest[1..]].concat(),
        Some(name) if names.contains_key(name) => return [names[name].as_slice(), &rest[1..]].concat(),
        Some(name) if children.contains(name) => here.to_vec(),
        _ => Vec::new(),
    };
    found.extend_from_slice(rest);
    found
}

struct Import {
    line: usize,
    path: Vec<String>,
    name: String,
}

/// Every leaf of every `use` tree.
fn imports(tokens: &[Token]) -> Vec<Import> {
    let mut found = Vec::new();
    for (at, _) in tokens.iter().enumerate().filter(|(_, token)| token.text == "use") {
        tree(tokens, at + 1, &[], &mut found);
    }
    found
}

/// Reads one tree from `at`, and gives where it ends: at `,`, `}` or `;`.
fn tree(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Import>) -> usize {
    let line = tokens.get(at).map_or(0, |token| token.line);
    let mut path = prefix.to_vec();
    let mut name = None;
    while let Some(token) = tokens.get(at) {
        match token.text.as_str() {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}" && token.text != ";") {
                    at = tree(tokens, at, &path, found);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
                }
                return at + 1;
            }
            "," | "}" | ";" => break,
            "as" => {
                name = tokens.get(at + 1).map(|token| token.text.clone());
                at += 1;
            }
            "::" => {}
            // `use a::{self, b}` names `a`.
            "self" if !path.is_empty() => {}
            word => path.push(word.into()),
        }
        at += 1;
    }
    if let Some(last) = path.last() {
        let name = name.unwrap_or_else(|| last.clone());
        found.push(Import { line, path, name });
    }
    at
}

/// Every path of two segments and more outside `use`.
fn inline(tokens: &[Token]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at].text == "use" {
            while tokens.get(at).is_some_and(|token| token.text != ";") {
                at += 1;
            }
        } else if tokens[at].is_word() {
            let (line, mut path) = (tokens[at].line, vec![tokens[at].text.clone()]);
            while tokens.get(at + 1).is_some_and(|token| token.text == "::") && tokens.get(at + 2).is_some_and(Token::is_word) {
                path.push(tokens[at + 2].text.clone());
                at += 2;
            }
            if path.len() > 1 {
                found.push((line, path));
            }
        }
        at += 1;
    }
    found
}

/// Leaves out what follows `#[cfg(test)]`: a module with its body, or any other item up to its end.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let marked = tokens[at..].iter().zip(MARK).filter(|(token, mark)| token.text == *mark).count() == MARK.len();
        if !marked {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let mut depth = 0_usize;
        at += MARK.len();
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token.text.as_str() {
                "{" => depth += 1,
                "}" if depth <= 1 => break,
                "}" => depth -= 1,
                ";" if depth == 0 => break,
                _ => {}
            }
        }
    }
    kept
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    line: usize,
    text: String,
}

impl Token {
    fn is_word(&self) -> bool {
        self.text.starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

/// Words, `::`, and every other sign by itself; comments, strings and characters are left out.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let (mut at, mut line, mut found) = (0, 1, Vec::new());
    while at < chars.len() {
        let end = token_end(&chars, at);
        let text: String = chars[at..end].iter().collect();
        let skipped = text.starts_with("//") || text.starts_with("/*") || text.contains(['"', '\'']) || text.trim().is_empty();
        let newlines = text.matches('\n').count();
        if !skipped {
            found.push(Token { line, text });
        }
        line += newlines;
        at = end;
    }
    found
}

fn token_end(chars: &[char], at: usize) -> usize {
    let next = |offset: usize| chars.get(at + offset).copied().unwrap_or('\n');
    let until = |from: usize, stop: fn(char) -> bool| (from..chars.len()).find(|&here| stop(chars[here])).unwrap_or(chars.len());
    match (chars[at], next(1)) {
        ('/', '/') => until(at, |sign| sign == '\n'),
        ('/', '*') => comment_end(chars, at),
        ('"', _) => string_end(chars, at + 1),
        ('b' | 'c', '"') => string_end(chars, at + 2),
        ('r', '"' | '#') | ('b' | 'c', 'r') if raw_string_end(chars, at).is_some() => raw_string_end(chars, at).unwrap_or(at + 1),
        // 'x' and '\n' are characters; 'a in <'a> is a lifetime.
        ('\'', '\\') => until(at + 3, |sign| sign == '\'') + 1,
        ('\'', _) if next(2) == '\'' => at + 3,
        ('\'', _) => until(at + 1, |sign| !sign.is_alphanumeric() && sign != '_').max(at + 1),
        (':', ':') => at + 2,
        (sign, _) if sign.is_alphanumeric() || sign == '_' => until(at, |sign| !sign.is_alphanumeric() && sign != '_'),
        _ => at + 1,
    }
    .min(chars.len())
}

fn comment_end(chars: &[char], at: usize) -> usize {
    let (mut here, mut depth) = (at, 0_usize);
    while here + 1 < chars.len() {
        match (chars[here], chars[here + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') if depth == 1 => return here + 2,
            ('*', '/') => depth -= 1,
            _ => {
                here += 1;
                continue;
            }
        }
        here += 2;
    }
    chars.len()
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The end of `r"…"`, `r#"…"#`, `br"…"`; none when it is no raw string.
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    let r = (at..at + 2).find(|&here| chars.get(here) == Some(&'r'))?;
    let hashes = chars[r + 1..].iter().take_while(|sign| **sign == '#').count();
    let open = r + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |here: usize| chars[here] == '"' && chars[here + 1..].iter().take_while(|sign| **sign == '#').count() >= hashes;
    (open + 1..chars.len()).find(|&here| closes(here)).map(|here| here + 1 + hashes)
}

#[test]
fn reads_use_trees_inline_paths_and_names() {
    let source = r##"
        //! redis::comment
        use crate::{store::{self, LeaseStore as Port}, model::Name};
        use super::super::audit; /* use redis::X; */
        mod child;
        const TEXT: &str = "redis::text"; const RAW: &str = r#"a " redis::raw"#; const SIGN: char = '"';
        fn f<'a>(x: &'a str) -> ::redis::Client { store::open(child::g(), self::h(), Vec::<u8>::new(), '\'') }
        #[cfg(test)]
        mod tests { use redis::Y; fn f() { rcgen::z() } }
        fn after() { daypass::vend::issue() }
    "##;
    let found: Vec<String> =
        used("src/room/part.rs", source).iter().map(|used| format!("{}:{}", used.line, used.path.join("::"))).collect();
    let wanted = [
        "3:crate::store",
        "3:crate::store::LeaseStore",
        "3:crate::model::Name",
        "4:crate::audit",
        "7:redis::Client",
        "7:crate::store::open",
        "7:crate::room::part::child::g",
        "7:crate::room::part::h",
        "10:crate::vend::issue",
    ];
    assert_eq!(found, wanted);
    assert_eq!(used("src/a/b.rs", source).iter().filter(|used| used.reaches_up).count(), 1);
}
