//! The worker's side: an apalis backend, and the tasks and the thread that keep it fed, alive and honest.

mod connect;
mod context;
mod expose;
mod fetch;
mod heartbeat;
mod layer;
mod options;
mod shared;
mod sink;
mod step;
mod storage;

pub use context::JobContext;
pub use layer::{Settle, SettleLayer};
pub use options::WorkerOptions;
pub use storage::FredStorage;
