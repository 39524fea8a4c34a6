//! Relying parties that are not ours, and one that is: tokens of a running service, verified through discovery over HTTP.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{ChildStdin, ChildStdout, Command, Stdio},
};

use daypass::client::{
    Client,
    settings::{Flags, Settings},
    types::{Credential, IssueOrder, OrderInput},
};
use serde_json::{Value, json};

use super::world::parts;
use crate::{
    e2e::world::{Caller, World},
    keys::admin::ca,
    support::parts::{Process, tool, tools},
};

/// jose, in a process of its own.
struct RelyingParty {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: Process,
}

impl RelyingParty {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/relying-party.mjs");
        let mut command = Command::new(tool("node"));
        command.arg(script).arg(tools().join("node")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let orders = process.child().stdin.take().expect("its standard input is piped");
        let answers = BufReader::new(process.child().stdout.take().expect("its standard output is piped"));
        Self { orders, answers, _process: process }
    }

    fn verify(&mut self, issuer: &str, audience: &str, token: &str) -> Value {
        let order = json!({"op": "verify", "issuer": issuer, "audience": audience, "token": token});
        writeln!(self.orders, "{order}").expect("it runs as long as this value");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("its standard output can be read");
        let answer: Value = serde_json::from_str(&line).expect("it answers with JSON; see its message above, or run scripts/setup");
        assert_eq!(answer.get("error"), None, "{answer}");
        answer
    }
}

fn issuer(world: &World) -> String {
    format!("http://127.0.0.1:{}", world.http)
}

async fn federate(world: &World, caller: &Caller) -> String {
    let flags = Flags {
        addr: Some(format!("127.0.0.1:{}", world.grpc)),
        ca: Some(world.file("ca.pem")),
        cert: caller.pair.as_ref().map(|pair| pair.cert.clone()),
        key: caller.pair.as_ref().map(|pair| pair.key.clone()),
        ..Flags::default()
    };
    let token = caller.token.clone();
    let settings = Settings::load(flags, &|name| (name == "DAYPASS_TOKEN").then(|| token.clone().map(Into::into)).flatten()).unwrap();
    let order = IssueOrder {
        role: "federate".to_owned(),
        ttl: None,
        request_id: uuid::Builder::from_random_bytes(daypass::clock::random()).into_uuid().to_string(),
        input: OrderInput::Audience("demo".to_owned()),
    };
    let issued = Client::new(settings).unwrap().issue(order).await.unwrap();
    let Credential::Jwt(jwt) = issued.credential else { panic!("no JWT") };
    jwt.token.expose().to_owned()
}

fn kid(token: &str) -> String {
    parts(token).0["kid"].as_str().unwrap().to_owned()
}

/// Asks with a header of its own; gives the whole answer.
fn ask(world: &World, path: &str, header: &str) -> String {
    use std::io::Read;
    let mut tcp = std::net::TcpStream::connect(("127.0.0.1", world.http)).unwrap();
    write!(tcp, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn a_library_verifies_through_discovery_and_refuses_what_is_not_ours() {
    let (world, mut jose) = (World::start(), RelyingParty::start());
    let issuer = issuer(&world);
    let (operator, job) = (federate(&world, &world.operator()).await, federate(&world, &world.job()).await);
    let verified = jose.verify(&issuer, "demo", &operator);
    assert_eq!((&verified["claims"]["sub"], &verified["header"]["alg"]), (&json!("tenant:platform"), &json!("ES256")));
    assert_eq!(jose.verify(&issuer, "demo", &job)["claims"]["sub"], "tenant:widget");
    assert_eq!(jose.verify(&issuer, "other", &job)["refused"], "ERR_JWT_CLAIM_VALIDATION_FAILED");
    // A signature of one token under the claims of another.
    let (claims, signature) = (operator.rsplit_once('.').unwrap().0, job.rsplit_once('.').unwrap().1);
    assert_eq!(jose.verify(&issuer, "demo", &format!("{claims}.{signature}"))["refused"], "ERR_JWS_SIGNATURE_VERIFICATION_FAILED");
    // What is on record names the token and does not hold it.
    let records = world.records().iter().map(Value::to_string).collect::<String>();
    assert!(records.contains(parts(&job).1["jti"].as_str().unwrap()));
    assert!(!records.contains(job.rsplit_once('.').unwrap().1) && !world.log().contains(job.rsplit_once('.').unwrap().1));
}

#[tokio::test]
async fn documents_are_cached_by_their_tags_and_stand_under_the_issuers_path() {
    let mut world = World::start();
    for path in ["/.well-known/openid-configuration", "/jwks.json"] {
        let answer = ask(&world, path, "");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("application/json"), "{answer}");
        assert!(answer.contains("cache-control: public, max-age=1800\r\n"), "{answer}");
        let etag = answer.split("etag: ").nth(1).unwrap().split("\r\n").next().unwrap();
        for same in [etag.to_owned(), format!("W/{etag}"), "*".to_owned(), format!("\"x\", {etag}")] {
            let answer = ask(&world, path, &format!("If-None-Match: {same}\r\n"));
            assert!(answer.starts_with("HTTP/1.1 304") && answer.contains(etag) && answer.contains("max-age=1800"), "{same}: {answer}");
        }
        assert!(ask(&world, path, "If-None-Match: \"x\"\r\n").starts_with("HTTP/1.1 200"));
        assert_eq!(world.get(&format!("/ci{path}")).unwrap().0, 404);
    }
    // A path, taken up by a reload.
    let moved = format!("{}/ci", issuer(&world));
    world.reconfigure(|world| world.edit("daypass.toml", &format!("issuer = \"{}\"", issuer(world)), &format!("issuer = \"{moved}\"")));
    for path in ["/ci/.well-known/openid-configuration", "/ci/jwks.json", "/jwks.json"] {
        assert_eq!(world.get(path).unwrap().0, 200, "{path}");
    }
    let token = federate(&world, &world.operator()).await;
    assert_eq!(RelyingParty::start().verify(&moved, "demo", &token)["claims"]["iss"], moved);
    // Without [oidc] there is nothing.
    world.reconfigure(|world| {
        let text = world.read("daypass.toml");
        let (before, rest) = text.split_once("[oidc]").unwrap();
        let (_, after) = rest.split_once("# Whose client certificates").unwrap();
        let (kept, _) = after.split_once("# A JWT for others").unwrap();
        world.write("policy.cedar", &without_federate(&world.read("policy.cedar")));
        world.write("daypass.toml", &format!("{before}# Whose client certificates{kept}"));
    });
    let nothing = |world: &World| {
        for path in ["/.well-known/openid-configuration", "/jwks.json", "/ci/jwks.json"] {
            assert_eq!(world.get(path).unwrap().0, 404, "{path}");
        }
    };
    nothing(&world);
    // That is how a folder looks that was made before there was an issuer: it keeps working.
    world.stop();
    world.start_again();
    nothing(&world);
    world.lease(&world.operator(), "web");
}

/// The policies but for those that name the role.
fn without_federate(policy: &str) -> String {
    policy.split("\n\n").filter(|block| !block.contains("Role::\"federate\"")).collect::<Vec<_>>().join("\n\n")
}

#[tokio::test]
async fn keys_rotate_under_a_relying_party_with_a_cached_key_set() {
    let (world, mut jose) = (World::start(), RelyingParty::start());
    let issuer = issuer(&world);
    assert_eq!(ca(&world, &["prepare", "jwt"]).code, 0);
    let old = federate(&world, &world.operator()).await;
    // It fetches the key set once, and that has both keys.
    let first = jose.verify(&issuer, "demo", &old);
    assert_eq!(first["fetched"], 1);
    assert_eq!(ca(&world, &["activate", "jwt", "--force"]).code, 0);
    let new = federate(&world, &world.operator()).await;
    assert_ne!(kid(&new), kid(&old));
    let verified = jose.verify(&issuer, "demo", &new);
    assert_eq!((&verified["claims"]["sub"], &verified["fetched"]), (&json!("tenant:platform"), &json!(1)), "{verified}");
    assert_eq!(jose.verify(&issuer, "demo", &old)["claims"], first["claims"], "a token of the retired key");
    // Whoever fetches the set now still has the retired key, until it is taken out.
    assert_eq!(RelyingParty::start().verify(&issuer, "demo", &old)["claims"], first["claims"]);
    assert_eq!(ca(&world, &["retire", "jwt-1"]).code, 0);
    assert_eq!(RelyingParty::start().verify(&issuer, "demo", &old)["refused"], "ERR_JWKS_NO_MATCHING_KEY");
    assert_eq!(RelyingParty::start().verify(&issuer, "demo", &new)["claims"], verified["claims"]);
}

#[tokio::test]
async fn this_service_takes_its_own_tokens_where_it_is_told_to() {
    let world = World::start();
    let issuer = issuer(&world);
    let token = federate(&world, &world.operator()).await;
    let as_holder = |token: &str| world.cli(&Caller::token(token), ["issue", "web", "-o", "json"]);
    let refused = as_holder(&token);
    assert_ne!(refused.code, 0, "{refused:?}");
    world.reconfigure(|world| {
        world.append(
            "daypass.toml",
            &format!(
                "[[issuer]]\nname = \"self\"\nurl = \"{issuer}\"\naudiences = [\"demo\"]\nalgorithms = [\"ES256\"]\n\
                 allow_private_network = true\nclaims = [{{ name = \"tenant\", type = \"string\", required = true }}]\n\n\
                 [[tenant]]\nname = \"federated\"\nkind = \"team\"\n\
                 members = [{{ issuer = \"self\", claims = {{ tenant = \"platform\" }} }}]\n"
            ),
        );
        world.append(
            "policy.cedar",
            "@id(\"federated-web\")\npermit(principal is Token::self in Tenant::\"federated\", action == Action::\"issue\", \
             resource == Role::\"web\") when { principal.claims.tenant == \"platform\" };\n",
        );
    });
    let lease = as_holder(&token).json();
    assert_eq!(lease["lease"]["tenant"], "federated");
    assert_eq!(lease["lease"]["subject"], "oidc:self:tenant:platform");
    // The job's says another tenant, and the policy has nothing for it.
    let (code, _) = world.cli(&Caller::token(federate(&world, &world.job()).await), ["issue", "web", "-o", "json"]).error();
    assert_eq!(code, "NO_TENANT");
}
