//! What every store must do.

use std::collections::BTreeSet;

use daypass::{
    model::{
        SignedDuration, Timestamp,
        lease::{Change, Lease, LeaseFilter, LeaseId, LeaseState},
        revocation::{RevocationList, RevokedSerial},
    },
    store::{LeaseStore, NewLease, Put, Stats, Swap, TokenUseKey},
};
use futures::{
    FutureExt,
    future::{BoxFuture, join_all, try_join_all},
};

use super::leases::{
    RETENTION, activated, at, ca, changed, expired, lease, lease_at, list, lists_of_every_kind, new, of_every_kind, renewed, revoked,
    revoking,
};

/// A check, on a store that is empty.
pub type Check = for<'a> fn(&'a dyn LeaseStore) -> BoxFuture<'a, ()>;

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// Every check with its name.
        pub const CHECKS: &[(&str, Check)] = &[$((stringify!($name), |store| $name(store).boxed())),*];

        /// Makes one test of each check; `$store` gives what keeps the store alive, and the store.
        macro_rules! each_check {
            ($store:expr) => {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $name() {
                        let (_held, store) = $store;
                        let checks = crate::store::conformance::CHECKS;
                        let (_, check) = checks.iter().find(|(name, _)| *name == stringify!($name)).unwrap();
                        check(&store).await;
                    }
                )*
            };
        }
        pub(super) use each_check;
    };
}

checks! {
    put_stores_and_a_repeat_stores_again,
    another_lease_with_a_taken_id_is_an_error,
    a_request_key_gives_the_live_lease_and_is_free_after_it,
    one_request_key_concurrently_gives_one_lease,
    a_token_is_used_once_until_it_is_forgotten,
    one_token_concurrently_stores_once,
    who_repeats_a_request_may_use_its_token_again,
    a_token_renews_once_but_for_its_retry,
    a_crl_number_is_never_under_its_floor,
    a_request_that_is_repeated_is_no_replay,
    caps_count_live_leases_only,
    concurrent_puts_against_caps_let_exactly_the_cap_through,
    a_refused_put_leaves_nothing,
    get_keeps_order_and_gaps,
    swap_writes_over_the_version_before_only,
    concurrent_swaps_let_one_win,
    swap_in_a_batch_answers_each_in_order,
    list_filters_by_each_field_and_every_combination,
    list_pages_in_order_over_all_partitions,
    pages_are_stable_while_leases_come_and_end,
    issued_before_is_exact_to_the_millisecond,
    due_gives_the_longest_waiting_first,
    purge_removes_ended_leases_in_the_version_given,
    restore_writes_what_is_missing_or_older,
    an_emptied_store_can_be_rebuilt_and_counts_again,
    the_revocation_list_grows_once_for_each_serial,
    crl_numbers_grow_strictly_over_concurrent_callers,
    revocation_lists_of_cas_are_apart,
    leases_of_every_kind_come_back_as_they_were,
    a_reservation_is_due_after_its_grace_until_it_is_activated,
    revocation_lists_of_every_kind_are_kept_by_name,
    stats_count_live_leases_and_the_oldest_due,
    many_tenants_share_the_partitions,
    the_incarnation_stays,
}

async fn put_stores_and_a_repeat_stores_again(store: &dyn LeaseStore) {
    let first = lease("acme", "web", "spiffe://acme/a");
    let put = NewLease { request_key: Some([7; 16]), tenant_cap: 1, caller_cap: 1, token_use: Some(token(9, 100)), ..new(&first) };
    assert_eq!(store.put(&put).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&put).await.unwrap(), Put::Stored);
    assert_eq!(store.get(&[first.id]).await.unwrap(), [Some(first.clone())]);
    assert_eq!(store.stats().await.unwrap().live, 1);
    // A repeat that comes after the next change is one still.
    assert_eq!(store.swap(&[renewed(&first)]).await.unwrap(), [Swap::Done]);
    assert_eq!(store.put(&put).await.unwrap(), Put::Stored);
    assert_eq!(store.get(&[first.id]).await.unwrap(), [Some(renewed(&first))]);
}

async fn another_lease_with_a_taken_id_is_an_error(store: &dyn LeaseStore) {
    let first = stored(store, lease("acme", "web", "spiffe://acme/a")).await;
    let other = Lease { role: "db".parse().unwrap(), ..first.clone() };
    assert!(store.put(&new(&other)).await.is_err());
    assert_eq!(store.get(&[first.id]).await.unwrap(), [Some(first)]);
}

async fn a_request_key_gives_the_live_lease_and_is_free_after_it(store: &dyn LeaseStore) {
    let keyed = |lease: &Lease| NewLease { request_key: Some([7; 16]), ..new(lease) };
    let first = lease("acme", "web", "spiffe://acme/a");
    assert_eq!(store.put(&keyed(&first)).await.unwrap(), Put::Stored);
    let second = lease("acme", "web", "spiffe://acme/a");
    assert_eq!(store.put(&keyed(&second)).await.unwrap(), Put::Existing(Box::new(first.clone())));

    let first = renewed(&first);
    assert_eq!(store.swap(std::slice::from_ref(&first)).await.unwrap(), [Swap::Done]);
    assert_eq!(store.put(&keyed(&second)).await.unwrap(), Put::Existing(Box::new(first.clone())));
    let first = revoking(&first);
    assert_eq!(store.swap(std::slice::from_ref(&first)).await.unwrap(), [Swap::Done]);
    assert_eq!(store.put(&keyed(&second)).await.unwrap(), Put::Existing(Box::new(first.clone())));

    let ended = changed(&first, Change::FinishRevoke { live_until: first.expires_at });
    assert_eq!(store.swap(&[ended]).await.unwrap(), [Swap::Done]);
    assert_eq!(store.put(&keyed(&second)).await.unwrap(), Put::Stored);
    let third = lease("acme", "web", "spiffe://acme/a");
    assert_eq!(store.put(&keyed(&third)).await.unwrap(), Put::Existing(Box::new(second)));
}

async fn one_request_key_concurrently_gives_one_lease(store: &dyn LeaseStore) {
    let puts: Vec<NewLease> =
        (0..40).map(|_| NewLease { request_key: Some([8; 16]), ..new(&lease("acme", "web", "spiffe://acme/a")) }).collect();
    let outcomes = try_join_all(puts.iter().map(|put| store.put(put))).await.unwrap();
    let winners: Vec<usize> = (0..puts.len()).filter(|n| outcomes[*n] == Put::Stored).collect();
    assert_eq!(winners.len(), 1);
    let winner = &puts[winners[0]].lease;
    for (n, outcome) in outcomes.iter().enumerate() {
        assert!(n == winners[0] || *outcome == Put::Existing(Box::new(winner.clone())), "{outcome:?}");
    }
    assert_eq!(everything(store).await, std::slice::from_ref(winner));
}

async fn a_token_is_used_once_until_it_is_forgotten(store: &dyn LeaseStore) {
    let with = |token: TokenUseKey| NewLease { token_use: Some(token), ..new(&lease("acme", "web", "oidc:ci:a")) };
    assert_eq!(store.put(&with(token(1, 100))).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&with(token(1, 100))).await.unwrap(), Put::TokenReplayed);
    assert_eq!(store.put(&with(token(2, 200))).await.unwrap(), Put::Stored);
    // The time itself is still within.
    store.purge(&[], at(100)).await.unwrap();
    assert_eq!(store.put(&with(token(1, 100))).await.unwrap(), Put::TokenReplayed);
    store.purge(&[], at(101)).await.unwrap();
    assert_eq!(store.put(&with(token(2, 200))).await.unwrap(), Put::TokenReplayed);
    assert_eq!(store.put(&with(token(1, 100))).await.unwrap(), Put::Stored);
}

async fn one_token_concurrently_stores_once(store: &dyn LeaseStore) {
    let puts: Vec<NewLease> =
        (0..100).map(|_| NewLease { token_use: Some(token(3, 100)), ..new(&lease("acme", "web", "oidc:ci:a")) }).collect();
    let outcomes = try_join_all(puts.iter().map(|put| store.put(put))).await.unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Put::Stored).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Put::TokenReplayed).count(), 99);
    assert_eq!(everything(store).await.len(), 1);
}

async fn a_request_that_is_repeated_is_no_replay(store: &dyn LeaseStore) {
    let first = lease("acme", "web", "oidc:ci:a");
    let put = |lease: &Lease| NewLease { request_key: Some([9; 16]), token_use: Some(token(4, 100)), ..new(lease) };
    assert_eq!(store.put(&put(&first)).await.unwrap(), Put::Stored);
    let again = lease("acme", "web", "oidc:ci:a");
    assert_eq!(store.put(&put(&again)).await.unwrap(), Put::Existing(Box::new(first.clone())));
    store.swap(&[expired(&first)]).await.unwrap();
    assert_eq!(store.put(&put(&again)).await.unwrap(), Put::TokenReplayed);
}

async fn who_repeats_a_request_may_use_its_token_again(store: &dyn LeaseStore) {
    let with = |retry: Option<[u8; 16]>| NewLease {
        token_use: Some(TokenUseKey { retry, ..token(6, 100) }),
        ..new(&lease("acme", "web", "oidc:ci:a"))
    };
    assert_eq!(store.put(&with(Some([60; 16]))).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&with(None)).await.unwrap(), Put::TokenReplayed);
    assert_eq!(store.put(&with(Some([61; 16]))).await.unwrap(), Put::TokenReplayed);
    assert_eq!(store.put(&with(Some([60; 16]))).await.unwrap(), Put::Stored);
    store.purge(&[], at(101)).await.unwrap();
    assert_eq!(store.put(&with(Some([61; 16]))).await.unwrap(), Put::Stored, "forgotten, and with it who may repeat it");
    assert_eq!(store.put(&with(Some([60; 16]))).await.unwrap(), Put::TokenReplayed);
}

async fn a_token_renews_once_but_for_its_retry(store: &dyn LeaseStore) {
    let tenant = "acme".parse().unwrap();
    let with = |retry: u8| TokenUseKey { retry: Some([retry; 16]), ..token(7, 100) };
    let uses = try_join_all((0..50).map(|n| {
        let tenant = &tenant;
        async move { store.use_token(tenant, &with(100 + n)).await }
    }))
    .await
    .unwrap();
    assert_eq!(uses.iter().filter(|first| **first).count(), 1);
    let winner = 100 + u8::try_from(uses.iter().position(|first| *first).unwrap()).unwrap();
    assert!(store.use_token(&tenant, &with(winner)).await.unwrap());
    let put = NewLease { token_use: Some(token(7, 100)), ..new(&lease("acme", "web", "oidc:ci:a")) };
    assert_eq!(store.put(&put).await.unwrap(), Put::TokenReplayed, "what renewed issues nothing");
}

async fn a_crl_number_is_never_under_its_floor(store: &dyn LeaseStore) {
    let ca = ca();
    assert_eq!(store.next_crl_number(&ca, 1_800_000_000_000).await.unwrap(), 1_800_000_000_000);
    assert_eq!(store.next_crl_number(&ca, 5).await.unwrap(), 1_800_000_000_001);
    assert_eq!(store.next_crl_number(&ca, 1_800_000_000_001).await.unwrap(), 1_800_000_000_002);
}

async fn caps_count_live_leases_only(store: &dyn LeaseStore) {
    let put = |subject: &str| NewLease { tenant_cap: 3, caller_cap: 2, ..new(&lease("acme", "web", subject)) };
    let (first, second, third) = (put("spiffe://acme/a"), put("spiffe://acme/a"), put("spiffe://acme/b"));
    assert_eq!(store.put(&first).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&second).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&put("spiffe://acme/a")).await.unwrap(), Put::CallerCap);
    assert_eq!(store.put(&third).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&put("spiffe://acme/a")).await.unwrap(), Put::TenantCap);
    assert_eq!(store.put(&put("spiffe://acme/c")).await.unwrap(), Put::TenantCap);
    // The same subject in another tenant is another caller, whatever its partition.
    let other = NewLease { tenant_cap: 1, caller_cap: 1, ..new(&lease("globex", "web", "spiffe://acme/a")) };
    assert_eq!(store.put(&other).await.unwrap(), Put::Stored);

    // One that is on its way to be revoked still counts; one that has ended does not.
    store.swap(&[revoking(&first.lease)]).await.unwrap();
    assert_eq!(store.put(&put("spiffe://acme/c")).await.unwrap(), Put::TenantCap);
    store.swap(&[revoked(&first.lease)]).await.unwrap();
    assert_eq!(store.put(&put("spiffe://acme/a")).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&put("spiffe://acme/b")).await.unwrap(), Put::TenantCap);
    store.swap(&[expired(&second.lease), expired(&third.lease)]).await.unwrap();
    assert_eq!(store.put(&put("spiffe://acme/a")).await.unwrap(), Put::Stored);
    assert_eq!(store.put(&put("spiffe://acme/a")).await.unwrap(), Put::CallerCap);
    let none = NewLease { tenant_cap: 0, ..new(&lease("initech", "web", "spiffe://initech/a")) };
    assert_eq!(store.put(&none).await.unwrap(), Put::TenantCap);
}

async fn concurrent_puts_against_caps_let_exactly_the_cap_through(store: &dyn LeaseStore) {
    let subjects = ["spiffe://acme/a", "spiffe://acme/b", "spiffe://acme/c"];
    let puts: Vec<NewLease> =
        (0..120).map(|n| NewLease { tenant_cap: 25, caller_cap: 10, ..new(&lease("acme", "web", subjects[n % subjects.len()])) }).collect();
    let outcomes = try_join_all(puts.iter().map(|put| store.put(put))).await.unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Put::Stored).count(), 25);
    let kept = everything(store).await;
    assert_eq!(kept.len(), 25);
    for subject in subjects {
        assert!(kept.iter().filter(|lease| lease.subject.as_str() == subject).count() <= 10);
    }
    assert_eq!(store.stats().await.unwrap().live, 25);
}

async fn a_refused_put_leaves_nothing(store: &dyn LeaseStore) {
    let refused = lease("acme", "web", "oidc:ci:a");
    let put = NewLease { caller_cap: 0, request_key: Some([1; 16]), token_use: Some(token(5, 100)), ..new(&refused) };
    assert_eq!(store.put(&put).await.unwrap(), Put::CallerCap);
    assert_eq!(store.get(&[refused.id]).await.unwrap(), [None]);
    assert_eq!(store.stats().await.unwrap(), Stats::default());
    // Neither its request key nor its token is taken.
    assert_eq!(store.put(&NewLease { caller_cap: 1, ..put }).await.unwrap(), Put::Stored);
}

async fn get_keeps_order_and_gaps(store: &dyn LeaseStore) {
    let leases: Vec<Lease> = ["acme", "globex", "initech"].map(|tenant| lease(tenant, "web", "spiffe://x/a")).into();
    for lease in &leases {
        stored(store, lease.clone()).await;
    }
    let unknown = lease("acme", "web", "spiffe://x/a");
    let ids = [leases[2].id, unknown.id, leases[0].id, leases[2].id, leases[1].id];
    let expected = [Some(&leases[2]), None, Some(&leases[0]), Some(&leases[2]), Some(&leases[1])].map(Option::<&Lease>::cloned);
    assert_eq!(store.get(&ids).await.unwrap(), expected);
    assert_eq!(store.get(&[]).await.unwrap(), []);
    // A caller may ask for any UUID.
    let foreign = [[0; 16], [0xff; 16], *b"0123456789abcdef"].map(LeaseId::from_bytes);
    assert_eq!(store.get(&foreign).await.unwrap(), [None, None, None]);
    let mut twin = *leases[0].id.as_bytes();
    twin[6] ^= 0x10;
    assert_eq!(store.get(&[LeaseId::from_bytes(twin)]).await.unwrap(), [None], "the same but for the version of the UUID");
    for after in foreign {
        let page = store.list(&LeaseFilter::default(), Some(after), 10).await.unwrap();
        assert_eq!(page.leases, leases.iter().filter(|lease| lease.id > after).cloned().collect::<Vec<_>>());
    }
}

async fn swap_writes_over_the_version_before_only(store: &dyn LeaseStore) {
    let first = stored(store, lease("acme", "web", "spiffe://acme/a")).await;
    let second = renewed(&first);
    let third = renewed(&second);
    assert_eq!(store.swap(std::slice::from_ref(&third)).await.unwrap(), [Swap::Conflict]);
    assert_eq!(store.swap(std::slice::from_ref(&second)).await.unwrap(), [Swap::Done]);
    assert_eq!(store.swap(std::slice::from_ref(&second)).await.unwrap(), [Swap::Done], "a repeat");
    assert_eq!(store.swap(&[revoking(&first)]).await.unwrap(), [Swap::Conflict], "another change of the same version");
    assert_eq!(store.swap(&[first]).await.unwrap(), [Swap::Conflict], "an older version");
    assert_eq!(store.get(&[second.id]).await.unwrap(), [Some(second)]);
    let unknown = lease("acme", "web", "spiffe://acme/a");
    assert_eq!(store.swap(&[renewed(&unknown)]).await.unwrap(), [Swap::Missing]);
    assert_eq!(store.get(&[unknown.id]).await.unwrap(), [None]);
    assert_eq!(store.swap(&[]).await.unwrap(), []);
}

async fn concurrent_swaps_let_one_win(store: &dyn LeaseStore) {
    let first = stored(store, lease("acme", "web", "spiffe://acme/a")).await;
    let rivals: Vec<Lease> =
        (0..50).map(|n| changed(&first, Change::BeginRevoke { at: first.issued_at + SignedDuration::from_secs(n) })).collect();
    let outcomes = join_all(rivals.iter().map(|rival| store.swap(std::slice::from_ref(rival)))).await;
    let winners: Vec<&Lease> =
        rivals.iter().zip(&outcomes).filter(|(_, outcome)| *outcome.as_ref().unwrap() == [Swap::Done]).map(|(rival, _)| rival).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(store.get(&[first.id]).await.unwrap(), [Some(winners[0].clone())]);
}

async fn swap_in_a_batch_answers_each_in_order(store: &dyn LeaseStore) {
    let mut leases = Vec::new();
    for tenant in ["acme", "globex", "initech", "umbrella"] {
        leases.push(stored(store, lease(tenant, "web", "spiffe://x/a")).await);
    }
    let unknown = lease("acme", "web", "spiffe://x/a");
    let twice = renewed(&leases[0]);
    let batch = [
        revoking(&leases[3]),
        renewed(&unknown),
        twice.clone(),
        renewed(&twice),
        renewed(&renewed(&leases[1])),
        revoked(&leases[2]),
        revoking(&leases[2]),
    ];
    assert_eq!(
        store.swap(&batch).await.unwrap(),
        [Swap::Done, Swap::Missing, Swap::Done, Swap::Done, Swap::Conflict, Swap::Conflict, Swap::Done]
    );
}

async fn list_filters_by_each_field_and_every_combination(store: &dyn LeaseStore) {
    let all = population(store).await;
    let roles = [None, Some("web"), Some("db"), Some("none")];
    let tenants = [None, Some("acme"), Some("acme-2"), Some("none")];
    let subjects = [None, Some("spiffe://x/a"), Some("spiffe://x/b"), Some("spiffe://x/none")];
    let states = [None].into_iter().chain(LeaseState::ALL.map(Some));
    let times = [None, Some(all[all.len() / 2].issued_at)];
    for state in states {
        for role in roles {
            for tenant in tenants {
                let found = subjects.iter().flat_map(|subject| times.map(|time| (subject, time))).map(async |(subject, issued_before)| {
                    let filter = LeaseFilter {
                        role: role.map(|role| role.parse().unwrap()),
                        tenant: tenant.map(|tenant| tenant.parse().unwrap()),
                        subject: subject.map(|subject| subject.to_owned().try_into().unwrap()),
                        state,
                        issued_before,
                    };
                    let expected: Vec<Lease> = all.iter().filter(|lease| filter.matches(lease)).cloned().collect();
                    assert_eq!(pages(store, &filter, 7).await, expected, "{filter:?}");
                });
                join_all(found).await;
            }
        }
    }
}

async fn list_pages_in_order_over_all_partitions(store: &dyn LeaseStore) {
    let all = population(store).await;
    assert!(all.iter().map(|lease| lease.id.partition()).collect::<BTreeSet<_>>().len() > 2);
    for limit in [1, 2, 10, 1000] {
        assert_eq!(pages(store, &LeaseFilter::default(), limit).await, all);
    }
    let page = store.list(&LeaseFilter::default(), Some(all[all.len() - 1].id), 10).await.unwrap();
    assert_eq!((page.leases, page.next), (vec![], None));
}

async fn pages_are_stable_while_leases_come_and_end(store: &dyn LeaseStore) {
    let mut all = population(store).await;
    let filter = LeaseFilter::default();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(&filter, after, 5).await.unwrap();
        assert!(page.leases.len() <= 5);
        seen.extend(page.leases.iter().map(|lease| lease.id));
        after = page.next;
        if after.is_none() {
            break;
        }
        if seen.len() < all.len() {
            // One comes at the end of the order, and one that is still ahead ends.
            let late = lease("globex", "web", "spiffe://x/late");
            stored(store, late).await;
            let ahead = all.iter_mut().rev().find(|lease| lease.state == LeaseState::Active).unwrap();
            *ahead = expired(ahead);
            store.swap(std::slice::from_ref(ahead)).await.unwrap();
        }
        assert!(seen.len() < 10 * all.len());
    }
    let ids: Vec<LeaseId> = all.iter().map(|lease| lease.id).collect();
    assert_eq!(seen[..ids.len()], ids, "each exactly once, in order");
    assert!(seen.is_sorted());
}

async fn issued_before_is_exact_to_the_millisecond(store: &dyn LeaseStore) {
    let millis = |n: i64| Timestamp::from_millisecond(at(0).as_millisecond() + n).unwrap();
    let mut leases = Vec::new();
    for n in 0..3 {
        leases.push(stored(store, lease_at(millis(n), "acme", "web", "spiffe://acme/a")).await);
    }
    for (before, count) in [
        (millis(0), 0),
        (millis(1), 1),
        (millis(1) + SignedDuration::from_micros(1), 2),
        (millis(2), 2),
        (millis(3), 3),
        (Timestamp::MIN, 0),
        (Timestamp::MAX, 3),
    ] {
        let filter = LeaseFilter { issued_before: Some(before), ..LeaseFilter::default() };
        assert_eq!(pages(store, &filter, 10).await, leases[..count], "{before}");
    }
}

async fn due_gives_the_longest_waiting_first(store: &dyn LeaseStore) {
    let mut leases = Vec::new();
    for (n, tenant) in ["acme", "globex", "initech", "umbrella", "acme", "globex"].iter().enumerate() {
        let issued = at(100 - 10 * i64::try_from(n).unwrap());
        leases.push(stored(store, lease_at(issued, tenant, "web", "spiffe://x/a")).await);
    }
    // Due times fall with the number: the last is due first.
    let first_due = leases[5].expires_at;
    assert_eq!(store.due(first_due - SignedDuration::from_secs(1), 10).await.unwrap(), []);
    assert_eq!(store.due(first_due, 10).await.unwrap(), [leases[5].clone()]);
    let mut by_wait: Vec<Lease> = leases.iter().rev().cloned().collect();
    assert_eq!(store.due(at(1_000_000), 10).await.unwrap(), by_wait);
    assert_eq!(store.due(at(1_000_000), 4).await.unwrap(), by_wait[..4]);

    // A revocation is due soon after it began; what has ended, after its retention.
    let open = revoking(&leases[0]);
    let ended = expired(&leases[5]);
    store.swap(&[open.clone(), ended.clone()]).await.unwrap();
    assert_eq!(store.due(open.revoked_at.unwrap() + daypass::store::OPEN_GRACE, 10).await.unwrap(), std::slice::from_ref(&open));
    by_wait.retain(|lease| lease.id != open.id && lease.id != ended.id);
    by_wait.insert(0, open);
    by_wait.push(ended.clone());
    assert_eq!(store.due(ended.expires_at + RETENTION, 10).await.unwrap(), by_wait);
    assert_eq!(store.due(ended.expires_at + RETENTION - SignedDuration::from_secs(1), 10).await.unwrap(), by_wait[..5]);
}

async fn purge_removes_ended_leases_in_the_version_given(store: &dyn LeaseStore) {
    let live = stored(store, lease("acme", "web", "spiffe://acme/a")).await;
    let gone = ended(store, lease("acme", "web", "spiffe://acme/a")).await;
    let other = ended(store, lease("globex", "db", "spiffe://globex/a")).await;
    let stale = Lease { version: other.version - 1, ..other.clone() };
    for _ in 0..2 {
        store.purge(&[live.clone(), gone.clone(), stale.clone()], at(0)).await.unwrap();
        assert_eq!(store.get(&[live.id, gone.id, other.id]).await.unwrap(), [Some(live.clone()), None, Some(other.clone())]);
    }
    assert_eq!(everything(store).await, [live.clone(), other.clone()]);
    let by_subject = LeaseFilter { subject: Some(live.subject.clone()), ..LeaseFilter::default() };
    assert_eq!(pages(store, &by_subject, 10).await, std::slice::from_ref(&live));
    assert_eq!(store.due(at(1_000_000), 10).await.unwrap(), [live.clone(), other]);
    assert_eq!(store.stats().await.unwrap().live, 1);
}

async fn restore_writes_what_is_missing_or_older(store: &dyn LeaseStore) {
    let old = stored(store, lease("acme", "web", "spiffe://acme/a")).await;
    let newer = stored(store, lease("globex", "web", "spiffe://globex/a")).await;
    let newest = renewed(&newer);
    store.swap(std::slice::from_ref(&newest)).await.unwrap();
    let missing = lease("initech", "web", "spiffe://initech/a");
    // More than one version on: the log may know changes that the store lost.
    let ahead = revoked(&renewed(&old));
    let batch = [ahead.clone(), newer, missing.clone()];
    assert_eq!(store.restore(&batch).await.unwrap(), 2);
    assert_eq!(store.restore(&batch).await.unwrap(), 0);
    assert_eq!(
        store.get(&[ahead.id, newest.id, missing.id]).await.unwrap(),
        [Some(ahead.clone()), Some(newest.clone()), Some(missing.clone())]
    );
    assert_eq!(store.stats().await.unwrap().live, 2);
    // The caps follow: the restored one fills its tenant, the ended one frees its own.
    let cap_of_one = |tenant: &str| NewLease { tenant_cap: 1, ..new(&lease(tenant, "web", "spiffe://x/new")) };
    assert_eq!(store.put(&cap_of_one("initech")).await.unwrap(), Put::TenantCap);
    assert_eq!(store.put(&cap_of_one("acme")).await.unwrap(), Put::Stored);
    let revoked = LeaseFilter { state: Some(LeaseState::Revoked), ..LeaseFilter::default() };
    assert_eq!(pages(store, &revoked, 10).await, [ahead]);
}

async fn an_emptied_store_can_be_rebuilt_and_counts_again(store: &dyn LeaseStore) {
    let leases: Vec<Lease> = (0..200).map(|n| lease(&format!("tenant-{}", n % 9), "web", "spiffe://x/a")).collect();
    assert_eq!(store.restore(&leases).await.unwrap(), 200);
    assert_eq!(everything(store).await, leases);
    assert_eq!(store.stats().await.unwrap().live, 200);
    let ended: Vec<Lease> = leases.iter().map(expired).collect();
    assert!(store.swap(&ended).await.unwrap().iter().all(|outcome| *outcome == Swap::Done));
    assert_eq!(store.stats().await.unwrap().live, 0);
    store.purge(&ended, at(0)).await.unwrap();
    assert_eq!(store.stats().await.unwrap(), Stats::default());
    assert_eq!(everything(store).await, []);
}

async fn the_revocation_list_grows_once_for_each_serial(store: &dyn LeaseStore) {
    let main = list();
    assert_eq!(store.revocation_revision(&main).await.unwrap(), 0);
    assert_eq!(store.revoked(&main, at(0)).await.unwrap(), (0, vec![]));
    let serials: Vec<RevokedSerial> = (0..30).map(|n| serial(n, 100 + n)).collect();
    store.add_revoked(&main, &serials[..20]).await.unwrap();
    assert_eq!(store.revocation_revision(&main).await.unwrap(), 1);
    store.add_revoked(&main, &serials[..20]).await.unwrap();
    store.add_revoked(&main, &[]).await.unwrap();
    assert_eq!(store.revocation_revision(&main).await.unwrap(), 1, "nothing was new");
    store.add_revoked(&main, &serials[10..]).await.unwrap();
    assert_eq!(store.revocation_revision(&main).await.unwrap(), 2);
    // The first time of a revocation stands.
    store.add_revoked(&main, &[RevokedSerial { revoked_at: at(77), ..serials[0].clone() }]).await.unwrap();
    assert_eq!(list_of(store, 0).await, (2, serials.clone()));
    assert_eq!(list_of(store, 110).await, (2, serials[10..].to_vec()), "a certificate is named until it has expired");
    store.purge(&[], at(110)).await.unwrap();
    assert_eq!(list_of(store, 0).await, (2, serials[10..].to_vec()));
    assert_eq!(store.revocation_revision(&main).await.unwrap(), 2);
}

async fn crl_numbers_grow_strictly_over_concurrent_callers(store: &dyn LeaseStore) {
    let (main, other) = (ca(), "other".parse().unwrap());
    assert_eq!(store.next_crl_number(&main, 0).await.unwrap(), 1);
    let mut numbers = try_join_all((0..100).map(|_| store.next_crl_number(&main, 0))).await.unwrap();
    numbers.sort_unstable();
    assert_eq!(numbers, (2..102).collect::<Vec<u64>>());
    assert_eq!(store.next_crl_number(&main, 0).await.unwrap(), 102);
    assert_eq!(store.next_crl_number(&other, 0).await.unwrap(), 1);
    assert_eq!(store.revocation_revision(&list()).await.unwrap(), 0);
}

async fn revocation_lists_of_cas_are_apart(store: &dyn LeaseStore) {
    let (main, other) = (list(), RevocationList::Crl("other".parse().unwrap()));
    store.add_revoked(&main, &[serial(1, 100)]).await.unwrap();
    store.add_revoked(&other, &[serial(1, 100), serial(2, 200)]).await.unwrap();
    assert_eq!(store.revoked(&main, at(0)).await.unwrap(), (1, vec![serial(1, 100)]));
    let (revision, mut serials) = store.revoked(&other, at(0)).await.unwrap();
    serials.sort_by_key(|serial| serial.not_after);
    assert_eq!((revision, serials), (1, vec![serial(1, 100), serial(2, 200)]));
}

async fn leases_of_every_kind_come_back_as_they_were(store: &dyn LeaseStore) {
    let leases = of_every_kind();
    for lease in &leases {
        stored(store, lease.clone()).await;
    }
    assert_eq!(everything(store).await, leases);
    let next: Vec<Lease> =
        leases.iter().map(|lease| if lease.state == LeaseState::Pending { activated(lease) } else { renewed(lease) }).collect();
    assert!(store.swap(&next).await.unwrap().iter().all(|swap| *swap == Swap::Done));
    assert_eq!(everything(store).await, next);
    let revoked: Vec<Lease> = next.iter().map(revoked).collect();
    assert_eq!(store.restore(&revoked).await.unwrap(), revoked.len());
    assert_eq!(everything(store).await, revoked);
}

async fn a_reservation_is_due_after_its_grace_until_it_is_activated(store: &dyn LeaseStore) {
    let pending = of_every_kind().into_iter().find(|lease| lease.state == LeaseState::Pending).unwrap();
    let pending = stored(store, pending).await;
    assert_eq!(store.stats().await.unwrap().live, 1, "it counts against the caps");
    let grace = pending.issued_at + daypass::store::OPEN_GRACE;
    assert_eq!(store.due(grace - SignedDuration::from_millis(1), 10).await.unwrap(), []);
    assert_eq!(store.due(grace, 10).await.unwrap(), std::slice::from_ref(&pending));
    let active = activated(&pending);
    assert_eq!(store.swap(std::slice::from_ref(&active)).await.unwrap(), [Swap::Done]);
    assert_eq!(store.due(grace, 10).await.unwrap(), []);
    assert_eq!(store.due(active.expires_at, 10).await.unwrap(), [active]);

    let other = stored(store, Lease { id: lease("acme", "web", "spiffe://acme/a").id, ..pending.clone() }).await;
    let void = changed(&other, Change::Void { at: at(3) });
    assert_eq!(store.swap(std::slice::from_ref(&void)).await.unwrap(), [Swap::Done]);
    assert_eq!(store.stats().await.unwrap().live, 1, "what was never made counts no more");
    let late = changed(&other, Change::Activate { expires_at: at(900), handle: other.handle.clone() });
    assert_eq!(store.swap(&[late]).await.unwrap(), [Swap::Conflict], "whoever came first");
}

async fn revocation_lists_of_every_kind_are_kept_by_name(store: &dyn LeaseStore) {
    assert_eq!(store.revocation_lists().await.unwrap(), []);
    store.next_crl_number(&"numbered".parse().unwrap(), 0).await.unwrap();
    assert_eq!(store.revocation_lists().await.unwrap(), [], "a CRL without entries is no list");
    let lists = lists_of_every_kind();
    assert_eq!(lists.len(), 4, "a CA, and a role by tag, by name and by time");
    for (n, list) in (0_i64..).zip(&lists) {
        store.add_revoked(list, &[serial(n, 100 + n)]).await.unwrap();
    }
    assert_eq!(store.revocation_lists().await.unwrap(), lists);
    for (n, list) in (0_i64..).zip(&lists) {
        assert_eq!(store.revoked(list, at(0)).await.unwrap(), (1, vec![serial(n, 100 + n)]), "{list}");
        assert_eq!(store.revocation_revision(list).await.unwrap(), 1);
    }
    store.purge(&[], at(102)).await.unwrap();
    let left: Vec<usize> = join_all(lists.iter().map(async |list| store.revoked(list, at(0)).await.unwrap().1.len())).await;
    assert_eq!(left, [0, 0, 1, 1], "entries lapse on every list");
    assert_eq!(store.revocation_lists().await.unwrap(), lists, "and a list is known for good");
}

async fn stats_count_live_leases_and_the_oldest_due(store: &dyn LeaseStore) {
    assert_eq!(store.stats().await.unwrap(), Stats { live: 0, oldest_due: None });
    let first = stored(store, lease_at(at(50), "acme", "web", "spiffe://acme/a")).await;
    let second = stored(store, lease_at(at(10), "globex", "web", "spiffe://globex/a")).await;
    assert_eq!(store.stats().await.unwrap(), Stats { live: 2, oldest_due: Some(second.expires_at) });
    store.swap(&[expired(&second)]).await.unwrap();
    assert_eq!(store.stats().await.unwrap(), Stats { live: 1, oldest_due: Some(first.expires_at) });
    store.swap(&[expired(&first)]).await.unwrap();
    assert_eq!(store.stats().await.unwrap(), Stats { live: 0, oldest_due: Some(second.expires_at + RETENTION) });
}

async fn many_tenants_share_the_partitions(store: &dyn LeaseStore) {
    let leases: Vec<Lease> = (0..300).map(|n| lease(&format!("tenant-{}", n % 150), "web", "spiffe://x/a")).collect();
    let puts: Vec<NewLease> = leases.iter().map(|lease| NewLease { tenant_cap: 2, ..new(lease) }).collect();
    let outcomes = try_join_all(puts.iter().map(|put| store.put(put))).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Put::Stored));
    assert_eq!(everything(store).await, leases);
    let subject = LeaseFilter { subject: Some(leases[0].subject.clone()), ..LeaseFilter::default() };
    assert_eq!(pages(store, &subject, 100).await, leases, "one subject under many tenants");
    for n in 0..150 {
        let filter = LeaseFilter { tenant: Some(leases[n].tenant.clone()), ..LeaseFilter::default() };
        assert_eq!(pages(store, &filter, 10).await, [leases[n].clone(), leases[n + 150].clone()]);
    }
}

async fn the_incarnation_stays(store: &dyn LeaseStore) {
    let incarnation = store.incarnation().await.unwrap();
    assert!(incarnation.len() >= 16);
    stored(store, lease("acme", "web", "spiffe://acme/a")).await;
    assert_eq!(store.incarnation().await.unwrap(), incarnation);
}

/// Every lease that matches, page by page.
pub async fn pages(store: &dyn LeaseStore, filter: &LeaseFilter, limit: usize) -> Vec<Lease> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(filter, after, limit).await.unwrap();
        assert!(page.leases.len() <= limit);
        assert!(page.next.is_none_or(|next| after.is_none_or(|after| after < next)), "paging moves on");
        found.extend(page.leases);
        match page.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

async fn everything(store: &dyn LeaseStore) -> Vec<Lease> {
    pages(store, &LeaseFilter::default(), 50).await
}

async fn stored(store: &dyn LeaseStore, lease: Lease) -> Lease {
    assert_eq!(store.put(&new(&lease)).await.unwrap(), Put::Stored);
    lease
}

async fn ended(store: &dyn LeaseStore, lease: Lease) -> Lease {
    let next = expired(&stored(store, lease).await);
    assert_eq!(store.swap(std::slice::from_ref(&next)).await.unwrap(), [Swap::Done]);
    next
}

/// Leases of several tenants, roles, subjects and states, in the order of their ids.
async fn population(store: &dyn LeaseStore) -> Vec<Lease> {
    let mut all = Vec::new();
    for round in 0..3 {
        for tenant in ["acme", "acme-2", "globex", "initech"] {
            for (role, subject) in [("web", "spiffe://x/a"), ("web", "spiffe://x/b"), ("db", "spiffe://x/a")] {
                let lease = stored(store, lease(tenant, role, subject)).await;
                let path = match (round + role.len() + subject.len() + tenant.len()) % 4 {
                    0 => vec![],
                    1 => vec![revoking(&lease)],
                    2 => vec![revoking(&lease), revoked(&lease)],
                    _ => vec![expired(&lease)],
                };
                for next in &path {
                    assert_eq!(store.swap(std::slice::from_ref(next)).await.unwrap(), [Swap::Done]);
                }
                all.push(path.last().cloned().unwrap_or(lease));
            }
        }
    }
    all
}

async fn list_of(store: &dyn LeaseStore, now: i64) -> (u64, Vec<RevokedSerial>) {
    let (revision, mut serials) = store.revoked(&list(), at(now)).await.unwrap();
    serials.sort_by_key(|serial| serial.not_after);
    (revision, serials)
}

fn token(n: u8, until: i64) -> TokenUseKey {
    TokenUseKey { key: [n; 16], retry: None, until: at(until) }
}

fn serial(n: i64, not_after: i64) -> RevokedSerial {
    RevokedSerial { serial: format!("{n:032x}"), revoked_at: at(n), not_after: at(not_after) }
}
