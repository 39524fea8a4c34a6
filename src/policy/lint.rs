//! Policies that Cedar takes and that we refuse, or take only with a written reason (`@reason("…")`).

use std::collections::BTreeSet;

use cedar_policy::{
    Effect,
    pst::{Expr, PatternElem},
};

use super::{
    Action,
    book::{Parsed, Rule},
    check::Found,
    schema::token_type,
    syntax::{path, pins},
};
use crate::model::{
    catalog::Catalog,
    claim::{ClaimSpec, ClaimValue},
    fault::Fault,
    name::{RoleName, TenantName},
    role::RoleOwner,
    tenant::Member,
};

/// Claims that name a caller for ever: names of repositories, projects and organizations are given away and taken again.
pub const IMMUTABLE_CLAIMS: [&str; 10] = [
    "repository_id",
    "repository_owner_id",
    "project_id",
    "namespace_id",
    "pipeline_id",
    "organization_id",
    "serviceaccount_uid",
    "service_account_uid",
    "pod_uid",
    "vcs_origin_id",
];

/// Claims that say which source, or which protected place, a job ran for.
const SOURCE_CLAIMS: [&str; 8] =
    ["ref", "ref_protected", "environment", "environment_protected", "branch", "build_branch", "vcs_ref", "job_workflow_ref"];

/// A permit that leaves its principal, action or resource open, without a condition.
pub const BLANKET_PERMIT: &str = "blanket-permit";
/// A permit to issue for tokens, that pins no claim of [`IMMUTABLE_CLAIMS`].
pub const MUTABLE_IDENTITY: &str = "mutable-identity";
/// A `like` whose `*` could run across a `/` or `:`.
pub const WIDE_PATTERN: &str = "wide-pattern";
/// Advice: a permit to issue for tokens, that reads no claim about the source.
pub const OPEN_SOURCE: &str = "open-source-ref";
/// Advice: a role that no policy permits to issue.
pub const UNREACHABLE_ROLE: &str = "unreachable-role";

/// Lints one policy that the schema takes.
pub(super) fn lint(catalog: &Catalog, policy: &Parsed<'_>) -> Found {
    let mut found = Found::default();
    let start = policy.statement.start();
    let reason = policy.policy.annotation("reason");
    if reason.is_some_and(|reason| reason.trim().is_empty()) {
        found.faults.push((start, "@reason is empty; say why in its string".to_owned()));
    }
    if policy.policy.effect() == Effect::Forbid {
        return found;
    }
    if reason.is_none() {
        let lints = [
            (BLANKET_PERMIT, blanket(policy)),
            (MUTABLE_IDENTITY, mutable_identity(catalog, policy)),
            (WIDE_PATTERN, wide_pattern(policy)),
        ];
        for (name, message) in lints {
            found.faults.extend(message.map(|message| (start, format!("[{name}] {message}, or say why in @reason(\"…\")"))));
        }
    }
    found.warnings.extend(open_source(catalog, policy).map(|message| (start, format!("[{OPEN_SOURCE}] {message}"))));
    found
}

/// Roles that no policy permits anybody to issue, or to enrol for.
pub(super) fn unreachable_roles(file: &str, catalog: &Catalog, rules: &[Rule]) -> Vec<Fault> {
    let action = |role: &RoleName| match catalog.roles.get(role).and_then(|role| role.enrollment()) {
        Some(_) => (Action::Enroll, "make an enrolment code for"),
        None => (Action::Issue, "issue"),
    };
    let reachable = |role: &RoleName| {
        let target = super::facts::Target::Role(role, catalog.roles.get(role).map(AsRef::as_ref));
        rules.iter().any(|rule| rule.permits && rule.reach.0.admits(action(role).0) && rule.reach.admits_target(&target))
    };
    let message = |role: &RoleName| format!("[{UNREACHABLE_ROLE}] no policy lets anybody {} the role {:?}", action(role).1, role.as_str());
    let unreachable = catalog.roles.keys().filter(|role| !reachable(role));
    unreachable.map(|role| Fault { file: file.to_owned(), line: 0, message: message(role) }).collect()
}

fn blanket(policy: &Parsed<'_>) -> Option<String> {
    let scope = &policy.tree.scope;
    let parts = [("principal", scope.principal.is_open()), ("action", scope.actions.is_none()), ("resource", scope.resource.is_open())];
    let open: Vec<_> = parts.into_iter().filter_map(|(part, open)| open.then_some(part)).collect();
    // A condition that reads nothing, such as `true`, is none.
    let mut reads = false;
    policy.tree.walk(&mut |expr, _| reads |= matches!(expr, Expr::Var(_)));
    if open.is_empty() || reads {
        return None;
    }
    Some(format!("this permit has no condition and leaves open: {}; constrain it", open.join(", ")))
}

fn mutable_identity(catalog: &Catalog, policy: &Parsed<'_>) -> Option<String> {
    let (issues, enrolls) = (policy.tree.scope.admits(Action::Issue), policy.tree.scope.admits(Action::Enroll));
    if !issues && !enrolls {
        return None;
    }
    let what = if issues { "issue" } else { "enroll" };
    let loose: Vec<_> = issuers(catalog, policy)
        .into_iter()
        .filter_map(|(issuer, claims)| {
            let ids: Vec<&str> = IMMUTABLE_CLAIMS.into_iter().filter(|id| claims.iter().any(|claim| claim.name == *id)).collect();
            let pinned = ids.is_empty()
                || policy.tree.clauses.iter().any(|(when, expr)| *when && pins(expr, &ids))
                || tenant_scope(catalog, policy).is_some_and(|tenant| members_pin(catalog, tenant, issuer, &ids));
            (!pinned).then(|| format!("{issuer} (which has {})", ids.join(", ")))
        })
        .collect();
    let message = |issuers: String| {
        format!(
            "this permit to {what} pins no immutable id of the callers of {issuers}: names are given away and taken again; compare one with =="
        )
    };
    (!loose.is_empty()).then(|| message(loose.join(" and ")))
}

/// The issuers whose tokens a policy's scope, and the members of its tenant, admit.
fn issuers<'a>(catalog: &'a Catalog, policy: &Parsed<'_>) -> Vec<(&'a str, &'a [ClaimSpec])> {
    let principal = &policy.tree.scope.principal;
    let exact = principal.entity.as_ref().filter(|named| named.ty != "Tenant").map(|named| named.ty.as_str());
    let mut wanted: BTreeSet<&str> = principal.ty.as_deref().or(exact).into_iter().collect();
    let narrowed: Vec<String> = policy.tree.clauses.iter().filter(|(when, _)| *when).filter_map(|(_, expr)| narrowing(expr)).collect();
    wanted.extend(narrowed.iter().map(String::as_str));
    let tenant = tenant_scope(catalog, policy).and_then(|tenant| catalog.tenants.get(tenant));
    let admitted = catalog.issuers.iter().filter(|(issuer, _)| {
        let ty = format!("Token::{}", token_type(issuer));
        let of_issuer = |member: &Member| matches!(member, Member::Token { issuer: of, .. } if of == *issuer);
        wanted.iter().all(|wanted| *wanted == ty) && tenant.is_none_or(|tenant| tenant.members.iter().any(of_issuer))
    });
    admitted.map(|(issuer, claims)| (issuer.as_str(), claims.as_slice())).collect()
}

/// The type that a condition's conjuncts hold the principal to.
fn narrowing(expr: &Expr) -> Option<String> {
    match expr {
        Expr::BinaryOp { op: cedar_policy::pst::BinaryOp::And, left, right } => narrowing(left).or_else(|| narrowing(right)),
        Expr::Is { expr, entity_type, .. } => (path(expr)? == ["principal"]).then(|| entity_type.to_string()),
        _ => None,
    }
}

/// The tenant that a policy's callers must be of: by its scope, or because the role's owner is one.
fn tenant_scope<'a>(catalog: &'a Catalog, policy: &Parsed<'_>) -> Option<&'a TenantName> {
    let named = |named: &super::syntax::Named, ty: &str| (named.ty == ty).then(|| named.id.clone());
    let scope = &policy.tree.scope;
    let by_scope = scope.principal.entity.as_ref().and_then(|entity| named(entity, "Tenant"));
    let role = scope.resource.entity.as_ref().and_then(|entity| named(entity, "Role")).and_then(|role| role.parse::<RoleName>().ok());
    let by_owner = role.and_then(|role| match &catalog.roles.get(&role)?.owner {
        RoleOwner::Tenant(tenant) => Some(tenant.as_str().to_owned()),
        RoleOwner::Shared => None,
    });
    let tenant = by_scope.or(by_owner)?.parse::<TenantName>().ok()?;
    catalog.tenants.get(&tenant).map(|tenant| &tenant.name)
}

fn members_pin(catalog: &Catalog, tenant: &TenantName, of: &str, ids: &[&str]) -> bool {
    let pinned = |member: &Member| match member {
        Member::Certificate { .. } => true,
        Member::Token { issuer, claims } => {
            let fixed = |value: &ClaimValue| matches!(value, ClaimValue::String(_) | ClaimValue::Integer(_));
            issuer.as_str() != of || claims.iter().any(|(name, value)| ids.contains(&name.as_str()) && fixed(value))
        }
    };
    catalog.tenants.get(tenant).is_some_and(|tenant| tenant.members.iter().all(pinned))
}

fn wide_pattern(policy: &Parsed<'_>) -> Option<String> {
    let mut wide = BTreeSet::new();
    policy.tree.walk(&mut |expr, positive| {
        if let (Expr::Like { expr, pattern }, true) = (expr, positive) {
            let about_caller = path(expr).filter(|path| matches!(path[..], ["principal", ..] | ["context", "peer", ..]));
            if let Some(path) = about_caller.filter(|_| pattern.contains(&PatternElem::Wildcard)) {
                wide.insert(path.join("."));
            }
        }
    });
    let paths: Vec<_> = wide.into_iter().collect();
    let message = || {
        format!("the * in a pattern over {} also matches / and :, so it can take in more than one name; compare with ==", paths.join(", "))
    };
    (!paths.is_empty()).then(message)
}

/// A permit to issue for tokens that say what source they ran for, and that does not ask.
fn open_source(catalog: &Catalog, policy: &Parsed<'_>) -> Option<String> {
    if !policy.tree.scope.admits(Action::Issue) {
        return None;
    }
    let read = policy.tree.claims();
    let reads_source = read.iter().any(|claim| SOURCE_CLAIMS.contains(&claim.as_str()));
    let issuers = issuers(catalog, policy);
    let (issuer, claims) = issuers.iter().find(|(_, claims)| claims.iter().any(|claim| SOURCE_CLAIMS.contains(&claim.name.as_str())))?;
    let has: Vec<_> = claims.iter().map(|claim| claim.name.as_str()).filter(|name| SOURCE_CLAIMS.contains(name)).collect();
    let message = format!("any ref of {issuer} may issue: a pull request's job too; a condition on {} would narrow it", has.join(" or "));
    (!reads_source && policy.policy.annotation("reason").is_none()).then_some(message)
}
