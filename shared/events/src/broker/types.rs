//! What a broker takes and gives.

use crate::{Position, Publication};
use bytes::Bytes;
use std::time::Duration;

/// How a broker keeps what it publishes.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Put in front of every key, so that several installations share a Redis. Default `oneiro:ev`.
    pub key_prefix: String,
    /// Publications retained per channel, roughly (Redis trims whole nodes of about 100). From 1; default 1,000.
    pub history_len: u64,
    /// How long a silent channel's publications stay. From 1 ms; default 24 h.
    pub history_ttl: Duration,
    /// How long the numbering of a silent channel without a document is remembered. At least `history_ttl`; default 7 days. When
    /// it ends, the next publication begins a new epoch.
    pub meta_ttl: Duration,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { key_prefix: "oneiro:ev".to_owned(), history_len: 1_000, history_ttl: DAY, meta_ttl: 7 * DAY }
    }
}

/// How long one publication's channel is kept, where it differs from the broker's options.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// See [`BrokerOptions::history_len`].
    pub history_len: u64,
    /// See [`BrokerOptions::history_ttl`].
    pub history_ttl: Duration,
}

/// The state that a channel's events tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Grows by one with every commit. It starts at 1, and never repeats for as long as Redis remembers the channel.
    pub revision: u64,
    /// The state as its writer stored it.
    pub body: Bytes,
}

/// A change of a channel's document, with the event that tells it.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    /// The revision that the caller read; `None`: the document must not exist.
    pub expected: Option<u64>,
    /// The new state; `None` deletes the document.
    pub body: Option<&'a [u8]>,
    /// Published in the same step; `None`: a silent change.
    pub event: Option<&'a [u8]>,
    /// How long the document lives from now on; `None`: for ever. Meaningless with `body: None`.
    pub expire_after: Option<Duration>,
}

/// What a commit made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The document's revision now.
    pub revision: u64,
    /// Where the event stands; `None` without one.
    pub position: Option<Position>,
}

/// A part of a channel's past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// In order of offset, without a hole.
    pub publications: Vec<Publication>,
    /// The channel's end at the time of reading. Later than the last of `publications` where the limit cut the list off: ask again from there.
    pub position: Position,
    /// Whether nothing between `since` and the first of `publications` is lost. False after trimming and for another epoch, and then
    /// `publications` is empty: only the present state can be told.
    pub is_complete: bool,
}
