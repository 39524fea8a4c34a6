//! `[oidc]` and roles of kind jwt: the commented sample is whole, and each fault is told at load.

use crate::config::{SAMPLE, etc, load};

/// The sample with what it has commented out of this kind.
fn sample() -> String {
    format!("{SAMPLE}\n{}\n{}\n[[role]]\n{}", keys(), oidc(), commented("# name = \"federate\""))
}

fn keys() -> String {
    commented("# [keys]")
}

fn oidc() -> String {
    commented("# [oidc]")
}

/// A block of the sample that is commented out, from a line on.
fn commented(from: &str) -> String {
    let lines = SAMPLE.lines().skip_while(|line| *line != from).take_while(|line| line.starts_with('#'));
    let text: String = lines.map(|line| line.trim_start_matches("# ").to_owned() + "\n").collect();
    assert!(!text.is_empty(), "the sample has no {from:?}");
    text
}

#[test]
fn the_commented_sample_is_whole_and_shows_the_true_defaults() {
    let dir = etc();
    let text = sample();
    let config = load(dir.path(), &text).unwrap();
    assert_eq!(config.rules.book.catalog().roles.len(), 3);
    let jwt = &config.rules.issuers.jwt;
    assert!(
        jwt.discovery()
            .unwrap()
            .body
            .contains("\"claims_supported\":[\"iss\",\"sub\",\"aud\",\"exp\",\"nbf\",\"iat\",\"jti\",\"lease\",\"tenant\"]")
    );
    assert_eq!(jwt.discovery().unwrap().max_age, 1800);
    // Without what shows a default nothing changes.
    let short: String = text
        .lines()
        .filter(|line| !["algorithm = \"ES256\"", "rotate_every", "publish_ahead"].iter().any(|key| line.starts_with(key)))
        .map(|line| line.to_owned() + "\n")
        .collect();
    assert_ne!(short, text);
    assert_eq!(load(dir.path(), &short).unwrap().rules.issuers.jwt.discovery(), jwt.discovery());
    assert!(load(dir.path(), SAMPLE).unwrap().rules.issuers.jwt.discovery().is_none());
}

#[test]
fn every_fault_is_told_at_load() {
    let dir = etc();
    let text = sample();
    let issuer = "issuer = \"https://id.example.org\"";
    let subject = "subject = \"spiffe://example.org/{tenant}\"";
    let claims = "claims = { tenant = \"{tenant}\", lease = \"{lease}\" }";
    let audiences = "audiences = [\"https://api.example.net\"]";
    let max_ttl = "default_ttl = \"5m\"\nmax_ttl = \"15m\"\nmax_life = \"8h\"";
    let subject_is = |with: &str| format!("subject = {with:?}");
    for (from, to, says) in [
        (issuer, "issuer = \"http://id.example.org\"".to_owned(), "is not https"),
        (issuer, "issuer = \"https://id.example.org/\"".to_owned(), "ends in a slash"),
        (issuer, "issuer = \"https://ID.example.org\"".to_owned(), "is not in normal form"),
        (issuer, "issuer = \"https://id.example.org:443\"".to_owned(), "is not in normal form"),
        (issuer, "issuer = \"https://id.example.org/a/../b\"".to_owned(), "is not in normal form"),
        (issuer, "issuer = \"https://id.example.org?a=b\"".to_owned(), "a query or a fragment"),
        (issuer, "issuer = \"https://u@id.example.org\"".to_owned(), "holds a user"),
        (issuer, "issuer = \"id.example.org\"".to_owned(), "is no URL"),
        (issuer, format!("issuer = \"https://id.example.org/{}\"", "a".repeat(240)), "longer than 255"),
        (issuer, format!("{issuer}\nkeys = \"/var/lib/daypass/keys\""), "unknown field"),
        ("algorithm = \"ES256\"", "algorithm = \"HS256\"".to_owned(), "HS256"),
        ("rotate_every = \"720h\"", "rotate_every = \"10m\"".to_owned(), "rotate_every is 1h to"),
        ("rotate_every = \"720h\"", "rotate_every = \"100m\"".to_owned(), "at least twice publish_ahead"),
        ("publish_ahead = \"1h\"", "publish_ahead = \"10s\"".to_owned(), "publish_ahead is 1m to"),
        ("[oidc]\nissuer", "[unused]\nissuer".to_owned(), "unknown key unused"),
        (audiences, "audiences = []".to_owned(), "audiences: name 1 to 32"),
        (audiences, "audiences = [\"a b\"]".to_owned(), "\"a b\" is not 1 to 512"),
        (audiences, "audiences = [\"a\", \"a\"]".to_owned(), "stands there twice"),
        (max_ttl, max_ttl.replace("15m", "25h").replace("8h", "48h"), "max_ttl of a JWT is at most"),
        (subject, subject_is(""), "subject: it is empty"),
        (subject, subject_is("tenant:{lease}"), "{lease} cannot stand in it"),
        (subject, subject_is("{tenant}{claims.repository}"), "no mark between them"),
        (subject, subject_is("x:{claims.repositry}"), "did you mean repository?"),
        (subject, subject_is("x:{claims.nobody_has_it}"), "no issuer has the claim"),
        (subject, subject_is("spiffe://{tenant}/a"), "no placeholder may choose the trust domain"),
        (subject, subject_is("spiffe://example.org"), "has a path"),
        (subject, subject_is("spiffe://example.org/a b/{tenant}"), "no SPIFFE ID"),
        (subject, subject_is("SPIFFE://example.org/{tenant}"), "in lower case"),
        (subject, subject_is("é{tenant}"), "more than printable ASCII"),
        (subject, subject_is("{tenant"), "no other half"),
        (claims, "claims = { sub = \"x\" }".to_owned(), "claims: sub is reserved"),
        (claims, "claims = { azp = \"x\" }".to_owned(), "claims: azp is reserved"),
        (claims, "claims = { \"https://aws.amazon.com/tags\" = \"x\" }".to_owned(), "https://aws.amazon.com/tags is reserved"),
        (claims, "claims = { \"HTTPS://aws.amazon.com/source_identity\" = \"x\" }".to_owned(), "is reserved"),
        (claims, "claims = { \"a b\" = \"x\" }".to_owned(), "printable ASCII characters"),
        (claims, "claims = { a = \"\" }".to_owned(), "claims: a: it is empty"),
        (claims, "claims = { a = \"{claims.repository}{claims.ref}\" }".to_owned(), "no mark between them"),
        (claims, "claims = { a = 1 }".to_owned(), "expected a string"),
        (claims, "clams = { a = \"x\" }".to_owned(), "unknown field"),
    ] {
        // The last one: the first is commented out.
        let (before, after) = text.rsplit_once(from).unwrap_or_else(|| panic!("{from:?} is not in the sample"));
        let broken = format!("{before}{to}{after}");
        let faults = load(dir.path(), &broken).err().unwrap_or_else(|| panic!("{to} is taken"));
        assert!(faults.iter().any(|fault| fault.contains(says)), "{to}: {says} not in {faults:#?}");
    }
}

#[test]
fn no_token_of_a_role_can_pass_for_one_that_this_service_shows_to_aws() {
    let dir = etc();
    let text = sample().replace("[\"https://api.example.net\"]", "[\"https://api.example.net\", \"sts.amazonaws.com\"]");
    load(dir.path(), &text).unwrap_or_else(|faults| panic!("without a way into AWS it is an audience as any other: {faults:?}"));
    let arn = "arn:aws:iam::123456789012:role/daypass";
    let way = |more: &str| format!("\n[[aws]]\nname = \"main\"\nregion = \"eu-central-1\"\n{more}\n");
    let own = |audience: &str| way(&format!("identity.web_identity = {{ role_arn = {arn:?}, audience = {audience:?} }}"));
    let role = |audience: &str| {
        let more = format!("default_ttl = \"15m\"\nmax_ttl = \"1h\"\nrole_arn = {arn:?}\nmode = \"web_identity\"\naudience = {audience:?}");
        format!("{}\n[[role]]\nname = \"deploy\"\nshared = true\nkind = \"aws\"\naws = \"main\"\nrevocation = \"none\"\n{more}\n", way(""))
    };
    for (same, other, by) in [
        (own("sts.amazonaws.com"), own("https://aws.example.org"), "aws main"),
        (role("sts.amazonaws.com"), role("https://aws.example.org"), "role deploy"),
    ] {
        let faults = load(dir.path(), &format!("{text}{same}")).err().unwrap_or_else(|| panic!("taken beside {by}"));
        let says = format!("role federate: audiences: \"sts.amazonaws.com\" is how {by} reaches AWS");
        assert!(faults.len() == 1 && faults[0].contains(&says), "{faults:#?}");
        load(dir.path(), &format!("{text}{other}")).unwrap_or_else(|faults| panic!("{by}: {faults:#?}"));
    }
}

#[test]
fn a_service_that_takes_its_own_tokens_is_told_what_that_means() {
    let dir = etc();
    let issuer =
        |url: &str| format!("{}\n[[issuer]]\nname = \"self\"\nurl = {url:?}\naudiences = [\"https://api.example.net\"]\n", sample());
    let advice = |text: &str| {
        let config = load(dir.path(), text).unwrap_or_else(|faults| panic!("{faults:#?}"));
        let own = config.warnings.iter().find(|fault| fault.message.contains("issuer self: "));
        own.map(|fault| (fault.line, fault.message.clone()))
    };
    let own = issuer("https://id.example.org");
    let (line, message) = advice(&own).expect("nothing is said");
    assert_eq!(Some("[[issuer]]"), own.lines().nth(line - 1));
    assert!(message.contains("max_life no longer ends") && message.contains("a revocation does not reach"), "{message}");
    assert_eq!(advice(&issuer("https://id.example.com")), None);
}

#[test]
fn a_role_needs_the_section_and_that_needs_what_seals_its_keys() {
    let dir = etc();
    let text = sample();
    let without = text.replace(&oidc(), "");
    let faults = load(dir.path(), &without).err().unwrap();
    assert!(faults.iter().any(|fault| fault.contains("kind jwt needs [oidc]")), "{faults:#?}");
    let unsealed = text.replace(&keys(), "");
    assert_ne!(unsealed, text);
    let faults = load(dir.path(), &unsealed).err().unwrap();
    assert!(faults.len() == 1 && faults[0].contains("oidc: its keys are stored, and sealed there"), "{faults:#?}");
}
