//! What a client asks for at the token endpoint, and what of it a lease has (distribution, "Token Scope Documentation").
//!
//! `type[(class)]:name:action[,action]*`. The only type here is `repository`: a name may be no more than what the role names, and a
//! catalogue of the whole registry is not.

use crate::model::role::RegistryAction;

/// The most scopes of one exchange; a client asks for one, or two when it mounts a layer from another repository.
pub const MAX_SCOPES: usize = 32;

/// The longest scope, in bytes: a name of [`MAX_REPOSITORY`] with its type and actions has room.
pub const MAX_SCOPE: usize = 512;

/// The longest name of a repository, in bytes (distribution's `RepositoryNameTotalLengthMax`).
pub const MAX_REPOSITORY: usize = 255;

/// What is asked of one repository.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    name: &'a str,
    actions: Vec<RegistryAction>,
}

/// What is granted at one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Access {
    /// The repository.
    pub name: String,
    /// In the order of [`RegistryAction::ALL`], each once; at least one.
    pub actions: Vec<RegistryAction>,
}

/// `repository:name:action,action`
impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let actions: Vec<&str> = self.actions.iter().map(|action| action.as_str()).collect();
        write!(f, "repository:{}:{}", self.name, actions.join(","))
    }
}

/// Whether there are more scopes, or longer ones, than anybody needs.
pub(super) fn are_too_many(scopes: &[String]) -> bool {
    scopes.len() > MAX_SCOPES || scopes.iter().any(|scope| scope.len() > MAX_SCOPE)
}

/// What of the scopes is within the repositories and the actions of a lease: one entry for each name, in the order in which they were
/// asked. What is no scope, is of another type or asks for what the lease has not grants nothing, and spoils nothing beside it.
pub(super) fn granted(scopes: &[String], repositories: &[String], actions: &[RegistryAction]) -> Vec<Access> {
    let mut granted: Vec<Access> = Vec::new();
    for Asked { name, actions: asked } in scopes.iter().filter_map(|scope| parse(scope)) {
        if !is_repository(name) || !repositories.iter().any(|pattern| matches(pattern, name)) {
            continue;
        }
        let before = granted.iter().position(|access| access.name == name);
        let has = |action: &RegistryAction| before.is_some_and(|at| granted[at].actions.contains(action));
        let both = |action: &RegistryAction| actions.contains(action) && (asked.contains(action) || has(action));
        let actions: Vec<RegistryAction> = RegistryAction::ALL.into_iter().filter(both).collect();
        match before {
            _ if actions.is_empty() => {}
            Some(at) => granted[at].actions = actions,
            None => granted.push(Access { name: name.to_owned(), actions }),
        }
    }
    granted
}

/// The type ends at the first colon and the actions begin after the last, for a name may hold one (a host's port). A class in
/// parentheses after the type says what the content is and gives nobody more.
fn parse(scope: &str) -> Option<Asked<'_>> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let kind = match kind.split_once('(') {
        Some((kind, class)) => class.strip_suffix(')').filter(|class| is_class(class)).map(|_| kind)?,
        None => kind,
    };
    if kind != "repository" {
        return None;
    }
    let asks = |action: RegistryAction| actions.split(',').any(|asked| asked == "*" || asked == action.as_str());
    Some(Asked { name, actions: RegistryAction::ALL.into_iter().filter(|action| asks(*action)).collect() })
}

/// `[a-z0-9]+`
fn is_class(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Whether a repository's name is what a pattern means: segment by segment the same, where `*` is any one whole segment.
fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.split('/'), name.split('/'));
    loop {
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(expected), Some(segment)) if expected == segment => {}
            _ => return false,
        }
    }
}

/// Whether it is the name of a repository (OCI distribution specification, `<name>`).
fn is_repository(name: &str) -> bool {
    name.len() <= MAX_REPOSITORY && name.split('/').all(is_segment)
}

/// Whether it means repositories: a name, or one in which `*` stands for whole segments.
pub(super) fn is_pattern(text: &str) -> bool {
    text.len() <= MAX_REPOSITORY && text.split('/').all(|segment| segment == "*" || is_segment(segment))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_segment(text: &str) -> bool {
    let legal = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(legal) && bytes.last().is_some_and(legal);
    let mut gaps = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|gap| !gap.is_empty());
    ends && gaps.all(|gap| matches!(gap, "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}
