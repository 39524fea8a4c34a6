//! Users and groups of this machine, by number or by name.

use std::{fs, io, path::Path};

use serde::Deserialize;

use super::sockets::config::Group;
use crate::client::{
    error::{Error, Kind, Result},
    settings::plain,
};

/// Where users have their names.
const USERS: &str = "/etc/passwd";

/// Where groups have their names.
const GROUPS: &str = "/etc/group";

/// The largest of these files that is read, in bytes.
const MAX_ACCOUNTS: u64 = 4 * 1024 * 1024;

/// A user, by number or by its name in /etc/passwd.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum User {
    /// Its number.
    Id(u32),
    /// Its name.
    Name(String),
}

/// The number of a user.
///
/// # Errors
/// Usage, when /etc/passwd does not have the name.
pub fn uid(user: &User) -> Result<u32> {
    match user {
        User::Id(id) => Ok(*id),
        User::Name(name) => number(USERS, "user", name),
    }
}

/// The number of a group.
///
/// # Errors
/// Usage, when /etc/group does not have the name.
pub fn gid(group: &Group) -> Result<u32> {
    match group {
        Group::Id(id) => Ok(*id),
        Group::Name(name) => number(GROUPS, "group", name),
    }
}

fn number(file: &str, what: &str, name: &str) -> Result<u32> {
    let read = || match fs::metadata(file)?.len() {
        0..=MAX_ACCOUNTS => fs::read_to_string(file),
        _ => Err(io::Error::other("it is too large")),
    };
    let accounts = read().map_err(|error| fault(Path::new(file), &error))?;
    number_of(&accounts, name)
        .ok_or_else(|| Error::usage(format!("{file} has no {what} {name:?}: name another, or one of elsewhere by its number")))
}

/// `name:password:number:…`, a line for each (passwd(5), group(5)).
fn number_of(accounts: &str, name: &str) -> Option<u32> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

fn fault(path: &Path, error: &io::Error) -> Error {
    Error::new(Kind::Other, "FILE", format!("{} cannot be read: {}", path.display(), plain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nweb-old:x:7:\nweb:x:33:a,b\nbad:x:y:\n";
        assert_eq!(["root", "web", "we", "bad", "x", ""].map(|name| number_of(groups, name)), [Some(0), Some(33), None, None, None, None]);
    }

    #[test]
    fn numbers_are_taken_as_they_are_and_names_looked_up() {
        assert_eq!((uid(&User::Id(7)), gid(&Group::Id(8))), (Ok(7), Ok(8)));
        assert_eq!(uid(&User::Name("root".to_owned())), Ok(0));
        assert!(uid(&User::Name("no such user".to_owned())).unwrap_err().message().contains("no user \"no such user\""));
        assert!(gid(&Group::Name("no such group".to_owned())).unwrap_err().message().contains("no group"));
    }
}
