//! The end of the log on disk: where the durable records end, and how the next ones become durable.

use std::{io, path::PathBuf};

use super::files::{Files, LogFile};
use crate::audit::{record::Link, segments::Segment};

/// The durable end of a log.
///
/// After a failed write or sync nothing is assumed of what lies behind that end: the system may have dropped the pages and
/// call the next sync a success. So it is cut away and written again from the durable end on.
pub(super) struct Tail {
    pub(super) files: Box<dyn Files>,
    pub(super) dir: PathBuf,
    pub(super) segment_bytes: u64,
    pub(super) segment: Box<dyn LogFile>,
    pub(super) head: Box<dyn LogFile>,
    /// The newest durable record.
    pub(super) link: Link,
    /// Where it ends in its segment, in bytes.
    pub(super) offset: u64,
    /// Whether something may lie behind that end.
    pub(super) dirty: bool,
}

impl Tail {
    /// Makes whole records durable: one write, one fdatasync, then the head. `link` is that of the last one.
    ///
    /// # Errors
    /// Nothing was appended; as far as the disk lets it, what was begun is cut away again.
    pub(super) fn commit(&mut self, records: &[u8], link: Link) -> io::Result<()> {
        if self.dirty {
            self.cut_back()?;
        }
        if self.offset > 0 && self.offset + records.len() as u64 > self.segment_bytes {
            self.rotate()?;
        }
        self.dirty = true;
        if let Err(error) = self.write(records, link) {
            // When this fails as well, the next commit begins with it.
            let _ = self.cut_back();
            return Err(error);
        }
        self.dirty = false;
        self.offset += records.len() as u64;
        self.link = link;
        Ok(())
    }

    fn write(&self, records: &[u8], link: Link) -> io::Result<()> {
        self.segment.write_all_at(records, self.offset)?;
        self.segment.sync()?;
        // Not synced: a crash of the process keeps it, and one of the machine leaves an older head, which claims less.
        self.head.write_all_at(&link.to_head(), 0)
    }

    fn cut_back(&mut self) -> io::Result<()> {
        self.head.write_all_at(&self.link.to_head(), 0)?;
        self.segment.set_len(self.offset)?;
        self.dirty = false;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.head.sync()?;
        let next = Segment::new(&self.dir, self.link.seq + 1);
        self.segment = self.files.create(&next.path)?;
        self.offset = 0;
        Ok(())
    }
}
