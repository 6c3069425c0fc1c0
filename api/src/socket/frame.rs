//! What is sent to a connection, as bytes for the socket and as what the queue needs to know of it.

use super::framing;
use bytes::Bytes;
use oneiro_events::{ChannelName, Position};
use std::sync::Arc;

/// A frame ready for the socket, made once and shared by all who get it.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// WebSocket header and text.
    pub(crate) bytes: Bytes,
    /// Length of the header in `bytes`; what follows is the JSON text.
    pub(crate) header: u8,
    /// Frames with the same key tell the state of the same thing: the later replaces the earlier. 0: every one counts.
    pub(crate) state_key: u64,
    /// When its event was published, in Unix milliseconds by the publisher's clock; 0: not told.
    pub(crate) published_ms: u64,
    /// The stored event it tells, if it tells one.
    pub(crate) origin: Option<Arc<Origin>>,
}

/// Where a stored event stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) channel: ChannelName,
    pub(crate) position: Position,
}

impl Frame {
    /// A frame of its own: an answer, a heartbeat.
    pub(crate) fn reply(json: &[u8]) -> Self {
        Self::stated(json, 0)
    }

    pub(crate) fn stated(json: &[u8], state_key: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "a header has at most ten bytes")]
        let header = framing::header_len(json.len()) as u8;
        Self { bytes: framing::text(json), header, state_key, published_ms: 0, origin: None }
    }

    /// A control frame.
    pub(crate) fn control(bytes: Bytes) -> Self {
        Self { bytes, header: 0, state_key: 0, published_ms: 0, origin: None }
    }

    /// The JSON text.
    pub(crate) fn json(&self) -> Bytes {
        self.bytes.slice(usize::from(self.header)..)
    }
}
