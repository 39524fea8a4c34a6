//! `[sockets]` of `agent.toml`: which interfaces are served, where, and to whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddrV4,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    model::name::TrustDomain,
    unix::{peer::Peer, place::MAX_SOCKET_PATH},
};

/// The most users, and the most groups, that one role names.
pub const MAX_ALLOWED: usize = 64;

/// The most roles from which JWT-SVIDs are had.
pub const MAX_JWT_ROLES: usize = 16;

/// The mode of a socket unless another is configured.
pub const DEFAULT_SOCKET_MODE: Mode = Mode(0o600);

/// The mode of the file with the token of the AWS endpoint unless another is configured.
pub const DEFAULT_TOKEN_MODE: Mode = Mode(0o600);

/// `[sockets]`. What is not configured is not served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SocketsSection {
    /// The trust domain of the bundle. It need not be said where a role's certificate has a SPIFFE ID: then it is that one's.
    pub trust_domain: Option<TrustDomain>,
    /// `[sockets.workload]`: the SPIFFE Workload API.
    pub workload: Option<WorkloadSection>,
    /// `[sockets.sds]`: Envoy's secret discovery.
    pub sds: Option<SdsSection>,
    /// `[sockets.aws]`: the container credentials endpoint.
    pub aws: Option<AwsSection>,
    /// `[sockets.roles.NAME]`: who may have what a role gives, by the role's name in this file. One that does not stand here is for
    /// everybody who can open the socket.
    pub roles: BTreeMap<String, Access>,
}

/// `[sockets.workload]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSection {
    /// Where the socket lies.
    pub path: PathBuf,
    /// Its mode; whoever may write to it can open it.
    #[serde(default = "socket_mode")]
    pub mode: Mode,
    /// Its group; the agent's own unless it is said.
    pub group: Option<Group>,
    /// The roles that are served, the default identity first. Without it: all whose certificate has a SPIFFE ID, in order of name.
    pub roles: Option<Vec<String>>,
    /// The service's roles of kind jwt that give JWT-SVIDs, on demand, as the workload names the audience.
    #[serde(default)]
    pub jwt_roles: Vec<String>,
}

/// `[sockets.sds]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SdsSection {
    /// Where the socket lies.
    pub path: PathBuf,
    /// Its mode; whoever may write to it can open it.
    #[serde(default = "socket_mode")]
    pub mode: Mode,
    /// Its group; the agent's own unless it is said.
    pub group: Option<Group>,
    /// The roles that are served, that of the secret `default` first. Without it: all that give a certificate, in order of name.
    pub roles: Option<Vec<String>>,
}

/// `[sockets.aws]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsSection {
    /// An address of the loopback interface: SDKs take no other.
    pub listen: SocketAddrV4,
    /// Where the token is written that a request must bring: a new one at each start.
    pub token_file: PathBuf,
    /// The mode of that file.
    #[serde(default = "token_mode")]
    pub token_mode: Mode,
    /// The group of that file; the agent's own unless it is said.
    pub token_group: Option<Group>,
    /// The roles that are served. Without it: all that give an AWS session.
    pub roles: Option<Vec<String>>,
}

/// Who may have what a role gives. Nobody is named: whoever can open the socket. Otherwise: whose user or whose group is named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// User ids. Root is meant when 0 stands here, and else not.
    pub uids: Vec<u32>,
    /// Group ids: the one group that the process had when it connected, not its supplementary ones.
    pub gids: Vec<u32>,
}

impl Access {
    /// Whether it names nobody: it is for everybody.
    pub fn is_open(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// Whether it lets a process have what it guards.
    pub fn allows(&self, peer: &Peer) -> bool {
        self.is_open() || self.uids.contains(&peer.uid) || self.gids.contains(&peer.gid)
    }
}

/// The permissions of a file: octal digits in quotes, such as "0660".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

/// A group, by number or by its name in /etc/group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Group {
    /// Its number.
    Id(u32),
    /// Its name.
    Name(String),
}

impl SocketsSection {
    /// Takes relative paths from `base`, the folder of the configuration file.
    pub fn resolve(&mut self, base: &Path) {
        let paths = [
            self.workload.as_mut().map(|section| &mut section.path),
            self.sds.as_mut().map(|section| &mut section.path),
            self.aws.as_mut().map(|section| &mut section.token_file),
        ];
        for path in paths.into_iter().flatten() {
            *path = base.join(&*path);
        }
    }

    /// What is wrong with it; `roles` are the names that this file gives its roles.
    pub fn faults(&self, roles: &BTreeSet<&str>) -> Vec<String> {
        let mut faults = Vec::new();
        self.path_faults(&mut faults);
        self.role_faults(roles, &mut faults);
        self.group_faults(&mut faults);
        if let Some(aws) = &self.aws
            && !aws.listen.ip().is_loopback()
        {
            faults.push(format!("sockets.aws.listen: {} is not of the loopback interface; take 127.0.0.1", aws.listen));
        }
        faults
    }

    fn path_faults(&self, faults: &mut Vec<String>) {
        let sockets =
            [("workload", self.workload.as_ref().map(|section| &section.path)), ("sds", self.sds.as_ref().map(|section| &section.path))];
        for (name, path) in sockets {
            let Some(path) = path else { continue };
            let length = path.as_os_str().len();
            if path.file_name().is_none() {
                faults.push(format!("sockets.{name}.path: {} names no file", path.display()));
            } else if length > MAX_SOCKET_PATH {
                faults.push(format!("sockets.{name}.path: it has {length} bytes; a socket's path has {MAX_SOCKET_PATH} at most"));
            }
        }
        let all = sockets.iter().filter_map(|(_, path)| *path).chain(self.aws.as_ref().map(|section| &section.token_file));
        let distinct: BTreeSet<_> = all.clone().collect();
        if distinct.len() < all.count() {
            faults.push("sockets: two of them have one path".to_owned());
        }
    }

    /// A connection of TCP says whose it is, and nothing of groups.
    fn group_faults(&self, faults: &mut Vec<String>) {
        let listed = self.aws.as_ref().and_then(|section| section.roles.as_ref()).into_iter().flatten();
        for role in listed.filter(|role| self.roles.get(*role).is_some_and(|access| access.uids.is_empty() && !access.gids.is_empty())) {
            faults.push(format!("sockets.roles.{role}: it names groups and no users, and sockets.aws cannot see groups: name users"));
        }
    }

    fn role_faults(&self, roles: &BTreeSet<&str>, faults: &mut Vec<String>) {
        let lists = [
            ("workload", self.workload.as_ref().and_then(|section| section.roles.as_ref())),
            ("sds", self.sds.as_ref().and_then(|section| section.roles.as_ref())),
            ("aws", self.aws.as_ref().and_then(|section| section.roles.as_ref())),
        ];
        for (name, list) in lists {
            for role in list.into_iter().flatten().filter(|role| !roles.contains(role.as_str())) {
                faults.push(format!("sockets.{name}.roles: no [[role]] here is called {role:?}"));
            }
        }
        let jwt_roles: &[String] = self.workload.as_ref().map_or(&[], |section| &section.jwt_roles);
        if jwt_roles.len() > MAX_JWT_ROLES {
            faults.push(format!("sockets.workload.jwt_roles: there are {}; at most {MAX_JWT_ROLES} are taken", jwt_roles.len()));
        }
        for (role, access) in &self.roles {
            if !roles.contains(role.as_str()) && !jwt_roles.contains(role) {
                faults.push(format!("sockets.roles.{role}: no [[role]] here and none of sockets.workload.jwt_roles is called so"));
            }
            if access.uids.len().max(access.gids.len()) > MAX_ALLOWED {
                faults.push(format!("sockets.roles.{role}: at most {MAX_ALLOWED} users and {MAX_ALLOWED} groups are taken"));
            }
        }
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let octal = (3..=4).contains(&text.len()).then(|| u32::from_str_radix(&text, 8).ok()).flatten();
        let mode = octal.filter(|mode| *mode <= 0o777 && text.bytes().all(|byte| byte.is_ascii_digit()));
        mode.map(Self).ok_or_else(|| D::Error::custom(format!("a mode is octal digits in quotes, such as \"0660\"; got {text:?}")))
    }
}

fn socket_mode() -> Mode {
    DEFAULT_SOCKET_MODE
}

fn token_mode() -> Mode {
    DEFAULT_TOKEN_MODE
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"
        trust_domain = "example.org"
        [workload]
        path = "workload.sock"
        mode = "0660"
        group = "web"
        roles = ["web"]
        jwt_roles = ["web-jwt"]
        [sds]
        path = "/run/daypass/sds.sock"
        group = 101
        [aws]
        listen = "127.0.0.1:0"
        token_file = "aws.token"
        [roles.web]
        uids = [0, 1000]
        [roles.web-jwt]
        gids = [33]
    "#;

    #[test]
    fn it_is_read_and_takes_paths_from_its_folder() {
        let mut section: SocketsSection = toml::from_str(FULL).unwrap();
        section.resolve(Path::new("/etc/daypass"));
        assert_eq!(section.faults(&BTreeSet::from(["web"])), [""; 0]);
        let (workload, sds, aws) = (section.workload.unwrap(), section.sds.unwrap(), section.aws.unwrap());
        assert_eq!(workload.path, Path::new("/etc/daypass/workload.sock"));
        assert_eq!((workload.mode, workload.group), (Mode(0o660), Some(Group::Name("web".to_owned()))));
        assert_eq!((sds.path.as_path(), sds.mode, sds.group), (Path::new("/run/daypass/sds.sock"), Mode(0o600), Some(Group::Id(101))));
        assert_eq!((aws.token_file.as_path(), aws.token_mode), (Path::new("/etc/daypass/aws.token"), Mode(0o600)));
        assert_eq!(section.roles["web"], Access { uids: vec![0, 1000], gids: vec![] });
        assert_eq!(toml::from_str::<SocketsSection>("").unwrap(), SocketsSection::default());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in [
            "x = 1",
            "trust_domain = \"Example\"",
            "[workload]\npath = \"a\"\nmode = 432",
            "[workload]\npath = \"a\"\nmode = \"1777\"",
            "[workload]\npath = \"a\"\nmode = \"+66\"",
            "[workload]\npath = \"a\"\nmode = \"888\"",
            "[sds]\nmode = \"0600\"",
            "[sds]\npath = \"a\"\njwt_roles = []",
            "[aws]\nlisten = \"[::1]:1\"\ntoken_file = \"t\"",
            "[roles.web]\nusers = [\"root\"]",
        ] {
            assert!(toml::from_str::<SocketsSection>(bad).is_err(), "{bad}");
        }
        let ids: Vec<_> = (0..=MAX_ALLOWED).collect();
        for (bad, why) in [
            ("[workload]\npath = \"a\"\n[sds]\npath = \"a\"".to_owned(), "one path"),
            ("[workload]\npath = \"a/..\"".to_owned(), "names no file"),
            (format!("[sds]\npath = \"{}\"", "a".repeat(MAX_SOCKET_PATH + 1)), "96 at most"),
            ("[sds]\npath = \"a\"\nroles = [\"other\"]".to_owned(), "\"other\""),
            ("[roles.other]\nuids = [1]".to_owned(), "sockets.roles.other"),
            (format!("[roles.web]\nuids = {ids:?}"), "at most 64 users"),
            (format!("[workload]\npath = \"a\"\njwt_roles = {:?}", vec!["j"; MAX_JWT_ROLES + 1]), "at most 16"),
            ("[aws]\nlisten = \"0.0.0.0:1\"\ntoken_file = \"t\"".to_owned(), "loopback"),
            ("[aws]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"t\"\nroles = [\"web\"]\n[roles.web]\ngids = [1]".to_owned(), "name users"),
        ] {
            let section: SocketsSection = toml::from_str(&bad).unwrap();
            let faults = section.faults(&BTreeSet::from(["web"]));
            assert!(faults.len() == 1 && faults[0].contains(why), "{bad}: {faults:?}");
        }
    }

    #[test]
    fn who_is_named_is_let_in_and_nobody_named_means_everybody() {
        let peer = |uid, gid| Peer { uid, gid, pid: None };
        let access = |uids: &[u32], gids: &[u32]| Access { uids: uids.to_vec(), gids: gids.to_vec() };
        assert!(access(&[], &[]).allows(&peer(7, 7)));
        let both = access(&[1], &[2]);
        assert!(both.allows(&peer(1, 9)) && both.allows(&peer(9, 2)));
        assert!(!both.allows(&peer(2, 1)) && !both.allows(&peer(0, 0)), "nor root, when it is not named");
        assert!(!access(&[], &[2]).allows(&peer(2, 0)), "a list of groups alone shuts out every other user");
    }
}
