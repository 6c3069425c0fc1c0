//! Reading jobs.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use fred::types::Value;
use serde::{Deserialize, Serialize};

use super::{Queue, State, push::id_value};
use crate::{JobId, KeyRing, Priority, QueueError, record::Record, scripts, seal};

/// The last failure of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    /// When, in ms since the epoch.
    pub at_ms: u64,
    /// Which attempt, from 1; 0 where no attempt was spent.
    pub attempt: u32,
    /// What the handler said, cut at 4,000 bytes.
    pub message: String,
    /// Which worker ran it.
    #[serde(default)]
    pub worker: String,
}

/// How far a running job says it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Parts done.
    #[serde(default)]
    pub done: u64,
    /// Parts in all; 0 where unknown.
    #[serde(default)]
    pub total: u64,
    /// A word on it.
    #[serde(default)]
    pub text: String,
}

/// A job as it is stored.
#[derive(Debug, Clone, Serialize)]
pub struct JobRecord {
    /// Its id.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// The version of its arguments; see [`Job::VERSION`](crate::Job::VERSION).
    pub version: u32,
    /// Where it stands.
    pub state: State,
    /// Its arguments: JSON as text where they are JSON, or a lossy reading of other bytes; empty where they are sealed and this handle's
    /// keys do not open them.
    pub payload: String,
    /// The id of the key that sealed its arguments.
    pub sealed_with: Option<String>,
    /// Whether its arguments are there to be read: they are not sealed, or this handle's keys open them.
    pub is_open: bool,
    /// Its priority.
    pub priority: Priority,
    /// Its group; empty for none.
    pub group: String,
    /// Attempts spent.
    pub attempts: u32,
    /// Attempts allowed.
    pub max_attempts: u32,
    /// Workers that died while they ran it.
    pub kills: u32,
    /// Longest time an attempt may take.
    pub timeout: Option<Duration>,
    /// The unique key it holds until it is done; empty for none.
    pub unique: String,
    /// Its metadata.
    pub meta: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it becomes available (scheduled, retryable).
    pub due_at: Option<SystemTime>,
    /// When it ended (completed, cancelled, dead).
    pub finished_at: Option<SystemTime>,
    /// Number of the worker that runs it; see [`Queue::workers`].
    pub worker: Option<u32>,
    /// Its last failure.
    pub error: Option<JobError>,
    /// What it said of its progress.
    pub progress: Option<Progress>,
    /// What its handler returned (JSON), while the result is kept.
    pub result: Option<String>,
}

/// Ids that one round trip reads.
const LOOK: usize = 200;

impl Queue {
    /// One job with all that is known of it.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]; [`QueueError::Corrupt`] for a record this version cannot read.
    pub async fn job(&self, id: &JobId) -> Result<Option<JobRecord>, QueueError> {
        Ok(self.records(&[*id]).await?.pop())
    }

    pub(crate) async fn records(&self, ids: &[JobId]) -> Result<Vec<JobRecord>, QueueError> {
        let mut jobs = Vec::with_capacity(ids.len());
        for part in ids.chunks(LOOK) {
            let rows: Vec<Value> = self.run(&scripts::INSPECT, part.iter().map(|id| id_value(*id)).collect()).await?;
            for (id, row) in part.iter().zip(rows) {
                if let Value::Array(fields) = row {
                    jobs.push(job_record(*id, fields, self.options().keys.as_ref())?);
                }
            }
        }
        Ok(jobs)
    }
}

/// The worker's number inside a fencing token.
pub(crate) fn worker_of(token: u64) -> u32 {
    u32::try_from(token >> 28).unwrap_or(u32::MAX)
}

fn job_record(id: JobId, fields: Vec<Value>, keys: Option<&KeyRing>) -> Result<JobRecord, QueueError> {
    let mut fields = fields.into_iter();
    let mut next = || fields.next().unwrap_or(Value::Null);
    let state: State = next().as_string().unwrap_or_default().parse()?;
    let raw = next().into_bytes().ok_or(QueueError::Corrupt { what: "a job without a record" })?;
    let record = Record::decode(&raw)?;
    let (payload, sealed_with) = if record.is_sealed {
        let key = seal::key_of(&record.payload).unwrap_or("?").to_owned();
        (seal::open(keys, id, &record.kind, &record.payload).ok(), Some(key))
    } else {
        (Some(record.payload.clone()), None)
    };
    let (error, progress, result, score) = (next(), next(), next(), next());
    let score = score.as_f64().unwrap_or(0.0).max(0.0) as u64;
    let time = || SystemTime::UNIX_EPOCH + Duration::from_millis(score);
    let json = |value: &Value| value.as_bytes().map(<[u8]>::to_vec);
    Ok(JobRecord {
        id,
        state,
        is_open: payload.is_some(),
        payload: String::from_utf8_lossy(&payload.unwrap_or_default()).into_owned(),
        sealed_with,
        priority: record.priority,
        attempts: record.attempts,
        max_attempts: record.max_attempts,
        kills: record.kills,
        timeout: record.timeout,
        meta: record.metadata()?,
        kind: record.kind,
        version: record.version,
        group: record.group,
        unique: record.unique,
        created_at: id.created_at(),
        due_at: matches!(state, State::Scheduled | State::Retryable).then(time),
        finished_at: state.is_final().then(time),
        worker: (state == State::Running).then(|| worker_of(score)),
        error: json(&error).and_then(|raw| serde_json::from_slice(&raw).ok()),
        progress: json(&progress).and_then(|raw| serde_json::from_slice(&raw).ok()),
        result: result.as_string(),
    })
}
