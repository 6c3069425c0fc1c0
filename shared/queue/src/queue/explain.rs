//! Why a job is not running.

use std::time::{Duration, SystemTime};

use fred::types::Value;
use serde::Serialize;

use super::{JobRecord, Queue, State, WorkerRecord};
use crate::{JobId, QueueError};

/// A job and, in sentences, what it waits for.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The job.
    pub job: JobRecord,
    /// Each reason as a sentence without full stop, the weightiest first; at least one.
    pub reasons: Vec<String>,
}

fn in_words(wait: Duration) -> String {
    if wait < Duration::from_secs(120) {
        format!("{:.1} s", wait.as_secs_f64())
    } else {
        format!("{} min", wait.as_secs() / 60)
    }
}

impl Queue {
    /// Why a job is where it is: paused, limited, delayed, capped, without a worker, leased by whom. `None` for an unknown job.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn explain(&self, id: &JobId) -> Result<Option<Explanation>, QueueError> {
        let Some(job) = self.job(id).await? else { return Ok(None) };
        let until = |time: Option<SystemTime>| {
            in_words(time.and_then(|t| t.duration_since(SystemTime::now()).ok()).unwrap_or_default())
        };
        let said = job
            .error
            .as_ref()
            .map_or_else(|| "no error was noted".to_owned(), |e| format!("its last error is: {}", e.message));
        let reasons = match job.state {
            State::Scheduled => {
                let mut reasons = self.what_workers_lack(&job, &self.workers_of(&job).await?);
                let is_handed_back = !reasons.is_empty();
                let due = until(job.due_at);
                reasons.push(if is_handed_back {
                    format!("it was handed back and is looked at again in {due}")
                } else {
                    format!("it is scheduled and due in {due}")
                });
                reasons
            }
            State::Retryable => vec![format!(
                "attempt {} of {} failed, the next is due in {}; {said}",
                job.attempts,
                job.max_attempts,
                until(job.due_at)
            )],
            State::Running => vec![self.who_runs(&job).await?],
            State::Available => self.why_it_waits(&job).await?,
            State::Completed => vec!["it is completed".to_owned()],
            State::Cancelled => vec!["it was cancelled; retry makes it available again".to_owned()],
            State::Dead => vec![format!("it is dead after {} of {} attempts; {said}", job.attempts, job.max_attempts)],
        };
        Ok(Some(Explanation { job, reasons }))
    }

    async fn who_runs(&self, job: &JobRecord) -> Result<String, QueueError> {
        let number = job.worker.unwrap_or(0);
        let worker = self.workers().await?.into_iter().find(|worker| worker.number == number);
        Ok(match worker {
            Some(w) if w.is_late => {
                format!(
                    "worker {} (number {number}, pid {}) holds it but gives no sign of life; it will be taken over",
                    w.name, w.pid
                )
            }
            Some(w) => format!("worker {} (number {number}, pid {}) runs attempt {}", w.name, w.pid, job.attempts + 1),
            None => format!("worker number {number} holds it but is not known any more; it will be taken over"),
        })
    }

    /// The living workers of the job's kind.
    async fn workers_of(&self, job: &JobRecord) -> Result<Vec<WorkerRecord>, QueueError> {
        Ok(self.workers().await?.into_iter().filter(|worker| worker.kind == job.kind && !worker.is_late).collect())
    }

    /// What the job needs and none of these workers has.
    fn what_workers_lack(&self, job: &JobRecord, workers: &[WorkerRecord]) -> Vec<String> {
        let mut lacks = Vec::new();
        if !workers.is_empty() && workers.iter().all(|worker| worker.version < job.version) {
            lacks.push(format!("it needs a worker that knows version {} of kind {}", job.version, job.kind));
        }
        if let Some(key) = &job.sealed_with
            && !workers.is_empty()
            && workers.iter().all(|worker| !worker.keys.contains(key))
        {
            lacks.push(format!("its payload is sealed and no worker of kind {} has key {key}", job.kind));
        }
        lacks
    }

    async fn why_it_waits(&self, job: &JobRecord) -> Result<Vec<String>, QueueError> {
        let mut reasons = Vec::new();
        let live: Vec<Option<String>> =
            self.command("HMGET", vec![self.key("cfg").into(), "paused".into(), "rate".into(), "cap".into()]).await?;
        let setting = |n: usize| live.get(n).and_then(Option::as_deref);
        if setting(0).is_some() {
            reasons.push("the queue is paused".to_owned());
        }
        let workers = self.workers_of(job).await?;
        reasons.extend(self.what_workers_lack(job, &workers));
        if workers.is_empty() {
            reasons.push(format!("no living worker serves kind {}", job.kind));
        } else if workers.iter().all(|w| w.is_quiet) {
            reasons.push(format!("all {} workers of kind {} are quiet", workers.len(), job.kind));
        } else if workers.iter().all(|w| w.is_quiet || w.is_full) {
            reasons.push(format!("all {} workers of kind {} are busy", workers.len(), job.kind));
        }
        if let Some(rate) = setting(1) {
            reasons.push(format!("the queue starts at most {rate} jobs a second"));
        }
        if !job.group.is_empty() && setting(2).is_some() {
            let args: Vec<Value> = vec![self.key("parked").into(), job.group.as_str().into()];
            if self.command::<Option<String>>("HGET", args).await?.is_some() {
                reasons.push(format!(
                    "its group {} runs as many jobs as a group may ({})",
                    job.group,
                    setting(2).unwrap_or("?")
                ));
            }
        }
        let ahead = self.stats().await?.available.saturating_sub(1);
        if reasons.is_empty() || ahead > 0 {
            reasons.push(format!("it waits its turn among {ahead} other available jobs"));
        }
        Ok(reasons)
    }
}
