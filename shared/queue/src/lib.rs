//! An [apalis](apalis_core) 1.0 backend on Redis, built on [fred]: jobs are leased, fenced, retried, prioritised, shared
//! fairly between groups, and never silently lost.
//!
//! [`Queue`] is the handle for producers and operators; it needs no apalis. [`FredStorage`] is the backend that an apalis
//! worker is built on. Delivery is at least once: a job runs again when its worker died or lost its lease, so handlers
//! must be idempotent. `docs/LIFECYCLE.md` of the repository draws every state and names every key.
//!
//! ```no_run
//! use apalis_core::worker::builder::WorkerBuilder;
//! use apalis_fred::{FredStorage, Job, NewJob, Queue, WorkerOptions};
//! use fred::prelude::*;
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Mail { to: String }
//! impl Job for Mail { const KIND: &'static str = "mail"; }
//!
//! async fn send(mail: Mail) -> Result<(), apalis_core::error::BoxDynError> {
//!     println!("to {}", mail.to);
//!     Ok(())
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Builder::from_config(Config::from_url("redis://127.0.0.1")?).build()?;
//! client.init().await?;
//! let queue = Queue::new(client, "mail".parse()?);
//! queue.push(NewJob::new(&Mail { to: "ada".into() })?).await?;
//! let storage = FredStorage::<Mail>::new(queue, WorkerOptions::default());
//! WorkerBuilder::new("mailer").backend(storage).build(send).run().await?;
//! # Ok(()) }
//! ```

mod error;
mod id;
mod job;
mod keys;
mod name;
mod options;
mod queue;
mod record;
mod scripts;
mod seal;
mod worker;

pub use error::{FullReason, QueueError};
pub use id::JobId;
pub use job::{Job, NewJob, Priority, Pushed, RetryPolicy, Unique};
pub use name::QueueName;
pub use options::{QueueOptions, Retention};
pub use queue::{
    CancelOutcome, Explanation, Forecast, JobError, JobFilter, JobPage, JobRecord, Outcome, Progress, Queue,
    QueueLimits, QueueStats, RunningJob, State, WorkerRecord, list_queues,
};
pub use seal::KeyRing;
pub use worker::{Canary, FredStorage, Health, JobContext, Settle, SettleLayer, Sighting, WorkerOptions};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So does the example of the page for those who come from elsewhere.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/COMING_FROM.md")]
struct ComingFrom;
