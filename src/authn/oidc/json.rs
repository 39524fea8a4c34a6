//! A strict reader of JSON that a stranger sent: no member twice, no deep nesting, no mass of values.
//!
//! RFC 8259 section 4 leaves it to the parser which of two equal members counts; RFC 7515 section 4 and RFC 7519
//! section 4 then let two parsers see two tokens in one. Here a member that stands twice is a fault, at every level.

use std::{borrow::Cow, cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// How deep values may nest.
pub const MAX_DEPTH: usize = 8;
/// The most members of one object.
pub const MAX_MEMBERS: usize = 128;
/// The most values in one document.
pub const MAX_NODES: usize = 4096;

/// A JSON value; strings are borrowed from the text where they hold no escape.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    /// A number that is no integer of 64 bits with sign; nothing here takes one.
    OtherNumber,
    String(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    Object(Object<'a>),
}

/// The members of an object, in their order, each name once.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Object<'a> {
    /// Reads a document whose top is an object. The error completes "the ... ": it never quotes the text.
    pub fn parse(text: &'a str) -> Result<Self, &'static str> {
        match parse(text)? {
            Json::Object(object) => Ok(object),
            _ => Err("is not a JSON object"),
        }
    }

    /// A member's value.
    pub fn get(&self, name: &str) -> Option<&Json<'a>> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// A string member; `Err` when it has another type.
    pub fn string(&self, name: &str) -> Result<Option<&str>, NotThatType> {
        match self.get(name) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(_) => Err(NotThatType),
        }
    }

    /// An integer member; `Err` when it has another type.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, NotThatType> {
        match self.get(name) {
            None => Ok(None),
            Some(Json::Integer(number)) => Ok(Some(*number)),
            Some(_) => Err(NotThatType),
        }
    }
}

/// A member is there and has another type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotThatType;

fn parse(text: &str) -> Result<Json<'_>, &'static str> {
    let budget = Budget { nodes: Cell::new(0), fault: Cell::new("is not valid JSON") };
    let mut parser = serde_json::Deserializer::from_str(text);
    let value = Seed { depth: 0, budget: &budget }.deserialize(&mut parser).map_err(|_| budget.fault.get())?;
    parser.end().map_err(|_| "is followed by something after its JSON")?;
    Ok(value)
}

struct Budget {
    nodes: Cell<usize>,
    fault: Cell<&'static str>,
}

impl Budget {
    fn fault<E: serde::de::Error>(&self, fault: &'static str) -> E {
        self.fault.set(fault);
        E::custom(fault)
    }
}

#[derive(Clone, Copy)]
struct Seed<'b> {
    depth: usize,
    budget: &'b Budget,
}

impl Seed<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(self.budget.fault("nests its values too deep"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        self.budget.nodes.set(self.budget.nodes.get() + 1);
        if self.budget.nodes.get() > MAX_NODES {
            return Err(self.budget.fault("holds too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(i64::try_from(value).map_or(Json::OtherNumber, Json::Integer))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json<'de>, E> {
        Ok(Json::OtherNumber)
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = access.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Json::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let inner = self.deeper()?;
        let mut members: Vec<(Cow<'de, str>, Json<'de>)> = Vec::new();
        while let Some(name) = access.next_key_seed(Name)? {
            if members.len() == MAX_MEMBERS {
                return Err(self.budget.fault("has an object with too many members"));
            }
            if members.iter().any(|(other, _)| *other == name) {
                return Err(self.budget.fault("has a member twice"));
            }
            members.push((name, access.next_value_seed(inner)?));
        }
        Ok(Json::Object(Object(members)))
    }
}

struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_type() {
        let object =
            Object::parse(r#"{"a":"x","b":1,"c":-1,"d":true,"e":null,"f":["\u00e4"],"g":{"h":1.5},"i":18446744073709551615}"#).unwrap();
        assert_eq!(object.string("a"), Ok(Some("x")));
        assert_eq!(object.integer("b"), Ok(Some(1)));
        assert_eq!(object.integer("c"), Ok(Some(-1)));
        assert_eq!(object.get("d"), Some(&Json::Bool(true)));
        assert_eq!(object.get("e"), Some(&Json::Null));
        assert_eq!(object.get("f"), Some(&Json::Array(vec![Json::String("ä".into())])));
        assert_eq!(object.get("i"), Some(&Json::OtherNumber));
        assert_eq!(object.integer("a"), Err(NotThatType));
        assert_eq!(object.string("z"), Ok(None));
        let Some(Json::Object(inner)) = object.get("g") else { panic!() };
        assert_eq!(inner.get("h"), Some(&Json::OtherNumber));
    }

    #[test]
    fn refuses_what_two_parsers_could_read_differently() {
        for (bad, why) in [
            (r#"{"a":1,"a":1}"#, "has a member twice"),
            (r#"{"a":1,"\u0061":2}"#, "has a member twice"),
            (r#"{"x":{"a":1,"a":2}}"#, "has a member twice"),
            (r#"{"x":[{"a":1,"a":2}]}"#, "has a member twice"),
            (r#"{"a":1}x"#, "is followed by something after its JSON"),
            (r#"{"a":1}{}"#, "is followed by something after its JSON"),
            (r#"{"a":1,}"#, "is not valid JSON"),
            (r#"{'a':1}"#, "is not valid JSON"),
            (r#"{"a":01}"#, "is not valid JSON"),
            (r#"{"a":NaN}"#, "is not valid JSON"),
            (r#"{"a":"\ud800"}"#, "is not valid JSON"),
            ("\u{feff}{}", "is not valid JSON"),
            ("", "is not valid JSON"),
            ("[]", "is not a JSON object"),
            ("null", "is not a JSON object"),
        ] {
            assert_eq!(Object::parse(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn bounds_depth_members_and_values() {
        let nest = |depth: usize| format!("{}{}", r#"{"a":"#.repeat(depth), "1".to_owned() + &"}".repeat(depth));
        assert!(Object::parse(&nest(MAX_DEPTH)).is_ok());
        assert_eq!(Object::parse(&nest(MAX_DEPTH + 1)), Err("nests its values too deep"));
        assert_eq!(Object::parse(&"[".repeat(100_000)), Err("nests its values too deep"));
        let members = |count: usize| format!("{{{}}}", (0..count).map(|i| format!("\"{i}\":1")).collect::<Vec<_>>().join(","));
        assert!(Object::parse(&members(MAX_MEMBERS)).is_ok());
        assert_eq!(Object::parse(&members(MAX_MEMBERS + 1)), Err("has an object with too many members"));
        let values = |count: usize| format!("{{\"a\":[{}]}}", vec!["1"; count].join(","));
        assert!(Object::parse(&values(MAX_NODES - 2)).is_ok());
        assert_eq!(Object::parse(&values(MAX_NODES - 1)), Err("holds too many values"));
    }
}
