//! Who may call what: every method of every service × every kind of caller × role × whose lease it is about.
//!
//! The methods come from the server's own reflection, so that a new one fails here until the table knows it.

use std::collections::{BTreeMap, BTreeSet};

use daypass::proto::v1::{self, LeaseFilter};
use prost::Message;
use serde_json::json;
use tonic::{Code, Status, transport::Channel};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};

use super::{
    token,
    wire::{block_on, channel, issue_request, request},
    world::{Caller, World},
};

/// A kind of caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// No certificate, no token.
    Nobody,
    /// A token that does not verify.
    Forger,
    /// A good token of a repository that is no tenant's.
    Stranger,
    /// The certificate of the team of operators.
    Operator,
    /// The certificate of a sub-processor.
    Vendor,
    /// A token of the sample job.
    Job,
    /// A token of the sample job from another branch.
    Branch,
}

const KINDS: [Kind; 7] = [Kind::Nobody, Kind::Forger, Kind::Stranger, Kind::Operator, Kind::Vendor, Kind::Job, Kind::Branch];

/// Those who are nobody to the service.
const UNKNOWN: [Kind; 3] = [Kind::Nobody, Kind::Forger, Kind::Stranger];

/// The methods that need no authentication.
const PUBLIC: [&str; 5] = [
    "daypass.v1.TrustService/GetTrustBundle",
    "daypass.v1.TrustService/WatchTrustBundle",
    "daypass.v1.TrustService/AcknowledgeTrustBundle",
    "grpc.health.v1.Health/Check",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// What is not tried here: a list of statuses and a stream of them, public as `Check` is.
const HEALTH: [&str; 2] = ["grpc.health.v1.Health/List", "grpc.health.v1.Health/Watch"];

/// What a method is tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    /// Nothing in particular.
    Nothing,
    /// The role `web`.
    Web,
    /// The role `vendor-client`.
    VendorClient,
    /// The role `push`, whose credentials are for a registry.
    Push,
    /// The role `federate`, whose credentials are JWTs.
    Federate,
    /// A role that is not configured.
    NoRole,
    /// A lease of the operator.
    OperatorsLease,
    /// A lease of the vendor.
    VendorsLease,
    /// A lease of the job.
    JobsLease,
    /// A lease of the operator for a registry.
    OperatorsPush,
    /// A lease of the job for a registry.
    JobsPush,
    /// A lease of the operator of a JWT.
    OperatorsJwt,
    /// A lease of the job of a JWT.
    JobsJwt,
    /// A lease that never was.
    NoLease,
}

use About::{
    Federate, JobsJwt, JobsLease, JobsPush, NoLease, NoRole, Nothing, OperatorsJwt, OperatorsLease, OperatorsPush, Push, VendorClient,
    VendorsLease, Web,
};

fn subjects_of(method: &str) -> &'static [About] {
    match method {
        "daypass.v1.CredentialService/Issue" | "daypass.v1.CredentialService/Explain" => &[Web, VendorClient, Push, Federate, NoRole],
        "daypass.v1.CredentialService/Watch" => &[
            Web,
            VendorClient,
            Push,
            Federate,
            NoRole,
            OperatorsLease,
            VendorsLease,
            JobsLease,
            OperatorsPush,
            JobsPush,
            OperatorsJwt,
            JobsJwt,
            NoLease,
        ],
        "daypass.v1.CredentialService/Acknowledge"
        | "daypass.v1.LeaseService/Get"
        | "daypass.v1.LeaseService/Renew"
        | "daypass.v1.LeaseService/Revoke" => {
            &[OperatorsLease, VendorsLease, JobsLease, OperatorsPush, JobsPush, OperatorsJwt, JobsJwt, NoLease]
        }
        "daypass.v1.CredentialService/WhoAmI"
        | "daypass.v1.LeaseService/List"
        | "daypass.v1.LeaseService/RevokeMatching"
        | "daypass.v1.EnrollmentService/Create"
        | "daypass.v1.EnrollmentService/List"
        | "daypass.v1.EnrollmentService/Delete"
        | "daypass.v1.EnrollmentService/Redeem"
        | "daypass.v1.AuditService/Tail" => &[Nothing],
        public if PUBLIC.contains(&public) => &[Nothing],
        other => panic!("{other} is not in the matrix: say here who may call it, and on what"),
    }
}

/// What policy and the sample configuration say. What is not permitted here is denied.
fn expected(method: &str, kind: Kind, about: About) -> Code {
    use Kind::{Branch, Forger, Job, Nobody, Operator, Stranger, Vendor};
    if PUBLIC.contains(&method) {
        return Code::Ok;
    }
    if method == "daypass.v1.EnrollmentService/Redeem" {
        // Whoever has no good code, whoever that is.
        return Code::PermissionDenied;
    }
    match kind {
        Nobody | Forger => return Code::Unauthenticated,
        Stranger => return Code::PermissionDenied,
        Operator | Vendor | Job | Branch => {}
    }
    // To watch is to have a new lease, or to renew one's own; what is acknowledged is one's own, too.
    let action = match (method.rsplit_once('/').unwrap().1, about) {
        ("Watch", Web | VendorClient | Push | Federate | NoRole) => "Issue",
        ("Watch" | "Acknowledge", _) => "Renew",
        (action, _) => action,
    };
    match (action, kind, about) {
        ("WhoAmI" | "List" | "RevokeMatching", ..) => Code::Ok,
        ("Issue", Operator | Job, Web | Push | Federate) | ("Issue", Vendor, VendorClient) => Code::Ok,
        ("Issue", Vendor | Branch, Web | Push | Federate) => Code::PermissionDenied,
        ("Issue", ..) => Code::NotFound,
        ("Explain", Operator, _) | ("Explain", Vendor, VendorClient) => Code::Ok,
        ("Explain", _, Web | Push | Federate) => Code::PermissionDenied,
        ("Explain", ..) => Code::NotFound,
        (_, _, NoLease) => Code::NotFound,
        ("Get" | "Revoke", Operator, _) => Code::Ok,
        ("Get" | "Renew" | "Revoke", Vendor, VendorsLease) | ("Get" | "Renew" | "Revoke", Job | Branch, JobsLease | JobsPush | JobsJwt) => {
            Code::Ok
        }
        ("Renew", Operator, OperatorsLease | OperatorsPush | OperatorsJwt) => Code::Ok,
        ("Get" | "Renew" | "Revoke", ..) => Code::NotFound,
        ("Create", Operator, _) => Code::Ok,
        ("Create", ..) => Code::PermissionDenied,
        ("Delete", ..) => Code::NotFound,
        ("Tail", Operator, _) => Code::Ok,
        ("Tail", ..) => Code::PermissionDenied,
        (other, ..) => panic!("{other} is not in the matrix"),
    }
}

#[test]
fn every_method_for_every_caller_on_everything() {
    let world = World::start();
    let methods = block_on(methods(&world));
    assert!(methods.len() >= 12, "{methods:?}");
    let mut tried = 0;
    for method in methods.iter().filter(|method| !HEALTH.contains(&method.as_str())) {
        for about in subjects_of(method) {
            for kind in KINDS {
                // Of its own for each try: some of them end it.
                let lease = lease(&world, *about);
                let got = block_on(call(&world, method, &caller(&world, kind), *about, &lease));
                let (code, message) = got.err().map_or((Code::Ok, String::new()), |status| (status.code(), status.message().to_owned()));
                assert_eq!(code, expected(method, kind, *about), "{method} by {kind:?} about {about:?}: {message}");
                if code != Code::Ok && !lease.is_empty() {
                    let state = world.cli(&world.operator(), ["lease", "get", &lease, "-o", "json"]);
                    assert!(*about == NoLease || state.json()["state"] == "active", "a refused {method} left its mark");
                }
                tried += 1;
            }
        }
    }
    assert!(tried >= 270, "{tried}");
}

#[test]
fn nobody_sees_or_counts_a_lease_of_another_tenant() {
    let world = World::start();
    let owners = [(Kind::Operator, OperatorsLease), (Kind::Vendor, VendorsLease), (Kind::Job, JobsLease)];
    let leases: BTreeMap<Kind, String> = owners.map(|(kind, about)| (kind, lease(&world, about))).into();
    for (kind, visible) in [
        (Kind::Operator, vec![Kind::Operator, Kind::Vendor, Kind::Job]),
        (Kind::Vendor, vec![Kind::Vendor]),
        (Kind::Job, vec![Kind::Job]),
        (Kind::Branch, vec![Kind::Job]),
    ] {
        let visible: BTreeSet<&str> = visible.iter().map(|owner| leases[owner].as_str()).collect();
        let list = |more: &[&str]| {
            let said = world.cli(&caller(&world, kind), [&["lease", "list", "-o", "json"], more].concat()).json();
            said.as_array().unwrap().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
        };
        assert_eq!(list(&[]).iter().map(String::as_str).collect::<BTreeSet<_>>(), visible, "{kind:?}");
        for tenant in ["platform", "acme-scan", "widget"] {
            assert!(list(&["--tenant", tenant]).iter().all(|id| visible.contains(id.as_str())), "{kind:?} of {tenant}");
            let count = world.cli(&caller(&world, kind), ["lease", "revoke", "--tenant", tenant, "--dry-run", "-o", "json"]).json();
            let seen = list(&["--tenant", tenant]).len();
            assert_eq!((&count["matched"], &count["denied"]), (&json!(seen), &json!(0)), "{kind:?} of {tenant}");
        }
    }
    // And what it cannot see it cannot revoke by a filter either.
    let said = world.cli(&world.vendor(), ["lease", "revoke", "--issued-before", "0s", "--yes", "-o", "json"]).json();
    assert_eq!(said["revoked"], 1);
    let active = world.cli(&world.operator(), ["lease", "list", "--state", "active", "-o", "json"]).json();
    assert_eq!(active.as_array().unwrap().len(), 2);
}

fn caller(world: &World, kind: Kind) -> Caller {
    let token = |claims| Caller::token(token::mint(world, claims));
    match kind {
        Kind::Nobody => Caller::nobody(),
        Kind::Forger => {
            let good = token::mint(world, json!({}));
            let (signed, signature) = good.rsplit_once('.').unwrap();
            Caller::token(format!("{signed}.{}", signature.chars().rev().collect::<String>()))
        }
        Kind::Stranger => token(json!({"repository_id": "7400"})),
        Kind::Operator => world.operator(),
        Kind::Vendor => world.vendor(),
        Kind::Job => token(json!({})),
        Kind::Branch => token(json!({"ref": "refs/heads/feature"})),
    }
}

/// A fresh lease of the kind, or an id that is none.
fn lease(world: &World, about: About) -> String {
    match about {
        OperatorsLease => world.lease(&world.operator(), "web"),
        VendorsLease => world.lease(&world.vendor(), "vendor-client"),
        JobsLease => world.lease(&caller(world, Kind::Job), "web"),
        OperatorsPush => world.lease(&world.operator(), "push"),
        JobsPush => world.lease(&caller(world, Kind::Job), "push"),
        OperatorsJwt => world.lease(&world.operator(), "federate"),
        JobsJwt => world.lease(&caller(world, Kind::Job), "federate"),
        NoLease => "0192f0c1-7b5a-7000-8000-000000000000".to_owned(),
        Nothing | Web | VendorClient | Push | Federate | NoRole => String::new(),
    }
}

async fn call(world: &World, method: &str, caller: &Caller, about: About, lease: &str) -> Result<(), Status> {
    use v1::{
        audit_service_client::AuditServiceClient as Audit, credential_service_client::CredentialServiceClient as Credentials,
        enrollment_service_client::EnrollmentServiceClient as Enrollments, lease_service_client::LeaseServiceClient as Leases,
        trust_service_client::TrustServiceClient as Trust,
    };
    let channel = channel(world, caller).await;
    let (lease_id, reason) = (lease.to_owned(), String::new());
    let role = match about {
        Web => "web",
        VendorClient => "vendor-client",
        Push => "push",
        Federate => "federate",
        _ => "no-such-role",
    };
    match method {
        "daypass.v1.CredentialService/Issue" => Credentials::new(channel).issue(request(caller, issue_request(role))).await.map(drop),
        "daypass.v1.CredentialService/Watch" => {
            let what = match about {
                Web | VendorClient | Push | Federate | NoRole => v1::watch_request::What::Issue(issue_request(role)),
                _ => v1::watch_request::What::Held(v1::HeldLease { lease_id, generation: 1, ..v1::HeldLease::default() }),
            };
            let watch = v1::WatchRequest { what: Some(what), next_x509: None };
            let mut messages = Credentials::new(channel).watch(request(caller, watch)).await?.into_inner();
            messages.message().await.map(drop)
        }
        "daypass.v1.CredentialService/Acknowledge" => {
            let acknowledge = v1::AcknowledgeRequest { lease_id, generation: 1, next_x509: None };
            Credentials::new(channel).acknowledge(request(caller, acknowledge)).await.map(drop)
        }
        "daypass.v1.CredentialService/Explain" => {
            Credentials::new(channel).explain(request(caller, v1::ExplainRequest { role: role.to_owned() })).await.map(drop)
        }
        "daypass.v1.CredentialService/WhoAmI" => Credentials::new(channel).who_am_i(request(caller, v1::WhoAmIRequest {})).await.map(drop),
        "daypass.v1.LeaseService/Get" => Leases::new(channel).get(request(caller, v1::GetRequest { lease_id })).await.map(drop),
        "daypass.v1.LeaseService/List" => Leases::new(channel).list(request(caller, v1::ListRequest::default())).await.map(drop),
        "daypass.v1.LeaseService/Renew" => {
            let Some(v1::issue_request::Input::X509(input)) = issue_request(role).input else { unreachable!() };
            let renew = v1::RenewRequest { lease_id, ttl: None, generation: 0, input: Some(v1::renew_request::Input::X509(input)) };
            Leases::new(channel).renew(request(caller, renew)).await.map(drop)
        }
        "daypass.v1.LeaseService/Revoke" => {
            Leases::new(channel).revoke(request(caller, v1::RevokeRequest { lease_id, reason })).await.map(drop)
        }
        "daypass.v1.LeaseService/RevokeMatching" => {
            let filter = Some(LeaseFilter { role: "web".to_owned(), ..LeaseFilter::default() });
            let matching = v1::RevokeMatchingRequest { filter, dry_run: true, reason };
            let mut steps = Leases::new(channel).revoke_matching(request(caller, matching)).await?.into_inner();
            while steps.message().await?.is_some() {}
            Ok(())
        }
        "daypass.v1.TrustService/GetTrustBundle" => {
            Trust::new(channel).get_trust_bundle(request(caller, v1::GetTrustBundleRequest {})).await.map(drop)
        }
        "daypass.v1.TrustService/WatchTrustBundle" => watch_bundle(&mut Trust::new(channel), caller).await.map(drop),
        "daypass.v1.TrustService/AcknowledgeTrustBundle" => {
            let mut trust = Trust::new(channel);
            let (stream, watched) = watch_bundle(&mut trust, caller).await?;
            let version = watched.bundle.unwrap_or_default().version;
            let said = v1::AcknowledgeTrustBundleRequest { watch_id: watched.watch_id, version };
            let answer = trust.acknowledge_trust_bundle(request(caller, said)).await.map(drop);
            drop(stream);
            answer
        }
        "daypass.v1.AuditService/Tail" => {
            let tail = v1::TailRequest { after_seq: 0, last: 1, follow: false };
            let mut records = Audit::new(channel).tail(request(caller, tail)).await?.into_inner();
            while records.message().await?.is_some() {}
            Ok(())
        }
        "daypass.v1.EnrollmentService/Create" => {
            let create = v1::CreateRequest { tenant: "fleet".to_owned(), role: "agent".to_owned(), ..v1::CreateRequest::default() };
            Enrollments::new(channel).create(request(caller, create)).await.map(drop)
        }
        "daypass.v1.EnrollmentService/List" => {
            Enrollments::new(channel).list(request(caller, v1::ListEnrollmentsRequest::default())).await.map(drop)
        }
        "daypass.v1.EnrollmentService/Delete" => {
            let delete = v1::DeleteRequest { id: "0192f0c1-7b5a-7000-8000-000000000000".to_owned() };
            Enrollments::new(channel).delete(request(caller, delete)).await.map(drop)
        }
        "daypass.v1.EnrollmentService/Redeem" => {
            let Some(v1::issue_request::Input::X509(input)) = issue_request(role).input else { unreachable!() };
            let redeem = v1::RedeemRequest { code: format!("dpe_{}", "A".repeat(43)), x509: Some(input) };
            Enrollments::new(channel).redeem(request(caller, redeem)).await.map(drop)
        }
        "grpc.health.v1.Health/Check" => {
            let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
            health.check(request(caller, tonic_health::pb::HealthCheckRequest::default())).await.map(drop)
        }
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo" => {
            reflect(channel, MessageRequest::ListServices(String::new())).await.map(drop)
        }
        other => panic!("{other} is not in the matrix: say here how it is called"),
    }
}

/// A stream of the trust bundle, and its first message.
async fn watch_bundle(
    trust: &mut v1::trust_service_client::TrustServiceClient<Channel>,
    caller: &Caller,
) -> Result<(tonic::Streaming<v1::WatchTrustBundleResponse>, v1::WatchTrustBundleResponse), Status> {
    let mut stream = trust.watch_trust_bundle(request(caller, v1::WatchTrustBundleRequest {})).await?.into_inner();
    let first = stream.message().await?.expect("the bundle comes at once");
    Ok((stream, first))
}

async fn reflect(channel: Channel, ask: MessageRequest) -> Result<MessageResponse, Status> {
    let asked = ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut answers = ServerReflectionClient::new(channel).server_reflection_info(futures::stream::iter([asked])).await?.into_inner();
    Ok(answers.message().await?.expect("one answer to one question").message_response.expect("an answer says something"))
}

/// Every method of every service, as the server itself lists them: `package.Service/Method`.
async fn methods(world: &World) -> BTreeSet<String> {
    let channel = channel(world, &Caller::nobody()).await;
    let services = reflect(channel.clone(), MessageRequest::ListServices(String::new())).await.unwrap();
    let MessageResponse::ListServicesResponse(services) = services else { panic!("no list of services: {services:?}") };
    let mut methods = BTreeSet::new();
    for service in services.service {
        let files = reflect(channel.clone(), MessageRequest::FileContainingSymbol(service.name.clone())).await.unwrap();
        let MessageResponse::FileDescriptorResponse(files) = files else { panic!("no file of {}: {files:?}", service.name) };
        for file in files.file_descriptor_proto {
            let file = prost_types::FileDescriptorProto::decode(file.as_slice()).unwrap();
            for known in file.service.iter().filter(|known| format!("{}.{}", file.package(), known.name()) == service.name) {
                methods.extend(known.method.iter().map(|method| format!("{}/{}", service.name, method.name())));
            }
        }
    }
    methods
}

#[test]
fn unknown_callers_are_unknown_to_every_method_of_ours() {
    let world = World::start();
    for method in block_on(methods(&world)).iter().filter(|method| method.starts_with("daypass.v1.") && !PUBLIC.contains(&method.as_str()))
    {
        for kind in UNKNOWN {
            assert_ne!(expected(method, kind, subjects_of(method)[0]), Code::Ok);
        }
    }
    let denied = world.records().len();
    assert_eq!(world.cli(&Caller::nobody(), ["lease", "list"]).code, 3);
    assert_eq!(world.records().len(), denied + 1, "an unknown caller's call is on record");
}
