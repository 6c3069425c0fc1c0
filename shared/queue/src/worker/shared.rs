//! What the backend, its layer, the fetch task and the heartbeat thread of one worker have in common.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Instant, SystemTime},
};

use apalis_core::{task::Task, worker::context::WorkerContext};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{context::JobContext, options::WorkerOptions};
use crate::{JobId, Queue, RunningJob, WorkerRecord};

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
}

/// An end on its way to Redis.
#[derive(Debug, Clone)]
pub(crate) struct Finish {
    pub(crate) id: JobId,
    pub(crate) token: u64,
    pub(crate) is_plain: bool,
    pub(crate) attempt: u32,
    pub(crate) end: End,
}

pub(crate) struct Shared {
    pub(crate) queue: Queue,
    pub(crate) options: WorkerOptions,
    pub(crate) kind: String,
    pub(crate) worker: WorkerContext,
    started_at: SystemTime,
    /// This worker's number in Redis; 0 before it has one.
    pub(crate) number: AtomicU32,
    /// Jobs this worker answers for, from the claim to the end of the handler. Bounded by `WorkerOptions::room`, plus handlers
    /// that outlived their lease.
    pub(crate) held: Mutex<HashMap<JobId, JobContext>>,
    /// Claimed jobs that apalis has not taken yet. Bounded by `WorkerOptions::room`.
    pub(crate) buffer: Mutex<VecDeque<Task<Vec<u8>>>>,
    pub(crate) waker: AtomicWaker,
    /// Ends not yet told to Redis. Bounded by `WorkerOptions::room`: each leased job ends once.
    pub(crate) finishes: Mutex<Vec<Finish>>,
    /// Something for the fetch task to look at.
    pub(crate) stir: Notify,
    pub(crate) is_quiet: AtomicBool,
    /// The fetch task is to settle everything and end.
    pub(crate) is_closing: AtomicBool,
    /// The fetch task has ended.
    pub(crate) is_closed: AtomicBool,
    pub(crate) close_waker: AtomicWaker,
}

impl Shared {
    pub(crate) fn new(queue: Queue, options: WorkerOptions, kind: String, worker: WorkerContext) -> Self {
        Self {
            queue,
            options,
            kind,
            worker,
            started_at: SystemTime::now(),
            number: AtomicU32::new(0),
            held: Mutex::default(),
            buffer: Mutex::default(),
            waker: AtomicWaker::new(),
            finishes: Mutex::default(),
            stir: Notify::new(),
            is_quiet: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            close_waker: AtomicWaker::new(),
        }
    }

    /// A job ended. One whose lease is gone is only forgotten: its end is not ours to tell.
    pub(crate) fn finish(&self, context: &JobContext, end: End) {
        self.held.lock().remove(&context.id());
        if !context.is_lost() {
            self.finishes.lock().push(Finish {
                id: context.id(),
                token: context.token(),
                is_plain: context.is_plain(),
                attempt: context.attempt(),
                end,
            });
        }
        self.stir.notify_one();
    }

    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        self.stir.notify_one();
    }

    /// Carries out what an operator asked for; returns the nonce of a ping to be answered.
    pub(crate) fn obey(&self, command: &[u8]) -> Option<String> {
        if let Some(id) = command.strip_prefix(b"cancel ") {
            if let Ok(id) = JobId::from_bytes(id)
                && let Some(context) = self.held.lock().get(&id)
            {
                context.request_cancel();
            }
            return None;
        }
        match std::str::from_utf8(command).unwrap_or_default() {
            "quiet" => self.is_quiet.store(true, Ordering::Relaxed),
            "loud" => self.is_quiet.store(false, Ordering::Relaxed),
            "stop" => {
                if let Err(error) = self.worker.stop() {
                    tracing::warn!(%error, worker.name = self.worker.name(), "failed to stop the worker when told to");
                }
            }
            other => return other.strip_prefix("ping ").map(str::to_owned),
        }
        self.stir.notify_one();
        None
    }

    pub(crate) fn describe(&self) -> WorkerRecord {
        /// A description stays small however many jobs a worker holds.
        const MOST_JOBS: usize = 20;
        let held = self.held.lock();
        let mut jobs: Vec<(JobId, Instant)> =
            held.values().filter_map(|context| Some((context.id(), context.started_at()?))).collect();
        let running = held.len();
        drop(held);
        jobs.sort_by_key(|(_, at)| *at);
        jobs.truncate(MOST_JOBS);
        let ms = |at: &Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        WorkerRecord {
            number: self.number.load(Ordering::Relaxed),
            name: self.worker.name().to_owned(),
            host: self.options.host.clone(),
            pid: std::process::id(),
            kind: self.kind.clone(),
            concurrency: self.options.concurrency,
            started_at_ms: self
                .started_at
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
            is_quiet: self.is_quiet.load(Ordering::Relaxed),
            running,
            jobs: jobs.iter().map(|(id, at)| RunningJob { id: *id, for_ms: ms(at) }).collect(),
            beat_at_ms: 0,
            is_late: false,
        }
    }
}
