//! Which policies can apply to a question, worked out from their scopes: Cedar's cost is linear in what it is given.

use std::collections::HashMap;

use super::{
    Action,
    facts::{Ask, Caller, Target},
    syntax::{Bound, Scope},
};

/// What a policy's scope reaches. Never less than what Cedar makes of the scope.
#[derive(Debug)]
pub(super) struct Reach(pub Scope);

/// For each action the policies that can apply, in the order of the text.
type ByAction = [Vec<usize>; Action::ALL.len()];

/// The policies by what their scope names as the resource, and by action.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_role: HashMap<String, ByAction>,
    by_tenant: HashMap<String, ByAction>,
    /// Those that name no resource.
    open: ByAction,
}

impl Index {
    pub fn new<'a>(reaches: impl Iterator<Item = &'a Reach>) -> Self {
        let mut index = Self::default();
        for (at, Reach(scope)) in reaches.enumerate() {
            let lists = match &scope.resource.entity {
                Some(named) if named.ty == "Role" => index.by_role.entry(named.id.clone()).or_default(),
                Some(named) if named.ty == "Tenant" => index.by_tenant.entry(named.id.clone()).or_default(),
                _ => &mut index.open,
            };
            for action in Action::ALL.into_iter().filter(|action| scope.admits(*action)) {
                lists[action as usize].push(at);
            }
        }
        index
    }

    /// The policies that could apply to an action on this target, in no order.
    pub fn of<'i>(&'i self, action: Action, target: &Target<'_>) -> impl Iterator<Item = usize> + use<'i> {
        let role = target.role().and_then(|role| self.by_role.get(role.as_str()));
        let tenant = target.tenant().and_then(|tenant| self.by_tenant.get(tenant.as_str()));
        let lists = [role, tenant, Some(&self.open)];
        lists.into_iter().flatten().flat_map(move |lists| lists[action as usize].iter().copied())
    }
}

impl Reach {
    /// Whether the scope can hold for the target.
    pub fn admits_target(&self, target: &Target<'_>) -> bool {
        admits(&self.0.resource, target.ty(), |named| match named.ty.as_str() {
            "Role" if named.exactly => matches!(target, Target::Role(name, _) if name.as_str() == named.id),
            "Role" => target.role().is_some_and(|role| role.as_str() == named.id),
            "Tenant" if named.exactly => matches!(target, Target::Tenant(name) if name.as_str() == named.id),
            "Tenant" => target.tenant().is_some_and(|tenant| tenant.as_str() == named.id),
            _ => false,
        })
    }

    /// Whether the scope can hold for the caller.
    pub fn admits_caller(&self, caller: &Caller<'_>) -> bool {
        admits(&self.0.principal, &caller.ty, |named| match named.ty.as_str() {
            "Tenant" => !named.exactly && caller.tenant.name.as_str() == named.id,
            ty => ty == caller.ty && named.id == caller.id,
        })
    }

    /// Whether the scope can hold.
    pub fn admits(&self, caller: &Caller<'_>, ask: &Ask<'_>) -> bool {
        self.0.admits(ask.action) && self.admits_target(&ask.target) && self.admits_caller(caller)
    }
}

fn admits(bound: &Bound, ty: &str, entity: impl Fn(&super::syntax::Named) -> bool) -> bool {
    bound.ty.as_ref().is_none_or(|wanted| wanted == ty) && bound.entity.as_ref().is_none_or(entity)
}
