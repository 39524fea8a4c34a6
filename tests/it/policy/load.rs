//! What does not load: each fault with its line and what would be right.

use std::sync::Arc;

use daypass::policy::{MAX_NESTING, MAX_OPERATORS, MAX_POLICY_TEXT, PolicyBook};
use proptest::prelude::*;

use super::world::{book, catalog, faults};

/// A permit of `web` for pinned jobs, with more conditions.
fn job(condition: &str) -> String {
    format!(
        "permit(\n  principal is Token::github in Tenant::\"ci\",\n  action == Action::\"issue\",\n  resource == Role::\"web\"\n) when {{\n  principal.claims.repository_id == \"1\" &&\n  {condition}\n}};"
    )
}

#[test]
fn an_unknown_claim_is_named_with_its_issuer_and_the_nearest() {
    let text = "\n// first\npermit(principal is Token::github in Tenant::\"ci\", action == Action::\"issue\", resource == Role::\"web\")\nwhen { principal.claims.repositry_id == \"1\" };";
    assert_eq!(faults(text), ["4: unknown claim repositry_id of issuer github; did you mean repository_id?"]);
    assert_eq!(
        faults(&job("principal.claims has enviroment")),
        ["7: unknown claim enviroment of issuer github; did you mean environment?"]
    );
    assert_eq!(
        faults(&job("!(principal.claims has enviroment)")),
        ["7: unknown claim enviroment of issuer github; did you mean environment?"]
    );
    assert_eq!(faults(&job("principal.claims[\"rfe\"] == \"x\"")), ["7: unknown claim rfe of issuer github; did you mean ref?"]);
    assert_eq!(
        faults(&job("principal.claims.zzzzzz == \"x\"")),
        ["7: unknown claim zzzzzz of issuer github; add it to the issuer's claims in the configuration"]
    );
}

#[test]
fn a_claim_of_another_issuer_is_no_claim() {
    assert_eq!(
        faults(&job("principal.claims.team == \"x\"")),
        ["7: unknown claim team of issuer github; add it to the issuer's claims in the configuration"]
    );
    let either = "permit(principal in Tenant::\"ci\", action == Action::\"issue\", resource == Role::\"web\") when { principal.claims.team == \"x\" };";
    let found = faults(either);
    assert!(
        found.iter().any(|fault| fault == "1: unknown claim team of issuer github; constrain the principal to an issuer that has it"),
        "{found:?}"
    );
    assert!(
        found.iter().any(|fault| fault.starts_with("1: a Certificate has no claims; constrain the principal to an issuer's tokens")),
        "{found:?}"
    );
}

#[test]
fn an_optional_claim_must_be_tested_first() {
    assert_eq!(
        faults(&job("principal.claims.environment == \"prod\"")),
        ["7: the claim environment of issuer github may be absent; write `principal.claims has environment && …` before it"]
    );
    book(&job("principal.claims has environment && principal.claims.environment == \"prod\""));
}

#[test]
fn a_claim_compared_with_another_type_is_a_fault() {
    for (condition, types) in [
        ("principal.claims.repository_id == 5", ["String", "Long"]),
        ("principal.claims has run_attempt && principal.claims.run_attempt == \"1\"", ["Long", "String"]),
        ("principal.claims has protected && principal.claims.protected == \"true\"", ["Bool", "String"]),
    ] {
        let found = faults(&job(condition));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("7: ") && types.iter().all(|ty| found[0].to_lowercase().contains(&ty.to_lowercase())), "{found:?}");
    }
    let found = faults(&job("principal.claims has labels && principal.claims.labels"));
    assert!(found.len() == 1 && found[0].starts_with("7: unexpected type"), "{found:?}");
}

#[test]
fn names_that_do_not_exist_are_faults_with_the_nearest() {
    let text = |principal: &str, action: &str, resource: &str| format!("permit(\n  {principal},\n  {action},\n  {resource}\n);");
    let (ci, issue, web) = ("principal is Token::github in Tenant::\"ci\"", "action == Action::\"issue\"", "resource == Role::\"web\"");
    assert_eq!(faults(&text(ci, issue, "resource == Role::\"wbe\"")), ["4: unknown role \"wbe\"; did you mean \"web\"?"]);
    assert_eq!(faults(&text(ci, issue, "resource == Role::\"mainframe\"")), ["4: unknown role \"mainframe\""]);
    assert_eq!(faults(&text("principal in Tenant::\"vendr\"", issue, web)), ["2: unknown tenant \"vendr\"; did you mean \"vendor\"?"]);
    assert_eq!(faults(&text(ci, "action == Action::\"isue\"", web)), ["3: unknown action \"isue\"; did you mean \"issue\"?"]);
    assert_eq!(
        faults(&text("principal is Token::githb", issue, web)),
        ["2: unknown issuer type Token::githb; did you mean Token::github?"]
    );
    assert_eq!(faults(&text(ci, issue, "resource == Rol::\"web\"")), ["4: unknown entity type Rol; did you mean Role?"]);
    assert_eq!(
        faults(&text(ci, "action == Action::\"read\"", "resource == Lease::\"0192f0c1-7b5a-7000-8000-000000000000\"")),
        ["4: a policy cannot name one lease; constrain its role, tenant, subject or own instead"]
    );
    let condition = "permit(principal is Certificate in Tenant::\"operators\", action == Action::\"read\", resource)\nwhen {\n  resource in Role::\"bd\" };";
    assert_eq!(faults(condition), ["3: unknown role \"bd\"; did you mean \"db\"?"]);
}

#[test]
fn attributes_that_do_not_exist_are_faults() {
    assert_eq!(faults(&job("context has peeer")), ["7: context has no attribute peeer; did you mean peer?"]);
    assert_eq!(
        faults(&job("context has peer && context.peer.sereal == \"1\"")),
        ["7: context.peer has no attribute sereal; did you mean serial?"]
    );
    assert_eq!(faults(&job("principal.subjct == \"1\"")), ["7: principal has no attribute subjct; did you mean subject?"]);
    assert_eq!(faults(&job("resource.knd == \"x509\"")), ["7: resource has no attribute knd; did you mean kind?"]);
    let certificate = "permit(principal is Certificate in Tenant::\"operators\", action == Action::\"issue\", resource == Role::\"web\") when { principal.claims.ref == \"x\" };";
    assert_eq!(faults(certificate), ["1: principal (a Certificate) has no attribute claims; it has subject, trust_domain, id"]);
}

#[test]
fn a_policy_that_can_never_apply_is_a_fault_or_a_warning() {
    let found = faults("permit(principal in Tenant::\"ci\",\n action == Action::\"audit\", resource == Role::\"web\");");
    assert!(found.len() == 1 && found[0].starts_with("1: this policy can never apply: none of its actions"), "{found:?}");
    let book = book("\n@id(\"off\") forbid(principal, action, resource) when { false };");
    let warnings: Vec<_> = book.warnings().iter().map(ToString::to_string).collect();
    assert!(warnings.contains(&"policy.cedar:2: this policy can never apply: its condition is always false".to_owned()), "{warnings:?}");
}

#[test]
fn text_that_does_not_parse_hides_no_other_fault() {
    let text = "permit(principal, action, resource) when { 1 == };\n\npermit(principal in Tenant::\"nobody\", action, resource) when { true };\n\nforbid(principal, action resource);\npermit(principal";
    let found = faults(text);
    let lines: Vec<_> = found.iter().map(|fault| fault.split(':').next().unwrap()).collect();
    assert_eq!(lines, ["1", "3", "5", "6"], "{found:#?}");
    assert!(found[0].contains("unexpected token `}`"), "{found:#?}");
    assert_eq!(found[1], "3: unknown tenant \"nobody\"");
    assert!(found[3].contains("unexpected end of input"), "{found:#?}");
}

#[test]
fn templates_are_refused() {
    let found = faults("\npermit(principal == ?principal, action == Action::\"issue\", resource == Role::\"web\");");
    assert_eq!(found, ["2: templates are not taken here: name the principal and the resource instead of ?principal and ?resource"]);
}

#[test]
fn equal_ids_are_refused() {
    let one = |id: &str| {
        format!("@id(\"{id}\")\npermit(principal in Tenant::\"operators\", action == Action::\"issue\", resource == Role::\"web\");\n")
    };
    assert_eq!(faults(&(one("a") + &one("b") + &one("a"))), ["5: the id \"a\" is already that of the policy in line 1"]);
    let unnamed = one("a").split_once('\n').unwrap().1.to_owned();
    assert_eq!(faults(&(one("policy2") + &unnamed)), ["3: the id \"policy2\" is already that of the policy in line 1"]);
    for bad in ["", "\\n", &"x".repeat(129)] {
        assert_eq!(faults(&one(bad)), ["1: an @id is 1 to 128 bytes without control characters"]);
    }
}

#[test]
fn issuers_that_would_share_a_type_are_refused() {
    let mut catalog = catalog();
    for name in ["in", "in-"] {
        catalog.issuers.insert(name.parse().unwrap(), Vec::new());
    }
    let faults = PolicyBook::load("policy.cedar", "", Arc::new(catalog), "v1").unwrap_err();
    let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(faults, ["policy.cedar: the issuers in and in- would all be Token::in_ in policies; rename all but one"]);
}

#[test]
fn a_permit_without_a_condition_leaves_nothing_open() {
    let ops = "principal is Certificate in Tenant::\"operators\"";
    let cases = [
        (format!("permit({ops}, action == Action::\"read\", resource);"), "resource"),
        (format!("permit({ops}, action, resource == Role::\"web\");"), "action"),
        ("permit(principal, action == Action::\"audit\", resource == Tenant::\"ci\");".to_owned(), "principal"),
        ("permit(principal, action == Action::\"audit\", resource) when { true };".to_owned(), "principal, resource"),
    ];
    for (text, open) in cases {
        let expected =
            format!("1: [blanket-permit] this permit has no condition and leaves open: {open}; constrain it, or say why in @reason(\"…\")");
        assert_eq!(faults(&text), [expected]);
        book(&format!("@reason(\"on call\")\n{text}"));
        assert_eq!(faults(&format!("@reason(\" \")\n{text}")), ["1: @reason is empty; say why in its string"]);
        book(&text.replace("permit", "forbid"));
    }
    book(&format!("permit({ops}, action == Action::\"read\", resource) when {{ resource.own }};"));
}

#[test]
fn a_permit_to_issue_pins_an_immutable_id() {
    let permit = |principal: &str, role: &str, when: &str| {
        format!("permit({principal}, action == Action::\"issue\", resource == Role::\"{role}\") when {{ {when} }};")
    };
    let lint = "1: [mutable-identity] this permit to issue pins no immutable id of the callers of github (which has repository_id): names are given away and taken again; compare one with ==, or say why in @reason(\"…\")";
    let github = "principal is Token::github";
    let main = "principal.claims.ref == \"refs/heads/main\"";
    for loose in [
        main.to_owned(),
        format!("principal.claims.repository == \"acme/site\" && {main}"),
        format!("principal.claims.repository_id != \"1\" && {main}"),
        format!("(principal.claims.repository_id == \"1\" || principal.claims.ref == \"x\") && {main}"),
        format!("principal.claims.repository_id == principal.claims.repository && {main}"),
        format!("!(principal.claims.repository_id == \"1\") && {main}"),
    ] {
        assert_eq!(faults(&permit(github, "web", &loose)), [lint], "{loose}");
        book(&format!("@reason(\"all of ours\") {}", permit(github, "web", &loose)));
    }
    for pinned in [
        format!("principal.claims.repository_id == \"1\" && {main}"),
        format!("\"1\" == principal.claims.repository_id && {main}"),
        format!("[\"1\", \"2\"].contains(principal.claims.repository_id) && {main}"),
        format!("(principal.claims.repository_id == \"1\" || principal.claims.repository_id == \"2\") && {main}"),
    ] {
        book(&permit(github, "web", &pinned));
    }
    // A tenant whose every member of the issuer is pinned is as good, and so is a role that only that tenant can have.
    book(&permit("principal is Token::github in Tenant::\"ci\"", "web", main));
    book(&permit(github, "db", main));
    // An issuer without such a claim asks for none.
    book(&permit("principal is Token::plain_sso", "web", "principal.claims.team == \"ops\""));
    // The type in the condition counts as in the scope.
    assert_eq!(faults(&permit("principal", "web", &format!("principal is Token::github && {main}"))), [lint]);
}

#[test]
fn a_tenant_with_a_loose_member_pins_nothing() {
    let mut catalog = catalog();
    let mut ci = catalog.tenants[&"ci".parse().unwrap()].as_ref().clone();
    let claims = [("repository".to_owned(), super::world::text("acme/site"))].into();
    ci.members.push(daypass::model::tenant::Member::Token { issuer: "github".parse().unwrap(), claims });
    catalog.tenants.insert(ci.name.clone(), Arc::new(ci));
    let text = "permit(principal is Token::github in Tenant::\"ci\", action == Action::\"issue\", resource == Role::\"web\");";
    let faults = PolicyBook::load("policy.cedar", text, Arc::new(catalog), "v1").unwrap_err();
    assert!(faults.len() == 1 && faults[0].message.starts_with("[mutable-identity]"), "{faults:?}");
}

#[test]
fn patterns_that_run_across_separators_need_a_reason() {
    let wide = "1: [wide-pattern] the * in a pattern over principal.claims.ref also matches / and :, so it can take in more than one name; compare with ==, or say why in @reason(\"…\")";
    let text = job("principal.claims.ref like \"refs/heads/release-*\"").replace("\n", " ");
    assert_eq!(faults(&text), [wide]);
    book(&format!("@reason(\"release branches are protected\") {text}"));
    // Without a wildcard, in a forbid, or where it only narrows, it is fine.
    book(&job("principal.claims.ref like \"refs/heads/main\""));
    book(&job("!(principal.claims.ref like \"refs/pull/*\")"));
    book(&text.replace("permit", "forbid"));
}

#[test]
fn jobs_of_any_ref_are_advised_against() {
    let text = "permit(principal is Token::github in Tenant::\"ci\", action == Action::\"issue\", resource == Role::\"web\");";
    let book = book(text);
    let warnings: Vec<_> = book.warnings().iter().map(|fault| fault.message.as_str()).filter(|w| w.contains("open-source-ref")).collect();
    assert_eq!(
        warnings,
        ["[open-source-ref] any ref of github may issue: a pull request's job too; a condition on ref or environment would narrow it"]
    );
}

#[test]
fn depth_and_size_are_bounded() {
    let deep = |n: usize| format!("forbid(principal, action, resource) when {{ {}true{} }};", "(".repeat(n), ")".repeat(n));
    book(&deep(MAX_NESTING - 1));
    assert_eq!(faults(&deep(MAX_NESTING)), [format!("1: brackets nest deeper than {MAX_NESTING}; split the policy")]);
    assert_eq!(faults(&deep(100_000)).len(), 1);
    let long = |n: usize| format!("forbid(principal, action, resource) when {{ true{} }};", " && true".repeat(n));
    book(&long(MAX_OPERATORS));
    assert_eq!(faults(&long(MAX_OPERATORS + 1)), [format!("1: the policy has more than {MAX_OPERATORS} operators; split it")]);
    assert_eq!(faults(&" ".repeat(MAX_POLICY_TEXT + 1)), [format!("1: the policies are longer than {MAX_POLICY_TEXT} bytes")]);
}

fn token() -> impl Strategy<Value = String> {
    let words = [
        "permit",
        "forbid",
        "principal",
        "action",
        "resource",
        "context",
        "when",
        "unless",
        "is",
        "in",
        "has",
        "like",
        "if",
        "then",
        "else",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        ",",
        ";",
        ".",
        "==",
        "!=",
        "&&",
        "||",
        "!",
        "-",
        "<",
        "::",
        "@",
        "?",
        "\"",
        "\"x\"",
        "1",
        "claims",
        "ref",
        "Role::\"web\"",
        "Tenant::\"ci\"",
        "Action::\"issue\"",
        "Token::github",
        "@id(\"a\")",
        "principal.claims.ref",
        "// c\n",
        "\\",
        "\0",
        "é",
        "\u{202e}",
        "permit(principal,action,resource)",
        "when { principal.claims.ref == \"x\" }",
        "__cedar",
        "9223372036854775808",
    ];
    prop_oneof![6 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_text_makes_the_loader_panic(tokens in proptest::collection::vec(token(), 0..40), glue in "[ \n]?") {
        let text = tokens.join(&glue);
        if let Err(faults) = PolicyBook::load("policy.cedar", &text, Arc::new(catalog()), "v1") {
            prop_assert!(!faults.is_empty());
            let lines = text.matches('\n').count() + 1;
            prop_assert!(faults.iter().all(|fault| fault.line <= lines && !fault.message.is_empty()));
            prop_assert!(faults.iter().all(|fault| !fault.message.contains("defect")), "{faults:?}");
        }
    }
}
