//! Tests against real Redis servers, one binary.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by failing")]

mod basics;
mod redis;
mod worker;
