//! The one thread that writes. What waits for it shares one commit, and so one sync of the disk; a lone caller waits for
//! nobody.

use std::{path::PathBuf, thread};

use rusqlite::{Connection, TransactionBehavior};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{TIMEOUT, schema};
use crate::{model::error::Error, store::unavailable};

/// The most changes that wait for the writer; more callers wait for a place, within their time limit.
pub const MAX_WAITING: usize = 1024;

/// The most changes in one commit.
pub const MAX_GROUP: usize = 256;

/// Hands changes to the thread, which ends with the last handle.
pub struct Writer {
    queue: mpsc::Sender<Box<dyn Change>>,
}

impl Writer {
    /// Starts the thread. The file must have been prepared.
    pub fn start(path: PathBuf) -> Result<Self, Error> {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let work = move || Thread { path, connection: None }.run(waiting);
        thread::Builder::new().name("lease-writer".into()).spawn(work).map_err(unavailable)?;
        Ok(Self { queue })
    }

    /// Makes a change, and answers when it is durable. The change sees those before it, and leaves nothing when it fails. A
    /// change whose caller gave up before it began is not made.
    pub async fn change<T, F>(&self, change: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let pending = Box::new(Pending { change: Some(change), outcome: None, reply });
        let work = async {
            self.queue.send(pending).await.map_err(|_| unavailable("the writer has ended"))?;
            answer.await.map_err(|_| unavailable("the writer has ended"))?
        };
        timeout(TIMEOUT, work).await.map_err(|_| unavailable(format!("not on disk within {TIMEOUT:?}")))?
    }
}

/// A change that waits, then was made, then is answered.
trait Change: Send {
    /// Makes it; whether it stands.
    fn make(&mut self, connection: &Connection) -> bool;

    /// Tells the caller what came of it, given whether the commit succeeded.
    fn answer(self: Box<Self>, commit: Result<(), Error>);
}

struct Pending<F, T> {
    change: Option<F>,
    outcome: Option<Result<T, Error>>,
    reply: oneshot::Sender<Result<T, Error>>,
}

impl<F, T> Change for Pending<F, T>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Error> + Send,
{
    fn make(&mut self, connection: &Connection) -> bool {
        if self.reply.is_closed() {
            return true;
        }
        let Some(change) = self.change.take() else { return true };
        let outcome = change(connection);
        let stands = outcome.is_ok();
        self.outcome = Some(outcome);
        stands
    }

    fn answer(self: Box<Self>, commit: Result<(), Error>) {
        let outcome = match (self.outcome, commit) {
            (Some(Err(error)), _) | (_, Err(error)) => Err(error),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(unavailable("the change was not made")),
        };
        // A caller that gave up no longer listens.
        let _ = self.reply.send(outcome);
    }
}

struct Thread {
    path: PathBuf,
    connection: Option<Connection>,
}

impl Thread {
    fn run(mut self, mut waiting: mpsc::Receiver<Box<dyn Change>>) {
        let mut group = Vec::with_capacity(MAX_GROUP);
        while let Some(first) = waiting.blocking_recv() {
            group.push(first);
            while group.len() < MAX_GROUP
                && let Ok(next) = waiting.try_recv()
            {
                group.push(next);
            }
            let commit = self.commit(&mut group);
            if commit.is_err() {
                // Whatever broke (a full disk, a lost mount), the next group starts afresh and finds out whether it still is.
                self.connection = None;
            }
            for change in group.drain(..) {
                change.answer(commit.clone());
            }
        }
    }

    fn commit(&mut self, group: &mut [Box<dyn Change>]) -> Result<(), Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => schema::writer(&self.path)?,
        };
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in group {
            transaction.execute_batch("SAVEPOINT change")?;
            if !change.make(&transaction) {
                // SQLite itself rolls everything back when the disk is full or broken.
                if transaction.is_autocommit() {
                    return Err(unavailable("a change beside this one found the disk full or broken"));
                }
                transaction.execute_batch("ROLLBACK TO change")?;
            }
            transaction.execute_batch("RELEASE change")?;
        }
        transaction.commit()?;
        self.connection = Some(connection);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(folder: &tempfile::TempDir) -> Writer {
        let path = folder.path().join("leases.db");
        schema::prepare(&path).unwrap();
        Writer::start(path).unwrap()
    }

    fn mark(connection: &Connection, value: &str) -> Result<(), Error> {
        connection.execute("INSERT INTO mark (value) VALUES (?1)", [value])?;
        Ok(())
    }

    #[tokio::test]
    async fn a_failing_change_leaves_nothing_and_its_neighbours_stand() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        let changes = (0..100).map(|n| {
            writer.change(move |connection| {
                mark(connection, &format!("n{n}"))?;
                if n % 3 == 0 { Err(unavailable("asked to fail")) } else { Ok(n) }
            })
        });
        let outcomes = futures::future::join_all(changes).await;
        for (n, outcome) in outcomes.into_iter().enumerate() {
            assert_eq!(outcome.ok(), (n % 3 != 0).then_some(n));
        }
        let kept: i64 = writer
            .change(|connection| Ok(connection.query_row("SELECT count(*) FROM mark WHERE value LIKE 'n%'", [], |row| row.get(0))?))
            .await
            .unwrap();
        assert_eq!(kept, 66);
    }

    #[tokio::test]
    async fn a_change_whose_caller_gave_up_before_it_began_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        let (entered, has_entered) = std::sync::mpsc::channel();
        let (release, held) = std::sync::mpsc::channel();
        let hold = writer.change(move |_| {
            entered.send(()).unwrap();
            held.recv().unwrap();
            Ok(())
        });
        let given_up = async {
            while has_entered.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
            {
                let change = writer.change(|connection| mark(connection, "given up"));
                let mut change = std::pin::pin!(change);
                assert!(futures::poll!(change.as_mut()).is_pending());
            }
            release.send(()).unwrap();
        };
        let (held, ()) = tokio::join!(hold, given_up);
        held.unwrap();
        let count = "SELECT count(*) FROM mark WHERE value = 'given up'";
        assert_eq!(writer.change(|connection| Ok(connection.query_row(count, [], |row| row.get::<_, i64>(0))?)).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_file_that_another_process_holds_fails_within_a_second_and_works_again_after() {
        let folder = tempfile::tempdir().unwrap();
        let writer = writer(&folder);
        writer.change(|connection| mark(connection, "before")).await.unwrap();
        let other = schema::writer(&folder.path().join("leases.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let began = std::time::Instant::now();
        let error = writer.change(|connection| mark(connection, "during")).await.unwrap_err();
        assert_eq!(error.code(), crate::model::error::Code::StoreUnavailable);
        assert!(began.elapsed() < std::time::Duration::from_secs(1));
        other.execute_batch("ROLLBACK").unwrap();
        writer.change(|connection| mark(connection, "after")).await.unwrap();
    }
}
