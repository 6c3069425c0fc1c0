//! Oneiro's socket tier alone: tells browsers what happens, over WebSockets and SSE.

use std::process::ExitCode;

fn main() -> ExitCode {
    oneiro_api::run(oneiro_core::config::Role::Ws)
}
