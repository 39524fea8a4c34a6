//! Opens a log's directory: locks it, reads its end, and cuts away what a crash left unfinished.

use std::{
    fmt,
    fs::{File, TryLockError},
    io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use super::{
    files::{self, Files},
    tail::Tail,
};
use crate::{
    audit::{
        record::{Link, MAX_RECORD},
        segments::{self, HEAD, Head, LOCK, Line, Lines, Segment},
    },
    model::error::{Code, Error},
    unix::files::make_private_dir,
};

/// An opened log.
pub(super) struct Opened {
    pub(super) tail: Tail,
    /// The directory is ours as long as this file is open.
    pub(super) lock: File,
    pub(super) found: Found,
}

/// What a crash left.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Bytes of an unfinished record, cut away now. It was never acknowledged.
    pub(super) cut: u64,
    /// Whole records behind the head: their requests may have been answered with an error.
    pub(super) uncertain: Option<RangeInclusive<u64>>,
}

/// Opens the log in `dir`, which is made where it is not there.
pub(super) fn open(dir: PathBuf, segment_bytes: u64, files: Box<dyn Files>) -> Result<Opened, Error> {
    let failed = |what: &str| {
        let what = format!("{what} {}", dir.display());
        move |error: io::Error| refused(format_args!("{what}: {error}"))
    };
    make_private_dir(&dir).map_err(failed("cannot make"))?;
    let lock = lock(&dir)?;
    let segments = segments::list(&dir).map_err(failed("cannot read"))?;
    let head = Head::read(&dir).map_err(failed("cannot read the head in"))?;
    let end = End::read(&dir, &segments, head)?;

    let segment = match &end.segment {
        Some(segment) => files.open(&segment.path),
        None => files.create(&Segment::new(&dir, 1).path),
    };
    let segment = segment.map_err(failed("cannot open the newest segment in"))?;
    // A crash may have left whole records in the system's cache only.
    segment.set_len(end.offset).and_then(|()| segment.sync()).map_err(failed("cannot write the newest segment in"))?;
    let head_file = match head {
        Head::Absent => files.create(&dir.join(HEAD)),
        _ => files.open(&dir.join(HEAD)),
    };
    let head_file = head_file.map_err(failed("cannot open the head in"))?;
    head_file.write_all_at(&end.link.to_head(), 0).and_then(|()| head_file.sync()).map_err(failed("cannot write the head in"))?;

    let tail = Tail { files, dir, segment_bytes, segment, head: head_file, link: end.link, offset: end.offset, dirty: false };
    Ok(Opened { tail, lock, found: Found { cut: end.unfinished, uncertain: end.uncertain } })
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join(LOCK);
    let file = files::owner_only(&path).map_err(|error| refused(format_args!("cannot open {}: {error}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(refused(format_args!("another server appends to the log in {}; give each server a directory of its own", dir.display())))
        }
        Err(TryLockError::Error(error)) => Err(refused(format_args!("cannot lock {}: {error}", path.display()))),
    }
}

fn refused(what: impl fmt::Display) -> Error {
    Error::new(Code::AuditUnavailable, format!("the audit log cannot be opened: {what}"))
}

/// Where the records of a directory end.
struct End {
    /// The segment to go on with; none in an empty directory.
    segment: Option<Segment>,
    link: Link,
    offset: u64,
    unfinished: u64,
    uncertain: Option<RangeInclusive<u64>>,
}

impl End {
    /// Checks the newest segment in full, and that it follows the one before it. What is older is for `verify`.
    fn read(dir: &Path, segments: &[Segment], head: Head) -> Result<Self, Error> {
        let head_path = dir.join(HEAD);
        let head = match head {
            Head::At(link) => Some(link),
            Head::Absent | Head::Empty => None,
            Head::Malformed => return Err(broken(&head_path, 0, "it is not a number of 20 digits, a space and a hash")),
        };
        let mut end = Self { segment: segments.last().cloned(), link: Link::START, offset: 0, unfinished: 0, uncertain: None };
        if let [.., before, _] = segments {
            end.link = last_link(before)?;
            if head.is_some_and(|head| head.seq == end.link.seq && head != end.link) {
                return Err(broken(&before.path, 0, "its last record is not the one that the head names"));
            }
        }
        if let Some(newest) = segments.last() {
            end.walk(newest, head)?;
        }
        match head {
            None if end.link.seq > 0 => Err(broken(&head_path, 0, "it is missing, and there are records")),
            Some(head) if head.seq > end.link.seq => {
                let what = format!("it names record {}, and the records end with {}: the log's end was cut off", head.seq, end.link.seq);
                Err(broken(&head_path, 0, &what))
            }
            _ => Ok(end),
        }
    }

    fn walk(&mut self, segment: &Segment, head: Option<Link>) -> Result<(), Error> {
        let path = &segment.path;
        let unreadable = |error: io::Error| refused(format_args!("cannot read {}: {error}", path.display()));
        if segment.first != self.link.seq + 1 {
            return Err(broken(path, 0, &format!("a segment that begins with record {} should be here", self.link.seq + 1)));
        }
        let head_seq = head.map_or(0, |head| head.seq);
        let mut lines = Lines::open(path, 0).map_err(unreadable)?;
        for number in 1.. {
            match lines.next().map_err(unreadable)? {
                Line::Whole(line) => {
                    self.link = self.link.check(line).map_err(|what| broken(path, number, &what))?;
                    if head.is_some_and(|head| head.seq == self.link.seq && head != self.link) {
                        return Err(broken(path, number, "it is not the record that the head names"));
                    }
                }
                Line::Unfinished(rest) if head_seq <= self.link.seq => {
                    self.unfinished = rest.len() as u64;
                    break;
                }
                Line::Unfinished(_) => return Err(broken(path, number, "the line has no end, and the head says that it had one")),
                Line::TooLong => return Err(broken(path, number, "the line is longer than a record may be")),
                Line::End => break,
            }
        }
        self.offset = lines.offset;
        let first_uncertain = head_seq.max(segment.first - 1) + 1;
        self.uncertain = (first_uncertain <= self.link.seq).then_some(first_uncertain..=self.link.seq);
        Ok(())
    }
}

fn broken(path: &Path, line: u64, what: &str) -> Error {
    let place = if line > 0 { format!("{}:{line}", path.display()) } else { path.display().to_string() };
    refused(format_args!("{place}: {what}; verify the log, and move the directory away to start a new one"))
}

/// The link of a segment's last record.
fn last_link(segment: &Segment) -> Result<Link, Error> {
    let path = &segment.path;
    let unreadable = |error: io::Error| refused(format_args!("cannot read {}: {error}", path.display()));
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    // A line starts behind the first newline of the last bytes, which hold at least one whole record.
    let from = length.saturating_sub(2 * MAX_RECORD as u64);
    let mut lines = Lines::open(path, from).map_err(unreadable)?;
    let mut last = Err(String::from("it holds no record"));
    let mut at_start = from == 0;
    loop {
        match lines.next().map_err(unreadable)? {
            Line::Whole(line) if at_start => last = Link::of(line),
            Line::Whole(_) => at_start = true,
            Line::End => break,
            Line::Unfinished(_) | Line::TooLong => {
                last = Err(String::from("its last line has no end"));
                break;
            }
        }
    }
    last.map_err(|what| broken(path, 0, &what))
}
