//! Listing jobs, page by page.

use std::{fmt, str::FromStr, time::SystemTime};

use fred::types::Value;
use serde::Serialize;

use super::{JobRecord, Queue, State};
use crate::{JobId, QueueError, options::int, scripts};

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
/// What a look that finds nothing counts: groups that were emptied meanwhile, kinds without jobs.
const EMPTY_LOOK: usize = 5;
/// Ids that one page looks at before it is returned as it is.
const LOOK_AT_MOST: usize = 5_000;

impl Queue {
    /// A page of jobs: scheduled and retryable by due time, available in the order of their turn, running by worker, finished
    /// ones latest first.
    ///
    /// # Errors
    /// As [`job`](Self::job); [`QueueError::InvalidName`] for a cursor that this did not make.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<JobPage, QueueError> {
        let limit = filter.limit.clamp(1, 1_000);
        let lanes = if filter.state == State::Available { self.lanes().await? } else { Vec::new() };
        let mut jobs = Vec::new();
        let mut cursor = filter.cursor.clone();
        let mut looked = 0;
        loop {
            let look = match filter.state {
                State::Available => self.available_ids(&lanes, cursor.as_deref()).await?,
                _ => self.zset_ids(filter.state, cursor.as_deref()).await?,
            };
            looked += look.ids.len().max(EMPTY_LOOK);
            for job in self.records(&look.ids).await? {
                if !filter.admits(&job) {
                    continue;
                }
                if jobs.len() == limit {
                    let at = look.ids.iter().position(|id| *id == job.id).unwrap_or(0);
                    return Ok(JobPage { jobs, next: look.cursors.into_iter().nth(at) });
                }
                jobs.push(job);
            }
            cursor = look.next;
            if cursor.is_none() || looked >= LOOK_AT_MOST {
                return Ok(JobPage { jobs, next: cursor });
            }
        }
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
        let from: u32 = cursor.map_or(Ok(0), |text| text.parse().map_err(|_| foreign(text)))?;
        let from = u64::from(from);
        let until = from + LOOK as u64;
        let mut args: Vec<Value> = vec![self.key(name).into(), int(from).into(), int(until - 1).into()];
        if is_latest_first {
            args.push("REV".into());
        }
        let ids = job_ids(&self.command::<Vec<Value>>("ZRANGE", args).await?)?;
        let next = (ids.len() == LOOK).then(|| until.to_string());
        Ok(Look { ids, cursors: (from..until).map(|at| at.to_string()).collect(), next })
    }

    /// A lane is a priority and a kind.
    async fn lanes(&self) -> Result<Vec<String>, QueueError> {
        let mut kinds: Vec<String> = self.command("SMEMBERS", vec![self.key("kinds").into()]).await?;
        kinds.sort();
        Ok(["h", "n", "l"].iter().flat_map(|prio| kinds.iter().map(move |kind| format!("{prio}:{kind}"))).collect())
    }

    async fn available_ids(&self, lanes: &[String], cursor: Option<&str>) -> Result<Look, QueueError> {
        let from: Place = cursor.map_or(Ok(Place::START), str::parse)?;
        let mut args: Vec<Value> = vec![int(LOOK as u64).into()];
        args.extend(from.0.iter().map(|number| Value::from(number.to_string())));
        args.extend(lanes.iter().map(|lane| Value::from(lane.as_str())));
        let [ids, runs, next]: [Value; 3] =
            self.run::<Vec<Value>>(&scripts::LIST, args).await?.try_into().map_err(|_| UNREADABLE)?;
        let ids = job_ids(&ids.into_array())?;
        let runs: Vec<u64> = runs.into_array().iter().map(number).collect::<Result<_, _>>()?;
        let mut cursors = Vec::with_capacity(ids.len());
        for run in runs.chunks_exact(6) {
            cursors.extend((0..run[5]).map(|at| Place([run[0], run[1], run[2], run[3], run[4] + at]).to_string()));
        }
        let next: Vec<u64> = next.into_array().iter().map(number).collect::<Result<_, _>>()?;
        let next = <[u64; 5]>::try_from(next).ok().map(|place| Place(place).to_string());
        Ok(Look { ids, cursors, next })
    }
}

const UNREADABLE: QueueError = QueueError::Corrupt { what: "a listing that cannot be read" };

fn number(value: &Value) -> Result<u64, QueueError> {
    value.as_u64().ok_or(UNREADABLE)
}

fn foreign(cursor: &str) -> QueueError {
    QueueError::InvalidName { name: cursor.to_owned() }
}

/// Where a job stands among the available ones: the five numbers of list.lua.
struct Place([u64; 5]);

impl Place {
    const START: Self = Self([1, 0, 0, 0, 0]);
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [lane, part, scan, group, offset] = self.0;
        write!(f, "{lane}.{part}.{scan}.{group}.{offset}")
    }
}

impl FromStr for Place {
    type Err = QueueError;

    fn from_str(text: &str) -> Result<Self, QueueError> {
        let numbers: Vec<u64> =
            text.split('.').map(|part| part.parse().map_err(|_| foreign(text))).collect::<Result<_, _>>()?;
        let place = <[u64; 5]>::try_from(numbers).map_err(|_| foreign(text))?;
        // The cursor of a scan may be any number; the others are exact in Lua and far from its limits.
        let is_ours =
            place[0] > 0 && [place[0], place[1], place[3], place[4]].iter().all(|at| *at <= u64::from(u32::MAX));
        if is_ours { Ok(Self(place)) } else { Err(foreign(text)) }
    }
}

/// Ids that one look found, and where a page begins that begins with each of them.
struct Look {
    ids: Vec<JobId>,
    cursors: Vec<String>,
    next: Option<String>,
}

fn job_ids(raw: &[Value]) -> Result<Vec<JobId>, QueueError> {
    raw.iter().map(|id| JobId::from_bytes(id.as_bytes().unwrap_or_default())).collect()
}
