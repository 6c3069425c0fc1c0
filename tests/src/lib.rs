//! Starts the real programs of Oneiro with a Redis of their own, and speaks to them as browsers, operators and faults do.
//!
//! [`Oneiro`] is one environment: a private `redis-server`, the programs `api`, `ws` and as many `worker`s as a test wants, a folder
//! for images, a secret. It ends with the test; its logs stay in `tests/artifacts/<test>/`. Several environments run side by side.
//! A [`User`] makes requests and opens [`Socket`]s; [`eventually`] waits for what another process will do, with one patience for all.

mod artifacts;
pub mod browser;
mod client;
pub mod crowd;
mod environment;
pub mod noise;
mod patience;
pub mod photo;
mod ports;
mod process;
mod programs;
mod proxy;
mod redis;
mod socket;

pub use artifacts::Artifacts;
pub use client::{Answer, Form, User};
pub use environment::{Builder, Oneiro, Tier, token};
pub use patience::{PATIENCE, eventually, within};
pub use ports::free_port;
pub use process::{Process, Spawn};
pub use programs::{program, project_root};
pub use proxy::Proxy;
pub use redis::RedisServer;
pub use socket::{Frame, Socket};
