//! The socket tier over real TCP on a real Redis.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "../../../shared/events/tests/support/redis.rs"]
mod redis;
#[path = "../../../shared/events/tests/support/servers.rs"]
#[allow(dead_code, reason = "shared with the tests of events, which need more of it")]
mod servers;

mod asks;
mod client;
mod cluster;
mod contract;
mod deadline;
mod dream;
mod ends;
mod frames;
mod hostile;
mod list;
mod node;
mod notifications;
mod past;
mod plain;
mod positions;
mod presence;
mod rest;
mod secrets;
mod streams;
mod wire;
