//! The worker's side: an apalis backend, and the tasks and the thread that keep it fed, alive and honest.

mod accept;
mod budget;
mod canary;
mod connect;
mod context;
mod expose;
mod fetch;
mod heartbeat;
mod layer;
mod membership;
mod options;
mod shared;
mod sink;
mod step;
mod storage;
mod wait;

pub use canary::{Canary, Health, Sighting};
pub(crate) use connect::renew;
pub use context::JobContext;
pub use layer::{Settle, SettleLayer};
pub use options::WorkerOptions;
pub use storage::FredStorage;
