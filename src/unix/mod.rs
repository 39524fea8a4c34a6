//! What both wings do with files and with unix sockets: who may have them, and who is at the other end.

pub mod files;
pub mod folder;
pub mod open_files;
pub mod peer;
pub mod place;
pub mod seldom;
