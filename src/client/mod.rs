//! The client: one connection, typed calls, bounded retries. Generated messages stay in here.

pub mod ci;
mod connect;
mod convert;
pub mod csr;
mod enroll;
pub mod error;
pub mod fingerprint;
pub mod material;
pub mod settings;
mod stream;
pub mod text;
pub mod token;
pub mod types;
pub mod watch;

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Request, Response, Status, transport::Channel};

pub use self::stream::{Records, Revocations, TailFrom};
use self::{
    connect::{Connection, Connector},
    error::{Error, Kind, Result},
    settings::Settings,
    token::{Bearer, Token},
    types::{Explanation, IssueOrder, Issued, Lease, LeaseFilter, Page, RenewOrder, WhoAmI},
};
use crate::proto::v1::{
    self, credential_service_client::CredentialServiceClient as Credentials, lease_service_client::LeaseServiceClient as Leases,
};

/// How many more times a call is tried when the server is unavailable.
pub const MAX_RETRIES: u32 = 2;

/// The wait before the first retry; the next one doubles it.
pub const RETRY_PAUSE: Duration = Duration::from_millis(150);

/// The largest answer that is read, in bytes.
pub const MAX_ANSWER: usize = 4 << 20;

/// A client of one server, as one caller.
pub struct Client {
    connector: Connector,
    connection: Option<Connection>,
    bearer: Option<Bearer>,
    anonymous: bool,
    timeout: Duration,
}

impl Client {
    /// A client; it connects with its first call.
    ///
    /// # Errors
    /// Usage, when the certificates or the key cannot be used.
    pub fn new(settings: Settings) -> Result<Self> {
        let Settings { address, roots, identity, token, timeout, found_identity: _, warnings: _ } = settings;
        let anonymous = identity.is_none() && token.is_none();
        let connector = Connector::new(address, roots, identity)?;
        Ok(Self { connector, connection: None, bearer: token.map(Bearer::new), anonymous, timeout })
    }

    /// How the server sees the caller.
    pub async fn who_am_i(&mut self) -> Result<WhoAmI> {
        let answer = self.call(v1::WhoAmIRequest {}, async |channel, request| credentials(channel).who_am_i(request).await).await?;
        convert::who_am_i(answer)
    }

    /// Whether the caller may have a role, and why.
    pub async fn explain(&mut self, role: &str) -> Result<Explanation> {
        let request = v1::ExplainRequest { role: role.to_owned() };
        let answer = self.call(request, async |channel, request| credentials(channel).explain(request).await).await?;
        Ok(convert::explanation(answer))
    }

    /// A credential under a new lease. The order's request id makes its repetitions safe.
    pub async fn issue(&mut self, order: IssueOrder) -> Result<Issued> {
        let request = convert::issue_request(order);
        let answer = self.call(request, async |channel, request| credentials(channel).issue(request).await).await;
        self.spend_token();
        convert::issue_response(answer?)
    }

    /// One lease.
    pub async fn lease(&mut self, id: &str) -> Result<Lease> {
        let request = v1::GetRequest { lease_id: id.to_owned() };
        let answer = self.call(request, async |channel, request| leases(channel).get(request).await).await?;
        convert::get_response(answer)
    }

    /// A page of leases, oldest first: `size` at most, from the `next` of the page before.
    pub async fn leases(&mut self, filter: &LeaseFilter, size: u32, next: Option<&str>) -> Result<Page> {
        let page_token = next.unwrap_or_default().to_owned();
        let request = v1::ListRequest { filter: Some(convert::filter(filter.clone())), page_size: size, page_token };
        let answer = self.call(request, async |channel, request| leases(channel).list(request).await).await?;
        convert::list_response(answer)
    }

    /// A new credential under a lease. A repetition after a lost answer makes one more certificate for the same key under
    /// the same lease, and nothing else.
    pub async fn renew(&mut self, order: RenewOrder) -> Result<Issued> {
        let request = convert::renew_request(order);
        let answer = self.call(request, async |channel, request| leases(channel).renew(request).await).await;
        self.spend_token();
        convert::renew_response(answer?)
    }

    /// Revokes one lease, and tells how it stands now. Idempotent.
    pub async fn revoke(&mut self, id: &str, reason: &str) -> Result<Lease> {
        let request = v1::RevokeRequest { lease_id: id.to_owned(), reason: reason.to_owned() };
        let answer = self.call(request, async |channel, request| leases(channel).revoke(request).await).await?;
        convert::revoke_response(answer)
    }

    /// For one credential a token may be used once: the next call asks for another where there is one to have.
    fn spend_token(&mut self) {
        if let Some(bearer) = &mut self.bearer {
            bearer.spent();
        }
    }

    /// One call with one answer, which the server is told to give within the time limit too.
    async fn call<Q: Clone, A>(&mut self, message: Q, send: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>) -> Result<A> {
        Ok(self.send(message, Limit::Answer, send).await?.1)
    }

    /// Sends a call, and sends it again when the server is unavailable: [`MAX_RETRIES`] times at most, all within the
    /// time limit.
    async fn send<Q: Clone, A>(
        &mut self,
        message: Q,
        limit: Limit,
        send: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<(Connection, A)> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = RETRY_PAUSE;
        let mut first: Option<Error> = None;
        for _ in 0..MAX_RETRIES {
            let error = match self.try_once(message.clone(), limit, &send, deadline).await {
                Err(error) if error.is_retryable() => error,
                outcome => return outcome,
            };
            self.connection = None;
            let told = clearer(first.take(), error);
            if Instant::now() + pause >= deadline {
                return Err(told);
            }
            first = Some(told);
            sleep(pause).await;
            pause *= 2;
        }
        self.try_once(message, limit, &send, deadline).await.map_err(|error| clearer(first, error))
    }

    async fn try_once<Q, A>(
        &mut self,
        message: Q,
        limit: Limit,
        send: &impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
        deadline: Instant,
    ) -> Result<(Connection, A)> {
        let connection = self.connection(deadline).await?;
        let token = timeout_at(deadline, self.token()).await.map_err(|_| self.no_token())??;
        let mut request = with_token(message, token);
        if matches!(limit, Limit::Answer) {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        match timeout_at(deadline, send(connection.channel.clone(), request)).await {
            Ok(Ok(answer)) => Ok((connection, answer.into_inner())),
            Ok(Err(status)) => Err(self.error_of(&connection, &status)),
            Err(_) => Err(self.no_answer()),
        }
    }

    /// The connection, new when there is none.
    async fn connection(&mut self, deadline: Instant) -> Result<Connection> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        let connection = timeout_at(deadline, self.connector.connect()).await.map_err(|_| {
            let (address, limit) = (self.connector.address(), self.timeout);
            Error::timed_out(format!("no connection to {address} within {limit:?}: is DAYPASS_ADDR right, is a firewall between?"))
        })??;
        Ok(self.connection.insert(connection).clone())
    }

    async fn token(&mut self) -> Result<Option<Token>> {
        match &mut self.bearer {
            Some(bearer) => bearer.token(Instant::now()).await.map(Some),
            None => Ok(None),
        }
    }

    /// What a failed call means: the TLS alert of the server when it sent one, else the status.
    fn error_of(&self, connection: &Connection, status: &Status) -> Error {
        if let Some(refusal) = connection.refusal() {
            return refusal;
        }
        if is_timeout(status) {
            return self.no_answer();
        }
        let error = Error::from_status(status);
        if error.kind() == Kind::NotAuthenticated && self.anonymous {
            return error.hint("set DAYPASS_CERT and DAYPASS_KEY, or DAYPASS_TOKEN_FILE, to say who you are");
        }
        error
    }

    fn no_token(&self) -> Error {
        Error::timed_out(format!(
            "this job's identity could not be had within {:?}; try again, or give it longer with --timeout",
            self.timeout
        ))
    }

    fn no_answer(&self) -> Error {
        let (address, limit) = (self.connector.address(), self.timeout);
        Error::timed_out(format!("{address} did not answer within {limit:?}; try again, or give it longer with --timeout"))
    }
}

/// What to tell of the first and the last failure of one call: a retry may only learn that the first attempt is being undone,
/// and the first one knew why.
fn clearer(first: Option<Error>, last: Error) -> Error {
    match first {
        Some(first) if last.code() == "UNAVAILABLE" => first,
        _ => last,
    }
}

/// What the time limit is for.
#[derive(Debug, Clone, Copy)]
enum Limit {
    /// The whole answer.
    Answer,
    /// The beginning of a stream, which may then live longer: the server must not be told.
    Beginning,
}

/// A message with the caller's token.
fn with_token<Q>(message: Q, token: Option<Token>) -> Request<Q> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", token.header());
    }
    request
}

fn credentials(channel: Channel) -> Credentials<Channel> {
    Credentials::new(channel).max_decoding_message_size(MAX_ANSWER)
}

fn leases(channel: Channel) -> Leases<Channel> {
    Leases::new(channel).max_decoding_message_size(MAX_ANSWER)
}

/// Whether our own transport gave up: it honours `grpc-timeout` too, and may be first.
fn is_timeout(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        source = error.source();
    }
    false
}
