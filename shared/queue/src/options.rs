//! Settings of a queue handle.

use std::time::{Duration, Instant};

use crate::{KeyRing, keys::DEFAULT_PREFIX};

/// How long and how many finished jobs are kept. Whichever bound is met first ends a job; zero of either keeps none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How long.
    pub age: Duration,
    /// How many.
    pub count: u64,
}

impl Retention {
    /// Keeps nothing: a job disappears in the step that finishes it.
    pub const NONE: Self = Self { age: Duration::ZERO, count: 0 };

    /// Keeps up to `count` jobs for up to `age`.
    #[must_use]
    pub const fn new(age: Duration, count: u64) -> Self {
        Self { age, count }
    }
}

/// Settings of a queue handle. All handles and workers of one queue should use the same.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// Put in front of every key. Default `aq:`.
    pub key_prefix: String,
    /// Completed jobs. Default: 1 hour, 10,000 jobs.
    pub retention_completed: Retention,
    /// Dead and cancelled jobs, each. Default: 30 days, 100,000 jobs.
    pub retention_dead: Retention,
    /// How long what a handler returned is kept; zero keeps nothing, and neither is `null` kept. Default 1 hour.
    pub result_ttl: Duration,
    /// How long a worker counts as alive after its last sign of life; it gives one three times as often. Default 5 seconds, at
    /// least 1. Longer tolerates longer pauses of a machine, shorter finds dead workers sooner: a dead worker's jobs
    /// are available again after 1.3 to 1.7 times this.
    pub lease: Duration,
    /// A job during which its worker died this often is dead instead of run again. Default 3, at least 1.
    pub poison_after: u32,
    /// Most jobs that may wait (available, scheduled, retryable); a push beyond it fails with
    /// [`QueueError::Full`](crate::QueueError::Full). This and the two bounds below are looked at in the step that stores: a push of up
    /// to 1,000 jobs is stored as a whole or not at all. A queue in which nothing waits takes any push. Default: no bound.
    pub max_depth: Option<u64>,
    /// Most bytes of jobs that may wait, payload, metadata and names counted. Default: no bound. The count is kept by difference and is
    /// right again whenever nothing waits; while workers of a version that does not count like this one run beside it, it drifts.
    pub max_bytes: Option<u64>,
    /// Longest time that a job pushed now may be expected to wait. Default: no bound. That is the longer of two:
    ///
    /// - how long jobs of its kind (of a batch's first, and with room in their groups) have been available without one being taken,
    ///   hand-backs of jobs that a worker cannot run not counted as taken; 0 where none is available. A paused queue waits, too.
    /// - the queue's jobs of all kinds that are available, divided by the rate at which jobs ended over the last minute while others
    ///   waited and the queue was not paused. Left out while workers have measured no such time, as in the first 5 seconds.
    ///
    /// Scheduled and retryable jobs count from when a worker made them available, which an idle one does when they are due.
    pub max_latency: Option<Duration>,
    /// Seals the payloads of pushed jobs, and opens those of fetched and listed ones. Jobs that are
    /// [adopted](crate::Queue::adopt_stock) stay as they were, in clear. Default: none; payloads are stored as they are.
    pub keys: Option<KeyRing>,
    /// Longest time one call may take, after which it fails with [`QueueError::Unavailable`](crate::QueueError::Unavailable).
    /// Default 5 seconds.
    pub command_timeout: Duration,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            key_prefix: DEFAULT_PREFIX.to_owned(),
            retention_completed: Retention::new(Duration::from_secs(3600), 10_000),
            retention_dead: Retention::new(Duration::from_secs(30 * 24 * 3600), 100_000),
            result_ttl: Duration::from_secs(3600),
            lease: Duration::from_secs(5),
            poison_after: 3,
            max_depth: None,
            max_bytes: None,
            max_latency: None,
            keys: None,
            command_timeout: Duration::from_secs(5),
        }
    }
}

impl QueueOptions {
    pub(crate) fn lease_ms(&self) -> i64 {
        millis(self.lease.max(Duration::from_secs(1)))
    }

    /// How long a late worker is waited for once it was seen to be late: long enough to reconnect after Redis was away, short
    /// enough that lease, beat and grace stay below 10 seconds.
    pub(crate) fn grace_ms(&self) -> i64 {
        self.lease_ms() * 3 / 10
    }
}

/// Longest time that is told to Redis or waited for, as good as for ever: a thousand years of 365 days. Redis adds times to the clock and
/// refuses what overflows, in the midst of a script; and [`Instant`] cannot hold every sum.
const LONGEST: Duration = Duration::from_secs(1_000 * 365 * 24 * 3_600);

/// Whole milliseconds as Redis takes them; at most those of a thousand years.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.min(LONGEST).as_millis()).unwrap_or(i64::MAX)
}

/// The time so long from now; in a thousand years at the latest.
pub(crate) fn after(wait: Duration) -> Instant {
    Instant::now() + wait.min(LONGEST)
}

/// A count as Redis takes it.
pub(crate) fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_times_leave_room_for_the_clock_that_they_are_added_to() {
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert!(millis(Duration::MAX).checked_add(millis(now)).is_some());
        assert_eq!(millis(now), i64::try_from(now.as_millis()).unwrap());
        assert!(after(Duration::MAX) > Instant::now() + Duration::from_secs(900 * 365 * 24 * 3_600));
    }
}
