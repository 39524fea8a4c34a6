//! A stream of full states: the first at once, the next when it differs from the last that was sent.

use aws_lc_rs::digest::{SHA256, digest};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use prost::Message;
use tokio::sync::watch;
use tonic::Status;
use zeroize::Zeroizing;

use super::view::View;

/// The states that `state` makes of a view. Nothing is made before the peer has taken what was made last; an error ends it, and so does the
/// agent's own end.
pub(super) fn follow<M: Message>(
    view: View,
    shutdown: watch::Receiver<bool>,
    state: impl Fn(&View) -> Result<M, Status> + Send + Sync + 'static,
) -> BoxStream<'static, Result<M, Status>> {
    let begun = Following { view, shutdown, state, last: None };
    stream::try_unfold(begun, |mut following| async move { Ok(Some((following.next().await?, following))) }).boxed()
}

struct Following<S> {
    view: View,
    shutdown: watch::Receiver<bool>,
    state: S,
    /// A digest of the last message: it may hold a key.
    last: Option<[u8; 32]>,
}

impl<S> Following<S> {
    async fn next<M: Message>(&mut self) -> Result<M, Status>
    where
        S: Fn(&View) -> Result<M, Status>,
    {
        loop {
            let message = (self.state)(&self.view)?;
            let fingerprint = fingerprint(&message);
            if self.last.replace(fingerprint) != Some(fingerprint) {
                return Ok(message);
            }
            tokio::select! {
                () = self.view.changed() => {}
                () = over(&mut self.shutdown) => return Err(stopping()),
            }
        }
    }
}

/// Waits until the agent ends, or nobody is left to say so.
pub(super) async fn over(shutdown: &mut watch::Receiver<bool>) {
    let _ended = shutdown.wait_for(|over| *over).await;
}

/// What a stream ends with when the agent does.
pub(super) fn stopping() -> Status {
    Status::unavailable("the agent is stopping; connect again")
}

fn fingerprint(message: &impl Message) -> [u8; 32] {
    let encoded = Zeroizing::new(message.encode_to_vec());
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, &encoded).as_ref());
    fingerprint
}
