//! Running services over a Redis that lost everything.

use std::process::Command;

use super::{
    admin::{ca, states},
    servers::{SOON, kids, signs},
};
use crate::{
    e2e::{two_servers::Second, world::World},
    support::{
        parts::{run, wait_until},
        redis::Redis,
    },
};

fn keys_in(redis: &Redis) -> String {
    redis.cli(&["HLEN", "daypass:{shared:keys}:e"])
}

fn ready(port: u16) -> bool {
    run(Command::new("curl").args(["-fsS", &format!("http://127.0.0.1:{port}/readyz")])).ok
}

#[test]
fn a_fresh_server_over_an_emptied_redis_waits_for_who_knows_the_keys() {
    let redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let kid = signs(&world, None);
    // The one that knows them looks second.
    world.signal("STOP");
    redis.cli(&["FLUSHALL"]);
    let second = Second::start_unready(&world);
    assert_eq!((keys_in(&redis).as_str(), ready(second.http)), ("0", false), "its first look is over by now");
    world.signal("CONT");
    wait_until(SOON, "the keys are back", || (kids(second.http) == [kid.as_str()]).then_some(()));
    wait_until(SOON, "the second is ready", || ready(second.http).then_some(()));
    assert_eq!((signs(&world, Some(&second)), signs(&world, None)), (kid.clone(), kid.clone()));
    assert_eq!((kids(world.http), keys_in(&redis).as_str()), (vec![kid], "1"), "no other was made");
}

#[test]
fn who_knows_the_keys_and_comes_late_has_them_back_and_takes_none_away() {
    let redis = Redis::start();
    let world = World::on_redis(&redis.url());
    let kid = signs(&world, None);
    world.signal("STOP");
    redis.cli(&["FLUSHALL"]);
    let second = Second::start(&world);
    let strange = signs(&world, Some(&second));
    assert_ne!(strange, kid);
    world.signal("CONT");
    wait_until(SOON, "the second signs with the key that is known", || (signs(&world, Some(&second)) == kid).then_some(()));
    assert_eq!(signs(&world, None), kid);
    let both = |port: u16| kids(port) == [kid.clone(), strange.clone()];
    wait_until(SOON, "both are published at both", || (both(world.http) && both(second.http)).then_some(()));
    let shown: Vec<_> = states(&ca(&world, &["show", "jwt"]).keys());
    let state = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    assert_eq!(shown, [state("jwt-1", "active"), state("jwt-2", "prepared")]);
    assert!(world.log().contains("two keys had one number"), "{}", world.log());
}

#[test]
fn where_nobody_knows_the_keys_the_next_one_waits_and_an_administrator_may_shorten_it() {
    let redis = Redis::start();
    let mut world = World::on_redis(&redis.url());
    let lost = signs(&world, None);
    world.stop();
    redis.cli(&["FLUSHALL"]);
    // What needs no key of the ring goes on.
    world.start_again();
    world.lease(&world.operator(), "web");
    let refused = world.cli(&world.operator(), ["issue", "federate", "-o", "json"]);
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(String::from_utf8_lossy(&world.fetch("/metrics")).contains("daypass_keys_up{ring=\"jwt\"} 0"));
    assert_eq!(states(&ca(&world, &["show", "jwt"]).keys()), [("jwt-2".to_owned(), "prepared".to_owned())]);
    let [next] = &kids(world.http)[..] else { panic!("one key") };
    assert_ne!(*next, lost);
    assert!(world.log().contains("the store has lost every key of this ring"), "{}", world.log());
    assert_eq!(ca(&world, &["activate", "jwt"]).code, 1, "not as if nothing was the matter");
    assert_eq!(ca(&world, &["activate", "jwt", "--force"]).code, 0);
    assert_eq!(signs(&world, None), *next);
}
