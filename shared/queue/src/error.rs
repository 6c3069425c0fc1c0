//! What can go wrong between a caller and the store.

use std::time::Duration;

/// Why an operation on a queue did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The queue is at one of its bounds; nothing was stored (of more than 1,000 jobs: nothing of the part that met the bound).
    #[error("queue is full, {reason}; try again in {retry_after:?}")]
    Full {
        /// Which bound.
        reason: FullReason,
        /// When the excess will have drained at the measured rate: 1 second to 5 minutes; 10 seconds while no rate is known.
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
    /// A text that is no [`JobId`](crate::JobId).
    #[error("`{text}` is not a job id, which has 26 letters and digits")]
    InvalidId {
        /// The text as given.
        text: String,
    },
    /// A text that is no [`State`](crate::State).
    #[error("`{text}` is not a state: scheduled, available, running, retryable, completed, cancelled or dead")]
    InvalidState {
        /// The text as given.
        text: String,
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
    /// The job's payload is sealed and this handle has no key that opens it, so that it can be neither read nor replaced.
    #[error(
        "the job's payload is sealed with key `{key}`, which this handle does not have or which is another of that name"
    )]
    Sealed {
        /// The id of the key.
        key: String,
    },
    /// The worker's side of the store is closed; nothing more can be sent through it.
    #[error("the worker is closed")]
    Closed,
}

/// Which bound of [`QueueOptions`](crate::QueueOptions) a push would go beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FullReason {
    /// `max_depth`.
    #[error("{waiting} jobs wait and {most} may")]
    Depth {
        /// Jobs that wait.
        waiting: u64,
        /// Jobs that may.
        most: u64,
    },
    /// `max_bytes`.
    #[error("{waiting} bytes of jobs wait and {most} may")]
    Bytes {
        /// Bytes that wait.
        waiting: u64,
        /// Bytes that may.
        most: u64,
    },
    /// `max_latency`.
    #[error("a job would wait {expected:?} and may {most:?}")]
    Latency {
        /// How long a job pushed now would wait.
        expected: Duration,
        /// How long it may.
        most: Duration,
    },
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
        use fred::error::ErrorKind::{Backpressure, Canceled, Cluster, IO, Routing, Sentinel, Timeout, Unknown};
        /// Replies of a server that is loading, full, demoted or losing its majority pass with time. A script that meets one
        /// carries the code inside its own message.
        const PASSING: [&str; 10] = [
            "LOADING",
            "OOM",
            "READONLY",
            "MASTERDOWN",
            "CLUSTERDOWN",
            "TRYAGAIN",
            "BUSY",
            "MISCONF",
            "UNBLOCKED",
            "NOREPLICAS",
        ];
        let details = error.details();
        let is_of_server = details.split_whitespace().next().is_some_and(|w| w.chars().all(|c| c.is_ascii_uppercase()));
        let is_passing = match error.kind() {
            IO | Timeout | Canceled | Cluster | Sentinel | Backpressure | Routing => true,
            // The client gives this kind to what has no other, also to its own trouble with a lost connection; what a server
            // says begins with a code in capitals.
            Unknown if !is_of_server => true,
            _ => PASSING.iter().any(|code| details.starts_with(code) || details.contains(&format!("-{code}"))),
        } || details.contains("OOM command not allowed");
        if is_passing { Self::Unavailable(error) } else { Self::Refused(error) }
    }
}

#[cfg(test)]
mod tests {
    use fred::error::{Error, ErrorKind};

    use super::*;

    #[test]
    fn trouble_that_passes_is_told_from_refusals() {
        let is_transient = |kind, text: &'static str| QueueError::from(Error::new(kind, text)).is_transient();
        assert!(is_transient(ErrorKind::Unknown, "Failed to route command."));
        assert!(is_transient(ErrorKind::Unknown, "LOADING Redis is loading the dataset in memory"));
        assert!(is_transient(ErrorKind::Unknown, "OOM command not allowed when used memory > 'maxmemory'."));
        assert!(is_transient(ErrorKind::Unknown, "NOREPLICAS Not enough good replicas to write."));
        assert!(is_transient(ErrorKind::IO, "connection reset"));
        assert!(!is_transient(ErrorKind::Unknown, "ERR unknown command"));
        assert!(!is_transient(ErrorKind::Unknown, "WRONGTYPE Operation against a key holding the wrong kind of value"));
    }
}
