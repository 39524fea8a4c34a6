//! The scripts: each is one atomic step on one partition, on one revocation list, or on one collection.

use std::sync::LazyLock;

use redis::{Arg, Cmd, Script};

macro_rules! partition_script {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        pub static $name: LazyLock<Text> = LazyLock::new(|| Text::new(concat!(include_str!("lua/common.lua"), include_str!($file))));
    };
}

macro_rules! plain_script {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        pub static $name: LazyLock<Text> = LazyLock::new(|| Text::new(include_str!($file)));
    };
}

/// A script with the name that Redis knows it by.
pub struct Text {
    source: &'static str,
    /// SHA-1 over the source, lower-case hex.
    sha: String,
}

impl Text {
    fn new(source: &'static str) -> Self {
        Self { source, sha: Script::new(source).get_hash().to_owned() }
    }

    /// A call by name, on the keys of one stem; its arguments are added to it.
    pub fn on(&self, stem: &str) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.sha).arg(1).arg(stem);
        call
    }

    /// The same call with the source, for a server that does not know the script; it does from then on.
    pub fn with_source(&self, call: &Cmd) -> Cmd {
        let mut eval = redis::cmd("EVAL");
        eval.arg(self.source);
        for argument in call.args_iter().skip(2) {
            if let Arg::Simple(bytes) = argument {
                eval.arg(bytes);
            }
        }
        eval
    }
}

partition_script!(
    /// Stores a new lease.
    PUT, "lua/put.lua"
);
partition_script!(
    /// Compare-and-set.
    SWAP, "lua/swap.lua"
);
partition_script!(
    /// Writes what was lost.
    RESTORE, "lua/restore.lua"
);
partition_script!(
    /// Removes what has ended.
    PURGE, "lua/purge.lua"
);
partition_script!(
    /// Ids in order.
    LIST, "lua/list.lua"
);
partition_script!(
    /// Ids whose time has come.
    DUE, "lua/due.lua"
);
partition_script!(
    /// Counts.
    STATS, "lua/stats.lua"
);
partition_script!(
    /// Puts the use of a token on record.
    USE_TOKEN, "lua/use_token.lua"
);
plain_script!(
    /// The next CRL number.
    CRL_NUMBER, "lua/crl_number.lua"
);
plain_script!(
    /// Adds to a revocation list.
    CRL_ADD, "lua/crl_add.lua"
);
plain_script!(
    /// Reads a revocation list.
    CRL_LIST, "lua/crl_list.lua"
);
plain_script!(
    /// Forgets expired serials.
    CRL_PURGE, "lua/crl_purge.lua"
);
plain_script!(
    /// Writes an entry that servers share.
    ENTRY_WRITE, "lua/entry_write.lua"
);
plain_script!(
    /// Deletes one.
    ENTRY_DELETE, "lua/entry_delete.lua"
);
