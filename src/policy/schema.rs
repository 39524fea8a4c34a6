//! The Cedar schema of a catalog, and the Cedar types that go with it.

use std::{collections::BTreeMap, fmt::Write as _, str::FromStr};

use cedar_policy::{EntityId, EntityTypeName, EntityUid};

use super::Action;
use crate::model::{
    catalog::Catalog,
    claim::{ClaimSpec, ClaimType},
    name::IssuerName,
};

/// Words that cannot name a Cedar type, because the language has them.
const RESERVED: [&str; 10] = ["true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar"];

const ACTIONS: &str = r#"
type Peer = { trust_domain: String, id: String, subject: String, serial: String };
type Asked = { ttl_seconds: Long, time: datetime, peer_address?: ipaddr, peer?: Peer };
type Enrolled = { tenant: String, time: datetime, peer_address?: ipaddr, peer?: Peer };
type Seen = { time: datetime, peer_address?: ipaddr, peer?: Peer };

entity Tenant;
entity Role in [Tenant] { kind: String };
entity Lease in [Role, Tenant] { subject: String, kind: String, own: Bool };
entity Certificate in [Tenant] { trust_domain: String, id: String, subject: String };
"#;

/// The Cedar schema, as text, that policies over this catalog are checked against.
///
/// Callers are a `Certificate`, or a `Token::<issuer>` whose `claims` are exactly those that the issuer's configuration
/// names. `issue`, `explain` and `enroll` are on a `Role`; `renew`, `read` and `revoke` on a `Lease`; `audit` on a `Tenant`.
pub fn schema(catalog: &Catalog) -> String {
    let mut text = ACTIONS.to_owned();
    let mut principals = vec!["Certificate".to_owned()];
    text.push_str("\nnamespace Token {\n");
    for (issuer, claims) in &catalog.issuers {
        let name = token_type(issuer);
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "  entity {name} in [Tenant] {{ subject: String, issuer: String, claims: {{ {} }} }};", claim_fields(claims));
        principals.push(format!("Token::{name}"));
    }
    text.push_str("}\n\n");
    let principals = principals.join(", ");
    for action in Action::ALL {
        let (resource, context) = match action {
            Action::Issue => ("Role", "Asked"),
            Action::Explain => ("Role", "Seen"),
            Action::Enroll => ("Role", "Enrolled"),
            Action::Renew => ("Lease", "Asked"),
            Action::Read | Action::Revoke => ("Lease", "Seen"),
            Action::Audit => ("Tenant", "Seen"),
        };
        let _ = writeln!(
            text,
            "action {:?} appliesTo {{ principal: [{principals}], resource: {resource}, context: {context} }};",
            action.as_str()
        );
    }
    text
}

fn claim_fields(claims: &[ClaimSpec]) -> String {
    let field = |claim: &ClaimSpec| {
        let ty = match claim.ty {
            ClaimType::String => "String",
            ClaimType::Integer => "Long",
            ClaimType::Boolean => "Bool",
            ClaimType::Strings => "Set<String>",
        };
        format!("{:?}{}: {ty}", claim.name, if claim.required { "" } else { "?" })
    };
    claims.iter().map(field).collect::<Vec<_>>().join(", ")
}

/// The Cedar type of an issuer's tokens, without its namespace `Token`: the issuer's name with `_` for `-`, and a `_`
/// where that alone would be no identifier.
pub fn token_type(issuer: &IssuerName) -> String {
    let name = issuer.as_str().replace('-', "_");
    if RESERVED.contains(&name.as_str()) {
        return format!("{name}_");
    }
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        return format!("_{name}");
    }
    name
}

/// The Cedar types and actions, made once.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub role: EntityTypeName,
    pub tenant: EntityTypeName,
    pub lease: EntityTypeName,
    pub certificate: EntityTypeName,
    pub tokens: BTreeMap<IssuerName, EntityTypeName>,
    actions: [EntityUid; Action::ALL.len()],
}

impl Vocabulary {
    pub fn new(catalog: &Catalog) -> Self {
        let action = name("Action");
        let tokens = catalog.issuers.keys().map(|issuer| (issuer.clone(), name(&format!("Token::{}", token_type(issuer)))));
        Self {
            role: name("Role"),
            tenant: name("Tenant"),
            lease: name("Lease"),
            certificate: name("Certificate"),
            tokens: tokens.collect(),
            actions: Action::ALL.map(|a| uid(&action, a.as_str())),
        }
    }

    pub fn action(&self, action: Action) -> &EntityUid {
        &self.actions[action as usize]
    }
}

/// An entity's id: the text goes in as data, never as Cedar text.
pub(super) fn uid(ty: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(ty.clone(), EntityId::new(id))
}

fn name(text: &str) -> EntityTypeName {
    EntityTypeName::from_str(text).expect("token_type and the fixed names above are Cedar identifiers; a test tries every reserved word")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuers(names: &[&str]) -> Catalog {
        let claims = ["if", "in", "like", "ref", "__cedar", "Bool"].map(|name| ClaimSpec {
            name: name.to_owned(),
            path: vec![name.to_owned()],
            ty: ClaimType::String,
            required: false,
        });
        Catalog { issuers: names.iter().map(|n| (n.parse().unwrap(), claims.to_vec())).collect(), ..Catalog::default() }
    }

    #[test]
    fn every_legal_issuer_name_makes_a_schema_that_cedar_takes() {
        for name in ["github", "0abc", "a-b-c", "a-", "ipaddr", "datetime", "set", "principal", "action", "type", "entity", "namespace"]
            .into_iter()
            .chain(RESERVED.into_iter().filter(|r| !r.contains('_')))
        {
            let catalog = issuers(&[name]);
            let (parsed, _) = cedar_policy::Schema::from_cedarschema_str(&schema(&catalog)).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            let tokens = Vocabulary::new(&catalog).tokens;
            assert!(parsed.entity_types().any(|ty| Some(ty) == tokens.values().next()), "{name}");
        }
    }

    #[test]
    fn actions_are_indexed_by_their_discriminant() {
        let vocabulary = Vocabulary::new(&Catalog::default());
        for action in Action::ALL {
            assert_eq!(vocabulary.action(action).id().unescaped(), action.as_str());
        }
    }
}
