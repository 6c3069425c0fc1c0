//! Oneiro as its users meet it: the real programs, a real Redis, HTTP, sockets, faults, the operator's program and the page.

mod bad_input;
mod chaos;
mod cli;
mod config;
mod crowds;
mod deletes;
mod dreams;
mod faults;
mod formats;
mod limits;
mod media;
mod memory;
mod metrics;
mod operators;
mod outage;
mod page;
mod progress;
mod secrets;
mod setup;
mod silence;
mod sockets;
mod stuck;
mod up;
mod web_client;
