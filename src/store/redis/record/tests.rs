use proptest::prelude::*;

use super::*;

fn deny() -> impl Strategy<Value = AwsDeny> {
    ("[a-z0-9][a-z0-9-]{0,62}", prop::sample::select(&DenyBy::ALL[..]), "[ -~]{0,120}").prop_map(|(aws, by, role_arn)| AwsDeny {
        aws: aws.parse().unwrap(),
        by,
        role_arn,
    })
}

/// A handle of any kind; `issued` is what its times are near.
fn handle(issued: i64) -> impl Strategy<Value = Handle> {
    let second = move |offset: i64| Timestamp::from_second(issued + offset).unwrap();
    let lives = || 0..4_000_000_000_i64;
    let serials = prop::collection::vec(("[0-9a-f]{2,40}", lives(), prop::option::weighted(0.2, "[a-z0-9][a-z0-9-]{0,62}")), 0..9);
    let next_key = prop::option::of("([0-9a-f]{182}|[ -~]{0,9})");
    let x509 = ("[a-z0-9][a-z0-9-]{0,62}", serials, "([0-9a-f]{32}|[ -~]{0,9})", next_key).prop_map(move |(ca, serials, tbs, next_key)| {
        let live = |(serial, at, ca): (String, i64, Option<String>)| {
            let ca = ca.map(|ca| ca.parse().unwrap());
            LiveSerial { serial, not_after: second(at), ca }
        };
        Handle::X509 { ca: ca.parse().unwrap(), serials: serials.into_iter().map(live).collect(), tbs, next_key }
    });
    let aws = (prop::option::of(deny()), "[ -~]{0,120}", "[A-Za-z0-9=,.@_-]{2,64}", prop::option::of("[A-Z0-9]{1,40}"))
        .prop_map(|(deny, role_arn, session, key_id)| Handle::Aws { deny, role_arn, session, key_id });
    let actions = prop::collection::vec(prop::sample::select(&RegistryAction::ALL[..]), 0..4);
    let repositories = prop::collection::vec("[a-z0-9/*._-]{1,60}", 0..5);
    let secrets = prop::collection::vec(("[0-9a-f]{64}", lives()), 0..9);
    let registry =
        ("[a-z0-9][a-z0-9-]{0,62}", repositories, actions, secrets).prop_map(move |(registry, repositories, actions, secrets)| {
            let secrets = secrets.into_iter().map(|(sha256, at)| LiveSecret { sha256, not_after: second(at) }).collect();
            Handle::Registry { registry: registry.parse().unwrap(), repositories, actions, secrets }
        });
    let jwt =
        ("[ -~]{0,64}", "[ -~äß]{0,200}", "([0-9a-f]{32}|[ -~]{0,9})").prop_map(|(jti, aud, claims)| Handle::Jwt { jti, aud, claims });
    prop_oneof![x509, aws, registry, jwt]
}

fn lease() -> impl Strategy<Value = Lease> {
    (0..4_000_000_000_000_i64).prop_flat_map(|issued| (Just(issued), handle(issued / 1000))).prop_flat_map(|(issued, handle)| {
        let names = ("[a-z0-9][a-z0-9-]{0,62}", "[a-z0-9][a-z0-9-]{0,62}", "[ -~äß]{1,200}");
        let reaches = prop::sample::select(vec![Reach::Crl, Reach::Lease, Reach::RoleSessions, Reach::Expiry]);
        let kinds = (0..LeaseState::ALL.len(), prop::sample::select(&CredentialKind::ALL[..]), reaches);
        let times = (-100..900_000_i64, 0..90_000_000_i64, prop::option::of(0..4_000_000_000_000_i64));
        let millis = || 0..4_000_000_000_000_i64;
        let rotation = (
            prop::option::of(millis()),
            0..3_u32,
            prop::option::of((any::<u64>(), millis())),
            any::<bool>(),
            prop::option::of(-100..900_000_i64),
        );
        (any::<[u8; 16]>(), names, any::<(u32, u32)>(), kinds, times, rotation).prop_map(
            move |(id, (role, tenant, subject), (version, generation), (state, kind, reach), (ttl, renew, revoked), rotation)| {
                let issued_at = Timestamp::from_millisecond(issued).unwrap();
                let second = |offset: i64| Timestamp::from_second(issued_at.as_second() + offset).unwrap();
                Lease {
                    id: LeaseId::from_bytes(id),
                    version,
                    role: role.parse().unwrap(),
                    kind,
                    tenant: tenant.parse().unwrap(),
                    subject: subject.try_into().unwrap(),
                    state: LeaseState::ALL[state],
                    issued_at,
                    expires_at: second(ttl),
                    renew_until: second(renew),
                    generation,
                    reach,
                    live_until: second(ttl + 60),
                    revoked_at: revoked.map(|at| Timestamp::from_millisecond(at).unwrap()),
                    renewed_at: rotation.0.map(|at| Timestamp::from_millisecond(at).unwrap()),
                    held_until: rotation.4.map(second),
                    acknowledged: rotation.1,
                    claim: rotation.2.map(|(by, until)| Claim { by: ServerId(by), until: Timestamp::from_millisecond(until).unwrap() }),
                    enrolled: rotation.3,
                    handle: handle.clone(),
                }
            },
        )
    })
}

proptest! {
    #[test]
    fn what_was_encoded_decodes_to_the_same_with_and_without_a_request_key(lease in lease(), key in any::<[u8; 16]>()) {
        let record = encode(&lease);
        prop_assert_eq!(decode(lease.id, &record), Ok(lease.clone()));
        let mut keyed = record;
        keyed[6] = 1;
        keyed.splice(HEADER..HEADER, key);
        prop_assert_eq!(decode(lease.id, &keyed), Ok(lease));
    }

    #[test]
    fn as_json_it_comes_back_too(lease in lease()) {
        let body = serde_json::to_string(&lease).unwrap();
        prop_assert_eq!(serde_json::from_str::<Lease>(&body).unwrap(), lease);
    }

    #[test]
    fn a_cut_or_foreign_record_is_an_error_and_no_panic(lease in lease(), cut in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let record = encode(&lease);
        prop_assert!(decode(lease.id, &record[..cut.index(record.len())]).is_err());
        let _ = decode(lease.id, &noise);
        let mut framed = vec![FORMAT, 0, 0, 0, 1, 1, 0];
        framed.extend(noise);
        let _ = decode(lease.id, &framed);
    }
}

#[test]
fn another_format_is_refused() {
    for format in [FORMAT - 1, FORMAT + 1] {
        let decoded = decode(LeaseId::from_bytes([0; 16]), &[format, 0, 0, 0, 1, 1, 0]);
        assert_eq!(decoded, Err(BadRecord("its format is of another version of this service")));
    }
}
