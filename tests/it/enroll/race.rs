//! Many redeem one code at once, at two servers: one of them has it.

use std::{collections::BTreeSet, sync::Arc};

use daypass::model::{error::Code, secret::Secret};
use futures::future::join_all;

use super::world::{Key, World, leaf, operator, origin};

const REDEEMS: usize = 1_000;

/// A thousand keys at two servers, and beside them the first key again and again.
async fn one_of_a_thousand(world: World) {
    let world = Arc::new(world);
    let code: Secret = world.create("acme").await.code;
    let keys: Arc<Vec<Key>> = Arc::new((0..REDEEMS).map(|_| Key::new()).collect());
    let tasks = (0..REDEEMS).flat_map(|n| {
        // Every tenth comes twice, as after a lost answer.
        let times = if n % 10 == 0 { 2 } else { 1 };
        (0..times).map(move |_| n)
    });
    let tasks: Vec<_> = tasks
        .enumerate()
        .map(|(at, n)| {
            let (world, code, keys) = (world.clone(), code.clone(), keys.clone());
            tokio::spawn(async move {
                let server = &world.servers[at % 2];
                (n, server.enrollments.redeem(&origin("EnrollmentService/Redeem"), &code, keys[n].csr()).await)
            })
        })
        .collect();
    let outcomes: Vec<_> = join_all(tasks).await.into_iter().map(|task| task.unwrap()).collect();
    assert_eq!(outcomes.len(), REDEEMS + REDEEMS / 10);

    let mut held = Vec::new();
    let mut away = 0;
    for (n, outcome) in outcomes {
        match outcome {
            Ok(issued) => held.push((n, issued.lease.id, leaf(&issued))),
            Err(error) if error.code() == Code::EnrollmentCode => {}
            // Whoever has waited for too long, or a store that is slow, says so; nothing was given then.
            Err(error) if !error.code().is_refusal() => away += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(away < REDEEMS / 2, "{away} were turned away");
    let distinct: BTreeSet<_> = held.iter().cloned().collect();
    assert!(distinct.len() <= 1, "{} have it", distinct.len());
    let active = world.active().await;
    assert_eq!(active.len(), 1, "one lease");
    let winner = match held.first() {
        Some((n, id, _)) => {
            assert_eq!(*id, active[0].id);
            *n
        }
        // The winner's answer may be among those that were lost: whoever holds its key has it again.
        None => {
            let mut winner = None;
            for (n, key) in keys.iter().enumerate() {
                if world.redeem(&code, key).await.is_ok() {
                    winner = Some(n);
                    break;
                }
            }
            winner.expect("somebody has it")
        }
    };
    let again = world.redeem(&code, &keys[winner]).await.unwrap();
    assert_eq!(again.lease.id, active[0].id, "and has it again");
    assert_eq!(world.active().await.len(), 1);
    assert!(world.servers[0].enrollments.list(&operator(), None).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_a_thousand_redeems_has_it_on_sqlite() {
    one_of_a_thousand(World::on_sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_a_thousand_redeems_has_it_on_redis() {
    one_of_a_thousand(World::on_redis()).await;
}

/// A code that is taken back while it is redeemed: either it was, or it never is.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_code_is_redeemed_or_taken_back_and_never_both() {
    for world in [World::on_sqlite(), World::on_redis()] {
        let world = Arc::new(world);
        for _ in 0..30 {
            let created = world.create("acme").await;
            let (key, before) = (Key::new(), world.active().await.len());
            let (redeeming, deleting) = (world.clone(), world.clone());
            let (code, id) = (created.code.clone(), created.enrollment.id);
            let csr = key.csr();
            let redeem = tokio::spawn(async move { redeeming.servers[0].enrollments.redeem(&origin("x"), &code, csr).await.is_ok() });
            let delete = tokio::spawn(async move { deleting.servers[1].enrollments.delete(&operator(), id).await.is_ok() });
            let (redeemed, deleted) = (redeem.await.unwrap(), delete.await.unwrap());
            assert!(redeemed != deleted, "redeemed: {redeemed}, taken back: {deleted}");
            assert_eq!(world.active().await.len(), before + usize::from(redeemed));
            assert_eq!(world.redeem(&created.code, &key).await.is_ok(), redeemed);
        }
    }
}
