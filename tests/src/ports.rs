//! Ports for the programs under test.

use std::{
    net::TcpListener,
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
};

/// Ports below the range that systems hand out for outgoing connections, so that no connection takes one between here and its use.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// A port of 127.0.0.1 on which nothing listens, given out once per test run until all were.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Another run of the tests on this machine begins elsewhere.
    let next = NEXT.get_or_init(|| AtomicU16::new(rand::random::<u16>() % COUNT));
    loop {
        let port = FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
