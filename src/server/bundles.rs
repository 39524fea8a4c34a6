//! Who watches the trust bundle, and which version each one has: public, so bounded in all and for each address.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::addresses::network;
use crate::{
    background::ticker,
    clock,
    model::{
        error::{Code, Error, Result},
        hex,
        name::CaName,
    },
    vend::{TrustBundle, Vend},
};

/// How often it is looked whether the bundle has changed: keys of other servers, and the time.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How many of the newest versions can be acknowledged.
pub const ACKNOWLEDGEABLE: usize = 64;

/// The trust bundle as it is now, and who watches it.
pub(super) struct Bundles {
    current: watch::Sender<Arc<TrustBundle>>,
    most: usize,
    most_per_address: usize,
    watches: Mutex<Watches>,
}

#[derive(Default)]
struct Watches {
    by_id: HashMap<WatchId, Watch>,
    by_address: HashMap<IpAddr, usize>,
    /// The newest versions, the newest last, with the keys that each one has.
    versions: VecDeque<(String, Arc<BTreeSet<CaName>>)>,
}

type WatchId = [u8; 16];

struct Watch {
    address: Option<IpAddr>,
    /// The version that is in use.
    acknowledged: Option<String>,
}

/// How far the bundle has come among those who watch it here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Reached {
    /// How many watch.
    pub watchers: usize,
    /// The keys that all of them have; where nobody watches, those of the bundle as it is served.
    pub keys: BTreeSet<CaName>,
}

impl Bundles {
    /// At most `most` watches, and `most_per_address` of one address.
    pub(super) fn new(vend: &Vend, most: usize, most_per_address: usize) -> Arc<Self> {
        let bundles = Self {
            current: watch::Sender::new(Arc::new(TrustBundle::new(Vec::new(), String::new()))),
            most,
            most_per_address,
            watches: Mutex::default(),
        };
        bundles.look(vend);
        Arc::new(bundles)
    }

    /// The bundle as it is now.
    pub(super) fn current(&self) -> Arc<TrustBundle> {
        self.current.borrow().clone()
    }

    /// Takes a new bundle up, if it is new.
    fn look(&self, vend: &Vend) {
        let bundle = vend.trust_bundle();
        if bundle.version == self.current.borrow().version {
            return;
        }
        let mut watches = self.watches();
        watches.versions.retain(|(version, _)| *version != bundle.version);
        watches.versions.push_back((bundle.version.clone(), Arc::new(bundle.ring_keys())));
        if watches.versions.len() > ACKNOWLEDGEABLE {
            watches.versions.pop_front();
        }
        drop(watches);
        tracing::info!(version = bundle.version, "the trust bundle has changed");
        self.current.send_replace(Arc::new(bundle));
    }

    /// A place for one more watch.
    ///
    /// # Errors
    /// `RATE_LIMITED` when there are as many as there may be.
    pub(super) fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place> {
        let address = address.map(network);
        let mut watches = self.watches();
        if watches.by_id.len() >= self.most {
            return Err(Error::new(
                Code::RateLimited,
                "the trust bundle is watched by as many as may; ask for it every few minutes instead",
            ));
        }
        if let Some(address) = address {
            let count = watches.by_address.entry(address).or_default();
            if *count >= self.most_per_address {
                let most = self.most_per_address;
                return Err(Error::new(Code::RateLimited, format!("your address watches the trust bundle {most} times already")));
            }
            *count += 1;
        }
        let id: WatchId = clock::random();
        watches.by_id.insert(id, Watch { address, acknowledged: None });
        metrics::gauge!("daypass_bundle_watches").set(watches.by_id.len() as f64);
        Ok(Place { bundles: self.clone(), id, bundle: self.current.subscribe() })
    }

    /// Notes that a version is in use at who watches.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when there is no such watch here, or no such version.
    pub(super) fn acknowledge(&self, watch_id: &str, version: &str) -> Result<()> {
        let refuse = |why: &str| Error::new(Code::InvalidRequest, why);
        let id: Option<WatchId> = hex::decode(watch_id).and_then(|bytes| bytes.try_into().ok());
        let mut watches = self.watches();
        if !watches.versions.iter().any(|(known, _)| known == version) {
            return Err(refuse("version: no such version of the trust bundle was sent lately; acknowledge the newest"));
        }
        let watch = id.and_then(|id| watches.by_id.get_mut(&id));
        let watch = watch.ok_or_else(|| refuse("watch_id: there is no such stream at this server; it may have ended"))?;
        watch.acknowledged = Some(version.to_owned());
        Ok(())
    }

    /// How far the bundle has come here.
    pub(super) fn reached(&self) -> Reached {
        let watches = self.watches();
        let watchers = watches.by_id.len();
        if watchers == 0 {
            drop(watches);
            return Reached { watchers, keys: self.current().ring_keys() };
        }
        let acknowledged: BTreeSet<Option<&str>> = watches.by_id.values().map(|watch| watch.acknowledged.as_deref()).collect();
        let known: BTreeMap<&str, &BTreeSet<CaName>> = watches.versions.iter().map(|(version, keys)| (version.as_str(), &**keys)).collect();
        // Who has said nothing, or what is forgotten by now, has nothing that is sure.
        let mut sets = acknowledged.into_iter().map(|version| version.and_then(|version| known.get(version).copied()));
        let first = sets.next().flatten().cloned().unwrap_or_default();
        let keys = sets.fold(first, |all, keys| keys.map(|keys| all.intersection(keys).cloned().collect()).unwrap_or_default());
        Reached { watchers, keys }
    }

    fn leave(&self, id: WatchId) {
        let mut watches = self.watches();
        let Some(watch) = watches.by_id.remove(&id) else { return };
        if let Some(address) = watch.address
            && let Some(count) = watches.by_address.get_mut(&address)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                watches.by_address.remove(&address);
            }
        }
        metrics::gauge!("daypass_bundle_watches").set(watches.by_id.len() as f64);
    }

    fn watches(&self) -> MutexGuard<'_, Watches> {
        // Each change under the lock is complete in itself.
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one watch; given back when it is dropped.
pub(super) struct Place {
    bundles: Arc<Bundles>,
    id: WatchId,
    /// The bundle as it is now, and as it becomes.
    pub bundle: watch::Receiver<Arc<TrustBundle>>,
}

impl Place {
    /// Names the stream, 32 hex digits that nobody else knows.
    pub(super) fn watch_id(&self) -> String {
        hex::encode(&self.id)
    }

    /// A part of a stream's age, 0 to 255 of 256, drawn once.
    pub(super) fn jitter(&self) -> u32 {
        u32::from(self.id[0])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bundles.leave(self.id);
    }
}

/// Looks for ever.
pub(super) async fn keep(bundles: Arc<Bundles>, vend: Arc<Vend>) {
    let mut tick = ticker(LOOK_EVERY);
    loop {
        tick.tick().await;
        bundles.look(&vend);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundles(most: usize, per_address: usize) -> Arc<Bundles> {
        Arc::new(Bundles {
            current: watch::Sender::new(Arc::new(TrustBundle::new(Vec::new(), String::new()))),
            most,
            most_per_address: per_address,
            watches: Mutex::default(),
        })
    }

    /// Has these versions been served, each with its keys.
    fn served(bundles: &Bundles, versions: &[(&str, &[&str])]) {
        let keys = |names: &[&str]| Arc::new(names.iter().map(|name| name.parse().unwrap()).collect());
        bundles.watches().versions.extend(versions.iter().map(|(version, names)| ((*version).to_owned(), keys(names))));
    }

    fn keys(bundles: &Bundles) -> Vec<String> {
        bundles.reached().keys.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_everybody_has_is_reached() {
        let bundles = bundles(10, 10);
        served(&bundles, &[("v1", &["a-1"]), ("v2", &["a-1", "a-2"]), ("v3", &["a-2"])]);
        let (one, two) = (bundles.enter(None).unwrap(), bundles.enter(None).unwrap());
        assert_eq!((bundles.reached().watchers, keys(&bundles)), (2, vec![]));
        bundles.acknowledge(&one.watch_id(), "v2").unwrap();
        assert!(keys(&bundles).is_empty(), "the other one has said nothing");
        bundles.acknowledge(&two.watch_id(), "v1").unwrap();
        assert_eq!(keys(&bundles), ["a-1"]);
        bundles.acknowledge(&two.watch_id(), "v2").unwrap();
        assert_eq!(keys(&bundles), ["a-1", "a-2"]);
        bundles.acknowledge(&one.watch_id(), "v3").unwrap();
        assert_eq!(keys(&bundles), ["a-2"]);
        let late = bundles.enter(None).unwrap();
        assert!(keys(&bundles).is_empty());
        drop(late);
        assert_eq!(keys(&bundles), ["a-2"], "who has left counts no more");
        drop((one, two));
        assert_eq!(bundles.reached().watchers, 0);
    }

    #[test]
    fn what_is_acknowledged_must_be_there() {
        let bundles = bundles(10, 10);
        served(&bundles, &[("v1", &[])]);
        let place = bundles.enter(None).unwrap();
        let code = |id: &str, version: &str| bundles.acknowledge(id, version).map_err(|error| error.code());
        assert_eq!(code(&place.watch_id(), "v1"), Ok(()));
        for (id, version) in [(place.watch_id().as_str(), "v2"), ("", "v1"), (&"0".repeat(32), "v1"), (&"z".repeat(32), "v1")] {
            assert_eq!(code(id, version), Err(Code::InvalidRequest), "{id} {version}");
        }
        let id = place.watch_id();
        drop(place);
        assert_eq!(code(&id, "v1"), Err(Code::InvalidRequest));
    }

    #[test]
    fn watches_are_bounded_in_all_and_for_each_address() {
        let bundles = bundles(3, 2);
        let enter = |address: &str| bundles.enter(Some(address.parse().unwrap())).map_err(|error| error.code());
        let first = enter("2001:db8::1").unwrap();
        let _second = enter("2001:db8::2").unwrap();
        assert_eq!(enter("2001:db8::3").err(), Some(Code::RateLimited), "a network of IPv6 is one address");
        let _other = enter("192.0.2.1").unwrap();
        assert_eq!(enter("192.0.2.2").err(), Some(Code::RateLimited), "that is all");
        drop(first);
        assert!(enter("2001:db8::3").is_ok());
        drop((_second, _other));
        assert!(bundles.watches().by_address.is_empty(), "no address is remembered for nothing");
    }
}
