//! What a client missed, and what was: resuming from a position, and looking back.

use super::{
    channels::{Joined, form_of},
    close::Close,
    encode::{Encoding, Parsed, position_members},
    fields::{Fields, ObjectWriter, extend_object},
    messages::ErrorCode,
    outbox::Origin,
    session::{Session, unavailable},
};
use oneiro_core::dreams::Dream;
use oneiro_events::{ChannelName, Epoch, Position};

/// Events in one `history` answer, unless fewer were asked for.
const MAX_HISTORY: u64 = 100;

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
        let (channel, form, live_from) = {
            let joined = &self.memberships[index];
            (joined.membership.channel().clone(), joined.form, joined.live_from.clone())
        };
        let history = self.history(&channel, &since).await?;
        let Some((missed, _)) = history else {
            self.send_resume_failed(&channel, &self.end_of(&channel).await?);
            return self.send_snapshot_of(&channel).await;
        };
        // What live delivery has sent already is not sent again.
        let missed: Vec<_> = missed
            .into_iter()
            .filter(|p| p.position.as_ref().is_some_and(|position| position.offset <= live_from.offset))
            .collect();
        self.send_resumed(&channel, &live_from, missed.len() as u64);
        self.send_publications(&missed, self.encoding(form), |_| true).await;
        if since.offset < live_from.offset {
            self.memberships[index].live_from = since;
        }
        Ok(())
    }

    /// The named channel, else the one that this epoch belongs to, else the connection's first.
    fn resumed_channel(&self, name: Option<&str>, since: &Position) -> Option<usize> {
        let by = |wanted: &dyn Fn(&Joined) -> bool| self.memberships.iter().position(wanted);
        match name {
            Some(name) => by(&|joined| joined.membership.channel().as_str() == name),
            None => by(&|joined| joined.live_from.epoch == since.epoch).or(if self.memberships.is_empty() {
                None
            } else {
                Some(0)
            }),
        }
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
        match self.history(channel, &since).await? {
            Some((missed, end)) => {
                self.send_resumed(channel, &end, missed.len() as u64);
                let sent = self.send_publications(&missed, encoding, |_| true).await;
                if let Some((dream, position)) = state.filter(|_| sent == 0) {
                    self.send_update(dream, Some(position));
                }
                metrics::counter!("oneiro_ws_resumes_total", "outcome" => "resumed").increment(1);
                Ok(end)
            }
            None => {
                metrics::counter!("oneiro_ws_resumes_total", "outcome" => "failed").increment(1);
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

    /// Everything after `since` and where it ends; `None` where some of it is lost.
    async fn history(
        &self,
        channel: &ChannelName,
        since: &Position,
    ) -> Result<Option<(Vec<oneiro_events::Publication>, Position)>, Close> {
        let mut all: Vec<oneiro_events::Publication> = Vec::new();
        let mut from = since.clone();
        loop {
            let page = self
                .ctx
                .broker
                .history(channel, Some(&from), oneiro_events::MAX_HISTORY_PAGE)
                .await
                .map_err(|error| unavailable(&error))?;
            if !page.is_complete {
                return Ok(None);
            }
            all.extend(page.publications);
            match all.last().and_then(|last| last.position.clone()) {
                Some(last) if last.offset < page.position.offset => from = last,
                _ => return Ok(Some((all, page.position))),
            }
        }
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
        let events: Vec<String> = history
            .publications
            .iter()
            .filter_map(|publication| {
                let frame = Parsed::new(publication).encode(encoding)?;
                let position = publication.position.clone()?;
                let members = position_members(&Origin { channel: channel.clone(), position });
                String::from_utf8(extend_object(&frame.json(), &members)).ok()
            })
            .collect();
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
