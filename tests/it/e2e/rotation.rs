//! The short form of `scripts/rotation`: hundreds of leases over two servers and more than a round of rotations, one server killed.

use std::{path::Path, time::Duration};

#[allow(dead_code)] // The example has another mode.
#[path = "../../../examples/rotation/mod.rs"]
mod fleet;

use fleet::{Plan, run};

#[test]
fn none_lapses_none_is_made_twice_and_none_bunch_up_when_a_server_dies() {
    let plan = Plan {
        daypassd: Path::new(env!("CARGO_BIN_EXE_daypassd")).to_owned(),
        servers: 2,
        leases: 600,
        connections: 20,
        // What is left of it after the latest due time is longer than a dead server's claim; and the first round is over before the
        // server dies.
        life: Duration::from_secs(54),
        run: Duration::from_secs(80),
        kill: true,
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let report = runtime.block_on(run(&plan)).expect("it runs");
    assert_eq!(report.breaches, 0, "{:#}", report.json);
    let number = |name: &str| report.json[name].as_u64().expect("a number");
    let lost: u64 = report.json["lost_streams"].as_object().expect("an object").values().filter_map(serde_json::Value::as_u64).sum();
    assert!(number("rotations") > 1_000 && lost >= 250, "it did what it says: {:#}", report.json);
}
