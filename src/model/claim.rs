//! Verified claims of a token: their names, their types, their values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The type that a claim must have. A token whose claim has another type is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimType {
    /// A JSON string.
    String,
    /// A JSON integer that fits 64 bits with sign.
    Integer,
    /// A JSON boolean.
    Boolean,
    /// A JSON array of strings.
    Strings,
}

/// One claim that an issuer's tokens carry and that templates and policies may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimSpec {
    /// Its name here: an identifier, `[A-Za-z_][A-Za-z0-9_]*`.
    pub name: String,
    /// Where it lies in the token: the keys from the payload's top, one or more.
    pub path: Vec<String>,
    /// Its type.
    pub ty: ClaimType,
    /// Whether a token without it is refused.
    pub required: bool,
}

/// The value of a verified claim.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClaimValue {
    /// A boolean.
    Boolean(bool),
    /// An integer.
    Integer(i64),
    /// A string.
    String(String),
    /// A list of strings, in the token's order.
    Strings(Vec<String>),
}

impl ClaimValue {
    /// The type of this value.
    pub fn ty(&self) -> ClaimType {
        match self {
            Self::Boolean(_) => ClaimType::Boolean,
            Self::Integer(_) => ClaimType::Integer,
            Self::String(_) => ClaimType::String,
            Self::Strings(_) => ClaimType::Strings,
        }
    }
}

/// Claims by name, as [`ClaimSpec::name`] has it.
pub type Claims = BTreeMap<String, ClaimValue>;
