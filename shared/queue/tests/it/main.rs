//! Tests against real Redis servers, one binary.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by failing")]

mod alike;
mod backlog;
mod basics;
mod canary;
mod chaos;
mod cluster;
mod documented;
mod encryption;
mod ends;
mod examples;
mod explain;
mod expose;
mod failover;
mod flows;
mod forecast;
mod interop;
mod lanes;
mod layers;
mod limits;
mod listing;
mod network;
mod pressure;
mod proxy;
mod redis;
mod surface;
mod versions;
mod weighted;
mod worker;
