//! At least 120 named bad tokens for each preset: a good token, one thing changed, refused for it.

use std::collections::BTreeSet;

use daypass::{
    authn::oidc::{MAX_JTI, MAX_KID, MAX_SUB, MAX_TOKEN, PRESETS},
    model::{claim::ClaimType, error::Code},
};
use serde_json::{Value, json};

use super::{
    jose::{Signer, b64, hmac_token, keys},
    tokens::{AUDIENCE, CANARY, World, at, remove, set, world},
};

struct Case {
    name: String,
    token: String,
    code: Code,
}

struct Table<'w> {
    world: &'w World,
    cases: Vec<Case>,
}

impl Table<'_> {
    fn add(&mut self, name: impl Into<String>, token: impl Into<String>) {
        self.coded(name, token, Code::Unauthenticated);
    }

    fn coded(&mut self, name: impl Into<String>, token: impl Into<String>, code: Code) {
        self.cases.push(Case { name: name.into(), token: token.into(), code });
    }

    /// A good token but for one header parameter, signed rightly.
    fn header(&mut self, name: impl Into<String>, parameter: &str, value: Value) {
        self.header_by(name, parameter, value, &keys().main);
    }

    fn header_by(&mut self, name: impl Into<String>, parameter: &str, value: Value, signer: &Signer) {
        let mut header = self.world.header();
        header[parameter] = value;
        self.add(name, signer.token(&header, &self.world.payload()));
    }

    /// A good token but for one claim, signed rightly.
    fn claim(&mut self, name: impl Into<String>, claim: &str, value: Value) {
        self.claim_coded(name, claim, value, Code::Unauthenticated);
    }

    fn claim_coded(&mut self, name: impl Into<String>, claim: &str, value: Value, code: Code) {
        let mut payload = self.world.payload();
        payload[claim] = value;
        self.coded(name, keys().main.token(&self.world.header(), &payload), code);
    }

    fn without(&mut self, claim: &str, code: Code) {
        let mut payload = self.world.payload();
        remove(&mut payload, &[claim.to_owned()]);
        self.coded(format!("{claim} missing"), keys().main.token(&self.world.header(), &payload), code);
    }

    fn raw_payload(&mut self, name: impl Into<String>, payload: impl AsRef<[u8]>) {
        self.add(name, keys().main.bytes(self.world.header().to_string().as_bytes(), payload.as_ref()));
    }

    fn raw_header(&mut self, name: impl Into<String>, header: impl AsRef<[u8]>) {
        self.add(name, keys().main.bytes(header.as_ref(), self.world.payload().to_string().as_bytes()));
    }
}

fn table(world: &World) -> Vec<Case> {
    let mut table = Table { world, cases: Vec::new() };
    forms(&mut table);
    json_tricks(&mut table);
    algorithms(&mut table);
    key_ids(&mut table);
    header_parameters(&mut table);
    signatures(&mut table);
    issuers(&mut table);
    audiences(&mut table);
    times(&mut table);
    subjects(&mut table);
    configured_claims(&mut table);
    table.cases
}

fn forms(table: &mut Table<'_>) {
    let good = table.world.good();
    let [header, payload, signature]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    table.add("empty", "");
    table.add("one segment", header);
    table.add("two segments", format!("{header}.{payload}"));
    table.add("four segments", format!("{good}.{signature}"));
    table.add("five segments, a JWE", format!("{header}.{payload}.{signature}.{payload}.{signature}"));
    table.add("only dots", "..");
    table.add("no header", format!(".{payload}.{signature}"));
    table.add("no payload", format!("{header}..{signature}"));
    table.add("no signature", format!("{header}.{payload}."));
    table.add("JSON flattened serialization", json!({"protected": header, "payload": payload, "signature": signature}).to_string());
    table.add(
        "JSON general serialization",
        json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]}).to_string(),
    );
    table.add("header padded", format!("{header}=.{payload}.{signature}"));
    table.add("payload padded", format!("{header}.{payload}==.{signature}"));
    table.add("signature padded", format!("{good}=="));
    table.add("signature in standard base64", format!("{header}.{payload}.+/{}", &signature[2..]));
    table.add("header in standard base64", format!("+/{header}.{payload}.{signature}"));
    table.add("leading space", format!(" {good}"));
    table.add("trailing space", format!("{good} "));
    table.add("trailing newline", format!("{good}\n"));
    table.add("newline within", format!("{header}.\n{payload}.{signature}"));
    table.add("trailing NUL", format!("{good}\0"));
    table.add("trailing dot", format!("{good}."));
    table.add("leading dot", format!(".{good}"));
    table.add("dots percent-encoded", good.replace('.', "%2E"));
    table.add("quoted", format!("\"{good}\""));
    table.add("with its scheme", format!("Bearer {good}"));
    table.add("twice with a comma", format!("{good},{good}"));
    table.add("not ASCII", format!("{good}ä"));
    table.add("full-width dot", good.replace('.', "\u{ff0e}"));
    table.add("1 MB", format!("{header}.{}.{signature}", "A".repeat(1 << 20)));
    table.add("one byte too long", format!("{header}.{}.{signature}", "A".repeat(MAX_TOKEN + 1 - header.len() - signature.len() - 2)));
    table.add("1 MB of dots", ".".repeat(1 << 20));
    let mut long = table.world.payload();
    long["padding"] = json!("x".repeat(MAX_TOKEN));
    table.add("valid but too long", keys().main.token(&table.world.header(), &long));
}

fn json_tricks(table: &mut Table<'_>) {
    let header = table.world.header().to_string();
    let payload = table.world.payload().to_string();
    let (header_body, payload_body) = (&header[1..], &payload[1..]);
    table.raw_header("header is not JSON", "alg=RS256");
    table.raw_header("header is an array", format!("[{header}]"));
    table.raw_header("header is a string", "\"RS256\"");
    table.raw_header("header is null", "null");
    table.raw_header("header with a BOM", format!("\u{feff}{header}"));
    table.raw_header("header not UTF-8", b"{\"alg\":\"RS256\",\"kid\":\"\xff\"}");
    table.raw_header("header with something after it", format!("{header}{header}"));
    table.raw_header("header with alg twice, none first", format!(r#"{{"alg":"none",{header_body}"#));
    table.raw_header("header with alg twice, equal", format!(r#"{{"alg":"RS256",{header_body}"#));
    table.raw_header("header with alg twice, escaped", format!(r#"{{"\u0061lg":"none",{header_body}"#));
    table.raw_header("header with kid twice", format!(r#"{{"kid":"second",{header_body}"#));
    table.raw_header("header with typ twice", format!(r#"{{"typ":"JWT",{header_body}"#));
    table.raw_header("header nested too deep", format!(r#"{{"x":{}1{},{header_body}"#, "[".repeat(64), "]".repeat(64)));
    table.raw_header("header with a trailing comma", header.replace('}', ",}"));
    table.raw_payload("payload is not JSON", "iss=me");
    table.raw_payload("payload is an array", format!("[{payload}]"));
    table.raw_payload("payload is a string", "\"x\"");
    table.raw_payload("payload is a number", "1");
    table.raw_payload("payload is null", "null");
    table.raw_payload("payload is an empty object", "{}");
    table.raw_payload("payload with a BOM", format!("\u{feff}{payload}"));
    table.raw_payload("payload not UTF-8", [b"{\"x\":\"\xff\",".as_slice(), payload_body.as_bytes()].concat());
    table.raw_payload("payload with something after it", format!("{payload}x"));
    table.raw_payload("payload with a second document", format!("{payload}{payload}"));
    table.raw_payload("payload with a comment", format!("/**/{payload}"));
    table.raw_payload("payload in single quotes", payload.replace('"', "'"));
    table.raw_payload("payload with a lone surrogate", format!(r#"{{"x":"\ud800",{payload_body}"#));
    table.raw_payload("payload with a raw control character", format!("{{\"x\":\"\u{1}\",{payload_body}"));
    table.raw_payload("payload nested too deep", format!(r#"{{"x":{}1{},{payload_body}"#, "[".repeat(64), "]".repeat(64)));
    table.raw_payload("payload nested until a parser breaks", format!("{{\"x\":{}", "[".repeat(9_000)));
    table.raw_payload("payload with too many values", format!(r#"{{"x":[{}],{payload_body}"#, vec!["0"; 4_200].join(",")));
    let members: String = (0..200).map(|i| format!("\"{i}\":0,")).collect();
    table.raw_payload("payload with too many members", format!("{{{members}{payload_body}"));
    table.raw_payload("a nested member twice", format!(r#"{{"x":{{"a":1,"a":2}},{payload_body}"#));
    table.raw_payload("a member in an array twice", format!(r#"{{"x":[{{"a":1,"a":2}}],{payload_body}"#));
    for claim in ["iss", "aud", "sub", "exp", "iat", "nbf", "jti"] {
        let value = table.world.payload()[claim].to_string();
        table.raw_payload(format!("{claim} twice, equal"), format!(r#"{{"{claim}":{value},{payload_body}"#));
        table.raw_payload(format!("{claim} twice, different"), format!(r#"{{"{claim}":"x",{payload_body}"#));
        let escaped = format!("\\u{:04x}{}", u32::from(claim.as_bytes()[0]), &claim[1..]);
        table.raw_payload(format!("{claim} twice, escaped"), format!(r#"{{"{escaped}":{value},{payload_body}"#));
    }
}

fn algorithms(table: &mut Table<'_>) {
    let (world, keys) = (table.world, keys());
    for none in ["none", "None", "NONE", "nOnE", "none ", "\u{fb01}none"] {
        let mut header = world.header();
        header["alg"] = none.into();
        let signed = format!("{}.{}", b64(header.to_string()), b64(world.payload().to_string()));
        table.add(format!("alg {none:?} without a signature"), format!("{signed}."));
        table.add(format!("alg {none:?} with a signature"), keys.main.token(&header, &world.payload()));
    }
    let modulus = keys.main.jwk()["n"].as_str().unwrap().to_owned();
    let jwk = keys.main.named("main", "RS256").to_string();
    for alg in ["HS256", "HS384", "HS512"] {
        let mut header = world.header();
        header["alg"] = alg.into();
        for (what, secret) in
            [("modulus", modulus.as_bytes()), ("JWK", jwk.as_bytes()), ("empty secret", b"".as_slice()), ("oct key", b"secret")]
        {
            table.add(format!("RS to {alg} with the {what}"), hmac_token(alg, secret, &header, &world.payload()));
        }
        header["kid"] = "oct".into();
        table.add(format!("{alg} with the published oct key"), hmac_token(alg, b"secret", &header, &world.payload()));
    }
    for (name, alg, kid, signer) in [
        ("RS384, not configured", "RS384", "main", &keys.main),
        ("RS512, not configured", "RS512", "main", &keys.main),
        ("PS256, not configured", "PS256", "main", &keys.main),
        ("EdDSA, not configured", "EdDSA", "ed25519", &keys.ed25519),
        ("RS256 with an EC key's kid", "RS256", "p256", &keys.p256),
        ("RS256 with an Ed25519 key's kid", "RS256", "ed25519", &keys.ed25519),
        ("ES256 with an RSA key's kid", "ES256", "main", &keys.main),
        ("ES256 with the P-384 key", "ES256", "p384", &keys.p384),
        ("ES384 with the P-256 key", "ES384", "p256", &keys.p256),
        ("ES256 with the Ed25519 key", "ES256", "ed25519", &keys.ed25519),
        ("EdDSA with the P-256 key", "EdDSA", "p256", &keys.p256),
        ("RS256 under 2048 bits", "RS256", "weak", &keys.weak),
        ("RS256 with the key for encryption", "RS256", "enc", &keys.attacker),
    ] {
        table.add(format!("alg {name}"), signer.token(&json!({"typ": "JWT", "alg": alg, "kid": kid}), &world.payload()));
    }
    for alg in [
        "rs256",
        "Rs256",
        "RS256 ",
        " RS256",
        "RS1",
        "PS384",
        "PS512",
        "ES512",
        "ES256K",
        "Ed25519",
        "RSA1_5",
        "dir",
        "A128KW",
        "",
        "RS256,none",
    ] {
        table.header(format!("alg {alg:?}"), "alg", alg.into());
    }
    for (name, alg) in [
        ("null", json!(null)),
        ("a number", json!(256)),
        ("an array", json!(["RS256"])),
        ("an object", json!({"RS256": 1})),
        ("true", json!(true)),
    ] {
        table.header(format!("alg {name}"), "alg", alg);
    }
    table.add("alg missing", keys.main.token(&json!({"typ": "JWT", "kid": "main"}), &world.payload()));
    // What the header says is not what was done.
    let signed = format!("{}.{}", b64(world.header().to_string()), b64(world.payload().to_string()));
    for done in ["PS256", "RS384", "RS512"] {
        table.add(format!("alg says RS256, signed with {done}"), format!("{signed}.{}", b64(keys.main.sign(done, signed.as_bytes()))));
    }
}

fn key_ids(table: &mut Table<'_>) {
    for (name, kid) in [
        ("unknown", json!("nobody")),
        ("of another key of the issuer", json!("second")),
        ("in other case", json!("MAIN")),
        ("with a space after it", json!("main ")),
        ("a path", json!("../../../../dev/null")),
        ("an absolute path", json!("/etc/passwd")),
        ("a URL", json!("https://attacker.example.org/key")),
        ("an injection", json!("main' OR '1'='1")),
        ("a command", json!("main|id")),
        ("with NUL", json!("main\u{0}")),
        ("with a newline", json!("main\n")),
        ("not ASCII", json!("mäin")),
        ("of 8 KB", json!("k".repeat(8 * 1024))),
        ("one byte too long", json!("k".repeat(MAX_KID + 1))),
        ("empty", json!("")),
        ("null", json!(null)),
        ("a number", json!(1)),
        ("an array", json!(["main"])),
        ("an object", json!({"kid": "main"})),
        ("of a curve that is not taken", json!("k1")),
    ] {
        table.header(format!("kid {name}"), "kid", kid);
    }
    table.add("kid missing, and several keys fit", keys().main.token(&json!({"typ": "JWT", "alg": "RS256"}), &table.world.payload()));
    table.add("kid trusted, the attacker's key", keys().attacker.token(&table.world.header(), &table.world.payload()));
    table.add("kid trusted, another issuer's key", keys().other_issuer.token(&table.world.header(), &table.world.payload()));
    table.header_by("kid and key of another issuer", "kid", "b".into(), &keys().other_issuer);
}

fn header_parameters(table: &mut Table<'_>) {
    let attacker = keys().attacker.named("main", "RS256");
    let attackers = [
        ("jwk", attacker.clone()),
        ("jku", json!("https://attacker.example.org/keys")),
        ("x5u", json!("https://attacker.example.org/cert")),
        ("x5c", json!(["MIIB"])),
    ];
    for (parameter, value) in attackers {
        table.header_by(format!("{parameter} of the attacker, trusted kid"), parameter, value.clone(), &keys().attacker);
        table.header(format!("{parameter} beside a good signature"), parameter, value);
    }
    for (name, parameter, value) in [
        ("crit of an unknown extension", "crit", json!(["x"])),
        ("crit of exp", "crit", json!(["exp"])),
        ("crit of b64", "crit", json!(["b64"])),
        ("crit empty", "crit", json!([])),
        ("crit a string", "crit", json!("b64")),
        ("crit null", "crit", json!(null)),
        ("b64 false", "b64", json!(false)),
        ("b64 true", "b64", json!(true)),
        ("cty JWT, a nested token", "cty", json!("JWT")),
        ("zip", "zip", json!("DEF")),
        ("enc", "enc", json!("A128GCM")),
        ("epk", "epk", json!({})),
        ("p2c", "p2c", json!(1_000_000_000)),
        ("typ at+jwt", "typ", json!("at+jwt")),
        ("typ application/at+jwt", "typ", json!("application/at+jwt")),
        ("typ logout+jwt", "typ", json!("logout+jwt")),
        ("typ secevent+jwt", "typ", json!("secevent+jwt")),
        ("typ dpop+jwt", "typ", json!("dpop+jwt")),
        ("typ JOSE", "typ", json!("JOSE")),
        ("typ JWE", "typ", json!("JWE")),
        ("typ empty", "typ", json!("")),
        ("typ null", "typ", json!(null)),
        ("typ a number", "typ", json!(1)),
        ("typ an array", "typ", json!(["JWT"])),
    ] {
        table.header(name, parameter, value);
    }
}

fn signatures(table: &mut Table<'_>) {
    let world = table.world;
    let good = world.good();
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, signature).unwrap();
    let mut changed = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        table.add(format!("signature {name}"), format!("{signed}.{}", b64(bytes)));
    };
    changed("with its first bit flipped", &|bytes| bytes[0] ^= 0x80);
    changed("with its last bit flipped", &|bytes| *bytes.last_mut().unwrap() ^= 1);
    changed("with a bit within flipped", &|bytes| bytes[100] ^= 8);
    changed("one byte short", &|bytes| bytes.truncate(bytes.len() - 1));
    changed("one byte long", &|bytes| bytes.push(0));
    changed("with a zero before it", &|bytes| bytes.insert(0, 0));
    changed("of zeros", &|bytes| bytes.fill(0));
    changed("of ones", &|bytes| bytes.fill(0xff));
    changed("of one byte", &|bytes| bytes.truncate(1));
    changed("reversed", &|bytes| bytes.reverse());
    changed("twice", &|bytes| bytes.extend_from_within(..));
    let mut payload = world.payload();
    payload["sub"] = json!("another");
    let header = b64(world.header().to_string());
    table.add("payload changed after signing", format!("{header}.{}.{signature}", b64(payload.to_string())));
    let mut other = world.header();
    other["kid"] = "second".into();
    let body = signed.split_once('.').unwrap().1;
    table.add("header changed after signing", format!("{}.{body}.{signature}", b64(other.to_string())));
    table.add("header written otherwise after signing", format!("{}.{body}.{signature}", b64(format!(" {}", world.header()))));
    table.add("signature over the payload alone", format!("{signed}.{}", b64(keys().main.sign("RS256", body.as_bytes()))));
    table.add(
        "signature over the decoded payload",
        format!("{signed}.{}", b64(keys().main.sign("RS256", world.payload().to_string().as_bytes()))),
    );
    let another = keys().main.token(&world.header(), &payload);
    table.add("signature of another good token", format!("{signed}.{}", another.rsplit_once('.').unwrap().1));
}

fn issuers(table: &mut Table<'_>) {
    let url = table.world.config.url.clone();
    for (name, iss) in [
        ("null", json!(null)),
        ("a number", json!(1)),
        ("an array", json!([url])),
        ("an object", json!({"iss": url})),
        ("empty", json!("")),
        ("with a trailing slash", json!(format!("{url}/"))),
        ("in upper case", json!(url.to_uppercase())),
        ("with an upper-case host", json!(url.replacen("https://", "https://X", 1).replacen("https://X", "HTTPS://", 1))),
        ("over http", json!(url.replacen("https", "http", 1))),
        ("without a scheme", json!(url.replacen("https://", "", 1))),
        ("with a port", json!(format!("{url}:443"))),
        ("with a space before it", json!(format!(" {url}"))),
        ("with a space after it", json!(format!("{url} "))),
        ("with a NUL after it", json!(format!("{url}\u{0}"))),
        ("with a suffix", json!(format!("{url}.attacker.example.org"))),
        ("with a user", json!(url.replacen("https://", "https://attacker@", 1))),
        ("with a fragment", json!(format!("{url}#x"))),
        ("with a query", json!(format!("{url}?x"))),
        ("not configured", json!("https://attacker.example.org")),
        ("another configured issuer's", json!("https://b.example.org")),
        ("a look-alike", json!(url.replace(['a', 'e'], "\u{435}"))),
        ("of metadata", json!("http://169.254.169.254/latest")),
    ] {
        table.claim(format!("iss {name}"), "iss", iss);
    }
    table.without("iss", Code::Unauthenticated);
}

fn audiences(table: &mut Table<'_>) {
    for (name, aud) in [
        ("another", json!("another")),
        ("an array of another", json!(["another"])),
        ("ours beside another", json!([AUDIENCE, "another"])),
        ("empty", json!("")),
        ("an empty array", json!([])),
        ("an array of an empty string", json!([""])),
        ("in upper case", json!(AUDIENCE.to_uppercase())),
        ("with a trailing slash", json!(format!("{AUDIENCE}/"))),
        ("a prefix of ours", json!(&AUDIENCE[..AUDIENCE.len() - 1])),
        ("with a suffix", json!(format!("{AUDIENCE}.attacker.example.org"))),
        ("with a space", json!(format!("{AUDIENCE} "))),
        ("a list in a string", json!(format!("{AUDIENCE},another"))),
        ("a wildcard", json!("*")),
        ("the issuer", json!(table.world.config.url)),
    ] {
        table.claim_coded(format!("aud {name}"), "aud", aud, Code::TokenAudience);
    }
    table.without("aud", Code::TokenAudience);
    for (name, aud) in [
        ("null", json!(null)),
        ("a number", json!(1)),
        ("a boolean", json!(true)),
        ("an object", json!({AUDIENCE: true})),
        ("an array with a number", json!([AUDIENCE, 1])),
        ("an array with null", json!([AUDIENCE, null])),
        ("an array of arrays", json!([[AUDIENCE]])),
        ("too many", json!(vec![AUDIENCE; 17])),
    ] {
        table.claim(format!("aud {name}"), "aud", aud);
    }
}

fn times(table: &mut Table<'_>) {
    for claim in ["exp", "iat"] {
        table.without(claim, Code::Unauthenticated);
    }
    for claim in ["exp", "iat", "nbf"] {
        for (name, value) in [
            ("null", json!(null)),
            ("a string", json!(at(0).to_string())),
            ("an ISO date", json!("2026-03-01T12:00:00Z")),
            ("a boolean", json!(true)),
            ("an array", json!([at(0)])),
            ("an object", json!({"seconds": at(0)})),
            ("empty", json!("")),
            ("negative", json!(-1)),
            ("zero", json!(0)),
            ("milliseconds", json!(at(0) * 1000)),
            ("the largest of 64 bits", json!(i64::MAX)),
            ("the smallest of 64 bits", json!(i64::MIN)),
            ("past 64 bits", json!(u64::MAX)),
        ] {
            table.claim(format!("{claim} {name}"), claim, value);
        }
        for number in ["1772366700.5", "1.7723667e9", "1e400", "99999999999999999999", "0x69a42d00", "+1772366700", "Infinity", "-0"] {
            let mut payload = table.world.payload();
            remove(&mut payload, &[claim.to_owned()]);
            table.raw_payload(format!("{claim} {number}"), format!(r#"{{"{claim}":{number},{}"#, &payload.to_string()[1..]));
        }
    }
    table.claim_coded("exp a day ago", "exp", json!(at(-86_400)), Code::TokenExpired);
    table.claim_coded("exp a second past the leeway", "exp", json!(at(-10)), Code::TokenExpired);
    table.claim("exp in 2 years", "exp", json!(at(2 * 365 * 86_400)));
    table.claim("exp in the year 9999", "exp", json!(253_402_300_799_i64));
    let mut backwards = table.world.payload();
    (backwards["iat"], backwards["exp"]) = (json!(at(5)), json!(at(1)));
    table.add("exp before iat", keys().main.token(&table.world.header(), &backwards));
    table.claim("iat a minute ahead", "iat", json!(at(60)));
    table.claim("iat a second past the leeway", "iat", json!(at(11)));
    table.claim_coded("iat a day ago", "iat", json!(at(-86_400)), Code::TokenExpired);
    table.claim_coded("iat a second too old", "iat", json!(at(-3_611)), Code::TokenExpired);
    table.claim("nbf a minute ahead", "nbf", json!(at(60)));
    table.claim("nbf a second past the leeway", "nbf", json!(at(11)));
}

fn subjects(table: &mut Table<'_>) {
    table.without("sub", Code::Unauthenticated);
    for (claim, longest) in [("sub", MAX_SUB), ("jti", MAX_JTI)] {
        for (name, value) in [
            ("null", json!(null)),
            ("a number", json!(1)),
            ("a boolean", json!(false)),
            ("an array", json!(["x"])),
            ("an object", json!({"x": 1})),
            ("empty", json!("")),
            ("with NUL", json!("a\u{0}b")),
            ("with a newline", json!("a\nb")),
            ("with a C1 control", json!("a\u{85}b")),
            ("with an escape sequence", json!("\u{1b}[2J")),
            ("one byte too long", json!("x".repeat(longest + 1))),
        ] {
            table.claim(format!("{claim} {name}"), claim, value);
        }
    }
    if table.world.config.jti_required {
        table.without("jti", Code::Unauthenticated);
    }
}

fn configured_claims(table: &mut Table<'_>) {
    let world = table.world;
    let mut case = |name: String, change: &dyn Fn(&mut Value)| {
        let mut payload = world.payload();
        change(&mut payload);
        table.add(name, keys().main.token(&world.header(), &payload));
    };
    for spec in &world.config.claims {
        let wrong: &[(&str, Value)] = match spec.ty {
            ClaimType::String => {
                &[("a number", json!(1)), ("a boolean", json!(true)), ("an array", json!(["x"])), ("an object", json!({}))]
            }
            ClaimType::Integer => {
                &[("a string", json!("1")), ("a float", json!(1.5)), ("past 64 bits", json!(u64::MAX)), ("a boolean", json!(true))]
            }
            ClaimType::Boolean => &[("a string", json!("false")), ("a number", json!(0)), ("an array", json!([false]))],
            ClaimType::Strings => &[
                ("a string", json!("x")),
                ("an array with a number", json!(["x", 1])),
                ("an array with null", json!([null])),
                ("an object", json!({})),
            ],
        };
        for (ty, value) in wrong {
            case(format!("claim {} is {ty}", spec.name), &|payload| set(payload, &spec.path, value.clone()));
        }
        if spec.required {
            case(format!("claim {} is null", spec.name), &|payload| set(payload, &spec.path, Value::Null));
            case(format!("claim {} is missing", spec.name), &|payload| remove(payload, &spec.path));
            if spec.ty == ClaimType::String {
                case(format!("claim {} is empty", spec.name), &|payload| set(payload, &spec.path, json!("")));
            }
        }
        if let [parents @ .., _] = spec.path.as_slice()
            && !parents.is_empty()
        {
            for (what, value) in [("a string", json!("x")), ("an array", json!([1])), ("a number", json!(1))] {
                case(format!("what holds claim {} is {what}", spec.name), &|payload| set(payload, parents, value.clone()));
            }
        }
    }
}

#[test]
fn each_preset_refuses_each_named_bad_token() {
    for name in PRESETS {
        let world = world(name);
        world.verify(&world.good()).unwrap_or_else(|error| panic!("the token that nothing was done to must pass for {name}: {error}"));
        let cases = table(world);
        let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len(), "two cases of {name} have one name");
        assert!(names.len() >= 120, "{name} has only {} bad tokens", names.len());
        let mut wrong = Vec::new();
        for case in &cases {
            match world.verify(&case.token) {
                Ok(_) => wrong.push(format!("{}: was accepted", case.name)),
                Err(error) if error.code() != case.code => wrong.push(format!("{}: {error}, not {:?}", case.name, case.code)),
                Err(error) if error.to_string().contains(CANARY) || error.to_string().contains("eyJ") => {
                    wrong.push(format!("{}: the error quotes the token: {error}", case.name));
                }
                Err(error) if error.public().len() > 300 => wrong.push(format!("{}: the error is too long: {error}", case.name)),
                Err(_) => {}
            }
        }
        assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
        println!("{name}: {} bad tokens refused", cases.len());
        // And nothing of all that has harmed the verifier.
        world.verify(&world.good()).unwrap();
    }
}
