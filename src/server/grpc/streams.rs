//! Streams are worth more than one request: each caller has only so many at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Streams (tails, revocations of many) that one caller may have at once.
pub(super) const MAX_STREAMS_PER_CALLER: usize = 8;

/// How many streams each caller has. Who has none is not remembered.
#[derive(Default)]
pub(in crate::server) struct Streams(Mutex<HashMap<Arc<str>, usize>>);

impl Streams {
    /// A place for one more stream of a caller, unless it has as many as it may.
    pub(super) fn enter(self: &Arc<Self>, caller: Arc<str>) -> Option<StreamPlace> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(caller.clone()).or_default();
        if *count >= MAX_STREAMS_PER_CALLER {
            return None;
        }
        *count += 1;
        Some(StreamPlace { streams: self.clone(), caller })
    }
}

/// A stream's place; it is free again when this is dropped.
pub(super) struct StreamPlace {
    streams: Arc<Streams>,
    caller: Arc<str>,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut taken = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_its_own_places_and_gives_them_back() {
        let (streams, a, b): (_, Arc<str>, Arc<str>) = (Arc::new(Streams::default()), "a".into(), "b".into());
        let places: Vec<_> = (0..MAX_STREAMS_PER_CALLER).filter_map(|_| streams.enter(a.clone())).collect();
        assert_eq!(places.len(), MAX_STREAMS_PER_CALLER);
        assert!(streams.enter(a.clone()).is_none());
        assert!(streams.enter(b).is_some(), "another caller is not held up");
        drop(places);
        assert!(streams.0.lock().unwrap().is_empty(), "who has none is not remembered");
        assert!(streams.enter(a).is_some());
    }
}
