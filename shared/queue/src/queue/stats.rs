//! Counting jobs.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use fred::types::Value;
use serde::Serialize;

use super::Queue;
use crate::{JobId, QueueError, scripts};

/// How many jobs a queue holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct QueueStats {
    /// Wait for their time.
    pub scheduled: u64,
    /// Wait for a worker.
    pub available: u64,
    /// Run.
    pub running: u64,
    /// Wait for their next attempt.
    pub retryable: u64,
    /// Completed and still kept.
    pub completed: u64,
    /// Cancelled and still kept.
    pub cancelled: u64,
    /// Dead and still kept.
    pub dead: u64,
    /// Whether workers may not take jobs.
    pub is_paused: bool,
    /// Bytes of jobs that wait (available, scheduled, retryable), as `QueueOptions::max_bytes` counts them.
    pub waiting_bytes: u64,
    /// Age of the oldest job whose turn is next in its group (of the first groups of each lane), counted from when it was made: one that was
    /// scheduled, failed or was dead before has not waited all that time. `None` also where more cancelled and deleted ones stand in front
    /// than are looked at (1,000).
    pub oldest_available_age: Option<Duration>,
    /// Living workers.
    pub workers: u64,
    /// Pushed since the queue exists.
    pub pushed_total: u64,
    /// Completed since the queue exists.
    pub completed_total: u64,
    /// Failed attempts since the queue exists.
    pub failed_total: u64,
    /// Jobs recovered from dead workers since the queue exists.
    pub rescued_total: u64,
}

impl Queue {
    /// Counts jobs by state, in one step.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn stats(&self) -> Result<QueueStats, QueueError> {
        let reply: Vec<Value> = self.run(&scripts::STATS, vec![]).await?;
        let number = |n: usize| reply.get(n).and_then(Value::as_u64).unwrap_or(0);
        let totals: BTreeMap<String, u64> = reply
            .get(10)
            .cloned()
            .map(Value::into_array)
            .unwrap_or_default()
            .chunks(2)
            .filter_map(|pair| Some((pair[0].as_string()?, pair.get(1)?.as_u64()?)))
            .collect();
        let total = |name: &str| totals.get(name).copied().unwrap_or(0);
        let kept = [1, 2, 3, 4, 5, 6].into_iter().map(number).sum::<u64>();
        let oldest = reply.get(9).and_then(|id| JobId::from_bytes(id.as_bytes()?).ok());
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(number(8));
        Ok(QueueStats {
            scheduled: number(1),
            available: number(0).saturating_sub(kept),
            running: number(2),
            retryable: number(3),
            completed: number(4),
            cancelled: number(5),
            dead: number(6),
            is_paused: number(7) == 1,
            oldest_available_age: oldest.map(|id| now.duration_since(id.created_at()).unwrap_or_default()),
            waiting_bytes: total("bytes"),
            workers: number(12),
            pushed_total: total("pushed"),
            completed_total: total("completed"),
            failed_total: total("failed"),
            rescued_total: total("rescued"),
        })
    }

    /// Jobs completed on each of the last seven days, the oldest first, today last.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn activity(&self) -> Result<Vec<usize>, QueueError> {
        let today = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
        let mut args: Vec<Value> = vec![self.key("days").into()];
        args.extend((today - 6..=today).map(|day| Value::from(day.to_string())));
        let days: Vec<Option<usize>> = self.command("HMGET", args).await?;
        Ok(days.into_iter().map(Option::unwrap_or_default).collect())
    }
}
