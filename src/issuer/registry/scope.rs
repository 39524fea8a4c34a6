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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    const PULL: RegistryAction = RegistryAction::Pull;
    const PUSH: RegistryAction = RegistryAction::Push;
    const DELETE: RegistryAction = RegistryAction::Delete;

    fn given(scopes: &[&str], repositories: &[&str], actions: &[RegistryAction]) -> Vec<String> {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        granted(&own(scopes), &own(repositories), actions).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_granted_is_what_both_have() {
        let demo = |scopes: &[&str]| given(scopes, &["demo/*", "base"], &[PULL, PUSH]);
        assert_eq!(demo(&["repository:demo/a:pull,push"]), ["repository:demo/a:pull,push"]);
        assert_eq!(demo(&["repository:demo/a:push,pull,delete"]), ["repository:demo/a:pull,push"], "each in one order, and no more");
        assert_eq!(demo(&["repository:demo/a:*"]), ["repository:demo/a:pull,push"], "a star is all that the lease has");
        assert_eq!(
            demo(&["repository:demo/a:pull", "repository:base:pull", "repository:demo/a:push"]),
            ["repository:demo/a:pull,push", "repository:base:pull"]
        );
        assert_eq!(
            demo(&["repository:other:pull", "repository:base:delete,pull"]),
            ["repository:base:pull"],
            "a partial grant is none the less"
        );
        assert_eq!(demo(&["repository(plugin):demo/a:pull"]), ["repository:demo/a:pull"]);
        assert_eq!(given(&["repository:demo/a:*"], &["demo/a"], &[DELETE]), ["repository:demo/a:delete"]);
    }

    #[test]
    fn what_is_no_scope_grants_nothing() {
        for scope in [
            "",
            ":",
            "::",
            "repository",
            "repository:demo/a",
            "repository:demo/a:",
            "repository:demo/a:,",
            "repository:demo/a:PULL",
            "repository:demo/a: pull",
            "repository:demo/a:pull\n",
            "repository::pull",
            "Repository:demo/a:pull",
            "repository(:demo/a:pull",
            "repository():demo/a:pull",
            "repository(a)b:demo/a:pull",
            "registry:catalog:*",
            "registry:demo/a:*",
            "*:demo/a:pull",
            "repository:*:pull",
            "repository:demo/*:pull",
            "repository:demo:pull",
            "repository:demo/a/b:pull",
            "repository:demo//a:pull",
            "repository:demo/a/:pull",
            "repository:/demo/a:pull",
            "repository:demo/../a:pull",
            "repository:demo/..:pull",
            "repository:demo/.:pull",
            "repository:demo/A:pull",
            "repository:demo/%61:pull",
            "repository:demo/a\0:pull",
            "repository:demo/ä:pull",
            "repository:demo\\a:pull",
            "repository:127.0.0.1:5000/demo/a:pull",
            "repository:x:demo/a:pull",
        ] {
            assert_eq!(given(&[scope], &["demo/*"], &[PULL, PUSH, DELETE]), [""; 0], "{scope:?}");
        }
        let long = format!("repository:demo/{}:pull", "a".repeat(MAX_REPOSITORY - 5));
        assert_eq!(given(&[&long], &["demo/*"], &[PULL]).len(), 1);
        let longer = long.replace("demo/", "demo/a");
        assert_eq!(given(&[&longer], &["demo/*"], &[PULL]).len(), 0);
    }

    #[test]
    fn scopes_have_limits() {
        let one = |length: usize| vec!["a".repeat(length)];
        assert!(!are_too_many(&one(MAX_SCOPE)) && are_too_many(&one(MAX_SCOPE + 1)));
        let many = |count: usize| vec![String::new(); count];
        assert!(!are_too_many(&many(MAX_SCOPES)) && are_too_many(&many(MAX_SCOPES + 1)));
    }

    #[test]
    fn a_star_is_one_whole_segment() {
        for (pattern, name, same) in [
            ("*", "a", true),
            ("*", "a/b", false),
            ("demo/*", "demo", false),
            ("demo/*/x", "demo/a/x", true),
            ("demo/*/x", "demo/a/b/x", false),
            ("*/*", "a/b", true),
            ("demo/a*", "demo/ab", false),
            ("demo/a", "demo/a", true),
            ("demo/a", "demo/A", false),
        ] {
            assert_eq!(matches(pattern, name), same, "{pattern} {name}");
        }
        for good in ["*", "demo/*", "a/*/b", "a.b-c__d--e/f"] {
            assert!(is_pattern(good), "{good}");
        }
        for bad in ["", "/", "a/", "**", "a*", "demo/**", "A", "a..b", "a___b", "-a", "a-", "{x}", &"a".repeat(MAX_REPOSITORY + 1)] {
            assert!(!is_pattern(bad), "{bad}");
        }
    }

    fn action_text() -> impl Strategy<Value = &'static str> {
        select(vec!["pull", "push", "delete", "*", "", "PULL", "pull ", "admin"])
    }

    fn name_text() -> impl Strategy<Value = String> {
        let segment = select(vec!["a", "b", "demo", "*", "", "..", "A", "a-b", "x:y", "a*"]);
        vec(segment, 1..4).prop_map(|segments| segments.join("/"))
    }

    fn scope_text() -> impl Strategy<Value = String> {
        let kind = select(vec!["repository", "repository", "repository", "repository(plugin)", "registry", "Repository", ""]);
        let usual =
            (kind, name_text(), vec(action_text(), 0..4)).prop_map(|(kind, name, actions)| format!("{kind}:{name}:{}", actions.join(",")));
        prop_oneof![8 => usual, 1 => ".{0,40}"]
    }

    fn actions() -> impl Strategy<Value = Vec<RegistryAction>> {
        proptest::sample::subsequence(RegistryAction::ALL.to_vec(), 0..=3)
    }

    /// What a pattern means, said in another way: the same number of segments, and each a star or equal.
    fn means(pattern: &str, name: &str) -> bool {
        let (pattern, name): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), name.split('/').collect());
        pattern.len() == name.len() && pattern.iter().zip(&name).all(|(expected, segment)| *expected == "*" || expected == segment)
    }

    proptest! {
        #[test]
        fn nothing_is_granted_that_was_not_asked_or_that_the_lease_has_not(
            scopes in vec(scope_text(), 0..6),
            repositories in vec(name_text(), 0..3),
            has in actions(),
        ) {
            let granted = granted(&scopes, &repositories, &has);
            for access in &granted {
                prop_assert!(!access.actions.is_empty());
                prop_assert!(!access.name.contains('*') && !access.name.contains(':'));
                prop_assert!(repositories.iter().any(|pattern| means(pattern, &access.name)), "{access} of {repositories:?}");
                for action in &access.actions {
                    prop_assert!(has.contains(action), "{access}");
                    let asks = |kind: &str| scopes.iter().any(|scope| {
                        let asked = scope.strip_prefix(&format!("{kind}:{}:", access.name));
                        asked.is_some_and(|asked| asked.split(',').any(|asked| asked == "*" || asked == action.as_str()))
                    });
                    prop_assert!(asks("repository") || asks("repository(plugin)"), "{access} was not asked in {scopes:?}");
                }
            }
            let mut names: Vec<_> = granted.iter().map(|access| &access.name).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), granted.len(), "a registry reads each name once");
        }

        #[test]
        fn everything_is_granted_that_both_have(
            name in vec(select(vec!["a", "b", "a-b", "demo"]), 1..4).prop_map(|segments| segments.join("/")),
            stars in vec(any::<bool>(), 4),
            has in actions(),
            asked in actions(),
            beside in vec(scope_text(), 0..3),
        ) {
            let pattern: Vec<_> = name.split('/').zip(&stars).map(|(segment, star)| if *star { "*" } else { segment }).collect();
            let asked_text: Vec<_> = asked.iter().map(|action| action.as_str()).collect();
            let mut scopes = beside;
            scopes.push(format!("repository:{name}:{}", asked_text.join(",")));
            let granted = granted(&scopes, &[pattern.join("/")], &has);
            let got: Vec<_> = granted.into_iter().filter(|access| access.name == name).flat_map(|access| access.actions).collect();
            for action in asked.iter().filter(|action| has.contains(action)) {
                prop_assert!(got.contains(action));
            }
        }
    }
}
