//! What a handler can know and say of its own job.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use apalis_core::task::{Task, data::MissingDataError, from_request::FromRequest};
use bytes::Bytes;
use tokio::sync::Notify;

use super::shared::Shared;
use crate::{JobId, Progress, Queue, QueueError, queue::id_value, record::Record, scripts};

/// Nobody wants the job to end.
const ON: u8 = 0;
/// An operator cancelled it.
const CANCEL: u8 = 1;
/// The worker stops and its grace is over.
const STOP: u8 = 2;
/// The lease is lost: the job runs elsewhere, or will.
const LOST: u8 = 3;

/// A handle of the running job on itself; add it to a handler's arguments.
///
/// # Examples
/// ```
/// use apalis_fred::{Job, JobContext};
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Count { to: u64 }
/// impl Job for Count { const KIND: &'static str = "count"; }
///
/// async fn handle(job: Count, context: JobContext) -> Result<(), apalis_core::error::BoxDynError> {
///     for n in 0..job.to {
///         if context.is_cancelled() {
///             return Err("cancelled".into());
///         }
///         context.progress(n, job.to, "counting").await?;
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct JobContext {
    inner: Arc<Inner>,
}

struct Inner {
    id: JobId,
    token: AtomicU64,
    record: Record,
    meta: OnceLock<BTreeMap<String, String>>,
    wish: AtomicU8,
    wished: Notify,
    started: OnceLock<Instant>,
    shared: Weak<Shared>,
    /// Which of its worker's queues it comes from.
    source: usize,
}

impl std::fmt::Debug for JobContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobContext")
            .field("id", &self.inner.id)
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

impl JobContext {
    pub(crate) fn new(id: JobId, token: u64, record: Record, shared: Weak<Shared>, source: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                id,
                token: AtomicU64::new(token),
                record,
                meta: OnceLock::new(),
                wish: AtomicU8::new(ON),
                wished: Notify::new(),
                started: OnceLock::new(),
                shared,
                source,
            }),
        }
    }

    /// The job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.inner.id
    }

    /// The job's kind.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.inner.record.kind
    }

    /// The version of its arguments; see [`Job::VERSION`](crate::Job::VERSION).
    #[must_use]
    pub fn version(&self) -> u32 {
        self.inner.record.version
    }

    /// The queue it came from; `None` when its worker is gone.
    #[must_use]
    pub fn queue(&self) -> Option<Queue> {
        Some(self.inner.shared.upgrade()?.sources[self.inner.source].queue.clone())
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.record.attempts + 1
    }

    /// Attempts allowed.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.inner.record.max_attempts
    }

    /// Whether no attempt follows if this one fails.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.attempt() >= self.max_attempts()
    }

    /// A value of the metadata that the job was pushed with.
    #[must_use]
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.metadata().get(key).map(String::as_str)
    }

    /// All metadata that the job was pushed with.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        self.inner.meta.get_or_init(|| self.inner.record.metadata().unwrap_or_default())
    }

    /// The W3C trace context the job was pushed with: its `traceparent`.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.meta("traceparent")
    }

    /// Whether the handler should end: the job was cancelled, the worker stops, or the lease was lost. What it returns after
    /// that is not kept as a failure.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.wish.load(Ordering::Acquire) != ON
    }

    /// Waits until [`is_cancelled`](Self::is_cancelled).
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn cancelled(&self) {
        loop {
            let wished = self.inner.wished.notified();
            if self.is_cancelled() {
                return;
            }
            wished.await;
        }
    }

    /// Tells how far the job is; the last word is kept until the job ends.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached: a handler may well ignore that. [`QueueError::Closed`] when
    /// the lease is lost or the worker is closed.
    pub async fn progress(&self, done: u64, total: u64, text: &str) -> Result<(), QueueError> {
        let shared = self.inner.shared.upgrade().ok_or(QueueError::Closed)?;
        let progress = serde_json::to_vec(&Progress { done, total, text: text.to_owned() })?;
        let args = vec![id_value(self.id()), self.token().to_string().into(), Bytes::from(progress).into()];
        let noted: i64 = shared.sources[self.inner.source].queue.run(&scripts::PROGRESS, args).await?;
        if noted == 1 { Ok(()) } else { Err(QueueError::Closed) }
    }

    pub(crate) fn source(&self) -> usize {
        self.inner.source
    }

    pub(crate) fn token(&self) -> u64 {
        self.inner.token.load(Ordering::Relaxed)
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.inner.record.timeout
    }

    pub(crate) fn kills(&self) -> u32 {
        self.inner.record.kills
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.inner.record.is_sealed
    }

    /// Whether a completion without a result needs no look at the record.
    pub(crate) fn is_plain(&self) -> bool {
        self.inner.record.unique.is_empty()
    }

    pub(crate) fn start(&self) {
        // Started twice is impossible: apalis takes a job from the buffer once.
        let _ = self.inner.started.set(Instant::now());
    }

    pub(crate) fn started_at(&self) -> Option<Instant> {
        self.inner.started.get().copied()
    }

    fn wish(&self, wish: u8) {
        self.inner.wish.fetch_max(wish, Ordering::AcqRel);
        self.inner.wished.notify_waiters();
    }

    pub(crate) fn request_cancel(&self) {
        self.wish(CANCEL);
    }

    pub(crate) fn request_stop(&self) {
        self.wish(STOP);
    }

    pub(crate) fn lose(&self) {
        self.wish(LOST);
    }

    pub(crate) fn is_cancel(&self) -> bool {
        self.inner.wish.load(Ordering::Acquire) == CANCEL
    }

    pub(crate) fn is_stop(&self) -> bool {
        self.inner.wish.load(Ordering::Acquire) == STOP
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.inner.wish.load(Ordering::Acquire) == LOST
    }
}

impl<Args: Sync> FromRequest<Task<Args>> for JobContext {
    type Error = MissingDataError;

    async fn from_request(task: &Task<Args>) -> Result<Self, Self::Error> {
        task.data().get_checked().cloned()
    }
}
