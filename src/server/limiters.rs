//! How often: the rates of callers, of leases at the token endpoint, and of failed authentications from one address. One place for both
//! edges, so that who is refused at the one does not go on guessing at the other.

use std::{
    collections::HashMap,
    net::IpAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use governor::{DefaultKeyedRateLimiter, Quota};

use super::{addresses::network, config::Limits};
use crate::model::{
    error::{Code, Error, Result},
    hex,
    identity::Identity,
    secret::Secret,
};

/// So many addresses, and so many secrets, are remembered for their rates; more are refused until the next look. Each is forgotten at the look
/// after its rate has recovered, so that only what asks now is remembered. Past so many callers, who are all authenticated, the log warns.
const MAX_REMEMBERED: usize = 100_000;

/// How many times `failed_logins_per_address_per_minute` an address may fail at the token endpoint within a minute. Beyond that no secret of it
/// is looked up for the rest of the minute, a good one neither: whoever guesses so fast does it to load the store.
const GUESSES: u32 = 10;

/// The time in which guesses are counted.
const GUESSING: Duration = Duration::from_secs(60);

/// Rates of callers and of failed authentications.
pub(super) struct Limiters {
    callers: DefaultKeyedRateLimiter<Arc<str>>,
    failed_logins: DefaultKeyedRateLimiter<IpAddr>,
    /// One record each ten seconds for a caller that is being refused for its rate: the record stays bounded too.
    records: DefaultKeyedRateLimiter<Arc<str>>,
    /// By what was presented and not by the lease that it names: nobody uses up the rate of a lease whose secret he does not hold.
    exchanges: DefaultKeyedRateLimiter<[u8; 32]>,
    guesses: Guesses,
}

impl Limiters {
    pub(super) fn new(limits: &Limits) -> Self {
        let at_least_one = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let callers = Quota::per_second(at_least_one(limits.requests_per_caller_per_second))
            .allow_burst(at_least_one(limits.request_burst_per_caller));
        let failed = Quota::per_minute(at_least_one(limits.failed_logins_per_address_per_minute));
        let records = Quota::per_minute(at_least_one(6)).allow_burst(NonZeroU32::MIN);
        let exchanges = Quota::per_minute(at_least_one(limits.registry_exchanges_per_lease_per_minute));
        Self {
            guesses: Guesses::new(limits.failed_logins_per_address_per_minute.max(1).saturating_mul(GUESSES)),
            exchanges: DefaultKeyedRateLimiter::keyed(exchanges),
            callers: DefaultKeyedRateLimiter::keyed(callers),
            failed_logins: DefaultKeyedRateLimiter::keyed(failed),
            records: DefaultKeyedRateLimiter::keyed(records),
        }
    }

    /// Forgets who has been quiet. Called by the service's loop.
    pub(super) fn tidy(&self) {
        self.callers.retain_recent();
        self.failed_logins.retain_recent();
        self.records.retain_recent();
        self.exchanges.retain_recent();
        self.guesses.tidy(Instant::now());
        for shrink in [self.callers.len(), self.failed_logins.len(), self.exchanges.len()].map(|len| len > MAX_REMEMBERED) {
            if shrink {
                tracing::warn!("more callers than are remembered for their rates");
            }
        }
    }

    /// Counts a failed authentication; whether its address has had more than it may.
    pub(super) fn too_many_failures(&self, address: IpAddr) -> bool {
        self.failed_logins.len() >= MAX_REMEMBERED || self.failed_logins.check_key(&network(address)).is_err()
    }

    /// Whether an address has guessed secrets so often that no more of it are looked up now. It counts nothing: who never fails is never
    /// refused for what others at other addresses do.
    pub(super) fn guesses_are_used_up(&self, address: IpAddr) -> bool {
        self.guesses.used_up(network(address), Instant::now())
    }

    /// Counts a secret that was looked up and is nobody's.
    pub(super) fn guessed_wrong(&self, address: IpAddr) {
        self.guesses.count(network(address), Instant::now());
    }

    /// Admits a caller at its rate; an error says beside itself whether it should go on record.
    pub(super) fn admit(&self, identity: &Identity) -> Result<(), (Error, bool)> {
        let key = caller_key(identity);
        self.callers.check_key(&key).map_err(|_| {
            let error = Error::new(Code::RateLimited, "you ask too often; slow down, and try again in a second");
            (error, self.records.check_key(&key).is_ok())
        })
    }

    /// Admits an exchange of a registry lease's secret at its rate; an error says beside itself whether it should go on record.
    pub(super) fn admit_exchange(&self, secret: &Secret) -> Result<(), (Error, bool)> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, secret.expose().as_bytes()).as_ref());
        if self.exchanges.len() >= MAX_REMEMBERED {
            return Err((Error::new(Code::RateLimited, "too many secrets are shown at once; try again in a few seconds"), false));
        }
        self.exchanges.check_key(&key).map_err(|_| {
            let error = Error::new(Code::RateLimited, "this lease is exchanged for tokens too often; try again in a few seconds");
            let name = hex::encode(&key[..8]);
            (error, self.records.check_key(&format!("registry\n{name}").into()).is_ok())
        })
    }
}

/// Wrong guesses of each address, counted from its first one for [`GUESSING`]. Unlike a rate it can be looked at without being used.
struct Guesses {
    most: u32,
    known: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Guesses {
    fn new(most: u32) -> Self {
        Self { most, known: Mutex::default() }
    }

    fn used_up(&self, address: IpAddr, now: Instant) -> bool {
        self.known().get(&address).is_some_and(|(since, wrong)| *wrong >= self.most && now.saturating_duration_since(*since) < GUESSING)
    }

    /// An address beyond those that are remembered is not counted.
    fn count(&self, address: IpAddr, now: Instant) {
        let mut known = self.known();
        if known.len() >= MAX_REMEMBERED && !known.contains_key(&address) {
            return;
        }
        let (since, wrong) = known.entry(address).or_insert((now, 0));
        if now.saturating_duration_since(*since) >= GUESSING {
            (*since, *wrong) = (now, 0);
        }
        *wrong = wrong.saturating_add(1);
    }

    fn tidy(&self, now: Instant) {
        self.known().retain(|_, (since, _)| now.saturating_duration_since(*since) < GUESSING);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<IpAddr, (Instant, u32)>> {
        // Each change under the lock is complete in itself.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What names a caller among all.
pub(super) fn caller_key(identity: &Identity) -> Arc<str> {
    format!("{}\n{}", identity.tenant, identity.subject()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_for_each_network() {
        let limits = Limits { failed_logins_per_address_per_minute: 3, ..Limits::default() };
        let limiters = Limiters::new(&limits);
        let fail = |address: &str| limiters.too_many_failures(address.parse().unwrap());
        let own = ["2001:db8::1", "2001:db8::2", "2001:db8::ffff:3", "2001:db8::4"];
        assert_eq!(own.map(fail), [false, false, false, true], "all of one /64 are one");
        assert!(!fail("2001:db8:0:1::1"));
        assert_eq!(["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"].map(fail), [false, false, false, true]);
        assert!(!fail("192.0.2.2"));
    }

    #[test]
    fn guesses_are_counted_for_a_minute_and_a_look_counts_none() {
        let (guesses, begun) = (Guesses::new(2), Instant::now());
        let [own, other] = ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
        let after = |seconds| begun + Duration::from_secs(seconds);
        guesses.count(own, begun);
        assert!((0..9).all(|_| !guesses.used_up(own, begun)));
        guesses.count(own, after(59));
        assert!(guesses.used_up(own, after(59)) && !guesses.used_up(other, after(59)));
        guesses.tidy(after(59));
        assert!(guesses.used_up(own, after(59)) && !guesses.used_up(own, after(60)));
        guesses.count(own, after(60));
        assert!(!guesses.used_up(own, after(60)), "another minute, another count");
        guesses.tidy(after(120));
        assert!(guesses.known().is_empty());
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let limiters = Limiters::new(&Limits { failed_logins_per_address_per_minute: 1, ..Limits::default() });
        let mut refused = None;
        for n in 0..=MAX_REMEMBERED {
            let address = std::net::Ipv4Addr::from_bits(u32::try_from(n).unwrap()).into();
            limiters.guesses.count(address, Instant::now());
            refused = Some((limiters.too_many_failures(address), limiters.admit_exchange(&Secret::new(n.to_string()))));
            assert!(n == MAX_REMEMBERED || matches!(refused, Some((false, Ok(())))), "{n}");
        }
        let (failures, exchange) = refused.unwrap();
        assert_eq!((failures, exchange.map_err(|(error, record)| (error.code(), record))), (true, Err((Code::RateLimited, false))));
        let remembered = [limiters.failed_logins.len(), limiters.exchanges.len(), limiters.guesses.known().len()];
        assert_eq!(remembered, [MAX_REMEMBERED; 3]);
    }

    #[test]
    fn a_lease_has_a_rate_of_its_own() {
        let limiters = Limiters::new(&Limits { registry_exchanges_per_lease_per_minute: 2, ..Limits::default() });
        let admit =
            |secret: &str| limiters.admit_exchange(&Secret::new(secret.to_owned())).map_err(|(error, record)| (error.code(), record));
        assert_eq!([admit("a"), admit("a"), admit("a")], [Ok(()), Ok(()), Err((Code::RateLimited, true))]);
        assert_eq!(admit("a"), Err((Code::RateLimited, false)), "its refusals are not recorded without bound");
        assert_eq!(admit("b"), Ok(()));
    }
}
