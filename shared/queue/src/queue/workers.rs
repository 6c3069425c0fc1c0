//! Who serves a queue, and telling them what to do.

use std::time::Duration;

use fred::{
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value},
};
use serde::{Deserialize, Serialize};

use super::Queue;
use crate::{Health, JobId, QueueError, scripts};

/// Workers that a listing looks at.
const MOST_WORKERS: i64 = 1_000;

/// A job as its worker reports it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunningJob {
    /// Its id.
    pub id: JobId,
    /// How long it ran at the worker's last sign of life, in ms.
    pub for_ms: u64,
}

/// A worker as it described itself at its last sign of life.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// Its number in this queue.
    #[serde(default)]
    pub number: u32,
    /// Its name, as given to apalis.
    pub name: String,
    /// Host it runs on.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// The kind of job it runs.
    pub kind: String,
    /// The newest version of the kind that it can run.
    #[serde(default = "first")]
    pub version: u32,
    /// The ids of the keys that it has for sealed payloads.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Jobs it may hold at once.
    pub concurrency: usize,
    /// When it started, ms since the epoch.
    pub started_at_ms: u64,
    /// Whether it takes no new jobs.
    pub is_quiet: bool,
    /// Jobs of this queue that it holds.
    pub running: usize,
    /// Whether it has no room for another job, of whatever queue.
    #[serde(default)]
    pub is_full: bool,
    /// What it does about this queue's jobs.
    #[serde(default)]
    pub health: Health,
    /// When it last claimed a job of this queue, ms since the epoch.
    #[serde(default)]
    pub last_fetched_at_ms: Option<u64>,
    /// When a job of this queue last ended in it, ms since the epoch.
    #[serde(default)]
    pub last_finished_at_ms: Option<u64>,
    /// Whether jobs waited for which it had room, at its last sign of life.
    #[serde(default)]
    pub is_offered: bool,
    /// The longest running of them, at most 20.
    pub jobs: Vec<RunningJob>,
    /// Last sign of life, ms since the epoch by Redis' clock.
    #[serde(default)]
    pub beat_at_ms: u64,
    /// Whether its lease is over: its jobs are about to be recovered.
    #[serde(default)]
    pub is_late: bool,
}

fn first() -> u32 {
    1
}

impl Queue {
    /// The workers of this queue that live or whose jobs are not all recovered yet.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>, QueueError> {
        let rows: Vec<Value> = self.run(&scripts::WORKERS, vec![MOST_WORKERS.into()]).await?;
        let mut rows = rows.into_iter();
        let now = rows.next().and_then(|now| now.as_u64()).unwrap_or(0);
        let mut workers = Vec::new();
        for row in rows {
            let [number, deadline, info, beat] = &row.into_array()[..] else { continue };
            let info = info.as_bytes().and_then(|raw| serde_json::from_slice::<WorkerRecord>(raw).ok());
            if let (Some(mut worker), Some(number)) = (info, number.as_u64()) {
                worker.number = u32::try_from(number).unwrap_or(u32::MAX);
                worker.beat_at_ms = beat.as_u64().unwrap_or(0);
                worker.is_late = deadline.as_u64().unwrap_or(0) < now;
                if worker.is_late {
                    worker.health = Health::Stuck { since_ms: worker.beat_at_ms };
                }
                workers.push(worker);
            }
        }
        Ok(workers)
    }

    /// Lets a worker take no new jobs; running ones go on.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn quiet_worker(&self, number: u32) -> Result<(), QueueError> {
        self.tell(number, "quiet".into()).await
    }

    /// Undoes [`quiet_worker`](Self::quiet_worker).
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn wake_worker(&self, number: u32) -> Result<(), QueueError> {
        self.tell(number, "loud".into()).await
    }

    /// Lets a worker stop as if its process had been told to.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn stop_worker(&self, number: u32) -> Result<(), QueueError> {
        self.tell(number, "stop".into()).await
    }

    /// Asks a worker for a sign of life and tells how long the answer took; `None` when none came in time.
    /// The answer comes from the thread that also renews the worker's leases.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn ping_worker(&self, number: u32, patience: Duration) -> Result<Option<Duration>, QueueError> {
        let nonce = JobId::generate().to_string();
        let begun = std::time::Instant::now();
        self.tell(number, format!("ping {nonce}")).await?;
        // A connection of its own: a blocking pop must not hold up the caller's other commands.
        let client = self.client().clone_new();
        client.init().await?;
        let args: Vec<Value> =
            vec![self.key(&format!("pong:{nonce}")).into(), patience.as_secs_f64().max(0.05).to_string().into()];
        let reply: Result<Value, _> =
            client.custom(CustomCommand::new_static("BLPOP", ClusterHash::FirstKey, true), args).await;
        // The answer is here or not; that the helper connection also closed well changes nothing.
        let _ = client.quit().await;
        Ok((!reply?.is_null()).then(|| begun.elapsed()))
    }

    pub(crate) async fn tell(&self, number: u32, command: String) -> Result<(), QueueError> {
        /// A worker that takes longer to come for it is gone, or has another number.
        const KEPT_S: i64 = 60;
        let args = vec![format!("ctl:{number}").into(), command.into(), KEPT_S.into()];
        let _: i64 = self.run(&scripts::TELL, args).await?;
        Ok(())
    }
}
