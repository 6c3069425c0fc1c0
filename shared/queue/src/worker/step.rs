//! The calls of `step.lua` and `claim.lua`: their arguments and their answers.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fred::types::Value;

use super::shared::{End, Finish};
use crate::{
    JobError, JobId, QueueError, QueueOptions,
    options::{int, millis},
    queue::id_value,
};

/// Jobs handed to one variadic command inside the script: Lua's stack bounds `unpack`.
const MOST_AT_ONCE: usize = 500;
/// Fewer ends with tokens that follow each other are told one by one: each bucket costs the script some calls.
const RUN: usize = 16;
/// Due jobs moved by one call.
const PROMOTED: i64 = 500;

pub(crate) struct Step<'a> {
    pub(crate) number: u32,
    pub(crate) token: u64,
    pub(crate) want: usize,
    pub(crate) kind: &'a str,
    pub(crate) options: &'a QueueOptions,
    pub(crate) worker: &'a str,
    /// Whether it could run a job of those that it claimed last.
    pub(crate) can_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Fine,
    /// This worker number is not registered (any more).
    Unknown,
    /// The tokens were used before: an earlier call arrived after all.
    Stale,
    Paused,
}

impl Status {
    fn read(value: &Value) -> Option<Self> {
        match value.as_i64()? {
            0 => Some(Self::Fine),
            1 => Some(Self::Unknown),
            2 => Some(Self::Stale),
            3 => Some(Self::Paused),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: Status,
    pub(crate) next_due: Option<Duration>,
    pub(crate) lost: Vec<Value>,
    pub(crate) claimed: Vec<(JobId, Bytes)>,
    pub(crate) has_more: bool,
}

/// Whether the end needs no look at its job's record.
fn is_plain(finish: &Finish) -> bool {
    finish.is_plain && finish.end == (End::Completed { result: None })
}

pub(crate) fn arguments(step: &Step<'_>, settled: &[Finish]) -> Vec<Value> {
    let options = step.options;
    let (plain, mut others): (Vec<&Finish>, Vec<&Finish>) = settled.iter().partition(|finish| is_plain(finish));
    // Each that goes back goes to the front: the last claimed first, so that they stand as they stood.
    others.sort_by_key(|finish| std::cmp::Reverse(finish.token));
    let buckets = buckets(plain);
    let ran_us = settled
        .iter()
        .map(|finish| u64::try_from(finish.ran.as_micros()).unwrap_or(u64::MAX))
        .fold(0, u64::saturating_add);
    let mut args: Vec<Value> = Vec::with_capacity(13 + buckets.len() * 2 + settled.len() * 2);
    args.extend([
        Value::from(step.number),
        step.token.to_string().into(),
        int(step.want as u64).into(),
        step.kind.into(),
        millis(options.retention_completed.age).into(),
        int(options.retention_completed.count).into(),
        millis(options.result_ttl).max(1).into(),
        millis(options.retention_dead.age).into(),
        int(options.retention_dead.count).into(),
        PROMOTED.into(),
        int(ran_us).into(),
        i64::from(step.can_run).into(),
        int(buckets.len() as u64).into(),
    ]);
    for Bucket { first, ends } in buckets {
        args.push(int(ends.len() as u64).into());
        args.push(first.map_or_else(|| Value::from_static_str(""), |token| token.to_string().into()));
        args.extend(ends.iter().map(|finish| id_value(finish.id)));
        if first.is_none() {
            args.extend(ends.iter().map(|finish| Value::from(finish.token.to_string())));
        }
    }
    for finish in others {
        let none = || Value::from_static_str("");
        let (outcome, delay_ms, error, result) = match &finish.end {
            End::Completed { result } => {
                ("c", 0, none(), result.as_ref().map_or_else(none, |r| Bytes::copy_from_slice(r).into()))
            }
            End::Failed { delay_ms, message } => ("r", *delay_ms, error_value(step, finish, message), none()),
            End::Dead { message } => ("d", 0, error_value(step, finish, message), none()),
            End::Cancelled { message } => ("x", 0, error_value(step, finish, message), none()),
            End::Returned { delay_ms } => ("u", *delay_ms, none(), none()),
            End::HandedBack { delay_ms } => ("b", *delay_ms, none(), none()),
        };
        args.push(id_value(finish.id));
        args.push(finish.token.to_string().into());
        args.push(Value::from_static_str(outcome));
        args.push(delay_ms.into());
        args.push(error);
        args.push(result);
    }
    args
}

/// Ends that need no look at their jobs' records.
struct Bucket<'a> {
    /// The first token, where those of all ends follow each other.
    first: Option<u64>,
    ends: Vec<&'a Finish>,
}

/// A worker that is busy ends its jobs about in the order in which it claimed them.
fn buckets(mut plain: Vec<&Finish>) -> Vec<Bucket<'_>> {
    plain.sort_by_key(|finish| finish.token);
    let (runs, strays): (Vec<&[&Finish]>, Vec<&[&Finish]>) =
        plain.chunk_by(|one, next| next.token == one.token + 1).partition(|run| run.len() >= RUN);
    let runs = runs.into_iter().flat_map(|run| run.chunks(MOST_AT_ONCE));
    let runs = runs.map(|ends| Bucket { first: Some(ends[0].token), ends: ends.to_vec() });
    let strays = strays.concat();
    let strays = strays.chunks(MOST_AT_ONCE).map(|ends| Bucket { first: None, ends: ends.to_vec() });
    runs.chain(strays).collect()
}

fn error_value(step: &Step<'_>, finish: &Finish, message: &str) -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let error = JobError {
        at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        attempt: finish.attempt,
        message: message.to_owned(),
        worker: step.worker.to_owned(),
    };
    serde_json::to_string(&error).unwrap_or_default().into()
}

/// The arguments of `claim.lua`: the same call for one job, with nothing to settle.
pub(crate) fn arguments_of_claim(step: &Step<'_>) -> Vec<Value> {
    vec![
        step.number.into(),
        step.token.to_string().into(),
        (step.token + 1).to_string().into(),
        step.kind.into(),
        i64::from(step.can_run).into(),
    ]
}

/// What a claim brought.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) status: Status,
    pub(crate) job: Option<(JobId, Bytes)>,
    /// Nothing waits, and nothing gets due.
    pub(crate) is_empty: bool,
}

pub(crate) fn read_claim(reply: Vec<Value>) -> Result<Claim, QueueError> {
    const UNREADABLE: QueueError = QueueError::Corrupt { what: "an answer to a claim that cannot be read" };
    let mut reply = reply.into_iter();
    let status = reply.next().and_then(|status| Status::read(&status)).ok_or(UNREADABLE)?;
    let (id, record) = (reply.next(), reply.next());
    let is_empty = id.is_some() && record.is_none();
    let job = match id.zip(record) {
        None => None,
        Some((id, record)) => {
            let id = JobId::from_bytes(id.as_bytes().ok_or(UNREADABLE)?)?;
            Some((id, record.into_bytes().ok_or(UNREADABLE)?))
        }
    };
    Ok(Claim { status, job, is_empty })
}

pub(crate) fn read(reply: Vec<Value>) -> Result<Reply, QueueError> {
    const UNREADABLE: QueueError = QueueError::Corrupt { what: "an answer to a step that cannot be read" };
    let [status, next_due, lost, ids, records, more]: [Value; 6] = reply.try_into().map_err(|_| UNREADABLE)?;
    let status = Status::read(&status).ok_or(UNREADABLE)?;
    let next_due = next_due.as_i64().and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    let claimed = ids
        .into_array()
        .into_iter()
        .zip(records.into_array())
        .map(|(id, record)| {
            let id = JobId::from_bytes(id.as_bytes().ok_or(UNREADABLE)?)?;
            Ok((id, record.into_bytes().ok_or(UNREADABLE)?))
        })
        .collect::<Result<_, QueueError>>()?;
    Ok(Reply { status, next_due, lost: lost.into_array(), claimed, has_more: more.as_i64() == Some(1) })
}
