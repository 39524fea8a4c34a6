//! AWS' limits, checked before a call: "IAM and AWS STS quotas" in the IAM user guide, and `AssumeRole` in the STS API reference.

use crate::model::SignedDuration;
pub use crate::model::lease::AWS_SHORTEST_SESSION as MIN_DURATION;

/// The longest session (`DurationSeconds`).
pub const MAX_DURATION: SignedDuration = SignedDuration::from_hours(12);
/// The longest session of a role that was assumed from another role's session (role chaining).
pub const MAX_CHAINED: SignedDuration = SignedDuration::from_hours(1);
/// Characters of `RoleSessionName` and `SourceIdentity`.
pub const SESSION_NAME: (usize, usize) = (2, 64);
/// Characters of `ExternalId`.
pub const EXTERNAL_ID: (usize, usize) = (2, 1224);
/// The most characters of an inline session policy.
pub const SESSION_POLICY: usize = 2048;
/// The most ARNs of managed session policies.
pub const POLICY_ARNS: usize = 10;
/// The most session tags, with the one that names the lease.
pub const TAGS: usize = 50;
/// The most characters of a tag's key.
pub const TAG_KEY: usize = 128;
/// The most characters of a tag's value.
pub const TAG_VALUE: usize = 256;
/// Characters of an ARN.
pub const ARN: (usize, usize) = (20, 2048);
/// The most characters of all inline policies of a role together, without white space.
pub const INLINE_POLICIES: usize = 10_240;

/// A text that AWS would refuse, in words.
pub type Fault = String;

/// `RoleSessionName`
pub fn session_name(text: &str) -> Result<(), Fault> {
    within("the session name", text, SESSION_NAME, b"+=,.@_-")
}

/// `SourceIdentity`
pub fn source_identity(text: &str) -> Result<(), Fault> {
    if text.to_ascii_lowercase().starts_with("aws:") {
        return Err("the source identity must not begin with aws:".to_owned());
    }
    within("the source identity", text, SESSION_NAME, b"+=,.@_-")
}

/// `ExternalId`
pub fn external_id(text: &str) -> Result<(), Fault> {
    within("the external id", text, EXTERNAL_ID, b"+=,.@:/_-")
}

/// The key of a session tag.
pub fn tag_key(text: &str) -> Result<(), Fault> {
    if text.to_ascii_lowercase().starts_with("aws:") {
        return Err(format!("the tag key {text:?} must not begin with aws:, which is AWS' own"));
    }
    within(&format!("the tag key {text:?}"), text, (1, TAG_KEY), b" _.:/=+-@")
}

/// The value of a session tag.
pub fn tag_value(key: &str, text: &str) -> Result<(), Fault> {
    within(&format!("the value of the tag {key}"), text, (0, TAG_VALUE), b" _.:/=+-@")
}

/// An inline session policy, as it is sent. AWS packs it with tags and ARNs and bounds that too; only AWS can tell
/// (`PackedPolicyTooLarge`).
pub fn session_policy(text: &str) -> Result<(), Fault> {
    match text.chars().count() {
        length if length > SESSION_POLICY => Err(format!("the session policy has {length} characters; AWS takes {SESSION_POLICY} at most")),
        _ => Ok(()),
    }
}

/// The ARN of an IAM role.
pub fn role_arn(text: &str) -> Result<(), Fault> {
    iam_arn(text, "role/").ok_or_else(|| format!("role_arn must be like arn:aws:iam::123456789012:role/NAME, not {text:?}"))
}

/// The ARN of a managed policy; AWS' own have `aws` in place of an account.
pub fn policy_arn(text: &str) -> Result<(), Fault> {
    iam_arn(text, "policy/").ok_or_else(|| format!("a policy ARN must be like arn:aws:iam::aws:policy/NAME, not {text:?}"))
}

/// The account of a role's ARN.
pub fn account_of(role_arn: &str) -> &str {
    role_arn.split(':').nth(4).unwrap_or_default()
}

/// The name of the role of an ARN, without its path: IAM's calls take that.
pub fn role_name_of(role_arn: &str) -> &str {
    role_arn.rsplit('/').next().unwrap_or_default()
}

fn within(what: &str, text: &str, (low, high): (usize, usize), marks: &[u8]) -> Result<(), Fault> {
    let length = text.chars().count();
    if length < low || length > high {
        return Err(format!("{what} has {length} characters; AWS takes {low} to {high}"));
    }
    if text.bytes().any(|b| !b.is_ascii_alphanumeric() && !marks.contains(&b)) {
        return Err(format!(
            "{what} has a character that AWS does not take; it takes letters, digits and {}",
            String::from_utf8_lossy(marks)
        ));
    }
    Ok(())
}

fn iam_arn(text: &str, kind: &str) -> Option<()> {
    let parts: [&str; 6] = text.splitn(6, ':').collect::<Vec<_>>().try_into().ok()?;
    let [arn, partition, service, region, account, resource] = parts;
    let account_fits = (account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit())) || (kind == "policy/" && account == "aws");
    let name = resource.strip_prefix(kind)?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-/".contains(&b);
    let fits = arn == "arn"
        && partition.starts_with("aws")
        && partition.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
        && service == "iam"
        && region.is_empty()
        && account_fits
        && (ARN.0..=ARN.1).contains(&text.len())
        && name.bytes().all(legal)
        && !name.starts_with('/')
        && !name.contains("//")
        && !role_name_of(name).is_empty();
    fits.then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_bounded_on_both_sides() {
        let of = |length: usize| "a".repeat(length);
        for (check, low, high) in [
            (&session_name as &dyn Fn(&str) -> Result<(), Fault>, 2, 64),
            (&source_identity, 2, 64),
            (&external_id, 2, 1224),
            (&tag_key, 1, 128),
            (&|text| tag_value("k", text), 0, 256),
            (&session_policy, 0, 2048),
        ] {
            assert_eq!((check(&of(low)), check(&of(high))), (Ok(()), Ok(())));
            let fault = check(&of(high + 1)).unwrap_err();
            assert!(fault.contains(&high.to_string()) && fault.contains(&(high + 1).to_string()), "{fault}");
            if low > 0 {
                assert!(check(&of(low - 1)).is_err());
            }
        }
    }

    #[test]
    fn characters_are_those_of_aws() {
        for bad in ["a b", "a/b", "a:b", "ä1", "a\0", "a\"b", "a*b", "a$b"] {
            assert!(session_name(bad).is_err(), "{bad:?}");
        }
        assert!(session_name("aZ0+=,.@_-").is_ok() && external_id("a:/b").is_ok() && tag_value("k", "a b/c:d").is_ok());
        assert!(tag_key("aws:x").is_err() && tag_key("AWS:x").is_err() && tag_value("k", "a*").is_err());
    }

    #[test]
    fn arns_have_their_form() {
        for good in ["arn:aws:iam::123456789012:role/deploy", "arn:aws-cn:iam::123456789012:role/ci/deploy"] {
            assert_eq!(role_arn(good), Ok(()));
        }
        for bad in [
            "",
            "deploy",
            "arn:aws:iam::123456789012:user/deploy",
            "arn:aws:iam::12345:role/deploy",
            "arn:aws:iam::aws:role/deploy",
            "arn:aws:iam:eu:123456789012:role/deploy",
            "arn:aws:sts::123456789012:role/deploy",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:role/a/",
            "arn:aws:iam::123456789012:role/{claims.role}",
            "arn:aws:iam::123456789012:role/*",
        ] {
            assert!(role_arn(bad).is_err(), "{bad}");
        }
        assert!(policy_arn("arn:aws:iam::aws:policy/ReadOnlyAccess").is_ok() && policy_arn("arn:aws:iam::123456789012:policy/p").is_ok());
        assert_eq!(account_of("arn:aws:iam::123456789012:role/ci/deploy"), "123456789012");
        assert_eq!(role_name_of("arn:aws:iam::123456789012:role/ci/deploy"), "deploy");
    }
}
