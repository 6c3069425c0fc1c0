//! Oneiro's API: takes uploads, pushes jobs, serves variants and the page, and the sockets too where one process is enough.

use std::process::ExitCode;

fn main() -> ExitCode {
    oneiro_api::run(oneiro_core::config::Role::Api)
}
