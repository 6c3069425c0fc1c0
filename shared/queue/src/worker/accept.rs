//! What becomes of claimed jobs: they are laid ready for apalis, or end here when this worker cannot run them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use apalis_core::task::{Task, builder::TaskBuilder, metadata::MetadataStore, task_id::TaskId};
use bytes::Bytes;

use super::{
    context::JobContext,
    fetch::Fetcher,
    membership::jittered,
    shared::{End, Finish},
};
use crate::{
    JobId,
    record::Record,
    seal::{self, Closed},
};

/// Wait before a job goes back that this worker still runs under a lost lease, or under the same id from another queue.
const STILL_HELD: Duration = Duration::from_secs(1);

impl Fetcher {
    pub(super) fn accept(&mut self, claimed: Vec<(JobId, Bytes)>) {
        if claimed.is_empty() {
            return;
        }
        self.source().pulse.fetch();
        let mut tasks = Vec::with_capacity(claimed.len());
        let weak = Arc::downgrade(&self.shared);
        // The call may have been on its way when the worker was told to take no more.
        let is_open = self.is_open();
        for (id, raw) in claimed {
            let token = self.next_token;
            self.next_token += 1;
            if raw.is_empty() {
                // Leased already: see step.lua.
                continue;
            }
            if !is_open {
                self.unsettled.push(Finish::unrun(id, token, End::Returned { delay_ms: 0 }));
                continue;
            }
            match Record::decode(&raw) {
                Ok(record) => {
                    let payload = record.payload.clone();
                    let context = JobContext::new(id, token, record, weak.clone(), self.at);
                    if let Some(task) = self.task(context, &payload) {
                        tasks.push(task);
                    }
                }
                Err(error) => {
                    let end = End::Dead { message: error.to_string() };
                    self.unsettled.push(Finish::unrun(id, token, end));
                }
            }
        }
        self.can_run = !tasks.is_empty();
        self.shared.lay_ready(tasks);
    }

    /// The end of a run that needs another worker.
    fn hand_back(&self, context: &JobContext, reason: &'static str) -> End {
        metrics::counter!("queue_handed_back_total", "queue" => self.source().queue.name().to_string(), "reason" => reason)
            .increment(1);
        End::HandedBack { delay_ms: crate::options::millis(until_deployed(context.id())) }
    }

    /// The job as apalis runs it; `None` when it cannot run here.
    fn task(&mut self, context: JobContext, payload: &[u8]) -> Option<Task<Vec<u8>>> {
        let refuse = |end| Finish { attempt: context.attempt(), ..Finish::unrun(context.id(), context.token(), end) };
        if context.version() > self.shared.version {
            let end = self.hand_back(&context, "version");
            self.unsettled.push(refuse(end));
            return None;
        }
        let keys = self.source().queue.options().keys.as_ref();
        let opened = context.is_sealed().then(|| seal::open(keys, context.id(), context.kind(), payload));
        let payload = match &opened {
            None => payload,
            Some(Ok(opened)) => opened,
            Some(Err(Closed::UnknownKey)) => {
                let end = self.hand_back(&context, "key");
                self.unsettled.push(refuse(end));
                return None;
            }
            Some(Err(Closed::Broken)) => {
                let key = seal::key_of(payload).unwrap_or("?");
                let message =
                    format!("sealed arguments do not open with key {key}: they were changed, or the key is another");
                self.unsettled.push(refuse(unreadable(&context, message)));
                return None;
            }
        };
        if let Some(Err(error)) = self.check.map(|check| check(payload)) {
            // The reason quotes what it could not read, which must not stand beside a seal.
            let message = if context.is_sealed() {
                let (what, line, column) = (error.classify(), error.line(), error.column());
                format!("failed to read the sealed arguments: {what:?} error at line {line} column {column}")
            } else {
                format!("failed to read the arguments: {error}")
            };
            self.unsettled.push(refuse(unreadable(&context, message)));
            return None;
        }
        let mut held = self.shared.held.lock();
        // In any queue: apalis tells a worker's jobs apart by their ids alone.
        if (0..self.shared.sources.len()).any(|at| held.contains_key(&(at, context.id()))) {
            let delay_ms = crate::options::millis(STILL_HELD);
            self.unsettled.push(refuse(End::Returned { delay_ms }));
            return None;
        }
        held.insert((self.at, context.id()), context.clone());
        if self.source().early_cancels.lock().contains(&context.id()) {
            context.request_cancel();
        }
        drop(held);
        let mut builder = TaskBuilder::new(payload.to_vec())
            .task_id(TaskId::from_ulid(context.id().ulid()))
            .attempt(context.attempt() as usize - 1)
            .max_attempts(context.max_attempts() as usize);
        if !context.metadata().is_empty() {
            builder = builder.with_metadata(
                context.metadata().iter().map(|(k, v)| (k.clone(), v.clone())).collect::<MetadataStore>(),
            );
        }
        Some(builder.data(context).build())
    }
}

/// The end of a run whose arguments could not be read.
fn unreadable(context: &JobContext, message: String) -> End {
    let delay_ms = crate::options::millis(crate::RetryPolicy::default().backoff(context.attempt()));
    End::Failed { delay_ms, message }
}

/// How long a job that another worker has to run waits before it is looked at again: a quarter of its age, so that a deploy under
/// way hardly delays it and a forgotten one costs little. At least 1 s, at most 30 s, and less by up to half so that a herd spreads.
fn until_deployed(id: JobId) -> Duration {
    let age = SystemTime::now().duration_since(id.created_at()).unwrap_or_default();
    jittered((age / 4).clamp(Duration::from_secs(1), Duration::from_secs(30)))
}
