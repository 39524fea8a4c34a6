//! The Workload API: py-spiffe and the `spiffe` crate as they are, and the protocol call by call.

use std::collections::BTreeMap;

use daypass::{
    client::error::{Error, Kind},
    model::SignedDuration,
    proto::workload::{
        JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svid, X509svidRequest,
        spiffe_workload_api_client::SpiffeWorkloadApiClient as Client,
    },
};
use prost_types::value::Kind as Value;
use spiffe::{JwtSource, JwtSvid, TrustDomain, WorkloadApiClient, X509Source};
use tonic::{Code, Request, Status, transport::Channel};

use super::socket_world::{FORBIDDEN, PATIENCE, World, aws, der, x509};
use crate::support::parts::{openssl::Ca, spiffe_py::Der, spiffe_py::SpiffePy, wait_until};

const WORKLOAD: &str = "[workload]\npath = \"workload.sock\"\njwt_roles = [\"web-jwt\", \"api-jwt\"]";

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

/// The first message of the stream of identities.
async fn svids(channel: &Channel) -> Result<Vec<X509svid>, Status> {
    let mut stream = Client::new(channel.clone()).fetch_x509svid(with_header(X509svidRequest {})).await?.into_inner();
    Ok(stream.message().await?.expect("an answer").svids)
}

async fn bundles(channel: &Channel) -> Result<BTreeMap<String, Vec<u8>>, Status> {
    let mut stream = Client::new(channel.clone()).fetch_x509_bundles(with_header(X509BundlesRequest {})).await?.into_inner();
    Ok(stream.message().await?.expect("an answer").bundles.into_iter().collect())
}

async fn jwts(channel: &Channel, audience: &[&str], id: &str) -> Result<Vec<(String, String)>, Status> {
    let audience = audience.iter().map(|&audience| audience.into()).collect();
    let request = with_header(JwtsvidRequest { audience, spiffe_id: id.to_owned() });
    let answer = Client::new(channel.clone()).fetch_jwtsvid(request).await?.into_inner();
    Ok(answer.svids.into_iter().map(|svid| (svid.spiffe_id, svid.hint)).collect())
}

async fn validate(channel: &Channel, token: &str, audience: &str) -> Result<daypass::proto::workload::ValidateJwtsvidResponse, Status> {
    let request = with_header(ValidateJwtsvidRequest { audience: audience.to_owned(), svid: token.to_owned() });
    Ok(Client::new(channel.clone()).validate_jwtsvid(request).await?.into_inner())
}

#[test]
fn py_spiffe_takes_and_follows_identities_and_bundles() {
    let world = World::new(&["web"], WORKLOAD);
    let other = Ca::new(world.folder.path(), "other");
    let [first, second] = ["first", "second"].map(|name| world.pair(name, "web"));
    let workload = SpiffePy::start(&world.path("workload.sock"));
    let refused = workload.svid().unwrap_err();
    assert_eq!(refused.code.as_deref(), Some("UNAVAILABLE"), "{refused:?}");

    world.put_pair("web", &first);
    world.put_bundle(&[&world.ca.cert]);
    let svid = workload.svid().unwrap();
    assert_eq!((svid.spiffe_id.as_str(), svid.chain), ("spiffe://example.org/web", vec![Der(der(&first.cert))]));
    assert_eq!(workload.bundles().unwrap(), [("example.org".to_owned(), vec![Der(der(&world.ca.cert))])].into());

    workload.follow().unwrap();
    world.put_pair("web", &second);
    let mut roots = [&world.ca.cert, &other.cert].map(|cert| Der(der(cert))).to_vec();
    world.put_bundle(&[&world.ca.cert, &other.cert]);
    let current = wait_until(PATIENCE, "the source has the second and both roots", || {
        let current = workload.current().unwrap();
        (current.svid.chain == [Der(der(&second.cert))] && current.bundles["example.org"].len() == 2).then_some(current)
    });
    roots.sort();
    let mut found = current.bundles["example.org"].clone();
    found.sort();
    assert_eq!(found, roots);
    world.stop().unwrap();
    assert_eq!(workload.current().unwrap().svid, current.svid, "the library keeps what it has when the agent goes");
}

#[test]
fn py_spiffe_takes_and_verifies_jwts() {
    let world = World::new(&["web"], WORKLOAD);
    world.put_pair("web", &world.pair("web", "web"));
    world.put_bundle(&[&world.ca.cert]);
    let workload = SpiffePy::start(&world.path("workload.sock"));
    let svid = workload.jwt(&["db"], None).unwrap();
    assert_eq!(svid.spiffe_id, "spiffe://example.org/web", "the first role's is the default");
    assert_eq!(workload.jwt_bundles().unwrap(), [("example.org".to_owned(), vec!["key-1".to_owned()])].into());
    assert_eq!(workload.verify(&svid.token, "db").unwrap(), svid.spiffe_id, "by the bundle");
    assert_eq!(workload.validate(&svid.token, "db").unwrap(), svid.spiffe_id, "by the agent");
    assert_eq!(workload.jwt(&["db"], Some("spiffe://example.org/api")).unwrap().spiffe_id, "spiffe://example.org/api");
    let code = |refusal: crate::support::parts::spiffe_py::Refusal| refusal.code.unwrap();
    assert_eq!(code(workload.jwt(&["db"], Some("spiffe://example.org/x")).unwrap_err()), "PERMISSION_DENIED");
    assert_eq!(code(workload.jwt(&["db", "web"], None).unwrap_err()), "INVALID_ARGUMENT");
    assert_eq!(code(workload.validate(&svid.token, "web").unwrap_err()), "INVALID_ARGUMENT");
}

#[test]
fn the_spiffe_crate_takes_and_follows() {
    let world = World::new(&["web"], WORKLOAD);
    let other = Ca::new(world.folder.path(), "other");
    let [first, second] = ["first", "second"].map(|name| world.pair(name, "web"));
    world.put_pair("web", &first);
    world.put_bundle(&[&world.ca.cert]);
    let endpoint = format!("unix://{}", world.path("workload.sock").display());
    let domain = TrustDomain::new("example.org").unwrap();
    world.block_on(async {
        let source = X509Source::builder().endpoint(&endpoint).build().await.unwrap();
        let leaf = || source.svid().unwrap().leaf().as_bytes().to_vec();
        let roots = || source.try_bundle_for_trust_domain(&domain).unwrap().authorities().len();
        assert_eq!(
            (source.svid().unwrap().spiffe_id().to_string(), leaf(), roots()),
            ("spiffe://example.org/web".into(), der(&first.cert), 1)
        );
        assert_eq!(source.svid().unwrap().hint(), Some("web"));
        let mut updates = source.updated();
        world.put_pair("web", &second);
        updates.changed().await.unwrap();
        assert_eq!(leaf(), der(&second.cert));
        world.put_bundle(&[&world.ca.cert, &other.cert]);
        updates.changed().await.unwrap();
        assert_eq!(roots(), 2);
        source.shutdown().await;

        let source = JwtSource::builder().endpoint(&endpoint).build().await.unwrap();
        let svid = source.fetch_jwt_svid(["db"]).await.unwrap();
        let verified = JwtSvid::parse_and_validate(svid.token(), &*source.bundle_set().unwrap(), &["db"]).unwrap();
        assert_eq!(verified.spiffe_id().to_string(), "spiffe://example.org/web");
        let client = WorkloadApiClient::connect_to(&endpoint).await.unwrap();
        assert_eq!(client.validate_jwt_token("db", svid.token()).await.unwrap().spiffe_id(), svid.spiffe_id());
        assert!(client.validate_jwt_token("web", svid.token()).await.is_err());
        source.shutdown().await;
    });
}

#[test]
fn a_call_without_the_header_is_refused() {
    let world = World::new(&["web"], WORKLOAD);
    world.put_pair("web", &world.pair("web", "web"));
    world.put_bundle(&[&world.ca.cert]);
    let channel = world.channel("workload.sock");
    for values in [&[][..], &["false"], &["True"], &["true", "true"], &["true", "false"], &["true,true"]] {
        let request = || {
            let mut request = Request::new(X509svidRequest {});
            for value in values {
                request.metadata_mut().append("workload.spiffe.io", value.parse().unwrap());
            }
            request
        };
        let refused = world.block_on(Client::new(channel.clone()).fetch_x509svid(request())).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{values:?}");
    }
    let mut client = Client::new(channel.clone());
    assert_eq!(world.block_on(client.fetch_jwtsvid(JwtsvidRequest::default())).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(world.block_on(client.validate_jwtsvid(ValidateJwtsvidRequest::default())).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(world.block_on(client.fetch_x509_bundles(X509BundlesRequest {})).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(world.block_on(client.fetch_jwt_bundles(JwtBundlesRequest {})).unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(world.block_on(svids(&channel)).unwrap().len(), 1, "and with it, it is served");
}

#[test]
fn each_message_is_the_whole_state_and_comes_only_when_it_changed() {
    let world = World::new(&["api", "deploy", "plain", "web"], WORKLOAD);
    let (api, web) = (world.pair("api", "api"), world.pair("web", "web"));
    world.put_pair("web", &web);
    world.put_bundle(&[&world.ca.cert]);
    // Neither is an identity: an AWS session, and a certificate without a SPIFFE ID.
    world.put("deploy", Some(aws("deploy", "ASIA", SignedDuration::from_hours(1))));
    let plain = world.ca.leaf("plain", &["DNS:localhost"], "serverAuth", 1);
    world.put_pair("plain", &plain);
    let channel = world.channel("workload.sock");
    world.block_on(async {
        let mut stream = Client::new(channel.clone()).fetch_x509svid(with_header(X509svidRequest {})).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        let [svid] = first.svids.as_slice() else { panic!("{first:?}") };
        assert_eq!((svid.spiffe_id.as_str(), svid.hint.as_str()), ("spiffe://example.org/web", "web"));
        assert_eq!((&svid.x509_svid, &svid.bundle), (&der(&web.cert), &der(&world.ca.cert)));
        // The same once more, and what is no identity: no message.
        world.put_pair("web", &web);
        world.put("plain", None);
        world.put_pair("plain", &plain);
        world.put_pair("api", &api);
        let second = stream.message().await.unwrap().unwrap();
        let ids: Vec<_> = second.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
        assert_eq!(ids, ["spiffe://example.org/api", "spiffe://example.org/web"]);
        world.put("api", None);
        world.put("web", None);
        let mut ended = stream.message().await;
        // One may have been seen without the other.
        if ended.is_ok() {
            ended = stream.message().await;
        }
        assert_eq!(ended.unwrap_err().code(), Code::Unavailable, "they are to come again");
    });
}

#[test]
fn who_may_have_no_identity_is_told_so_and_may_still_verify_others() {
    let stranger = rustix::process::geteuid().as_raw() + 1;
    let lists: String = ["web", "web-jwt", "api-jwt"].map(|role| format!("\n[roles.{role}]\nuids = [{stranger}]")).concat();
    let world = World::new(&["web"], &format!("{WORKLOAD}{lists}"));
    let channel = world.channel("workload.sock");
    assert_eq!(world.block_on(svids(&channel)).unwrap_err().code(), Code::PermissionDenied, "there is nothing to wait for");
    assert_eq!(world.block_on(bundles(&channel)).unwrap_err().code(), Code::Unavailable);
    world.put_pair("web", &world.pair("web", "web"));
    world.put_bundle(&[&world.ca.cert]);
    assert_eq!(world.block_on(svids(&channel)).unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(world.block_on(jwts(&channel, &["db"], "")).unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(world.jwts.asked(), 0, "the service was not asked");
    assert_eq!(world.block_on(bundles(&channel)).unwrap(), [("spiffe://example.org".to_owned(), der(&world.ca.cert))].into());
}

#[test]
fn a_bundle_is_of_the_configured_domain_and_of_those_of_certificates() {
    let world = World::new(&["web"], &format!("trust_domain = \"other.example\"\n{WORKLOAD}"));
    world.put_bundle(&[&world.ca.cert]);
    let channel = world.channel("workload.sock");
    let found = || world.block_on(bundles(&channel)).unwrap().into_keys().collect::<Vec<_>>();
    assert_eq!(found(), ["spiffe://other.example"]);
    world.put_pair("web", &world.pair("web", "web"));
    assert_eq!(found(), ["spiffe://example.org", "spiffe://other.example"]);
    world.block_on(async {
        let mut stream = Client::new(channel.clone()).fetch_x509_bundles(with_header(X509BundlesRequest {})).await.unwrap().into_inner();
        stream.message().await.unwrap();
        // Two entries of a map have no order: the same ones again are no news.
        for number in 0..20 {
            world.put_pair("web", &world.pair(&format!("web-{number}"), "web"));
            tokio::task::yield_now().await;
        }
        let news = tokio::time::timeout(std::time::Duration::from_millis(200), stream.message()).await;
        assert!(news.is_err(), "{news:?}");
    });
}

/// Two CAs of one service, each of a trust domain of its own: what the one vouches for is nothing in the other's domain.
#[test]
fn no_trust_domain_is_trusted_by_way_of_anothers_ca() {
    let world = World::new(&["web", "partner"], &format!("trust_domain = \"example.org\"\n{WORKLOAD}"));
    let [own, theirs, third] = ["own", "theirs", "third"].map(|name| Ca::new(world.folder.path(), name));
    world.put_of_ca("web", &own, "example.org/web");
    world.put_of_ca("partner", &theirs, "partner.example/web");
    world.put_cas(&[("own", &own.cert), ("theirs", &theirs.cert), ("third", &third.cert)]);
    let channel = world.channel("workload.sock");
    let found = world.block_on(bundles(&channel)).unwrap();
    let expected = [("spiffe://example.org", &own), ("spiffe://partner.example", &theirs)];
    assert_eq!(found, expected.map(|(domain, ca)| (domain.to_owned(), der(&ca.cert))).into());
    let svids = world.block_on(svids(&channel)).unwrap();
    let with_bundles: BTreeMap<_, _> = svids.into_iter().map(|svid| (svid.hint, svid.bundle)).collect();
    assert_eq!(with_bundles, [("web".to_owned(), der(&own.cert)), ("partner".to_owned(), der(&theirs.cert))].into());
    world.put("web", None);
    let after_a_lapse = world.block_on(bundles(&channel)).unwrap().remove("spiffe://example.org").unwrap();
    assert_eq!(after_a_lapse, [der(&own.cert), der(&third.cert)].concat(), "of the CAs that are no other domain's");
}

#[test]
fn jwts_are_had_for_one_audience_and_by_identity() {
    let world = World::new(&[], &format!("trust_domain = \"example.org\"\n{WORKLOAD}"));
    world.put_bundle(&[]);
    let channel = world.channel("workload.sock");
    let fetch = |audience: &[&str], id: &str| world.block_on(jwts(&channel, audience, id));
    let pair = |name: &str| (format!("spiffe://example.org/{name}"), format!("{name}-jwt"));
    assert_eq!(fetch(&["db"], "").unwrap(), [pair("web"), pair("api")], "without an identity: all");
    assert_eq!(world.jwts.asked(), 2);
    assert_eq!(fetch(&["db"], "spiffe://example.org/api").unwrap(), [pair("api")]);
    assert_eq!(world.jwts.asked(), 3, "what a role gives is known by now");
    let long = "x".repeat(513);
    for (audience, id, code) in [
        (&[][..], "", Code::InvalidArgument),
        (&["a", "b"], "", Code::InvalidArgument),
        (&[""], "", Code::InvalidArgument),
        (&[&long], "", Code::InvalidArgument),
        (&["db"], "web", Code::InvalidArgument),
        (&["db"], "spiffe://example.org/other", Code::PermissionDenied),
        (&[FORBIDDEN], "", Code::PermissionDenied),
    ] {
        assert_eq!(fetch(audience, id).unwrap_err().code(), code, "{audience:?} {id}");
    }
    for (error, code) in [
        (Error::unavailable("the server is away"), Code::Unavailable),
        (Error::new(Kind::NotAuthenticated, "UNAUTHENTICATED", "the agent's token"), Code::Unavailable),
        (Error::new(Kind::Other, "INVALID_REQUEST", "the audience is not the role's"), Code::InvalidArgument),
        (Error::new(Kind::Other, "BAD_ANSWER", "x"), Code::Internal),
    ] {
        *world.jwts.fails.lock().unwrap() = Some(error);
        let refused = fetch(&["db"], "").unwrap_err();
        assert_eq!(refused.code(), code);
        assert!(!refused.message().contains("the agent's token"), "{refused:?}");
    }
}

#[test]
fn a_jwt_is_validated_by_the_bundle() {
    let world = World::new(&["web"], WORKLOAD);
    world.put_pair("web", &world.pair("web", "web"));
    let channel = world.channel("workload.sock");
    let hour = SignedDuration::from_hours(1);
    let good = world.jwts.sign("spiffe://example.org/any", "db", hour);
    let ask = |token: &str, audience: &str| world.block_on(validate(&channel, token, audience));
    assert_eq!(ask(&good, "db").unwrap_err().code(), Code::Unavailable, "there is no bundle yet");
    world.put_bundle(&[&world.ca.cert]);
    let answer = ask(&good, "db").unwrap();
    let claims = answer.claims.unwrap().fields;
    assert_eq!(answer.spiffe_id, "spiffe://example.org/any");
    assert_eq!(claims["aud"].kind, Some(Value::StringValue("db".to_owned())));
    let Some(Value::StructValue(inner)) = &claims["n"].kind else { panic!("{claims:?}") };
    let Some(Value::ListValue(list)) = &inner.fields["deep"].kind else { panic!("{inner:?}") };
    assert_eq!([&list.values[0].kind, &list.values[1].kind], [&Some(Value::NumberValue(1.0)), &Some(Value::BoolValue(true))]);
    let expired = world.jwts.sign("spiffe://example.org/any", "db", SignedDuration::from_secs(-1));
    let foreign = world.jwts.sign("spiffe://other.example/any", "db", hour);
    for (token, audience) in
        [(&good, "web"), (&good, ""), (&expired, "db"), (&foreign, "db"), (&good.replace('.', "_"), "db"), (&String::new(), "db")]
    {
        assert_eq!(ask(token, audience).unwrap_err().code(), Code::InvalidArgument, "{token} {audience}");
    }
}

#[test]
fn a_key_that_is_not_the_certificates_is_not_ours_to_judge_and_nothing_prints_it() {
    let world = World::new(&["web"], WORKLOAD);
    let [one, two] = ["one", "two"].map(|name| world.pair(name, "web"));
    world.put("web", Some(x509("web", &one.cert, &two.key)));
    world.put_bundle(&[&world.ca.cert]);
    let found = world.block_on(svids(&world.channel("workload.sock"))).unwrap();
    assert_eq!(format!("{:?}", found[0]), "X509svid { spiffe_id: \"spiffe://example.org/web\", .. }");
}
