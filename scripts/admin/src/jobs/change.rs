//! `oneiro jobs retry`, `cancel` and `delete`.

use super::{dreams, find, job_filter, selected};
use crate::{
    cli::{BulkArgs, FilterArgs},
    events::broker,
    queues::open_on,
    show,
};
use anyhow::{Context, bail};
use apalis_fred::{CancelOutcome, JobId, JobRecord, Queue, State};
use futures::{StreamExt, stream};
use oneiro_core::{config::Config, redis};
use oneiro_events::Broker;
use std::{cell::Cell, collections::BTreeMap};

/// Changes under way at once.
const AT_ONCE: usize = 64;
/// Jobs of one page of a bulk change.
const PAGE: usize = 500;

#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    Retry,
    Cancel,
    Delete,
}

impl Action {
    fn done(self) -> &'static str {
        match self {
            Self::Retry => "enqueued again",
            Self::Cancel => "cancelled",
            Self::Delete => "deleted",
        }
    }
}

/// What an action did to one job, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Done,
    /// A cancel of a running job: its worker was told, and may yet complete it.
    Asked,
    /// And why.
    Refused(&'static str),
}

const WAITS_OR_RUNS: &str = "is waiting, running or gone";
const HAS_NOT_ENDED: &str = "has not ended; cancel it first";
const IS_OVER: &str = "is over already";
const IS_GONE: &str = "is gone";
const WENT_ON: &str = "is not in that state any more";

/// One action on jobs of these queues.
struct Change {
    action: Action,
    /// It is only told what it would do.
    is_dry: bool,
    broker: Broker,
    queues: Vec<Queue>,
    /// Out of which state jobs were asked for; `None` where they were named one by one.
    from: Option<State>,
}

pub(super) async fn run(action: Action, args: BulkArgs, config: &Config, json: bool) -> anyhow::Result<()> {
    // One connection for all of it.
    let client = redis::connect(&config.redis).await?;
    let queues = open_on(&client, config).await?;
    let mut change = Change { action, is_dry: args.dry_run, broker: broker(config, client), queues, from: None };
    if !args.all {
        return change.by_id(args.ids, json).await;
    }
    let state = match (args.dead, args.state) {
        (true, _) => State::Dead,
        (false, Some(state)) => state,
        (false, None) => bail!("--all needs --dead or --state, so that nothing is changed by mistake"),
    };
    change.from = Some(state);
    change.all(state, &args.filter, json).await
}

impl Change {
    async fn by_id(&self, ids: Vec<JobId>, json: bool) -> anyhow::Result<()> {
        let count = ids.len();
        let (mut refused, mut told) = (0, Vec::new());
        let mut failure = None;
        for id in ids {
            let (changed, detail) = match self.one(id).await {
                Ok(Effect::Done) if self.is_dry => (true, format!("would be {}", self.action.done())),
                Ok(Effect::Done) => (true, self.action.done().to_owned()),
                Ok(Effect::Asked) if self.is_dry => (true, "is running; its worker would be told to end it".to_owned()),
                Ok(Effect::Asked) => (true, "is running; its worker was told to end it".to_owned()),
                Ok(Effect::Refused(why)) => (false, why.to_owned()),
                Err(error) => {
                    failure = Some(error.context(format!("job {id} and those after it may be unchanged")));
                    break;
                }
            };
            refused += u32::from(!changed);
            if json {
                told.push(serde_json::json!({ "id": id, "changed": changed, "detail": detail }));
            } else {
                show::text(&format!("{id}: {detail}"));
            }
        }
        if json {
            show::json(&told)?;
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if refused > 0 {
            bail!("{refused} of {count} jobs {} not changed", if self.is_dry { "would be" } else { "were" });
        }
        Ok(())
    }

    async fn one(&self, id: JobId) -> anyhow::Result<Effect> {
        match find(id, &self.queues).await? {
            Some((queue, _)) => self.act(queue, id).await,
            None => Ok(Effect::Refused("there is no such job")),
        }
    }

    async fn all(&self, state: State, filter: &FilterArgs, json: bool) -> anyhow::Result<()> {
        let work = self.find_all(state, filter, json).await?;
        let bar = show::progress_bar(work.len() as u64, json);
        let mut tally = Tally::default();
        // After an error no further change is begun; those under way are awaited, so that they are counted.
        let has_failed = Cell::new(false);
        let effects = work.iter().take_while(|_| !has_failed.get()).map(|(queue, id)| self.act(queue, *id));
        let mut effects = stream::iter(effects).buffer_unordered(AT_ONCE);
        let mut failure = None;
        while let Some(effect) = effects.next().await {
            match effect {
                Ok(effect) => tally.count(effect),
                Err(error) => {
                    has_failed.set(true);
                    failure.get_or_insert(error);
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        if json {
            show::json(&tally.to_json(state, self.is_dry))?;
        } else {
            tally.tell(self.action, state, self.is_dry);
        }
        if let Some(error) = failure {
            let left = work.len() as u64 - tally.seen();
            return Err(error).with_context(|| format!("of {} jobs {left} may be unchanged", work.len()));
        }
        if tally.refused() > 0 && tally.refused() == tally.seen() {
            bail!("no job {} changed", if self.is_dry { "would be" } else { "was" });
        }
        Ok(())
    }

    /// All ids first: what is changed leaves the listing, and may come back to it while the command runs.
    async fn find_all(&self, state: State, filter: &FilterArgs, json: bool) -> anyhow::Result<Vec<(Queue, JobId)>> {
        let mut work = Vec::new();
        let counter = show::counter("jobs found", json);
        for queue in selected(filter, self.queues.clone())? {
            let mut filter = job_filter(state, filter, PAGE);
            loop {
                let page = queue.jobs(&filter).await?;
                counter.inc(page.jobs.len() as u64);
                work.extend(page.jobs.into_iter().map(|job| (queue.clone(), job.id)));
                filter.cursor = page.next;
                if filter.cursor.is_none() {
                    break;
                }
            }
        }
        counter.finish_and_clear();
        Ok(work)
    }

    async fn act(&self, queue: &Queue, id: JobId) -> anyhow::Result<Effect> {
        match self.is_dry {
            true => self.foresee(queue, id).await,
            false => self.apply(queue, id).await,
        }
    }

    async fn apply(&self, queue: &Queue, id: JobId) -> anyhow::Result<Effect> {
        Ok(match self.action {
            Action::Retry => match self.from {
                Some(State::Available | State::Running) => Effect::Refused(WAITS_OR_RUNS),
                Some(state) if queue.retry_from(state, &id).await? => Effect::Done,
                Some(_) => Effect::Refused(WENT_ON),
                None if queue.retry(&id).await? => Effect::Done,
                None => Effect::Refused(WAITS_OR_RUNS),
            },
            Action::Delete => match queue.job(&id).await? {
                None => Effect::Refused(IS_GONE),
                Some(job) => match self.judge(&job).await? {
                    Effect::Done if !queue.delete(&id).await? => Effect::Refused(HAS_NOT_ENDED),
                    effect => effect,
                },
            },
            Action::Cancel => match queue.cancel(&id).await? {
                CancelOutcome::Cancelled => Effect::Done,
                CancelOutcome::Requested => Effect::Asked,
                CancelOutcome::AlreadyOver => Effect::Refused(IS_OVER),
                CancelOutcome::NotFound => Effect::Refused(IS_GONE),
            },
        })
    }

    async fn foresee(&self, queue: &Queue, id: JobId) -> anyhow::Result<Effect> {
        match queue.job(&id).await? {
            None => Ok(Effect::Refused(IS_GONE)),
            Some(job) => self.judge(&job).await,
        }
    }

    /// What the action does to a job in this state; nothing is changed.
    async fn judge(&self, job: &JobRecord) -> anyhow::Result<Effect> {
        Ok(match (self.action, job.state) {
            (Action::Retry, State::Available | State::Running) => Effect::Refused(WAITS_OR_RUNS),
            (Action::Cancel, State::Running) => Effect::Asked,
            (Action::Cancel, state) if state.is_final() => Effect::Refused(IS_OVER),
            (Action::Delete, state) if !state.is_final() => Effect::Refused(HAS_NOT_ENDED),
            (Action::Delete, _) => match dreams::waits_for(&self.broker, job).await? {
                Some(why) => Effect::Refused(why),
                None => Effect::Done,
            },
            _ => Effect::Done,
        })
    }
}

/// What became of the jobs of a bulk change.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    asked: u64,
    /// By the reason.
    refused: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn count(&mut self, effect: Effect) {
        match effect {
            Effect::Done => self.done += 1,
            Effect::Asked => self.asked += 1,
            Effect::Refused(why) => *self.refused.entry(why).or_default() += 1,
        }
    }

    fn refused(&self) -> u64 {
        self.refused.values().sum()
    }

    fn seen(&self) -> u64 {
        self.done + self.asked + self.refused()
    }

    fn to_json(&self, state: State, is_dry: bool) -> serde_json::Value {
        serde_json::json!({
            "state": state,
            "dry_run": is_dry,
            "changed": self.done,
            "asked_to_end": self.asked,
            "refused": self.refused(),
            "reasons": self.refused,
        })
    }

    fn tell(&self, action: Action, state: State, is_dry: bool) {
        let would = if is_dry { "would be " } else { "" };
        show::text(&format!("{} {state} jobs {would}{}", self.done, action.done()));
        if self.asked > 0 {
            let were = if is_dry { "would be" } else { "were" };
            show::text(&format!("{} run; their workers {were} told to end them", self.asked));
        }
        for (why, count) in &self.refused {
            show::text(&format!("{count} not changed: {why}"));
        }
    }
}
