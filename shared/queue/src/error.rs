//! What can go wrong between a caller and the store.

use std::time::Duration;

/// Why an operation on a queue did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The queue holds as many waiting jobs as it may; nothing was stored.
    #[error("queue is full with {depth} waiting jobs, try again in {retry_after:?}")]
    Full {
        /// How many jobs wait.
        depth: u64,
        /// A time after which a try makes sense.
        retry_after: Duration,
    },
    /// Redis could not be reached, is starting, read-only or out of memory, or did not answer in time. A push may or may
    /// not have been stored; pushing the same [`NewJob`](crate::NewJob) again stores it at most once while it is known.
    #[error("redis is not available")]
    Unavailable(#[source] fred::error::Error),
    /// Redis refused the command for a reason that trying again does not mend.
    #[error("redis refused the command")]
    Refused(#[source] fred::error::Error),
    /// Redis holds something this version cannot read.
    #[error("redis holds {what}")]
    Corrupt {
        /// What was found.
        what: &'static str,
    },
    /// A name with characters that are not allowed, or too long or empty.
    #[error("`{name}` is not a valid name")]
    InvalidName {
        /// The name as given.
        name: String,
    },
    /// A part of a job is longer than its record can hold.
    #[error("{what} is too long: {len} bytes, at most {max}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// Arguments or metadata that cannot be written as JSON, or stored ones that cannot be read.
    #[error("failed to encode or decode JSON")]
    Json(#[from] serde_json::Error),
    /// The worker's side of the store is closed; nothing more can be sent through it.
    #[error("the worker is closed")]
    Closed,
}

impl QueueError {
    /// Whether the same call can succeed later without a change.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Unavailable(_))
    }
}

impl From<fred::error::Error> for QueueError {
    fn from(error: fred::error::Error) -> Self {
        use fred::error::ErrorKind::{Backpressure, Canceled, Cluster, IO, Sentinel, Timeout};
        // Replies of a server that is loading, full, demoted or losing its majority pass with time.
        const PASSING: [&str; 8] =
            ["LOADING", "OOM", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "MISCONF"];
        let is_passing = matches!(error.kind(), IO | Timeout | Canceled | Cluster | Sentinel | Backpressure)
            || PASSING.iter().any(|word| error.details().starts_with(word))
            // A script that meets one of these carries the code inside its own message.
            || error.details().contains("-OOM") || error.details().contains("OOM command not allowed")
            || error.details().contains("-READONLY") || error.details().contains("-MISCONF");
        if is_passing { Self::Unavailable(error) } else { Self::Refused(error) }
    }
}
