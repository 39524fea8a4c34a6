//! Leases in Redis: standalone or Cluster, plain or TLS, with or without an ACL user.
//!
//! Every change is one script on one partition ([`scripts`]); `lua/common.lua` has the layout of the keys and `record.rs`
//! that of a lease. Nothing there has a TTL, so that a clock that jumps deletes nothing, and nothing is ever scanned.

mod connection;
mod entries;
mod keys;
mod page;
mod record;
mod scripts;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use futures::future::{try_join, try_join_all};
use redis::{Cmd, FromRedisValue, Value};
use zeroize::Zeroizing;

use self::{connection::Connector, keys::Keys, scripts::Text};
use super::{LeaseStore, MAX_BATCH, NewLease, OPEN_GRACE, Page, Put, Stats, Swap, TokenUseKey, ceil_millis, unavailable};
use crate::{
    clock,
    model::{
        SignedDuration, Timestamp,
        error::Error,
        hex,
        lease::{Lease, LeaseFilter, LeaseId, PARTITIONS, partition_of},
        name::{CaName, TenantName},
        revocation::{RevocationList, RevokedSerial},
    },
};

/// The prefix of every key, unless configured otherwise.
pub const DEFAULT_PREFIX: &str = "daypass";

/// How long a call may take, unless configured otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// How much of a token use's key is kept, in bytes: 96 bits of a digest tell tokens apart.
const TOKEN_USE_KEY: usize = 12;

/// How to reach Redis, and how to keep leases there.
pub struct RedisOptions {
    /// `redis://` or `rediss://` URLs, at least one. Standalone: the first that is a primary is used. Cluster: where to ask
    /// for the nodes first.
    pub urls: Vec<String>,
    /// Whether it is a Redis Cluster.
    pub cluster: bool,
    /// The ACL user; it wins over the URL's.
    pub username: Option<String>,
    /// Its password; it wins over the URL's.
    pub password: Option<Zeroizing<String>>,
    /// The CAs to trust for `rediss://`, PEM; the system's when absent.
    pub ca_pem: Option<Vec<u8>>,
    /// The prefix of every key, [`DEFAULT_PREFIX`] by default: 1 to 64 characters of `[A-Za-z0-9:._-]`.
    pub prefix: String,
    /// The most that a call may take, [`DEFAULT_TIMEOUT`] by default; retries happen within it.
    pub timeout: Duration,
    /// How long an ended lease stays readable.
    pub retention: SignedDuration,
}

impl RedisOptions {
    /// Options with defaults for one server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            cluster: false,
            username: None,
            password: None,
            ca_pem: None,
            prefix: DEFAULT_PREFIX.into(),
            timeout: DEFAULT_TIMEOUT,
            retention: super::DEFAULT_RETENTION,
        }
    }
}

/// Leases in Redis.
pub struct RedisStore {
    connector: Connector,
    keys: Keys,
    retention: SignedDuration,
}

impl RedisStore {
    /// A store that connects when it is first used, and again whenever it must: it can be made while Redis is away. Fails
    /// only when the options are wrong.
    pub fn new(options: RedisOptions) -> Result<Self, Error> {
        let keys = Keys::new(&options.prefix)?;
        Ok(Self { keys, retention: options.retention, connector: Connector::new(options)? })
    }

    /// Runs a script on a partition, on these leases.
    async fn on_leases<T: FromRedisValue>(&self, script: &'static Text, partition: u8, leases: &[(usize, &Lease)]) -> Result<T, Error> {
        let mut call = script.on(self.keys.partition(partition));
        for (_, lease) in leases {
            self.lease_args(&mut call, lease)?;
        }
        self.connector.script(script, &call).await
    }

    /// What every script that writes leases takes for each: id, record, due time, place, caller.
    fn lease_args(&self, command: &mut Cmd, lease: &Lease) -> Result<(), Error> {
        let id = keys::pack(lease.id).ok_or_else(|| unavailable(format!("{} is no id of a lease", lease.id)))?;
        command
            .arg(&id)
            .arg(record::encode(lease))
            .arg(lease.due_at(OPEN_GRACE, self.retention).as_millisecond())
            .arg(format!("{}:{}", lease.tenant, lease.role))
            .arg(&keys::caller_digest(&lease.tenant, &lease.subject));
        Ok(())
    }
}

#[async_trait]
impl LeaseStore for RedisStore {
    async fn put(&self, new: &NewLease) -> Result<Put, Error> {
        let partition = new.lease.id.partition();
        let mut call = scripts::PUT.on(self.keys.partition(partition));
        self.lease_args(&mut call, &new.lease)?;
        call.arg(new.tenant_cap).arg(new.caller_cap).arg(new.request_key.as_ref().map_or(&[][..], |key| key));
        token_use_args(&mut call, new.token_use.as_ref());
        let answer: Vec<Value> = self.connector.script(&scripts::PUT, &call).await?;
        match answer.as_slice() {
            [Value::Int(0)] => Ok(Put::Stored),
            [Value::Int(1), Value::BulkString(id), Value::BulkString(record)] => {
                Ok(Put::Existing(Box::new(lease(lease_id(id, partition)?, record)?)))
            }
            [Value::Int(2)] => Ok(Put::TokenReplayed),
            [Value::Int(3)] => Ok(Put::TenantCap),
            [Value::Int(4)] => Ok(Put::CallerCap),
            [Value::Int(5)] => Err(unavailable(format!("another lease is on record as {}", new.lease.id))),
            other => Err(unexpected(other)),
        }
    }

    async fn use_token(&self, tenant: &TenantName, token: &TokenUseKey) -> Result<bool, Error> {
        let mut call = scripts::USE_TOKEN.on(self.keys.partition(partition_of(tenant)));
        token_use_args(&mut call, Some(token));
        let replayed: u8 = self.script(&scripts::USE_TOKEN, call).await?;
        Ok(replayed == 0)
    }

    async fn get(&self, ids: &[LeaseId]) -> Result<Vec<Option<Lease>>, Error> {
        // An id that does not pack is on record nowhere.
        let known = ids.iter().copied().enumerate().filter(|(_, id)| keys::pack(*id).is_some());
        let groups = by_partition(known, LeaseId::partition);
        let answers = try_join_all(groups.iter().map(|(partition, group)| self.records(*partition, group))).await?;
        let mut leases = vec![None; ids.len()];
        for (group, answer) in groups.values().zip(answers) {
            for ((place, id), record) in group.iter().zip(answer) {
                leases[*place] = record.map(|record| lease(*id, &record)).transpose()?;
            }
        }
        Ok(leases)
    }

    async fn list(&self, filter: &LeaseFilter, after: Option<LeaseId>, limit: usize) -> Result<Page, Error> {
        let limit = limit.clamp(1, MAX_BATCH);
        let halves = match filter.state {
            None => "+-",
            Some(state) if state.is_live() => "+",
            Some(_) => "-",
        };
        let before = filter.issued_before.map(first_id_not_before).map(keys::pack_bound);
        let after = after.map(keys::pack_bound);
        let caller = match (&filter.subject, &filter.tenant) {
            (None, _) => Vec::new(),
            (Some(subject), None) => keys::subject_digest(subject).to_vec(),
            (Some(subject), Some(tenant)) => keys::caller_digest(tenant, subject).to_vec(),
        };
        let partitions = match &filter.tenant {
            Some(tenant) => partition_of(tenant)..partition_of(tenant) + 1,
            None => 0..PARTITIONS,
        };
        let answers: Vec<Vec<Value>> = try_join_all(partitions.clone().map(|partition| {
            let mut call = scripts::LIST.on(self.keys.partition(partition));
            call.arg(halves)
                .arg(after.as_ref().map_or(&[][..], |id| id))
                .arg(before.as_ref().map_or(&[][..], |id| id))
                .arg(limit)
                .arg(filter.tenant.as_ref().map_or("", |tenant| tenant.as_str()))
                .arg(filter.role.as_ref().map_or("", |role| role.as_str()))
                .arg(&caller);
            self.script(&scripts::LIST, call)
        }))
        .await?;
        let (ids, next) = page::merge(partitions.zip(answers), limit)?;
        let leases = self.get(&ids).await?.into_iter().flatten().filter(|lease| filter.matches(lease)).collect();
        Ok(Page { leases, next })
    }

    async fn swap(&self, leases: &[Lease]) -> Result<Vec<Swap>, Error> {
        let groups = by_partition(leases.iter().enumerate(), |lease| lease.id.partition());
        let answers: Vec<Vec<u8>> =
            try_join_all(groups.iter().map(|(partition, group)| self.on_leases(&scripts::SWAP, *partition, group))).await?;
        let mut swaps = vec![Swap::Missing; leases.len()];
        for (group, answer) in groups.values().zip(answers) {
            for ((place, _), outcome) in group.iter().zip(answer) {
                swaps[*place] = match outcome {
                    0 => Swap::Done,
                    1 => Swap::Conflict,
                    _ => Swap::Missing,
                };
            }
        }
        Ok(swaps)
    }

    async fn restore(&self, leases: &[Lease]) -> Result<usize, Error> {
        let groups = by_partition(leases.iter().enumerate(), |lease| lease.id.partition());
        let written: Vec<usize> =
            try_join_all(groups.iter().map(|(partition, group)| self.on_leases(&scripts::RESTORE, *partition, group))).await?;
        Ok(written.into_iter().sum())
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Vec<Lease>, Error> {
        let limit = limit.clamp(1, MAX_BATCH);
        let answers: Vec<Vec<(Vec<u8>, f64)>> = try_join_all((0..PARTITIONS).map(|partition| {
            let mut call = scripts::DUE.on(self.keys.partition(partition));
            call.arg(now.as_millisecond()).arg(limit);
            self.script(&scripts::DUE, call)
        }))
        .await?;
        let mut due = Vec::new();
        for (partition, answer) in (0..PARTITIONS).zip(answers) {
            for (id, at) in answer {
                due.push((millis(at), lease_id(&id, partition)?));
            }
        }
        due.sort_unstable();
        let ids: Vec<LeaseId> = due.into_iter().take(limit).map(|(_, id)| id).collect();
        Ok(self.get(&ids).await?.into_iter().flatten().collect())
    }

    async fn purge(&self, leases: &[Lease], now: Timestamp) -> Result<(), Error> {
        let mut groups = by_partition(leases.iter().enumerate(), |lease| lease.id.partition());
        // Token uses lie in every partition.
        for partition in 0..PARTITIONS {
            groups.entry(partition).or_default();
        }
        let partitions = try_join_all(groups.iter().map(async |(partition, group)| {
            let mut call = scripts::PURGE.on(self.keys.partition(*partition));
            call.arg(ceil_millis(now));
            // A lease whose id does not pack is on record nowhere.
            group
                .iter()
                .filter(|(_, lease)| keys::pack(lease.id).is_some())
                .try_for_each(|(_, lease)| self.lease_args(&mut call, lease))?;
            self.script::<()>(&scripts::PURGE, call).await
        }));
        let lists = async {
            let lists = self.revocation_lists().await?;
            try_join_all(lists.iter().map(|list| self.purge_revoked(list, now))).await
        };
        try_join(partitions, lists).await.map(drop)
    }

    async fn add_revoked(&self, list: &RevocationList, serials: &[RevokedSerial]) -> Result<(), Error> {
        if serials.is_empty() {
            return Ok(());
        }
        let stem = self.keys.list(list);
        // Known to the purge before there is anything to purge.
        let mut known = redis::cmd("SADD");
        known.arg(self.keys.lists()).arg(list.to_string());
        self.connector.command::<()>(&known).await?;
        for batch in serials.chunks(MAX_BATCH) {
            let mut call = scripts::CRL_ADD.on(&stem);
            for RevokedSerial { serial, revoked_at, not_after } in batch {
                call.arg(serial).arg(revoked_at.as_millisecond()).arg(not_after.as_millisecond());
            }
            self.script::<()>(&scripts::CRL_ADD, call).await?;
        }
        Ok(())
    }

    async fn revocation_revision(&self, list: &RevocationList) -> Result<u64, Error> {
        let revision: Option<u64> = self.connector.command(redis::cmd("GET").arg(self.keys.list_revision(list))).await?;
        Ok(revision.unwrap_or(0))
    }

    async fn revoked(&self, list: &RevocationList, now: Timestamp) -> Result<(u64, Vec<RevokedSerial>), Error> {
        let mut call = scripts::CRL_LIST.on(&self.keys.list(list));
        call.arg(ceil_millis(now));
        let (revision, serials, revoked): (u64, Vec<(String, f64)>, Vec<i64>) = self.script(&scripts::CRL_LIST, call).await?;
        let serials = serials.into_iter().zip(revoked).map(|((serial, not_after), revoked_at)| {
            let time = |millis| Timestamp::from_millisecond(millis).map_err(unavailable);
            Ok(RevokedSerial { serial, revoked_at: time(revoked_at)?, not_after: time(millis(not_after))? })
        });
        Ok((revision, serials.collect::<Result<_, Error>>()?))
    }

    async fn revocation_lists(&self) -> Result<Vec<RevocationList>, Error> {
        let lists: Vec<String> = self.connector.command(redis::cmd("SMEMBERS").arg(self.keys.lists())).await?;
        // Sets of Redis have no order.
        let lists: BTreeSet<RevocationList> = lists.iter().filter_map(|list| list.parse().ok()).collect();
        Ok(lists.into_iter().collect())
    }

    async fn next_crl_number(&self, ca: &CaName, floor: u64) -> Result<u64, Error> {
        let mut call = scripts::CRL_NUMBER.on(&self.keys.list(&ca.clone().into()));
        call.arg(floor);
        self.script(&scripts::CRL_NUMBER, call).await
    }

    async fn stats(&self) -> Result<Stats, Error> {
        let calls = (0..PARTITIONS).map(|partition| self.script(&scripts::STATS, scripts::STATS.on(self.keys.partition(partition))));
        let answers: Vec<Vec<f64>> = try_join_all(calls).await?;
        let mut stats = Stats::default();
        for answer in answers {
            let Some((live, due)) = answer.split_first() else { continue };
            stats.live += u64::try_from(millis(*live)).unwrap_or(0);
            for at in due {
                let at = Timestamp::from_millisecond(millis(*at)).map_err(unavailable)?;
                stats.oldest_due = Some(stats.oldest_due.map_or(at, |oldest| oldest.min(at)));
            }
        }
        Ok(stats)
    }

    async fn incarnation(&self) -> Result<String, Error> {
        // A mark in each partition tells an emptied server, the ids of runs and of replication another primary.
        let marks = try_join_all((0..PARTITIONS).map(|partition| self.mark(partition)));
        let mut info = redis::cmd("INFO");
        info.arg("server").arg("replication");
        let (mut parts, answers): (Vec<String>, _) = try_join(marks, self.connector.on_primaries(&info)).await?;
        let mut runs: Vec<String> = answers.iter().map(|answer| run(answer)).collect();
        runs.sort_unstable();
        parts.append(&mut runs);
        Ok(hex::encode(&digest(&SHA256, parts.join(" ").as_bytes()).as_ref()[..16]))
    }
}

/// What scripts that use a token take: its key or nothing, its time, the retry's key or nothing.
fn token_use_args(call: &mut Cmd, token: Option<&TokenUseKey>) {
    let kept = |key: &[u8; 16]| key[..TOKEN_USE_KEY].to_vec();
    let (key, until) = token.map(|token| (kept(&token.key), token.until.as_millisecond())).unwrap_or_default();
    let retry = token.and_then(|token| token.retry.as_ref()).map(kept).unwrap_or_default();
    call.arg(key).arg(until).arg(retry);
}

impl RedisStore {
    async fn script<T: FromRedisValue>(&self, script: &'static Text, call: Cmd) -> Result<T, Error> {
        self.connector.script(script, &call).await
    }

    /// The records of ids that lie in one partition.
    async fn records(&self, partition: u8, ids: &[(usize, LeaseId)]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut command = redis::cmd("HMGET");
        command.arg(self.keys.records(partition));
        for (_, id) in ids {
            command.arg(&keys::pack_bound(*id));
        }
        self.connector.command(&command).await
    }

    async fn purge_revoked(&self, list: &RevocationList, now: Timestamp) -> Result<(), Error> {
        let mut call = scripts::CRL_PURGE.on(&self.keys.list(list));
        call.arg(ceil_millis(now)).arg(MAX_BATCH);
        while self.connector.script::<usize>(&scripts::CRL_PURGE, &call).await? == MAX_BATCH {}
        Ok(())
    }

    /// A random mark that stays for as long as the partition's data does.
    async fn mark(&self, partition: u8) -> Result<String, Error> {
        let fresh = hex::encode(&clock::random::<8>());
        let mut command = redis::cmd("SET");
        command.arg(self.keys.epoch(partition)).arg(&fresh).arg("NX").arg("GET");
        let old: Option<String> = self.connector.command(&command).await?;
        Ok(old.unwrap_or(fresh))
    }
}

/// Groups by partition, each with its place in the whole.
fn by_partition<T>(items: impl Iterator<Item = (usize, T)>, partition: impl Fn(T) -> u8) -> BTreeMap<u8, Vec<(usize, T)>>
where
    T: Copy,
{
    let mut groups = BTreeMap::<u8, Vec<(usize, T)>>::new();
    for (place, item) in items {
        groups.entry(partition(item)).or_default().push((place, item));
    }
    groups
}

/// The smallest id that a lease issued at or after `at` can have; ids count in milliseconds.
fn first_id_not_before(at: Timestamp) -> LeaseId {
    LeaseId::floor(Timestamp::from_millisecond(ceil_millis(at)).unwrap_or(Timestamp::MAX))
}

/// A sorted set's score, which is a time in milliseconds: whole numbers below 2^53 are exact.
fn millis(score: f64) -> i64 {
    #[allow(clippy::cast_possible_truncation)] // Saturates; scores are written as whole numbers.
    let millis = score as i64;
    millis
}

fn lease_id(bytes: &[u8], partition: u8) -> Result<LeaseId, Error> {
    bytes.try_into().map(|packed| keys::unpack(packed, partition)).map_err(|_| unavailable("an id is not 14 bytes"))
}

fn lease(id: LeaseId, record: &[u8]) -> Result<Lease, Error> {
    record::decode(id, record).map_err(|error| unavailable(format!("{id}: {error}")))
}

fn unexpected(answer: &[Value]) -> Error {
    unavailable(format!("Redis gave an answer of an unexpected form ({} values)", answer.len()))
}

/// What tells one run of a primary from another, out of INFO.
fn run(info: &str) -> String {
    let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    format!("{} {}", value("run_id:"), value("master_replid:"))
}
