//! STS down, slow, throttled, refusing, lying.

use std::time::{Duration, Instant};

use daypass::{
    issuer::{
        DenyDesk, Issuer, NotMinted,
        aws::{AwsConfig, CALL_MARGIN},
    },
    model::{
        SignedDuration,
        error::Code,
        lease::Handle,
        request::Input,
        revocation::{AwsDeny, DenyBy},
        role::{AwsMode, RoleSpec},
    },
};

use super::{
    endpoint::{Does, Endpoint, error},
    world::{self, deploy, grant, grant_until, hasty, issuer, lease, mint, now, order},
};
use crate::support::parts::free_port;

const ARN: &str = "arn:aws:iam::123456789012:role/deploy";

async fn failing(endpoint: &Endpoint) -> NotMinted {
    let role = deploy(ARN);
    let issuer = issuer(hasty(&endpoint.url), &role, None);
    match mint(&issuer, &grant(RoleSpec::Aws(role), &[]), lease()).await {
        Ok(_) => panic!("a session"),
        Err(failed) => failed,
    }
}

/// Code, whether something may exist, how often it was asked.
async fn verdict(does: &[Does]) -> (Code, bool, usize, String) {
    let endpoint = Endpoint::start(does);
    let failed = failing(&endpoint).await;
    let all = format!("{} {:?}", failed.error, failed.error.cause());
    for secret in ["hunter2", "made-secret", "made-token"] {
        assert!(!all.contains(secret), "{all}");
    }
    assert!(!failed.error.public().contains("secret-request-id"), "{}", failed.error.public());
    (failed.error.code(), failed.maybe_made, endpoint.asked().len(), failed.error.public().to_owned())
}

#[tokio::test]
async fn errors_by_name_are_definite() {
    for name in [
        "AccessDenied",
        "MalformedPolicyDocument",
        "PackedPolicyTooLarge",
        "RegionDisabledException",
        "ExpiredToken",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "IDPRejectedClaim",
        "InvalidIdentityToken",
        "ValidationError",
        "SomethingNew",
    ] {
        let (code, maybe, asked, text) = verdict(&[Does::Answer(403, error(name, "hunter2"))]).await;
        assert_eq!((code, maybe, asked), (Code::IssuerRefused, false, 1), "{name}");
        assert!(text.contains(name) && text.contains("sts:AssumeRole"), "{text}");
    }
}

#[tokio::test]
async fn what_passes_is_tried_once_more() {
    for (status, name) in
        [(400, "Throttling"), (400, "ThrottlingException"), (503, "ServiceUnavailable"), (500, "InternalFailure"), (429, "X")]
    {
        let (code, maybe, asked, text) = verdict(&[Does::Answer(status, error(name, "hunter2"))]).await;
        assert_eq!((code, maybe, asked), (Code::IssuerUnavailable, false, 2), "{name}");
        assert!(text.contains(name), "{text}");
    }
    let role = deploy(ARN);
    let endpoint = Endpoint::start(&[Does::Answer(400, error("Throttling", "")), Does::Session(0)]);
    let issuer = issuer(hasty(&endpoint.url), &role, None);
    assert!(mint(&issuer, &grant(RoleSpec::Aws(role), &[]), lease()).await.is_ok(), "the second one is as good");
    assert_eq!(endpoint.asked().len(), 2);
}

#[tokio::test]
async fn what_nobody_can_read_may_have_made_something() {
    for does in [
        Does::Answer(200, "garbage".to_owned()),
        Does::Answer(200, String::new()),
        Does::Answer(200, "<AssumeRoleResponse><hunter2/></AssumeRoleResponse>".to_owned()),
        Does::Answer(502, "<html>hunter2</html>".to_owned()),
        Does::Half,
        Does::Close,
        Does::Hang,
    ] {
        let started = Instant::now();
        let (code, maybe, _, text) = verdict(std::slice::from_ref(&does)).await;
        assert_eq!((code, maybe), (Code::IssuerUnavailable, true), "{does:?}: {text}");
        assert!(started.elapsed() < Duration::from_secs(2), "{does:?} took {:?}", started.elapsed());
    }
    // The first try may have made one, whatever the second one says.
    let (code, maybe, asked, _) = verdict(&[Does::Answer(502, String::new()), Does::Answer(403, error("AccessDenied", ""))]).await;
    assert_eq!((code, maybe, asked), (Code::IssuerRefused, true, 2));
}

#[tokio::test]
async fn an_error_without_a_name_is_refused_by_its_status() {
    for body in ["<html>hunter2</html>", "", "hunter2", &error("no name at all hunter2", "m"), &error(&"x".repeat(65), "m")] {
        let (code, maybe, _, text) = verdict(&[Does::Answer(400, body.to_owned())]).await;
        assert_eq!((code, maybe), (Code::IssuerRefused, false), "{body}");
        assert!(text.contains("status 400"), "{text}");
    }
}

#[tokio::test]
async fn where_nobody_listens_nothing_is_made() {
    let role = deploy(ARN);
    let issuer = issuer(hasty(&format!("http://127.0.0.1:{}", free_port())), &role, None);
    let Err(failed) = mint(&issuer, &grant(RoleSpec::Aws(role), &[]), lease()).await else { panic!("a session") };
    assert_eq!((failed.error.code(), failed.maybe_made), (Code::IssuerUnavailable, false), "{}", failed.error);
}

#[tokio::test]
async fn a_queue_is_waited_in_for_a_while_only() {
    let role = deploy(ARN);
    let endpoint = Endpoint::start(&[Does::Hang]);
    let way = AwsConfig { concurrency: 1, ..hasty(&endpoint.url) };
    let issuer = issuer(way, &role, None);
    let grant = grant(RoleSpec::Aws(role), &[]);
    let both = tokio::join!(mint(&issuer, &grant, lease()), mint(&issuer, &grant, lease()));
    let maybe: Vec<bool> = [both.0, both.1].into_iter().map(|minted| minted.err().expect("nothing").maybe_made).collect();
    assert_eq!(maybe, [true, false], "the second one never left");
    assert_eq!(endpoint.asked().len(), 1);
}

#[tokio::test]
async fn a_session_must_end_when_it_should() {
    let over = CALL_MARGIN.as_secs() + 5;
    // A session that seems to end early lives on by AWS' clock when its denial has lapsed by ours.
    for longer in [over, 7 * 3600, -3600, -over] {
        let (code, maybe, _, text) = verdict(&[Does::Session(longer)]).await;
        assert_eq!((code, maybe), (Code::IssuerUnavailable, true), "{longer}");
        assert!(text.contains("clocks"), "{text}");
    }
}

#[tokio::test]
async fn lengths_are_those_of_aws() {
    let endpoint = Endpoint::start(&[Does::Session(0)]);
    let role = deploy(ARN);
    let issuer = issuer(hasty(&endpoint.url), &role, None);
    let at = now();
    let of = |ttl, ends_at| grant_until(RoleSpec::Aws(role.clone()), &[], ttl, at, ends_at);
    let minutes = SignedDuration::from_mins;
    let reserve = |grant: &daypass::policy::Grant, earlier: Option<&Handle>| {
        issuer.reserve(&daypass::issuer::Order { grant, lease: lease(), input: &Input::None, generation: 1, earlier, now: at })
    };

    let short = of(minutes(10), None);
    let refused = reserve(&short, None).err().expect("too short");
    assert!(refused.code() == Code::InvalidRequest && refused.public().contains("900"), "{refused}");

    // Not even the time that a call takes may pass a tenant's end.
    let ends_at = daypass::model::Timestamp::from_second((at + minutes(20)).as_second()).unwrap();
    let limited = of(minutes(60), Some(ends_at));
    let reserved = reserve(&limited, None).unwrap().unwrap();
    assert!(reserved.expires_at <= ends_at && reserved.expires_at > ends_at - SignedDuration::from_secs(2));
    let before = of(minutes(15), Some(daypass::model::Timestamp::from_second((at + minutes(15)).as_second() + 10).unwrap()));
    assert_eq!(reserve(&before, None).err().map(|refused| refused.code()), Some(Code::InvalidRequest));

    let handle = reserve(&of(minutes(60), None), None).unwrap().unwrap().handle;
    assert_eq!(reserve(&short, Some(&handle)).err().map(|refused| refused.code()), Some(Code::NotRenewable));
    let Handle::Aws { deny, role_arn, session, key_id } = handle else { panic!("another handle") };
    let moved = Handle::Aws { deny: deny.clone(), role_arn: "arn:aws:iam::123456789012:role/other".to_owned(), session, key_id };
    assert_eq!(reserve(&of(minutes(60), None), Some(&moved)).err().map(|refused| refused.code()), Some(Code::NotRenewable));
    let other_way = Handle::Aws { deny: None, role_arn, session: "s".to_owned(), key_id: None };
    assert_eq!(reserve(&of(minutes(60), None), Some(&other_way)).err().map(|refused| refused.code()), Some(Code::NotRenewable));
    assert!(endpoint.asked().is_empty(), "nobody was asked");

    let grant = of(minutes(60), None);
    issuer.mint(&order(&grant, lease())).await.expect("a session");
    let seconds: i64 = endpoint.last()["DurationSeconds"].parse().unwrap();
    assert!((3595..=3600).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn a_roles_own_session_assumes_for_an_hour_at_most() {
    let identity = |arn: &str| {
        let body = format!(
            "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult><Arn>{arn}</Arn>\
             <UserId>U</UserId><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
        );
        Does::Answer(200, body)
    };
    let role = deploy(ARN);
    for (arn, seconds) in [("arn:aws:sts::123456789012:assumed-role/daypass/x", 3600), ("arn:aws:iam::123456789012:user/daypass", 7200)] {
        let endpoint = Endpoint::start(&[identity(arn), Does::Session(0)]);
        let issuer = issuer(hasty(&endpoint.url), &role, None);
        let grant = grant_until(RoleSpec::Aws(role.clone()), &[], SignedDuration::from_hours(2), now(), None);
        mint(&issuer, &grant, lease()).await.expect("a session");
        mint(&issuer, &grant, lease()).await.expect("a session");
        let asked = endpoint.asked();
        let actions: Vec<&str> = asked.iter().map(|form| form["Action"].as_str()).collect();
        assert_eq!(actions, ["GetCallerIdentity", "AssumeRole", "AssumeRole"], "who it is is asked once");
        let got: i64 = asked[1]["DurationSeconds"].parse().unwrap();
        assert!((seconds - 5..=seconds).contains(&got), "{got}");
    }
}

#[tokio::test]
async fn a_jwt_needs_a_signer() {
    let endpoint = Endpoint::start(&[Does::Session(0)]);
    let mut role = deploy(ARN);
    role.mode = AwsMode::WebIdentity { audience: "sts.amazonaws.com".to_owned(), subject: world::template("job") };
    let issuer = issuer(hasty(&endpoint.url), &role, None);
    let Err(failed) = mint(&issuer, &grant(RoleSpec::Aws(role), &[]), lease()).await else { panic!("a session") };
    assert_eq!((failed.error.code(), failed.maybe_made), (Code::Internal, false));
    assert!(endpoint.asked().is_empty());
}

#[tokio::test]
async fn a_way_that_did_not_change_keeps_what_it_knows() {
    let (url, role) = (format!("http://127.0.0.1:{}", free_port()), deploy(ARN));
    let ambient = || AwsConfig { endpoint: Some(url.clone()), ..AwsConfig::new("main".parse().unwrap(), "us-east-1") };
    let held = daypass::issuer::aws::Connection::of(ambient());
    let _issuer = issuer(ambient(), &role, None);
    assert!(std::sync::Arc::ptr_eq(&held, &daypass::issuer::aws::Connection::of(ambient())));
    let other = AwsConfig { region: "eu-west-1".to_owned(), ..ambient() };
    assert!(!std::sync::Arc::ptr_eq(&held, &daypass::issuer::aws::Connection::of(other)));
}

#[tokio::test]
async fn a_desk_that_cannot_write_says_so() {
    let role = deploy(ARN);
    let list = AwsDeny { aws: "main".parse().unwrap(), by: DenyBy::SessionTag, role_arn: ARN.to_owned() };
    let of = |account: &str| {
        Does::Answer(
            200,
            format!(
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
                 <Arn>arn:aws:iam::{account}:user/d</Arn><UserId>U</UserId><Account>{account}</Account></GetCallerIdentityResult>\
                 </GetCallerIdentityResponse>"
            ),
        )
    };
    // A role of the same name in another account must not be written to.
    let endpoint = Endpoint::start(&[of("999999999999"), Does::Answer(200, String::new())]);
    let desk = issuer(hasty(&endpoint.url), &role, None);
    let refused = desk.publish(&list, &[], now()).await.expect_err("another account");
    assert!(refused.code() == Code::IssuerRefused && refused.public().contains("another AWS account"), "{refused}");
    assert_eq!(endpoint.asked().len(), 1);

    for (does, code, says) in [
        (Does::Answer(409, error("LimitExceeded", "hunter2")), Code::IssuerUnavailable, "LimitExceeded"),
        (Does::Answer(403, error("AccessDenied", "hunter2")), Code::IssuerRefused, "AccessDenied"),
        (Does::Answer(404, error("NoSuchEntity", "hunter2")), Code::IssuerRefused, "NoSuchEntity"),
        (Does::Hang, Code::IssuerUnavailable, "in time"),
    ] {
        let endpoint = Endpoint::start(&[of("123456789012"), does]);
        let desk = issuer(hasty(&endpoint.url), &role, None);
        let revoked = super::denial::revoked(lease(), now());
        let refused = desk.publish(&list, &[revoked], now()).await.expect_err("no policy");
        assert!(refused.code() == code && refused.public().contains(says), "{refused}");
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
    }
}
