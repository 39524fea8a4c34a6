//! Templates over a verified identity: `spiffe://example.org/{tenant}/{claims.repository_id}`.
//!
//! A value is never escaped into place: what cannot stand where the template puts it is refused, so that no claim can
//! add a segment, a label, an attribute or a second name.

use std::fmt;

use super::{
    claim::ClaimValue,
    error::{Code, Error, Result},
    identity::Identity,
    name::RoleName,
};

/// The longest rendered text, in bytes (RFC 5280 bounds a common name at 64 characters; that check is the linter's).
pub const MAX_RENDERED: usize = 1024;

/// Where a rendered value stands, which fixes what a claim may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A segment of a URI's path: `[A-Za-z0-9._-]`, not `.` or `..` (SPIFFE ID standard, section 2.2).
    UriSegment,
    /// Part of a DNS name: `[a-z0-9-]`, no dot.
    DnsLabel,
    /// Part of a name that people read: letters, digits, space and `._@-` of ASCII.
    Text,
}

impl Place {
    fn takes(self, text: &str) -> bool {
        let bytes = || text.bytes();
        !text.is_empty()
            && match self {
                Self::UriSegment => text != "." && text != ".." && bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)),
                Self::DnsLabel => {
                    text.len() <= 63
                        && !text.starts_with('-')
                        && !text.ends_with('-')
                        && bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                }
                Self::Text => bytes().all(|b| b.is_ascii_alphanumeric() || b" ._@-".contains(&b)),
            }
    }

    fn rule(self) -> &'static str {
        match self {
            Self::UriSegment => "a URI segment takes only [A-Za-z0-9._-]",
            Self::DnsLabel => "a DNS label takes only [a-z0-9-]",
            Self::Text => "a name takes only ASCII letters, digits, space and ._@-",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Tenant,
    Role,
    Claim(String),
}

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

/// A template that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// A brace without its other half.
    #[error("a '{{' or '}}' in the template {0:?} has no other half")]
    Brace(String),
    /// A placeholder that does not exist.
    #[error("{{{0}}} is no placeholder; there are {{tenant}}, {{role}} and {{claims.NAME}}")]
    Placeholder(String),
}

impl Template {
    /// Parses a template.
    pub fn parse(source: &str) -> Result<Self, BadTemplate> {
        let brace = || BadTemplate::Brace(source.to_owned());
        let mut parts = Vec::new();
        let mut rest = source;
        while let Some(open) = rest.find(['{', '}']) {
            if rest.as_bytes()[open] == b'}' {
                return Err(brace());
            }
            if open > 0 {
                parts.push(Part::Literal(rest[..open].to_owned()));
            }
            let close = rest[open..].find('}').ok_or_else(brace)? + open;
            parts.push(Self::placeholder(&rest[open + 1..close])?);
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self { source: source.to_owned(), parts })
    }

    fn placeholder(name: &str) -> Result<Part, BadTemplate> {
        match name {
            "tenant" => Ok(Part::Tenant),
            "role" => Ok(Part::Role),
            _ => match name.strip_prefix("claims.") {
                Some(claim) if !claim.is_empty() => Ok(Part::Claim(claim.to_owned())),
                _ => Err(BadTemplate::Placeholder(name.to_owned())),
            },
        }
    }

    /// The template as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The claims that it reads.
    pub fn claims(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Claim(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Renders it for a caller; refuses a claim that is absent or whose value cannot stand in `place`.
    pub fn render(&self, place: Place, identity: &Identity, role: &RoleName) -> Result<String> {
        let mut text = String::with_capacity(self.source.len() + 32);
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Tenant => text.push_str(identity.tenant.as_str()),
                Part::Role => text.push_str(role.as_str()),
                Part::Claim(name) => text.push_str(&claim_text(name, place, identity)?),
            }
        }
        if text.len() > MAX_RENDERED {
            return Err(Error::new(
                Code::ClaimNotUsable,
                format!("the template {:?} renders to more than {MAX_RENDERED} bytes", self.source),
            ));
        }
        Ok(text)
    }
}

fn claim_text(name: &str, place: Place, identity: &Identity) -> Result<String> {
    let refuse = |why: String| Error::new(Code::ClaimNotUsable, why);
    let value = identity
        .claims()
        .and_then(|claims| claims.get(name))
        .ok_or_else(|| refuse(format!("the role needs the claim {name}, and your credential has none")))?;
    let text = match value {
        ClaimValue::String(text) => text.clone(),
        ClaimValue::Integer(number) => number.to_string(),
        ClaimValue::Boolean(_) | ClaimValue::Strings(_) => {
            return Err(refuse(format!("the claim {name} is neither a string nor an integer")));
        }
    };
    if !place.takes(&text) {
        return Err(refuse(format!("the value of the claim {name} cannot be used by this role: {}", place.rule())));
    }
    Ok(text)
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}
