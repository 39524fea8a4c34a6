//! Verifies a record offline: its lines, its numbers, its chain, its segments and its head. Streams; memory is constant.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::{
    record::{Link, MAX_RECORD},
    segments::{self, HEAD, Head, Line, Lines, Segment},
};

/// What was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How many segments.
    pub segments: u64,
    /// How many records.
    pub records: u64,
    /// The first record's number; 0 when there is no record.
    pub first_seq: u64,
    /// The last record's number; 0 when there is no record.
    pub last_seq: u64,
    /// The last record's hash, lower-case hex: what to keep elsewhere.
    pub last_hash: String,
    /// What the head file beside the records names as the newest durable record; none when no head lies beside a single file.
    pub head_seq: Option<u64>,
    /// Bytes at the end that are no whole record yet: one that is being written, or that a crash left. It was never acknowledged.
    pub unfinished_bytes: u64,
}

/// The first thing that is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Broken {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 when it is about the file as a whole.
    pub line: u64,
    /// The number of the record that should stand there, where it is about one.
    pub seq: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl Broken {
    fn file(file: &Path, seq: Option<u64>, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, seq, what: what.into() }
    }

    fn unreadable(file: &Path, error: &io::Error) -> Self {
        Self::file(file, None, format!("it cannot be read: {error}"))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        match self.seq {
            Some(seq) => write!(f, ": record {seq}: {}", self.what),
            None => write!(f, ": {}", self.what),
        }
    }
}

/// Verifies a log's directory, or one of its segments (also a copy of it).
///
/// A directory must hold everything from record 1 to at least the record that its head names. Of a single segment, what was before
/// it is not known; its end is checked where a head lies beside it. A log that is being appended to verifies.
///
/// # Errors
/// The first thing that is wrong; also a file that cannot be read.
pub fn verify(path: &Path) -> Result<Summary, Broken> {
    if !path.is_dir() {
        return verify_segment(path);
    }
    // A live log that fails to write cuts its unacknowledged end back and writes it anew; who reads there meanwhile may see half of
    // each. The head has moved then.
    let mut tries = 3;
    loop {
        let head = Head::read(path);
        let result = verify_dir(path, &head);
        tries -= 1;
        match (&result, head, Head::read(path)) {
            (Err(_), Ok(before), Ok(after)) if before != after && tries > 0 => {}
            _ => return result,
        }
    }
}

fn verify_dir(dir: &Path, head: &io::Result<Head>) -> Result<Summary, Broken> {
    let head_path = dir.join(HEAD);
    let head = head.as_ref().map_err(|error| Broken::unreadable(&head_path, error))?;
    let segments = segments::list(dir).map_err(|error| Broken::unreadable(dir, &error))?;
    let head = match head {
        Head::At(link) => *link,
        Head::Malformed => return Err(Broken::file(&head_path, None, "it is not a number of 20 digits, a space and a hash")),
        Head::Absent if segments.is_empty() => return Err(Broken::file(dir, None, "there is no audit log here")),
        Head::Absent | Head::Empty => return Err(Broken::file(&head_path, None, "the head is missing: the log's end cannot be proved")),
    };
    let mut walk = Walk::new(Link::START, Some(head));
    for (at, segment) in segments.iter().enumerate() {
        let expected = walk.link.seq + 1;
        if segment.first != expected {
            let what = format!("a segment that begins with record {expected} should be here, found one that begins with {}", segment.first);
            return Err(Broken::file(&segment.path, Some(expected), what));
        }
        walk.segment(&segment.path, at + 1 == segments.len())?;
    }
    if walk.link.seq < head.seq {
        let what = format!("the head names record {}, and the records end with {}: the log's end was cut off", head.seq, walk.link.seq);
        return Err(Broken::file(&head_path, Some(walk.link.seq + 1), what));
    }
    Ok(walk.summary(1))
}

fn verify_segment(path: &Path) -> Result<Summary, Broken> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let named = Segment::first_of(path);
    let head = match Head::read(dir) {
        Ok(Head::At(link)) if named.is_some() => Some(link),
        _ => None,
    };
    let start = start_of(path)?;
    let first = start.seq + 1;
    if let Some(named) = named
        && named != first
    {
        let what = format!("the file's name says that it begins with record {named}, and it begins with {first}");
        return Err(Broken { file: path.to_owned(), line: 1, seq: Some(named), what });
    }
    let mut walk = Walk::new(start, head);
    walk.segment(path, true)?;
    let last = walk.link.seq;
    if head.is_some_and(|head| head.seq > last) && !Segment::new(dir, last + 1).path.exists() {
        let what = "the head beside it names a later record, and no segment goes on from here: the end was cut off";
        return Err(Broken::file(path, Some(last + 1), what));
    }
    Ok(walk.summary(first))
}

/// The link that a segment's first record claims to follow.
fn start_of(path: &Path) -> Result<Link, Broken> {
    let unreadable = |error| Broken::unreadable(path, &error);
    let mut lines = Lines::open(path, 0).map_err(unreadable)?;
    match lines.next().map_err(unreadable)? {
        Line::Whole(line) => {
            Link::before(line).map_err(|what| Broken { file: path.to_owned(), line: 1, seq: Segment::first_of(path), what })
        }
        Line::TooLong => Err(too_long(path, 1, None)),
        Line::Unfinished(_) | Line::End => Err(Broken::file(path, None, "it holds no record")),
    }
}

fn too_long(path: &Path, line: u64, seq: Option<u64>) -> Broken {
    Broken { file: path.to_owned(), line, seq, what: format!("the line is longer than a record may be, {MAX_RECORD} bytes") }
}

/// A walk along the chain.
struct Walk {
    link: Link,
    head: Option<Link>,
    segments: u64,
    records: u64,
    unfinished: u64,
}

impl Walk {
    fn new(link: Link, head: Option<Link>) -> Self {
        Self { link, head, segments: 0, records: 0, unfinished: 0 }
    }

    /// Checks the records of one segment.
    fn segment(&mut self, path: &Path, last: bool) -> Result<(), Broken> {
        let unreadable = |error| Broken::unreadable(path, &error);
        let mut lines = Lines::open(path, 0).map_err(unreadable)?;
        self.segments += 1;
        for number in 1.. {
            let seq = Some(self.link.seq + 1);
            let broken = |what| Broken { file: path.to_owned(), line: number, seq, what };
            match lines.next().map_err(unreadable)? {
                Line::Whole(line) => {
                    self.link = self.link.check(line).map_err(broken)?;
                    self.records += 1;
                    if self.head.is_some_and(|head| head.seq == self.link.seq && head.hash != self.link.hash) {
                        return Err(broken(String::from("it is not the record that the head names: one of them was changed")));
                    }
                }
                // Without a head nothing says that it was not acknowledged.
                Line::Unfinished(rest) if last && self.head.is_some_and(|head| head.seq <= self.link.seq) => {
                    self.unfinished = rest.len() as u64;
                    break;
                }
                Line::Unfinished(_) => return Err(broken(String::from("the line has no end: the record was cut"))),
                Line::TooLong => return Err(too_long(path, number, seq)),
                Line::End => break,
            }
        }
        Ok(())
    }

    fn summary(&self, first: u64) -> Summary {
        Summary {
            segments: self.segments,
            records: self.records,
            first_seq: if self.records == 0 { 0 } else { first },
            last_seq: self.link.seq,
            last_hash: self.link.hash.as_str().to_owned(),
            head_seq: self.head.map(|head| head.seq),
            unfinished_bytes: self.unfinished,
        }
    }
}
