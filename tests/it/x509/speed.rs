//! What it costs. Ignored: run with `cargo test --release --test it x509::speed -- --ignored --nocapture`.

use std::time::Instant;

use daypass::{
    issuer::x509::{ParsedCsr, Serial, lint::lint},
    model::{SignedDuration, revocation::RevokedSerial},
};

use super::world::*;

fn micros(what: &str, rounds: u32, mut work: impl FnMut()) {
    for _ in 0..rounds / 10 {
        work();
    }
    let begin = Instant::now();
    for _ in 0..rounds {
        work();
    }
    println!("{what}: {:.1} µs", begin.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
}

#[test]
#[ignore = "a measurement"]
fn cost() {
    let (role, identity, csr) = (role(spec()), job(), fresh_csr());
    micros("issue in all", 5000, || drop(WORLD.issue(&role, &identity, &csr, SignedDuration::from_mins(15)).unwrap()));
    micros("CSR parse", 20000, || drop(ParsedCsr::parse(std::hint::black_box(&csr)).unwrap()));
    micros("CSR parse and verify", 5000, || drop(subject_key(&csr).unwrap()));
    let key = subject_key(&csr).unwrap();
    let plan = plan_for(spec(), Serial::random());
    micros("render", 20000, || drop(plan_for(spec(), plan.serial)));
    micros("build, lint, sign", 5000, || drop(WORLD.authority.sign_leaf(&plan, &key).unwrap()));
    let leaf = WORLD.authority.sign_leaf(&plan, &key).unwrap().der;
    let tbs = super::der::tbs_of(&leaf).to_vec();
    micros("lint", 20000, || lint(&tbs, &plan, &key, &WORLD.authority).unwrap());
    let revoked: Vec<_> =
        (0..10_000).map(|_| RevokedSerial { serial: Serial::random().to_hex(), revoked_at: now(), not_after: now() + DAY }).collect();
    micros("CRL of 10,000", 20, || drop(WORLD.authority.sign_crl(1, &revoked, now()).unwrap()));
}
