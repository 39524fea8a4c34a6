//! Requests that want more than they may, and requests that are none. Each is refused with `InvalidCsr`, for the reason that
//! it stands here for, or gives the very certificate that a plain request of the same key gives.

use daypass::{
    issuer::x509::{ParsedCsr, Serial},
    model::{
        SignedDuration,
        error::Code,
        request::MAX_CSR,
        role::{KeyType, X509Role},
    },
};
use rcgen::{KeyPair, PublicKeyData};

use super::{
    der::*,
    tools::{csr_of_key, must, openssl_csr, sign},
    world::*,
};

enum Expect {
    /// Refused, with this in the text.
    Refused(&'static str),
    /// The certificate of a plain request.
    Plain,
}
use Expect::{Plain, Refused};

type Case = (&'static str, Vec<u8>, Expect);

const NO_DER: &str = "no PKCS #10 request in DER";
const NOT_OWN: &str = "not signed by the key that it holds";
const BAD_ALGORITHM: &str = "signature algorithm";
const NO_TYPE: &str = "no type that is taken";
const CN: &[u64] = &[2, 5, 4, 3];

/// Requests that ask for what only the role decides.
fn greedy(pair: &KeyPair) -> Vec<Case> {
    let ask = |name, attributes: Vec<u8>| (name, Csr { attributes, ..Csr::plain(pair) }.signed(pair), Plain);
    let san = |names: &[u8]| asking(&[&extension(&[2, 5, 29, 17], false, &tlv(0x30, names))]);
    let ext = |arcs: &[u64], critical, value: &[u8]| asking(&[&extension(arcs, critical, value)]);
    let bomb = (0..200).fold(Vec::new(), |inner, _| seq(&[&inner]));
    let ca_true = seq(&[&[1, 1, 0xff]]);
    let dns = |name: &[u8]| tlv(0x82, name);
    let twice = extension_request(&[&extension(&[2, 5, 29, 19], true, &ca_true)]);
    vec![
        ask("ca true", ext(&[2, 5, 29, 19], true, &ca_true)),
        ask("ca true, path length", ext(&[2, 5, 29, 19], true, &seq(&[&[1, 1, 0xff], &uint(&[5])]))),
        ask("key usage keyCertSign and cRLSign", ext(&[2, 5, 29, 15], true, &tlv(3, &[1, 6]))),
        ask("san dns of another", san(&dns(b"admin.example.org"))),
        ask("san dns wildcard", san(&dns(b"*.example.org"))),
        ask("san dns with NUL", san(&dns(b"good.example\0.evil.example"))),
        ask("san spiffe of another", san(&tlv(0x86, b"spiffe://example.org/admin"))),
        ask("san uri javascript", san(&tlv(0x86, b"javascript:alert(1)"))),
        ask("san ip v4", san(&tlv(0x87, &[127, 0, 0, 1]))),
        ask("san ip v6", san(&tlv(0x87, &[0; 16]))),
        ask("san ip of 3 bytes", san(&tlv(0x87, &[1, 2, 3]))),
        ask("san email", san(&tlv(0x81, b"root@example.org"))),
        ask(
            "san other name (UPN)",
            san(&tlv(0xa0, &[oid(&[1, 3, 6, 1, 4, 1, 311, 20, 2, 3]), tlv(0xa0, &tlv(12, b"admin@corp"))].concat())),
        ),
        ask("san x400 address", san(&tlv(0xa3, &[]))),
        ask("san directory name", san(&tlv(0xa4, &seq(&[&rdn(CN, 12, b"admin")])))),
        ask("san edi party name", san(&tlv(0xa5, &tlv(0xa1, &tlv(12, b"x"))))),
        ask("san registered id", san(&tlv(0x88, &[0x2a, 0x03]))),
        ask("san empty", san(&[])),
        ask("san critical, many", asking(&[&extension(&[2, 5, 29, 17], true, &tlv(0x30, &dns(b"a.example").repeat(500)))])),
        ask("extended key usage any", ext(&[2, 5, 29, 37], false, &seq(&[&oid(&[2, 5, 29, 37, 0])]))),
        ask("extended key usage code signing", ext(&[2, 5, 29, 37], true, &seq(&[&oid(&[1, 3, 6, 1, 5, 5, 7, 3, 3])]))),
        ask("name constraints", ext(&[2, 5, 29, 30], true, &seq(&[]))),
        ask("authority key identifier", ext(&[2, 5, 29, 35], false, &seq(&[&tlv(0x80, &[9; 20])]))),
        ask("subject key identifier", ext(&[2, 5, 29, 14], false, &tlv(4, &[9; 20]))),
        ask(
            "crl distribution point",
            ext(&[2, 5, 29, 31], false, &seq(&[&seq(&[&tlv(0xa0, &tlv(0xa0, &tlv(0x86, b"http://evil.example/")))])])),
        ),
        ask("authority information access", ext(&[1, 3, 6, 1, 5, 5, 7, 1, 1], false, &seq(&[]))),
        ask("ocsp no check", ext(&[1, 3, 6, 1, 5, 5, 7, 48, 1, 5], false, &null())),
        ask("precertificate poison", ext(&[1, 3, 6, 1, 4, 1, 11_129, 2, 4, 3], true, &null())),
        ask("any policy", ext(&[2, 5, 29, 32], false, &seq(&[&seq(&[&oid(&[2, 5, 29, 32, 0])])]))),
        ask("unknown critical extension", ext(&[1, 3, 6, 1, 4, 1, 99_999, 1], true, b"\xff\xff")),
        ask("extension whose value is no DER", ext(&[2, 5, 29, 19], true, &[0x30, 0x82, 0xff, 0xff])),
        ask("negative path length", ext(&[2, 5, 29, 19], true, &seq(&[&[1, 1, 0xff], &[2, 1, 0x80]]))),
        ask("extension request twice", tlv(0xa0, &twice.repeat(2))),
        ask("one extension twice", asking(&[&extension(&[2, 5, 29, 19], true, &ca_true), &extension(&[2, 5, 29, 19], false, &seq(&[]))])),
        ask("challenge password", tlv(0xa0, &attribute(&[1, 2, 840, 113_549, 1, 9, 7], &[&tlv(12, b"hunter2")]))),
        ask("challenge password of 8 KiB", tlv(0xa0, &attribute(&[1, 2, 840, 113_549, 1, 9, 7], &[&tlv(12, &[b'x'; 8192])]))),
        ask("unstructured name", tlv(0xa0, &attribute(&[1, 2, 840, 113_549, 1, 9, 2], &[&tlv(22, b"x")]))),
        ask("attribute without a value", tlv(0xa0, &attribute(&[1, 2, 840, 113_549, 1, 9, 14], &[]))),
        ask("attributes that are no DER", tlv(0xa0, &[0xff; 64])),
        ask("attributes nested 200 deep", tlv(0xa0, &attribute(&[1, 2, 3], &[&bomb]))),
        ask("attributes with an indefinite length", tlv(0xa0, &[0x30, 0x80, 0x06, 0x01, 0x2a, 0x31, 0x80, 0, 0, 0, 0])),
    ]
}

/// Requests with a subject that is not theirs to choose.
fn named(pair: &KeyPair) -> Vec<Case> {
    let name = |name, subject: Vec<u8>| (name, Csr { subject, ..Csr::plain(pair) }.signed(pair), Plain);
    let bomb = (0..200).fold(Vec::new(), |inner, _| seq(&[&inner]));
    let many: Vec<u8> = rdn(CN, 12, b"x").repeat(800);
    vec![
        name("subject admin", seq(&[&rdn(CN, 12, b"admin")])),
        name("subject with NUL", seq(&[&rdn(CN, 12, b"good.example\0.evil.example")])),
        name("subject with an e-mail address", seq(&[&rdn(&[1, 2, 840, 113_549, 1, 9, 1], 22, b"root@example.org")])),
        name("subject of 8 KiB", seq(&[&rdn(CN, 12, &[b'x'; 8192])])),
        name("subject of 800 names", tlv(0x30, &many)),
        name("subject as BMPString", seq(&[&rdn(CN, 30, b"\0a\0b")])),
        name("subject as invalid UTF-8", seq(&[&rdn(CN, 12, &[0xff, 0xfe])])),
        name("subject with an empty set", seq(&[&set(&[])])),
        name("subject with two attributes in a set", seq(&[&set(&[&seq(&[&oid(CN), &tlv(12, b"a")]), &seq(&[&oid(CN), &tlv(12, b"b")])])])),
        name("subject nested 200 deep", seq(&[&bomb])),
    ]
}

/// Requests whose outer form is broken.
fn malformed(pair: &KeyPair) -> Vec<Case> {
    let plain = Csr::plain(pair);
    let der = plain.signed(pair);
    let refuse = |name, der: Vec<u8>| (name, der, Refused(NO_DER));
    let with = |name, csr: Csr| (name, csr.signed(pair), Refused(NO_DER));
    let body = |element: &[u8]| element[if element[1] < 0x80 { 2 } else { 2 + usize::from(element[1] & 0x7f) }..].to_vec();
    let indefinite = |element: &[u8]| [&[element[0], 0x80], &body(element)[..], &[0, 0]].concat();
    let long_form = |element: &[u8]| {
        let content = body(element);
        [&[element[0], 0x83, 0, (content.len() >> 8) as u8, content.len() as u8], &content[..]].concat()
    };
    let over = |info: &[u8]| seq(&[info, &plain.algorithm, &bits(&sign(pair, info))]);
    let info_with = |parts: &[&[u8]]| over(&seq(parts));
    let (version, subject, spki, attributes) = (&plain.version[..], &plain.subject[..], &plain.spki[..], &plain.attributes[..]);
    vec![
        ("empty", vec![], Refused("empty")),
        refuse("one byte", vec![0x30]),
        refuse("zeroes", vec![0; 300]),
        refuse("text", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("pem", rcgen::CertificateParams::default().serialize_request(pair).unwrap().pem().unwrap().into_bytes(), Refused("PEM")),
        ("one byte too long", [der.clone(), vec![0; MAX_CSR + 1 - der.len()]].concat(), Refused("at most")),
        (
            "well-formed and too long",
            Csr { attributes: tlv(0xa0, &attribute(&[1, 2, 3], &[&tlv(4, &vec![0; MAX_CSR])])), ..plain.clone() }.signed(pair),
            Refused("at most"),
        ),
        refuse("a certificate", WORLD.authority.chain_der()[0].clone()),
        refuse("trailing byte", [&der[..], &[0]].concat()),
        refuse("a second request behind it", der.repeat(2)),
        refuse("trailing element within", seq(&[&plain.info(), &plain.algorithm, &bits(&sign(pair, &plain.info())), &null()])),
        refuse("trailing element within the info", info_with(&[version, subject, spki, attributes, &null()])),
        refuse("indefinite length outside", indefinite(&der)),
        refuse("indefinite length of the info", over(&indefinite(&plain.info()))),
        refuse("constructed bit string", seq(&[&plain.info(), &plain.algorithm, &tlv(0x23, &bits(&sign(pair, &plain.info())))])),
        refuse("length that reaches past the end", [&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &der[4..]].concat()),
        refuse("length of 126 bytes", [&[0x30, 0xfe], &[0xff; 126][..], &der[4..]].concat()),
        refuse("set instead of sequence", [&[0x31], &der[1..]].concat()),
        with("version 1", Csr { version: uint(&[1]), ..plain.clone() }),
        with("version 2", Csr { version: uint(&[2]), ..plain.clone() }),
        with("negative version", Csr { version: tlv(2, &[0xff]), ..plain.clone() }),
        with("huge version", Csr { version: uint(&[0x7f; 40]), ..plain.clone() }),
        with("empty version", Csr { version: tlv(2, &[]), ..plain.clone() }),
        with("version as an enumeration", Csr { version: tlv(10, &[0]), ..plain.clone() }),
        refuse("no version", info_with(&[subject, spki, attributes])),
        refuse("no subject", info_with(&[version, spki, attributes])),
        refuse("no key", info_with(&[version, subject, attributes])),
        refuse("no attributes (RFC 2986 wants them, if empty)", info_with(&[version, subject, spki])),
        refuse("attributes twice", info_with(&[version, subject, spki, attributes, attributes])),
        with("attributes under another tag", Csr { attributes: tlv(0xa1, &[]), ..plain.clone() }),
        with("attributes that are primitive", Csr { attributes: tlv(0x80, &[]), ..plain.clone() }),
        with("subject as a set", Csr { subject: set(&[]), ..plain.clone() }),
        with("subject as a bomb of open sequences", Csr { subject: [0x30, 0x80].repeat(2000), ..plain.clone() }),
        refuse("no signature", seq(&[&plain.info(), &plain.algorithm])),
        refuse("no algorithm", seq(&[&plain.info(), &bits(&sign(pair, &plain.info()))])),
        refuse("length in a longer form than needed, outside", long_form(&der)),
        refuse("length in a longer form than needed, info", over(&long_form(&plain.info()))),
    ]
}

/// Requests whose signature is not good.
fn unsigned(pair: &KeyPair) -> Vec<Case> {
    let plain = Csr::plain(pair);
    let good = sign(pair, &plain.info());
    let other = KeyPair::generate().unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let not_own = |name, der| (name, der, Refused(NOT_OWN));
    let algorithm = |name, algorithm: Vec<u8>| (name, Csr { algorithm, ..plain.clone() }.signed(pair), Refused(BAD_ALGORITHM));
    let order = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84,
        0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let swapped = Csr { subject: seq(&[&rdn(CN, 12, b"admin")]), ..plain.clone() };
    vec![
        not_own("a bit of the signature flipped", plain.with_signature(&flipped)),
        not_own("signed by another key", plain.signed(&other)),
        not_own("another's key under an own signature", Csr { spki: other.subject_public_key_info(), ..plain.clone() }.signed(pair)),
        not_own("signature of another request", swapped.with_signature(&good)),
        not_own("empty signature", plain.with_signature(&[])),
        not_own("signature of zeroes", plain.with_signature(&seq(&[&uint(&[0]), &uint(&[0])]))),
        not_own("signature of the group's order", plain.with_signature(&seq(&[&uint(&order), &uint(&order)]))),
        not_own("signature of negative numbers", plain.with_signature(&seq(&[&tlv(2, &[0x80]), &tlv(2, &[0x80])]))),
        not_own("signature in fixed form", plain.with_signature(&[1; 64])),
        not_own("signature with a byte after it", plain.with_signature(&[&good[..], &[0]].concat())),
        (
            "signature with unused bits",
            plain.with_signature_element(&tlv(3, &[&[1], &good[..good.len() - 1], &[0][..]].concat())),
            Refused(NO_DER),
        ),
        algorithm("ecdsa with SHA-1", seq(&[&oid(&[1, 2, 840, 10045, 4, 1])])),
        algorithm("ecdsa with SHA-224", seq(&[&oid(&[1, 2, 840, 10045, 4, 3, 1])])),
        algorithm("rsa algorithm over an EC key", seq(&[&oid(RSA_SHA256), &null()])),
        algorithm("Ed25519 algorithm over an EC key", seq(&[&oid(ED25519)])),
        algorithm("ecdsa with parameters", seq(&[&oid(ECDSA_SHA256), &null()])),
        algorithm("unknown algorithm", seq(&[&oid(&[1, 2, 3, 4])])),
    ]
}

/// Keys that must not be certified. Where the private key cannot be had, the reason shows that the key itself was refused.
fn bad_keys(pair: &KeyPair) -> Vec<Case> {
    let plain = Csr::plain(pair);
    let key = |name, spki: Vec<u8>, why| (name, Csr { spki, ..plain.clone() }.signed(pair), Refused(why));
    let point = pair.der_bytes();
    let curve = |arcs: &[u64]| ec_spki(arcs, point);
    let mut off_curve = point.to_vec();
    off_curve[64] ^= 1;
    let compressed = [&[2 + (point[64] & 1)], &point[1..33]].concat();
    let hybrid = [&[6 + (point[64] & 1)], &point[1..]].concat();
    let ed25519 = |raw: &[u8]| seq(&[&seq(&[&oid(ED25519)]), &bits(raw)]);
    let mut odd = vec![0xa7; 256];
    odd[255] = 0x2b;
    let modulus = sound_modulus();
    let negative = rsa_spki_of(&seq(&[&tlv(2, &modulus), &uint(&[1, 0, 1])]));
    let padded = rsa_spki_of(&seq(&[&tlv(2, &[&[0, 0], &modulus[..]].concat()), &uint(&[1, 0, 1])]));
    vec![
        key("secp256k1", curve(&[1, 3, 132, 0, 10]), "given by name"),
        key("P-224 by name", curve(&[1, 3, 132, 0, 33]), "given by name"),
        key("brainpoolP256r1", curve(&[1, 3, 36, 3, 3, 2, 8, 1, 1, 7]), "given by name"),
        key("EC without parameters", seq(&[&seq(&[&oid(EC)]), &bits(point)]), "given by name"),
        key("EC with an implicit curve", seq(&[&seq(&[&oid(EC), &null()]), &bits(point)]), "given by name"),
        key("P-384 with a point of P-256", curve(&[1, 3, 132, 0, 34]), "uncompressed"),
        key("point off the curve", ec_spki(P256, &off_curve), NOT_OWN),
        key("point of zeroes", ec_spki(P256, &[&[4], &[0; 64][..]].concat()), NOT_OWN),
        key("point with coordinates past the field", ec_spki(P256, &[&[4], &[0xff; 64][..]].concat()), NOT_OWN),
        key("point at infinity", ec_spki(P256, &[0]), "uncompressed"),
        key("compressed point", ec_spki(P256, &compressed), "uncompressed"),
        key("hybrid point", ec_spki(P256, &hybrid), "uncompressed"),
        key("empty point", ec_spki(P256, &[]), "uncompressed"),
        key("key with unused bits", seq(&[&seq(&[&oid(EC), &oid(P256)]), &tlv(3, &[&[3], point].concat())]), NO_DER),
        key("Ed25519 identity point", ed25519(&[&[1], &[0; 31][..]].concat()), "small order"),
        key("Ed25519 point of order 4", ed25519(&[0; 32]), "small order"),
        key("Ed25519 of 31 bytes", ed25519(&[7; 31]), "32 bytes"),
        key("Ed25519 with parameters", seq(&[&seq(&[&oid(ED25519), &null()]), &bits(&[7; 32])]), NO_TYPE),
        key("X25519", seq(&[&seq(&[&oid(&[1, 3, 101, 110])]), &bits(&[7; 32])]), NO_TYPE),
        key("unknown key type", seq(&[&seq(&[&oid(&[1, 2, 3, 4])]), &bits(point)]), NO_TYPE),
        key("RSA 8192", rsa_spki(&[0xa7; 1024], &[1, 0, 1]), "2048 to 4096 bits"),
        key("RSA 4104", rsa_spki(&[0xa7; 513], &[1, 0, 1]), "2048 to 4096 bits"),
        key("RSA 2047", rsa_spki(&[&[0x7f], &modulus[1..]].concat(), &[1, 0, 1]), "2048 to 4096 bits"),
        key("RSA e=1", rsa_spki(&modulus, &[1]), "exponent"),
        key("RSA e=0", rsa_spki(&modulus, &[0]), "exponent"),
        key("RSA e even", rsa_spki(&modulus, &[1, 0, 2]), "exponent"),
        key("RSA e of 2048 bits", rsa_spki(&modulus, &modulus), "exponent"),
        key("RSA modulus even", rsa_spki(&[&modulus[..255], &[0x2a]].concat(), &[1, 0, 1]), "weak"),
        key("RSA modulus of 3 and another", rsa_spki(&[0xff; 256], &[1, 0, 1]), "weak"),
        key("RSA modulus with the mark of ROCA", rsa_spki(&roca_modulus(), &[1, 0, 1]), "weak"),
        key("RSA modulus negative", negative, "not in DER"),
        key("RSA modulus padded", padded, "not in DER"),
        key("RSA modulus zero", rsa_spki(&[0], &[1, 0, 1]), "bits"),
        key("RSA key that is no sequence", rsa_spki_of(b"no key"), "not in DER"),
        key("RSA key with a third number", rsa_spki_of(&seq(&[&uint(&modulus), &uint(&[1, 0, 1]), &uint(&[1])])), "not in DER"),
        key("RSA without parameters", seq(&[&seq(&[&oid(RSA)]), &bits(&seq(&[&uint(&modulus), &uint(&[1, 0, 1])]))]), NO_TYPE),
        key(
            "RSA for PSS only",
            seq(&[&seq(&[&oid(&[1, 2, 840, 113_549, 1, 1, 10])]), &bits(&seq(&[&uint(&modulus), &uint(&[1, 0, 1])]))]),
            NO_TYPE,
        ),
        key("sound RSA key, not signed by it", rsa_spki(&modulus, &[1, 0, 1]), BAD_ALGORITHM),
    ]
}

/// Requests that openssl makes, each truly signed by its own key.
fn from_openssl() -> Vec<Case> {
    let ec = |curve: &str, encoding: &str| {
        openssl_csr(
            &["-algorithm", "EC", "-pkeyopt", &format!("ec_paramgen_curve:{curve}"), "-pkeyopt", &format!("ec_param_enc:{encoding}")],
            &[],
        )
    };
    let rsa = |options: &[&str], req: &[&str]| openssl_csr(&[&["-algorithm", "RSA", "-pkeyopt"], options].concat(), req);
    let pss = ["-sigopt", "rsa_padding_mode:pss"];
    vec![
        ("openssl P-224", ec("P-224", "named_curve"), Refused("given by name")),
        ("openssl P-521", ec("P-521", "named_curve"), Refused("given by name")),
        ("openssl secp256k1", ec("secp256k1", "named_curve"), Refused("given by name")),
        ("openssl P-256, explicit parameters", ec("P-256", "explicit"), Refused("given by name")),
        ("openssl RSA 512", rsa(&["rsa_keygen_bits:512"], &[]), Refused("2048 to 4096 bits")),
        ("openssl RSA 1024", rsa(&["rsa_keygen_bits:1024"], &[]), Refused("2048 to 4096 bits")),
        ("openssl RSA e=3", rsa(&["rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_pubexp:3"], &[]), Refused("exponent")),
        ("openssl RSA with MD5", rsa(&["rsa_keygen_bits:2048"], &["-md5"]), Refused(BAD_ALGORITHM)),
        ("openssl RSA with SHA-1", rsa(&["rsa_keygen_bits:2048"], &["-sha1"]), Refused(BAD_ALGORITHM)),
        ("openssl RSA with PSS", rsa(&["rsa_keygen_bits:2048"], &pss), Refused(BAD_ALGORITHM)),
        (
            "openssl P-256 with SHA-1",
            openssl_csr(&["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], &["-sha1"]),
            Refused(BAD_ALGORITHM),
        ),
        ("openssl Ed448", openssl_csr(&["-algorithm", "ED448"], &[]), Refused(NO_TYPE)),
        ("openssl DSA", dsa(), Refused(NO_TYPE)),
    ]
}

fn dsa() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let parameters = ["genpkey", "-genparam", "-algorithm", "DSA", "-pkeyopt", "dsa_paramgen_bits:1024", "-out", "dsa.pem"];
    must(dir.path(), "openssl", &parameters);
    must(dir.path(), "openssl", &["genpkey", "-paramfile", "dsa.pem", "-out", "key.pem"]);
    csr_of_key(dir.path(), &[])
}

/// A modulus of 2048 bits without a small factor: what a sound key has.
fn sound_modulus() -> Vec<u8> {
    KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap().der_bytes()[9..265].to_vec()
}

/// A modulus of 2048 bits that is 1 modulo each prime up to 167: a power of 65537 modulo all of them.
fn roca_modulus() -> Vec<u8> {
    let is_prime = |n: &u32| (2..*n).all(|divisor| !n.is_multiple_of(divisor));
    let times = |number: Vec<u8>, by: u32| {
        let mut carry = 0;
        let mut out: Vec<u8> = number
            .into_iter()
            .map(|digit| {
                carry += u32::from(digit) * by;
                let low = carry as u8;
                carry >>= 8;
                low
            })
            .collect();
        while carry > 0 {
            out.push(carry as u8);
            carry >>= 8;
        }
        out
    };
    let mut little_endian = (2..168).filter(is_prime).fold(vec![1], times);
    while little_endian.len() < 256 || little_endian[255] < 0x80 {
        little_endian = times(little_endian, 2);
    }
    assert_eq!(little_endian.len(), 256);
    little_endian[0] += 1;
    little_endian.reverse();
    little_endian
}

fn check(pair: &KeyPair, cases: Vec<Case>) -> usize {
    let serial = Serial::random();
    let plan = plan_for(spec(), serial);
    let plain = WORLD.authority.sign_leaf(&plan, &subject_key(&Csr::plain(pair).signed(pair)).unwrap()).unwrap();
    let role = role(spec());
    let count = cases.len();
    for (name, der, expect) in cases {
        let issued = WORLD.issue(&role, &job(), &der, SignedDuration::from_mins(15));
        match (expect, issued) {
            (Refused(why), Err(error)) => {
                assert_eq!(error.code(), Code::InvalidCsr, "{name}: {error}");
                assert!(error.public().contains(why), "{name} was refused for another reason: {error}");
            }
            (Refused(_), Ok(_)) => panic!("{name} got a certificate"),
            (Plain, Err(error)) => panic!("{name} was refused: {error}"),
            (Plain, Ok(_)) => {
                let key = subject_key(&der).unwrap();
                let leaf = WORLD.authority.sign_leaf(&plan, &key).unwrap();
                assert_eq!(leaf.tbs, plain.tbs, "{name} changed the certificate");
                assert_eq!(tbs_of(&leaf.der), tbs_of(&plain.der), "{name} changed the certificate");
            }
        }
    }
    count
}

#[test]
fn hostile_requests() {
    let pair = KeyPair::generate().unwrap();
    let groups = [greedy(&pair), named(&pair), malformed(&pair), unsigned(&pair), bad_keys(&pair), from_openssl()];
    let mut names: Vec<&str> = groups.iter().flatten().map(|(name, ..)| *name).collect();
    names.sort_unstable();
    names.dedup();
    let count: usize = groups.into_iter().map(|cases| check(&pair, cases)).sum();
    assert_eq!(names.len(), count, "two cases have one name");
    assert!(count >= 150, "only {count} cases");
}

#[test]
fn a_request_cut_anywhere_is_refused() {
    let der = fresh_csr();
    for end in 0..der.len() {
        let error = subject_key(&der[..end]).map(drop).unwrap_err();
        assert_eq!(error.code(), Code::InvalidCsr, "{end}: {error}");
    }
    assert!(subject_key(&der).is_ok());
}

#[test]
fn a_request_with_any_bit_flipped_is_refused() {
    let pair = KeyPair::generate().unwrap();
    let der = Csr { subject: seq(&[&rdn(CN, 12, b"admin")]), ..Csr::plain(&pair) }.signed(&pair);
    for bit in 0..der.len() * 8 {
        let mut flipped = der.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(subject_key(&flipped).is_err(), "bit {bit} can be flipped");
    }
}

#[test]
fn the_role_chooses_the_key_types() {
    let csrs = [
        (KeyType::P256, &rcgen::PKCS_ECDSA_P256_SHA256),
        (KeyType::P384, &rcgen::PKCS_ECDSA_P384_SHA384),
        (KeyType::Ed25519, &rcgen::PKCS_ED25519),
        (KeyType::Rsa, &rcgen::PKCS_RSA_SHA256),
    ]
    .map(|(key_type, algorithm)| (key_type, csr_for(&KeyPair::generate_for(algorithm).unwrap())));
    for (wanted, _) in &csrs {
        let role = role(X509Role { key_types: vec![*wanted], ..spec() });
        for (key_type, csr) in &csrs {
            match WORLD.issue(&role, &job(), csr, SignedDuration::from_mins(15)) {
                Ok(_) => assert_eq!(wanted, key_type),
                Err(error) => {
                    assert_ne!(wanted, key_type, "{error}");
                    assert_eq!(error.code(), Code::InvalidCsr);
                    assert!(error.public().contains("it takes"), "{error}");
                }
            }
        }
    }
}

#[test]
fn an_input_is_checked_before_anything_is_decided() {
    let check = |csr_der: Vec<u8>| ParsedCsr::parse(&csr_der).map(drop);
    assert!(check(fresh_csr()).is_ok());
    assert_eq!(check(vec![]).unwrap_err().code(), Code::InvalidCsr);
    assert_eq!(check(vec![0x30; MAX_CSR + 1]).unwrap_err().code(), Code::InvalidCsr);
    // The limit itself is taken.
    let pair = KeyPair::generate().unwrap();
    let padded = |length| Csr { attributes: tlv(0xa0, &attribute(&[1, 2, 3], &[&tlv(4, &vec![0; length])])), ..Csr::plain(&pair) };
    let longest = (0..MAX_CSR).rev().find(|length| padded(*length).with_signature(&[0; 70]).len() == MAX_CSR).unwrap();
    assert!(ParsedCsr::parse(&padded(longest).with_signature(&[0; 70])).is_ok());
}
