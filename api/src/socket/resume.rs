//! What a client missed, and what was: resuming from a position, and looking back.

use super::{
    channels::{Joined, form_of},
    close::Close,
    delivery::{PAGE, frame_of},
    encode::{Encoding, position_members},
    fields::{Fields, ObjectWriter, extend_object},
    frame::{Frame, Origin},
    messages::ErrorCode,
    session::{Session, unavailable},
};
use oneiro_core::{clock, dreams::Dream};
use oneiro_events::{ChannelName, Epoch, History, Position, Publication};

/// Events in one `history` answer, unless fewer were asked for.
const MAX_HISTORY: u64 = 100;

fn count(outcome: &'static str) {
    metrics::counter!("oneiro_ws_resumes_total", "outcome" => outcome).increment(1);
}

impl Session {
    /// `resume` in the midst of a connection: what was missed before it began to deliver.
    pub(crate) async fn on_resume(&mut self, message: &Fields<'_>) -> Result<(), Close> {
        let position = message.text("epoch").as_deref().and_then(Epoch::parse).zip(message.get::<u64>("seq"));
        let Some((epoch, offset)) = position else {
            self.send_error(ErrorCode::InvalidMessage, "`resume` needs `epoch` and `seq`");
            return Ok(());
        };
        let since = Position { epoch, offset };
        self.show_positions();
        let Some(index) = self.resumed_channel(message.text("channel").as_deref(), &since) else {
            self.send_error(ErrorCode::NotSubscribed, "this connection has no such channel");
            return Ok(());
        };
        self.resume_joined(index, since).await
    }

    /// Sends what a channel of this connection stored behind `since` and before live delivery began.
    pub(crate) async fn resume_joined(&mut self, index: usize, since: Position) -> Result<(), Close> {
        let joined = &self.memberships[index];
        let (channel, live_from) = (joined.membership.channel().clone(), joined.live_from.clone());
        // What live delivery has sent already is not sent again.
        let until = joined.membership.is_attached().then_some(&live_from);
        if until == Some(&since) {
            // Nothing came between. Everybody asks for several channels when they come back, and of most this is so.
            count("resumed");
            self.send_resumed(&channel, &since, 0);
            return Ok(());
        }
        let replayed = self.replay(&channel, &since, until, self.encoding(joined.form)).await?;
        if replayed.is_none() {
            self.send_resume_failed(&channel, &self.end_of(&channel).await?);
            return self.send_snapshot_of(&channel).await;
        }
        if since.offset < live_from.offset {
            self.memberships[index].live_from = since;
        }
        Ok(())
    }

    /// The named channel, else the one that this epoch belongs to, else the connection's own: the user's, or the dream's.
    fn resumed_channel(&self, name: Option<&str>, since: &Position) -> Option<usize> {
        let by = |wanted: &dyn Fn(&Joined) -> bool| self.memberships.iter().position(wanted);
        if let Some(name) = name {
            return by(&|joined| joined.membership.channel().as_str() == name);
        }
        // Channels without a past share the empty epoch, which tells nothing.
        let is_known = !since.epoch.as_str().is_empty();
        let inbox = self.conn.inbox.get().map(|cursor| &cursor.channel);
        by(&|joined| is_known && joined.live_from.epoch == since.epoch)
            .or_else(|| by(&|joined| inbox == Some(joined.membership.channel())))
            .or_else(|| by(&|joined| joined.is_own))
    }

    /// Sends what a joining connection missed since its last one; where that is lost, says so and sends the present state. Returns the place
    /// that live delivery follows.
    pub(crate) async fn resume(
        &self,
        channel: &ChannelName,
        since: Position,
        encoding: Encoding,
        state: Option<(&Dream, &Position)>,
    ) -> Result<Position, Close> {
        match self.replay(channel, &since, None, encoding).await? {
            Some((sent, end)) => {
                if let Some((dream, position)) = state.filter(|_| sent == 0) {
                    self.send_update(dream, Some(position));
                }
                Ok(end)
            }
            None => {
                let end = match state {
                    Some((_, position)) => position.clone(),
                    None => self.end_of(channel).await?,
                };
                self.send_resume_failed(channel, &end);
                if let Some((dream, position)) = state {
                    self.send_update(dream, Some(position));
                }
                Ok(end)
            }
        }
    }

    /// Tells `resumed` and sends what a channel stored after `since`, up to `until` or to its present end: page by page, as fast as the
    /// client takes it. How many frames that were, and where it ended; `None`, and nothing is sent, where some of it is lost.
    pub(crate) async fn replay(
        &self,
        channel: &ChannelName,
        since: &Position,
        until: Option<&Position>,
        encoding: Encoding,
    ) -> Result<Option<(u64, Position)>, Close> {
        let mut page = self.page(channel, since).await?;
        if !page.is_complete {
            count("failed");
            return Ok(None);
        }
        count("resumed");
        let end = until.unwrap_or(&page.position).clone();
        // Offsets have no holes.
        self.send_resumed(channel, &end, end.offset.saturating_sub(since.offset));
        let mut sent = 0;
        loop {
            page.publications.retain(|event| event.position.as_ref().is_some_and(|at| at.offset <= end.offset));
            sent += self.send_publications(&page.publications, encoding, |_| true).await;
            let Some(last) = page.publications.pop().and_then(|last| last.position) else { break };
            if last.offset >= end.offset {
                break;
            }
            page = self.page_of_what_is_left(channel, &last, true).await?;
            if !page.is_complete {
                // Trimmed while the client took what came before.
                count("failed");
            }
        }
        Ok(Some((sent, end)))
    }

    async fn page(&self, channel: &ChannelName, since: &Position) -> Result<History, Close> {
        self.ctx.broker.history(channel, Some(since), PAGE).await.map_err(|error| unavailable(&error))
    }

    /// What a channel stored after `since`, one page of it. Where it is not complete, some of it is gone: then what is left, behind
    /// `resume_failed` if that is to be told.
    pub(crate) async fn page_of_what_is_left(
        &self,
        channel: &ChannelName,
        since: &Position,
        is_told: bool,
    ) -> Result<History, Close> {
        let page = self.page(channel, since).await?;
        if page.is_complete {
            return Ok(page);
        }
        let left = self.ctx.broker.oldest(channel, PAGE).await.map_err(|error| unavailable(&error))?;
        if is_told {
            let frame = Frame::reply(&resume_failed(channel, &before(&left)));
            // The queue may be full of what came before.
            self.conn.outbox.room_for(&frame).await;
            self.conn.outbox.push(frame);
        }
        Ok(History { is_complete: false, ..left })
    }

    async fn end_of(&self, channel: &ChannelName) -> Result<Position, Close> {
        self.ctx.broker.position(channel).await.map_err(|error| unavailable(&error))
    }

    fn send_resumed(&self, channel: &ChannelName, end: &Position, recovered: u64) {
        let mut frame = ObjectWriter::new();
        frame
            .value("type", &"resumed")
            .value("channel", channel)
            .value("epoch", &end.epoch)
            .value("seq", &end.offset)
            .value("recovered", &recovered);
        self.send(&frame.finish());
    }

    /// Tells that events are lost; whoever goes on from the position given here misses nothing more.
    pub(crate) fn send_resume_failed(&self, channel: &ChannelName, end: &Position) {
        self.send(&resume_failed(channel, end));
    }

    pub(crate) async fn on_history(&mut self, message: &Fields<'_>) -> Result<(), Close> {
        let Some(channel) = message.text("channel").and_then(|name| name.parse::<ChannelName>().ok()) else {
            self.send_error(ErrorCode::InvalidMessage, "`channel` must be a channel's name");
            return Ok(());
        };
        let is_joined = self.memberships.iter().any(|joined| *joined.membership.channel() == channel);
        if !is_joined && !self.may_read(&channel).await? {
            self.send_error(ErrorCode::Forbidden, "this channel is not yours to read");
            return Ok(());
        }
        let limit = message.get::<u64>("limit").unwrap_or(MAX_HISTORY).clamp(1, MAX_HISTORY);
        let history = self.ctx.broker.history(&channel, None, limit).await.map_err(|error| unavailable(&error))?;
        let known =
            self.memberships.iter().find(|joined| *joined.membership.channel() == channel).map(|joined| joined.form);
        let form = known.unwrap_or_else(|| form_of(&channel, self.dream_form()));
        let encoding = Encoding { form, with_position: false, with_progress: self.options.with_progress };
        let now = clock::unix_millis();
        let text = |publication: &Publication| {
            let frame = frame_of(publication, encoding, now, &mut |event| self.is_for_me(event))?;
            let position = publication.position.clone()?;
            let members = position_members(&Origin { channel: channel.clone(), position });
            String::from_utf8(extend_object(&frame.json(), &members)).ok()
        };
        // One frame must not fill the queue: of long events the newest are told.
        let mut room = self.ctx.settings.queue_bytes / 2;
        let fits = |event: &String| {
            let has_room = event.len() <= room;
            room = room.saturating_sub(event.len());
            has_room
        };
        let mut events: Vec<String> = history.publications.iter().rev().filter_map(text).take_while(fits).collect();
        events.reverse();
        let mut frame = ObjectWriter::new();
        frame
            .value("type", &"history")
            .value("channel", &channel)
            .value("epoch", &history.position.epoch)
            .value("seq", &history.position.offset)
            .raw("events", &format!("[{}]", events.join(",")));
        self.send(&frame.finish());
        Ok(())
    }
}

/// The place in front of a page's first event.
pub(crate) fn before(page: &History) -> Position {
    let first = page.publications.first().and_then(|first| first.position.as_ref());
    let offset = first.map_or(page.position.offset, |first| first.offset - 1);
    Position { epoch: page.position.epoch.clone(), offset }
}

/// What tells that events of a channel are lost, and from where it goes on.
pub(crate) fn resume_failed(channel: &ChannelName, end: &Position) -> Vec<u8> {
    let mut frame = ObjectWriter::new();
    frame
        .value("type", &"resume_failed")
        .value("channel", channel)
        .value("epoch", &end.epoch)
        .value("seq", &end.offset)
        .value("reason", &"history_lost");
    frame.finish()
}
