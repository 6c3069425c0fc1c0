//! Why a job is not running.

use std::time::{Duration, SystemTime};

use fred::types::Value;
use serde::Serialize;

use super::{JobRecord, Queue, QueueLimits, State, WorkerRecord, push::id_value};
use crate::{Health, JobId, QueueError};

/// A job and, in sentences, what it waits for.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The job.
    pub job: JobRecord,
    /// Each reason as a sentence without full stop, the weightiest first; at least one.
    pub reasons: Vec<String>,
}

impl QueueLimits {
    fn paused(&self) -> Option<String> {
        self.is_paused.then(|| "the queue is paused".to_owned())
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn in_words(wait: Duration) -> String {
    if wait < Duration::from_secs(120) {
        format!("{:.1} s", wait.as_secs_f64())
    } else {
        format!("{} min", wait.as_secs() / 60)
    }
}

impl Queue {
    /// Why a job is where it is: paused, limited, delayed until when, its group capped, too new for its workers, sealed with a key that they
    /// lack, without a worker, behind how many, or leased by whom since when. `None` for an unknown job.
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
                // Also where a worker handed it back: it is looked at again when it is due.
                let mut reasons = self.what_workers_lack(&job, &self.workers_of(&job).await?);
                reasons.push(format!("it is scheduled and due in {}", until(job.due_at)));
                reasons.extend(self.limits().await?.paused());
                reasons
            }
            State::Retryable => {
                let due = until(job.due_at);
                let mut reasons = vec![format!(
                    "attempt {} of {} failed, the next is due in {due}; {said}",
                    job.attempts, job.max_attempts
                )];
                reasons.extend(self.what_workers_lack(&job, &self.workers_of(&job).await?));
                reasons.extend(self.limits().await?.paused());
                reasons
            }
            State::Running => self.who_runs(&job).await?,
            State::Available => self.why_it_waits(&job).await?,
            State::Completed => vec!["it is completed".to_owned()],
            State::Cancelled => vec!["it was cancelled; retry makes it available again".to_owned()],
            State::Dead => vec![format!("it is dead after {} of {} attempts; {said}", job.attempts, job.max_attempts)],
        };
        Ok(Some(Explanation { job, reasons }))
    }

    async fn who_runs(&self, job: &JobRecord) -> Result<Vec<String>, QueueError> {
        let number = job.worker.unwrap_or(0);
        let worker = self.workers().await?.into_iter().find(|worker| worker.number == number);
        let Some(w) = worker else {
            return Ok(vec![format!(
                "worker number {number} holds it but is not known any more; it will be taken over"
            )]);
        };
        let who = format!("worker {} (number {number}, pid {})", w.name, w.pid);
        // What the worker said at its last sign of life, and the time since.
        let silence = Duration::from_millis(now_ms().saturating_sub(w.beat_at_ms));
        let started = w.jobs.iter().find(|running| running.id == job.id);
        let mut reasons = Vec::new();
        reasons.push(match started {
            _ if w.is_late => {
                let silence = in_words(silence);
                format!("{who} holds it but gave no sign of life for {silence}; it will be taken over")
            }
            Some(running) => {
                let since = in_words(Duration::from_millis(running.for_ms) + silence);
                format!("{who} runs attempt {} since {since}", job.attempts + 1)
            }
            None => format!("{who} holds it for attempt {}", job.attempts + 1),
        });
        if let (Health::Stuck { since_ms }, false) = (w.health, w.is_late) {
            let since = in_words(Duration::from_millis(now_ms().saturating_sub(since_ms)));
            reasons.push(format!("that worker is stuck since {since}"));
        }
        let args: Vec<Value> = vec![self.key("cancels").into(), id_value(job.id)];
        if self.command::<i64>("SISMEMBER", args).await? == 1 {
            reasons.push("its cancel was asked for".to_owned());
        }
        Ok(reasons)
    }

    /// Whether the rate limit holds jobs back, and for how long.
    async fn limit(&self, limits: &QueueLimits) -> Result<Option<String>, QueueError> {
        let Some(rate) = limits.per_second else { return Ok(None) };
        let args: Vec<Value> = vec![self.key("rl").into(), "t".into(), "at".into()];
        let bucket: Vec<Option<f64>> = self.command("HMGET", args).await?;
        let tokens = match bucket[..] {
            [Some(tokens), Some(at)] => {
                (tokens + (now_ms() as f64 - at).max(0.0) * rate / 1_000.0).min(f64::from(limits.burst))
            }
            _ => f64::from(limits.burst),
        };
        let said = format!("the queue starts at most {rate} jobs a second");
        Ok(Some(if tokens >= 1.0 {
            said
        } else {
            let wait = Duration::try_from_secs_f64((1.0 - tokens) / rate).unwrap_or(Duration::MAX);
            format!("{said}, the next in {}", in_words(wait))
        }))
    }

    /// The living workers of the job's kind.
    async fn workers_of(&self, job: &JobRecord) -> Result<Vec<WorkerRecord>, QueueError> {
        Ok(self.workers().await?.into_iter().filter(|worker| worker.kind == job.kind && !worker.is_late).collect())
    }

    /// What the job needs and none of these workers of its kind has.
    fn what_workers_lack(&self, job: &JobRecord, workers: &[WorkerRecord]) -> Vec<String> {
        let (kind, version) = (&job.kind, job.version);
        if workers.is_empty() {
            return vec![format!("no living worker serves kind {kind}")];
        }
        let mut lacks = Vec::new();
        if workers.iter().all(|worker| worker.version < version) {
            lacks.push(format!("it needs a worker that knows version {version} of kind {kind}"));
        }
        if let Some(key) = &job.sealed_with {
            let has_key = |worker: &WorkerRecord| worker.keys.contains(key);
            if !workers.iter().any(has_key) {
                lacks.push(format!("its payload is sealed and no worker of kind {kind} has key {key}"));
            } else if lacks.is_empty() && !workers.iter().any(|worker| worker.version >= version && has_key(worker)) {
                lacks.push(format!("no worker of kind {kind} both knows version {version} and has key {key}"));
            }
        }
        lacks
    }

    async fn why_it_waits(&self, job: &JobRecord) -> Result<Vec<String>, QueueError> {
        let mut reasons = Vec::new();
        let limits = self.limits().await?;
        reasons.extend(limits.paused());
        let workers = self.workers_of(job).await?;
        reasons.extend(self.what_workers_lack(job, &workers));
        let has_workers = !workers.is_empty();
        let is_quiet = |w: &WorkerRecord| w.is_quiet || w.health == Health::Quiet;
        if has_workers && workers.iter().all(is_quiet) {
            reasons.push(format!("all {} workers of kind {} are quiet", workers.len(), job.kind));
        } else if has_workers && workers.iter().all(|w| is_quiet(w) || w.is_full) {
            reasons.push(format!("all {} workers of kind {} are busy", workers.len(), job.kind));
        }
        let stuck = workers.iter().filter(|w| matches!(w.health, Health::Stuck { .. })).count();
        if stuck > 0 {
            reasons.push(format!("{stuck} of {} workers of kind {} are stuck", workers.len(), job.kind));
        }
        reasons.extend(self.limit(&limits).await?);
        if let Some(cap) = limits.group_cap.filter(|_| !job.group.is_empty()) {
            let args: Vec<Value> = vec![self.key("parked").into(), job.group.as_str().into()];
            if self.command::<Option<String>>("HGET", args).await?.is_some() {
                reasons.push(format!("its group {} runs as many jobs as a group may ({cap})", job.group));
            }
        }
        let ahead = self.stats().await?.available.saturating_sub(1);
        if reasons.is_empty() || ahead > 0 {
            reasons.push(format!("it waits its turn among {ahead} other available jobs"));
        }
        Ok(reasons)
    }
}
