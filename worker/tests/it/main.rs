//! The worker's parts with real processes around them; whole workers run in the end-to-end tests.

mod converter;
// How a process is limited, and how tests find and observe it, is Linux's.
#[cfg(target_os = "linux")]
mod isolation;
