//! The task that keeps a worker fed: one round trip settles what ended and claims what is next.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use apalis_core::task::{Task, builder::TaskBuilder, metadata::MetadataStore, task_id::TaskId};
use bytes::Bytes;
use fred::{
    clients::{Client, WithOptions},
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value, config::Options},
};
use futures::{FutureExt, future::BoxFuture};
use rand::Rng;

use super::{
    connect::connected,
    context::JobContext,
    shared::{End, Finish, Shared},
    step::{self, Status, Step},
};
use crate::{JobId, QueueError, record::Record, scripts};

/// Tokens of one worker number.
const TOKENS: u64 = 1 << 28;
/// Most jobs claimed by one call; also the gap left in the tokens after a call whose fate is unknown.
const MOST_CLAIMED: usize = 500;
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

pub(crate) struct Fetcher {
    shared: Arc<Shared>,
    check: Option<Check>,
    client: Client,
    calls: WithOptions<Client>,
    next_token: u64,
    last_token: u64,
    unsettled: Vec<Finish>,
    /// Whether work may be there for the taking.
    is_hungry: bool,
    due: Option<Instant>,
    wake: Option<BoxFuture<'static, bool>>,
    stop_at: Option<Instant>,
}

/// Runs until the worker is closed and everything is settled.
pub(crate) async fn run(shared: Arc<Shared>, check: Option<Check>) {
    let client = connected(shared.queue.client()).await;
    let waiting = connected(shared.queue.client()).await;
    let calls = client.with_options(&Options {
        max_attempts: scripts::writes(&client),
        timeout: Some(PATIENCE),
        ..Options::default()
    });
    let mut fetcher = Fetcher {
        shared: Arc::clone(&shared),
        check,
        client,
        calls,
        next_token: 0,
        last_token: 0,
        unsettled: Vec::new(),
        is_hungry: true,
        due: None,
        wake: None,
        stop_at: None,
    };
    fetcher.work(&waiting).await;
    shared.is_closed.store(true, Ordering::Release);
    shared.close_waker.wake();
    // Everything is settled; how the connections end changes nothing.
    let _ = fetcher.client.quit().await;
    let _ = waiting.quit().await;
}

impl Fetcher {
    async fn work(&mut self, waiting: &Client) {
        loop {
            if self.shared.number.load(Ordering::Acquire) == 0 {
                self.lose_everything();
                if self.is_over() {
                    return;
                }
                self.register().await;
            }
            self.mind_the_stop();
            self.unsettled.append(&mut self.shared.finishes.lock());
            if self.is_over() && self.unsettled.is_empty() {
                self.leave().await;
                return;
            }
            let want = self.want();
            let is_due = self.due.is_some_and(|due| due <= Instant::now());
            if !self.unsettled.is_empty() || is_due || (want > 0 && self.is_hungry) {
                self.step(want).await;
            } else {
                self.rest(waiting, want).await;
            }
        }
    }

    /// How many jobs to claim now.
    fn want(&mut self) -> usize {
        let shared = &self.shared;
        let is_ending = self.stop_at.is_some() || shared.is_closing.load(Ordering::Acquire);
        if is_ending || shared.is_quiet.load(Ordering::Relaxed) {
            return 0;
        }
        let held = shared.held.lock().len();
        if self.next_token + (MOST_CLAIMED as u64) * 2 > self.last_token {
            // The number's tokens are used up: finish what is held, then work on under a new number.
            if held == 0 && self.unsettled.is_empty() {
                self.is_hungry = true;
                shared.number.store(0, Ordering::Release);
                shared.stir.notify_one();
            }
            return 0;
        }
        shared.options.room().saturating_sub(held).min(MOST_CLAIMED)
    }

    /// Whether the worker is closed and no handler is left.
    fn is_over(&self) -> bool {
        self.shared.is_closing.load(Ordering::Acquire)
            && self.shared.held.lock().is_empty()
            && self.shared.finishes.lock().is_empty()
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

    async fn rest(&mut self, waiting: &Client, want: usize) {
        self.is_hungry = false;
        if want > 0 && self.wake.is_none() {
            let key = self.shared.queue.key(&format!("wk:{}", self.shared.kind));
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
            () = self.shared.stir.notified() => {}
            is_work = woken => {
                self.wake = None;
                self.is_hungry = true;
                if !is_work {
                    // Redis did not answer; the step that follows meets the same trouble and waits it out.
                    tokio::time::sleep(jittered(Duration::from_millis(50))).await;
                }
                if want == 0 {
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
        let number = self.shared.number.load(Ordering::Acquire);
        let step = Step {
            number,
            token: self.next_token,
            want,
            kind: &self.shared.kind,
            options: self.shared.queue.options(),
            worker: self.shared.worker.name(),
        };
        let reply = match scripts::run(
            &self.calls,
            &scripts::STEP,
            self.shared.queue.prefix(),
            step::arguments(&step, &settled),
        )
        .await
        {
            Ok(reply) => step::read(reply),
            Err(error) => Err(error),
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                self.unsettled.splice(0..0, settled);
                self.recover(&error).await;
                return;
            }
        };
        if !reply.lost.is_empty() {
            // Told twice after a lost answer, or taken from us in between: either way somebody else answers for them.
            tracing::debug!(queue.name = %self.shared.queue.name(), jobs = reply.lost.len(), "ends of jobs came after their lease was over");
            metrics::counter!("queue_late_acks_total", "queue" => self.shared.queue.name().to_string())
                .increment(reply.lost.len() as u64);
        }
        self.due = reply.next_due.map(|wait| Instant::now() + wait);
        self.is_hungry = reply.has_more;
        match reply.status {
            Status::Fine => self.accept(reply.claimed),
            Status::Paused => {}
            Status::Unknown => self.shared.number.store(0, Ordering::Release),
            Status::Stale => {
                self.is_hungry = true;
                self.reconcile_until_done().await;
            }
        }
    }

    fn accept(&mut self, claimed: Vec<(JobId, Bytes)>) {
        if claimed.is_empty() {
            return;
        }
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
                    let context = JobContext::new(id, token, record, weak.clone());
                    if let Some(task) = self.task(context, &payload) {
                        tasks.push(task);
                    }
                }
                Err(error) => {
                    let end = End::Dead { message: error.to_string() };
                    self.unsettled.push(Finish { id, token, is_plain: false, attempt: 0, end });
                }
            }
        }
        self.shared.buffer.lock().extend(tasks);
        self.shared.waker.wake();
    }

    /// The job as apalis runs it; `None` when it cannot run here.
    fn task(&mut self, context: JobContext, payload: &[u8]) -> Option<Task<Vec<u8>>> {
        let refuse =
            |end| Finish { id: context.id(), token: context.token(), is_plain: false, attempt: context.attempt(), end };
        if let Some(Err(error)) = self.check.map(|check| check(payload)) {
            let message = format!("failed to read the arguments: {error}");
            let delay_ms = crate::options::millis(crate::RetryPolicy::default().backoff(context.attempt()));
            self.unsettled.push(refuse(End::Failed { delay_ms, message }));
            return None;
        }
        let mut held = self.shared.held.lock();
        if held.contains_key(&context.id()) {
            let delay_ms = crate::options::millis(STILL_HELD);
            self.unsettled.push(refuse(End::Returned { delay_ms }));
            return None;
        }
        held.insert(context.id(), context.clone());
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

    async fn register(&mut self) {
        let mut wait = Duration::from_millis(50);
        loop {
            let info = serde_json::to_string(&self.shared.describe()).unwrap_or_default();
            let is_prefetching = i64::from(self.shared.options.prefetch > 0);
            let args: Vec<Value> =
                vec![self.shared.queue.options().lease_ms().into(), info.into(), is_prefetching.into()];
            let made: Result<u32, QueueError> =
                scripts::run(&self.calls, &scripts::REGISTER, self.shared.queue.prefix(), args).await;
            match made {
                Ok(number) => {
                    self.next_token = u64::from(number) * TOKENS + 1;
                    self.last_token = u64::from(number) * TOKENS + TOKENS - 1;
                    self.is_hungry = true;
                    self.shared.number.store(number, Ordering::Release);
                    if let Err(error) = self.shared.queue.register().await {
                        tracing::debug!(%error, "failed to note the queue's name");
                    }
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, source = ?std::error::Error::source(&error), queue.name = %self.shared.queue.name(), "failed to register the worker, will try again");
                    tokio::time::sleep(jittered(wait)).await;
                    wait = (wait * 2).min(Duration::from_secs(2));
                    if self.is_over() {
                        return;
                    }
                }
            }
        }
    }

    /// The worker was taken for dead, or has no number yet: what it held is no longer its own.
    fn lose_everything(&mut self) {
        let shared = &self.shared;
        let unstarted: Vec<Task<Vec<u8>>> = shared.buffer.lock().drain(..).collect();
        let mut held = shared.held.lock();
        for task in unstarted {
            if let Some(context) = task.data().get::<JobContext>() {
                held.remove(&context.id());
            }
        }
        // Handlers that still run keep their entry until they end, so that the same job does not start beside them.
        for context in held.values() {
            context.lose();
        }
        drop(held);
        shared.finishes.lock().clear();
        self.unsettled.clear();
        self.wake = None;
    }

    async fn recover(&mut self, error: &QueueError) {
        tracing::warn!(%error, source = ?std::error::Error::source(error), queue.name = %self.shared.queue.name(), "failed to reach the queue, will go on when it answers");
        self.is_hungry = true;
        self.reconcile_until_done().await;
    }

    /// After a call whose fate is unknown: bars it, and returns jobs it may have claimed without our hearing of them.
    async fn reconcile_until_done(&mut self) {
        let mut wait = Duration::from_millis(50);
        self.next_token += MOST_CLAIMED as u64;
        while let Err(error) = self.reconcile().await {
            tracing::debug!(%error, "failed to compare leases");
            self.unsettled.append(&mut self.shared.finishes.lock());
            tokio::time::sleep(jittered(wait)).await;
            wait = (wait * 2).min(Duration::from_secs(1));
        }
    }

    async fn reconcile(&mut self) -> Result<(), QueueError> {
        const PAGE: i64 = 1_000;
        let number = self.shared.number.load(Ordering::Acquire);
        let mut from = u64::from(number) * TOKENS;
        loop {
            let text = |token: u64| Value::from(token.to_string());
            let args = vec![number.into(), text(self.next_token), text(from), PAGE.into()];
            let (status, ids, tokens): (i64, Vec<Bytes>, Vec<u64>) =
                scripts::run(&self.calls, &scripts::RECONCILE, self.shared.queue.prefix(), args).await?;
            if status != 0 {
                self.shared.number.store(0, Ordering::Release);
                return Ok(());
            }
            let is_last = (ids.len() as i64) < PAGE;
            for (raw, token) in ids.iter().zip(&tokens) {
                from = token + 1;
                let id = JobId::from_bytes(raw)?;
                let is_known = self.shared.held.lock().get(&id).is_some_and(|context| context.token() == *token)
                    || self.shared.finishes.lock().iter().chain(&self.unsettled).any(|finish| finish.token == *token);
                if !is_known {
                    let end = End::Returned { delay_ms: 0 };
                    self.unsettled.push(Finish { id, token: *token, is_plain: false, attempt: 0, end });
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn leave(&mut self) {
        const RETURNED: i64 = 500;
        /// Tries before the lease's own end is left to do the work.
        const TRIES: u32 = 5;
        let number = self.shared.number.load(Ordering::Acquire);
        let mut tries = 0;
        while number > 0 && tries < TRIES {
            let args = vec![number.into(), RETURNED.into()];
            match scripts::run::<i64>(&self.calls, &scripts::LEAVE, self.shared.queue.prefix(), args).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "failed to sign off");
                    tries += 1;
                    tokio::time::sleep(jittered(Duration::from_millis(100))).await;
                }
            }
        }
    }
}

/// Whether Redis answered: with a token or with nothing after the nap.
async fn wait_for_work(client: Client, key: String) -> bool {
    let calls = client.with_options(&Options {
        max_attempts: scripts::writes(&client),
        timeout: Some(NAP * 2),
        ..Options::default()
    });
    let pop = CustomCommand::new_static("BLPOP", ClusterHash::FirstKey, true);
    let reply: Result<Value, _> = calls.custom(pop, vec![key, NAP.as_secs().to_string()]).await;
    reply.is_ok()
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + rand::rng().random::<f64>() / 2.0)
}
