//! What a session may do, at MiniStack: what it enforces is in its harness.

use std::collections::BTreeMap;

use daypass::{
    issuer::{Again, Issuer, Order, aws::AwsIssuer},
    model::{
        credential::Credential,
        error::Code,
        lease::{Handle, Lease, LeaseState, Reach},
        request::Input,
        role::{AwsMode, AwsRevocation, AwsRole, RoleSpec},
    },
};
use serde_json::json;

use super::world::{deploy, grant, issuer, keys, lease, mint, now, order, session, session_policy, template, way};
use crate::support::parts::{
    boto::{Keys, Refusal},
    ministack::{ACCOUNT, MiniStack, allow, policy, trust},
};

pub const BUCKET: &str = "releases";

/// A bucket, a user `service` as whom Daypass comes, and a role that may do all of S3 and whose policies the user may write.
pub struct World {
    pub aws: MiniStack,
    pub service: Keys,
    pub arn: String,
}

impl World {
    pub fn start() -> Self {
        let aws = MiniStack::start();
        aws.bucket(BUCKET, &["a/x", "b/x"]);
        let arn = format!("arn:aws:iam::{ACCOUNT}:role/deploy");
        let own = ["iam:PutRolePolicy", "iam:DeleteRolePolicy", "iam:GetRolePolicy"];
        let service = aws.user("service", &policy(&[allow(&["sts:AssumeRole", "sts:TagSession"], &["*"]), allow(&own, &[&arn])]));
        assert_eq!(aws.role("deploy", &trust("service"), &policy(&[allow(&["s3:*", "ecr:*"], &["*"])])), arn);
        Self { aws, service, arn }
    }

    pub fn issuer(&self, role: &AwsRole) -> AwsIssuer {
        issuer(way(self.aws.url(), &self.service), role, None)
    }

    pub fn read(&self, keys: &Keys, key: &str) -> String {
        code(self.aws.read(keys, BUCKET, key))
    }
}

pub fn code<T>(result: Result<T, Refusal>) -> String {
    result.map_or_else(|refusal| refusal.code, |_| "done".into())
}

#[tokio::test]
async fn a_session_reads_the_one_prefix_that_its_policy_allows() {
    let world = World::start();
    let document = r#"{ "Version": "2012-10-17", "Statement":
        { "Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::releases/{claims.project}/*" } }"#;
    let role = AwsRole { session_policy: session_policy(document), ..deploy(&world.arn) };
    let issuer = world.issuer(&role);
    let id = lease();
    let minted = mint(&issuer, &grant(RoleSpec::Aws(role), &[("project", "a")]), id).await.expect("a session");
    assert_eq!((minted.reach, minted.handle.credential_id().len()), (Reach::Lease, 20));
    let Handle::Aws { session: name, .. } = &minted.handle else { panic!("another handle") };
    assert_eq!(*name, format!("ci-{id}"));
    let left = minted.expires_at.duration_since(now()).as_secs();
    assert!((900..=990).contains(&left), "{left}");
    let credential = session(minted);
    assert_eq!(credential.region, "us-east-1");
    let keys = keys(&credential);
    assert_eq!(world.aws.caller(&keys).unwrap(), format!("arn:aws:sts::{ACCOUNT}:assumed-role/deploy/ci-{id}"));
    assert_eq!(world.read(&keys, "a/x"), "done");
    assert_eq!(world.read(&keys, "b/x"), "AccessDenied");
    assert_eq!(code(world.aws.write(&keys, BUCKET, "a/y", "new")), "AccessDenied");
}

#[tokio::test]
async fn policies_by_arn_bound_a_session_too() {
    let world = World::start();
    let document = policy(&[allow(&["s3:GetObject"], &["arn:aws:s3:::releases/b/*"])]).to_string();
    let made = world.aws.admin("iam", "create_policy", &json!({"PolicyName": "b", "PolicyDocument": document}));
    let arn = made["Policy"]["Arn"].as_str().unwrap().to_owned();
    let role = AwsRole { policy_arns: vec![arn], ..deploy(&world.arn) };
    let minted = mint(&world.issuer(&role), &grant(RoleSpec::Aws(role), &[]), lease()).await.expect("a session");
    let keys = keys(&session(minted));
    assert_eq!((world.read(&keys, "b/x").as_str(), world.read(&keys, "a/x").as_str()), ("done", "AccessDenied"));
}

#[tokio::test]
async fn tags_from_claims_reach_the_principal() {
    let world = World::start();
    let mut tagged = allow(&["s3:*"], &["*"]);
    tagged["Condition"] = json!({"StringEquals": {"aws:PrincipalTag/team": "a"}});
    world.aws.set_inline_policy("deploy", "permissions", &policy(&[tagged]));
    let role = AwsRole { tags: BTreeMap::from([("team".to_owned(), template("{claims.team}"))]), ..deploy(&world.arn) };
    let issuer = world.issuer(&role);
    for (team, answer) in [("a", "done"), ("b", "AccessDenied")] {
        let minted = mint(&issuer, &grant(RoleSpec::Aws(role.clone()), &[("team", team)]), lease()).await.expect("a session");
        assert_eq!(world.read(&keys(&session(minted)), "a/x"), answer, "{team}");
    }
}

#[tokio::test]
async fn an_external_id_is_shown() {
    let world = World::start();
    let mut condition = trust("service");
    condition["Statement"][0]["Condition"] = json!({"StringEquals": {"sts:ExternalId": "jobs/a"}});
    let arn = world.aws.role("partner", &condition, &policy(&[allow(&["s3:*"], &["*"])]));
    let with = |id: Option<&str>| AwsRole { external_id: id.map(template), ..deploy(&arn) };
    let verdict = async |role: AwsRole| {
        let minted = mint(&world.issuer(&role), &grant(RoleSpec::Aws(role), &[("team", "a")]), lease()).await;
        minted.err().map(|failed| (failed.error.code(), failed.maybe_made))
    };
    assert_eq!(verdict(with(Some("{tenant}/{claims.team}"))).await, None);
    assert_eq!(verdict(with(None)).await, Some((Code::IssuerRefused, false)));
    assert_eq!(verdict(with(Some("{tenant}/b"))).await, Some((Code::IssuerRefused, false)));
}

#[tokio::test]
async fn refusals_come_by_name() {
    let world = World::start();
    let closed = world.aws.role("closed", &trust("nobody"), &policy(&[allow(&["s3:*"], &["*"])]));
    let missing = format!("arn:aws:iam::{ACCOUNT}:role/missing");
    let no_such = format!("arn:aws:iam::{ACCOUNT}:policy/missing");
    // A document that is JSON, and no policy.
    let malformed = r#"{ "Version": "2012-10-17", "Statement": "nothing" }"#;
    for (role, name) in [
        (deploy(&closed), "AccessDenied"),
        (deploy(&missing), "AccessDenied"),
        (AwsRole { policy_arns: vec![no_such], ..deploy(&world.arn) }, "ValidationError"),
        (AwsRole { session_policy: session_policy(malformed), ..deploy(&world.arn) }, "MalformedPolicyDocument"),
    ] {
        let issuer = world.issuer(&role);
        let Err(failed) = mint(&issuer, &grant(RoleSpec::Aws(role), &[]), lease()).await else { panic!("{name}: a session") };
        assert_eq!((failed.error.code(), failed.maybe_made), (Code::IssuerRefused, false), "{}", failed.error);
        assert!(failed.error.public().contains(name), "{}", failed.error);
    }
    let role = deploy(&world.arn);
    let stranger = Keys { secret: "another".to_owned(), ..world.service.clone() };
    let issuer = issuer(way(world.aws.url(), &stranger), &role, None);
    let Err(failed) = mint(&issuer, &grant(RoleSpec::Aws(role), &[]), lease()).await else { panic!("a session") };
    assert!(failed.error.public().contains("SignatureDoesNotMatch"), "{}", failed.error);
    assert!(!failed.error.to_string().contains(&world.service.secret));
}

#[tokio::test]
async fn a_renewal_is_a_session_under_the_same_name_and_tag() {
    let world = World::start();
    let role = deploy(&world.arn);
    let issuer = world.issuer(&role);
    let (grant, id) = (grant(RoleSpec::Aws(role), &[]), lease());
    let first = mint(&issuer, &grant, id).await.expect("a session");
    let Handle::Aws { session: name, key_id, .. } = first.handle.clone() else { panic!("another handle") };
    let mut lasting = order(&grant, id);
    lasting.earlier = Some(&first.handle);
    let reserved = issuer.reserve(&lasting).unwrap().unwrap();
    assert_eq!(reserved.handle, first.handle, "until AWS has answered the earlier key is the newest");
    let second = issuer.mint(&lasting).await.expect("a session");
    let Handle::Aws { session: same, key_id: other, .. } = second.handle.clone() else { panic!("another handle") };
    assert_eq!(name, same);
    assert_ne!(key_id, other);
    for minted in [first, second] {
        assert_eq!(world.read(&keys(&session(minted)), "a/x"), "done");
    }
}

#[tokio::test]
async fn nobody_makes_a_session_again() {
    let world = World::start();
    let role = AwsRole { revocation: AwsRevocation::None, ..deploy(&world.arn) };
    let issuer = world.issuer(&role);
    let grant = grant(RoleSpec::Aws(role), &[]);
    let id = lease();
    let minted = mint(&issuer, &grant, id).await.expect("a session");
    assert_eq!(minted.reach, Reach::Expiry);
    let lease = Lease {
        id,
        version: 1,
        role: "deploy".parse().unwrap(),
        kind: grant.role().kind(),
        tenant: "jobs".parse().unwrap(),
        subject: grant.identity().subject().clone(),
        state: LeaseState::Active,
        issued_at: now(),
        expires_at: minted.expires_at,
        renew_until: minted.expires_at,
        generation: 1,
        reach: minted.reach,
        live_until: minted.expires_at,
        revoked_at: None,
        renewed_at: None,
        held_until: None,
        acknowledged: 0,
        claim: None,
        enrolled: false,
        handle: minted.handle,
    };
    let order = Order { grant: &grant, lease: id, input: &Input::None, generation: 1, earlier: None, now: now() };
    assert!(matches!(issuer.remint(&order, &lease).await, Ok(Again::Never)));
}

#[tokio::test]
async fn docker_gets_its_password_by_way_of_a_session() {
    let world = World::start();
    let role = deploy(&world.arn);
    let issuer = world.issuer(&role);
    let grant = grant(RoleSpec::Ecr(role), &[]);
    let minted = mint(&issuer, &grant, lease()).await.expect("a login");
    let Credential::Registry(login) = minted.credential else { panic!("no login") };
    assert_eq!((login.username.as_str(), login.secret.expose()), ("AWS", "ministack-auth-token"));
    assert_eq!(login.registry, format!("{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"));
    assert_eq!(login.expires_at, minted.expires_at, "its lease ends it, not the twelve hours that ECR says");
    assert!(matches!(minted.handle, Handle::Aws { deny: Some(_), key_id: Some(_), .. }));

    // The role that may not ask ECR: the session exists by then.
    world.aws.set_inline_policy("deploy", "permissions", &policy(&[allow(&["s3:*"], &["*"])]));
    let Err(failed) = mint(&issuer, &grant, lease()).await else { panic!("a login") };
    assert_eq!((failed.error.code(), failed.maybe_made), (Code::IssuerRefused, true));
    assert!(failed.error.public().contains("AccessDeniedException"), "{}", failed.error);
}

#[tokio::test]
async fn a_role_is_assumed_by_a_web_identity_without_keys() {
    // MiniStack checks issuer, audience and subject alone; SeaweedFS verifies the token.
    let world = World::start();
    let signer = super::keyless::signer("http://127.0.0.1:1");
    let statement = json!({
        "Effect": "Allow", "Action": ["sts:AssumeRoleWithWebIdentity", "sts:TagSession"],
        "Principal": {"Federated": format!("arn:aws:iam::{ACCOUNT}:oidc-provider/127.0.0.1:1")},
        "Condition": {"StringEquals": {"127.0.0.1:1:aud": "aws", "127.0.0.1:1:sub": "jobs/a"}},
    });
    let arn = world.aws.role("web", &policy(&[statement]), &policy(&[allow(&["s3:*"], &["*"])]));
    let by =
        |subject: &str| AwsRole { mode: AwsMode::WebIdentity { audience: "aws".to_owned(), subject: template(subject) }, ..deploy(&arn) };
    let nobody = Keys { id: "AKIANOBODY".to_owned(), secret: "none".to_owned(), token: None };
    for (subject, good) in [("{tenant}/{claims.team}", true), ("{tenant}/other", false)] {
        let role = by(subject);
        let issuer = issuer(way(world.aws.url(), &nobody), &role, Some(&signer));
        let minted = mint(&issuer, &grant(RoleSpec::Aws(role), &[("team", "a")]), lease()).await;
        match minted {
            Ok(minted) if good => assert_eq!(world.read(&keys(&session(minted)), "a/x"), "done"),
            Err(failed) if !good => assert_eq!(failed.error.code(), Code::IssuerRefused),
            _ => panic!("{subject}"),
        }
    }
}
