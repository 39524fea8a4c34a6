//! The client by its other name: docker's credential helper.

use std::process::ExitCode;

fn main() -> ExitCode {
    daypass::cli::registry::helper::run(&std::env::args_os().collect::<Vec<_>>()).into()
}
