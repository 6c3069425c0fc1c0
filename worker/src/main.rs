//! Oneiro's worker process.

use std::process::ExitCode;

fn main() -> ExitCode {
    oneiro_worker::run()
}
