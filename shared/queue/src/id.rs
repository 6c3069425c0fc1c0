//! The identity of a job.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::QueueError;

/// A job's identity: a ULID, so ids sort by the time of their making and tell it to the millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Ulid);

impl JobId {
    /// A new id, unique without asking anybody.
    #[must_use]
    pub fn generate() -> Self {
        Self(Ulid::generate())
    }

    /// When the id was made, to the millisecond, by the clock of the process that made it.
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.0.timestamp_ms())
    }

    /// The id as a ULID.
    #[must_use]
    pub fn ulid(&self) -> Ulid {
        self.0
    }

    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, QueueError> {
        let raw: [u8; 16] =
            bytes.try_into().map_err(|_| QueueError::Corrupt { what: "a job id that is not 16 bytes" })?;
        Ok(Self(Ulid::from_bytes(raw)))
    }
}

impl From<Ulid> for JobId {
    fn from(ulid: Ulid) -> Self {
        Self(ulid)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = QueueError;

    fn from_str(text: &str) -> Result<Self, QueueError> {
        Ulid::from_str(text).map(Self).map_err(|_| QueueError::InvalidId { text: text.to_owned() })
    }
}
