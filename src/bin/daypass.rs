//! The client: gets, shows, renews and revokes short-lived credentials.

use std::process::ExitCode;

fn main() -> ExitCode {
    daypass::cli::run(std::env::args_os().collect()).into()
}
