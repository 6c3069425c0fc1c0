//! The task that keeps a worker fed: one round trip settles what ended and claims what is next.
//!
//! A worker of several queues has a [`Fetcher`] for each, all in this one task; they share the worker's slots by its
//! [`Budget`](super::budget::Budget) and nothing else. A call that hangs keeps the slots that it may fill until it is given up (10 s); the
//! budget sees to it that they are never all of the worker's, unless it has only one. Otherwise trouble with one queue holds up no other.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use apalis_core::task::{Task, builder::TaskBuilder, metadata::MetadataStore, task_id::TaskId};
use bytes::Bytes;
use fred::{
    clients::{Client, WithOptions},
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value, config::Options},
};
use futures::{FutureExt, future::BoxFuture};

use super::{
    connect::{close, connected, renew},
    context::JobContext,
    membership::jittered,
    shared::{End, Finish, Shared, Source},
    step::{self, Status, Step},
};
use crate::{
    JobId,
    record::Record,
    scripts,
    seal::{self, Closed},
};

/// Most jobs claimed by one call; also the gap left in the tokens after a call whose fate is unknown.
pub(super) const MOST_CLAIMED: usize = 500;
/// Most ends told by one call.
const MOST_SETTLED: usize = 1_000;
/// How long one call to Redis may take before its fate counts as unknown.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an idle worker sleeps at most: below it lies only the rare wake-up that died with the worker that took it.
const NAP: Duration = Duration::from_secs(5);
/// How often a worker looks whether it was told to stop: apalis tells no backend before the last job has ended.
const GLANCE: Duration = Duration::from_millis(200);
/// Wait before a job goes back that this worker still runs under a lost lease.
const STILL_HELD: Duration = Duration::from_secs(1);

/// Reads a payload's arguments, to see whether they can be read.
pub(crate) type Check = fn(&[u8]) -> Result<(), serde_json::Error>;

/// What keeps one queue of a worker served.
pub(super) struct Fetcher {
    pub(super) shared: Arc<Shared>,
    /// Which of the worker's queues.
    pub(super) at: usize,
    check: Option<Check>,
    pub(super) calls: WithOptions<Client>,
    pub(super) next_token: u64,
    pub(super) last_token: u64,
    pub(super) unsettled: Vec<Finish>,
    /// Whether work may be there for the taking.
    pub(super) is_hungry: bool,
    /// Whether it could run a job of those that it claimed last.
    can_run: bool,
    due: Option<Instant>,
    pub(super) wake: Option<BoxFuture<'static, bool>>,
    stop_at: Option<Instant>,
    /// Whether all has ended here and Redis could not be told.
    pub(super) has_given_up: bool,
}

/// Runs until the worker is closed and everything is settled.
pub(crate) async fn run(shared: Arc<Shared>, check: Option<Check>) {
    futures::future::join_all((0..shared.sources.len()).map(|at| serve(Arc::clone(&shared), at, check))).await;
    shared.is_closed.store(true, Ordering::Release);
    shared.close_waker.wake();
}

async fn serve(shared: Arc<Shared>, at: usize, check: Option<Check>) {
    let source = shared.sources[at].queue.client().clone();
    let connecting = async { (connected(&source).await, connected(&source).await) };
    let (client, waiting) = shared.sources[at].pulse.turn_during(connecting).await;
    let calls = client.with_options(&Options {
        max_attempts: scripts::writes(&client),
        timeout: Some(PATIENCE),
        ..Options::default()
    });
    let mut fetcher = Fetcher {
        shared,
        at,
        check,
        calls,
        next_token: 0,
        last_token: 0,
        unsettled: Vec::new(),
        is_hungry: true,
        can_run: true,
        due: None,
        wake: None,
        stop_at: None,
        has_given_up: false,
    };
    fetcher.work(&waiting).await;
    close(&client).await;
    close(&waiting).await;
}

impl Fetcher {
    pub(super) fn source(&self) -> &Source {
        &self.shared.sources[self.at]
    }

    async fn work(&mut self, waiting: &Client) {
        loop {
            self.source().pulse.turn();
            if self.source().number.load(Ordering::Acquire) == 0 {
                self.lose_everything();
                if self.is_over() {
                    return;
                }
                let shared = Arc::clone(&self.shared);
                shared.sources[self.at].pulse.turn_during(self.register()).await;
            }
            self.mind_the_stop();
            let mut ended = std::mem::take(&mut *self.source().finishes.lock());
            self.unsettled.append(&mut ended);
            if self.has_given_up {
                return;
            }
            if self.is_over() && self.unsettled.is_empty() {
                self.leave().await;
                return;
            }
            let can_claim = self.can_claim();
            let is_due = self.due.is_some_and(|due| due <= Instant::now());
            if !self.unsettled.is_empty() || is_due || (can_claim && self.is_hungry) {
                let want = if can_claim { self.take() } else { 0 };
                if !self.unsettled.is_empty() || is_due || want > 0 {
                    self.step(want).await;
                    self.done(self.is_hungry);
                    continue;
                }
                self.done(self.is_hungry);
            } else {
                self.done(false);
            }
            self.rest(waiting, can_claim).await;
        }
    }

    /// Whether this worker takes jobs of this queue at all now.
    fn can_claim(&mut self) -> bool {
        let shared = &self.shared;
        let source = &shared.sources[self.at];
        let is_ending = self.stop_at.is_some() || shared.is_closing.load(Ordering::Acquire);
        if is_ending || source.is_quiet.load(Ordering::Relaxed) {
            return false;
        }
        if self.next_token + (MOST_CLAIMED as u64) * 2 > self.last_token {
            // The number's tokens are used up: finish what is held, then work on under a new number.
            if self.unsettled.is_empty() && !shared.held.lock().keys().any(|(at, _)| *at == self.at) {
                self.is_hungry = true;
                source.number.store(0, Ordering::Release);
                source.stir.notify_one();
            }
            return false;
        }
        true
    }

    /// How many jobs to claim now.
    fn take(&self) -> usize {
        let (want, others) = self.shared.budget.take(self.at, self.is_hungry, self.shared.held.lock().len());
        self.shared.stir(&others);
        want.min(MOST_CLAIMED)
    }

    /// Gives back what was taken and not filled, and all where the queue is not hungry.
    pub(super) fn done(&self, is_hungry: bool) {
        let others = self.shared.budget.done(self.at, is_hungry, self.shared.held.lock().len());
        self.shared.stir(&others);
    }

    /// Whether the worker is closed and no handler is left.
    pub(super) fn is_over(&self) -> bool {
        self.shared.is_closing.load(Ordering::Acquire)
            && self.shared.held.lock().is_empty()
            && self.source().finishes.lock().is_empty()
    }

    /// Once told to stop: unstarted jobs go back at once, running ones after the grace.
    fn mind_the_stop(&mut self) {
        let is_closing = self.shared.is_closing.load(Ordering::Acquire);
        if !is_closing && !self.shared.worker.is_shutting_down() {
            return;
        }
        let grace = self.shared.options.shutdown_grace;
        let stop_at = *self.stop_at.get_or_insert_with(|| Instant::now() + grace);
        let unstarted: Vec<Task<Vec<u8>>> = self.shared.buffer.lock().drain(..).collect();
        for task in unstarted {
            if let Some(context) = task.data().get::<JobContext>() {
                self.shared.finish(context, End::Returned { delay_ms: 0 });
            }
        }
        if Instant::now() >= stop_at {
            for context in self.shared.held.lock().values() {
                context.request_stop();
            }
        }
    }

    async fn rest(&mut self, waiting: &Client, can_claim: bool) {
        // A full worker of one queue learns of work when a job ends. With several queues another one's job may end, so each listens.
        let is_listening = self.shared.sources.len() > 1 || self.shared.held.lock().len() < self.shared.options.room();
        if can_claim && is_listening && !self.is_hungry && self.wake.is_none() {
            let key = self.source().queue.key(&format!("wk:{}", self.shared.kind));
            self.wake = Some(wait_for_work(waiting.clone(), key).boxed());
        }
        let due = self.due;
        let until_due = async move {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let woken = async {
            match &mut self.wake {
                Some(wake) => wake.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shared.sources[self.at].stir.notified() => {}
            is_work = woken => {
                self.wake = None;
                self.is_hungry = true;
                if !is_work {
                    // Redis did not answer; the step that follows meets the same trouble and waits it out.
                    tokio::time::sleep(jittered(Duration::from_millis(50))).await;
                }
                if !can_claim || self.shared.held.lock().len() >= self.shared.options.room() {
                    self.pass_on().await;
                }
            }
            () = until_due => self.is_hungry = true,
            () = tokio::time::sleep(GLANCE) => {}
        }
    }

    /// A wake-up came while there was no room: a call that claims nothing hands it to another worker.
    async fn pass_on(&mut self) {
        self.step(0).await;
    }

    async fn step(&mut self, want: usize) {
        let rest = self.unsettled.split_off(self.unsettled.len().min(MOST_SETTLED));
        let settled = std::mem::replace(&mut self.unsettled, rest);
        let shared = Arc::clone(&self.shared);
        let source = &shared.sources[self.at];
        let step = Step {
            number: source.number.load(Ordering::Acquire),
            token: self.next_token,
            want,
            kind: &shared.kind,
            options: source.queue.options(),
            worker: shared.worker.name(),
            can_run: self.can_run,
        };
        let args = step::arguments(&step, &settled);
        let call = scripts::run(&self.calls, &scripts::STEP, source.queue.prefix(), args);
        let reply = match source.pulse.turn_during(call).await {
            Ok(reply) => step::read(reply),
            Err(error) => Err(error),
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                // Should the call have arrived after all, their time is counted; it must not be twice.
                self.unsettled.splice(0..0, settled.into_iter().map(|finish| Finish { ran: Duration::ZERO, ..finish }));
                source.pulse.turn_during(self.recover(&error)).await;
                return;
            }
        };
        if !reply.lost.is_empty() {
            // Told twice after a lost answer, or taken from us in between: either way somebody else answers for them.
            tracing::debug!(queue.name = %source.queue.name(), jobs = reply.lost.len(), "ends of jobs came after their lease was over");
            metrics::counter!("queue_late_acks_total", "queue" => source.queue.name().to_string())
                .increment(reply.lost.len() as u64);
        }
        self.due = reply.next_due.map(|wait| Instant::now() + wait);
        self.is_hungry = reply.has_more;
        match reply.status {
            Status::Fine => {
                self.accept(reply.claimed);
                source.early_cancels.lock().clear();
            }
            Status::Paused => {}
            Status::Unknown => source.number.store(0, Ordering::Release),
            Status::Stale => {
                self.is_hungry = true;
                source.pulse.turn_during(self.reconcile_until_done()).await;
            }
        }
    }

    fn accept(&mut self, claimed: Vec<(JobId, Bytes)>) {
        if claimed.is_empty() {
            return;
        }
        self.source().pulse.fetch();
        let mut tasks = Vec::with_capacity(claimed.len());
        let weak = Arc::downgrade(&self.shared);
        for (id, raw) in claimed {
            let token = self.next_token;
            self.next_token += 1;
            if raw.is_empty() {
                // Leased already: see step.lua.
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
                    self.unsettled.push(Finish { id, token, is_plain: false, attempt: 0, ran: Duration::ZERO, end });
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
        let refuse = |end| Finish {
            id: context.id(),
            token: context.token(),
            is_plain: false,
            attempt: context.attempt(),
            ran: Duration::ZERO,
            end,
        };
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
        if held.contains_key(&(self.at, context.id())) {
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

/// Whether Redis answered: with a token or with nothing after the nap.
async fn wait_for_work(client: Client, key: String) -> bool {
    let calls = client.with_options(&Options {
        max_attempts: scripts::writes(&client),
        timeout: Some(NAP * 2),
        ..Options::default()
    });
    let pop = CustomCommand::new_static("BLPOP", ClusterHash::FirstKey, true);
    match calls.custom::<Value, _>(pop, vec![key, NAP.as_secs().to_string()]).await {
        Ok(_) => true,
        Err(error) => {
            renew(&client, &error).await;
            false
        }
    }
}
