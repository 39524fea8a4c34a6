//! A JWT lease: made here, the same again for a retry, beyond the reach of a revoke.

use daypass::model::{
    SignedDuration,
    credential::Credential,
    error::Code,
    lease::{LeaseState, Reach},
    request::{Input, IssueRequest, RequestId},
};
use daypass::vend::Issued;

use super::world::{World, operator};

impl World {
    async fn federate(&self, audience: &str, request_id: Option<&str>) -> daypass::model::error::Result<Issued> {
        let request = IssueRequest {
            role: "federate".parse().unwrap(),
            ttl: None,
            request_id: request_id.map(|id| RequestId::try_from(id.to_owned()).unwrap()),
            input: Input::Jwt { audience: audience.to_owned() },
        };
        self.vend.issue(&operator(), request).await
    }
}

fn claims(issued: &Issued) -> serde_json::Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let Credential::Jwt(jwt) = &issued.credential else { panic!("no JWT") };
    let payload = jwt.token.expose().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_is_one_lease_and_its_retry_says_the_same() {
    let world = World::new();
    let first = world.federate("demo", Some("step")).await.unwrap();
    world.clock.forward(SignedDuration::from_secs(2));
    let again = world.federate("demo", Some("step")).await.unwrap();
    assert_eq!(first.lease.id, again.lease.id);
    assert_eq!(claims(&first), claims(&again));
    assert_eq!(claims(&first)["jti"], first.lease.handle.credential_id());
    let other = world.federate("other", Some("step")).await.err().expect("another audience");
    assert_eq!(other.code(), Code::RequestIdReused);
    assert_eq!(world.leases().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_jwt_lives_on_and_its_lease_says_so() {
    let world = World::new();
    let issued = world.federate("demo", None).await.unwrap();
    let revoked = world.vend.revoke(&operator(), issued.lease.id, "").await.unwrap();
    assert_eq!((revoked.state, revoked.reach, revoked.live_until), (LeaseState::Revoked, Reach::Expiry, issued.lease.expires_at));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_verifies_jwts_is_served() {
    let world = World::new();
    let issued = world.federate("demo", None).await.unwrap();
    let discovery: serde_json::Value = serde_json::from_str(&world.vend.oidc_discovery().unwrap().body).unwrap();
    assert_eq!(discovery["issuer"], claims(&issued)["iss"]);
    let keys: serde_json::Value = serde_json::from_str(&world.vend.jwks().unwrap().body).unwrap();
    assert!(!keys["keys"].as_array().unwrap().is_empty());
}
