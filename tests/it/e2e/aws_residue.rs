//! A hundred leases, half of them revoked, all of them lapsed: the IAM role's policy is as it was. Over a real MiniStack, with the time
//! injected: AWS gives no session of less than a quarter of an hour.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use aws_sdk_sts::config::{Credentials, SharedCredentialsProvider};
use daypass::{
    audit::{AuditOptions, DiskLog},
    clock::{Clock, SystemClock},
    issuer::{
        Issuers,
        aws::{AwsConfig, AwsIdentity, AwsIssuer},
        x509::X509Issuer,
    },
    model::{
        SignedDuration, Timestamp,
        catalog::Catalog,
        credential::Credential,
        identity::{CertificateIdentity, Identity, PeerCertificate, Proof, Subject},
        lease::{LeaseFilter, LeaseId, LeaseState},
        request::{Input, IssueRequest},
        revocation::RevocationList,
        role::{AwsMode, AwsOverflow, AwsRevocation, AwsRole, Role, RoleOwner, RoleSpec},
        template::Template,
        tenant::{Member, Tenant, TenantKind},
    },
    policy::PolicyBook,
    store::{LeaseStore, embedded::EmbeddedStore},
    vend::{Call, Origin, Rules, Vend},
};
use futures::future::join_all;
use tokio::task::JoinSet;

use crate::support::parts::{
    boto::Keys,
    ministack::{ACCOUNT, MiniStack, allow, policy, trust},
};

const LEASES: usize = 100;
const OPERATOR: &str = "spiffe://dev/operator";

struct ManualClock(Mutex<Timestamp>);

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

#[tokio::test]
async fn a_hundred_leases_leave_nothing_in_the_policy() {
    let aws = MiniStack::start();
    aws.bucket("releases", &["x"]);
    let arn = format!("arn:aws:iam::{ACCOUNT}:role/deploy");
    let own = ["iam:PutRolePolicy", "iam:DeleteRolePolicy", "iam:GetRolePolicy"];
    let service = aws.user("service", &policy(&[allow(&["sts:AssumeRole", "sts:TagSession"], &[&arn]), allow(&own, &[&arn])]));
    aws.role("deploy", &trust("service"), &policy(&[allow(&["s3:*"], &["*"])]));
    let policies = || aws.inline_policies("deploy").into_keys().collect::<Vec<_>>();

    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock(Mutex::new(SystemClock.now())));
    let store: Arc<dyn LeaseStore> = Arc::new(EmbeddedStore::open(&dir.path().join("leases.db"), SignedDuration::from_hours(1)).unwrap());
    let log = Arc::new(DiskLog::open(AuditOptions::new(dir.path().join("audit"))).unwrap());
    let vend = Arc::new(Vend::new(store.clone(), log, clock.clone(), rules(aws.url(), &service, &arn)));
    vend.find_denies().await.unwrap();
    let [list] = vend.denies().known().try_into().expect("one role, one list");
    let mut publisher = JoinSet::new();
    let (heart, asked) = (vend.clone(), list.clone());
    publisher.spawn(async move {
        loop {
            heart.denies().rung(&asked).await;
            heart.publish_deny(&asked, heart.now()).await.unwrap();
        }
    });

    let order = || IssueRequest { role: "deploy".parse().unwrap(), ttl: None, request_id: None, input: Input::None };
    let mut sessions: Vec<(LeaseId, Keys)> = Vec::new();
    for _ in 0..LEASES {
        let issued = vend.issue(&operator(), order()).await.unwrap();
        let Credential::Aws(made) = issued.credential else { panic!("no AWS session") };
        let (secret, token) = (made.secret_access_key.expose().to_owned(), made.session_token.expose().to_owned());
        sessions.push((issued.lease.id, Keys { id: made.access_key_id, secret, token: Some(token) }));
    }
    assert_eq!(policies(), ["permissions"]);
    let (revoked, kept) = sessions.split_at(LEASES / 2);
    let asked = operator();
    for outcome in join_all(revoked.iter().map(|(id, _)| vend.revoke(&asked, *id, "it is over"))).await {
        assert_eq!(outcome.unwrap().state, LeaseState::Revoked);
    }
    assert_eq!(policies(), ["DaypassRevokedSessionTags", "permissions"]);
    let reads = |keys: &Keys| aws.read(keys, "releases", "x").unwrap_or_else(|refusal| refusal.code);
    for (id, keys) in revoked {
        assert_eq!(reads(keys), "AccessDenied", "{id}");
    }
    for (id, keys) in kept {
        assert_eq!(reads(keys), "x", "{id}");
    }
    let document = aws.inline_policies("deploy")["DaypassRevokedSessionTags"].to_string();
    assert!(revoked.iter().all(|(id, _)| document.contains(&id.to_string())), "{document}");
    assert!(!kept.iter().any(|(id, _)| document.contains(&id.to_string())), "{document}");

    // Nothing has lapsed: a pass leaves all as it is.
    assert!(!vend.publish_deny(&list, vend.now()).await.unwrap());
    *clock.0.lock().unwrap() += SignedDuration::from_mins(17);
    while !vend.sweep().await.unwrap().is_idle() {}
    assert!(vend.publish_deny(&list, vend.now()).await.unwrap(), "the pass prunes");
    assert_eq!(policies(), ["permissions"]);
    assert!(!vend.publish_deny(&list, vend.now()).await.unwrap(), "and is at rest");
    assert!(store.revoked(&RevocationList::Aws(list), vend.now()).await.unwrap().1.is_empty());
    let leases = store.list(&LeaseFilter::default(), None, 1000).await.unwrap().leases;
    let count = |state| leases.iter().filter(|lease| lease.state == state).count();
    assert_eq!((count(LeaseState::Revoked), count(LeaseState::Expired)), (LEASES / 2, LEASES / 2));
}

fn operator() -> Call {
    let peer = PeerCertificate {
        trust_domain: "dev".parse().unwrap(),
        identity: CertificateIdentity::Spiffe,
        id: OPERATOR.to_owned(),
        subject: Subject::try_from(OPERATOR.to_owned()).unwrap(),
        serial: "0a".to_owned(),
        fingerprint: "00".repeat(32),
        not_after: SystemClock.now() + SignedDuration::from_hours(24),
    };
    let identity = Arc::new(Identity { tenant: "ops".parse().unwrap(), proof: Proof::Certificate(peer) });
    let origin = Origin { method: "CredentialService/Issue", peer_address: Some([127, 0, 0, 1].into()), call_id: "test".to_owned() };
    Call { identity, origin }
}

fn rules(url: &str, service: &Keys, arn: &str) -> Rules {
    let spec = AwsRole {
        aws: "main".parse().unwrap(),
        role_arn: arn.to_owned(),
        mode: AwsMode::AssumeRole,
        session_name: Template::parse("{lease}").unwrap(),
        session_policy: None,
        policy_arns: vec![],
        tags: BTreeMap::new(),
        transitive_tags: vec![],
        source_identity: None,
        external_id: None,
        revocation: AwsRevocation::SessionTag,
        overflow: AwsOverflow::Fail,
    };
    let credentials = Credentials::builder().access_key_id(&service.id).secret_access_key(&service.secret).provider_name("test").build();
    let way = AwsConfig {
        endpoint: Some(url.to_owned()),
        identity: AwsIdentity::Given(SharedCredentialsProvider::new(credentials)),
        ..AwsConfig::new("main".parse().unwrap(), "us-east-1")
    };
    let aws = Arc::new(AwsIssuer::new([way], [&spec], None));
    let role = Role {
        name: "deploy".parse().unwrap(),
        owner: RoleOwner::Shared,
        default_ttl: SignedDuration::from_mins(15),
        max_ttl: SignedDuration::from_hours(1),
        max_life: SignedDuration::from_hours(8),
        max_life_per_token: SignedDuration::from_hours(1),
        on_clone: daypass::model::role::OnClone::Revoke,
        spec: RoleSpec::Aws(spec),
    };
    let tenant = Tenant {
        name: "ops".parse().unwrap(),
        kind: TenantKind::Team,
        ends_at: None,
        members: vec![Member::Certificate { trust_domain: "dev".parse().unwrap(), id: OPERATOR.to_owned() }],
        max_live_leases: 1000,
        max_live_leases_per_caller: 1000,
    };
    let catalog = Catalog {
        trust_domains: BTreeMap::from([("dev".parse().unwrap(), CertificateIdentity::Spiffe)]),
        tenants: BTreeMap::from([(tenant.name.clone(), Arc::new(tenant))]),
        roles: BTreeMap::from([(role.name.clone(), Arc::new(role))]),
        ..Catalog::default()
    };
    let policy = r#"@id("operator") @reason("a test's operator") permit(principal, action, resource);"#;
    let book = PolicyBook::load("policy.cedar", policy, Arc::new(catalog), "test").unwrap();
    Rules { book, issuers: Issuers { aws, ..Issuers::only_x509(X509Issuer::new(BTreeMap::new())) } }
}
