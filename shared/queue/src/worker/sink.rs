//! apalis's tasks as this crate's jobs.

use std::time::{Duration, SystemTime};

use apalis_core::task::Task;

use crate::{JobId, NewJob, Priority, QueueError, RetryPolicy, Unique};

/// Metadata key that carries a job's group through apalis's task builder.
pub(crate) const GROUP_KEY: &str = "apalis_fred.group";

/// A task's id (ULID, or a new one), run time, priority (0 low, 1 normal, 2 and more high), attempts, idempotency key (unique
/// until done) and metadata; metadata `apalis_fred.group` is its group.
pub(crate) fn new_job(task: Task<Vec<u8>>, kind: &str, policy: RetryPolicy) -> Result<NewJob, QueueError> {
    let (payload, context) = task.take();
    let mut job = NewJob::raw(kind, payload)?;
    if let Some(id) = context.task_id().and_then(apalis_core::task::task_id::TaskId::as_ulid) {
        job = job.with_id(JobId::from(id));
    }
    if let Some(at) = context.run_at() {
        job = job.run_at(SystemTime::UNIX_EPOCH + Duration::from_secs(at));
    }
    job = job.priority(match context.priority() {
        Some(0) => Priority::Low,
        None | Some(1) => Priority::Normal,
        Some(_) => Priority::High,
    });
    let attempts = context.max_attempts().and_then(|n| u32::try_from(n).ok()).unwrap_or(policy.max_attempts);
    job = job.max_attempts(attempts);
    if let Some(key) = context.idempotency_key() {
        job = job.unique(key, Unique::UntilDone);
    }
    for (key, value) in context.metadata().iter() {
        job = if key == GROUP_KEY { job.group(value) } else { job.meta(key, value) };
    }
    Ok(job)
}
