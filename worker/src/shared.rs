//! What every handler of one worker process shares.

use crate::{Converter, Pool};
use oneiro_core::{
    dreams::DreamStore,
    jobs::Queues,
    storage::{Storage, StorageError},
};
use std::time::Duration;

/// Handles, cheap to clone behind an `Arc`.
pub struct Shared {
    /// Records.
    pub dreams: DreamStore,
    /// Originals and variants.
    pub storage: Storage,
    /// For handlers and the sweep that push further jobs.
    pub queues: Queues,
    /// Where pixels are worked on.
    pub pool: Pool,
    /// For formats that the pipeline does not decode, where one is configured.
    pub converter: Option<Converter>,
    /// Name of the variant whose URL is an image's.
    pub default_variant: String,
    /// Largest original that is read, in bytes.
    pub max_file_bytes: u64,
    /// Longest time that one call to the storage may take. A run that waits to the end of its time is cut off, and cannot say what for.
    pub storage_patience: Duration,
}

impl Shared {
    /// What the storage answers, or that it did not answer in time.
    pub(crate) async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let late = Err(StorageError::TooSlow(self.storage_patience));
        tokio::time::timeout(self.storage_patience, call).await.unwrap_or(late)
    }
}

/// An error with its causes in one line, for logs and job records.
pub(crate) fn report(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
