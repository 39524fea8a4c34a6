//! What a token says, for whom, and what a retry and a renewal make of it.

use daypass::{
    issuer::{TokenSigner, jwt::MAX_TOKEN_LIFE},
    model::{
        SignedDuration,
        error::Code,
        lease::{Handle, Reach},
        request::Input,
    },
};
use serde_json::json;

use super::world::{ISSUER, World, audience, job, operator, parts, role, roles, token};

#[tokio::test]
async fn a_token_says_what_its_role_says() {
    let world = World::new();
    let issued = world.issue(&operator(), "plain", Input::None, None).await.unwrap();
    let (header, claims) = parts(&token(&issued));
    let kid = serde_json::from_str::<serde_json::Value>(&world.vend.jwks().unwrap().body).unwrap()["keys"][0]["kid"].clone();
    assert_eq!(header, json!({"alg": "ES256", "kid": kid, "typ": "JWT"}));
    let (id, start) = (issued.lease.id, world.now().as_second());
    let expected = json!({
        "iss": ISSUER, "sub": "tenant:ops", "aud": "demo", "jti": format!("{id}.1"),
        "iat": start, "nbf": start - 30, "exp": start + 900, "lease": id.to_string(), "role": "plain",
    });
    assert_eq!(claims, expected);
    assert_eq!((issued.lease.reach, issued.lease.expires_at.as_second()), (Reach::Expiry, start + 900));
    assert_eq!(issued.lease.live_until, issued.lease.expires_at);
    let Handle::Jwt { jti, aud, .. } = &issued.lease.handle else { panic!("another handle") };
    assert_eq!((jti.as_str(), aud.as_str()), (claims["jti"].as_str().unwrap(), "demo"));
    assert_eq!(world.verify(&token(&issued), "demo").await.unwrap().sub, "tenant:ops");
    assert_eq!(world.verify(&token(&issued), "other").await.unwrap_err().code(), Code::TokenAudience);
}

#[tokio::test]
async fn a_spiffe_id_makes_it_a_jwt_svid() {
    let world = World::new();
    let issued = world.issue(&job("widget"), "svid", Input::None, None).await.unwrap();
    let (_, claims) = parts(&token(&issued));
    assert_eq!(claims["sub"], "spiffe://example.org/jobs/widget");
    // JWT-SVID section 3: one audience, and an expiry.
    assert_eq!(claims["aud"], "spiffe://example.org/server");
    assert!(claims["exp"].is_i64());
    for hostile in ["a/b", "..", ".", "", "a b", "a%2fb", "ä", "a?b", "a#b", "*"] {
        let refused = world.issue(&job(hostile), "svid", Input::None, None).await.err().expect(hostile);
        assert_eq!(refused.code(), Code::ClaimNotUsable, "{hostile}");
    }
    assert_eq!(world.leases().await.len(), 1);
}

#[tokio::test]
async fn no_claim_makes_a_sub_more_than_it_is() {
    let world = World::new();
    let sub = async |call| world.issue(&call, "raw", Input::None, None).await.map(|issued| parts(&token(&issued)).1["sub"].clone());
    assert_eq!(sub(job("acme/widget")).await.unwrap(), "acme/widget");
    for hostile in
        ["spiffe://example.org/admin", "SPIFFE://example.org/admin", "spiffe:x", "a\"b", "a\\b", "a\nb", "\u{202e}x", &"a".repeat(256)]
    {
        assert_eq!(sub(job(hostile)).await.unwrap_err().code(), Code::ClaimNotUsable, "{hostile:?}");
    }
    // A certificate has no claims.
    let refused = world.issue(&operator(), "repo", Input::None, None).await.err().unwrap();
    assert_eq!(refused.code(), Code::ClaimNotUsable);
    assert!(refused.public().contains("repository"), "{refused}");
}

#[tokio::test]
async fn the_audience_is_one_of_the_roles() {
    let world = World::new();
    let aud = async |role, input| world.issue(&operator(), role, input, None).await.map(|issued| parts(&token(&issued)).1["aud"].clone());
    assert_eq!(aud("plain", audience("demo")).await.unwrap(), "demo");
    assert_eq!(aud("many", audience("https://two.example.org")).await.unwrap(), "https://two.example.org");
    // Clients send a CSR whatever the kind.
    assert_eq!(aud("plain", Input::X509 { csr_der: vec![1] }).await.unwrap(), "demo");
    for (role, input, says) in [
        ("many", Input::None, "ask for one of \"one\", \"https://two.example.org\""),
        ("many", Input::X509 { csr_der: vec![1] }, "ask for one of \"one\", \"https://two.example.org\""),
        ("many", audience("three"), "no audience \"three\"; it has \"one\", \"https://two.example.org\""),
        ("plain", audience("DEMO"), "it has \"demo\""),
        ("plain", audience(""), "it has \"demo\""),
    ] {
        let refused = aud(role, input).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidRequest);
        assert!(refused.public().contains(says), "{refused}");
    }
}

#[tokio::test]
async fn a_retry_gets_the_same_claims_and_nothing_else_does() {
    let world = World::new();
    let first = world.issue(&job("widget"), "repo", Input::None, Some("r")).await.unwrap();
    world.forward(SignedDuration::from_secs(5));
    let again = world.issue(&job("widget"), "repo", audience("demo"), Some("r")).await.unwrap();
    assert_eq!((again.lease.id, parts(&token(&again))), (first.lease.id, parts(&token(&first))));
    assert_eq!(world.leases().await.len(), 1);

    // The same caller by name, with another claim; another role; a role that says something else now.
    let other = async |call, role| world.issue(&call, role, Input::None, Some("r")).await.err().expect("it is another request").code();
    assert_eq!(other(job("gadget"), "repo").await, Code::RequestIdReused);
    assert_eq!(other(job("widget"), "raw").await, Code::RequestIdReused);
    let changed = role("repo", &["demo"], "repo:{claims.repository}", &[("repository", "{claims.repository}"), ("more", "x")]);
    world.replace_roles(vec![changed]);
    assert_eq!(other(job("widget"), "repo").await, Code::RequestIdReused);
    world.replace_roles(vec![role("repo", &["demo", "second"], "repo:{claims.repository}", &[("repository", "{claims.repository}")])]);
    let refused = world.issue(&job("widget"), "repo", audience("second"), Some("r")).await.err().unwrap();
    assert_eq!(refused.code(), Code::RequestIdReused);
    // A new key changes nothing of what it says.
    world.replace_roles(roles());
    let first = world.issue(&job("widget"), "repo", Input::None, Some("s")).await.unwrap();
    world.next_key();
    let again = world.issue(&job("widget"), "repo", Input::None, Some("s")).await.unwrap();
    let ((one, said), (two, says)) = (parts(&token(&first)), parts(&token(&again)));
    assert_eq!(said, says);
    assert_ne!(one["kid"], two["kid"]);
}

#[tokio::test]
async fn a_renewal_is_a_new_token_for_the_same_audience() {
    let world = World::new();
    let call = operator();
    let first = world.issue(&call, "many", audience("one"), Some("r")).await.unwrap();
    let id = first.lease.id;
    for generation in 2..=4 {
        world.forward(SignedDuration::from_mins(10));
        let renewed = world.renew(&call, id, Input::None).await.unwrap();
        let (_, claims) = parts(&token(&renewed));
        let now = world.now().as_second();
        assert_eq!((&claims["jti"], &claims["aud"]), (&json!(format!("{id}.{generation}")), &json!("one")));
        assert_eq!((&claims["iat"], &claims["exp"]), (&json!(now), &json!(now + 900)));
        assert_eq!((renewed.lease.generation, renewed.lease.live_until.as_second()), (generation, now + 900));
        world.verify(&token(&renewed), "one").await.unwrap();
    }
    let refused = world.renew(&call, id, audience("https://two.example.org")).await.err().unwrap();
    assert_eq!(refused.code(), Code::InvalidRequest);
    let refused = world.issue(&call, "many", audience("one"), Some("r")).await.err().unwrap();
    assert_eq!(refused.code(), Code::RequestIdReused);
    world.replace_roles(vec![role("many", &["two"], "tenant:{tenant}", &[])]);
    let refused = world.renew(&call, id, Input::None).await.err().unwrap();
    assert_eq!(refused.code(), Code::NotRenewable);
    assert!(refused.public().contains("\"one\""), "{refused}");
}

#[tokio::test]
async fn nothing_is_signed_with_keys_that_may_be_old() {
    let world = World::new();
    world.issue(&operator(), "plain", Input::None, None).await.unwrap();
    // Half of publish_ahead without a look at the directory: another server's key may be the one that signs soon.
    world.forward_without_pass(SignedDuration::from_mins(30));
    world.issue(&operator(), "plain", Input::None, None).await.unwrap();
    world.forward_without_pass(SignedDuration::from_secs(1));
    let refused = world.issue(&operator(), "plain", Input::None, None).await.err().unwrap();
    assert_eq!(refused.code(), Code::IssuerUnavailable);
    assert_eq!(world.leases().await.len(), 2);
    // A cache may believe such a key set for less long, and in the end not at all.
    assert_eq!(world.vend.jwks().unwrap().max_age, 30 * 60 - 1);
    world.forward_without_pass(SignedDuration::from_hours(1));
    assert_eq!(world.vend.jwks().unwrap().max_age, 0);
    world.forward(SignedDuration::from_secs(1));
    world.issue(&operator(), "plain", Input::None, None).await.unwrap();
    assert_eq!(world.vend.jwks().unwrap().max_age, 30 * 60);
}

#[tokio::test]
async fn the_documents_say_what_relying_parties_need() {
    let world = World::new();
    let discovery = world.vend.oidc_discovery().unwrap();
    let body: serde_json::Value = serde_json::from_str(&discovery.body).unwrap();
    assert_eq!(body["issuer"], ISSUER);
    assert_eq!(body["jwks_uri"], format!("{ISSUER}/jwks.json"));
    assert_eq!(body["response_types_supported"], json!(["id_token"]));
    assert_eq!(body["subject_types_supported"], json!(["public"]));
    assert_eq!(body["id_token_signing_alg_values_supported"], json!(["ES256"]));
    assert!(body["claims_supported"].as_array().unwrap().contains(&json!("repository")));
    assert_eq!((discovery.path.as_str(), discovery.max_age), ("/ci/.well-known/openid-configuration", 1800));
    let jwks = world.vend.jwks().unwrap();
    assert_eq!(jwks.path, "/ci/jwks.json");
    let keys: serde_json::Value = serde_json::from_str(&jwks.body).unwrap();
    let key = keys["keys"][0].as_object().unwrap();
    let mut members: Vec<&str> = key.keys().map(String::as_str).collect();
    members.sort_unstable();
    // Nothing of the private half.
    assert_eq!(members, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    assert_eq!((&key["use"], &key["alg"]), (&json!("sig"), &json!("ES256")));
    assert_eq!(world.vend.jwks().unwrap(), jwks);
}

#[tokio::test]
async fn other_issuers_get_tokens_signed() {
    let world = World::new();
    let (rules, now) = (world.vend.rules(), world.now());
    let signer: &dyn TokenSigner = &*rules.issuers.jwt;
    assert_eq!(signer.issuer(), ISSUER);
    let sign = |claims: serde_json::Value| {
        let serde_json::Value::Object(claims) = claims else { panic!("claims are an object") };
        signer.sign(claims, now)
    };
    let start = now.as_second();
    let good = json!({"sub": "daypass", "aud": "sts.amazonaws.com", "iat": start, "exp": start + 300});
    let signed = sign(good.clone()).unwrap();
    assert_eq!(parts(signed.expose()).1["iss"], ISSUER);
    assert_eq!(world.verify(signed.expose(), "sts.amazonaws.com").await.unwrap().sub, "daypass");
    let longest = MAX_TOKEN_LIFE.as_secs();
    for (name, value) in [
        ("exp", json!(null)),
        ("exp", json!(start)),
        ("exp", json!(start + longest + 1)),
        ("exp", json!("soon")),
        ("iss", json!("https://other.example.org")),
        ("sub", json!(null)),
        ("aud", json!(["a", "b"])),
    ] {
        let mut bad = good.clone();
        bad[name] = value;
        assert_eq!(sign(bad).expect_err(name).code(), Code::Internal, "{name}");
    }
}
