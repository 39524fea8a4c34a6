//! What the log needs of a file system; tests put full, torn, hung and failing disks behind it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// Opens the files that the log writes.
pub(super) trait Files: Send {
    /// A new, empty file, readable for its owner only; its name is durable. Repeating it after a failure is safe.
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>>;

    /// A file that is there.
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>>;
}

/// A file that the log writes.
pub(super) trait LogFile: Send {
    /// Writes all bytes at an offset. After an error any part of them may be written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes data and length durable.
    fn sync(&self) -> io::Result<()>;

    /// Cuts the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// The system's own.
pub(super) struct Disk;

impl Files for Disk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        let file = owner_only(path)?;
        if file.metadata()?.len() > 0 {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there and not empty", path.display())));
        }
        if let Some(dir) = path.parent() {
            File::open(dir)?.sync_all()?;
        }
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(OpenOptions::new().write(true).open(path)?))
    }
}

impl LogFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }
}

/// Opens a file for writing, and makes it, for its owner only, where there is none.
pub(super) fn owner_only(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}
