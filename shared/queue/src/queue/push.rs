//! Storing jobs.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use fred::types::Value;

use super::Queue;
use crate::{
    FullReason, JobId, NewJob, Priority, Pushed, QueueError, QueueOptions, Unique,
    job::When,
    options::{int, millis},
    scripts,
};

/// Jobs stored by one call of the script, all or none; long enough to be fast, short enough not to hold Redis up (about 1 ms).
const ATOMIC: usize = 1000;
/// Calls under way at once when more than [`ATOMIC`] jobs are pushed.
const PIPELINED: usize = 4;
/// How often a push whose connection broke is sent again.
const RESENDS: u32 = 3;
/// Where the script expects the bytes of all records.
const BYTES: usize = 4;

impl Queue {
    /// Stores one job.
    ///
    /// A push whose connection breaks before the answer is sent again under the same id, so it is stored once; only if the
    /// first copy was run and forgotten in between does it run twice.
    ///
    /// # Errors
    /// [`QueueError::Full`] beyond `max_depth`, `max_bytes` or `max_latency`; [`QueueError::Unavailable`] when it may not have been stored;
    /// [`QueueError::TooLong`] for a kind, group, key or metadata that does not fit.
    pub async fn push(&self, job: NewJob) -> Result<Pushed, QueueError> {
        let mut pushed = self.push_all(vec![job]).await?;
        pushed.pop().ok_or(QueueError::Corrupt { what: "no answer to a push" })
    }

    /// Stores many jobs; up to 1,000 in one atomic step, more in such steps one after the other. The answers are in the
    /// order of the jobs.
    ///
    /// # Errors
    /// As [`push`](Self::push). With more than 1,000 jobs some may be stored when it fails; pushing the same jobs again is safe.
    pub async fn push_all(&self, jobs: Vec<NewJob>) -> Result<Vec<Pushed>, QueueError> {
        use futures::{StreamExt, TryStreamExt};
        self.register().await?;
        if jobs.len() <= ATOMIC {
            return self.push_chunk(&jobs).await;
        }
        let mut chunks = Vec::with_capacity(jobs.len().div_ceil(ATOMIC));
        let mut jobs = jobs.into_iter();
        loop {
            let chunk: Vec<NewJob> = jobs.by_ref().take(ATOMIC).collect();
            if chunk.is_empty() {
                break;
            }
            chunks.push(chunk);
        }
        let calls = chunks.into_iter().map(|chunk| {
            let queue = self.clone();
            async move { queue.push_chunk(&chunk).await }
        });
        let answers: Vec<Vec<Pushed>> = futures::stream::iter(calls).buffered(PIPELINED).try_collect().await?;
        Ok(answers.into_iter().flatten().collect())
    }

    async fn push_chunk(&self, jobs: &[NewJob]) -> Result<Vec<Pushed>, QueueError> {
        let mut resends = 0;
        loop {
            let (script, args, order) = match alone(jobs, &self.inner.options) {
                Some(job) => (&scripts::PUSH_ONE, arguments_of_one(job, &self.inner.options)?, Vec::new()),
                None => {
                    let (args, order) = arguments(jobs, &self.inner.options)?;
                    (&scripts::PUSH, args, order)
                }
            };
            match self.run::<Vec<Value>>(script, args).await {
                Ok(answer) => return answers(jobs, &order, answer),
                Err(QueueError::Unavailable(error)) if resends < RESENDS && is_broken(&error) => {
                    resends += 1;
                    tokio::time::sleep(Duration::from_millis(50 << resends)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the connection broke: then the push may be sent again at once. A server that refuses it goes on doing so for a while.
fn is_broken(error: &fred::error::Error) -> bool {
    use fred::error::ErrorKind::{Canceled, IO, Unknown};
    let is_of_server =
        error.details().split_whitespace().next().is_some_and(|w| w.chars().all(|c| c.is_ascii_uppercase()));
    match error.kind() {
        IO | Canceled => true,
        // The client's own words for a connection that it lost.
        Unknown => !is_of_server,
        _ => false,
    }
}

/// Whether nothing has to be looked at before the job is stored: it runs now and holds no key.
fn is_plain(job: &NewJob) -> bool {
    job.unique.is_none() && job.when == When::Now
}

/// The job of a push that has a script of its own.
fn alone<'a>(jobs: &'a [NewJob], options: &QueueOptions) -> Option<&'a NewJob> {
    let is_bounded = options.max_depth.is_some() || options.max_bytes.is_some() || options.max_latency.is_some();
    match jobs {
        [job] if is_plain(job) && !is_bounded => Some(job),
        _ => None,
    }
}

fn arguments_of_one(job: &NewJob, options: &QueueOptions) -> Result<Vec<Value>, QueueError> {
    let record = job.record(options.keys.as_ref())?.encode()?;
    let bytes = int(record.len() as u64);
    Ok(vec![
        id_value(job.id),
        record.into(),
        bytes.into(),
        priority_value(job.priority),
        job.kind.as_str().into(),
        job.group.as_str().into(),
    ])
}

/// Plain jobs that run now go lane by lane; the others go one by one.
fn arguments(jobs: &[NewJob], options: &QueueOptions) -> Result<(Vec<Value>, Vec<usize>), QueueError> {
    let mut lanes: BTreeMap<(u8, &str, &str), Vec<&NewJob>> = BTreeMap::new();
    let mut single = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        if is_plain(job) {
            lanes.entry((job.priority.letter(), &job.kind, &job.group)).or_default().push(job);
        } else {
            single.push(index);
        }
    }
    let mut args: Vec<Value> = Vec::with_capacity(8 + jobs.len() * 6);
    args.extend([
        options.max_depth.map_or(0, int).into(),
        options.max_bytes.map_or(0, int).into(),
        options.max_latency.map_or(0, |most| millis(most).max(1)).into(),
        int(jobs.len() as u64).into(),
        Value::Null,
        jobs.first().map_or("", |job| &job.kind).into(),
        int((jobs.len() - single.len()) as u64).into(),
    ]);
    let mut bytes = 0;
    let mut record = |job: &NewJob| -> Result<Value, QueueError> {
        let record = job.record(options.keys.as_ref())?.encode()?;
        bytes += record.len() as u64;
        Ok(record.into())
    };
    for job in lanes.values().flatten() {
        args.push(id_value(job.id));
        args.push(record(job)?);
    }
    args.push(int(lanes.len() as u64).into());
    for ((priority, kind, group), lane) in lanes {
        args.push(priority_value(Priority::from_letter(priority)));
        args.push(kind.into());
        args.push(group.into());
        args.push(int(lane.len() as u64).into());
    }
    for &index in &single {
        let job = &jobs[index];
        args.push(id_value(job.id));
        args.push(record(job)?);
        args.push(match job.when {
            When::Now => Value::from_static_str(""),
            When::In(delay) => format!("+{}", millis(delay)).into(),
            When::At(time) => millis(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()).into(),
        });
        let (mode, key, ttl) = match &job.unique {
            None => ("", "", 0),
            Some((key, Unique::UntilDone)) => ("d", key.as_str(), 0),
            Some((key, Unique::For(window))) => ("w", key.as_str(), millis(*window).max(1)),
        };
        args.push(Value::from_static_str(mode));
        args.push(key.into());
        args.push(ttl.into());
    }
    args[BYTES] = int(bytes).into();
    Ok((args, single))
}

fn answers(jobs: &[NewJob], order: &[usize], answer: Vec<Value>) -> Result<Vec<Pushed>, QueueError> {
    let mut pushed: Vec<Pushed> = jobs.iter().map(|job| Pushed { id: job.id, is_duplicate: false }).collect();
    if answer.first().and_then(Value::as_str).as_deref() == Some("full") {
        return Err(full(&answer));
    }
    let mut answer = answer.into_iter();
    while let (Some(first), Some(second)) = (answer.next(), answer.next()) {
        let at = first.as_usize().and_then(|single| order.get(single)).copied();
        let (Some(at), Some(id)) = (at, second.into_bytes()) else {
            return Err(QueueError::Corrupt { what: "an answer to a push that cannot be read" });
        };
        let id = JobId::from_bytes(&id)?;
        // The same id is this very push, sent again: it is stored, and it is no duplicate of another.
        pushed[at] = Pushed { id, is_duplicate: id != jobs[at].id };
    }
    Ok(pushed)
}

fn full(answer: &[Value]) -> QueueError {
    let number = |n: usize| answer.get(n).and_then(Value::as_u64).unwrap_or(0);
    let (is, most) = (number(2), number(3));
    let reason = match answer.get(1).and_then(Value::as_str).as_deref() {
        Some("bytes") => FullReason::Bytes { waiting: is, most },
        Some("latency") => {
            FullReason::Latency { expected: Duration::from_millis(is), most: Duration::from_millis(most) }
        }
        _ => FullReason::Depth { waiting: is, most },
    };
    QueueError::Full { reason, retry_after: Duration::from_millis(number(4)) }
}

pub(crate) fn id_value(id: JobId) -> Value {
    Value::Bytes(Bytes::copy_from_slice(&id.to_bytes()))
}

fn priority_value(priority: Priority) -> Value {
    Value::from_static_str(match priority {
        Priority::High => "h",
        Priority::Normal => "n",
        Priority::Low => "l",
    })
}
