//! Oneiro's workers: they take jobs from the queues, make variants, and settle dreams.
//!
//! A new kind of job is one file in `jobs` and one line in `registry.rs`.

mod converter;
mod health;
mod jobs;
mod memory;
mod orphan;
mod pool;
mod registry;
mod runtime;
mod shared;
mod sweep;

pub use converter::{ConvertError, Converted, Converter};
pub use pool::{Isolation, Limits, Pool, PoolError, Reserved};
pub use runtime::{Args, run};
pub use shared::Shared;
