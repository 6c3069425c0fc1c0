//! What a caller pushes: a kind, its arguments, and how they are to be run.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rand::Rng;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{JobId, KeyRing, QueueError, name::is_plain_name, record::Record};

/// A kind of job: its arguments as a type.
///
/// Arguments are stored as JSON. They may only grow: a new field needs a serde default, so that jobs pushed before a deploy
/// still run after it.
pub trait Job: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The kind's name in Redis: 1 to 64 of `A-Z a-z 0-9 _ . -`. Never change it once jobs are stored.
    const KIND: &'static str;

    /// The version of the arguments, from 1, stored with each job. Raise it when jobs pushed from now on must not be run by workers
    /// that know only the versions below; such a worker hands the job back for one that does, and no attempt is spent. Workers
    /// must still read the versions below their own.
    const VERSION: u32 = 1;

    /// How failed attempts are tried again. Default: 25 attempts, from 1 second doubling up to 1 hour.
    #[must_use]
    fn retry_policy() -> RetryPolicy {
        RetryPolicy::default()
    }

    /// The longest an attempt may take; then it counts as failed. Default: none.
    #[must_use]
    fn timeout() -> Option<Duration> {
        None
    }
}

/// How often and when a failed job is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, from 1 (never again) to 65,535. Default 25.
    pub max_attempts: u32,
    /// Longest wait after the first failure; doubles with each further one. Default 1 second.
    pub base: Duration,
    /// Bound of that doubling. Default 1 hour.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 25, base: Duration::from_secs(1), cap: Duration::from_secs(3600) }
    }
}

impl RetryPolicy {
    /// The longest wait after attempt number `attempt` (from 1) failed: `min(cap, base * 2^(attempt - 1))`.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }

    /// A wait drawn evenly from 0 to the [`ceiling`](Self::ceiling): "full jitter", which spreads a herd of jobs that failed
    /// together best (Brooker, "Exponential Backoff And Jitter", 2015).
    #[must_use]
    pub fn backoff(&self, attempt: u32) -> Duration {
        self.ceiling(attempt).mul_f64(rand::rng().random::<f64>())
    }
}

/// Which jobs of a queue go first. A lower priority still gets a share (16 : 4 : 1), so nothing starves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before the others.
    High,
    /// Where nothing is said.
    #[default]
    Normal,
    /// After the others.
    Low,
}

impl Priority {
    pub(crate) fn letter(self) -> u8 {
        match self {
            Self::High => b'h',
            Self::Normal => b'n',
            Self::Low => b'l',
        }
    }

    pub(crate) fn from_letter(letter: u8) -> Self {
        match letter {
            b'h' => Self::High,
            b'l' => Self::Low,
            _ => Self::Normal,
        }
    }
}

/// How long a unique key keeps a second job away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unique {
    /// Until the job is completed, cancelled, dead or deleted.
    UntilDone,
    /// For this long from the push on, whatever becomes of the job. Millisecond resolution, at least 1 ms.
    For(Duration),
}

/// When a job becomes available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Now,
    /// From the push on, by Redis' clock.
    In(Duration),
    /// By the caller's clock.
    At(SystemTime),
}

/// A job about to be pushed. It carries its id, so pushing the same value again after an error stores it once.
///
/// # Examples
/// ```
/// use apalis_fred::{NewJob, Priority, Unique};
/// use std::time::Duration;
/// let job = NewJob::raw("send_mail", b"{\"to\":\"ada\"}".to_vec())?
///     .priority(Priority::High)
///     .group("ada")
///     .unique("welcome:ada", Unique::UntilDone)
///     .run_in(Duration::from_secs(5));
/// # Ok::<(), apalis_fred::QueueError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a job does nothing before it is pushed"]
pub struct NewJob {
    pub(crate) id: JobId,
    pub(crate) kind: String,
    pub(crate) version: u32,
    pub(crate) payload: Bytes,
    pub(crate) when: When,
    pub(crate) priority: Priority,
    pub(crate) group: String,
    pub(crate) max_attempts: u32,
    pub(crate) timeout: Option<Duration>,
    pub(crate) unique: Option<(String, Unique)>,
    pub(crate) meta: BTreeMap<String, String>,
}

impl NewJob {
    /// A job of kind `J` with its kind's policy.
    ///
    /// # Errors
    /// [`QueueError::Json`] when the arguments cannot be written as JSON; [`QueueError::InvalidName`] for a bad kind.
    pub fn new<J: Job>(args: &J) -> Result<Self, QueueError> {
        let mut job = Self::raw(J::KIND, serde_json::to_vec(args)?)?.version(J::VERSION);
        job.max_attempts = J::retry_policy().max_attempts.clamp(1, 65_535);
        job.timeout = J::timeout();
        Ok(job)
    }

    /// A job of version 1 whose payload is made elsewhere; a typed worker reads it as JSON.
    ///
    /// # Errors
    /// [`QueueError::InvalidName`] when `kind` is not 1 to 64 of `A-Z a-z 0-9 _ . -`.
    pub fn raw(kind: impl Into<String>, payload: impl Into<Bytes>) -> Result<Self, QueueError> {
        let kind = kind.into();
        if !is_plain_name(&kind) {
            return Err(QueueError::InvalidName { name: kind });
        }
        Ok(Self {
            id: JobId::generate(),
            kind,
            version: 1,
            payload: payload.into(),
            when: When::Now,
            priority: Priority::Normal,
            group: String::new(),
            max_attempts: RetryPolicy::default().max_attempts,
            timeout: None,
            unique: None,
            meta: BTreeMap::new(),
        })
    }

    /// The id the job will have.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Takes a given id instead of a fresh one; a job that is stored under it already is not stored again.
    pub fn with_id(mut self, id: JobId) -> Self {
        self.id = id;
        self
    }

    /// The version of its arguments; see [`Job::VERSION`].
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Stores nothing while another job holds the same key; the push then tells that job's id. At most 255 bytes; empty means none.
    pub fn unique(mut self, key: impl Into<String>, scope: Unique) -> Self {
        let key = key.into();
        self.unique = (!key.is_empty()).then_some((key, scope));
        self
    }

    /// One firing of a schedule: whoever pushes the job of this `name` and `tick` first stores it, so every worker may run the
    /// schedule and no leader is needed. Remembered for a day.
    pub fn tick(self, name: &str, tick: SystemTime) -> Self {
        /// Longer than clocks of workers differ, or a worker is late with its tick.
        const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
        let at = tick.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        self.unique(format!("{name}@{at}"), Unique::For(REMEMBERED))
    }

    /// Runs after this long, counted by Redis from the push. Millisecond resolution.
    pub fn run_in(mut self, delay: Duration) -> Self {
        self.when = When::In(delay);
        self
    }

    /// Runs at this time; a time in the past means now. Millisecond resolution.
    pub fn run_at(mut self, time: SystemTime) -> Self {
        self.when = When::At(time);
        self
    }

    /// Its priority. Default [`Priority::Normal`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The group it shares its turn with: groups are served round-robin. At most 255 bytes; empty means none.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = group.into();
        self
    }

    /// Attempts in all, 1 to 65,535 (other values are brought into that range).
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.clamp(1, 65_535);
        self
    }

    /// The longest an attempt may take, 1 ms to 49 days.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Adds metadata that handlers can read, for instance the trace context. 65,535 bytes in all as JSON.
    pub fn meta(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.meta.insert(key.into(), value.into());
        self
    }

    pub(crate) fn record(&self, keys: Option<&KeyRing>) -> Result<Record, QueueError> {
        let meta = if self.meta.is_empty() { Bytes::new() } else { serde_json::to_vec(&self.meta)?.into() };
        let unique = match &self.unique {
            Some((key, Unique::UntilDone)) => key.clone(),
            _ => String::new(),
        };
        Ok(Record {
            mark: b'a',
            priority: self.priority,
            attempts: 0,
            kills: 0,
            max_attempts: self.max_attempts,
            timeout: self.timeout,
            kind: self.kind.clone(),
            version: self.version,
            is_sealed: keys.is_some(),
            group: self.group.clone(),
            unique,
            meta,
            payload: match keys {
                Some(keys) => keys.seal(self.id, &self.kind, &self.payload)?,
                None => self.payload.clone(),
            },
        })
    }
}

/// What a push did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// The stored job's id: the pushed one, or that of the job which holds the unique key.
    pub id: JobId,
    /// Whether nothing was stored because that job was there already.
    pub is_duplicate: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn backoff_stays_below_its_ceiling_and_the_ceiling_below_the_cap(attempt in 0u32..100_000, base in 0u64..100_000, cap in 0u64..10_000_000) {
            let policy = RetryPolicy { max_attempts: 25, base: Duration::from_millis(base), cap: Duration::from_millis(cap) };
            prop_assert!(policy.backoff(attempt) <= policy.ceiling(attempt));
            prop_assert!(policy.ceiling(attempt) <= policy.cap);
            prop_assert!(policy.ceiling(attempt) <= policy.ceiling(attempt + 1));
        }
    }
}
