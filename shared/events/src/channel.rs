//! The vocabulary of a channel: its name, the place of an event in it, and the event itself.

use crate::EventError;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{
    borrow::Borrow,
    fmt,
    str::FromStr,
    sync::{Arc, LazyLock},
};

/// Longest channel name, in bytes: long enough for a kind, two ids and a tenant, short enough to be a key.
pub const MAX_CHANNEL_BYTES: usize = 128;

/// A channel's name: 1 to 128 of `A-Z a-z 0-9 _ . : -`. It is the Redis pub/sub channel as it stands. Cheap to clone.
///
/// ```
/// let channel: oneiro_events::ChannelName = "dream_images_123".parse()?;
/// assert_eq!(channel.as_str(), "dream_images_123");
/// assert!("two words".parse::<oneiro_events::ChannelName>().is_err());
/// # Ok::<(), oneiro_events::EventError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

impl ChannelName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ChannelName {
    type Err = EventError;

    fn from_str(name: &str) -> Result<Self, EventError> {
        let is_valid = (1..=MAX_CHANNEL_BYTES).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte));
        if is_valid {
            Ok(Self(name.into()))
        } else {
            Err(EventError::InvalidChannel(name.chars().take(MAX_CHANNEL_BYTES).collect()))
        }
    }
}

impl TryFrom<&str> for ChannelName {
    type Error = EventError;

    fn try_from(name: &str) -> Result<Self, EventError> {
        name.parse()
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Serialize for ChannelName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ChannelName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

/// One unbroken numbering of a channel. A channel that Redis forgot begins a new epoch, so that its offsets are never taken
/// for the old ones. Empty for a channel on which nothing was ever stored. Cheap to clone, and one word: a connection holds a dozen of them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Epoch(Arc<Box<str>>);

/// Shared by all channels that never stored anything, as most have not.
static NO_EPOCH: LazyLock<Arc<Box<str>>> = LazyLock::new(Arc::default);

impl Epoch {
    /// The epoch's text: letters and digits, at most 32 bytes, or empty.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes an epoch as a client sent it back. `None` where it cannot be one of ours.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric())).then(|| match text {
            "" => Self(NO_EPOCH.clone()),
            text => Self(Arc::new(text.into())),
        })
    }

    pub(crate) fn fresh() -> Self {
        Self(Arc::new(format!("{:012x}", rand::random::<u64>() >> 16).into()))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Epoch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not an epoch"))
    }
}

/// The place of a stored event in its channel. Offsets begin at 1 and have no holes within an epoch; 0 stands before the first.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The numbering that `offset` belongs to.
    pub epoch: Epoch,
    /// 1 for the first event of the epoch.
    pub offset: u64,
}

impl Position {
    /// The place before anything was stored on a channel.
    pub fn origin() -> Self {
        Self { epoch: Epoch(NO_EPOCH.clone()), offset: 0 }
    }

    /// Whether nothing was ever stored before it.
    pub fn is_origin(&self) -> bool {
        self.offset == 0 && self.epoch.as_str().is_empty()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

impl FromStr for Position {
    type Err = EventError;

    /// Reads what `Display` writes, `epoch:offset`.
    fn from_str(text: &str) -> Result<Self, EventError> {
        let parse = || {
            let (epoch, offset) = text.split_once(':')?;
            Some(Self { epoch: Epoch::parse(epoch)?, offset: offset.parse().ok()? })
        };
        parse().ok_or(EventError::Corrupt("read a position"))
    }
}

/// One event as it travels. Cloning shares the payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publication {
    /// The channel it was published on.
    pub channel: ChannelName,
    /// Its place; `None` for a plain `PUBLISH`, which is live only.
    pub position: Option<Position>,
    /// The event, JSON by convention; this crate does not look inside.
    pub payload: Bytes,
}

/// What stands in front of a stored payload on the pub/sub channel: `#<epoch>:<offset>\n`. No JSON text begins with `#`, so a
/// plain `PUBLISH` by anybody is told apart from ours.
pub(crate) fn split_header(message: &Bytes) -> (Option<Position>, Bytes) {
    if message.first() != Some(&b'#') {
        return (None, message.clone());
    }
    // An epoch of 32 bytes and an offset of 20 digits fit; a line longer than that is not ours.
    let end = message.iter().take(64).position(|byte| *byte == b'\n');
    let position = end.and_then(|end| std::str::from_utf8(&message[1..end]).ok()).and_then(|text| text.parse().ok());
    match (end, position) {
        (Some(end), Some(position)) => (Some(position), message.slice(end + 1..)),
        _ => (None, message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_alphabet_and_length() {
        for name in ["a", "dream_images_1", "post:1.2-3", &"x".repeat(128)] {
            assert!(name.parse::<ChannelName>().is_ok(), "{name}");
        }
        for name in ["", "a b", "ü", "{a}", "a\n", &"x".repeat(129)] {
            assert!(name.parse::<ChannelName>().is_err(), "{name}");
        }
    }

    #[test]
    fn header_is_split_off_only_where_it_is_one() {
        let (position, payload) = split_header(&Bytes::from_static(b"#abc1:42\n{\"a\":1}"));
        assert_eq!(position.map(|p| p.to_string()).as_deref(), Some("abc1:42"));
        assert_eq!(&payload[..], b"{\"a\":1}");
        for plain in ["{\"a\":1}", "#no header", "#a:b\n{}", "", "#"] {
            let (position, payload) = split_header(&Bytes::copy_from_slice(plain.as_bytes()));
            assert_eq!((position, &payload[..]), (None, plain.as_bytes()));
        }
    }
}
