//! How many files this process may have open: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as are asked for: more than all bounds of the agent together, and not so many that a program that closes every number that it
/// may have (a hook inherits the limit) takes long.
pub const WANTED: u64 = 65_536;

/// Raises the soft limit to [`WANTED`], or as near to it as the hard one allows: systemd's soft limit is 1024 for programs that use
/// select(2) (systemd.exec(5)), which this one does not. Answers what holds then.
pub fn raise() -> u64 {
    let found = getrlimit(Resource::Nofile);
    if let Some(raised) = raised(&found)
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the number of files that may be open stays as it was");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The limit to set; none when it is high enough. No limit is none.
fn raised(found: &Rlimit) -> Option<Rlimit> {
    let current = found.current?;
    let wanted = found.maximum.map_or(WANTED, |maximum| maximum.min(WANTED));
    (current < wanted).then_some(Rlimit { current: Some(wanted), maximum: found.maximum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_goes_up_as_far_as_the_hard_one_lets_it_and_never_down() {
        let raised = |current, maximum| raised(&Rlimit { current, maximum }).map(|limit| (limit.current.unwrap(), limit.maximum));
        assert_eq!(raised(Some(1024), Some(524_288)), Some((WANTED, Some(524_288))));
        assert_eq!(raised(Some(1024), None), Some((WANTED, None)));
        assert_eq!(raised(Some(1024), Some(4096)), Some((4096, Some(4096))));
        assert_eq!([raised(Some(4096), Some(4096)), raised(Some(100_000), Some(200_000)), raised(None, None)], [None; 3]);
    }
}
