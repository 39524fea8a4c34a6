//! Calls whose answer is a stream.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic::Streaming;

use super::{
    Client, Limit, MAX_ANSWER, MAX_RETRIES, RETRY_PAUSE,
    connect::Connection,
    convert,
    error::{Error, Result},
    leases,
    types::{LeaseFilter, Record, RevokeStep},
};
use crate::proto::v1::{self, audit_service_client::AuditServiceClient as Audit};

/// Where to start in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailFrom {
    /// With the newest records: this many.
    Last(u32),
    /// After a sequence number; 0 means from the oldest kept.
    After(u64),
}

/// The steps of a revocation of many, as they come.
pub struct Revocations<'a> {
    client: &'a Client,
    connection: Connection,
    stream: Streaming<v1::RevokeMatchingResponse>,
}

impl Revocations<'_> {
    /// The next step, or none after the last.
    ///
    /// # Errors
    /// When the server fails, or is silent for longer than the time limit.
    pub async fn next(&mut self) -> Result<Option<RevokeStep>> {
        let Ok(step) = timeout(self.client.timeout, self.stream.message()).await else {
            return Err(self.client.no_answer());
        };
        match step {
            Ok(step) => step.map(convert::revoke_step).transpose(),
            Err(status) => Err(self.client.error_of(&self.connection, &status)),
        }
    }
}

/// Records of the audit log, in order.
pub struct Records<'a> {
    client: &'a mut Client,
    from: TailFrom,
    follow: bool,
    /// How often in a row the stream was opened again without a record.
    idle_reopens: u32,
    opened: Instant,
    connection: Connection,
    stream: Streaming<v1::TailResponse>,
}

impl Records<'_> {
    /// How long a followed stream must have lived for its end to be the connection's age and no failure.
    const SHORT_LIFE: Duration = Duration::from_secs(5);

    /// The next record; none at the end, which never comes when following: then the stream is opened again where it ended.
    ///
    /// # Errors
    /// When the server fails. When not following, also when it is silent for longer than the time limit.
    pub async fn next(&mut self) -> Result<Option<Record>> {
        loop {
            match self.message().await {
                Ok(Some(record)) => {
                    self.from = TailFrom::After(record.seq);
                    self.idle_reopens = 0;
                    return Ok(Some(record));
                }
                Ok(None) if !self.follow => return Ok(None),
                Ok(None) => self.reopen(Error::unavailable("the server ends the audit stream as soon as it begins")).await?,
                Err(error) if self.follow && error.is_retryable() => self.reopen(error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    async fn message(&mut self) -> Result<Option<Record>> {
        let message = self.stream.message();
        let message = match self.follow {
            // A quiet log is no silent server; keep-alive probes find a dead one.
            true => message.await,
            false => match timeout(self.client.timeout, message).await {
                Ok(message) => message,
                Err(_) => return Err(self.client.no_answer()),
            },
        };
        match message {
            Ok(message) => message.map(convert::record).transpose(),
            Err(status) => Err(self.client.error_of(&self.connection, &status)),
        }
    }

    async fn reopen(&mut self, error: Error) -> Result<()> {
        if self.opened.elapsed() >= Self::SHORT_LIFE {
            self.idle_reopens = 0;
        }
        if self.idle_reopens >= MAX_RETRIES {
            return Err(error);
        }
        tokio::time::sleep(RETRY_PAUSE * 2_u32.pow(self.idle_reopens)).await;
        self.idle_reopens += 1;
        self.client.connection = None;
        (self.connection, self.stream) = self.client.open_tail(self.from, self.follow).await?;
        self.opened = Instant::now();
        Ok(())
    }
}

impl Client {
    /// Revokes every lease that matches, or counts them.
    ///
    /// # Errors
    /// Usage, when the filter names no role, tenant, subject or time.
    pub async fn revoke_matching(&mut self, filter: LeaseFilter, dry_run: bool, reason: &str) -> Result<Revocations<'_>> {
        if filter.role.is_none() && filter.tenant.is_none() && filter.subject.is_none() && filter.issued_before.is_none() {
            return Err(Error::usage("say which leases: by id, or by --role, --tenant, --subject or --issued-before"));
        }
        let request = v1::RevokeMatchingRequest { filter: Some(convert::filter(filter)), dry_run, reason: reason.to_owned() };
        let send = async |channel, request| leases(channel).revoke_matching(request).await;
        let (connection, stream) = self.send(request, Limit::Beginning, send).await?;
        Ok(Revocations { client: self, connection, stream })
    }

    /// Reads the audit log, and goes on with new records when following.
    pub async fn tail(&mut self, from: TailFrom, follow: bool) -> Result<Records<'_>> {
        let (connection, stream) = self.open_tail(from, follow).await?;
        Ok(Records { client: self, from, follow, idle_reopens: 0, opened: Instant::now(), connection, stream })
    }

    async fn open_tail(&mut self, from: TailFrom, follow: bool) -> Result<(Connection, Streaming<v1::TailResponse>)> {
        let (after_seq, last) = match from {
            TailFrom::Last(last) => (0, last),
            TailFrom::After(seq) => (seq, 0),
        };
        let request = v1::TailRequest { after_seq, last, follow };
        let send = async |channel, request| Audit::new(channel).max_decoding_message_size(MAX_ANSWER).tail(request).await;
        self.send(request, Limit::Beginning, send).await
    }
}
