//! What the backend, its layer, the fetch task and the heartbeat thread of one worker have in common.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime},
};

use apalis_core::{task::Task, worker::context::WorkerContext};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    budget::Budget,
    canary::{self, Pulse},
    context::JobContext,
    options::WorkerOptions,
};
use crate::{JobId, KeyRing, Queue, RunningJob, WorkerRecord};

/// How a job's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Completed {
        result: Option<Vec<u8>>,
    },
    Failed {
        delay_ms: i64,
        message: String,
    },
    Dead {
        message: String,
    },
    Cancelled {
        message: String,
    },
    /// Goes back without spending an attempt, after `delay_ms`.
    Returned {
        delay_ms: i64,
    },
    /// The same for a job that this worker cannot run: it was never started.
    HandedBack {
        delay_ms: i64,
    },
}

/// An end on its way to Redis.
#[derive(Debug, Clone)]
pub(crate) struct Finish {
    pub(crate) id: JobId,
    pub(crate) token: u64,
    pub(crate) is_plain: bool,
    pub(crate) attempt: u32,
    /// How long it ran; zero where it did not run, or not to its end.
    pub(crate) ran: Duration,
    pub(crate) end: End,
}

impl Finish {
    /// The end of a job that no handler saw.
    pub(crate) fn unrun(id: JobId, token: u64, end: End) -> Self {
        Self { id, token, is_plain: false, attempt: 0, ran: Duration::ZERO, end }
    }
}

/// One of the queues that a worker serves.
pub(crate) struct Source {
    pub(crate) queue: Queue,
    /// This worker's number in the queue; 0 before it has one.
    pub(crate) number: AtomicU32,
    /// Ends not yet told to Redis. Bounded by `WorkerOptions::room`: each leased job ends once.
    pub(crate) finishes: Mutex<Vec<Finish>>,
    /// Jobs whose cancel came while they were not held: perhaps just claimed by a call under way, at whose end this is emptied.
    /// Written under the lock of `held` only.
    pub(crate) early_cancels: Mutex<Vec<JobId>>,
    /// Something for the fetch task to look at.
    pub(crate) stir: Notify,
    pub(crate) pulse: Pulse,
    /// When the last sign of life that Redis answered was sent.
    beaten_at: Mutex<Option<Instant>>,
    /// An operator wants the worker to take no new jobs of this queue.
    pub(crate) is_quiet: AtomicBool,
}

impl Source {
    /// Redis answered a sign of life that was sent then. The first one, or the first after a pause, lets the fetch task claim.
    pub(crate) fn note_beat(&self, sent: Instant) {
        let was_alive = self.is_alive();
        *self.beaten_at.lock() = Some(sent);
        if !was_alive {
            self.stir.notify_one();
        }
    }

    /// Whether the heartbeat renews this worker's leases. While it does not, jobs would be claimed only to be taken for a dead worker's.
    pub(crate) fn is_alive(&self) -> bool {
        let lease = Duration::from_millis(u64::try_from(self.queue.options().lease_ms()).unwrap_or(u64::MAX));
        self.beaten_at.lock().is_some_and(|sent| sent.elapsed() < lease)
    }
}

pub(crate) struct Shared {
    /// At least one.
    pub(crate) sources: Vec<Source>,
    pub(crate) budget: Budget,
    pub(crate) options: WorkerOptions,
    pub(crate) kind: String,
    /// The newest version of the kind that it can run.
    pub(crate) version: u32,
    pub(crate) worker: WorkerContext,
    started_at: SystemTime,
    /// Jobs this worker answers for, by queue and id, from the claim to the end of the handler. Bounded by `WorkerOptions::room`,
    /// plus handlers that outlived their lease.
    pub(crate) held: Mutex<HashMap<(usize, JobId), JobContext>>,
    /// Claimed jobs that apalis has not taken yet. Bounded by `WorkerOptions::room`.
    pub(crate) buffer: Mutex<VecDeque<Task<Vec<u8>>>>,
    pub(crate) waker: AtomicWaker,
    /// When apalis last took a job from the buffer, or the buffer was empty.
    taken_at: Mutex<Instant>,
    /// The fetch task is to settle everything and end.
    pub(crate) is_closing: AtomicBool,
    /// The fetch task has ended.
    pub(crate) is_closed: AtomicBool,
    pub(crate) close_waker: AtomicWaker,
}

impl Shared {
    pub(crate) fn new(
        queues: &[(Queue, u32)],
        options: WorkerOptions,
        (kind, version): (String, u32),
        worker: WorkerContext,
    ) -> Self {
        let source = |queue: &Queue| Source {
            queue: queue.clone(),
            number: AtomicU32::new(0),
            finishes: Mutex::default(),
            early_cancels: Mutex::default(),
            stir: Notify::new(),
            pulse: Pulse::new(),
            beaten_at: Mutex::default(),
            is_quiet: AtomicBool::new(false),
        };
        Self {
            sources: queues.iter().map(|(queue, _)| source(queue)).collect(),
            budget: Budget::new(options.room(), queues.iter().map(|(_, weight)| *weight)),
            options,
            kind,
            version,
            worker,
            started_at: SystemTime::now(),
            held: Mutex::default(),
            buffer: Mutex::default(),
            waker: AtomicWaker::new(),
            taken_at: Mutex::new(Instant::now()),
            is_closing: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            close_waker: AtomicWaker::new(),
        }
    }

    /// The next job for apalis to run.
    pub(crate) fn pop(&self) -> Option<Task<Vec<u8>>> {
        let task = self.buffer.lock().pop_front();
        if task.is_some() {
            *self.taken_at.lock() = Instant::now();
        }
        task
    }

    /// Lays claimed jobs ready for apalis.
    pub(crate) fn lay_ready(&self, tasks: Vec<Task<Vec<u8>>>) {
        let mut buffer = self.buffer.lock();
        if buffer.is_empty() {
            *self.taken_at.lock() = Instant::now();
        }
        buffer.extend(tasks);
        drop(buffer);
        self.waker.wake();
    }

    /// Since when apalis leaves claimed jobs where they are.
    pub(crate) fn untaken_since(&self) -> Option<Instant> {
        let is_waiting = !self.buffer.lock().is_empty();
        is_waiting.then(|| *self.taken_at.lock())
    }

    /// A job ended. One whose lease is gone is only forgotten: its end is not ours to tell.
    pub(crate) fn finish(&self, context: &JobContext, end: End) {
        let source = &self.sources[context.source()];
        source.pulse.finish();
        // In one step to others: a job is held or its end is there to be told.
        let mut held = self.held.lock();
        held.remove(&(context.source(), context.id()));
        if !context.is_lost() {
            let has_run = matches!(end, End::Completed { .. } | End::Failed { .. } | End::Dead { .. });
            let ran = context.started_at().filter(|_| has_run).map_or(Duration::ZERO, |at| at.elapsed());
            source.finishes.lock().push(Finish {
                id: context.id(),
                token: context.token(),
                is_plain: context.is_plain(),
                attempt: context.attempt(),
                ran,
                end,
            });
        }
        drop(held);
        source.stir.notify_one();
    }

    /// Whether an operator, or the program that it runs in, wants it to take no new jobs of this queue.
    pub(crate) fn is_quiet(&self, at: usize) -> bool {
        self.worker.is_paused() || self.sources[at].is_quiet.load(Ordering::Relaxed)
    }

    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        for source in &self.sources {
            source.stir.notify_one();
        }
    }

    /// Lets these queues' fetchers look again.
    pub(crate) fn stir(&self, sources: &[usize]) {
        for at in sources {
            self.sources[*at].stir.notify_one();
        }
    }

    /// Carries out what an operator asked for through one of the queues; returns the nonce of a ping to be answered.
    pub(crate) fn obey(&self, at: usize, command: &[u8]) -> Option<String> {
        let source = &self.sources[at];
        if let Some(id) = command.strip_prefix(b"cancel ") {
            /// One call claims no more; what is beyond them is not of a call under way.
            const MOST_EARLY: usize = 500;
            let Ok(id) = JobId::from_bytes(id) else { return None };
            let held = self.held.lock();
            if let Some(context) = held.get(&(at, id)) {
                context.request_cancel();
            } else {
                let mut early = source.early_cancels.lock();
                if early.len() < MOST_EARLY {
                    early.push(id);
                }
            }
            return None;
        }
        match std::str::from_utf8(command).unwrap_or_default() {
            "quiet" => source.is_quiet.store(true, Ordering::Relaxed),
            "loud" => source.is_quiet.store(false, Ordering::Relaxed),
            "stop" => {
                if let Err(error) = self.worker.stop() {
                    tracing::warn!(%error, worker.name = self.worker.name(), "failed to stop the worker when told to");
                }
            }
            other => return other.strip_prefix("ping ").map(str::to_owned),
        }
        source.stir.notify_one();
        None
    }

    /// The worker as one of its queues sees it.
    pub(crate) fn describe(&self, at: usize) -> WorkerRecord {
        /// A description stays small however many jobs a worker holds.
        const MOST_JOBS: usize = 20;
        let held = self.held.lock();
        let of_queue = || held.iter().filter(|((source, _), _)| *source == at).map(|(_, context)| context);
        let mut jobs: Vec<(JobId, Instant)> =
            of_queue().filter_map(|context| Some((context.id(), context.started_at()?))).collect();
        let (running, is_full) = (of_queue().count(), held.len() >= self.options.room());
        drop(held);
        jobs.sort_by_key(|(_, at)| *at);
        jobs.truncate(MOST_JOBS);
        let ms = |at: &Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        WorkerRecord {
            number: self.sources[at].number.load(Ordering::Relaxed),
            name: self.worker.name().to_owned(),
            host: self.options.host.clone(),
            pid: std::process::id(),
            kind: self.kind.clone(),
            version: self.version,
            keys: self.sources[at].queue.options().keys.iter().flat_map(KeyRing::ids).map(str::to_owned).collect(),
            concurrency: self.options.concurrency,
            started_at_ms: self
                .started_at
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            is_quiet: self.sources[at].is_quiet.load(Ordering::Relaxed),
            running,
            is_full,
            health: canary::health(self, at),
            last_fetched_at_ms: self.sources[at].pulse.last_fetched().map(canary::in_ms),
            last_finished_at_ms: self.sources[at].pulse.last_finished().map(canary::in_ms),
            is_offered: self.sources[at].pulse.is_offered(),
            jobs: jobs.iter().map(|(id, at)| RunningJob { id: *id, for_ms: ms(at) }).collect(),
            beat_at_ms: 0,
            is_late: false,
        }
    }
}
