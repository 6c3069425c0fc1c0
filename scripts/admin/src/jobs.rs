//! `oneiro jobs`.

mod change;
mod dreams;

use crate::{
    cli::{FilterArgs, JobsCommand, ListArgs, MOST_LISTED},
    queues::{named, open},
    show,
};
use anyhow::anyhow;
use apalis_fred::{JobFilter, JobId, JobRecord, Queue, State};
use change::Action;
use oneiro_core::config::Config;

pub(crate) async fn run(command: JobsCommand, config: &Config, json: bool) -> anyhow::Result<()> {
    match command {
        JobsCommand::List(args) => list(args, config, json).await,
        JobsCommand::Show { id } => show_one(id, config, json).await,
        JobsCommand::Explain { id } => explain(id, config, json).await,
        JobsCommand::Retry(args) => change::run(Action::Retry, args, config, json).await,
        JobsCommand::Cancel(args) => change::run(Action::Cancel, args, config, json).await,
        JobsCommand::Delete(args) => change::run(Action::Delete, args, config, json).await,
    }
}

fn selected(filter: &FilterArgs, queues: Vec<Queue>) -> anyhow::Result<Vec<Queue>> {
    match &filter.queue {
        Some(name) => Ok(vec![named(name, queues)?]),
        None => Ok(queues),
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
    for queue in selected(&args.filter, open(config).await?)? {
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
        show::json(&jobs)?;
    } else {
        let rows = found.iter().map(|(queue, job)| row(queue, job)).collect();
        show::table(&["id", "queue", "kind", "state", "attempts", "when", "group", "last error"], rows, "no jobs");
    }
    if is_cut {
        // Not in the answer: a program would take it for a job.
        show::complain(&format!(
            "there are more than these; --limit shows up to {MOST_LISTED} of each state in a queue (now {limit})"
        ));
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

async fn find(id: JobId, queues: &[Queue]) -> anyhow::Result<Option<(&Queue, JobRecord)>> {
    for queue in queues {
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
    let queues = open(config).await?;
    let (queue, job) = find(id, &queues).await?.ok_or_else(|| unknown(id))?;
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
