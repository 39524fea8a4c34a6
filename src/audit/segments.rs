//! The files of a log's directory: their names, their order, and their lines one by one.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::record::{Link, MAX_RECORD, digits};

/// The file that names the newest durable record.
pub(super) const HEAD: &str = "head";

/// The file that the appending server locks.
pub(super) const LOCK: &str = "lock";

/// A file of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Where it lies.
    pub(super) path: PathBuf,
    /// The number of its first record.
    pub(super) first: u64,
}

impl Segment {
    /// The segment of a directory that begins with record `first`.
    pub(super) fn new(dir: &Path, first: u64) -> Self {
        Self { path: dir.join(format!("audit-{first:020}.jsonl")), first }
    }

    /// The number in a segment's name; none when the name is of another form.
    pub(super) fn first_of(path: &Path) -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        let number = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
        (number.len() == 20).then(|| digits(number.as_bytes())).flatten()
    }
}

/// The segments of a directory, oldest first.
pub(super) fn list(dir: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if let Some(first) = Segment::first_of(&path) {
            segments.push(Segment { path, first });
        }
    }
    segments.sort_unstable_by_key(|segment| segment.first);
    Ok(segments)
}

/// What the head file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// There is none.
    Absent,
    /// It is empty: a crash stopped its making.
    Empty,
    /// It is no head.
    Malformed,
    /// The newest durable record.
    At(Link),
}

impl Head {
    /// Reads the head file of a directory.
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let mut text = Vec::new();
        match File::open(dir.join(HEAD)) {
            Ok(file) => file.take(256).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Absent),
            Err(error) => return Err(error),
        };
        if text.is_empty() {
            return Ok(Self::Empty);
        }
        Ok(Link::from_head(&text).map_or(Self::Malformed, Self::At))
    }
}

/// Reads a segment line by line, in constant memory.
pub(super) struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
    /// Where the next line starts, in bytes from the file's start.
    pub(super) offset: u64,
}

/// A line of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A whole line, without its newline.
    Whole(&'a [u8]),
    /// The file's last line, which no newline ends.
    Unfinished(&'a [u8]),
    /// A line longer than a record may be.
    TooLong,
    /// The file's end.
    End,
}

impl Lines {
    const BUFFER: usize = 128 * 1024;

    /// Opens a segment at a byte offset, where a line starts.
    pub(super) fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { reader: BufReader::with_capacity(Self::BUFFER, file), line: Vec::new(), offset })
    }

    /// The next line. After `Unfinished` or `End` it may be asked again: a live segment grows.
    pub(super) fn next(&mut self) -> io::Result<Line<'_>> {
        self.line.clear();
        let read = (&mut self.reader).take(MAX_RECORD as u64).read_until(b'\n', &mut self.line)?;
        if self.line.last() == Some(&b'\n') {
            self.offset += read as u64;
            return Ok(Line::Whole(&self.line[..read - 1]));
        }
        if read == 0 {
            return Ok(Line::End);
        }
        // What is there of the line is read again when the rest of it may have come.
        self.reader.seek(SeekFrom::Start(self.offset))?;
        Ok(if read == MAX_RECORD { Line::TooLong } else { Line::Unfinished(&self.line) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn names_have_one_form() {
        let path = Segment::new(Path::new("/a"), 12).path;
        assert_eq!(path, Path::new("/a/audit-00000000000000000012.jsonl"));
        assert_eq!(Segment::first_of(&path), Some(12));
        for other in ["audit-12.jsonl", "audit-0000000000000000001x.jsonl", "audit-00000000000000000012.jsonl.bak", "head"] {
            assert_eq!(Segment::first_of(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn an_unfinished_line_is_read_again_when_it_has_grown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        let mut lines = Lines::open(&path, 0).unwrap();
        assert_eq!(lines.next().unwrap(), Line::Whole(b"one"));
        assert_eq!(lines.next().unwrap(), Line::Unfinished(b"tw"));
        file.write_all(b"o\n").unwrap();
        assert_eq!(lines.next().unwrap(), Line::Whole(b"two"));
        assert_eq!(lines.next().unwrap(), Line::End);
        assert_eq!(lines.offset, 8);
        file.write_all(&vec![b'x'; MAX_RECORD + 1]).unwrap();
        assert_eq!(lines.next().unwrap(), Line::TooLong);
    }
}
