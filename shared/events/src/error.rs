//! What can go wrong between a caller and its channels.

/// Why an operation on a channel did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The name is not 1 to 128 of `A-Z a-z 0-9 _ . : -`.
    #[error("`{0}` is not a channel name (1 to 128 letters, digits, `_`, `.`, `:` or `-`)")]
    InvalidChannel(String),
    /// [`Commit::expected`](crate::Commit::expected) is not the document's revision: somebody else wrote first. Load and try again.
    #[error("the document of `{channel}` is at revision {current:?}, not {expected:?}")]
    Conflict {
        /// The channel.
        channel: crate::ChannelName,
        /// What the caller expected; `None`: no document.
        expected: Option<u64>,
        /// What is there; `None`: no document.
        current: Option<u64>,
    },
    /// Redis did not answer, or refused. Whether the operation took effect is unknown unless it is a read.
    #[error("failed to {action}")]
    Redis {
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// Redis's or the client's reason.
        #[source]
        source: fred::error::Error,
    },
    /// In a Redis Cluster: the shard that holds the channel is away, and nobody has taken its slots over. Other shards' channels go on.
    #[error("the shard of the cluster that holds `{0}` is away")]
    ShardAway(crate::ChannelName),
    /// The subscription did not become active within the limit; Redis is away. The attempt goes on in the background for others.
    #[error("the subscription to `{0}` did not become active in time")]
    SubscribeTimeout(crate::ChannelName),
    /// A reply or a stored entry does not have the expected shape: another program wrote to our keys.
    #[error("unexpected reply while trying to {0}")]
    Corrupt(&'static str),
}

impl EventError {
    /// Whether the same call may succeed later without a change by the caller.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Redis { .. } | Self::SubscribeTimeout(_) | Self::ShardAway(_))
    }

    pub(crate) fn redis(action: &'static str) -> impl FnOnce(fred::error::Error) -> Self {
        move |source| Self::Redis { action, source }
    }
}
