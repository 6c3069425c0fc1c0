//! Writing to channels and reading them back. Each operation is one atomic step in Redis.

use crate::{
    ChannelName, Epoch, EventError, Position, Publication, keys,
    script::Step,
    shards::{Renewals, Shards},
};
use bytes::Bytes;
use fred::{
    clients::Client,
    interfaces::{HashesInterface, PubsubInterface},
    types::Value,
};
use std::{sync::Arc, time::Duration};

mod read;
mod types;

pub(crate) use read::Read;
pub use types::{BrokerOptions, Commit, Committed, Document, History, Retention};

/// Most publications one [`Broker::history`] call returns: keeps a single Redis step short.
pub const MAX_HISTORY_PAGE: u64 = 1_000;

#[derive(Debug)]
struct Steps {
    publish: Step,
    commit: Step,
    history: Step,
    positions: Step,
    advance_cursor: Step,
}

/// Publishes on channels and reads their past. Cheap to clone; holds no state of its own.
///
/// ```no_run
/// # async fn example(client: fred::clients::Client) -> Result<(), oneiro_events::EventError> {
/// use oneiro_events::{Broker, BrokerOptions};
/// let broker = Broker::new(client, BrokerOptions::default());
/// let channel = "post_7".parse()?;
/// let position = broker.publish(&channel, br#"{"type":"edited"}"#).await?;
/// let later = broker.history(&channel, Some(&position), 100).await?;
/// assert!(later.is_complete);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Broker {
    shards: Shards,
    renewals: Arc<Renewals>,
    options: Arc<BrokerOptions>,
    steps: Arc<Steps>,
}

impl Broker {
    /// `client` is connected by the caller, who keeps its options (timeouts, attempts) and its end. Of a clustered one the settings are taken
    /// for a connection to each master, so that one that is away holds up no other, and it need not be connected.
    pub fn new(client: Client, options: BrokerOptions) -> Self {
        let renewals = Arc::new(Renewals::default());
        let shards = Shards::new(client, renewals.clone());
        let steps = Steps {
            publish: Step::publishing(
                concat!(include_str!("lua/channel.lua"), include_str!("lua/publish.lua")),
                "publish",
                &shards,
            ),
            commit: Step::publishing(
                concat!(include_str!("lua/channel.lua"), include_str!("lua/commit.lua")),
                "commit a document",
                &shards,
            ),
            history: Step::new(include_str!("lua/history.lua"), "read a channel's history"),
            positions: Step::new(include_str!("lua/positions.lua"), "read positions"),
            advance_cursor: Step::new(
                concat!(include_str!("lua/channel.lua"), include_str!("lua/advance_cursor.lua")),
                "advance a cursor",
            ),
        };
        Self { shards, renewals, options: Arc::new(options), steps: Arc::new(steps) }
    }

    /// The settings given to [`Broker::new`].
    pub fn options(&self) -> &BrokerOptions {
        &self.options
    }

    /// Whether Redis answers within `limit`; in a cluster, whether any shard does.
    pub async fn answers(&self, limit: Duration) -> bool {
        matches!(tokio::time::timeout(limit, self.shards.any_answers()).await, Ok(true))
    }

    /// Appends `payload` to the channel's history and delivers it to every subscriber, in one step.
    ///
    /// # Errors
    /// [`EventError::Redis`]; whether the event went out is then unknown. A call that the client itself repeats after a cut connection
    /// takes effect once, unless 25 others came between or a minute has passed.
    pub async fn publish(&self, channel: &ChannelName, payload: &[u8]) -> Result<Position, EventError> {
        let retention = Retention { history_len: self.options.history_len, history_ttl: self.options.history_ttl };
        self.publish_with(channel, payload, retention).await
    }

    /// [`Broker::publish`] with another retention than the broker's.
    ///
    /// # Errors
    /// As [`Broker::publish`].
    pub async fn publish_with(
        &self,
        channel: &ChannelName,
        payload: &[u8],
        retention: Retention,
    ) -> Result<Position, EventError> {
        let args = vec![
            Value::from(channel.as_str()),
            Value::Bytes(Bytes::copy_from_slice(payload)),
            Value::from(Epoch::fresh().as_str()),
            nonce(),
            Value::from(retention.history_len.max(1) as i64),
            millis(retention.history_ttl),
            millis(self.options.meta_ttl.max(retention.history_ttl)),
            Value::from(keys::cursors(&self.options.key_prefix, channel)),
        ];
        let (epoch, offset): (String, u64) =
            self.steps.publish.run(&self.shards, channel, &self.keys(channel), args).await?;
        position(&epoch, offset).ok_or(EventError::Corrupt("publish"))
    }

    /// Delivers `payload` to those who are subscribed now, and keeps nothing: for what is stale a moment later (typing, cursors). Returns how many
    /// connections got it, all of them that are connected to the Redis node that answers.
    ///
    /// # Errors
    /// [`EventError::Redis`].
    pub async fn notify(&self, channel: &ChannelName, payload: &[u8]) -> Result<u64, EventError> {
        let payload = &Value::Bytes(Bytes::copy_from_slice(payload));
        let is_sharded = self.shards.is_clustered();
        let publish = |client: Client| async move {
            match is_sharded {
                true => client.spublish(channel.as_str(), payload.clone()).await,
                false => client.publish(channel.as_str(), payload.clone()).await,
            }
        };
        self.shards.on(channel, "publish without history", publish).await
    }

    /// The publications after `since`, oldest first, at most `limit` (1 to [`MAX_HISTORY_PAGE`]). Without `since`: the latest `limit`.
    ///
    /// # Errors
    /// [`EventError::Redis`], [`EventError::Corrupt`].
    pub async fn history(
        &self,
        channel: &ChannelName,
        since: Option<&Position>,
        limit: u64,
    ) -> Result<History, EventError> {
        let first = since.map(|since| since.offset.saturating_add(1));
        let read = self.read(channel, first, limit).await?;
        let is_complete = since.is_none_or(|since| read.reaches_back_to(since));
        let publications = if is_complete { read.publications } else { Vec::new() };
        Ok(History { publications, position: read.position, is_complete })
    }

    /// The oldest publications that are retained, at most `limit` (1 to [`MAX_HISTORY_PAGE`]): where [`Broker::history`] says that some are lost,
    /// what is left begins here.
    ///
    /// # Errors
    /// [`EventError::Redis`], [`EventError::Corrupt`].
    pub async fn oldest(&self, channel: &ChannelName, limit: u64) -> Result<History, EventError> {
        let read = self.read(channel, Some(1), limit).await?;
        Ok(History { publications: read.publications, position: read.position, is_complete: true })
    }

    /// The channel's document, or `None`.
    ///
    /// # Errors
    /// [`EventError::Redis`], [`EventError::Corrupt`].
    pub async fn document(&self, channel: &ChannelName) -> Result<Option<Document>, EventError> {
        Ok(self.snapshot(channel).await?.0)
    }

    /// The document and the place in the history that it stands for, read in one step: what comes after that place is not in it yet.
    ///
    /// # Errors
    /// [`EventError::Redis`], [`EventError::Corrupt`].
    pub async fn snapshot(&self, channel: &ChannelName) -> Result<(Option<Document>, Position), EventError> {
        let reply = self.read_meta(channel, &["e", "o", "r", "b"], "read a document").await?;
        let [epoch, offset, revision, body] =
            <[Value; 4]>::try_from(reply).map_err(|_| EventError::Corrupt("read a document"))?;
        let position = stored_position(&epoch, &offset)?;
        let document = match into_bytes(body) {
            None => None,
            Some(body) => {
                Some(Document { revision: revision.as_u64().ok_or(EventError::Corrupt("read a document"))?, body })
            }
        };
        Ok((document, position))
    }

    /// The channel's end now.
    ///
    /// # Errors
    /// [`EventError::Redis`], [`EventError::Corrupt`].
    pub async fn position(&self, channel: &ChannelName) -> Result<Position, EventError> {
        let reply = self.read_meta(channel, &["e", "o"], "read a position").await?;
        match reply.as_slice() {
            [epoch, offset] => stored_position(epoch, offset),
            _ => Err(EventError::Corrupt("read a position")),
        }
    }

    async fn read_meta(
        &self,
        channel: &ChannelName,
        fields: &[&'static str],
        action: &'static str,
    ) -> Result<Vec<Value>, EventError> {
        let key = &keys::meta(&self.options.key_prefix, channel);
        let read = |client: Client| async move { client.hmget(key, fields.to_vec()).await };
        self.shards.on(channel, action, read).await
    }

    /// The ends of many channels, in their order, in one step: a fraction of what asking for each costs. Not in a cluster, whose shards hold some
    /// each. A channel that cannot be read has an error of its own.
    ///
    /// # Errors
    /// [`EventError::Redis`], [`EventError::Corrupt`].
    pub(crate) async fn positions(
        &self,
        channels: &[&ChannelName],
    ) -> Result<Vec<Result<Position, EventError>>, EventError> {
        const CORRUPT: EventError = EventError::Corrupt("read positions");
        let keys: Vec<String> = channels.iter().map(|channel| keys::meta(&self.options.key_prefix, channel)).collect();
        let found: Vec<Value> = self.steps.positions.run_unsharded(self.shards.whole(), &keys, Vec::new()).await?;
        let mut positions: Vec<_> = channels.iter().map(|_| Ok(Position::origin())).collect();
        for place in found.chunks(3) {
            let [number, epoch, offset] = place else { return Err(CORRUPT) };
            let index = number.as_usize().and_then(|number| number.checked_sub(1));
            let position = stored_position(epoch, offset)?;
            // A channel that stands at its origin is not told.
            *index.and_then(|index| positions.get_mut(index)).ok_or(CORRUPT)? =
                if position.is_origin() { Err(CORRUPT) } else { Ok(position) };
        }
        Ok(positions)
    }

    /// Changes the channel's document and publishes the event that tells it, in one step: no reader sees one without the other.
    ///
    /// # Errors
    /// [`EventError::Conflict`] when the document is not at `expected`: nothing changed. [`EventError::Redis`]: unknown whether it took
    /// effect. A call that the client itself repeats after a cut connection takes effect once.
    pub async fn commit(&self, channel: &ChannelName, commit: Commit<'_>) -> Result<Committed, EventError> {
        const EMPTY: &[u8] = b"";
        let flag = |is_set: bool| Value::from(if is_set { "1" } else { "0" });
        let bytes = |part: Option<&[u8]>| Value::Bytes(Bytes::copy_from_slice(part.unwrap_or(EMPTY)));
        let args = vec![
            Value::from(channel.as_str()),
            Value::from(commit.expected.map_or_else(String::new, |revision| revision.to_string())),
            nonce(),
            flag(commit.body.is_some()),
            bytes(commit.body),
            flag(commit.event.is_some()),
            bytes(commit.event),
            Value::from(Epoch::fresh().as_str()),
            Value::from(self.options.history_len.max(1) as i64),
            millis(self.options.history_ttl),
            millis(self.options.meta_ttl.max(self.options.history_ttl)),
            commit.expire_after.map_or_else(|| Value::from("0"), millis),
        ];
        let reply: Vec<Value> = self.steps.commit.run(&self.shards, channel, &self.keys(channel), args).await?;
        let corrupt = || EventError::Corrupt("commit a document");
        match reply.as_slice() {
            [Value::Integer(1), revision, epoch, offset] => {
                let position = if commit.event.is_some() { Some(stored_position(epoch, offset)?) } else { None };
                Ok(Committed { revision: revision.as_u64().ok_or_else(corrupt)?, position })
            }
            [Value::Integer(0), current] => Err(EventError::Conflict {
                channel: channel.clone(),
                expected: commit.expected,
                current: current.as_u64(),
            }),
            _ => Err(corrupt()),
        }
    }

    /// How far a named reader of the channel has come; `None` where it never read, or too long ago.
    ///
    /// # Errors
    /// [`EventError::Redis`].
    pub async fn cursor(&self, channel: &ChannelName, reader: &str) -> Result<Option<Position>, EventError> {
        let key = &keys::cursors(&self.options.key_prefix, channel);
        let read = |client: Client| async move { client.hget(key, reader).await };
        let place: Option<String> = self.shards.on(channel, "read a cursor", read).await?;
        Ok(place.and_then(|place| place.parse().ok()))
    }

    /// Notes that a named reader has come to `position`. Within an epoch a cursor never goes back. It is remembered for `ttl` at least, and as
    /// long as there are events to read.
    ///
    /// # Errors
    /// [`EventError::Redis`].
    pub async fn advance_cursor(
        &self,
        channel: &ChannelName,
        reader: &str,
        position: &Position,
        ttl: Duration,
    ) -> Result<(), EventError> {
        let args = vec![
            Value::from(reader),
            Value::from(position.epoch.as_str()),
            Value::from(position.offset.to_string()),
            millis(ttl),
        ];
        let [_, stream] = self.keys(channel);
        let keys = [keys::cursors(&self.options.key_prefix, channel), stream];
        self.steps.advance_cursor.run::<i64>(&self.shards, channel, &keys, args).await?;
        Ok(())
    }

    /// What stands from offset `first` on (without it: the latest), whether or not it belongs to the epoch that the caller knows.
    pub(crate) async fn read(&self, channel: &ChannelName, first: Option<u64>, limit: u64) -> Result<Read, EventError> {
        let args = vec![
            Value::from(first.map_or_else(String::new, |first| first.to_string())),
            Value::from(limit.clamp(1, MAX_HISTORY_PAGE) as i64),
        ];
        let reply: Vec<Value> = self.steps.history.run(&self.shards, channel, &self.keys(channel), args).await?;
        let corrupt = || EventError::Corrupt("read a channel's history");
        let [epoch, offset, first_retained, Value::Array(entries)] =
            <[Value; 4]>::try_from(reply).map_err(|_| corrupt())?
        else {
            return Err(corrupt());
        };
        let position = stored_position(&epoch, &offset)?;
        let mut publications = Vec::with_capacity(entries.len() / 2);
        let mut entries = entries.into_iter();
        while let (Some(offset), Some(payload)) = (entries.next(), entries.next()) {
            let offset = offset.as_u64().ok_or_else(corrupt)?;
            publications.push(Publication {
                channel: channel.clone(),
                position: Some(Position { epoch: position.epoch.clone(), offset }),
                payload: into_bytes(payload).ok_or_else(corrupt)?,
            });
        }
        Ok(Read { publications, position, first_retained: first_retained.as_u64() })
    }

    /// How often a connection was renewed; with the old one Redis may have lost its last writes.
    pub(crate) fn renewals(&self) -> u64 {
        self.renewals.count()
    }

    pub(crate) fn shards(&self) -> &Shards {
        &self.shards
    }

    fn keys(&self, channel: &ChannelName) -> [String; 2] {
        [keys::meta(&self.options.key_prefix, channel), keys::stream(&self.options.key_prefix, channel)]
    }
}

fn position(epoch: &str, offset: u64) -> Option<Position> {
    Some(Position { epoch: Epoch::parse(epoch)?, offset })
}

/// A position as the meta hash holds it; a channel that holds none stands at its origin.
pub(crate) fn stored_position(epoch: &Value, offset: &Value) -> Result<Position, EventError> {
    let Some(epoch) = epoch.as_str().filter(|epoch| !epoch.is_empty()) else {
        return Ok(Position::origin());
    };
    position(&epoch, offset.as_u64().unwrap_or(0)).ok_or(EventError::Corrupt("read a position"))
}

pub(crate) fn into_bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        Value::String(text) => Some(text.into_inner()),
        // The client turns bulk strings that look like numbers into numbers only on conversion, but a payload may be one byte.
        Value::Integer(number) => Some(Bytes::from(number.to_string())),
        _ => None,
    }
}

fn millis(duration: Duration) -> Value {
    Value::from(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1))
}

/// Tells one call from every other of its channel within a minute.
fn nonce() -> Value {
    Value::from(format!("{:012x}", rand::random::<u64>() >> 16))
}
