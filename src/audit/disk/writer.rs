//! The writer's thread: gathers a group, makes it durable, answers; and keeps the record true when that fails.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    ops::RangeInclusive,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    group::{LINGER, Load},
    queue::{Answer, Pending, Queue, Woken, unavailable},
    recover::{Found, Opened},
    tail::Tail,
};
use crate::{
    audit::{
        Receipt,
        record::{Link, MAX_RECORD},
    },
    clock::Clock,
    model::{
        Timestamp,
        error::{Code, Error},
        event::{Actor, Event, Outcome},
    },
};

/// How often a log that cannot be written is tried again without an append.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A group gets no more appends once it is this long, in bytes.
const MAX_GROUP: usize = 1024 * 1024;

/// The most ranges of sequence numbers in one `log/uncertain` record.
const MAX_RANGES: usize = 200;

/// The writer.
pub(super) struct Writer {
    tail: Tail,
    /// Held until the thread ends.
    _lock: File,
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    load: Load,
    /// Appends that the last group had no room for.
    taken: VecDeque<Pending>,
    /// The group's records; kept for its memory.
    buffer: Vec<u8>,
    notes: Notes,
}

/// What the log has to say for itself, with the next group.
#[derive(Default)]
struct Notes {
    cut: u64,
    uncertain: Vec<RangeInclusive<u64>>,
    outage: Option<Outage>,
}

/// A time in which nothing could be written.
struct Outage {
    since: Timestamp,
    fault: String,
    appends: u64,
}

/// Appends whose records are in the buffer.
#[derive(Default)]
struct Group {
    appends: Vec<Written>,
    /// Events that leave the queue with it, also those that were refused or given up.
    events: usize,
}

struct Written {
    answer: tokio::sync::oneshot::Sender<Answer>,
    records: RangeInclusive<u64>,
}

impl Writer {
    pub(super) fn new(opened: Opened, queue: Arc<Queue>, clock: Arc<dyn Clock>) -> Self {
        let Found { cut, uncertain } = opened.found;
        let notes = Notes { cut, uncertain: uncertain.into_iter().collect(), outage: None };
        Self {
            tail: opened.tail,
            _lock: opened.lock,
            queue,
            clock,
            load: Load::default(),
            taken: VecDeque::new(),
            buffer: Vec::new(),
            notes,
        }
    }

    /// Records what a crash left, before anything else is.
    pub(super) fn record_what_was_found(&mut self) -> Result<(), Error> {
        if self.notes.is_empty() {
            return Ok(());
        }
        tracing::warn!(cut_bytes = self.notes.cut, uncertain = ?self.notes.uncertain, "the audit log was left unfinished, and goes on");
        let mut group = Group::default();
        let link = self.fill(&mut group);
        self.write(link).map_err(|error| {
            Error::new(Code::AuditUnavailable, format!("the audit log in {} cannot be written: {error}", self.tail.dir.display()))
        })
    }

    /// Until the log is closed and nothing waits.
    pub(super) fn run(mut self) {
        let _stopped = Stopped(self.queue.clone());
        while self.gather() {
            self.commit();
        }
    }

    /// Waits until there is something to write; false when there never will be.
    fn gather(&mut self) -> bool {
        if !self.taken.is_empty() {
            return true;
        }
        let limit = match (&self.notes.outage, self.notes.uncertain.is_empty()) {
            (Some(_), _) => Some(PROBE_INTERVAL),
            (None, false) => Some(Duration::ZERO),
            (None, true) => None,
        };
        let idle = Instant::now();
        match self.queue.wait_for(1, limit) {
            Woken::Enough => {
                let expected = self.load.expected(idle.elapsed());
                if expected > 1 {
                    self.queue.wait_for(expected, Some(LINGER));
                }
                true
            }
            Woken::Timeout => true,
            Woken::Closed => {
                if !self.notes.is_empty() {
                    self.commit();
                }
                false
            }
        }
    }

    /// Writes one group and answers it.
    fn commit(&mut self) {
        self.queue.take(&mut self.taken);
        let mut group = Group::default();
        let link = self.fill(&mut group);
        let result = if self.buffer.is_empty() { Ok(()) } else { self.write(link) };
        // Before the answers go: those who are answered may be back at once, and are not others then.
        let queued = self.queue.settle(group.events) + self.taken.len();
        self.load.answered(group.appends.len(), queued);
        match result {
            Ok(()) => self.answer(group.appends),
            Err(fault) => self.fail(group.appends, &fault),
        }
    }

    /// Puts the log's own events and then those that were taken into the buffer. Gives the last record's link.
    fn fill(&mut self, group: &mut Group) -> Link {
        self.buffer.clear();
        let mut link = self.tail.link;
        let now = self.clock.now();
        for note in self.notes.events(now) {
            // A note is far shorter than a record may be.
            link = link.write(&note, &mut self.buffer).unwrap_or(link);
        }
        while self.buffer.len() < MAX_GROUP
            && let Some(pending) = self.taken.pop_front()
        {
            group.events += pending.events.len();
            if pending.answer.is_closed() {
                continue;
            }
            match write_all(link, &pending.events, &mut self.buffer) {
                Ok(last) => {
                    group.appends.push(Written { answer: pending.answer, records: link.seq + 1..=last.seq });
                    link = last;
                }
                Err(error) => drop(pending.answer.send(Err(error))),
            }
        }
        link
    }

    /// Makes the buffer durable. An error is a text for health.
    fn write(&mut self, link: Link) -> Result<(), String> {
        self.queue.begin_write();
        let result = self.tail.commit(&self.buffer, link).map_err(|error: io::Error| error.to_string());
        match &result {
            Ok(()) => {
                if let Some(outage) = &self.notes.outage {
                    tracing::info!(since = %outage.since, failed_appends = outage.appends, "the audit log can be written again");
                }
                self.notes = Notes::default();
                self.queue.end_write(Ok(link.seq));
            }
            Err(fault) => self.queue.end_write(Err(fault.clone())),
        }
        result
    }

    fn answer(&mut self, appends: Vec<Written>) {
        for Written { answer, records } in appends {
            if answer.send(Ok(Receipt { seq: *records.end() })).is_err() {
                self.notes.add_uncertain(records);
            }
        }
    }

    fn fail(&mut self, appends: Vec<Written>, fault: &str) {
        let clock = &self.clock;
        let outage = self.notes.outage.get_or_insert_with(|| {
            tracing::error!(fault, "the audit log cannot be written: nothing is issued until it can");
            Outage { since: clock.now(), fault: fault.to_owned(), appends: 0 }
        });
        outage.appends += appends.len() as u64;
        for Written { answer, .. } in appends {
            // Who gave up has its error already.
            let _ = answer.send(Err(unavailable(fault)));
        }
    }
}

/// Writes the records of one append, or nothing of it.
fn write_all(link: Link, events: &[Event], buffer: &mut Vec<u8>) -> Result<Link, Error> {
    let start = buffer.len();
    events.iter().try_fold(link, |link, event| link.write(event, buffer)).map_err(|_| {
        buffer.truncate(start);
        Error::internal(format_args!("an event is longer than an audit record may be, {MAX_RECORD} bytes"))
    })
}

impl Notes {
    fn is_empty(&self) -> bool {
        self.cut == 0 && self.uncertain.is_empty() && self.outage.is_none()
    }

    fn add_uncertain(&mut self, records: RangeInclusive<u64>) {
        match self.uncertain.last_mut() {
            Some(last) if last.end() + 1 == *records.start() => *last = *last.start()..=*records.end(),
            _ => self.uncertain.push(records),
        }
    }

    fn events(&self, now: Timestamp) -> Vec<Event> {
        let note = |method: &'static str, detail: Vec<String>| {
            let mut event = Event::new(now, method, Outcome::Done);
            event.actor = Some(Actor::service("audit"));
            event.detail = detail;
            event
        };
        let mut events = Vec::new();
        if self.cut > 0 {
            events.push(note("log/recovered", vec![format!("{} bytes of an unfinished record were cut away", self.cut)]));
        }
        for ranges in self.uncertain.chunks(MAX_RANGES) {
            let mut detail = vec![String::from("these records stand, and their requests may have been answered with an error")];
            detail.extend(ranges.iter().map(|range| format!("seq {}-{}", range.start(), range.end())));
            events.push(note("log/uncertain", detail));
        }
        if let Some(outage) = &self.outage {
            let what = format!("since {} the log could not be written: {}", outage.since, outage.fault);
            events.push(note("log/restored", vec![what, format!("{} appends failed", outage.appends)]));
        }
        events
    }
}

/// Says that the writer has ended, also when it panicked.
struct Stopped(Arc<Queue>);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.writer_stopped();
    }
}
