//! The text of policies: where each begins, and its parts in its author's own words.
//!
//! This knows just enough of Cedar's tokens to cut a text into statements, scopes and conditions. It decides nothing:
//! Cedar parses each cut, and `book` checks that the cuts together are what Cedar makes of the whole.

use std::ops::Range;

/// A token (an identifier, a string with its quotes, or a sign), by its place in the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub start: usize,
    pub end: usize,
}

/// One statement of a policy file: everything up to and with its `;`.
#[derive(Debug)]
pub(super) struct Statement<'a> {
    source: &'a str,
    tokens: Vec<Token>,
}

/// The parts of a statement, as ranges over its tokens.
#[derive(Debug)]
pub(super) struct Parts {
    /// Principal, action and resource.
    pub scope: Vec<Range<usize>>,
    /// What stands in `when` (true) and `unless` (false).
    pub clauses: Vec<(bool, Range<usize>)>,
}

/// Cuts a text into statements. What follows the last `;` is one more, if it holds anything but space and comments.
pub(super) fn statements(source: &str) -> Vec<Statement<'_>> {
    let mut all = Vec::new();
    let mut tokens = Vec::new();
    for token in scan(source) {
        let ends = &source[token.start..token.end] == ";";
        tokens.push(token);
        if ends {
            all.push(Statement { source, tokens: std::mem::take(&mut tokens) });
        }
    }
    if !tokens.is_empty() {
        all.push(Statement { source, tokens });
    }
    all
}

impl<'a> Statement<'a> {
    /// Its text, from its first token to its last.
    pub fn text(&self) -> &'a str {
        &self.source[self.start()..self.tokens.last().map_or(0, |t| t.end)]
    }

    /// Where it begins, in bytes.
    pub fn start(&self) -> usize {
        self.tokens.first().map_or(0, |t| t.start)
    }

    /// The source of one of its tokens; empty past the end.
    pub fn token(&self, at: usize) -> &'a str {
        self.tokens.get(at).map_or("", |t| &self.source[t.start..t.end])
    }

    /// How deep its brackets nest.
    pub fn nesting(&self) -> usize {
        let mut depth: usize = 0;
        let mut deepest = 0;
        for at in 0..self.tokens.len() {
            match self.token(at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(depth);
        }
        deepest
    }

    /// How many operators it has: what makes Cedar's tree deeper without a bracket.
    pub fn operators(&self) -> usize {
        let deepens = |at: &usize| matches!(self.token(*at), "&&" | "||" | "+" | "-" | "*" | "!" | "." | "[" | "if" | "::");
        (0..self.tokens.len()).filter(deepens).count()
    }

    /// Where the words `prefix` are followed by a name or string that means `name`; in bytes of the whole text.
    pub fn find(&self, prefix: &[&str], name: &str) -> Option<usize> {
        let quoted = format!("{name:?}");
        (0..self.tokens.len()).find_map(|at| {
            let matches = prefix.iter().enumerate().all(|(n, word)| self.token(at + n) == *word);
            let here = at + prefix.len();
            let found = matches && (self.token(here) == name || self.token(here) == quoted);
            found.then(|| self.tokens[here].start)
        })
    }

    /// The words of a range of tokens, without comments, in one line.
    pub fn words(&self, range: Range<usize>) -> String {
        let mut words = String::new();
        for at in range.clone() {
            let token = self.tokens[at];
            if at > range.start && self.tokens[at - 1].end < token.start {
                words.push(' ');
            }
            words.push_str(&self.source[token.start..token.end]);
        }
        words
    }

    /// Its scope and its clauses; none when it is no policy.
    pub fn parts(&self) -> Option<Parts> {
        let open = (0..self.tokens.len()).find(|at| matches!(self.token(*at), "permit" | "forbid") && self.token(at + 1) == "(")? + 1;
        let close = self.closing(open)?;
        let mut clauses = Vec::new();
        let mut at = close + 1;
        while matches!(self.token(at), "when" | "unless") {
            let end = self.closing(at + 1)?;
            clauses.push((self.token(at) == "when", at + 2..end));
            at = end + 1;
        }
        let mut scope = self.split(open + 1..close, ",");
        scope.retain(|part| !part.is_empty());
        Some(Parts { scope, clauses })
    }

    /// The conjuncts of a `when`, or the disjuncts of an `unless`: what must hold, or must not, each for itself.
    pub fn conditions(&self, when: bool, range: Range<usize>) -> Vec<Range<usize>> {
        let range = self.without_parentheses(range);
        let (joint, other) = if when { ("&&", "||") } else { ("||", "&&") };
        let opaque = range.is_empty() || self.token(range.start) == "if" || (when && self.split(range.clone(), other).len() > 1);
        let parts = if opaque { vec![range.clone()] } else { self.split(range.clone(), joint) };
        if parts.len() <= 1 {
            return vec![range];
        }
        parts.into_iter().flat_map(|part| self.conditions(when, part)).collect()
    }

    fn without_parentheses(&self, range: Range<usize>) -> Range<usize> {
        let wrapped = range.len() > 2 && self.token(range.start) == "(" && self.closing(range.start) == Some(range.end - 1);
        if wrapped { self.without_parentheses(range.start + 1..range.end - 1) } else { range }
    }

    /// Splits at a sign that stands in no bracket of the range.
    fn split(&self, range: Range<usize>, sign: &str) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let (mut depth, mut start) = (0_usize, range.start);
        for at in range.clone() {
            match self.token(at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth = depth.saturating_sub(1),
                token if depth == 0 && token == sign => {
                    parts.push(start..at);
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(start..range.end);
        parts
    }

    fn closing(&self, open: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for at in open..self.tokens.len() {
            match self.token(at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        return Some(at);
                    }
                }
                _ if depth == 0 => return None,
                _ => {}
            }
        }
        None
    }
}

fn scan(source: &str) -> impl Iterator<Item = Token> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = &source[at..];
            let first = rest.chars().next()?;
            if first.is_whitespace() {
                at += first.len_utf8();
            } else if rest.starts_with("//") {
                at += rest.find(['\n', '\r']).unwrap_or(rest.len());
            } else {
                let len = measure(rest, first);
                at += len;
                return Some(Token { start: at - len, end: at });
            }
        }
    })
}

/// The length of the token that `rest` begins with.
fn measure(rest: &str, first: char) -> usize {
    if first == '"' {
        return string_length(rest).unwrap_or(1);
    }
    let word = |c: char| c.is_alphanumeric() || c == '_';
    if word(first) {
        return rest.find(|c| !word(c)).unwrap_or(rest.len());
    }
    let double = ["&&", "||", "==", "!=", "<=", ">=", "::"].iter().any(|sign| rest.starts_with(sign));
    if double { 2 } else { first.len_utf8() }
}

fn string_length(rest: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(text: &str) -> Vec<String> {
        let all = statements(text);
        let parts = all[0].parts().unwrap();
        let each = parts.clauses.iter().flat_map(|(when, range)| all[0].conditions(*when, range.clone()));
        each.map(|range| all[0].words(range)).collect()
    }

    #[test]
    fn a_text_is_cut_at_its_semicolons_and_not_at_those_in_strings_or_comments() {
        let text =
            "// a; b\npermit(principal, action, resource) when { context.x == \"; \\\" ;\" }; // ;\n forbid (principal,action,resource);";
        let all = statements(text);
        assert_eq!(all.len(), 2);
        assert!(all[0].text().starts_with("permit") && all[0].text().ends_with("};"));
        assert_eq!(all[1].text(), "forbid (principal,action,resource);");
    }

    #[test]
    fn conjuncts_come_out_in_their_own_words() {
        let text = r#"permit(principal, action, resource)
            when { a.x == "&&" // not this && that
                   && (b && (c || d)) && [1,2].contains(e) }
            unless { f || g && h || (i || j) }
            when { if k then l && m else n } when { o || p && q };"#;
        let expected =
            [r#"a.x == "&&""#, "b", "c || d", "[1,2].contains(e)", "f", "g && h", "i", "j", "if k then l && m else n", "o || p && q"];
        assert_eq!(conditions(text), expected);
    }

    #[test]
    fn an_unfinished_statement_has_no_parts() {
        for text in ["permit(", "permit)", "permit(a,b,c) when", "permit(a,b,c) when {", "\"", "permit(a,b,c) unless } {;", ";"] {
            for statement in statements(text) {
                assert!(statement.parts().is_none_or(|parts| parts.clauses.is_empty()), "{text}");
            }
        }
    }
}
