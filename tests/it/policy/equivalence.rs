//! The indexed decision against Cedar itself, given the whole set of policies and every entity, checked by the schema.

use std::{
    str::FromStr,
    sync::{Arc, OnceLock},
};

use cedar_policy::{Authorizer, Context, Decision, Effect, Entities, EntityUid, PolicySet, Request, Schema};
use daypass::{
    model::{
        catalog::Catalog,
        claim::ClaimValue,
        error::Code,
        identity::{Identity, Proof},
        lease::Lease,
        name::RoleName,
        role::RoleOwner,
    },
    policy::{Action, LeaseAction, PolicyBook, schema, token_type},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::{catalog, certificate, job_with, lease, now, operator, peer, staff, text, vendor};

const PRINCIPALS: [&str; 9] = [
    "principal",
    "principal is Certificate",
    "principal is Token::github",
    "principal in Tenant::\"ci\"",
    "principal in Tenant::\"vendor\"",
    "principal is Token::plain_sso in Tenant::\"ci\"",
    "principal is Certificate in Tenant::\"operators\"",
    "principal == Certificate::\"spiffe://dev/vendor/agent\"",
    "principal in Token::github::\"oidc:github:repo:acme/site\"",
];
const ACTIONS: [&str; 10] = [
    "action",
    "action == Action::\"issue\"",
    "action == Action::\"renew\"",
    "action == Action::\"read\"",
    "action == Action::\"revoke\"",
    "action == Action::\"explain\"",
    "action == Action::\"audit\"",
    "action == Action::\"enroll\"",
    "action in [Action::\"issue\", Action::\"renew\"]",
    "action in [Action::\"read\", Action::\"revoke\", Action::\"audit\"]",
];
const RESOURCES: [&str; 14] = [
    "resource",
    "resource == Role::\"web\"",
    "resource in Role::\"web\"",
    "resource in Role::\"vendor-client\"",
    "resource == Role::\"db\"",
    "resource in Tenant::\"ci\"",
    "resource in Tenant::\"vendor\"",
    "resource == Tenant::\"vendor\"",
    "resource is Role",
    "resource is Lease",
    "resource is Tenant",
    "resource is Lease in Role::\"db\"",
    "resource is Lease in Tenant::\"vendor\"",
    "resource is Role in Tenant::\"ci\"",
];
const CONDITIONS: [&str; 16] = [
    "",
    "when { true }",
    "when { principal is Token::github && principal.claims.ref == \"refs/heads/main\" }",
    "when { principal is Token::github && (principal.claims has environment && principal.claims.environment == \"prod\") }",
    "unless { principal is Token::github && principal.claims has labels && principal.claims.labels.contains(\"x\") }",
    "when { principal is Token::plain_sso && principal.claims has tier && principal.claims.tier > 3 }",
    "when { principal.subject like \"spiffe://dev/*\" }",
    "when { context has peer_address && context.peer_address.isInRange(ip(\"10.0.0.0/8\")) }",
    "unless { context has peer || principal is Token::plain_sso }",
    "when { context.time < datetime(\"2026-03-01T12:00:00.250Z\") || context.time > datetime(\"2026-03-01\") }",
    "when { context has peer && context.peer.id == \"spiffe://dev/host\" }",
    "when { context has ttl_seconds && context.ttl_seconds < 600 }",
    "when { context has ttl_seconds && context.ttl_seconds * 9223372036854775807 > 0 }",
    "when { resource in Tenant::\"ci\" } unless { principal in Tenant::\"ci\" && resource in Role::\"web\" }",
    "when { resource is Lease && resource.own }",
    "when { if principal is Token::github then principal.claims.repository_id == \"74512345\" else resource in Role::\"web\" }",
];

fn policy() -> impl Strategy<Value = String> {
    let any = |all: &'static [&'static str]| proptest::sample::select(all.to_vec());
    (prop_oneof![3 => Just("permit"), 1 => Just("forbid")], any(&PRINCIPALS), any(&ACTIONS), any(&RESOURCES), any(&CONDITIONS))
        .prop_map(|(effect, p, a, r, c)| format!("@reason(\"test\")\n{effect}({p}, {a}, {r}) {c};\n"))
}

fn caller() -> impl Strategy<Value = Arc<Identity>> {
    let environment = prop_oneof![Just(None), Just(Some("prod")), Just(Some("dev"))];
    let labels = prop_oneof![Just(None), Just(Some(vec![])), Just(Some(vec!["x".to_owned(), "y".to_owned()]))];
    let jobs = (prop_oneof![Just("refs/heads/main"), Just("refs/heads/x")], environment, labels, any::<bool>()).prop_map(
        |(reference, environment, labels, beside)| {
            let mut more = Vec::new();
            more.extend(environment.map(|value| ("environment", text(value))));
            more.extend(labels.map(|values| ("labels", ClaimValue::Strings(values))));
            let mut identity = job_with(reference, &more).as_ref().clone();
            if let (Proof::Token { peer: beside_token, .. }, true) = (&mut identity.proof, beside) {
                *beside_token = Some(peer("spiffe://dev/host"));
            }
            Arc::new(identity)
        },
    );
    prop_oneof![3 => jobs, 1 => Just(operator()), 1 => Just(vendor()), 1 => Just(staff()), 1 => Just(certificate("vendor", "spiffe://dev/vendor/b"))]
}

/// Cedar, asked the plain way.
struct Oracle {
    schema: Schema,
    policies: PolicySet,
    catalog: Catalog,
}

enum Resource<'a> {
    Role(&'a str),
    Lease(&'a Lease),
    Tenant(&'a str),
}

impl Oracle {
    fn new(text: &str) -> Self {
        let catalog = catalog();
        let (schema, _) = Schema::from_cedarschema_str(&schema(&catalog)).unwrap();
        Self { schema, policies: text.parse().unwrap(), catalog }
    }

    fn allows(&self, identity: &Identity, action: Action, resource: &Resource<'_>, ttl: Option<i64>, address: Option<&str>) -> bool {
        let (ty, principal) = self.principal(identity);
        let (resource_uid, entities) = self.entities(identity, principal, resource);
        let mut context = json!({ "time": { "__extn": { "fn": "datetime", "arg": "2026-03-01T12:00:00.250Z" } } });
        let fields = context.as_object_mut().unwrap();
        ttl.map(|ttl| fields.insert("ttl_seconds".into(), json!(ttl)));
        if action == Action::Enroll {
            fields.insert("tenant".into(), json!("vendor"));
        }
        address.map(|address| fields.insert("peer_address".into(), json!({ "__extn": { "fn": "ip", "arg": address } })));
        identity.peer().map(|peer| {
            let peer = json!({ "trust_domain": "dev", "id": peer.id, "subject": peer.subject.as_str(), "serial": peer.serial });
            fields.insert("peer".into(), peer)
        });
        let uid = |value: &Value| EntityUid::from_json(value.clone()).unwrap();
        let action = EntityUid::from_str(&format!("Action::\"{}\"", action.as_str())).unwrap();
        let context = Context::from_json_value(context, Some((&self.schema, &action))).unwrap();
        let principal = uid(&json!({ "type": ty, "id": identity.subject().as_str() }));
        let request = Request::new(principal, action, uid(&resource_uid), context, Some(&self.schema)).unwrap();
        let entities = Entities::from_json_value(entities, Some(&self.schema)).unwrap();
        let response = Authorizer::new().is_authorized(&request, &self.policies, &entities);
        // Daypass's one rule beyond Cedar's: a forbid that cannot be evaluated forbids.
        let failed = response.diagnostics().errors().map(|error| match error {
            cedar_policy::AuthorizationError::PolicyEvaluationError(error) => error.policy_id().clone(),
        });
        let forbidden = failed.into_iter().any(|id| self.policies.policy(&id).unwrap().effect() == Effect::Forbid);
        response.decision() == Decision::Allow && !forbidden
    }

    fn principal(&self, identity: &Identity) -> (String, Value) {
        let (ty, attrs) = match &identity.proof {
            Proof::Certificate(peer) => {
                ("Certificate".to_owned(), json!({ "trust_domain": "dev", "id": peer.id, "subject": peer.subject.as_str() }))
            }
            Proof::Enrollment(_) => unreachable!("no policy is asked about a code"),
            Proof::Token { token, .. } => {
                let claims = serde_json::to_value(&token.claims).unwrap();
                let attrs = json!({ "subject": token.subject.as_str(), "issuer": token.issuer.as_str(), "claims": claims });
                (format!("Token::{}", token_type(&token.issuer)), attrs)
            }
        };
        let parents = json!([{ "type": "Tenant", "id": identity.tenant.as_str() }]);
        let entity = json!({ "uid": { "type": ty, "id": identity.subject().as_str() }, "attrs": attrs, "parents": parents });
        (ty, entity)
    }

    fn entities(&self, identity: &Identity, principal: Value, resource: &Resource<'_>) -> (Value, Value) {
        let mut all = vec![principal];
        let tenant = |name: &str| json!({ "type": "Tenant", "id": name });
        all.extend(self.catalog.tenants.keys().map(|name| json!({ "uid": tenant(name.as_str()), "attrs": {}, "parents": [] })));
        for role in self.catalog.roles.values() {
            // A lease is in its holder's tenant only, so its role stands without an owner there.
            let parents = match (&role.owner, resource) {
                (RoleOwner::Tenant(owner), Resource::Role(_)) => json!([tenant(owner.as_str())]),
                _ => json!([]),
            };
            all.push(json!({ "uid": { "type": "Role", "id": role.name.as_str() }, "attrs": { "kind": "x509" }, "parents": parents }));
        }
        let uid = match resource {
            Resource::Role(name) => json!({ "type": "Role", "id": name }),
            Resource::Tenant(name) => tenant(name),
            Resource::Lease(lease) => {
                let uid = json!({ "type": "Lease", "id": lease.id.to_string() });
                let own = lease.tenant == identity.tenant && lease.subject == *identity.subject();
                let attrs = json!({ "subject": lease.subject.as_str(), "kind": "x509", "own": own });
                let parents = json!([{ "type": "Role", "id": lease.role.as_str() }, tenant(lease.tenant.as_str())]);
                all.push(json!({ "uid": uid, "attrs": attrs, "parents": parents }));
                uid
            }
        };
        (uid, Value::Array(all))
    }
}

fn load(text: &str) -> Option<PolicyBook> {
    PolicyBook::load("p", text, Arc::new(catalog()), "v1").ok()
}

/// The policies that load: scopes that no action fits do not, as `load` tests. Each policy has two lines.
fn loadable(mut policies: Vec<String>) -> (String, PolicyBook) {
    if let Err(faults) = PolicyBook::load("p", &policies.concat(), Arc::new(catalog()), "v1") {
        let bad = |at: usize| faults.iter().any(|fault| fault.line.div_ceil(2) == at + 1);
        let mut at = 0;
        policies.retain(|_| {
            at += 1;
            !bad(at - 1)
        });
    }
    let text = policies.concat();
    let book = load(&text).unwrap();
    (text, book)
}

fn is_denied(code: Code) -> bool {
    matches!(code, Code::Denied | Code::LeaseNotFound | Code::RoleNotFound)
}

static PINNED: OnceLock<PolicyBook> = OnceLock::new();
static OPERATOR: OnceLock<PolicyBook> = OnceLock::new();

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_index_decides_as_the_whole_set_does(
        policies in proptest::collection::vec(policy(), 1..8),
        identity in caller(),
        other in caller(),
        ttl in proptest::option::of(1..3600_i64),
        address in prop_oneof![Just(None), Just(Some("10.1.2.3")), Just(Some("192.0.2.1"))],
    ) {
        let (text, book) = loadable(policies);
        let oracle = Oracle::new(&text);
        let ip = address.map(|address| address.parse().unwrap());
        let span = ttl.map(daypass::model::SignedDuration::from_secs);
        let seconds = Some(ttl.unwrap_or(300));

        for role in oracle.catalog.roles.values() {
            let name = role.name.as_str();
            let issue = book.decide_issue(&identity, &role.name, span, ip, now());
            let hidden = matches!(&role.owner, RoleOwner::Tenant(owner) if *owner != identity.tenant);
            let expected = !hidden && oracle.allows(&identity, Action::Issue, &Resource::Role(name), seconds, address);
            prop_assert_eq!(issue.is_ok(), expected, "issue {} by {:?}\n{}", name, identity, text);
            let explained = book.explain_issue(&identity, &role.name, span, ip, now());
            prop_assert_eq!(explained.allowed, expected);
            if !hidden {
                let applied = |permits: bool| explained.policies.iter().any(|policy| policy.permits == permits && policy.satisfied);
                prop_assert_eq!(applied(true) && !applied(false), expected, "{:#?}\n{}", explained, text);
                prop_assert!(explained.policies.iter().all(|policy| policy.satisfied == policy.failed.is_empty()), "{explained:#?}");
            }
            let explain = book.decide_explain(&identity, &role.name, ip, now());
            prop_assert_eq!(explain.is_ok(), oracle.allows(&identity, Action::Explain, &Resource::Role(name), None, address));
            let enroll = book.may_enroll(&identity, &"vendor".parse().unwrap(), &role.name, ip, now());
            prop_assert_eq!(enroll.is_ok(), oracle.allows(&identity, Action::Enroll, &Resource::Role(name), None, address));
        }
        for tenant in ["ci", "vendor", "operators", "gone"] {
            let audit = book.decide_audit(&identity, &tenant.parse().unwrap(), ip, now());
            prop_assert_eq!(audit.is_ok(), oracle.allows(&identity, Action::Audit, &Resource::Tenant(tenant), None, address));
        }
        for role in ["web", "db", "vendor-client", "gone"] {
            for holder in [&identity, &other] {
                let lease = lease(role, holder);
                let expected = |action| oracle.allows(&identity, action, &Resource::Lease(&lease), None, address);
                for (action, asked) in [(LeaseAction::Read, Action::Read), (LeaseAction::Revoke, Action::Revoke)] {
                    let decided = book.decide_lease(action, &identity, &lease, ip, now());
                    prop_assert_eq!(decided.is_ok(), expected(asked), "{:?} {} by {:?}\n{}", action, role, identity, text);
                    prop_assert!(decided.is_ok() || is_denied(decided.unwrap_err().error.code()));
                    let mut many = book.lease_decisions(action, &identity, ip, now()).unwrap();
                    prop_assert_eq!(many.allows(&lease).unwrap(), expected(asked));
                    prop_assert_eq!(many.allows(&lease).unwrap(), expected(asked));
                }
                let renew = book.decide_renew(&identity, &lease, span, ip, now());
                let name: RoleName = role.parse().unwrap();
                let usable = oracle.catalog.roles.get(&name).is_some_and(|role| match &role.owner {
                    RoleOwner::Shared => true,
                    RoleOwner::Tenant(owner) => *owner == identity.tenant,
                });
                let own = holder.subject() == identity.subject() && holder.tenant == identity.tenant;
                let asked = oracle.allows(&identity, Action::Renew, &Resource::Lease(&lease), seconds, address);
                prop_assert_eq!(renew.is_ok(), usable && own && asked);
            }
        }
    }

    #[test]
    fn a_hostile_claim_is_only_ever_data(value in hostile()) {
        let book = PINNED.get_or_init(|| load("permit(principal is Token::github in Tenant::\"ci\", action == Action::\"issue\", resource == Role::\"web\")\nwhen { principal.claims.repository_id == \"74512345\" && principal.claims.ref == \"refs/heads/main\" && principal.claims has environment && principal.claims.environment == \"prod\" };").unwrap());
        let web = "web".parse().unwrap();
        let asked = |reference: &str, environment: &str| {
            let identity = job_with(reference, &[("environment", text(environment))]);
            book.decide_issue(&identity, &web, None, None, now())
        };
        prop_assert_eq!(asked("refs/heads/main", &value).is_ok(), value == "prod");
        let denied = asked(&value, "prod");
        prop_assert_eq!(denied.is_ok(), value == "refs/heads/main");
        if let Err(denial) = denied {
            // And nothing of it gets into what the caller or the record reads.
            prop_assert_eq!(
                denial.explanation.lines(),
                ["policy policy1 (line 1): failed: principal.claims.ref == \"refs/heads/main\" (claim ref)"]
            );
        }
    }

    #[test]
    fn a_hostile_subject_is_only_ever_data(value in hostile()) {
        let Ok(subject) = daypass::model::identity::Subject::try_from(value.clone()) else { return Ok(()) };
        let book = OPERATOR.get_or_init(|| load("permit(principal == Certificate::\"spiffe://dev/operator\", action == Action::\"read\", resource in Role::\"web\");").unwrap());
        let mut identity = operator().as_ref().clone();
        if let Proof::Certificate(peer) = &mut identity.proof {
            peer.id.clone_from(&value);
            peer.subject = subject;
        }
        let decided = book.decide_lease(LeaseAction::Read, &identity, &lease("web", &vendor()), None, now());
        prop_assert_eq!(decided.is_ok(), value == "spiffe://dev/operator");
    }
}

fn hostile() -> impl Strategy<Value = String> {
    let known = [
        "refs/heads/main",
        "prod",
        "spiffe://dev/operator",
        "refs/heads/main\" || true || \"",
        "\"); permit(principal, action, resource); //",
        "Role::\"web\"",
        "*",
        "refs/heads/*",
        "refs/heads/main\0",
        "refs/heads/main ",
        "REFS/HEADS/MAIN",
        "{\"__entity\":{\"type\":\"Tenant\",\"id\":\"operators\"}}",
        "{\"__extn\":{\"fn\":\"ip\",\"arg\":\"10.0.0.1\"}}",
        "\\u{0072}efs/heads/main",
        "refs/heads/ma\u{200b}in",
        "\u{202e}niam",
        "",
    ];
    prop_oneof![1 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
}
