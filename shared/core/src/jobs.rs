//! The arguments of Oneiro's job kinds. Payloads may only grow: a field added later has a default.

mod observe;

use crate::{
    auth::UserId,
    config::QueuesConfig,
    dreams::{Dream, DreamId, Image, ImageId},
};
use apalis_fred::{Job, JobId, NewJob, Queue, QueueError, QueueName, QueueOptions, Retention, RetryPolicy, Unique};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Makes the variants of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessImage {
    /// Whose record says what to do.
    pub dream_id: DreamId,
    /// Which image.
    pub image_id: ImageId,
    /// The run of the image that this job belongs to; an older one has no effect.
    pub generation: u32,
    /// Where its variants go, so that a run can remove them when the record that knew is gone.
    #[serde(default)]
    pub media_prefix: String,
}

/// Removes the objects of a dream, or of some of its images, as the record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteImages {
    /// Whose record says what to remove.
    pub dream_id: DreamId,
    /// The record's version when the deletion was asked for.
    pub version: u64,
}

/// A deletion is hundreds of calls to the object store for a dream with many images.
const DELETE_TIMEOUT: Duration = Duration::from_secs(600);
/// First retry waits up to a second, the longest wait is five minutes: storage and network come back within minutes or need a person.
const BACKOFF_BASE: Duration = Duration::from_secs(1);
const BACKOFF_CAP: Duration = Duration::from_secs(300);
const RETRY: RetryPolicy = RetryPolicy { max_attempts: 8, base: BACKOFF_BASE, cap: BACKOFF_CAP };

impl Job for ProcessImage {
    const KIND: &'static str = "process_image";

    fn retry_policy() -> RetryPolicy {
        RETRY
    }
}

impl Job for DeleteImages {
    const KIND: &'static str = "delete_images";

    fn retry_policy() -> RetryPolicy {
        RETRY
    }
}

/// Oneiro's queues, and the one place where its jobs are pushed.
#[derive(Clone)]
pub struct Queues {
    /// Of [`ProcessImage`].
    pub images: Queue,
    /// Of [`DeleteImages`].
    pub deletes: Queue,
    max_attempts: u32,
    job_timeout: Duration,
    target_wait: Duration,
}

impl Queues {
    /// Opens the queues on a connected client.
    ///
    /// # Panics
    /// Where `config` was not checked: its queue names must be valid.
    pub fn new(client: fred::clients::Client, config: &QueuesConfig) -> Self {
        let queue = |name: &str| {
            let name: QueueName = name.parse().expect("checked when the configuration was loaded");
            Queue::with_options(client.clone(), name, Self::options(config))
        };
        Self {
            images: queue(&config.images),
            deletes: queue(&config.deletes),
            max_attempts: config.max_attempts,
            job_timeout: config.job_timeout(),
            target_wait: config.target_wait(),
        }
    }

    /// The options that every handle of these queues shares.
    pub fn options(config: &QueuesConfig) -> QueueOptions {
        QueueOptions {
            max_depth: Some(config.max_depth),
            max_bytes: (config.max_waiting_mb > 0).then(|| config.max_waiting_mb.saturating_mul(1_000_000)),
            max_latency: (config.max_wait_seconds > 0).then(|| config.max_wait()),
            retention_completed: Retention::new(config.completed_retention(), config.completed_retention_count),
            retention_dead: Retention::new(config.dead_retention(), config.dead_retention_count),
            keys: config.keys().expect("checked when the configuration was read"),
            ..QueueOptions::default()
        }
    }

    /// Both, in the order in which an operator reads them.
    pub fn all(&self) -> [&Queue; 2] {
        [&self.images, &self.deletes]
    }

    /// Pushes a job for each of these images. Pushing again while a job waits or runs gives the same ids back and adds nothing.
    ///
    /// # Errors
    /// Where Redis does not take them; then none or some were stored, and pushing again is safe.
    pub async fn process(&self, dream: &Dream, images: &[&Image]) -> Result<Vec<JobId>, QueueError> {
        let mut jobs = Vec::with_capacity(images.len());
        for image in images {
            let args = ProcessImage {
                dream_id: dream.id,
                image_id: image.id,
                generation: image.generation,
                media_prefix: image.media_prefix(),
            };
            let job = NewJob::new(&args)?
                .unique(format!("image:{}:{}", image.id, image.generation), Unique::UntilDone)
                .group(group(&dream.owner))
                .max_attempts(self.max_attempts)
                .timeout(self.job_timeout);
            jobs.push(job);
        }
        Ok(self.images.push_all(jobs).await?.into_iter().map(|pushed| pushed.id).collect())
    }

    /// Pushes the job that carries out the deletion that the record asks for.
    ///
    /// # Errors
    /// Where Redis does not take it.
    pub async fn delete(&self, dream: &Dream) -> Result<JobId, QueueError> {
        let args = DeleteImages { dream_id: dream.id, version: dream.version };
        let job = NewJob::new(&args)?
            .unique(format!("delete:{}:{}", dream.id, dream.version), Unique::UntilDone)
            .group(group(&dream.owner))
            .max_attempts(self.max_attempts)
            .timeout(DELETE_TIMEOUT);
        Ok(self.deletes.push(job).await?.id)
    }
}

/// Jobs of one user are served in turn with those of others, so that ten thousand uploads of one never delay another's one.
fn group(owner: &UserId) -> String {
    format!("user:{owner}")
}
