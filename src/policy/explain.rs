//! Why: each policy that could have applied, and each part of its scope and conditions that did not hold.
//!
//! Cedar tells which policies applied and not why the others did not. So each part of a policy is kept as a policy of
//! its own, a probe, that is asked only when someone wants to know.

use cedar_policy::{Policy, PolicyId, PolicySet};

use super::{
    ConsideredPolicy, Explanation, FailedCondition, PolicyBook,
    book::{Parsed, Rule},
    decide::Outcome,
    facts::{Ask, Caller, Query},
    syntax::Tree,
};

/// The most policies in an explanation; those whose scope admits the caller come first.
pub const MAX_EXPLAINED_POLICIES: usize = 100;
/// The most failed conditions that are shown of one policy.
pub const MAX_EXPLAINED_CONDITIONS: usize = 16;
/// The longest text of a condition in an explanation, in bytes.
pub const MAX_CONDITION_TEXT: usize = 512;

/// One part of a policy, as a policy.
#[derive(Debug)]
pub(super) struct Probe {
    text: String,
    claims: Vec<String>,
    set: PolicySet,
}

impl Explanation {
    /// The explanation for the audit record, each condition in one line:
    /// `policy deploy-main (line 12): failed: principal.claims.ref == "refs/heads/main" (claim ref)`.
    pub fn lines(&self) -> Vec<String> {
        self.policies.iter().flat_map(ConsideredPolicy::lines).collect()
    }
}

impl ConsideredPolicy {
    fn lines(&self) -> Vec<String> {
        let head = format!("policy {} (line {})", self.id, self.line);
        match (self.satisfied, self.permits) {
            (true, true) => vec![format!("{head}: permits")],
            (true, false) => vec![format!("{head}: forbids")],
            (false, _) if self.failed.is_empty() => vec![format!("{head}: did not apply")],
            (false, _) => self.failed.iter().map(|condition| format!("{head}: failed: {condition}")).collect(),
        }
    }
}

impl std::fmt::Display for FailedCondition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.condition)?;
        let claims = self.claims.join(", ");
        match (&self.claims[..], self.absent) {
            ([], _) => Ok(()),
            ([_], false) => write!(f, " (claim {claims})"),
            ([_], true) => write!(f, " (claim {claims} is absent)"),
            (_, false) => write!(f, " (claims {claims})"),
            (_, true) => write!(f, " (claims {claims}, not all there)"),
        }
    }
}

/// Cuts a policy into its probes: its scope's principal and resource, then its conditions in their order.
pub(super) fn probes(policy: &Parsed<'_>) -> Vec<Probe> {
    let statement = policy.statement;
    let Some(parts) = statement.parts() else { return Vec::new() };
    let mut probes = Vec::new();
    if let [principal, _, resource] = &parts.scope[..] {
        let (principal, resource) = (statement.words(principal.clone()), statement.words(resource.clone()));
        let scopes = [
            (&principal, format!("permit({principal}, action, resource);")),
            (&resource, format!("permit(principal, action, {resource});")),
        ];
        let constrains = scopes.into_iter().filter(|(text, _)| !matches!(text.as_str(), "principal" | "resource"));
        probes.extend(constrains.filter_map(|(text, source)| Probe::new(text.clone(), &source)));
    }
    for (when, clause) in parts.clauses {
        for condition in statement.conditions(when, clause) {
            let words = statement.words(condition);
            let (word, text) = if when { ("when", words.clone()) } else { ("unless", format!("unless {words}")) };
            probes.extend(Probe::new(text, &format!("permit(principal, action, resource) {word} {{ {words} }};")));
        }
    }
    probes
}

impl Probe {
    /// None when the part does not stand by itself; the policy's own answer stays right without it.
    fn new(text: String, source: &str) -> Option<Self> {
        let policy = Policy::parse(Some(PolicyId::new("probe")), source).ok()?;
        let claims = Tree::of(&policy)?.claims();
        let set = PolicySet::from_policies([policy]).ok()?;
        Some(Self { text: bounded(text), claims, set })
    }
}

impl PolicyBook {
    /// The policies that could have applied, with what failed of each.
    pub(super) fn considered(&self, caller: &Caller<'_>, ask: &Ask<'_>, query: &Query) -> Vec<ConsideredPolicy> {
        let mut candidates: Vec<&Rule> = self.candidates(ask).collect();
        // Those that were about this caller first, then in the order of the text.
        candidates.sort_by_key(|rule| (!rule.reach.admits_caller(caller), rule.line));
        candidates.truncate(MAX_EXPLAINED_POLICIES);
        candidates.sort_by_key(|rule| rule.line);
        candidates.into_iter().map(|rule| self.consider(rule, caller, query)).collect()
    }

    fn consider(&self, rule: &Rule, caller: &Caller<'_>, query: &Query) -> ConsideredPolicy {
        let satisfied = self.applies(rule, query);
        let failed = if satisfied { Vec::new() } else { self.failed(rule, caller, query) };
        ConsideredPolicy { id: rule.id.clone(), permits: rule.permits, satisfied, line: rule.line, failed }
    }

    fn failed(&self, rule: &Rule, caller: &Caller<'_>, query: &Query) -> Vec<FailedCondition> {
        let mut failed = Vec::new();
        for probe in &rule.probes {
            let outcome = self.ask(&probe.set, query);
            // What fails only because an earlier part (a type, a `has`) did not hold says nothing new.
            if outcome == Outcome::Applies || (outcome == Outcome::Fails && !failed.is_empty()) {
                continue;
            }
            let there = |claim: &String| caller.identity.claims().is_some_and(|claims| claims.contains_key(claim));
            let absent = !probe.claims.iter().all(there);
            failed.push(FailedCondition { condition: probe.text.clone(), claims: probe.claims.clone(), absent });
            if failed.len() == MAX_EXPLAINED_CONDITIONS {
                break;
            }
        }
        failed
    }
}

fn bounded(mut text: String) -> String {
    const CUT: &str = "…";
    text.retain(|c| !c.is_control());
    if text.len() > MAX_CONDITION_TEXT {
        let mut end = MAX_CONDITION_TEXT - CUT.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(CUT);
    }
    text
}
