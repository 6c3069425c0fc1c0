//! The socket tier over real TCP on a real Redis.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "../../../shared/events/tests/support/redis.rs"]
mod redis;

mod asks;
mod client;
mod contract;
mod deadline;
mod dream;
mod ends;
mod frames;
mod hostile;
mod list;
mod node;
mod notifications;
mod plain;
mod positions;
mod presence;
mod rest;
mod secrets;
mod streams;
mod wire;
