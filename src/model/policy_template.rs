//! A session policy of AWS as a template: a JSON document in which placeholders stand where a value belongs, and nowhere else.

use serde_json::{Map, Value};

use super::{
    error::Result,
    identity::Identity,
    lease::LeaseId,
    name::RoleName,
    template::{BadTemplate, Place, Template},
};

/// The fields of a statement in which a placeholder may stand. `Effect`, `Action` and `Principal` say what a policy means, and the `Not…`
/// fields turn a narrower value into a wider policy.
const FIELDS: [&str; 2] = ["Resource", "Condition"];

/// A parsed document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyTemplate {
    root: Node,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Fixed(Value),
    Text(Template),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
}

/// A document that is no template of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPolicyTemplate {
    /// It is no JSON object with a `Statement`.
    #[error("it is not a policy document: {0}")]
    Json(String),
    /// A placeholder where none may stand.
    #[error("a placeholder can stand in the values of Resource and Condition only, not in {0:?}")]
    Misplaced(String),
    /// A text that is no template.
    #[error(transparent)]
    Template(#[from] BadTemplate),
}

impl PolicyTemplate {
    /// Parses a document.
    pub fn parse(source: &str) -> std::result::Result<Self, BadPolicyTemplate> {
        let json = |why: &dyn std::fmt::Display| BadPolicyTemplate::Json(why.to_string());
        let document: Value = serde_json::from_str(source).map_err(|error| json(&error))?;
        if !document.is_object() || document.get("Statement").is_none() {
            return Err(json(&"there is no Statement"));
        }
        Ok(Self { root: node(document, false)? })
    }

    /// The claims that it reads.
    pub fn claims(&self) -> Vec<&str> {
        let mut found = Vec::new();
        collect(&self.root, &mut found);
        found
    }

    /// Renders it for a caller as one line of JSON. Each value goes in as a string of JSON, after [`Place::PolicyValue`] took it.
    pub fn render(&self, identity: &Identity, role: &RoleName, lease: LeaseId) -> Result<Value> {
        render(&self.root, &|template| template.render_with_lease(Place::PolicyValue, identity, role, lease))
    }
}

fn node(value: Value, open: bool) -> std::result::Result<Node, BadPolicyTemplate> {
    Ok(match value {
        Value::String(text) if open && text.contains(['{', '}']) => Node::Text(Template::parse(&text)?),
        Value::String(text) if text.contains(['{', '}']) => return Err(BadPolicyTemplate::Misplaced(text)),
        Value::Array(items) => Node::List(items.into_iter().map(|item| node(item, open)).collect::<std::result::Result<_, _>>()?),
        Value::Object(fields) => Node::Table(
            fields
                .into_iter()
                .map(|(name, value)| {
                    if name.contains(['{', '}']) {
                        return Err(BadPolicyTemplate::Misplaced(name));
                    }
                    let open = open || FIELDS.contains(&name.as_str());
                    Ok((name, node(value, open)?))
                })
                .collect::<std::result::Result<_, _>>()?,
        ),
        fixed => Node::Fixed(fixed),
    })
}

fn collect<'a>(node: &'a Node, found: &mut Vec<&'a str>) {
    match node {
        Node::Fixed(_) => {}
        Node::Text(template) => found.extend(template.claims()),
        Node::List(items) => items.iter().for_each(|item| collect(item, found)),
        Node::Table(fields) => fields.iter().for_each(|(_, value)| collect(value, found)),
    }
}

fn render(node: &Node, fill: &dyn Fn(&Template) -> Result<String>) -> Result<Value> {
    Ok(match node {
        Node::Fixed(value) => value.clone(),
        Node::Text(template) => Value::String(fill(template)?),
        Node::List(items) => Value::Array(items.iter().map(|item| render(item, fill)).collect::<Result<_>>()?),
        Node::Table(fields) => {
            let rendered = fields.iter().map(|(name, value)| Ok((name.clone(), render(value, fill)?)));
            Value::Object(rendered.collect::<Result<Map<_, _>>>()?)
        }
    })
}
