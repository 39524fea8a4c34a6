//! A stream of full states: the first at once, the next when it differs from the last that was sent.

use std::collections::{BTreeMap, HashMap};

use aws_lc_rs::digest::{Context, SHA256};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use prost::Message;
use tokio::sync::watch;
use tonic::Status;
use zeroize::Zeroizing;

use super::view::View;
use crate::agent::over;

/// A full state, as it is sent.
pub(super) struct State<M> {
    message: M,
    /// A digest of its content: the message may hold a key, which is not kept.
    fingerprint: [u8; 32],
}

impl<M: Message> State<M> {
    /// Of a message that has one encoding.
    pub fn of(message: M) -> Self {
        let fingerprint = fingerprint(&[&Zeroizing::new(message.encode_to_vec())]);
        Self { message, fingerprint }
    }

    /// Of a message that has a map and nothing else: a map is encoded in any order.
    pub fn of_map(map: BTreeMap<String, Vec<u8>>, message: impl FnOnce(HashMap<String, Vec<u8>>) -> M) -> Self {
        let parts: Vec<&[u8]> = map.iter().flat_map(|(name, value)| [name.as_bytes(), value]).collect();
        let fingerprint = fingerprint(&parts);
        Self { message: message(map.into_iter().collect()), fingerprint }
    }
}

/// The states that `state` makes of a view. Nothing is made before the peer has taken what was made last; an error ends it, and so does the
/// agent's own end.
pub(super) fn follow<M: Message + 'static>(
    view: View,
    shutdown: watch::Receiver<bool>,
    state: impl Fn(&View) -> Result<State<M>, Status> + Send + Sync + 'static,
) -> BoxStream<'static, Result<M, Status>> {
    let begun = Following { view, shutdown, state, last: None };
    stream::try_unfold(begun, |mut following| async move { Ok(Some((following.next().await?, following))) }).boxed()
}

struct Following<S> {
    view: View,
    shutdown: watch::Receiver<bool>,
    state: S,
    /// The fingerprint of what was sent last.
    last: Option<[u8; 32]>,
}

impl<S> Following<S> {
    async fn next<M: Message>(&mut self) -> Result<M, Status>
    where
        S: Fn(&View) -> Result<State<M>, Status>,
    {
        loop {
            let State { message, fingerprint } = (self.state)(&self.view)?;
            if self.last.replace(fingerprint) != Some(fingerprint) {
                return Ok(message);
            }
            drop(message);
            tokio::select! {
                () = self.view.changed() => {}
                () = over(&mut self.shutdown) => return Err(stopping()),
            }
        }
    }
}

/// What a stream ends with when the agent does.
pub(super) fn stopping() -> Status {
    Status::unavailable("the agent is stopping; connect again")
}

fn fingerprint(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}
