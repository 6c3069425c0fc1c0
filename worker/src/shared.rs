//! What every handler of one worker process shares.

use crate::{Converter, Pool};
use oneiro_core::{dreams::DreamStore, jobs::Queues, storage::Storage};

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
}

/// An error with its causes in one line, for logs and job records.
pub(crate) fn report(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
