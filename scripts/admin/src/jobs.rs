//! `oneiro jobs`.

use crate::{
    cli::{BulkArgs, FilterArgs, JobsCommand, ListArgs},
    queues::{open, open_named},
    show,
};
use anyhow::{anyhow, bail};
use apalis_fred::{CancelOutcome, JobFilter, JobId, JobRecord, Queue, QueueError, State};
use futures::{StreamExt, stream};
use oneiro_core::config::Config;

/// Changes under way at once.
const AT_ONCE: usize = 64;
/// Jobs of one page of a bulk change.
const PAGE: usize = 500;

#[derive(Debug, Clone, Copy)]
enum Action {
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

pub(crate) async fn run(command: JobsCommand, config: &Config, json: bool) -> anyhow::Result<()> {
    match command {
        JobsCommand::List(args) => list(args, config, json).await,
        JobsCommand::Show { id } => show_one(id, config, json).await,
        JobsCommand::Explain { id } => explain(id, config, json).await,
        JobsCommand::Retry(args) => change(Action::Retry, args, config, json).await,
        JobsCommand::Cancel(args) => change(Action::Cancel, args, config, json).await,
        JobsCommand::Delete(args) => change(Action::Delete, args, config, json).await,
    }
}

async fn selected(filter: &FilterArgs, config: &Config) -> anyhow::Result<Vec<Queue>> {
    match &filter.queue {
        Some(name) => Ok(vec![open_named(name, config).await?]),
        None => open(config).await,
    }
}

fn job_filter(state: State, args: &FilterArgs, limit: usize) -> JobFilter {
    let mut filter = JobFilter::in_state(state);
    filter.kind.clone_from(&args.kind);
    filter.group.clone_from(&args.group);
    filter.error_contains.clone_from(&args.error);
    filter.limit = limit;
    filter
}

async fn list(args: ListArgs, config: &Config, json: bool) -> anyhow::Result<()> {
    let states = args.state.map_or_else(|| State::ALL.to_vec(), |state| vec![state]);
    let limit = args.limit as usize;
    let mut found = Vec::new();
    let mut is_cut = false;
    for queue in selected(&args.filter, config).await? {
        for &state in &states {
            let mut filter = job_filter(state, &args.filter, limit);
            let mut jobs = Vec::new();
            loop {
                let page = queue.jobs(&filter).await?;
                jobs.extend(page.jobs);
                filter.cursor = page.next;
                if filter.cursor.is_none() || jobs.len() >= limit {
                    break;
                }
            }
            is_cut |= filter.cursor.is_some() || jobs.len() > limit;
            jobs.truncate(limit);
            found.extend(jobs.into_iter().map(|job| (queue.name().to_string(), job)));
        }
    }
    if json {
        let jobs: Vec<serde_json::Value> =
            found.iter().map(|(queue, job)| show::tagged("queue", queue, job)).collect::<Result<_, _>>()?;
        return show::json(&jobs);
    }
    let rows = found.iter().map(|(queue, job)| row(queue, job)).collect();
    show::table(&["id", "queue", "kind", "state", "attempts", "when", "group", "last error"], rows, "no jobs");
    if is_cut {
        show::text(&format!("there are more; --limit shows up to 1000 of each state (now {limit})"));
    }
    Ok(())
}

fn row(queue: &str, job: &JobRecord) -> Vec<String> {
    let when = job.finished_at.or(job.due_at).unwrap_or(job.created_at);
    vec![
        job.id.to_string(),
        queue.to_owned(),
        job.kind.clone(),
        job.state.to_string(),
        format!("{}/{}", job.attempts, job.max_attempts),
        show::ago(when),
        job.group.clone(),
        job.error.as_ref().map(|error| show::cut(&error.message, 60)).unwrap_or_default(),
    ]
}

async fn find(id: JobId, config: &Config) -> anyhow::Result<Option<(Queue, JobRecord)>> {
    for queue in open(config).await? {
        if let Some(job) = queue.job(&id).await? {
            return Ok(Some((queue, job)));
        }
    }
    Ok(None)
}

fn unknown(id: JobId) -> anyhow::Error {
    anyhow!("there is no job {id}; completed jobs are forgotten after a while (queues.completed_retention_seconds)")
}

async fn explain(id: JobId, config: &Config, json: bool) -> anyhow::Result<()> {
    for queue in open(config).await? {
        let Some(explanation) = queue.explain(&id).await? else { continue };
        if json {
            return show::json(&explanation);
        }
        let job = &explanation.job;
        show::text(&format!("{id} ({} in queue {}) is {}:", job.kind, queue.name(), job.state));
        for reason in &explanation.reasons {
            show::text(&format!("- {reason}"));
        }
        return Ok(());
    }
    Err(unknown(id))
}

async fn show_one(id: JobId, config: &Config, json: bool) -> anyhow::Result<()> {
    let (queue, job) = find(id, config).await?.ok_or_else(|| unknown(id))?;
    if json {
        return show::json(&show::tagged("queue", queue.name().as_str(), &job)?);
    }
    let mut rows = vec![
        ("id", job.id.to_string()),
        ("queue", queue.name().to_string()),
        ("kind", job.kind.clone()),
        ("state", job.state.to_string()),
        ("attempts", format!("{} of {}", job.attempts, job.max_attempts)),
        ("workers lost", job.kills.to_string()),
        ("created", show::ago(job.created_at)),
    ];
    rows.extend(job.due_at.map(|time| ("due", show::ago(time))));
    rows.extend(job.finished_at.map(|time| ("ended", show::ago(time))));
    rows.extend(job.worker.map(|worker| ("worker", worker.to_string())));
    rows.push(("group", job.group.clone()));
    rows.push(("unique key", job.unique.clone()));
    rows.extend(job.timeout.map(|limit| ("timeout", show::span(limit))));
    rows.extend(job.progress.as_ref().map(|p| ("progress", format!("{}/{} {}", p.done, p.total, p.text))));
    rows.extend(job.error.as_ref().map(|e| ("last error", format!("attempt {}: {}", e.attempt, e.message))));
    rows.push(("arguments", job.payload.clone()));
    rows.extend(job.meta.iter().map(|(key, value)| ("metadata", format!("{key} = {value}"))));
    rows.extend(job.result.as_ref().map(|result| ("result", result.clone())));
    let rows = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    show::table(&["field", "value"], rows, "");
    Ok(())
}

/// What happened to one job of a bulk change.
#[derive(Debug, serde::Serialize)]
struct Outcome {
    id: JobId,
    changed: bool,
    detail: String,
}

async fn change(action: Action, args: BulkArgs, config: &Config, json: bool) -> anyhow::Result<()> {
    if !args.all {
        return change_by_id(action, args.ids, config, json).await;
    }
    let state = match (args.dead, args.state) {
        (true, _) => State::Dead,
        (false, Some(state)) => state,
        (false, None) => bail!("--all needs --dead or --state, so that nothing is changed by mistake"),
    };
    // All ids first: what is changed leaves the listing, and may come back to it while the command runs.
    let mut work = Vec::new();
    let counter = show::counter("jobs found", json);
    for queue in selected(&args.filter, config).await? {
        let mut filter = job_filter(state, &args.filter, PAGE);
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
    let bar = show::progress_bar(work.len() as u64, json);
    let (mut changed, mut refused) = (0u64, 0u64);
    let outcomes = work.iter().map(|(queue, id)| apply(queue, action, *id));
    let mut outcomes = stream::iter(outcomes).buffer_unordered(AT_ONCE);
    while let Some(outcome) = outcomes.next().await {
        if outcome?.changed {
            changed += 1;
        } else {
            refused += 1;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if json {
        return show::json(&serde_json::json!({ "changed": changed, "refused": refused }));
    }
    let moved_on = if refused > 0 { format!(", {refused} had moved on") } else { String::new() };
    show::text(&format!("{changed} jobs {}{moved_on}", action.done()));
    Ok(())
}

async fn change_by_id(action: Action, ids: Vec<JobId>, config: &Config, json: bool) -> anyhow::Result<()> {
    let mut outcomes = Vec::with_capacity(ids.len());
    for id in ids {
        outcomes.push(match find(id, config).await? {
            Some((queue, _)) => apply(&queue, action, id).await?,
            None => Outcome { id, changed: false, detail: "there is no such job".to_owned() },
        });
    }
    if json {
        show::json(&outcomes)?;
    } else {
        for outcome in &outcomes {
            show::text(&format!("{}: {}", outcome.id, outcome.detail));
        }
    }
    let refused = outcomes.iter().filter(|outcome| !outcome.changed).count();
    if refused > 0 {
        bail!("{refused} of {} jobs were not changed", outcomes.len());
    }
    Ok(())
}

async fn apply(queue: &Queue, action: Action, id: JobId) -> Result<Outcome, QueueError> {
    let (changed, detail) = match action {
        Action::Retry if queue.retry(&id).await? => (true, action.done()),
        Action::Retry => (false, "is waiting or running already"),
        // Something waits for a job that has not ended: an image's would be enqueued again by the sweep, as one that got lost.
        Action::Delete => match queue.job(&id).await? {
            None => (false, "is gone"),
            Some(job) if job.state.is_final() && queue.delete(&id).await? => (true, action.done()),
            Some(_) => (false, "has not ended; cancel it first"),
        },
        Action::Cancel => match queue.cancel(&id).await? {
            CancelOutcome::Cancelled => (true, action.done()),
            CancelOutcome::Requested => (true, "is running; its worker was told to end it"),
            CancelOutcome::AlreadyOver => (false, "is over already"),
            CancelOutcome::NotFound => (false, "is gone"),
        },
    };
    Ok(Outcome { id, changed, detail: detail.to_owned() })
}
