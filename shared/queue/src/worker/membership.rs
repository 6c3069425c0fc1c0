//! A worker's place in a queue: its number and tokens, what becomes of its leases when a call's fate is unknown, and its leaving.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use apalis_core::task::Task;
use bytes::Bytes;
use fred::types::Value;
use rand::Rng;

use super::{
    connect::renew_after,
    context::JobContext,
    fetch::{Failing, Fetcher, MOST_CLAIMED},
    shared::{End, Finish},
};
use crate::{JobId, QueueError, scripts};

/// Tokens of one worker number.
const TOKENS: u64 = 1 << 28;
/// Worker numbers are below this: number and count make a token, which a sorted set's score holds exactly up to 2^53.
const NUMBERS: u32 = 1 << 25;
/// How long a worker whose handlers have ended tries to tell Redis so, before it leaves the rest to the end of its leases; one call may
/// take as long again.
const PATIENCE: Duration = Duration::from_secs(10);

impl Fetcher {
    pub(super) async fn register(&mut self) {
        let mut wait = Duration::from_millis(50);
        loop {
            let info = serde_json::to_string(&self.shared.describe(self.at)).unwrap_or_default();
            let is_prefetching = i64::from(self.shared.options.prefetch > 0);
            let number = rand::rng().random_range(1..NUMBERS);
            let args: Vec<Value> = vec![
                self.source().queue.options().lease_ms().into(),
                info.into(),
                is_prefetching.into(),
                number.into(),
            ];
            let made: Result<bool, QueueError> =
                scripts::run(&self.calls, &scripts::REGISTER, self.source().queue.prefix(), args).await;
            match made {
                // Another worker has it.
                Ok(false) => {}
                Ok(true) => {
                    self.next_token = u64::from(number) * TOKENS + 1;
                    self.last_token = u64::from(number) * TOKENS + TOKENS - 1;
                    self.is_hungry = true;
                    self.source().number.store(number, Ordering::Release);
                    if let Err(error) = self.source().queue.register_anew().await {
                        tracing::debug!(%error, "failed to note the queue's name");
                    }
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, source = ?std::error::Error::source(&error), queue.name = %self.source().queue.name(), "failed to register the worker, will try again");
                    renew_after(&self.calls, &error).await;
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
    pub(super) fn lose_everything(&mut self) {
        let shared = &self.shared;
        let is_ours = |task: &Task<Vec<u8>>| task.data().get::<JobContext>().is_none_or(|job| job.source() == self.at);
        let mut unstarted = Vec::new();
        shared.buffer.lock().retain(|task| {
            let goes = is_ours(task);
            unstarted.extend(goes.then(|| task.data().get::<JobContext>().map(JobContext::id)).flatten());
            !goes
        });
        let mut held = shared.held.lock();
        for id in unstarted {
            held.remove(&(self.at, id));
        }
        // Handlers that still run keep their entry until they end, so that the same job does not start beside them.
        for (_, context) in held.iter().filter(|((at, _), _)| *at == self.at) {
            context.lose();
        }
        drop(held);
        self.source().finishes.lock().clear();
        self.unsettled.clear();
        self.wait = None;
    }

    pub(super) async fn recover(&mut self, error: &QueueError) {
        tracing::warn!(%error, source = ?std::error::Error::source(error), queue.name = %self.source().queue.name(), "failed to reach the queue, will go on when it answers");
        self.done(false);
        self.is_hungry = true;
        renew_after(&self.calls, error).await;
        // A step may be refused again and again while all else works.
        let failing = self.failing.get_or_insert_with(|| Failing { since: Instant::now(), wait: Duration::ZERO });
        let wait = failing.wait;
        failing.wait = (wait * 2).clamp(Duration::from_millis(50), Duration::from_secs(1));
        tokio::time::sleep(jittered(wait)).await;
        self.reconcile_until_done().await;
        if self.is_over() {
            self.give_up_after(self.failing.as_ref().map_or_else(Instant::now, |failing| failing.since));
        }
    }

    /// Ends the worker, although Redis does not know how its jobs ended, when it could not be told for too long.
    fn give_up_after(&mut self, since: Instant) {
        if since.elapsed() >= PATIENCE {
            tracing::warn!(queue.name = %self.source().queue.name(), jobs = self.unsettled.len(), "redis was not told how these jobs ended before this worker did, they will run again when their leases are over");
            self.has_given_up = true;
        }
    }

    /// After a call whose fate is unknown: bars it, and returns jobs it may have claimed without our hearing of them.
    pub(super) async fn reconcile_until_done(&mut self) {
        let begun = Instant::now();
        let mut wait = Duration::from_millis(50);
        // What it claims from now on is barred like the rest, and what it has claimed goes back like the rest.
        self.wait = None;
        self.next_token += MOST_CLAIMED as u64;
        while let Err(error) = self.reconcile().await {
            tracing::debug!(%error, "failed to compare leases");
            renew_after(&self.calls, &error).await;
            let mut ended = std::mem::take(&mut *self.source().finishes.lock());
            self.unsettled.append(&mut ended);
            self.mind_the_stop();
            if self.is_over() {
                self.give_up_after(begun);
                if self.has_given_up {
                    return;
                }
            }
            tokio::time::sleep(jittered(wait)).await;
            wait = (wait * 2).min(Duration::from_secs(1));
        }
    }

    async fn reconcile(&mut self) -> Result<(), QueueError> {
        const PAGE: i64 = 1_000;
        let number = self.source().number.load(Ordering::Acquire);
        let mut from = u64::from(number) * TOKENS;
        loop {
            let text = |token: u64| Value::from(token.to_string());
            let args = vec![number.into(), text(self.next_token), text(from), PAGE.into()];
            let (status, ids, tokens): (i64, Vec<Bytes>, Vec<u64>) =
                scripts::run(&self.calls, &scripts::RECONCILE, self.source().queue.prefix(), args).await?;
            if status != 0 {
                self.source().number.store(0, Ordering::Release);
                return Ok(());
            }
            let is_last = (ids.len() as i64) < PAGE;
            for (raw, token) in ids.iter().zip(&tokens) {
                from = token + 1;
                let id = JobId::from_bytes(raw)?;
                let is_known = self
                    .shared
                    .held
                    .lock()
                    .get(&(self.at, id))
                    .is_some_and(|context| context.token() == *token)
                    || self.source().finishes.lock().iter().chain(&self.unsettled).any(|finish| finish.token == *token);
                if !is_known {
                    self.unsettled.push(Finish::unrun(id, *token, End::Returned { delay_ms: 0 }));
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    pub(super) async fn leave(&mut self) {
        const RETURNED: i64 = 500;
        let number = self.source().number.load(Ordering::Acquire);
        let begun = Instant::now();
        while number > 0 && begun.elapsed() < PATIENCE {
            let args = vec![number.into(), RETURNED.into()];
            match scripts::run::<i64>(&self.calls, &scripts::LEAVE, self.source().queue.prefix(), args).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "failed to sign off");
                    renew_after(&self.calls, &error).await;
                    tokio::time::sleep(jittered(Duration::from_millis(100))).await;
                }
            }
        }
    }
}

pub(super) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + rand::rng().random::<f64>() / 2.0)
}
