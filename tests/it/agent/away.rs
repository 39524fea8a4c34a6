//! A server that is away for longer than a credential lives.

use daypass::{
    clock::{Clock, SystemClock},
    proto::workload::{X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient as WorkloadClient},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tonic::{Code, Request, Status, transport::Endpoint};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::run::{Agent, PATIENCE, TTL, certificate, leases, log, wait_rotation, world};
use crate::{
    e2e::{wire::block_on, world::World},
    support::parts::wait_until,
};

/// When a certificate expires, in seconds of Unix time.
fn expiry(pem: &str) -> i64 {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    X509Certificate::from_der(&der).unwrap().1.validity().not_after.timestamp()
}

/// What a workload is told at the socket.
fn workload(world: &World) -> Result<(), Status> {
    let endpoint = Endpoint::try_from(format!("unix://{}", world.file("agent/workload.sock").display())).unwrap();
    block_on(async {
        let mut request = Request::new(X509svidRequest {});
        request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
        let mut client = WorkloadClient::new(endpoint.connect().await.unwrap());
        client.fetch_x509svid(request).await?.into_inner().message().await.map(drop)
    })
}

#[test]
fn what_it_had_serves_until_it_expires_and_the_rest_comes_by_itself() {
    let (mut world, health) = world();
    world.edit("agent.toml", TTL, "ttl = \"10s\"");
    let agent = Agent::start(&world, health);
    agent.wait_told("READY=1");
    wait_rotation(&world, None);
    workload(&world).unwrap();
    world.kill();
    wait_until(PATIENCE, "it sees that the server has gone", || {
        (agent.metric("daypass_agent_connected{role=\"web\"}") == 0.0).then_some(())
    });
    let last = certificate(&world).unwrap();

    // Ready to the very end of it, and no longer.
    let body = wait_until(PATIENCE, "it is not ready any more", || {
        let asked_at = SystemClock.now().as_second();
        let (status, body) = agent.get("/readyz");
        assert!(status == 503 || asked_at <= expiry(&last), "ready without a valid credential");
        (status == 503).then_some(body)
    });
    assert!(SystemClock.now().as_second() >= expiry(&last), "it was ready for too short: {body}");
    assert!(body.starts_with("role web: ") && body.lines().count() == 1, "{body}");
    agent.wait_told("STATUS=0 of 1 roles fresh");
    wait_until(PATIENCE, "workloads are told to try again", || {
        workload(&world).err().map(|status| assert_eq!(status.code(), Code::Unavailable, "{status:?}"))
    });
    assert_eq!(agent.get("/healthz").0, 200);
    assert_eq!(agent.metric("daypass_agent_ready"), 0.0);
    assert_eq!(agent.metric("daypass_agent_valid_until_timestamp_seconds{role=\"web\"}"), 0.0);
    assert_eq!(certificate(&world).as_ref(), Some(&last), "the files stay");

    world.start_again();
    let fresh = wait_rotation(&world, Some(&last));
    assert!(expiry(&fresh) > SystemClock.now().as_second());
    wait_until(PATIENCE, "it is ready again", || (agent.get("/readyz").0 == 200).then_some(()));
    agent.wait_told("STATUS=1 of 1 roles fresh");
    workload(&world).unwrap();
    assert_eq!(leases(&world, &world.operator()), 2, "the one that ended, and another: {}", log(&world));
}
