//! Names that become parts of Redis keys.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::QueueError;

/// Longest queue or kind name in bytes: it is part of every key, so it costs memory.
const NAME_MAX: usize = 64;

/// The name of a queue: 1 to 64 of `A-Z a-z 0-9 _ . -`.
///
/// # Examples
/// ```
/// use apalis_fred::QueueName;
/// assert!("images".parse::<QueueName>().is_ok());
/// assert!("with space".parse::<QueueName>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueueName(String);

impl QueueName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether `text` may name a queue or a kind: such a name needs no escaping in a key and cannot break a hash tag.
pub(crate) fn is_plain_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NAME_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl TryFrom<&str> for QueueName {
    type Error = QueueError;

    fn try_from(text: &str) -> Result<Self, QueueError> {
        if is_plain_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(QueueError::InvalidName { name: text.to_owned() })
        }
    }
}

impl TryFrom<String> for QueueName {
    type Error = QueueError;

    fn try_from(text: String) -> Result<Self, QueueError> {
        Self::try_from(text.as_str())
    }
}

impl FromStr for QueueName {
    type Err = QueueError;

    fn from_str(text: &str) -> Result<Self, QueueError> {
        Self::try_from(text)
    }
}

impl From<QueueName> for String {
    fn from(name: QueueName) -> Self {
        name.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
