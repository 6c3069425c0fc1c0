//! The closed set of states.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::QueueError;

/// Where a job stands. `docs/LIFECYCLE.md` draws every way from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for its time.
    Scheduled,
    /// Waits for a worker.
    Available,
    /// Leased to a worker.
    Running,
    /// Failed, and waits for its next attempt.
    Retryable,
    /// Over: its handler returned.
    Completed,
    /// Over: it was cancelled.
    Cancelled,
    /// Over: out of attempts, aborted, or poison. Kept as a dead letter.
    Dead,
}

impl State {
    /// All states.
    pub const ALL: [Self; 7] = [
        Self::Scheduled,
        Self::Available,
        Self::Running,
        Self::Retryable,
        Self::Completed,
        Self::Cancelled,
        Self::Dead,
    ];

    /// Its name, as in JSON and on command lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Available => "available",
            Self::Running => "running",
            Self::Retryable => "retryable",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
        }
    }

    /// Whether nothing further happens to the job by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Dead)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for State {
    type Err = QueueError;

    fn from_str(text: &str) -> Result<Self, QueueError> {
        Self::ALL
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| QueueError::InvalidState { text: text.to_owned() })
    }
}
