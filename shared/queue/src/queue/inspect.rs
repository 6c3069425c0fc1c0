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

/// Which jobs to list.
#[derive(Debug, Clone)]
pub struct JobFilter {
    /// In this state. Default: available.
    pub state: State,
    /// Of this kind only.
    pub kind: Option<String>,
    /// Of this group only.
    pub group: Option<String>,
    /// Made at this time or later.
    pub since: Option<SystemTime>,
    /// Whose last error contains this text.
    pub error_contains: Option<String>,
    /// Where the page before ended; `None` for the first.
    pub cursor: Option<String>,
    /// Most jobs on the page, 1 to 1,000. Default 100.
    pub limit: usize,
}

impl JobFilter {
    /// All jobs in `state`.
    #[must_use]
    pub fn in_state(state: State) -> Self {
        Self { state, kind: None, group: None, since: None, error_contains: None, cursor: None, limit: 100 }
    }

    fn admits(&self, job: &JobRecord) -> bool {
        job.state == self.state
            && self.kind.as_ref().is_none_or(|kind| *kind == job.kind)
            && self.group.as_ref().is_none_or(|group| *group == job.group)
            && self.since.is_none_or(|since| job.created_at >= since)
            && self
                .error_contains
                .as_ref()
                .is_none_or(|part| job.error.as_ref().is_some_and(|e| e.message.contains(part.as_str())))
    }
}

impl Default for JobFilter {
    fn default() -> Self {
        Self::in_state(State::Available)
    }
}

/// One page of jobs.
#[derive(Debug, Clone, Serialize)]
pub struct JobPage {
    /// The jobs; may be fewer than asked for, or none, although more follow: a page looks at a bounded number of jobs.
    pub jobs: Vec<JobRecord>,
    /// Where the next page begins; `None` at the end. Jobs that change state between pages may be missed or seen twice.
    pub next: Option<String>,
}

/// Ids that one round trip of a listing looks at.
const LOOK: usize = 200;
/// Ids that one page looks at before it is returned as it is.
const LOOK_AT_MOST: usize = 5_000;

impl Queue {
    /// One job with all that is known of it.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`]; [`QueueError::Corrupt`] for a record this version cannot read.
    pub async fn job(&self, id: &JobId) -> Result<Option<JobRecord>, QueueError> {
        Ok(self.records(&[*id]).await?.pop())
    }

    /// A page of jobs: scheduled and retryable by due time, available in the order of their turn, running by worker, finished
    /// ones latest first.
    ///
    /// # Errors
    /// As [`job`](Self::job); [`QueueError::InvalidName`] for a cursor that this did not make.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<JobPage, QueueError> {
        let limit = filter.limit.clamp(1, 1_000);
        let mut jobs = Vec::new();
        let mut cursor = filter.cursor.clone();
        let mut looked = 0;
        loop {
            let look = match filter.state {
                State::Available => self.available_ids(cursor.as_deref()).await?,
                _ => self.zset_ids(filter.state, cursor.as_deref()).await?,
            };
            looked += look.ids.len();
            for job in self.records(&look.ids).await? {
                if !filter.admits(&job) {
                    continue;
                }
                if jobs.len() == limit {
                    let at = look.ids.iter().position(|id| *id == job.id).unwrap_or(0);
                    return Ok(JobPage { jobs, next: Some(format!("{}{}", look.place, look.from + at)) });
                }
                jobs.push(job);
            }
            cursor = look.next;
            if cursor.is_none() || looked >= LOOK_AT_MOST {
                return Ok(JobPage { jobs, next: cursor });
            }
        }
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

    async fn zset_ids(&self, state: State, cursor: Option<&str>) -> Result<Look, QueueError> {
        let (name, is_latest_first) = match state {
            State::Scheduled => ("sched", false),
            State::Retryable => ("retry", false),
            State::Running | State::Available => ("lease", false),
            State::Completed => ("done", true),
            State::Cancelled => ("cancelled", true),
            State::Dead => ("dead", true),
        };
        let from: usize =
            cursor.map_or(Ok(0), |c| c.parse().map_err(|_| QueueError::InvalidName { name: c.to_owned() }))?;
        let mut args: Vec<Value> = vec![self.key(name).into(), (from as i64).into(), ((from + LOOK - 1) as i64).into()];
        if is_latest_first {
            args.push("REV".into());
        }
        let ids = job_ids(&self.command::<Vec<Value>>("ZRANGE", args).await?)?;
        let next = (ids.len() == LOOK).then(|| (from + LOOK).to_string());
        Ok(Look { ids, place: String::new(), from, next })
    }

    /// Walks lanes (priority, kind), their groups and their lists. The cursor is `lane.group.offset`.
    async fn available_ids(&self, cursor: Option<&str>) -> Result<Look, QueueError> {
        let bad = || QueueError::InvalidName { name: cursor.unwrap_or_default().to_owned() };
        let mut at = [0usize; 3];
        if let Some(text) = cursor {
            let mut parts = text.split('.');
            for slot in &mut at {
                *slot = parts.next().and_then(|p| p.parse().ok()).ok_or_else(bad)?;
            }
        }
        let mut kinds: Vec<String> = self.command("SMEMBERS", vec![self.key("kinds").into()]).await?;
        kinds.sort();
        let lanes: Vec<String> =
            ["h", "n", "l"].iter().flat_map(|p| kinds.iter().map(move |k| format!("{p}:{k}"))).collect();
        // Groups parked at their cap stand in no rotation, but their jobs are available all the same.
        let parked: BTreeMap<String, String> = self.command("HGETALL", vec![self.key("parked").into()]).await?;
        for (lane_index, lane) in lanes.iter().enumerate().skip(at[0]) {
            let mut groups: Vec<String> =
                self.command("LRANGE", vec![self.key(&format!("r:{lane}")).into(), 0.into(), (-1).into()]).await?;
            groups.extend(parked.iter().filter(|(_, l)| l.split(',').any(|l| l == lane)).map(|(g, _)| g.clone()));
            let first_group = if lane_index == at[0] { at[1] } else { 0 };
            for (group_index, group) in groups.iter().enumerate().skip(first_group) {
                let from = if lane_index == at[0] && group_index == at[1] { at[2] } else { 0 };
                let key = self.key(&format!("q:{lane}:{group}"));
                let last = (from + LOOK - 1) as i64;
                let raw: Vec<Value> =
                    self.command("LRANGE", vec![key.into(), (from as i64).into(), last.into()]).await?;
                if !raw.is_empty() {
                    let next = if raw.len() == LOOK {
                        format!("{lane_index}.{group_index}.{}", from + LOOK)
                    } else {
                        format!("{lane_index}.{}.0", group_index + 1)
                    };
                    return Ok(Look {
                        ids: job_ids(&raw)?,
                        place: format!("{lane_index}.{group_index}."),
                        from,
                        next: Some(next),
                    });
                }
            }
        }
        Ok(Look { ids: Vec::new(), place: String::new(), from: 0, next: None })
    }
}

/// Ids that one look found, and where: a cursor is the place and an offset in it.
struct Look {
    ids: Vec<JobId>,
    place: String,
    from: usize,
    next: Option<String>,
}

fn job_ids(raw: &[Value]) -> Result<Vec<JobId>, QueueError> {
    raw.iter().map(|id| JobId::from_bytes(id.as_bytes().unwrap_or_default())).collect()
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
