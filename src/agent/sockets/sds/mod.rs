//! Envoy's secret discovery, version 3, state of the world: certificates with their keys, and the trust bundle.
//!
//! | secret | what it is |
//! |---|---|
//! | the name of a role | its certificate, chain and key |
//! | a SPIFFE ID of a workload | the same, of the role whose certificate has it |
//! | `default` | the same, of the first role (unless a role is called so) |
//! | `ROOTCA`, or a SPIFFE ID of a trust domain | the roots of the trust bundle |
//!
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol>)

mod secret;
mod subscription;

pub use subscription::{MAX_NAME, MAX_NAMES};

use std::{sync::Arc, time::Instant};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use self::{
    secret::secrets,
    subscription::{Heard, Subscription},
};
use super::{
    follow::stopping,
    view::{Shown, View},
};
use crate::{
    agent::over,
    client::text::one_line,
    proto::envoy::service::{
        discovery::v3::{DiscoveryRequest, DiscoveryResponse},
        secret::v3::secret_discovery_service_server::SecretDiscoveryService,
    },
    unix::{peer::Peer, seldom::Seldom},
};

/// The largest request that is taken, in bytes. Envoy lists all its extensions in each first one.
pub const MAX_MESSAGE: usize = 1024 * 1024;

/// The longest reason of a rejection that is logged, in characters; of the names in it too.
pub const MAX_REASON: usize = 1_000;

/// The service.
pub(super) struct Sds {
    pub shown: Shown,
    pub shutdown: watch::Receiver<bool>,
    /// The log's lines of them.
    pub rejections: Arc<Seldom>,
}

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type StreamSecretsStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;

    async fn stream_secrets(&self, request: Request<Streaming<DiscoveryRequest>>) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let peer = Peer::of(&request)?;
        let view = self.shown.view(&peer);
        let requests = request.into_inner();
        let (shutdown, rejections) = (self.shutdown.clone(), self.rejections.clone());
        let dialogue = Dialogue { peer, view, requests, shutdown, subscription: Subscription::default(), rejections };
        let responses =
            stream::try_unfold(dialogue, |mut dialogue| async move { Ok(dialogue.next().await?.map(|response| (response, dialogue))) });
        Ok(Response::new(responses.boxed()))
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let view = self.shown.view(&Peer::of(&request)?);
        let mut subscription = Subscription::default();
        subscription.hear(request.get_ref())?;
        let found = secrets(&view, subscription.names())?;
        let response = subscription.answer(found).ok_or_else(|| Status::unavailable("the agent has nothing of that yet; try again"))?;
        Ok(Response::new(response))
    }
}

/// One stream.
struct Dialogue {
    peer: Peer,
    view: View,
    requests: Streaming<DiscoveryRequest>,
    shutdown: watch::Receiver<bool>,
    subscription: Subscription,
    rejections: Arc<Seldom>,
}

impl Dialogue {
    /// The next response; none when the client has ended the stream.
    async fn next(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        loop {
            if self.subscription.has_begun()
                && let Some(response) = self.subscription.answer(secrets(&self.view, self.subscription.names())?)
            {
                metrics::counter!("daypass_agent_sds_responses_total").increment(1);
                return Ok(Some(response));
            }
            tokio::select! {
                request = self.requests.message() => match request? {
                    Some(request) => self.hear(&request)?,
                    None => return Ok(None),
                },
                () = self.view.changed() => {}
                () = over(&mut self.shutdown) => return Err(stopping()),
            }
        }
    }

    fn hear(&mut self, request: &DiscoveryRequest) -> Result<(), Status> {
        let Heard::Rejected { version, reason } = self.subscription.hear(request)? else { return Ok(()) };
        metrics::counter!("daypass_agent_sds_rejected_total").increment(1);
        if self.rejections.may(Instant::now()) {
            let (pid, reason, names) = (self.peer.pid, for_the_log(&reason), for_the_log(&format!("{:?}", self.subscription.names())));
            tracing::warn!(names, pid, version, reason, "a client of secret discovery rejects what it got and keeps what it had");
        }
        Ok(())
    }
}

/// A client's text on one line, cut at [`MAX_REASON`].
fn for_the_log(text: &str) -> String {
    one_line(text).chars().take(MAX_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_text_is_one_bounded_line_in_the_log() {
        assert_eq!(for_the_log("no\nsuch\u{1b}[31m root").lines().count(), 1);
        assert!(!for_the_log("a\u{1b}[31m").contains('\u{1b}'));
        assert_eq!(for_the_log(&"ä".repeat(MAX_REASON + 1)), "ä".repeat(MAX_REASON));
    }
}
