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

/// The version of the policy language; under the older one AWS' variables mean nothing.
const VERSION: &str = "2012-10-17";

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
        texts(&self.root, &mut found);
        found.into_iter().flat_map(Template::claims).collect()
    }

    /// The texts in which `*` or `?` stands directly after a placeholder, as they were written.
    pub fn open_ended(&self) -> Vec<&str> {
        let mut found = Vec::new();
        texts(&self.root, &mut found);
        found.into_iter().filter(|text| text.is_open_ended()).map(Template::source).collect()
    }

    /// What AWS would refuse in a session policy, in words ("IAM JSON policy elements reference" in the IAM user guide).
    pub fn faults(&self) -> Vec<String> {
        let document = self.shortest();
        let mut faults = Vec::new();
        if document.get("Version").and_then(Value::as_str) != Some(VERSION) {
            faults.push(format!("Version must be {VERSION:?}"));
        }
        let statements = match &document["Statement"] {
            Value::Array(statements) => statements.iter().collect(),
            one => vec![one],
        };
        if statements.is_empty() {
            faults.push("there is no statement in it".to_owned());
        }
        for (number, statement) in statements.into_iter().enumerate() {
            faults.extend(statement_faults(statement).map(|fault| format!("statement {}: {fault}", number + 1)));
        }
        faults
    }

    /// The document with one letter in place of each placeholder: no rendered one is shorter.
    pub fn shortest(&self) -> Value {
        blank(&self.root)
    }

    /// Renders it for a caller as one line of JSON. Each value goes in as a string of JSON, after [`Place::PolicyValue`] took it.
    pub fn render(&self, identity: &Identity, role: &RoleName, lease: LeaseId) -> Result<Value> {
        render(&self.root, &|template| template.render_with_lease(Place::PolicyValue, identity, role, lease))
    }
}

fn node(value: Value, open: bool) -> std::result::Result<Node, BadPolicyTemplate> {
    Ok(match value {
        Value::String(text) if text.contains(['{', '}']) => match Template::parse_policy(&text)? {
            // Its variables are AWS' own.
            literal if literal.is_literal() => Node::Fixed(Value::String(text)),
            template if open => Node::Text(template),
            _ => return Err(BadPolicyTemplate::Misplaced(text)),
        },
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

fn statement_faults(statement: &Value) -> impl Iterator<Item = String> + '_ {
    let has = |field: &str| statement.get(field).is_some();
    let effect = matches!(statement.get("Effect").and_then(Value::as_str), Some("Allow" | "Deny"));
    let principal = has("Principal") || has("NotPrincipal");
    [
        (!effect, "Effect must be \"Allow\" or \"Deny\""),
        (has("Action") == has("NotAction"), "it needs either Action or NotAction"),
        (has("Resource") == has("NotResource"), "it needs either Resource or NotResource"),
        (principal, "a session policy has no Principal"),
    ]
    .into_iter()
    .filter(|(wrong, _)| *wrong)
    .map(|(_, fault)| fault.to_owned())
}

fn blank(node: &Node) -> Value {
    match node {
        Node::Fixed(value) => value.clone(),
        Node::Text(template) => Value::String(template.sample()),
        Node::List(items) => items.iter().map(blank).collect(),
        Node::Table(fields) => fields.iter().map(|(name, value)| (name.clone(), blank(value))).collect(),
    }
}

fn texts<'a>(node: &'a Node, found: &mut Vec<&'a Template>) {
    match node {
        Node::Fixed(_) => {}
        Node::Text(template) => found.push(template),
        Node::List(items) => items.iter().for_each(|item| texts(item, found)),
        Node::Table(fields) => fields.iter().for_each(|(_, value)| texts(value, found)),
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
