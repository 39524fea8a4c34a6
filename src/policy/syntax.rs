//! Reading Cedar's syntax tree: what a policy's scope admits and what its conditions read.

use cedar_policy::{
    EntityUid, Policy,
    pst::{
        ActionConstraint, BinaryOp, Clause, EntityOrSlot, EntityUID, Expr, Literal, PrincipalConstraint, ResourceConstraint, UnaryOp, Var,
    },
};

use super::Action;

/// A scope's constraint on the principal or the resource, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    /// `is`: the type.
    pub ty: Option<String>,
    /// `==` or `in`: the entity.
    pub entity: Option<Named>,
}

/// An entity that a scope names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub ty: String,
    pub id: String,
    /// `==`; else `in`.
    pub exactly: bool,
}

/// A policy's scope.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub principal: Bound,
    /// None means any; an action that does not exist is not among them.
    pub actions: Option<Vec<Action>>,
    pub resource: Bound,
}

/// A policy, read.
#[derive(Debug)]
pub(super) struct Tree {
    pub scope: Scope,
    /// Each clause: whether it is `when`, and what it says.
    pub clauses: Vec<(bool, std::sync::Arc<Expr>)>,
}

impl Bound {
    const ANY: Self = Self { ty: None, entity: None };

    /// Whether it leaves everything open.
    pub fn is_open(&self) -> bool {
        *self == Self::ANY
    }

    fn new(ty: Option<&cedar_policy::pst::EntityType>, entity: Option<(&EntityOrSlot, bool)>) -> Self {
        let named = entity.and_then(|(entity, exactly)| match entity {
            EntityOrSlot::Entity(EntityUID { ty, eid }) => Some(Named { ty: ty.to_string(), id: eid.to_string(), exactly }),
            EntityOrSlot::Slot(_) => None,
        });
        Self { ty: ty.map(ToString::to_string), entity: named }
    }
}

impl Scope {
    /// Whether the scope admits an action.
    pub fn admits(&self, action: Action) -> bool {
        self.actions.as_ref().is_none_or(|actions| actions.contains(&action))
    }
}

impl Tree {
    /// Reads a static policy; none when Cedar has no tree for it.
    pub fn of(policy: &Policy) -> Option<Self> {
        let pst = policy.to_pst().ok()?;
        let body = pst.body();
        let clauses = body.clauses().iter().map(|clause| match clause {
            Clause::When(expr) => (true, expr.clone()),
            Clause::Unless(expr) => (false, expr.clone()),
        });
        let scope = Scope { principal: principal(&body.principal), actions: actions(&body.action), resource: resource(&body.resource) };
        Some(Self { scope, clauses: clauses.collect() })
    }

    /// Calls `visit` with each expression of its conditions, and whether making it true helps the condition to hold.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Expr, bool)) {
        for (when, expr) in &self.clauses {
            walk(expr, *when, visit);
        }
    }

    /// The attribute paths that its conditions read or test: `["principal", "claims", "ref"]`.
    pub fn paths(&self) -> Vec<Vec<&str>> {
        let mut paths = Vec::new();
        self.walk(&mut |expr, _| {
            if let Expr::HasAttr { expr, attrs } = expr {
                if let Some(mut path) = path(expr) {
                    for attr in attrs {
                        path.push(attr.as_str());
                        paths.push(path.clone());
                    }
                }
            } else if let Expr::GetAttr { .. } = expr {
                paths.extend(path(expr));
            }
        });
        paths.sort();
        paths.dedup();
        paths
    }

    /// The claims that its conditions read or test, in order of name.
    pub fn claims(&self) -> Vec<String> {
        let claim = |path: &Vec<&str>| matches!(path[..], ["principal", "claims", _]).then(|| path[2].to_owned());
        self.paths().iter().filter_map(claim).collect()
    }
}

/// The path of an attribute access from a variable on; none for anything else.
pub(super) fn path(expr: &Expr) -> Option<Vec<&str>> {
    match expr {
        Expr::Var(var) => Some(vec![match var {
            Var::Principal => "principal",
            Var::Action => "action",
            Var::Resource => "resource",
            Var::Context => "context",
        }]),
        Expr::GetAttr { expr, attr } => {
            let mut all = path(expr)?;
            all.push(attr.as_str());
            Some(all)
        }
        _ => None,
    }
}

/// Whether an expression, when it holds, fixes one of `ids` of the principal's claims to literal values.
pub(super) fn pins(expr: &Expr, ids: &[&str]) -> bool {
    let claim = |expr: &Expr| path(expr).is_some_and(|path| matches!(path[..], ["principal", "claims", id] if ids.contains(&id)));
    let literal = |expr: &Expr| matches!(expr, Expr::Literal(Literal::String(_) | Literal::Long(_)));
    match expr {
        Expr::BinaryOp { op: BinaryOp::And, left, right } => pins(left, ids) || pins(right, ids),
        Expr::BinaryOp { op: BinaryOp::Or, left, right } => pins(left, ids) && pins(right, ids),
        Expr::BinaryOp { op: BinaryOp::Eq, left, right } => (claim(left) && literal(right)) || (literal(left) && claim(right)),
        Expr::BinaryOp { op: BinaryOp::Contains, left, right } => {
            claim(right) && matches!(&**left, Expr::Set(items) if items.iter().all(|item| literal(item)))
        }
        Expr::IfThenElse { then_expr, else_expr, .. } => pins(then_expr, ids) && pins(else_expr, ids),
        _ => false,
    }
}

fn walk<'a>(expr: &'a Expr, positive: bool, visit: &mut impl FnMut(&'a Expr, bool)) {
    visit(expr, positive);
    match expr {
        Expr::UnaryOp { op, expr } => walk(expr, positive != matches!(op, UnaryOp::Not), visit),
        Expr::BinaryOp { left, right, .. } => {
            walk(left, positive, visit);
            walk(right, positive, visit);
        }
        Expr::GetAttr { expr, .. } | Expr::HasAttr { expr, .. } | Expr::Like { expr, .. } => walk(expr, positive, visit),
        Expr::Is { expr, in_expr, .. } => {
            walk(expr, positive, visit);
            if let Some(parent) = in_expr {
                walk(parent, positive, visit);
            }
        }
        Expr::IfThenElse { cond, then_expr, else_expr } => {
            // A condition can help either way.
            walk(cond, true, visit);
            walk(cond, false, visit);
            walk(then_expr, positive, visit);
            walk(else_expr, positive, visit);
        }
        Expr::Set(items) => items.iter().for_each(|item| walk(item, positive, visit)),
        Expr::Record(fields) => fields.values().for_each(|field| walk(field, positive, visit)),
        Expr::Literal(_) | Expr::Var(_) | Expr::Slot(_) | Expr::Unknown { .. } => {}
        // The tree is `non_exhaustive`; nothing else exists without Cedar's experimental features.
        #[allow(unreachable_patterns)]
        _ => {}
    }
}

fn principal(constraint: &PrincipalConstraint) -> Bound {
    match constraint {
        PrincipalConstraint::Any => Bound::ANY,
        PrincipalConstraint::Eq(entity) => Bound::new(None, Some((entity, true))),
        PrincipalConstraint::In(entity) => Bound::new(None, Some((entity, false))),
        PrincipalConstraint::Is(ty) => Bound::new(Some(ty), None),
        PrincipalConstraint::IsIn(ty, entity) => Bound::new(Some(ty), Some((entity, false))),
    }
}

fn resource(constraint: &ResourceConstraint) -> Bound {
    match constraint {
        ResourceConstraint::Any => Bound::ANY,
        ResourceConstraint::Eq(entity) => Bound::new(None, Some((entity, true))),
        ResourceConstraint::In(entity) => Bound::new(None, Some((entity, false))),
        ResourceConstraint::Is(ty) => Bound::new(Some(ty), None),
        ResourceConstraint::IsIn(ty, entity) => Bound::new(Some(ty), Some((entity, false))),
    }
}

fn actions(constraint: &ActionConstraint) -> Option<Vec<Action>> {
    let known = |uid: &EntityUID| Action::ALL.into_iter().find(|action| action.as_str() == uid.eid.as_str());
    match constraint {
        ActionConstraint::Any => None,
        ActionConstraint::Eq(uid) => Some(known(uid).into_iter().collect()),
        ActionConstraint::In(uids) => Some(uids.iter().filter_map(known).collect()),
    }
}

/// An entity's type and id, as text.
pub(super) fn text_of(uid: &EntityUid) -> (String, String) {
    (uid.type_name().to_string(), uid.id().unescaped().to_owned())
}
