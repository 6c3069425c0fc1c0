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

    async fn configure(&self, pairs: Vec<Value>) -> Result<(), QueueError> {
        if let Err(error) = self.register().await {
            // A full Redis refuses the name and takes the settings; this handle's next call sends the name again.
            tracing::debug!(%error, "failed to note the queue's name");
        }
        let _: i64 = self.run(&scripts::CONFIGURE, pairs).await?;
        Ok(())
    }
}
