//! Templates over a verified identity: `spiffe://example.org/{tenant}/{claims.repository_id}`.
//!
//! A value is never escaped into place: what cannot stand where the template puts it is refused, so that no claim can
//! add a segment, a label, an attribute or a second name.

use std::fmt;

use super::{
    claim::ClaimValue,
    error::{Code, Error, Result},
    identity::Identity,
    lease::LeaseId,
    name::{AgentName, RoleName, TenantName},
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
    /// Part of a session name, a source identity: `[A-Za-z0-9+=,.@_-]` (STS API reference, `RoleSessionName`).
    SessionName,
    /// Part of the value of a session tag: letters and digits of ASCII, space and `_.:/=+-@` (STS API reference, `Tag`).
    TagValue,
    /// Part of an external id: `[A-Za-z0-9+=,.@:/_-]` (STS API reference, `ExternalId`).
    ExternalId,
    /// Part of a resource or a condition in a policy document: `[A-Za-z0-9._@=+-]`. No `*`, `?` and `$`, which mean more than themselves
    /// there, and no `/` and `:`, which would add a segment.
    PolicyValue,
    /// One segment of a repository's name: `[a-z0-9]` with `.`, `_`, `__` or dashes inside (OCI distribution specification, `<name>`).
    RepositorySegment,
    /// Part of a claim's value: printable ASCII without quotes and backslash.
    ClaimText,
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
                Self::SessionName => bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b)),
                Self::TagValue => bytes().all(|b| b.is_ascii_alphanumeric() || b" _.:/=+-@".contains(&b)),
                Self::ExternalId => bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@:/_-".contains(&b)),
                Self::PolicyValue => text != "." && text != ".." && bytes().all(|b| b.is_ascii_alphanumeric() || b"._@=+-".contains(&b)),
                Self::RepositorySegment => is_repository_segment(text),
                Self::ClaimText => bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\'),
            }
    }

    /// Whether two values must be told apart in what is rendered: everywhere but in a name, which is for people.
    fn keeps_apart(self) -> bool {
        !matches!(self, Self::Text)
    }

    fn rule(self) -> &'static str {
        match self {
            Self::UriSegment => "a URI segment takes only [A-Za-z0-9._-]",
            Self::DnsLabel => "a DNS label takes only [a-z0-9-]",
            Self::Text => "a name takes only ASCII letters, digits, space and ._@-",
            Self::SessionName => "a session name takes only ASCII letters, digits and +=,.@_-",
            Self::TagValue => "a session tag takes only ASCII letters, digits, space and _.:/=+-@",
            Self::ExternalId => "an external id takes only ASCII letters, digits and +=,.@:/_-",
            Self::PolicyValue => "a policy takes only ASCII letters, digits and ._@=+-",
            Self::RepositorySegment => "a repository takes only [a-z0-9], with single . _ or dashes inside",
            Self::ClaimText => "a claim takes only printable ASCII without quotes and backslash",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Tenant,
    Role,
    Lease,
    EnrollmentName,
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
    #[error("{{{0}}} is no placeholder; there are {{tenant}}, {{role}}, {{lease}} and {{claims.NAME}}")]
    Placeholder(String),
    /// `${…}` that is none of AWS' policy variables.
    #[error("${{{0}}} is no policy variable of AWS: it names a key like aws:username, or is one of * ? $")]
    Variable(String),
    /// The name of an enrolment in a role that is not for enrolment.
    #[error("{{enrollment.name}} stands in the names of roles for first identities only (kind x509, enrollment = true)")]
    Enrollment,
    /// The lease's id where there is none yet.
    #[error("{{lease}} cannot stand in {0:?}")]
    Lease(String),
    /// Two placeholders whose values would run together.
    #[error("{0:?} has two placeholders with no mark between them that could tell their values apart; put one there, such as / or :")]
    RunTogether(String),
}

impl Template {
    /// Parses a template.
    pub fn parse(source: &str) -> Result<Self, BadTemplate> {
        let template = Self::parse_for_enrollment(source)?;
        if template.names_enrollment() { Err(BadTemplate::Enrollment) } else { Ok(template) }
    }

    /// The same for a role for first identities, in which `{enrollment.name}` may stand.
    pub fn parse_for_enrollment(source: &str) -> Result<Self, BadTemplate> {
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

    /// Parses a template of a policy of AWS, in which AWS' own variables (`${aws:PrincipalTag/team}`, `${*}`) stay as they are written;
    /// refused as by [`Template::parse_for`] when values would run together.
    pub fn parse_policy(source: &str) -> Result<Self, BadTemplate> {
        let mut parts = Vec::new();
        let mut rest = source;
        while let Some(open) = rest.find("${") {
            let close = rest[open..].find('}').ok_or_else(|| BadTemplate::Brace(source.to_owned()))? + open;
            let variable = &rest[open + 2..close];
            if !is_policy_variable(variable) {
                return Err(BadTemplate::Variable(variable.to_owned()));
            }
            parts.append(&mut Self::parse(&rest[..open])?.parts);
            parts.push(Part::Literal(rest[open..=close].to_owned()));
            rest = &rest[close + 1..];
        }
        parts.append(&mut Self::parse(rest)?.parts);
        let template = Self { source: source.to_owned(), parts };
        template.marks()?;
        Ok(template)
    }

    /// Parses a template for a place: one whose values would run together there is refused, so that no two callers with different values
    /// render to the same text.
    pub fn parse_for(place: Place, source: &str) -> Result<Self, BadTemplate> {
        let template = Self::parse(source)?;
        if place.keeps_apart() {
            template.marks()?;
        }
        Ok(template)
    }

    fn placeholder(name: &str) -> Result<Part, BadTemplate> {
        match name {
            "tenant" => Ok(Part::Tenant),
            "role" => Ok(Part::Role),
            "lease" => Ok(Part::Lease),
            "enrollment.name" => Ok(Part::EnrollmentName),
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

    /// Whether it renders to itself, whoever asks.
    pub fn is_literal(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Literal(_)))
    }

    /// Whether `{lease}` stands in it.
    pub fn names_lease(&self) -> bool {
        self.parts.contains(&Part::Lease)
    }

    /// Whether `{enrollment.name}` stands in it.
    pub fn names_enrollment(&self) -> bool {
        self.parts.contains(&Part::EnrollmentName)
    }

    /// Whether `*` or `?` stands directly after a placeholder: as a pattern the rendered text covers longer values, too.
    pub fn is_open_ended(&self) -> bool {
        self.parts.windows(2).any(|pair| match pair {
            [Part::Literal(_), _] => false,
            [_, Part::Literal(next)] => next.starts_with(['*', '?']),
            _ => false,
        })
    }

    /// The template with the letter "a", which may stand anywhere, in each place: what is no name then is none for anybody.
    pub fn sample(&self) -> String {
        let texts = self.parts.iter().map(|part| match part {
            Part::Literal(literal) => literal.as_str(),
            Part::Tenant | Part::Role | Part::Lease | Part::EnrollmentName | Part::Claim(_) => "a",
        });
        texts.collect()
    }

    /// Renders it for a caller; refuses a claim that is absent or whose value cannot stand in `place`, and `{lease}`.
    pub fn render(&self, place: Place, identity: &Identity, role: &RoleName) -> Result<String> {
        self.fill(place, identity, role, None, None)
    }

    /// The same for an agent whose name is known from the certificate that it renews.
    pub fn render_for_agent(&self, place: Place, identity: &Identity, role: &RoleName, name: Option<&AgentName>) -> Result<String> {
        self.fill(place, identity, role, None, name)
    }

    /// Reads back what the template rendered to for an agent of a tenant: its name, where that stands in the template. None when the text
    /// is not of this template (any more).
    pub fn read_back(&self, text: &str, tenant: &TenantName, role: &RoleName) -> Option<Option<AgentName>> {
        let (mut before, mut after, mut names) = (String::new(), String::new(), 0);
        for part in &self.parts {
            let side = if names == 0 { &mut before } else { &mut after };
            match part {
                Part::Literal(literal) => side.push_str(literal),
                Part::Tenant => side.push_str(tenant.as_str()),
                Part::Role => side.push_str(role.as_str()),
                Part::EnrollmentName => names += 1,
                Part::Lease | Part::Claim(_) => return None,
            }
        }
        match names {
            0 => (text == before).then_some(None),
            1 => text.strip_prefix(&before)?.strip_suffix(&after)?.parse().ok().map(Some),
            _ => None,
        }
    }

    /// The same where the lease's id is known.
    pub fn render_with_lease(&self, place: Place, identity: &Identity, role: &RoleName, lease: LeaseId) -> Result<String> {
        self.fill(place, identity, role, Some(lease), None)
    }

    fn fill(
        &self,
        place: Place,
        identity: &Identity,
        role: &RoleName,
        lease: Option<LeaseId>,
        agent: Option<&AgentName>,
    ) -> Result<String> {
        let run_together = |bad: BadTemplate| Error::new(Code::ClaimNotUsable, bad.to_string());
        let marks = if place.keeps_apart() { self.marks().map_err(run_together)? } else { Vec::new() };
        let mut text = String::with_capacity(self.source.len() + 32);
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Tenant => text.push_str(identity.tenant.as_str()),
                Part::Role => text.push_str(role.as_str()),
                Part::Lease => {
                    let lease =
                        lease.ok_or_else(|| Error::new(Code::ClaimNotUsable, BadTemplate::Lease(self.source.clone()).to_string()))?;
                    text.push_str(&lease.to_string());
                }
                Part::EnrollmentName => {
                    let value = enrollment_name(place, identity, agent)?;
                    self.check_marks("enrollment.name", value, &marks)?;
                    text.push_str(value);
                }
                Part::Claim(name) => {
                    let value = claim_text(name, place, identity)?;
                    self.check_marks(name, &value, &marks)?;
                    text.push_str(&value);
                }
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

    /// The marks by which the template parts its values: of what stands between two placeholders, one that can tell them apart.
    ///
    /// A claim's value holds none of them. So what is rendered can be read back in one way only: from the left up to the tenant and from
    /// the right down to it, each value ends where the next mark stands; a lease has its length; a role is the same for every caller of
    /// the template. The tenant alone may hold a mark, and it is what remains.
    fn marks(&self) -> Result<Vec<char>, BadTemplate> {
        let mut marks = Vec::new();
        // What stands between the placeholder before and the next one; nothing before the first.
        let mut between: Option<String> = None;
        for part in &self.parts {
            match part {
                Part::Literal(literal) => between.iter_mut().for_each(|between| between.push_str(literal)),
                Part::Role => {}
                Part::Tenant | Part::Lease | Part::EnrollmentName | Part::Claim(_) => {
                    if let Some(between) = between.replace(String::new()) {
                        marks.push(mark_of(&between).ok_or_else(|| BadTemplate::RunTogether(self.source.clone()))?);
                    }
                }
            }
        }
        Ok(marks)
    }

    fn check_marks(&self, name: &str, value: &str, marks: &[char]) -> Result<()> {
        match value.chars().find(|c| marks.contains(c)) {
            None => Ok(()),
            Some(found) => Err(Error::new(
                Code::ClaimNotUsable,
                format!(
                    "the value of the claim {name} cannot be used by this role: it holds {found:?}, by which the role's template {:?} parts its values",
                    self.source
                ),
            )),
        }
    }
}

/// The mark that refuses the fewest values: `/` and `:` stand in few of them, a letter or a digit would stand in most.
fn mark_of(between: &str) -> Option<char> {
    let structural = between.chars().find(|c| matches!(c, '/' | ':'));
    structural.or_else(|| between.chars().find(|c| !c.is_ascii_alphanumeric()))
}

fn enrollment_name<'a>(place: Place, identity: &'a Identity, agent: Option<&'a AgentName>) -> Result<&'a str> {
    let refuse = |why: &str| Error::new(Code::ClaimNotUsable, why);
    let name = agent.or_else(|| identity.enrolled().map(|enrolled| &enrolled.enrollment.name));
    let name = name
        .map(AgentName::as_str)
        .ok_or_else(|| refuse("the role is for first identities: an operator makes a code with `daypass enroll create`"))?;
    if place.takes(name) { Ok(name) } else { Err(refuse(&format!("the agent's name cannot be used by this role: {}", place.rule()))) }
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

/// What can stand in `${…}`: a condition key, perhaps with a default (`aws:PrincipalTag/team, 'none'`), or a character that means itself
/// ("IAM policy elements: variables and tags" in the IAM user guide).
fn is_policy_variable(text: &str) -> bool {
    let key = |text: &str| text.split_once(':').is_some_and(|(service, rest)| !service.is_empty() && !rest.is_empty());
    matches!(text, "*" | "?" | "$") || (key(text) && !text.contains(['{', '$']) && !text.starts_with("claims."))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` (OCI distribution specification, `<name>`).
fn is_repository_segment(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut between = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|gap| !gap.is_empty());
    text.bytes().next().is_some_and(legal)
        && text.bytes().last().is_some_and(legal)
        && between.all(|gap| matches!(gap, "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests;
