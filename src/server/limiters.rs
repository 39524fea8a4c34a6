//! How often: the rates of callers, of leases at the token endpoint, and of failed authentications from one address. One place for both
//! edges, so that who is refused at the one does not go on guessing at the other.

use std::{net::IpAddr, num::NonZeroU32, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use governor::{DefaultKeyedRateLimiter, Quota};

use super::{addresses::network, config::Limits};
use crate::model::{
    error::{Code, Error, Result},
    hex,
    identity::Identity,
    secret::Secret,
};

/// Past so many callers, addresses or secrets that are remembered for their rates the log warns. Each is forgotten at the look after its rate
/// has recovered, so that only what asks now is remembered.
const MAX_REMEMBERED: usize = 100_000;

/// Rates of callers and of failed authentications.
pub(super) struct Limiters {
    callers: DefaultKeyedRateLimiter<Arc<str>>,
    failed_logins: DefaultKeyedRateLimiter<IpAddr>,
    /// One record each ten seconds for a caller that is being refused for its rate: the record stays bounded too.
    records: DefaultKeyedRateLimiter<Arc<str>>,
    /// By what was presented and not by the lease that it names: nobody uses up the rate of a lease whose secret he does not hold.
    exchanges: DefaultKeyedRateLimiter<[u8; 32]>,
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
        for shrink in [self.callers.len(), self.failed_logins.len(), self.exchanges.len()].map(|len| len > MAX_REMEMBERED) {
            if shrink {
                tracing::warn!("more callers than are remembered for their rates");
            }
        }
    }

    /// Counts a failed authentication; whether its address has had more than it may.
    pub(super) fn too_many_failures(&self, address: IpAddr) -> bool {
        self.failed_logins.check_key(&network(address)).is_err()
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
        self.exchanges.check_key(&key).map_err(|_| {
            let error = Error::new(Code::RateLimited, "this lease is exchanged for tokens too often; try again in a few seconds");
            let name = hex::encode(&key[..8]);
            (error, self.records.check_key(&format!("registry\n{name}").into()).is_ok())
        })
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
    fn a_lease_has_a_rate_of_its_own() {
        let limiters = Limiters::new(&Limits { registry_exchanges_per_lease_per_minute: 2, ..Limits::default() });
        let admit =
            |secret: &str| limiters.admit_exchange(&Secret::new(secret.to_owned())).map_err(|(error, record)| (error.code(), record));
        assert_eq!([admit("a"), admit("a"), admit("a")], [Ok(()), Ok(()), Err((Code::RateLimited, true))]);
        assert_eq!(admit("a"), Err((Code::RateLimited, false)), "its refusals are not recorded without bound");
        assert_eq!(admit("b"), Ok(()));
    }
}
