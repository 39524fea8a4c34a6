//! The policies in force: parsed, checked, and indexed, all at load.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use cedar_policy::{Authorizer, Effect, ParseErrors, Policy, PolicyId, PolicySet, Schema, Template, Validator};
use miette::Diagnostic;

use super::{
    check::Checker,
    explain::Probe,
    index::{Index, Reach},
    lint,
    schema::{Vocabulary, schema, token_type},
    source::{Statement, statements},
    syntax::Tree,
};
use crate::model::{catalog::Catalog, fault::Fault};

/// The longest policy text, in bytes.
pub const MAX_POLICY_TEXT: usize = 4 * 1024 * 1024;
/// The most policies in one book.
pub const MAX_POLICIES: usize = 10_000;
/// How deep brackets may nest in a policy.
pub const MAX_NESTING: usize = 32;
/// The most operators in a policy.
pub const MAX_OPERATORS: usize = 1_000;
/// The stack that a load runs on, in bytes: Cedar's type checker takes some 30 KiB of it for each operator.
const LOAD_STACK: usize = 128 * 1024 * 1024;
/// The longest `@id`, in bytes.
pub const MAX_POLICY_ID: usize = 128;

/// The policies in force over one catalog. Immutable: a reload makes a new one.
#[derive(Debug)]
pub struct PolicyBook {
    pub(super) catalog: Arc<Catalog>,
    pub(super) version: Arc<str>,
    pub(super) vocabulary: Vocabulary,
    pub(super) rules: Vec<Rule>,
    pub(super) index: Index,
    pub(super) authorizer: Authorizer,
    warnings: Vec<Fault>,
}

/// One policy.
#[derive(Debug)]
pub(super) struct Rule {
    pub id: String,
    pub permits: bool,
    pub line: usize,
    /// The policy alone. Cedar's answer over many is: no forbid applies, and at least one permit does.
    pub set: PolicySet,
    /// Whether its text says `context` anywhere; one that does not cannot read it.
    pub reads_context: bool,
    pub reach: Reach,
    /// Its scope and conditions, each as a policy of its own, for explanations.
    pub probes: Vec<Probe>,
}

/// A policy on its way into the book.
pub(super) struct Parsed<'a> {
    pub id: String,
    pub statement: &'a Statement<'a>,
    pub policy: Policy,
    pub tree: Tree,
}

impl PolicyBook {
    /// Parses and checks policies over a catalog. `file` is for messages; `version` goes into grants and records.
    ///
    /// # Errors
    /// Every fault at once, in order of line: what does not parse, what the schema does not have (with the nearest name that
    /// it has), templates, equal `@id`s, and each policy that a lint refuses (`blanket-permit`, `mutable-identity`,
    /// `wide-pattern`) and that gives no `@reason`.
    pub fn load(file: &str, text: &str, catalog: Arc<Catalog>, version: &str) -> Result<Self, Vec<Fault>> {
        with_stack(file, || Self::load_here(file, text, catalog, version))
    }

    /// Parses policies without a catalog: what can be said of them before it is known whom and what they may speak of.
    ///
    /// # Errors
    /// What [`Self::load`] finds before it looks at the catalog: what does not parse, templates, equal `@id`s, what is too much.
    pub fn parse(file: &str, text: &str) -> Result<(), Vec<Fault>> {
        with_stack(file, || {
            let loader = Loader { file, text, catalog: &Catalog::default() };
            let statements = loader.statements()?;
            let mut faults = Vec::new();
            loader.parse(&statements, &mut faults);
            if faults.is_empty() { Ok(()) } else { Err(faults) }
        })
    }

    fn load_here(file: &str, text: &str, catalog: Arc<Catalog>, version: &str) -> Result<Self, Vec<Fault>> {
        let loader = Loader { file, text, catalog: &catalog };
        let mut faults = loader.same_types();
        if !faults.is_empty() {
            return Err(faults);
        }
        let statements = loader.statements()?;
        let parsed = loader.parse(&statements, &mut faults);
        let mut warnings = loader.check(&parsed, &mut faults);
        if faults.is_empty() {
            loader.same_as_whole(&parsed, &mut faults);
        }
        let rules: Vec<_> = parsed.iter().filter_map(|each| loader.rule(each, &mut faults)).collect();
        if !faults.is_empty() {
            faults.sort_by(|a, b| (a.line, &a.message).cmp(&(b.line, &b.message)));
            faults.dedup();
            return Err(faults);
        }
        let index = Index::new(rules.iter().map(|rule| &rule.reach));
        warnings.extend(lint::unreachable_roles(file, &catalog, &rules));
        warnings.sort_by(|a, b| (a.line, &a.message).cmp(&(b.line, &b.message)));
        warnings.dedup();
        let vocabulary = Vocabulary::new(&catalog);
        Ok(Self { version: version.into(), vocabulary, rules, index, authorizer: Authorizer::new(), warnings, catalog })
    }

    /// What is only advice: policies that can never apply, permits that look wider than meant, roles that nobody may have.
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }

    /// The version that it was loaded as.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// The catalog that it was checked against.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// How many policies it holds.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether it holds none, and so permits nothing.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// One load.
struct Loader<'a> {
    file: &'a str,
    text: &'a str,
    catalog: &'a Catalog,
}

impl Loader<'_> {
    fn fault(&self, offset: usize, message: impl Into<String>) -> Fault {
        Fault::at(self.file, self.text, offset, message)
    }

    fn same_types(&self) -> Vec<Fault> {
        let mut types: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for issuer in self.catalog.issuers.keys() {
            types.entry(token_type(issuer)).or_default().push(issuer.as_str());
        }
        types.retain(|_, issuers| issuers.len() > 1);
        let message = |(ty, issuers): (String, Vec<&str>)| {
            format!("the issuers {} would all be Token::{ty} in policies; rename all but one", issuers.join(" and "))
        };
        types.into_iter().map(|entry| Fault { file: self.file.to_owned(), line: 0, message: message(entry) }).collect()
    }

    fn statements(&self) -> Result<Vec<Statement<'_>>, Vec<Fault>> {
        if self.text.len() > MAX_POLICY_TEXT {
            return Err(vec![self.fault(0, format!("the policies are longer than {MAX_POLICY_TEXT} bytes"))]);
        }
        let statements = statements(self.text);
        if statements.len() > MAX_POLICIES {
            return Err(vec![self.fault(0, format!("there are more than {MAX_POLICIES} policies"))]);
        }
        Ok(statements)
    }

    /// Each statement by itself, so that one that does not parse hides nothing in the others.
    fn parse<'s>(&self, statements: &'s [Statement<'s>], faults: &mut Vec<Fault>) -> Vec<Parsed<'s>> {
        let mut parsed = Vec::with_capacity(statements.len());
        let mut ids = BTreeMap::new();
        for (position, statement) in statements.iter().enumerate() {
            match self.parse_one(position, statement) {
                Ok(one) => {
                    let line = self.fault(statement.start(), "").line;
                    match ids.entry(one.id.clone()) {
                        std::collections::btree_map::Entry::Occupied(first) => {
                            let message = format!("the id {:?} is already that of the policy in line {}", one.id, first.get());
                            faults.push(self.fault(statement.start(), message));
                        }
                        std::collections::btree_map::Entry::Vacant(free) => {
                            free.insert(line);
                        }
                    }
                    parsed.push(one);
                }
                Err(more) => faults.extend(more),
            }
        }
        parsed
    }

    fn parse_one<'s>(&self, position: usize, statement: &'s Statement<'s>) -> Result<Parsed<'s>, Vec<Fault>> {
        let here = |message: String| vec![self.fault(statement.start(), message)];
        if statement.nesting() > MAX_NESTING {
            return Err(here(format!("brackets nest deeper than {MAX_NESTING}; split the policy")));
        }
        if statement.operators() > MAX_OPERATORS {
            return Err(here(format!("the policy has more than {MAX_OPERATORS} operators; split it")));
        }
        let neutral = PolicyId::new("policy");
        let policy = match Policy::parse(Some(neutral.clone()), statement.text()) {
            Ok(policy) => policy,
            Err(_) if Template::parse(Some(neutral), statement.text()).is_ok_and(|t| t.slots().next().is_some()) => {
                return Err(here(
                    "templates are not taken here: name the principal and the resource instead of ?principal and ?resource".into(),
                ));
            }
            Err(errors) => return Err(self.syntax(statement, &errors)),
        };
        let tree =
            Tree::of(&policy).ok_or_else(|| here("this policy cannot be read back from its parsed form; write it more simply".into()))?;
        let id = policy.annotation("id").map_or_else(|| format!("policy{}", position + 1), str::to_owned);
        if id.is_empty() || id.len() > MAX_POLICY_ID || id.chars().any(char::is_control) {
            return Err(here(format!("an @id is 1 to {MAX_POLICY_ID} bytes without control characters")));
        }
        Ok(Parsed { policy: policy.new_id(PolicyId::new(&id)), id, statement, tree })
    }

    fn syntax(&self, statement: &Statement<'_>, errors: &ParseErrors) -> Vec<Fault> {
        let one = |error: &cedar_policy::ParseError| {
            let offset = error.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset());
            self.fault(statement.start() + offset.min(statement.text().len()), sentence(error))
        };
        errors.iter().map(one).collect()
    }

    /// Checks what parsed against the schema and the lints; gives the warnings.
    fn check(&self, parsed: &[Parsed<'_>], faults: &mut Vec<Fault>) -> Vec<Fault> {
        let schema = match Schema::from_cedarschema_str(&schema(self.catalog)) {
            Ok((schema, _)) => schema,
            Err(error) => {
                faults.push(Fault { file: self.file.to_owned(), line: 0, message: format!("the catalog makes no Cedar schema: {error}") });
                return Vec::new();
            }
        };
        let checker = Checker::new(self.catalog, Validator::new(schema));
        let mut warnings = Vec::new();
        for each in parsed {
            let found = checker.check(each);
            let place = |(offset, message): (usize, String)| self.fault(offset, message);
            if found.faults.is_empty() {
                let lints = lint::lint(self.catalog, each);
                faults.extend(lints.faults.into_iter().map(place));
                warnings.extend(lints.warnings.into_iter().map(place));
            }
            faults.extend(found.faults.into_iter().map(place));
            warnings.extend(found.warnings.into_iter().map(place));
        }
        warnings
    }

    /// That the cuts of `source` together are what Cedar makes of the whole text.
    fn same_as_whole(&self, parsed: &[Parsed<'_>], faults: &mut Vec<Fault>) {
        let differ = || self.fault(0, "the policies read differently one by one than together; this is a defect, please report it");
        match self.text.parse::<PolicySet>() {
            Ok(whole) => {
                let bodies = |policies: &mut dyn Iterator<Item = &Policy>| -> Vec<String> {
                    let mut all: Vec<_> =
                        policies.map(|policy| policy.to_json().map_or_else(|e| e.to_string(), |json| json.to_string())).collect();
                    all.sort();
                    all
                };
                let same = whole.num_of_templates() == 0 && bodies(&mut whole.policies()) == bodies(&mut parsed.iter().map(|p| &p.policy));
                if !same {
                    faults.push(differ());
                }
            }
            Err(errors) => faults.extend(errors.iter().map(|error| {
                let offset = error.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset());
                self.fault(offset, sentence(error))
            })),
        }
    }

    fn rule(&self, each: &Parsed<'_>, faults: &mut Vec<Fault>) -> Option<Rule> {
        match PolicySet::from_policies([each.policy.clone()]) {
            Ok(set) => Some(Rule {
                id: each.id.clone(),
                permits: each.policy.effect() == Effect::Permit,
                line: self.fault(each.statement.start(), "").line,
                set,
                reads_context: each.statement.text().contains("context"),
                reach: Reach(each.tree.scope.clone()),
                probes: super::explain::probes(each),
            }),
            Err(error) => {
                faults.push(self.fault(each.statement.start(), error.to_string()));
                None
            }
        }
    }
}

/// Runs a load on a thread that has [`LOAD_STACK`].
fn with_stack<T: Send>(file: &str, loading: impl FnOnce() -> Result<T, Vec<Fault>> + Send) -> Result<T, Vec<Fault>> {
    let failed = |why: String| vec![Fault { file: file.to_owned(), line: 0, message: format!("the policies cannot be checked: {why}") }];
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("policy-load".to_owned()).stack_size(LOAD_STACK).spawn_scoped(scope, loading);
        let ended = thread.map_err(|error| failed(format!("no thread: {error}")))?.join();
        ended.unwrap_or_else(|_| Err(failed("the checker panicked; this is a defect, please report it".to_owned())))
    })
}

/// An error of Cedar's as one sentence, with its help.
pub(super) fn sentence(error: &(impl Diagnostic + ?Sized)) -> String {
    let label = error.labels().and_then(|mut labels| labels.next()).and_then(|label| label.label().map(str::to_owned));
    let mut seen = HashSet::new();
    let parts = [Some(error.to_string()), label, error.help().map(|help| help.to_string())];
    let parts: Vec<_> = parts.into_iter().flatten().filter(|part| seen.insert(part.clone())).collect();
    parts.join("; ").split_whitespace().collect::<Vec<_>>().join(" ")
}
