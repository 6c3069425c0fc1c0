//! The task that keeps a worker fed: one round trip settles what ended and claims what is next.
//!
//! A worker of several queues has a [`Fetcher`] for each, all in this one task; they share the worker's slots by its
//! [`Budget`](super::budget::Budget) and nothing else. A call that hangs keeps the slots that it may fill until it is given up (10 s); the
//! budget sees to it that they are never all of the worker's, unless it has only one. Otherwise trouble with one queue holds up no other.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use apalis_core::task::Task;
use fred::{
    clients::{Client, WithOptions},
    interfaces::ClientLike,
    types::config::Options,
};

use super::{
    connect::{close, connected, unblock},
    context::JobContext,
    membership::jittered,
    shared::{End, Finish, Shared, Source},
    step::{self, Claim, Reply, Status, Step},
    wait::{self, Wait, Woken},
};
use crate::{QueueError, options::after, scripts};

/// Most jobs claimed by one call; also the gap left in the tokens after a call whose fate is unknown.
pub(super) const MOST_CLAIMED: usize = 500;
/// Most ends told by one call.
const MOST_SETTLED: usize = 1_000;
/// How long one call to Redis may take before its fate counts as unknown.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a worker looks whether it was told to stop: apalis tells no backend before the last job has ended.
const GLANCE: Duration = Duration::from_millis(200);

/// Reads a payload's arguments, to see whether they can be read.
pub(crate) type Check = fn(&[u8]) -> Result<(), serde_json::Error>;

/// What keeps one queue of a worker served.
pub(super) struct Fetcher {
    pub(super) shared: Arc<Shared>,
    /// Which of the worker's queues.
    pub(super) at: usize,
    pub(super) check: Option<Check>,
    pub(super) calls: WithOptions<Client>,
    pub(super) next_token: u64,
    pub(super) last_token: u64,
    pub(super) unsettled: Vec<Finish>,
    /// Whether work may be there for the taking.
    pub(super) is_hungry: bool,
    /// Whether it could run a job of those that it claimed last.
    pub(super) can_run: bool,
    due: Option<Instant>,
    pub(super) wait: Option<Wait>,
    stop_at: Option<Instant>,
    /// Since when no step was answered.
    pub(super) failing: Option<Failing>,
    /// Whether all has ended here and Redis could not be told.
    pub(super) has_given_up: bool,
}

/// Steps that failed one after the other.
pub(super) struct Failing {
    pub(super) since: Instant,
    pub(super) wait: Duration,
}

/// Runs until the worker is closed and everything is settled.
pub(crate) async fn run(shared: Arc<Shared>, check: Option<Check>) {
    futures::future::join_all((0..shared.sources.len()).map(|at| serve(Arc::clone(&shared), at, check))).await;
    shared.is_closed.store(true, Ordering::Release);
    shared.close_waker.wake();
}

async fn serve(shared: Arc<Shared>, at: usize, check: Option<Check>) {
    let source = shared.sources[at].queue.client().clone();
    let is_wanted = || !shared.is_closing.load(Ordering::Acquire);
    let connecting = async { (connected(&source, is_wanted).await, connected(&source, is_wanted).await) };
    let (Some(client), Some(waiting)) = shared.sources[at].pulse.turn_during(connecting).await else { return };
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
        wait: None,
        stop_at: None,
        failing: None,
        has_given_up: false,
    };
    fetcher.work(&waiting).await;
    unblock(&client, &waiting).await;
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
            if self.shared.worker.is_paused() {
                // Its own program paused it, for nobody knows how long: others can run what it has not begun.
                self.return_unstarted();
            }
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
            // A wait that claims is woken by what is there: claiming beside it would make its tokens stale.
            let may_claim = can_claim && !self.is_claiming();
            let is_due = self.due.is_some_and(|due| due <= Instant::now());
            if !self.unsettled.is_empty() || is_due || (may_claim && self.is_hungry) {
                let want = if may_claim { self.take() } else { 0 };
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
    pub(super) fn is_open(&self) -> bool {
        let is_ending = self.stop_at.is_some() || self.shared.is_closing.load(Ordering::Acquire);
        !is_ending && !self.shared.is_quiet(self.at) && self.source().is_alive()
    }

    /// Whether it may ask for jobs now.
    fn can_claim(&mut self) -> bool {
        if !self.is_open() {
            return false;
        }
        let (shared, source) = (&self.shared, self.source());
        if self.next_token + (MOST_CLAIMED as u64) * 2 > self.last_token {
            // The number's tokens are used up: finish what is held, then work on under a new number.
            if self.unsettled.is_empty()
                && !self.is_claiming()
                && !shared.held.lock().keys().any(|(at, _)| *at == self.at)
                && source.finishes.lock().is_empty()
            {
                source.number.store(0, Ordering::Release);
                source.stir.notify_one();
            }
            return false;
        }
        true
    }

    /// Whether a call is under way that waits for work and claims it.
    fn is_claiming(&self) -> bool {
        self.wait.as_ref().is_some_and(|wait| wait.claims)
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
    pub(super) fn mind_the_stop(&mut self) {
        let is_closing = self.shared.is_closing.load(Ordering::Acquire);
        if !is_closing && !self.shared.worker.is_shutting_down() {
            return;
        }
        let grace = self.shared.options.shutdown_grace;
        let stop_at = *self.stop_at.get_or_insert_with(|| after(grace));
        self.return_unstarted();
        if Instant::now() >= stop_at {
            for context in self.shared.held.lock().values() {
                context.request_stop();
            }
        }
    }

    /// Gives back what apalis has not taken.
    fn return_unstarted(&self) {
        let unstarted: Vec<Task<Vec<u8>>> = self.shared.buffer.lock().drain(..).collect();
        for task in unstarted {
            if let Some(context) = task.data().get::<JobContext>() {
                self.shared.finish(context, End::Returned { delay_ms: 0 });
            }
        }
    }

    async fn rest(&mut self, waiting: &Client, can_claim: bool) {
        // A full worker of one queue learns of work when a job ends. With several queues another one's job may end, so each listens.
        let is_listening = self.shared.sources.len() > 1 || self.shared.held.lock().len() < self.shared.options.room();
        if can_claim && is_listening && !self.is_hungry && self.wait.is_none() {
            self.wait = Some(self.wait_for_work(waiting.clone()));
        }
        let due = self.due;
        let until_due = async move {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        let woken = async {
            match &mut self.wait {
                Some(wait) => (&mut wait.call).await,
                None => std::future::pending().await,
            }
        };
        let woken = tokio::select! {
            () = self.shared.sources[self.at].stir.notified() => None,
            woken = woken => Some(woken),
            () = until_due => {
                self.is_hungry = true;
                None
            }
            () = tokio::time::sleep(GLANCE) => None,
        };
        if let Some(woken) = woken {
            self.wait = None;
            self.wake(woken, can_claim).await;
        }
    }

    /// The wait for work is over.
    async fn wake(&mut self, woken: Woken, can_claim: bool) {
        if woken.is_refused {
            // The step that follows meets the same trouble and waits it out.
            tokio::time::sleep(jittered(Duration::from_millis(50))).await;
        }
        if let Some(claim) = woken.claim {
            self.hear_claim(claim).await;
            return;
        }
        self.is_hungry = true;
        if !can_claim || self.shared.held.lock().len() >= self.shared.options.room() {
            // A call that claims nothing hands the wake-up to another worker.
            self.step(0).await;
        }
    }

    /// Waits for work on a connection of its own. A worker of one queue claims it with the same call, which saves the round trip between
    /// the wake-up and the claim; among several queues the slots are given out when there is work, not before.
    fn wait_for_work(&self, waiting: Client) -> Wait {
        let source = self.source();
        let key = source.queue.key(&format!("wk:{}", self.shared.kind));
        if self.shared.sources.len() > 1 {
            return wait::for_work(waiting, key);
        }
        let args = step::arguments_of_claim(&self.call(self.take()));
        wait::to_claim(waiting, key, source.queue.prefix().to_owned(), args)
    }

    fn call(&self, want: usize) -> Step<'_> {
        let source = self.source();
        Step {
            number: source.number.load(Ordering::Acquire),
            token: self.next_token,
            want,
            kind: &self.shared.kind,
            options: source.queue.options(),
            worker: self.shared.worker.name(),
            can_run: self.can_run,
        }
    }

    async fn step(&mut self, want: usize) {
        let rest = self.unsettled.split_off(self.unsettled.len().min(MOST_SETTLED));
        let settled = std::mem::replace(&mut self.unsettled, rest);
        let shared = Arc::clone(&self.shared);
        let source = &shared.sources[self.at];
        let args = step::arguments(&self.call(want), &settled);
        let call = scripts::run(&self.calls, &scripts::STEP, source.queue.prefix(), args);
        let reply = source.pulse.turn_during(call).await.and_then(step::read);
        if reply.is_err() {
            // Should the call have arrived after all, their time is counted; it must not be twice.
            self.unsettled.splice(0..0, settled.into_iter().map(|finish| Finish { ran: Duration::ZERO, ..finish }));
        }
        self.hear(reply).await;
    }

    /// Takes in the answer to a wait that claims. Unless nothing was there, a step follows and tells what else there is, and when the next
    /// job is due.
    async fn hear_claim(&mut self, claim: Result<Claim, QueueError>) {
        let is_undecided = claim
            .as_ref()
            .is_ok_and(|claim| matches!(claim.status, Status::Fine) && claim.job.is_none() && !claim.is_empty);
        let reply = claim.map(|claim| Reply {
            status: claim.status,
            // What a step learned since the wait began is newer than what the claim saw.
            next_due: self.due.map(|due| due.saturating_duration_since(Instant::now())),
            lost: Vec::new(),
            claimed: claim.job.into_iter().collect(),
            has_more: !claim.is_empty,
        });
        self.hear(reply).await;
        self.done(self.is_hungry);
        if is_undecided && !self.can_claim() {
            // Told to claim no more, meanwhile: the token that the wait took goes on to another worker.
            self.step(0).await;
        } else if self.due.is_none() && self.shared.held.lock().len() >= self.shared.options.room() {
            // Full, so it would not ask before a job ends, and others may rely on it to look at what gets due.
            self.due = Some(Instant::now());
        }
        // A handler that takes no time ends meanwhile, and its end goes along with that step.
        tokio::task::yield_now().await;
    }

    /// Takes in the answer to a step.
    async fn hear(&mut self, reply: Result<Reply, QueueError>) {
        let shared = Arc::clone(&self.shared);
        let source = &shared.sources[self.at];
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                source.pulse.turn_during(self.recover(&error)).await;
                return;
            }
        };
        self.failing = None;
        if !reply.lost.is_empty() {
            // Told twice after a lost answer, or taken from us in between: either way somebody else answers for them.
            tracing::debug!(queue.name = %source.queue.name(), jobs = reply.lost.len(), "ends of jobs came after their lease was over");
            metrics::counter!("queue_late_acks_total", "queue" => source.queue.name().to_string())
                .increment(reply.lost.len() as u64);
        }
        self.due = reply.next_due.map(after);
        self.is_hungry = reply.has_more;
        match reply.status {
            Status::Fine => {
                self.accept(reply.claimed);
                if !self.is_claiming() {
                    source.early_cancels.lock().clear();
                }
            }
            Status::Paused => {}
            Status::Unknown => source.number.store(0, Ordering::Release),
            Status::Stale => {
                self.is_hungry = true;
                source.pulse.turn_during(self.reconcile_until_done()).await;
            }
        }
    }
}
