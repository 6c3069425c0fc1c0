//! What waits for a user who is away: the user's channel is stored, and a cursor per dialect tells how far its connections have read it.
//!
//! Without acknowledgements the cursor follows what was written to a socket, flushed twice a second and when a connection ends, so a process
//! that is killed may deliver the last half second again. With them (`?acks=1`, or a first `ack`) only the client moves it.

use super::{
    SocketContext,
    channels::Joined,
    close::Close,
    conn::Conn,
    encode::{Encoding, Form, Kind, Parsed},
    fields::Fields,
    handshake::Caller,
    messages::ErrorCode,
    options::Dialect,
    session::{Session, unavailable},
};
use futures::{StreamExt, stream};
use oneiro_events::{ChannelName, Position};
use parking_lot::Mutex;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::time::timeout;

const FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// Cursors stored at the same time.
const FLUSHES_IN_FLIGHT: usize = 64;
/// How long one may take; it is tried again with the next round. In a cluster, one shard's silence must not hold up the cursors of the others.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// One connection's reading of its user's channel.
pub(crate) struct Cursor {
    pub(crate) channel: ChannelName,
    reader: &'static str,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    read: Option<Position>,
    is_flushed: bool,
    needs_acks: bool,
}

impl Cursor {
    /// Notes that an event of the channel was written to the socket.
    pub(crate) fn note_written(&self, position: Position) {
        let mut state = self.state.lock();
        if !state.needs_acks {
            state.read = Some(position);
            state.is_flushed = false;
        }
    }

    /// Notes that nothing up to `end` waits for this reader.
    pub(crate) fn pass(&self, end: Position) {
        let mut state = self.state.lock();
        state.read = Some(end);
        state.is_flushed = false;
    }

    fn acknowledge(&self, position: Option<Position>) {
        let mut state = self.state.lock();
        if !state.needs_acks {
            // What was written without an acknowledgement is not read, as far as it is not flushed yet.
            *state = State { needs_acks: true, ..State::default() };
        }
        if let Some(position) = position {
            state.read = Some(position);
            state.is_flushed = false;
        }
    }

    fn is_unflushed(&self) -> bool {
        let state = self.state.lock();
        !state.is_flushed && state.read.is_some()
    }

    fn take_unflushed(&self) -> Option<Position> {
        let mut state = self.state.lock();
        if state.is_flushed {
            return None;
        }
        state.is_flushed = true;
        state.read.clone()
    }

    fn put_back(&self) {
        self.state.lock().is_flushed = false;
    }
}

/// The cursors of this process's connections.
#[derive(Default)]
pub(crate) struct Cursors(Mutex<Vec<Weak<Cursor>>>);

impl Cursors {
    fn add(&self, cursor: &Arc<Cursor>) {
        self.0.lock().push(Arc::downgrade(cursor));
    }

    /// Those that have moved since they were stored: few of the many that there are.
    fn unflushed(&self) -> Vec<Arc<Cursor>> {
        let mut cursors = self.0.lock();
        cursors.retain(|cursor| cursor.strong_count() > 0);
        cursors.iter().filter_map(Weak::upgrade).filter(|cursor| cursor.is_unflushed()).collect()
    }
}

impl SocketContext {
    /// From now on `conn` reads the inbox, as `dialect` does; of that dialect's cursor there is one, whoever moves it.
    pub(crate) fn read_inbox(
        &self,
        conn: &Conn,
        channel: &ChannelName,
        dialect: Dialect,
        needs_acks: bool,
    ) -> Arc<Cursor> {
        let cursor = Cursor { channel: channel.clone(), reader: dialect.label(), state: Mutex::default() };
        let cursor = conn.inbox.get_or_init(|| Arc::new(cursor)).clone();
        if needs_acks {
            cursor.acknowledge(None);
        }
        self.cursors.add(&cursor);
        cursor
    }

    /// Flushes cursors until the process ends.
    pub(crate) async fn flush_cursors(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(FLUSH_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let flushing =
                stream::iter(self.cursors.unflushed()).for_each_concurrent(FLUSHES_IN_FLIGHT, async |cursor| {
                    if timeout(FLUSH_PATIENCE, self.flush_cursor(&cursor)).await.is_err() {
                        cursor.put_back();
                    }
                });
            flushing.await;
        }
    }

    pub(crate) async fn flush_cursor(&self, cursor: &Cursor) {
        let Some(position) = cursor.take_unflushed() else { return };
        let ttl = Duration::from_secs(self.settings.inbox_seconds);
        let storing = Box::pin(self.broker.advance_cursor(&cursor.channel, cursor.reader, &position, ttl));
        if let Err(error) = storing.await {
            tracing::debug!(error = crate::error::report(&error), "a cursor is not stored yet");
            cursor.put_back();
        }
    }
}

impl Session {
    /// Joins the user's channel, and sends what came since a connection of this dialect last read it.
    pub(crate) async fn join_inbox(&mut self, channel: &ChannelName, form: Form) -> Result<(), Close> {
        let (membership, end) = self.join(channel, form).await?;
        let needs_acks = self.opening.as_ref().is_some_and(|opening| wants_acks(&opening.caller));
        if needs_acks {
            self.show_positions();
        }
        let cursor = self.ctx.read_inbox(&self.conn, channel, self.dialect, needs_acks);
        let encoding = self.encoding(form);
        membership.set_encoding(encoding);
        let live_from = match self.take_resume() {
            Some(since) => match Box::pin(self.replay(channel, &since, None, encoding)).await? {
                Some((_, end)) => end,
                // What is lost is said, and what is left of it delivered.
                None => Box::pin(self.deliver_missed(channel, encoding, since, None)).await?.1,
            },
            // Most users have nothing waiting, and then nothing is read.
            None if end.is_origin() => end,
            None => Box::pin(self.deliver_unread(&cursor, encoding, end)).await?,
        };
        self.catch_up(&membership, encoding, live_from.clone()).await?;
        self.memberships.push(Joined { membership, form, live_from, is_own: true });
        Ok(())
    }

    /// `end`: where the channel stood when it was joined.
    async fn deliver_unread(&self, cursor: &Cursor, encoding: Encoding, end: Position) -> Result<Position, Close> {
        let read = self.ctx.broker.cursor(&cursor.channel, cursor.reader).await.map_err(|error| unavailable(&error))?;
        let since = read.unwrap_or_else(Position::origin);
        if since == end {
            return Ok(end);
        }
        let (sent, read_to) = self.deliver_missed(&cursor.channel, encoding, since, Some(&end)).await?;
        if sent == 0 {
            // There is nothing whose writing or acknowledgement would move it.
            cursor.pass(read_to.clone());
        }
        Ok(read_to)
    }

    /// Sends what is left of the user's channel after `since`: how many frames, and to where. To a client that resumes all of it, and where some is
    /// gone, that is said; to another what waits for users, and all that came since it `joined`.
    async fn deliver_missed(
        &self,
        channel: &ChannelName,
        encoding: Encoding,
        mut since: Position,
        joined: Option<&Position>,
    ) -> Result<(u64, Position), Close> {
        let wanted = |event: &Parsed<'_>| joined.is_none_or(|joined| waits_for_users(event) || event.is_behind(joined));
        let mut count = 0;
        loop {
            let page = self.page_of_what_is_left(channel, &since, joined.is_none()).await?;
            let sent = self.send_publications(&page.publications, encoding, wanted).await;
            metrics::counter!("oneiro_ws_inbox_delivered_total").increment(sent);
            count += sent;
            match page.publications.last().and_then(|last| last.position.clone()) {
                Some(last) if last.offset < page.position.offset => since = last,
                _ => return Ok((count, page.position)),
            }
        }
    }

    pub(crate) async fn on_ack(&mut self, message: &Fields<'_>) -> Result<(), Close> {
        let Some(offset) = message.get::<u64>("seq") else {
            self.send_error(ErrorCode::InvalidMessage, "`seq` must be a number");
            return Ok(());
        };
        self.show_positions();
        let Some(cursor) = self.conn.inbox.get() else { return Ok(()) };
        // Only the inbox waits for acknowledgements; another channel's numbers say nothing about it.
        if message.text("channel").is_some_and(|channel| channel != cursor.channel.as_str()) {
            return Ok(());
        }
        let joined = self.memberships.iter().find(|joined| *joined.membership.channel() == cursor.channel);
        let Some(epoch) = joined.map(|joined| joined.membership.position().epoch) else { return Ok(()) };
        let end = joined.map_or(0, |joined| joined.membership.position().offset);
        // Nothing can be acknowledged that was not sent.
        cursor.acknowledge(Some(Position { epoch, offset: offset.min(end) }));
        Ok(())
    }
}

/// Whether only acknowledgements are to move the inbox on.
pub(crate) fn wants_acks(caller: &Caller) -> bool {
    caller.parameter("acks").is_some_and(|value| value == "1")
}

/// Whether an event is worth delivering late.
pub(crate) fn waits_for_users(event: &Parsed<'_>) -> bool {
    event.kind() != Kind::Other || event.is_chat()
}
