//! Ids of dreams and images: positive integers below 2^53, so that JavaScript holds them exactly.

use oneiro_events::ChannelName;
use serde::{Deserialize, Serialize};
use std::fmt;

const LIMIT: u64 = 1 << 53;

/// A dream's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DreamId(u64);

/// An image's id, unique among all images and stable for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(u64);

impl DreamId {
    /// Wraps a number from 1 to 2^53 - 1.
    pub fn new(id: u64) -> Option<Self> {
        (1..LIMIT).contains(&id).then_some(Self(id))
    }

    /// Reads the canonical decimal form: no sign, no leading zero, no blanks.
    pub fn parse(text: &str) -> Option<Self> {
        parse(text).and_then(Self::new)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The channel that tells this dream's states: `dream_images_{id}`, the group name of the seeds.
    pub fn channel(self) -> ChannelName {
        format!("dream_images_{}", self.0).parse().expect("letters, digits and underscores make a channel name")
    }
}

impl ImageId {
    /// Wraps a number from 1 to 2^53 - 1.
    pub fn new(id: u64) -> Option<Self> {
        (1..LIMIT).contains(&id).then_some(Self(id))
    }

    /// Reads the canonical decimal form.
    pub fn parse(text: &str) -> Option<Self> {
        parse(text).and_then(Self::new)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for DreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn parse(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if canonical { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_positive_ids_are_read() {
        assert_eq!(DreamId::parse("123").map(DreamId::get), Some(123));
        for bad in ["", "0", "01", "-1", "+1", " 1", "1 ", "1.0", "9007199254740992", "99999999999999999999", "１", "a"]
        {
            assert_eq!(DreamId::parse(bad), None, "{bad}");
        }
    }
}
