//! Changing jobs and the queue by hand.

use std::time::Duration;

use bytes::Bytes;
use fred::types::Value;
use serde::{Deserialize, Serialize};

use super::{Queue, State, push::id_value};
use crate::{JobId, KeyRing, QueueError, options::millis, scripts, seal};

/// What a cancel did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelOutcome {
    /// The job waited and is cancelled now.
    Cancelled,
    /// The job runs; its worker was told and will end it. Should the worker die first, the job is cancelled instead of run again.
    Requested,
    /// The job is over already.
    AlreadyOver,
    /// There is no such job.
    NotFound,
}

/// What operators set for a whole queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct QueueLimits {
    /// Whether workers may not take jobs; see [`Queue::pause`].
    pub is_paused: bool,
    /// Most jobs that all workers together start a second; see [`Queue::limit_rate`]. `None` for no limit.
    pub per_second: Option<f64>,
    /// How many of them at once; 1 where there is no limit.
    pub burst: u32,
    /// Most jobs of one group that run at once; see [`Queue::cap_groups`]. `None` for no limit.
    pub group_cap: Option<u32>,
}

impl Queue {
    async fn change(&self, what: &'static str, id: &JobId, extra: Value) -> Result<i64, QueueError> {
        self.run(&scripts::CHANGE, vec![what.into(), id_value(*id), extra]).await
    }

    /// Makes a job available now with all its attempts: a dead, cancelled or completed one again, a scheduled or retryable one
    /// at once. `false` when it runs, is available already or is unknown.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn retry(&self, id: &JobId) -> Result<bool, QueueError> {
        Ok(self.change("retry", id, Value::from_static_str("")).await? == 1)
    }

    /// As [`retry`](Self::retry), if the job still is in this state: for jobs that were listed a while ago. `false` also when it is not.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn retry_from(&self, state: State, id: &JobId) -> Result<bool, QueueError> {
        Ok(self.change("retry", id, state.as_str().into()).await? == 1)
    }

    /// Cancels a job, waiting or running.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn cancel(&self, id: &JobId) -> Result<CancelOutcome, QueueError> {
        Ok(match self.change("cancel", id, Value::from_static_str("")).await? {
            1 => CancelOutcome::Cancelled,
            2 => CancelOutcome::Requested,
            0 => CancelOutcome::AlreadyOver,
            _ => CancelOutcome::NotFound,
        })
    }

    /// Removes a job and all that is known of it. `false` when it runs (cancel it first) or is unknown.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn delete(&self, id: &JobId) -> Result<bool, QueueError> {
        Ok(self.change("delete", id, Value::from_static_str("")).await? == 1)
    }

    /// Lets a job that does not run wait this long before it is available. `false` when it runs or is unknown.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn reschedule(&self, id: &JobId, wait: Duration) -> Result<bool, QueueError> {
        Ok(self.change("reschedule", id, millis(wait).into()).await? == 1)
    }

    /// Gives a job that does not run another payload, sealed if this handle has keys. `false` when it runs or is unknown.
    ///
    /// # Errors
    /// [`QueueError::Sealed`] where the payload is sealed with a key that this handle does not have: a job once sealed stays so, and its
    /// workers can open it; [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn update_payload(&self, id: &JobId, payload: Bytes) -> Result<bool, QueueError> {
        let raw: Option<Bytes> = self.command("HGET", vec![self.key("jobs").into(), id_value(*id)]).await?;
        let Some(raw) = raw else { return Ok(false) };
        let mut record = crate::record::Record::decode(&raw)?;
        if record.is_sealed {
            let key = seal::key_of(&record.payload);
            if !self.options().keys.iter().flat_map(KeyRing::ids).any(|known| Some(known) == key) {
                return Err(QueueError::Sealed { key: key.unwrap_or("?").to_owned() });
            }
        }
        record.is_sealed = self.options().keys.is_some();
        record.payload = match &self.options().keys {
            Some(keys) => keys.seal(*id, &record.kind, &payload)?,
            None => payload,
        };
        Ok(self.change("update", id, record.encode()?.into()).await? == 1)
    }

    /// Keeps workers from taking jobs; running ones go on. Pushing stays possible.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn pause(&self) -> Result<(), QueueError> {
        self.configure(vec!["paused".into(), "1".into()]).await
    }

    /// Undoes [`pause`](Self::pause).
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn resume(&self) -> Result<(), QueueError> {
        self.configure(vec!["paused".into(), "".into()]).await
    }

    /// Bounds how many jobs all workers together start: `per_second` on average (0.001 and up), at most `burst` (1 and up) at once.
    /// Exact across workers: the token bucket is in Redis.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn limit_rate(&self, per_second: f64, burst: u32) -> Result<(), QueueError> {
        let rate = per_second.max(0.001);
        self.configure(vec!["rate".into(), rate.to_string().into(), "burst".into(), burst.max(1).into()]).await
    }

    /// Undoes [`limit_rate`](Self::limit_rate).
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn unlimit_rate(&self) -> Result<(), QueueError> {
        self.configure(vec!["rate".into(), "".into(), "burst".into(), "".into()]).await
    }

    /// Bounds how many jobs of one group run at once (at least 1); jobs without a group are not bounded. `None` lifts it.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn cap_groups(&self, cap: Option<u32>) -> Result<(), QueueError> {
        let value = cap.map_or_else(|| "".into(), |cap| cap.max(1).into());
        self.configure(vec!["cap".into(), value]).await
    }

    /// What is in force of [`pause`](Self::pause), [`limit_rate`](Self::limit_rate) and [`cap_groups`](Self::cap_groups).
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn limits(&self) -> Result<QueueLimits, QueueError> {
        let fields = ["paused", "rate", "burst", "cap"];
        let args = std::iter::once(self.key("cfg").into()).chain(fields.map(Value::from)).collect();
        let values: Vec<Option<String>> = self.command("HMGET", args).await?;
        let [paused, rate, burst, cap]: [Option<String>; 4] =
            values.try_into().map_err(|_| QueueError::Corrupt { what: "settings that cannot be read" })?;
        Ok(QueueLimits {
            is_paused: paused.is_some(),
            per_second: rate.and_then(|rate| rate.parse().ok()),
            burst: burst.and_then(|burst| burst.parse().ok()).unwrap_or(1),
            group_cap: cap.and_then(|cap| cap.parse().ok()),
        })
    }

    async fn configure(&self, pairs: Vec<Value>) -> Result<(), QueueError> {
        if let Err(error) = self.register().await {
            // A full Redis refuses the name and takes the settings; this handle's next call sends the name again.
            tracing::debug!(%error, "failed to note the queue's name");
        }
        let _: i64 = self.run(&scripts::CONFIGURE, pairs).await?;
        Ok(())
    }
}
