//! No two identities collide: not over case, spaces, Unicode, prefixes, or the kind of proof.

use std::{collections::BTreeMap, sync::OnceLock};

use daypass::{
    authn::{
        mtls::TrustStore,
        oidc::{Algorithm, IssuerConfig, KeySource, TokenVerifier},
    },
    model::identity::CertificateIdentity,
};
use proptest::prelude::*;
use serde_json::json;

use super::{
    certs::{self, Authority, dns, domain, leaf, named, uri},
    jose::keys,
    tokens::{AUDIENCE, at, now, run, write_keys},
};

const ISSUERS: [&str; 4] = ["a", "a-b", "oidc", "dns"];

fn verifier() -> &'static TokenVerifier {
    static VERIFIER: OnceLock<(TokenVerifier, tempfile::NamedTempFile)> = OnceLock::new();
    &VERIFIER
        .get_or_init(|| {
            let file = write_keys(&json!({"keys": [keys().ed25519.named("ed", "EdDSA")]}));
            let issuers = ISSUERS.map(|name| {
                let mut config = IssuerConfig::new(
                    name.parse().unwrap(),
                    format!("https://{name}.example.org"),
                    vec![AUDIENCE.to_owned()],
                    vec![Algorithm::EdDsa],
                );
                config.keys = KeySource::File(file.path().to_owned());
                config
            });
            (TokenVerifier::new(issuers.into(), now()).unwrap(), file)
        })
        .0
}

fn token(issuer: &str, sub: &str, jti: Option<&str>) -> String {
    let mut payload = json!({"iss": format!("https://{issuer}.example.org"), "aud": AUDIENCE, "sub": sub, "iat": at(0), "exp": at(60)});
    if let Some(jti) = jti {
        payload["jti"] = json!(jti);
    }
    keys().ed25519.token(&json!({"alg": "EdDSA", "kid": "ed"}), &payload)
}

/// Texts that a careless normalisation would make one.
fn tricky() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "A",
        "a-b",
        "b",
        ":",
        "::",
        "/",
        " ",
        "  ",
        "\u{a0}",
        "\u{3000}",
        "\u{200b}",
        "e\u{301}",
        "\u{e9}",
        "\u{130}",
        "i",
        "I",
        "\u{131}",
        "ß",
        "ss",
        "ﬁ",
        "fi",
        "\u{430}",
        "Ａ",
        "%61",
        "%3A",
        "+",
        "*",
        ",",
        "repo:",
        "dns:",
        "cn:",
        "spiffe://",
        "example.org",
        ".",
        "..",
    ]);
    prop::collection::vec(piece, 1..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn two_tokens_have_one_subject_only_with_one_issuer_and_one_sub(
        (one, two) in (0..4_usize, 0..4_usize),
        (sub, other) in tricky().prop_flat_map(|sub| {
            let variants = vec![sub.clone(), sub.to_uppercase(), sub.to_lowercase(), format!("{sub} "), format!(" {sub}"), format!("{sub}\u{200b}"), format!("b:{sub}")];
            (Just(sub), prop_oneof![prop::sample::select(variants), tricky()])
        }),
    ) {
        let identify = |issuer: usize, sub: &str| run(verifier().verify(&token(ISSUERS[issuer], sub, None), now())).unwrap();
        let (first, second) = (identify(one, &sub), identify(two, &other));
        prop_assert_eq!(first.subject == second.subject, one == two && sub == other);
        prop_assert_eq!(first.token_id == second.token_id, one == two && sub == other);
        prop_assert_eq!(first.sub, sub);
    }

    #[test]
    fn two_tokens_have_one_id_only_with_one_issuer_and_one_jti((one, two) in (0..4_usize, 0..4_usize), jti in tricky(), other in tricky()) {
        let identify = |issuer: usize, jti: &str| run(verifier().verify(&token(ISSUERS[issuer], "s", Some(jti)), now())).unwrap().token_id;
        prop_assert_eq!(identify(one, &jti) == identify(two, &other), one == two && jti == other);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever certificates and tokens say, what they are called tells them apart.
    #[test]
    fn subjects_of_all_kinds_differ(texts in prop::collection::vec(tricky(), 4..12)) {
        let (store, authorities) = trust();
        let mut owners: BTreeMap<String, (String, String)> = BTreeMap::new();
        let mut claim = |subject: String, owner: (String, String)| {
            let before = owners.insert(subject.clone(), owner.clone());
            prop_assert!(before.as_ref().is_none_or(|before| *before == owner), "{subject:?} is {before:?} and {owner:?}");
            Ok(())
        };
        for text in &texts {
            for issuer in ISSUERS {
                let token = run(verifier().verify(&token(issuer, text, None), now())).unwrap();
                claim(token.subject.to_string(), (format!("token of {issuer}"), text.clone()))?;
            }
            if !text.is_ascii() {
                continue;
            }
            for (kind, ca) in authorities {
                let params = match *kind {
                    "spiffe" => leaf(vec![uri(&format!("spiffe://{kind}.example/{text}"))]),
                    "dns" => leaf(vec![dns(text)]),
                    _ => named(text.as_str()),
                };
                if let Ok(peer) = store.verify(&ca.leaf(&params).chain, certs::now()) {
                    claim(peer.subject.to_string(), (format!("certificate of {kind}"), text.clone()))?;
                }
            }
        }
    }
}

fn trust() -> &'static (TrustStore, Vec<(&'static str, Authority)>) {
    static TRUST: OnceLock<(TrustStore, Vec<(&'static str, Authority)>)> = OnceLock::new();
    TRUST.get_or_init(|| {
        let kinds = [("spiffe", CertificateIdentity::Spiffe), ("dns", CertificateIdentity::Dns), ("cn", CertificateIdentity::Cn)];
        let authorities: Vec<_> = kinds.iter().map(|(name, _)| (*name, Authority::new(name))).collect();
        let configs =
            kinds.iter().zip(&authorities).map(|((name, mapping), (_, ca))| domain(&format!("{name}.example"), ca, *mapping)).collect();
        (TrustStore::new(configs).unwrap(), authorities)
    })
}
