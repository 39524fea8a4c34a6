//! What the audit log records of one action. Never a secret.

use std::{borrow::Cow, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{
    Timestamp,
    claim::{ClaimValue, Claims},
    identity::{Identity, MAX_SUBJECT},
    lease::{Lease, LeaseId},
    name::{RoleName, TenantName},
};

/// The longest text of a record (method, reason, ids, versions), in bytes as JSON escapes it.
pub const MAX_TEXT: usize = 512;

/// The longest item of [`Event::policies`] and [`Event::detail`], and the longest claim (its name and its whole value), in
/// bytes as JSON escapes it.
pub const MAX_ITEM: usize = 1024;

/// All claims of a record together, in bytes as JSON escapes them. More claims than fit at [`MAX_ITEM`] share it evenly.
pub const MAX_CLAIMS: usize = 24 * 1024;

/// All of [`Event::policies`] together, in bytes as JSON escapes them.
pub const MAX_POLICIES: usize = 4 * 1024;

/// All of [`Event::detail`] together, in bytes as JSON escapes them.
pub const MAX_DETAIL: usize = 16 * 1024;

/// How an action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Done,
    /// The caller was not authenticated or may not.
    Denied,
    /// It could not be done.
    Failed,
}

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The canonical subject.
    pub subject: String,
    /// "mtls", "oidc", "enrollment", "local" for the admin socket, or "service" for the server's own passes.
    pub method: Cow<'static, str>,
    /// The trust domain or the issuer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub authority: String,
    /// The serial of the caller's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The subject of the certificate beside a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The verified claims that the issuer's configuration names.
    #[serde(default, skip_serializing_if = "Claims::is_empty")]
    pub claims: Claims,
}

impl Actor {
    /// The server itself, in one of its passes.
    pub fn service(pass: &str) -> Self {
        Self {
            subject: format!("service:{pass}"),
            method: "service".into(),
            authority: String::new(),
            serial: None,
            peer: None,
            claims: Claims::new(),
        }
    }
}

impl Actor {
    /// A user of the server's own machine, on the admin socket.
    pub fn local(uid: u32) -> Self {
        Self { subject: format!("local:uid={uid}"), method: "local".into(), ..Self::service("") }
    }
}

impl From<&Identity> for Actor {
    fn from(identity: &Identity) -> Self {
        Self {
            subject: identity.subject().to_string(),
            method: identity.method().into(),
            authority: identity.authority().to_owned(),
            serial: identity.certificate().map(|peer| peer.serial.clone()),
            peer: identity.peer().map(|peer| peer.subject.to_string()),
            claims: identity.claims().cloned().unwrap_or_default(),
        }
    }
}

/// One action, as it goes into the log. The log adds `seq`, `prev` and `hash`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// What: the gRPC method ("CredentialService/Issue") or the pass ("sweep/expire").
    pub method: Cow<'static, str>,
    /// How it ended.
    pub outcome: Outcome,
    /// The stable reason when it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
    /// Who; absent when the caller could not be authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// The tenant that it concerns: the lease's, or else the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// The role that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<RoleName>,
    /// The lease that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_id: Option<LeaseId>,
    /// The lease after the action, from which a store that forgot it can be rebuilt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// Where the call came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<IpAddr>,
    /// The id of this call, the same in logs and in the answer's metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// The caller's own request id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The version of the policy that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<String>,
    /// The ids of the policies that decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// For a denial: each considered policy and the condition that failed. Else what the caller said or what was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detail: Vec<String>,
    /// The fields that [`Event::bound`] shortened. A caller can put the mark of a cut into its own texts; it cannot put
    /// anything here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortened: Vec<Cow<'static, str>>,
}

impl Event {
    /// An event with nothing but a time, a method and an outcome.
    pub fn new(time: Timestamp, method: impl Into<Cow<'static, str>>, outcome: Outcome) -> Self {
        Self {
            time,
            method: method.into(),
            outcome,
            reason: None,
            actor: None,
            tenant: None,
            role: None,
            lease_id: None,
            lease: None,
            peer_address: None,
            call_id: None,
            request_id: None,
            policy_version: None,
            policies: Vec::new(),
            detail: Vec::new(),
            shortened: Vec::new(),
        }
    }

    /// Shortens every text and list that somebody else may have filled, so that no caller can make its own record too long to
    /// be written. The one place that does so; the log calls it on every event.
    ///
    /// A cut text ends with a mark that tells its former length, a cut list with one that tells how many items are missing, and
    /// `shortened` names the field. A lease is not touched: its parts are bounded by their types.
    pub fn bound(&mut self) {
        let mut cuts = Cuts(std::mem::take(&mut self.shortened));
        cuts.text("method", self.method.to_mut_if_longer(MAX_TEXT), MAX_TEXT);
        cuts.text("reason", self.reason.as_mut().and_then(|reason| reason.to_mut_if_longer(MAX_TEXT)), MAX_TEXT);
        cuts.text("call_id", self.call_id.as_mut(), MAX_TEXT);
        cuts.text("request_id", self.request_id.as_mut(), MAX_TEXT);
        cuts.text("policy_version", self.policy_version.as_mut(), MAX_TEXT);
        cuts.list("policies", &mut self.policies, MAX_POLICIES);
        cuts.list("detail", &mut self.detail, MAX_DETAIL);
        if let Some(actor) = &mut self.actor {
            // Twice, because JSON may escape each byte of a legal subject with a second one.
            cuts.text("subject", Some(&mut actor.subject), 2 * MAX_SUBJECT);
            cuts.text("peer", actor.peer.as_mut(), 2 * MAX_SUBJECT);
            cuts.text("actor_method", actor.method.to_mut_if_longer(MAX_TEXT), MAX_TEXT);
            cuts.text("authority", Some(&mut actor.authority), MAX_TEXT);
            cuts.text("serial", actor.serial.as_mut(), MAX_TEXT);
            cuts.claims(&mut actor.claims);
        }
        self.shortened = cuts.0;
    }
}

/// The names of the fields that were cut.
struct Cuts(Vec<Cow<'static, str>>);

impl Cuts {
    fn note(&mut self, field: &'static str) {
        if !self.0.iter().any(|noted| noted == field) {
            self.0.push(field.into());
        }
    }

    fn text(&mut self, field: &'static str, text: Option<&mut String>, max: usize) {
        if let Some(text) = text
            && cut(text, max)
        {
            self.note(field);
        }
    }

    /// Cuts long items, then drops those past `max` together.
    fn list(&mut self, field: &'static str, items: &mut Vec<String>, max: usize) {
        let mut left = max - MARK;
        for at in 0..items.len() {
            self.text(field, items.get_mut(at), MAX_ITEM);
            let length = escaped(&items[at]) + PUNCTUATION;
            if length > left {
                let missing = items.len() - at;
                items.truncate(at);
                items.push(format!("…[{missing} more]"));
                return self.note(field);
            }
            left -= length;
        }
    }

    /// Each claim gets the same share, so that one long claim never pushes another one out of the record.
    fn claims(&mut self, claims: &mut Claims) {
        const FIELD: &str = "claims";
        let share = (MAX_CLAIMS / claims.len().max(1)).clamp(MIN_SHARE, MAX_ITEM);
        let most = MAX_CLAIMS / MIN_SHARE;
        let before = claims.len();
        let mut kept = 0;
        claims.retain(|name, _| {
            let keep = kept < most && escaped(name) + PUNCTUATION + MARK + PUNCTUATION <= share;
            kept += usize::from(keep);
            keep
        });
        if claims.len() < before {
            self.note(FIELD);
        }
        for (name, value) in claims {
            let room = share - escaped(name) - 2 * PUNCTUATION;
            match value {
                ClaimValue::Boolean(_) | ClaimValue::Integer(_) => {}
                ClaimValue::String(text) => self.text(FIELD, Some(text), room),
                ClaimValue::Strings(items) => self.list(FIELD, items, room),
            }
        }
    }
}

/// Room for the mark of a cut, in bytes, with the punctuation around it.
const MARK: usize = 48;

/// What JSON puts around one text: two quotes, and a comma, colon or brackets.
const PUNCTUATION: usize = 4;

/// The smallest share of a claim, in bytes: a name of 128 still leaves room for a mark.
const MIN_SHARE: usize = 192;

/// Cuts a text to `max` bytes as JSON escapes them, its mark included. Answers whether it did.
fn cut(text: &mut String, max: usize) -> bool {
    // JSON makes at most six bytes of one: most texts are short enough to need no count.
    if text.len() * 6 <= max || escaped(text) <= max {
        return false;
    }
    let mut left = max.saturating_sub(MARK);
    let mut end = 0;
    for (at, letter) in text.char_indices() {
        let length = escaped(&text[at..at + letter.len_utf8()]);
        if length > left {
            break;
        }
        left -= length;
        end = at + letter.len_utf8();
    }
    let mark = format!("…[cut from {} bytes]", text.len());
    text.truncate(end);
    text.push_str(&mark);
    true
}

/// How many bytes JSON makes of a text (RFC 8259, section 7), as serde_json writes it.
fn escaped(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
            0..0x20 => 6,
            _ => 1,
        })
        .sum()
}

trait Longer {
    /// The owned text where it may need a cut; a static one is copied only then.
    fn to_mut_if_longer(&mut self, max: usize) -> Option<&mut String>;
}

impl Longer for Cow<'static, str> {
    fn to_mut_if_longer(&mut self, max: usize) -> Option<&mut String> {
        (self.len() * 6 > max && escaped(self) > max).then(|| self.to_mut())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn json(event: &Event) -> String {
        serde_json::to_string(event).unwrap()
    }

    /// The fields that a caller or a provider can fill, all of them with the same text.
    fn filled(text: &str, count: usize) -> Event {
        let mut event = Event::new(at(), text.to_owned(), Outcome::Denied);
        event.reason = Some(text.to_owned().into());
        event.call_id = Some(text.to_owned());
        event.request_id = Some(text.to_owned());
        event.policy_version = Some(text.to_owned());
        event.policies = vec![text.to_owned(); count];
        event.detail = vec![text.to_owned(); count];
        let mut claims = Claims::new();
        for at in 0..count {
            claims.insert(format!("text_{at}"), ClaimValue::String(text.to_owned()));
            claims.insert(format!("list_{at}"), ClaimValue::Strings(vec![text.to_owned(); count]));
            claims.insert(text.to_owned(), ClaimValue::Integer(1));
        }
        event.actor = Some(Actor {
            subject: text.to_owned(),
            method: text.to_owned().into(),
            authority: text.to_owned(),
            serial: Some(text.to_owned()),
            peer: Some(text.to_owned()),
            claims,
        });
        event
    }

    #[test]
    fn escaped_counts_as_serde_json_writes() {
        for code in (0..0x300).chain([0x2028, 0xffff, 0x1_f600]).filter_map(char::from_u32) {
            let text = String::from(code);
            assert_eq!(escaped(&text) + 2, serde_json::to_string(&text).unwrap().len(), "{code:?}");
        }
    }

    #[test]
    fn an_ordinary_event_is_left_alone() {
        let mut event = filled("repo:acme/web:ref:refs/heads/main", 3);
        let before = event.clone();
        event.bound();
        assert_eq!(event, before);
    }

    #[test]
    fn a_long_claim_is_cut_and_its_neighbours_stay() {
        let mut event = filled("short", 1);
        let actor = event.actor.as_mut().unwrap();
        actor.claims.insert("a".into(), ClaimValue::String("x".repeat(8192)));
        actor.claims.insert("b".into(), ClaimValue::Strings(vec!["team".into(); 5000]));
        actor.claims.insert("z".into(), ClaimValue::String("kept".into()));
        event.bound();
        let claims = &event.actor.as_ref().unwrap().claims;
        let ClaimValue::String(cut) = &claims["a"] else { panic!("another type") };
        assert!(cut.ends_with("…[cut from 8192 bytes]") && cut.len() <= MAX_ITEM, "{cut}");
        let ClaimValue::Strings(teams) = &claims["b"] else { panic!("another type") };
        assert!(teams.last().unwrap().ends_with("more]") && teams.len() > 50, "{teams:?}");
        assert_eq!(claims["z"], ClaimValue::String("kept".into()));
        assert_eq!(event.shortened, ["claims"]);
    }

    #[test]
    fn bounding_twice_changes_nothing_more() {
        let mut event = filled(&"\u{1}ä\"".repeat(3000), 40);
        event.bound();
        let once = event.clone();
        event.bound();
        assert_eq!(json(&event), json(&once));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_a_caller_sends_fits(unit in "\\PC{1,8}|[\u{0}-\u{1f}\"\\\\]{1,8}", times in 1_usize..3000, count in 0_usize..200) {
            let mut event = filled(&unit.repeat(times), count.min(2_000_000 / (unit.len() * times)).max(1));
            event.bound();
            prop_assert!(json(&event).len() < 56 * 1024, "{} bytes", json(&event).len());
            let back: Event = serde_json::from_str(&json(&event)).unwrap();
            prop_assert_eq!(back, event);
        }
    }
}
