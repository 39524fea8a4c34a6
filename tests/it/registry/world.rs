//! The throwaway world with leases of the role `push`, and a plain HTTP client that can also say what no client should.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use daypass::{
    client::{
        Client,
        settings::{Flags, Settings},
        types::{Credential, IssueOrder, Issued, OrderInput, RenewOrder},
    },
    model::SignedDuration,
};
use serde_json::Value;

use crate::e2e::world::World;

/// The `service` of the throwaway registry.
pub const SERVICE: &str = "registry.dev.daypass.test";

/// A lease of a registry, and what opens it.
#[derive(Debug, Clone)]
pub struct Login {
    pub lease: String,
    pub user: String,
    pub secret: String,
}

impl Login {
    fn of(issued: Issued) -> Self {
        let Credential::Registry(credential) = issued.credential else { panic!("another kind of credential") };
        assert_eq!((credential.registry.as_str(), credential.username.as_str()), ("127.0.0.1:5000", issued.lease.id.as_str()));
        assert_eq!(credential.expires_at, issued.lease.expires_at);
        Self { lease: issued.lease.id, user: credential.username, secret: credential.secret.expose().to_owned() }
    }

    /// For skopeo.
    pub fn pair(&self) -> Option<(&str, &str)> {
        Some((&self.user, &self.secret))
    }

    /// For HTTP.
    pub fn basic(&self) -> String {
        basic(&self.user, &self.secret)
    }
}

pub fn basic(user: &str, secret: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{secret}")))
}

/// Issues a lease of a role of kind registry to the operator.
pub fn login(world: &World, role: &str) -> Login {
    login_for(world, role, None)
}

pub fn login_for(world: &World, role: &str, ttl: Option<SignedDuration>) -> Login {
    let order = IssueOrder {
        role: role.to_owned(),
        ttl,
        request_id: uuid::Uuid::from_bytes(daypass::clock::random()).to_string(),
        input: OrderInput::Csr(Vec::new()),
    };
    with_client(world, async |client| Login::of(client.issue(order).await.unwrap()))
}

pub fn renew(world: &World, login: &Login) -> Result<Login, String> {
    let order = RenewOrder { lease_id: login.lease.clone(), ttl: None, input: OrderInput::Csr(Vec::new()) };
    with_client(world, async |client| client.renew(order).await.map(Login::of).map_err(|error| error.to_string()))
}

pub fn revoke(world: &World, login: &Login) -> daypass::client::types::Lease {
    with_client(world, async |client| client.revoke(&login.lease, "a test").await.unwrap())
}

fn with_client<T>(world: &World, work: impl AsyncFnOnce(&mut Client) -> T) -> T {
    let pair = world.operator().pair.expect("the operator has a certificate");
    let env = |name: &str| match name {
        "DAYPASS_ADDR" => Some(format!("127.0.0.1:{}", world.grpc).into()),
        "DAYPASS_CA" => Some(world.file("ca.pem").into()),
        "DAYPASS_CERT" => Some(pair.cert.clone().into()),
        "DAYPASS_KEY" => Some(pair.key.clone().into()),
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Client::new(Settings::load(Flags::default(), &env).unwrap()).unwrap();
        work(&mut client).await
    })
}

/// A lease of another kind, and its id as a user name.
pub fn x509_lease(world: &World) -> String {
    world.lease(&world.operator(), "web")
}

/// What the HTTP port answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// The names of what it says, in order.
    pub fn keys(&self) -> Vec<String> {
        self.json().as_object().unwrap().keys().cloned().collect()
    }

    /// The claims of its token, unverified.
    pub fn claims(&self) -> Value {
        claims(self.json()["access_token"].as_str().expect("a token"))
    }
}

/// The claims of a token, unverified.
pub fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a JWT has three parts");
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// `GET /token?QUERY` with more header lines.
pub fn get(world: &World, query: &str, headers: &str) -> Answer {
    send(world, &format!("GET /token?{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"), b"")
}

/// `POST /token` with a form.
pub fn post(world: &World, form: &str) -> Answer {
    let head = format!(
        "POST /token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n",
        form.len()
    );
    send(world, &head, form.as_bytes())
}

/// The same in chunks of one byte, and without a length.
pub fn post_chunked(world: &World, form: &str) -> Answer {
    let head = "POST /token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    let body: String = form.chars().map(|c| format!("1\r\n{c}\r\n")).chain(["0\r\n\r\n".to_owned()]).collect();
    send(world, head, body.as_bytes())
}

/// Sends bytes as they are. A server that has heard enough answers before it has read all.
pub fn send(world: &World, head: &str, body: &[u8]) -> Answer {
    let mut tcp = TcpStream::connect(("127.0.0.1", world.http)).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    tcp.write_all(head.as_bytes()).unwrap();
    let _heard_enough = tcp.write_all(body);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = tcp.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..length]);
    }
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}
