//! Tells a worker that is connected from one that consumes.
//!
//! A heartbeat proves that the process lives, not that jobs get done: a fetch task that stands still, a runtime whose threads are all
//! blocked, or handlers that never end leave the heartbeat as it was. So each worker notes when its fetch task last turned, when it
//! last fetched and finished a job, and whether its queue offered one; the heartbeat's thread draws the conclusion.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::shared::Shared;
use crate::QueueName;

/// How long a fetch task may stand still, or leave a job that it was offered: longer than the 10 s after which a call to Redis is given up.
const STALL: Duration = Duration::from_secs(30);

/// What a worker does about the jobs of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Health {
    /// It holds a job.
    Consuming,
    /// It waits for jobs.
    #[default]
    Idle,
    /// An operator told it to take no new jobs, or its own program paused it (apalis's `WorkerContext::pause`).
    Quiet,
    /// It should do something and does not: its fetch task stands still, jobs wait and it has room but takes none, it leaves jobs that
    /// it fetched unstarted, or every slot is held by a job that runs longer than [`WorkerOptions::stuck_after`] or its own timeout
    /// allows. A worker that waits for Redis is not stuck. In [`Queue::workers`](crate::Queue::workers) also a worker whose signs of life have stopped.
    ///
    /// [`WorkerOptions::stuck_after`]: crate::WorkerOptions::stuck_after
    Stuck {
        /// Since when, in ms since the epoch.
        since_ms: u64,
    },
}

/// When something last happened, in ms after the worker's start; 0 for never.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

impl Moment {
    fn set(&self, start: Instant) {
        self.0.store(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn get(&self, start: Instant) -> Option<Instant> {
        let ms = self.0.load(Ordering::Relaxed);
        (ms > 0).then(|| start + Duration::from_millis(ms))
    }
}

/// What the canary knows of one queue of a worker.
#[derive(Debug)]
pub(crate) struct Pulse {
    start: Instant,
    turned: Moment,
    fetched: Moment,
    finished: Moment,
    /// Since when jobs wait for which there is room.
    offered: Moment,
}

impl Pulse {
    pub(crate) fn new() -> Self {
        let (turned, fetched, finished, offered) =
            (Moment::default(), Moment::default(), Moment::default(), Moment::default());
        Self { start: Instant::now(), turned, fetched, finished, offered }
    }

    /// The fetch task went round once.
    pub(crate) fn turn(&self) {
        self.turned.set(self.start);
    }

    /// Waits for something that takes as long as Redis is away, which is no standstill: the fetch task still turns.
    pub(crate) async fn turn_during<T>(&self, wait: impl Future<Output = T>) -> T {
        const TURN: Duration = Duration::from_millis(500);
        let mut wait = std::pin::pin!(wait);
        loop {
            self.turn();
            if let Ok(done) = tokio::time::timeout(TURN, &mut wait).await {
                return done;
            }
        }
    }

    /// It claimed jobs.
    pub(crate) fn fetch(&self) {
        self.fetched.set(self.start);
        self.offered.clear();
    }

    /// A job ended.
    pub(crate) fn finish(&self) {
        self.finished.set(self.start);
    }

    /// Whether the queue has a job for which the worker has room, as a heartbeat sees it.
    pub(crate) fn offer(&self, is_offered: bool) {
        if !is_offered {
            self.offered.clear();
        } else if self.offered.get(self.start).is_none() {
            self.offered.set(self.start);
        }
    }

    pub(crate) fn is_offered(&self) -> bool {
        self.offered.get(self.start).is_some()
    }

    pub(crate) fn last_fetched(&self) -> Option<Instant> {
        self.fetched.get(self.start)
    }

    pub(crate) fn last_finished(&self) -> Option<Instant> {
        self.finished.get(self.start)
    }
}

/// What a worker does about one of its queues, and since when it does not do what it should.
pub(crate) fn health(shared: &Shared, at: usize) -> Health {
    let source = &shared.sources[at];
    let (pulse, options) = (&source.pulse, &shared.options);
    let stall = STALL.min(options.stuck_after);
    let older = |limit: Duration| move |since: &Instant| since.elapsed() > limit;
    let is_idle_slot = {
        let held = shared.held.lock();
        held.values().filter(|job| job.started_at().is_some()).count() < options.concurrency
    };
    let stands_still = pulse.turned.get(pulse.start).or(Some(pulse.start)).filter(older(stall));
    let leaves_offer = pulse.offered.get(pulse.start).filter(older(stall));
    let leaves_fetched = shared
        .untaken_since()
        .filter(|_| !shared.worker.is_paused())
        .filter(|_| is_idle_slot)
        .filter(older(options.stuck_after));
    let since = stands_still.or(leaves_offer).or(leaves_fetched).or_else(|| all_slots_taken(shared));
    if let Some(since) = since {
        return Health::Stuck { since_ms: in_ms(since) };
    }
    if shared.is_quiet(at) {
        Health::Quiet
    } else if shared.held.lock().keys().any(|(source, _)| *source == at) {
        Health::Consuming
    } else {
        Health::Idle
    }
}

/// Since when every slot is held by a job that should have ended.
fn all_slots_taken(shared: &Shared) -> Option<Instant> {
    let options = &shared.options;
    let held = shared.held.lock();
    let started: Vec<_> = held.values().filter_map(|job| Some((job.started_at()?, job.timeout()))).collect();
    let is_over = |(at, timeout): &(Instant, Option<Duration>)| {
        let own = |timeout: Duration| timeout.saturating_add(options.cancel_grace).saturating_add(STALL);
        at.elapsed() > timeout.map_or(options.stuck_after, own)
    };
    if started.len() < options.concurrency.max(1) || !started.iter().all(is_over) {
        return None;
    }
    started.iter().map(|(at, _)| *at).max()
}

/// An instant as ms since the epoch.
pub(crate) fn in_ms(at: Instant) -> u64 {
    let time = std::time::SystemTime::now() - at.elapsed();
    time.duration_since(std::time::SystemTime::UNIX_EPOCH)
        .map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX))
}

/// Looks at the workers of this process without asking Redis, for a health endpoint: give clones of one canary to the
/// [`WorkerOptions`](crate::WorkerOptions) of all of them.
///
/// # Examples
/// ```
/// use apalis_fred::{Canary, WorkerOptions};
/// let canary = Canary::default();
/// let options = WorkerOptions { canary: canary.clone(), ..WorkerOptions::default() };
/// // In the health endpoint, once workers run on these options:
/// let is_ready = canary.stuck().is_none();
/// # assert!(is_ready);
/// ```
#[derive(Clone, Default)]
pub struct Canary {
    workers: Arc<Mutex<Vec<Weak<Shared>>>>,
}

/// What [`Canary::look`] saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The worker's name, as given to apalis.
    pub worker: String,
    /// Its queue.
    pub queue: QueueName,
    /// Its kind of job.
    pub kind: String,
    /// What it does about them.
    pub health: Health,
}

impl Canary {
    /// The workers that run on options with this canary, one row for each of their queues.
    #[must_use]
    pub fn look(&self) -> Vec<Sighting> {
        let workers: Vec<Arc<Shared>> = {
            let mut workers = self.workers.lock();
            workers.retain(|worker| worker.strong_count() > 0);
            workers.iter().filter_map(Weak::upgrade).collect()
        };
        let rows = |shared: Arc<Shared>| {
            (0..shared.sources.len()).map(move |at| Sighting {
                worker: shared.worker.name().to_owned(),
                queue: shared.sources[at].queue.name().clone(),
                kind: shared.kind.clone(),
                health: health(&shared, at),
            })
        };
        workers.into_iter().filter(|shared| !shared.is_closed.load(Ordering::Acquire)).flat_map(rows).collect()
    }

    /// The first that is stuck.
    #[must_use]
    pub fn stuck(&self) -> Option<Sighting> {
        self.look().into_iter().find(|row| matches!(row.health, Health::Stuck { .. }))
    }

    pub(crate) fn watch(&self, worker: &Arc<Shared>) {
        self.workers.lock().push(Arc::downgrade(worker));
    }
}

impl std::fmt::Debug for Canary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canary").finish_non_exhaustive()
    }
}
