//! No claim's value changes the meaning of what a template makes: laws over hostile values, at every place.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::{
    Timestamp,
    claim::Claims,
    identity::{Proof, Subject, TokenUse, VerifiedToken},
    name::TenantName,
    policy_template::PolicyTemplate,
};

const PLACES: [Place; 9] = [
    Place::UriSegment,
    Place::DnsLabel,
    Place::Text,
    Place::SessionName,
    Place::TagValue,
    Place::ExternalId,
    Place::PolicyValue,
    Place::RepositorySegment,
    Place::ClaimText,
];

fn role() -> RoleName {
    "deploy-prod".parse().unwrap()
}

fn lease() -> LeaseId {
    "0192f0c1-7b5a-7000-8000-000000000000".parse().unwrap()
}

fn caller(tenant: &str, values: &[(&str, &str)]) -> Identity {
    let claims: Claims = values.iter().map(|(name, value)| ((*name).to_owned(), ClaimValue::String((*value).to_owned()))).collect();
    let token = VerifiedToken {
        issuer: "ci".parse().unwrap(),
        sub: "s".to_owned(),
        subject: Subject::try_from("oidc:ci:s".to_owned()).unwrap(),
        claims,
        token_id: [0; 16],
        token_use: TokenUse::Any,
        expires_at: Timestamp::MAX,
    };
    Identity { tenant: tenant.parse().unwrap(), proof: Proof::Token { token, peer: None } }
}

fn render(source: &str, place: Place, tenant: &str, values: &[(&str, &str)]) -> Option<String> {
    let template = Template::parse_for(place, source).unwrap();
    template.render_with_lease(place, &caller(tenant, values), &role(), lease()).ok()
}

/// The characters that a place takes, stated a second time and in another way.
fn alphabet(place: Place) -> &'static str {
    match place {
        Place::UriSegment => "-._",
        Place::DnsLabel => "-",
        Place::Text => " ._@-",
        Place::SessionName => "+=,.@_-",
        Place::TagValue => " _.:/=+-@",
        Place::ExternalId => "+=,.@:/_-",
        Place::PolicyValue => "._@=+-",
        Place::RepositorySegment => "._-",
        Place::ClaimText => " !#$%&'()*+,-./:;<=>?@[]^_`{|}~",
    }
}

/// What an attacker would put into a claim.
fn hostile() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "a",
        "B",
        "7",
        "widget",
        "*",
        "?",
        "${aws:username}",
        "${",
        "}",
        "{tenant}",
        "{claims.b}",
        "..",
        ".",
        "/",
        "//",
        "../..",
        "\\",
        "\"",
        "'",
        "\\u0022",
        "\0",
        "\n",
        "\r\n",
        "\t",
        "\u{7f}",
        "\u{85}",
        " ",
        "-",
        "--",
        "_",
        "__",
        "___",
        ":",
        "@",
        "=",
        "+",
        ",",
        ";",
        "&",
        "#",
        "%2f",
        "%00",
        "<",
        ">",
        "[",
        "]",
        "^",
        "`",
        "|",
        "~",
        "!",
        "(",
        ")",
        "$",
        "é",
        "а",
        "ａ",
        "／",
        "．",
        "\u{200b}",
        "\u{202e}",
        "\u{2044}",
        "K",
        "ſ",
        "😀",
        "xn--",
        "arn:aws:s3:::*",
        "\",\"Effect\":\"Allow\"",
        "repository:x:push",
        "x:pull,push",
    ]);
    prop_oneof![
        3 => prop::collection::vec(pieces, 0..5).prop_map(|pieces| pieces.concat()),
        1 => ".{0,12}",
        1 => "[a-zA-Z0-9._/:@=+,-]{1,16}",
        1 => (1_usize..2000).prop_map(|length| "a".repeat(length)),
    ]
}

/// Values that often pass, from few characters, so that two pairs often collide when they can.
fn plain() -> impl Strategy<Value = String> {
    "[ab1./:_@-]{1,5}"
}

fn places() -> impl Strategy<Value = Place> {
    prop::sample::select(PLACES.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Exactly what the place takes goes through, and unchanged.
    #[test]
    fn a_value_goes_in_as_it_is_or_not_at_all(place in places(), value in hostile()) {
        if let Some(text) = render("{claims.a}", place, "t", &[("a", &value)]) {
            prop_assert_eq!(&text, &value);
            prop_assert!(!text.is_empty() && text.len() <= MAX_RENDERED);
            prop_assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || alphabet(place).contains(c)), "{:?}", text);
            if matches!(place, Place::UriSegment | Place::PolicyValue | Place::RepositorySegment) {
                prop_assert!(text != "." && text != ".." && !text.contains('/'));
            }
        } else {
            let legal = value.chars().all(|c| c.is_ascii_alphanumeric() || alphabet(place).contains(c));
            let plainly_legal = legal && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            prop_assert!(!plainly_legal || value.is_empty() || value.len() > MAX_RENDERED || (place == Place::DnsLabel && value.len() > 63));
        }
    }

    /// Two callers with different values never get the same text, whatever stands between the placeholders.
    #[test]
    fn different_values_never_render_to_the_same_text(
        place in places().prop_filter("a name is for people", |place| *place != Place::Text),
        literals in prop::array::uniform4("[a1/:_@. -]{0,3}"),
        order in prop::sample::subsequence(vec!["{claims.a}", "{claims.b}", "{tenant}", "{role}", "{lease}"], 1..=5).prop_shuffle(),
        left in prop::collection::vec(plain(), 2), right in prop::collection::vec(plain(), 2),
        tenants in prop::collection::vec("[ab1][ab1-]{0,4}", 2),
    ) {
        let mut source = String::new();
        for (at, placeholder) in order.iter().enumerate() {
            source.push_str(placeholder);
            source.push_str(literals.get(at).map_or("", String::as_str));
        }
        let Ok(template) = Template::parse_for(place, &source) else { return Ok(()) };
        let values = |given: &[String], tenant: &str| {
            let caller = caller(tenant, &[("a", &given[0]), ("b", &given[1])]);
            template.render_with_lease(place, &caller, &role(), lease()).ok()
        };
        let (one, other) = (values(&left, &tenants[0]), values(&right, &tenants[1]));
        if let (Some(one), Some(other)) = (one, other) && one == other {
            for (placeholder, at) in [("{claims.a}", 0), ("{claims.b}", 1)] {
                prop_assert!(!order.contains(&placeholder) || left[at] == right[at], "{} renders both to {}", source, one);
            }
            prop_assert!(!order.contains(&"{tenant}") || tenants[0] == tenants[1], "{} renders both to {}", source, one);
        }
    }

    /// What stands between two placeholders cannot move into either value: `x L (y L z)` and `(x L y) L z` read the same, so one of them
    /// is refused.
    #[test]
    fn a_value_cannot_swallow_its_neighbour(
        place in places().prop_filter("a name is for people", |place| *place != Place::Text),
        pair in prop::sample::subsequence(vec!["{claims.a}", "{claims.b}", "{tenant}"], 2).prop_shuffle(),
        between in "[a1/:_@.-]{0,3}", around in prop::array::uniform2("[a/:-]{0,2}"),
        x in "[ab1]{1,3}", y in "[ab1]{1,3}", z in "[ab1]{1,3}",
    ) {
        let source = format!("{}{}{between}{}{}", around[0], pair[0], pair[1], around[1]);
        let Ok(template) = Template::parse_for(place, &source) else { return Ok(()) };
        let values = |first: &str, second: &str| {
            let given = |placeholder: &str| if pair[0] == placeholder { first.to_owned() } else { second.to_owned() };
            let tenant: Result<TenantName, _> = given("{tenant}").parse();
            let tenant = if pair.contains(&"{tenant}") { tenant.ok()? } else { "t".parse().unwrap() };
            let caller = caller(tenant.as_str(), &[("a", &given("{claims.a}")), ("b", &given("{claims.b}"))]);
            template.render(place, &caller, &role()).ok()
        };
        let (one, other) = (values(&x, &format!("{y}{between}{z}")), values(&format!("{x}{between}{y}"), &z));
        prop_assert!(one.is_none() || one != other, "{} renders both to {:?}", source, one);
    }

    /// However a value looks, the document keeps its shape: the same statements, the same fields, one more plain text.
    #[test]
    fn a_policy_keeps_its_shape(value in hostile()) {
        let source = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"s3:GetObject",
            "Resource":"arn:aws:s3:::my-bucket/{claims.a}/*","Condition":{"StringEquals":{"aws:PrincipalTag/x":"{claims.a}"}}}]}"#;
        let document = PolicyTemplate::parse(source).unwrap();
        let rendered = |value: &str| document.render(&caller("t", &[("a", value)]), &role(), lease()).ok();
        if let Some(policy) = rendered(&value) {
            let again: serde_json::Value = serde_json::from_str(&policy.to_string()).unwrap();
            let mut expected = rendered("plain").unwrap();
            expected["Statement"][0]["Resource"] = format!("arn:aws:s3:::my-bucket/{value}/*").into();
            expected["Statement"][0]["Condition"]["StringEquals"]["aws:PrincipalTag/x"] = value.as_str().into();
            prop_assert_eq!(again, expected);
            let means_more = value.contains(['*', '?', '$', '/', ':', '"', '\\', '{']);
            prop_assert!(!means_more && value != "..");
        }
    }

    /// A repository stays one repository: the same number of segments, no scope's mark, none that is a wildcard.
    #[test]
    fn a_repository_keeps_its_segments(value in hostile()) {
        if let Some(text) = render("team/{claims.a}/app", Place::RepositorySegment, "t", &[("a", &value)]) {
            prop_assert_eq!(text.split('/').count(), 3);
            let means_more = text.contains(['*', ':', ',', ' ']);
            prop_assert!(!means_more && text.to_lowercase() == text);
        }
    }

    /// A template is taken or refused; it never panics, and what was taken is kept as it was written.
    #[test]
    fn any_text_may_be_a_template(source in "[a-z{}.:/ é]{0,24}", place in places()) {
        if let Ok(template) = Template::parse_for(place, &source) {
            prop_assert_eq!(template.source(), &source);
            let _rendered = template.render(place, &caller("t", &[("a", "x")]), &role());
        }
    }
}

#[test]
fn every_place_takes_each_character_that_it_should() {
    for place in PLACES {
        for c in (0_u8..=127).map(char::from).chain("éа／\u{200b}".chars()) {
            // In the middle, where a label's hyphen and a segment's dot may stand.
            let value = format!("a{c}a");
            let lower_only = matches!(place, Place::DnsLabel | Place::RepositorySegment);
            let letter = if lower_only { c.is_ascii_lowercase() || c.is_ascii_digit() } else { c.is_ascii_alphanumeric() };
            let taken = render("{claims.a}", place, "t", &[("a", &value)]).is_some();
            assert_eq!(taken, letter || alphabet(place).contains(c), "{place:?} {c:?}");
        }
    }
}

#[test]
fn a_repository_segment_is_as_the_standard_has_it() {
    let taken = |value: &str| render("x/{claims.a}", Place::RepositorySegment, "t", &[("a", value)]).is_some();
    for good in ["a", "a.b", "a_b", "a__b", "a-b", "a---b", "1", "a.b-c__d"] {
        assert!(taken(good), "{good}");
    }
    for bad in ["", ".", "..", "a..b", "a___b", "a._b", "-a", "a-", ".a", "a.", "_a", "a_", "A", "a/b", "a:b", "*", "a-.b"] {
        assert!(!taken(bad), "{bad}");
    }
}

#[test]
fn placeholders_that_would_run_together_are_refused() {
    let refused = |place, source| matches!(Template::parse_for(place, source), Err(BadTemplate::RunTogether(_)));
    for source in [
        "{claims.a}{claims.b}",
        "{claims.a}x{claims.b}",
        "{claims.a}{role}{claims.b}",
        "{tenant}{claims.a}",
        "{lease}{claims.a}",
        "{claims.a}1{tenant}",
    ] {
        for place in PLACES {
            assert_eq!(refused(place, source), place != Place::Text, "{place:?} {source}");
        }
    }
    for source in [
        "{claims.a}/{claims.b}",
        "{tenant}-{claims.a}",
        "{role}{claims.a}",
        "{claims.a}{role}",
        "{claims.a}-{role}-{claims.b}",
        "x{claims.a}y",
    ] {
        for place in PLACES {
            assert!(!refused(place, source), "{place:?} {source}");
        }
    }
    // Parsed without a place, it is refused when it is rendered.
    let template = Template::parse("{claims.a}{claims.b}").unwrap();
    let error = template.render(Place::ClaimText, &caller("t", &[("a", "x"), ("b", "y")]), &role()).unwrap_err();
    assert_eq!(error.code(), Code::ClaimNotUsable);
    assert!(error.public().contains("no mark between"), "{error}");
}

#[test]
fn only_what_parts_two_values_is_kept_out_of_them() {
    let taken = |source: &str, a: &str, b: &str| render(source, Place::ClaimText, "acme-corp", &[("a", a), ("b", b)]);
    // The dash before the first placeholder parts nothing.
    assert_eq!(taken("my-org/{claims.a}", "my-repo", "-").as_deref(), Some("my-org/my-repo"));
    assert_eq!(taken("{claims.a}-suffix", "my-repo", "-").as_deref(), Some("my-repo-suffix"));
    assert_eq!(taken("{claims.a}", "a/b:c", "-").as_deref(), Some("a/b:c"));
    // Between two, the mark that refuses the fewest values.
    assert_eq!(taken("{claims.a}:x-{claims.b}", "a-b", "c-d").as_deref(), Some("a-b:x-c-d"));
    assert_eq!(taken("{claims.a}:{claims.b}", "a:b", "c"), None);
    assert_eq!(taken("{claims.a}:{claims.b}", "a", "b:c"), None);
    assert_eq!(taken("{claims.a}-{claims.b}", "a-b", "c"), None);
    // A tenant's name is the operator's choice, and may hold the mark: it is what remains.
    assert_eq!(taken("{tenant}-{claims.a}", "b", "-").as_deref(), Some("acme-corp-b"));
    assert_eq!(taken("{tenant}-{claims.a}", "corp-b", "-"), None);
}

#[test]
fn numbers_go_in_and_lists_do_not() {
    let mut identity = caller("t", &[]);
    let Proof::Token { token, .. } = &mut identity.proof else { panic!("it is a token") };
    let values =
        [("number", ClaimValue::Integer(-74)), ("list", ClaimValue::Strings(vec!["a".to_owned()])), ("flag", ClaimValue::Boolean(true))];
    token.claims = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<BTreeMap<_, _>>().into_iter().collect();
    let render = |source: &str| Template::parse(source).unwrap().render(Place::ClaimText, &identity, &role()).ok();
    assert_eq!(render("{claims.number}").as_deref(), Some("-74"));
    assert_eq!(render("{claims.list}"), None);
    assert_eq!(render("{claims.flag}"), None);
    assert_eq!(render("{claims.absent}"), None);
    assert_eq!(render("{lease}"), None);
}

fn agent(tenant: &str, name: &str) -> Identity {
    use crate::model::enrollment::{Enrolled, Enrollment, EnrollmentId};
    let enrollment = Enrollment {
        id: EnrollmentId::new(Timestamp::UNIX_EPOCH, [0; 10]),
        tenant: tenant.parse().unwrap(),
        role: role(),
        name: name.parse().unwrap(),
        created_by: Subject::try_from("spiffe://dev/operator".to_owned()).unwrap(),
        created_at: Timestamp::UNIX_EPOCH,
        expires_at: Timestamp::MAX,
        redeemed: None,
    };
    let enrolled = Enrolled::new(enrollment, [0; 16]).unwrap();
    Identity { tenant: tenant.parse().unwrap(), proof: Proof::Enrollment(Box::new(enrolled)) }
}

proptest! {
    #[test]
    fn an_agents_name_is_read_back_from_what_it_was_rendered_to(
        tenant in "[a-z0-9][a-z0-9-]{0,20}",
        other in "[a-z0-9][a-z0-9-]{0,20}",
        name in "[a-z0-9][a-z0-9-]{0,20}",
        source in proptest::sample::select(vec![
            "spiffe://dev/agent/{tenant}/{enrollment.name}",
            "spiffe://dev/{enrollment.name}",
            "spiffe://dev/{role}/{enrollment.name}/of/{tenant}",
            "spiffe://dev/{tenant}/a-{enrollment.name}-b",
        ]),
    ) {
        let template = Template::parse_for_enrollment(source).unwrap();
        let text = template.render(Place::UriSegment, &agent(&tenant, &name), &role()).unwrap();
        let read = |tenant: &str| template.read_back(&text, &tenant.parse().unwrap(), &role());
        prop_assert_eq!(read(&tenant), Some(Some(name.parse().unwrap())));
        if tenant != other && source.contains("{tenant}") {
            prop_assert_eq!(read(&other), None, "another tenant's");
        }
        let again = template.render_for_agent(Place::UriSegment, &caller(&tenant, &[]), &role(), read(&tenant).unwrap().as_ref());
        prop_assert_eq!(again.unwrap(), text);
    }
}

#[test]
fn what_was_not_rendered_from_a_template_is_not_read_back() {
    let read = |source: &str, text: &str| {
        Template::parse_for_enrollment(source)
            .unwrap()
            .read_back(text, &"acme".parse().unwrap(), &role())
            .map(|name| name.map(|n| n.to_string()))
    };
    let source = "spiffe://dev/{tenant}/{enrollment.name}";
    assert_eq!(read(source, "spiffe://dev/acme/a"), Some(Some("a".to_owned())));
    for other in
        ["spiffe://dev/acme/", "spiffe://dev/acme/a/b", "spiffe://dev/acme/A", "spiffe://dev/acme", "spiffe://dev/other/a", "x", ""]
    {
        assert_eq!(read(source, other), None, "{other}");
    }
    assert_eq!(read("spiffe://dev/{tenant}/x", "spiffe://dev/acme/x"), Some(None));
    assert_eq!(read("spiffe://dev/{claims.a}", "spiffe://dev/a"), None, "a claim cannot be known");
    assert_eq!(read("{enrollment.name}/{enrollment.name}", "a/a"), None);
    let error = Template::parse_for_enrollment(source).unwrap().render(Place::UriSegment, &caller("acme", &[]), &role()).unwrap_err();
    assert_eq!(error.code(), Code::ClaimNotUsable, "who has no code has no name");
    let hyphen = Template::parse_for_enrollment("{enrollment.name}.example").unwrap();
    assert!(hyphen.render(Place::DnsLabel, &agent("acme", "a-"), &role()).is_err(), "no DNS label ends with a hyphen");
}
