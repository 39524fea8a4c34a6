//! What the schema does not have: names, claims, types. Every fault is a byte offset of the whole text and a message.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{PolicySet, ValidationError, ValidationMode, ValidationWarning, Validator, pst::Expr};
use miette::Diagnostic;

use super::{
    Action,
    book::{Parsed, sentence},
    schema::token_type,
    syntax::{Scope, text_of},
};
use crate::model::{
    catalog::Catalog,
    fault::nearest,
    name::{RoleName, TenantName},
};

/// What was found in one policy.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub faults: Vec<(usize, String)>,
    pub warnings: Vec<(usize, String)>,
}

/// Checks policies against one catalog.
pub(super) struct Checker<'a> {
    catalog: &'a Catalog,
    validator: Validator,
    /// `Token::x` to the issuer's name and its claims.
    issuers: BTreeMap<String, (&'a str, BTreeSet<&'a str>)>,
}

impl<'a> Checker<'a> {
    pub fn new(catalog: &'a Catalog, validator: Validator) -> Self {
        let issuers = catalog.issuers.iter().map(|(issuer, claims)| {
            let claims = claims.iter().map(|claim| claim.name.as_str()).collect();
            (format!("Token::{}", token_type(issuer)), (issuer.as_str(), claims))
        });
        Self { catalog, validator, issuers: issuers.collect() }
    }

    pub fn check(&self, policy: &Parsed<'_>) -> Found {
        let mut found = Found::default();
        self.entities(policy, &mut found);
        self.types(policy, &mut found);
        self.attributes(policy, &mut found);
        self.validate(policy, &mut found);
        found
    }

    /// Every entity that the policy names exists.
    fn entities(&self, policy: &Parsed<'_>, found: &mut Found) {
        for (ty, id) in policy.policy.entity_literals().iter().map(text_of).collect::<BTreeSet<_>>() {
            let short = ty.rsplit("::").next().unwrap_or(&ty);
            let at = policy.statement.find(&[short, "::"], &id).unwrap_or(policy.statement.start());
            let message = match ty.as_str() {
                "Role" => unknown("role", &id, self.catalog.roles.keys().map(RoleName::as_str)),
                "Tenant" => unknown("tenant", &id, self.catalog.tenants.keys().map(TenantName::as_str)),
                "Action" => unknown("action", &id, Action::ALL.into_iter().map(Action::as_str)),
                "Lease" => Some("a policy cannot name one lease; constrain its role, tenant, subject or own instead".to_owned()),
                _ => self.unknown_type(&ty),
            };
            found.faults.extend(message.map(|message| (at, message)));
        }
    }

    /// Every type that the policy tests for exists.
    fn types(&self, policy: &Parsed<'_>, found: &mut Found) {
        let scope = &policy.tree.scope;
        let mut types: BTreeSet<String> = [&scope.principal.ty, &scope.resource.ty].into_iter().flatten().cloned().collect();
        policy.tree.walk(&mut |expr, _| {
            if let Expr::Is { entity_type, .. } = expr {
                types.insert(entity_type.to_string());
            }
        });
        for ty in types {
            let words: Vec<_> = ty.split("::").flat_map(|word| ["::", word]).skip(1).collect();
            let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (*last, before));
            let at = policy.statement.find(&[&["is"], before].concat(), last).unwrap_or(policy.statement.start());
            found.faults.extend(self.unknown_type(&ty).map(|message| (at, message)));
        }
    }

    fn unknown_type(&self, ty: &str) -> Option<String> {
        let fixed = ["Role", "Tenant", "Lease", "Certificate", "Action"];
        if fixed.contains(&ty) || self.issuers.contains_key(ty) {
            return None;
        }
        let known = fixed.into_iter().chain(self.issuers.keys().map(String::as_str));
        let what = if ty.starts_with("Token::") { "issuer" } else { "entity" };
        let hint = nearest(ty, known).map_or_else(String::new, |near| format!("; did you mean {near}?"));
        Some(format!("unknown {what} type {ty}{hint}"))
    }

    /// Every attribute that the policy reads exists; also those that it only tests with `has`, which Cedar would let pass.
    fn attributes(&self, policy: &Parsed<'_>, found: &mut Found) {
        let callers = self.callers(&policy.tree.scope);
        for path in policy.tree.paths() {
            let (Some((name, parent)), statement) = (path.split_last(), policy.statement) else { continue };
            let Some(message) = self.unknown_attribute(parent, name, &callers) else { continue };
            let places = [".", "has", "["].into_iter().filter_map(|before| statement.find(&[before], name));
            found.faults.push((places.min().unwrap_or(statement.start()), message));
        }
    }

    fn unknown_attribute(&self, parent: &[&str], name: &str, callers: &BTreeSet<&str>) -> Option<String> {
        let certificate = callers.contains("Certificate");
        let token = callers.iter().any(|ty| *ty != "Certificate");
        let known: Vec<&str> = match parent {
            ["principal", "claims"] if !token => return None,
            ["principal", "claims"] => return self.unknown_claim(name, callers),
            ["principal"] => {
                let fields = [("subject", true), ("trust_domain", certificate), ("id", certificate), ("issuer", token), ("claims", token)];
                fields.into_iter().filter_map(|(field, there)| there.then_some(field)).collect()
            }
            ["resource"] => vec!["kind", "subject", "own"],
            ["context"] => vec!["ttl_seconds", "tenant", "time", "peer_address", "peer"],
            ["context", "peer"] => vec!["trust_domain", "id", "subject", "serial"],
            _ => return None,
        };
        if known.contains(&name) {
            return None;
        }
        let whose = match (parent, certificate, token) {
            (["principal"], true, false) => "principal (a Certificate)".to_owned(),
            _ => parent.join("."),
        };
        let hint = nearest(name, known.iter().copied())
            .map_or_else(|| format!("; it has {}", known.join(", ")), |near| format!("; did you mean {near}?"));
        Some(format!("{whose} has no attribute {name}{hint}"))
    }

    fn unknown_claim(&self, name: &str, callers: &BTreeSet<&str>) -> Option<String> {
        let issuers: Vec<_> = callers.iter().filter_map(|ty| self.issuers.get(*ty)).collect();
        if issuers.iter().any(|(_, claims)| claims.contains(name)) {
            return None;
        }
        let whose = match &issuers[..] {
            [(issuer, _)] => format!("of issuer {issuer}"),
            more => format!("of the issuers {}", more.iter().map(|(issuer, _)| *issuer).collect::<Vec<_>>().join(", ")),
        };
        let near = nearest(name, issuers.iter().flat_map(|(_, claims)| claims.iter().copied()));
        let hint = near
            .map_or_else(|| "; add it to the issuer's claims in the configuration".to_owned(), |near| format!("; did you mean {near}?"));
        Some(format!("unknown claim {name} {whose}{hint}"))
    }

    /// The types of callers that a scope admits.
    fn callers(&self, scope: &Scope) -> BTreeSet<&str> {
        let all = self.issuers.keys().map(String::as_str).chain(["Certificate"]);
        let exact = scope.principal.entity.as_ref().filter(|named| named.ty != "Tenant").map(|named| named.ty.as_str());
        let wanted = scope.principal.ty.as_deref().or(exact);
        all.filter(|ty| wanted.is_none_or(|wanted| wanted == *ty)).collect()
    }

    /// Cedar's own strict check. What was said above in better words is not said again.
    fn validate(&self, policy: &Parsed<'_>, found: &mut Found) {
        let Ok(set) = PolicySet::from_policies([policy.policy.clone()]) else { return };
        let result = self.validator.validate(&set, ValidationMode::Strict);
        let said = !found.faults.is_empty();
        let place = |diagnostic: &dyn Diagnostic| {
            let offset = diagnostic.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset());
            policy.statement.start() + offset.min(policy.statement.text().len())
        };
        for error in result.validation_errors() {
            let repeats = matches!(
                error,
                ValidationError::UnrecognizedEntityType(_)
                    | ValidationError::UnrecognizedActionId(_)
                    | ValidationError::UnsafeAttributeAccess(_)
            );
            if !(said && repeats) {
                found.faults.push((place(error), self.rephrase(error, policy)));
            }
        }
        let mut unsafe_names = Vec::new();
        for warning in result.validation_warnings() {
            match warning {
                ValidationWarning::ImpossiblePolicy(_) if said => {}
                ValidationWarning::ImpossiblePolicy(_) => {
                    found.warnings.push((place(warning), "this policy can never apply: its condition is always false".to_owned()));
                }
                ValidationWarning::InvalidActionApplication(_) if said => {}
                ValidationWarning::InvalidActionApplication(_) => unsafe_names.push((
                    place(warning),
                    "this policy can never apply: none of its actions is on such a resource (issue, explain and enroll are on a Role; renew, read and revoke on a Lease; audit on a Tenant)".to_owned(),
                )),
                other => unsafe_names.push((place(other), plain(&sentence(other), &policy.id))),
            }
        }
        found.faults.append(&mut unsafe_names);
    }

    fn rephrase(&self, error: &ValidationError, policy: &Parsed<'_>) -> String {
        let text = plain(&sentence(error), &policy.id);
        let claim = text.split_once("`claims.").and_then(|(_, rest)| rest.split_once('`')).map(|(claim, _)| claim);
        let ty = text.split_once("entity type `").and_then(|(_, rest)| rest.split_once('`')).map(|(ty, _)| ty);
        let issuer = ty.and_then(|ty| self.issuers.get(ty)).map(|(issuer, _)| *issuer);
        match (error, claim, issuer) {
            (ValidationError::UnsafeOptionalAttributeAccess(_), Some(claim), Some(issuer)) => {
                format!("the claim {claim} of issuer {issuer} may be absent; write `principal.claims has {claim} && …` before it")
            }
            (ValidationError::UnsafeAttributeAccess(_), Some(claim), Some(issuer)) => {
                format!("unknown claim {claim} of issuer {issuer}; constrain the principal to an issuer that has it")
            }
            (ValidationError::UnsafeAttributeAccess(_), None, _) if ty == Some("Certificate") && text.contains("`claims`") => {
                "a Certificate has no claims; constrain the principal to an issuer's tokens, for example `principal is Token::…`".to_owned()
            }
            _ => text,
        }
    }
}

/// Cedar's message without the policy's id, which stands in the line already.
fn plain(text: &str, id: &str) -> String {
    let prefixes = [format!("for policy `{id}`, "), format!("for policy `{id}`: ")];
    prefixes.iter().find_map(|prefix| text.strip_prefix(prefix.as_str())).unwrap_or(text).to_owned()
}

fn unknown<'b>(what: &str, id: &str, known: impl Iterator<Item = &'b str> + Clone) -> Option<String> {
    if known.clone().any(|name| name == id) {
        return None;
    }
    let hint = nearest(id, known).map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
    Some(format!("unknown {what} {id:?}{hint}"))
}
