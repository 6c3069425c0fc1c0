//! From a channel to one connection: join, read what was before, go live without a hole or a repetition.

use super::{
    close::Close,
    encode::{Encoding, Form, Parsed},
    frame::Frame,
    hub::Membership,
    options::Dialect,
    session::{Session, unavailable},
};
use oneiro_core::clock;
use oneiro_events::{ChannelName, Position, Publication};

/// Publications read per step: what a connection holds, beyond its queue, while its client is slow to take the past. At most 64 KiB each.
pub(crate) const PAGE: u64 = 64;
/// Reads before live delivery begins all the same: only a channel that changes its epoch meanwhile gets there.
const MAX_CATCH_UPS: usize = 1_000;

impl Session {
    /// Joins a channel, held. Redis that does not answer ends the connection: the client comes back, perhaps to a process that is better off.
    pub(crate) async fn join(&self, channel: &ChannelName, form: Form) -> Result<(Membership, Position), Close> {
        self.ctx.hub.join(channel, &self.conn, self.encoding(form)).await.map_err(|error| unavailable(&error))
    }

    /// Sends what a channel stored after `since`, and begins live delivery without a hole or a repetition.
    pub(crate) async fn catch_up(
        &self,
        membership: &Membership,
        encoding: Encoding,
        since: Position,
    ) -> Result<(), Close> {
        if membership.go_live(&since) { Ok(()) } else { Box::pin(self.chase(membership, encoding, since)).await }
    }

    async fn chase(&self, membership: &Membership, encoding: Encoding, since: Position) -> Result<(), Close> {
        let mut sent = since;
        for _ in 0..MAX_CATCH_UPS {
            let channel = membership.channel();
            let history = self.page_of_what_is_left(channel, &sent, self.options.with_position).await?;
            if !history.is_complete && self.dialect == Dialect::Dream {
                self.send_snapshot_of(channel).await?;
            }
            self.send_publications(&history.publications, encoding, |_| true).await;
            sent = match history.publications.last().and_then(|last| last.position.clone()) {
                Some(last) => last,
                None => history.position,
            };
            if membership.go_live(&sent) {
                return Ok(());
            }
        }
        membership.go_live_now();
        Ok(())
    }

    /// Sends events of the past, as fast as the client takes them.
    pub(crate) async fn send_publications(
        &self,
        publications: &[Publication],
        encoding: Encoding,
        mut wanted: impl FnMut(&Parsed<'_>) -> bool + Send,
    ) -> u64 {
        let now = clock::unix_millis();
        let mut count = 0;
        for publication in publications {
            let mut wanted =
                |event: &Parsed<'_>| self.is_for_me(event) && self.conn.hears(event.kind()) && wanted(event);
            let Some(frame) = frame_of(publication, encoding, now, &mut wanted) else { continue };
            self.conn.outbox.room_for(&frame).await;
            self.conn.outbox.push(frame);
            count += 1;
        }
        count
    }

    /// Nobody is told what they themselves did, neither live nor later.
    pub(crate) fn is_for_me(&self, event: &Parsed<'_>) -> bool {
        event.author().is_none_or(|author| self.conn.user().is_none_or(|user| user.as_str() != author))
    }

    pub(crate) async fn on_gaps(&mut self, channels: Vec<ChannelName>) -> Result<(), Close> {
        for channel in channels {
            // All that was dispatched up to here is queued already, so this is a place to resume from.
            let joined = self.memberships.iter_mut().find(|joined| *joined.membership.channel() == channel);
            let Some(joined) = joined else { continue };
            let position = joined.membership.position();
            // What the gap covers was not sent: a client that asks for it is not to be told that it was.
            joined.live_from = position.clone();
            if self.options.with_position {
                self.send_resume_failed(&channel, &position);
            }
            if self.dialect == Dialect::Dream {
                self.send_snapshot_of(&channel).await?;
            }
        }
        Ok(())
    }
}

/// The event's frame, unless its time is over or the connection does not want it.
pub(crate) fn frame_of(
    publication: &Publication,
    encoding: Encoding,
    now_ms: u64,
    wanted: &mut impl FnMut(&Parsed<'_>) -> bool,
) -> Option<Frame> {
    let parsed = Parsed::new(publication);
    let is_current = parsed.expires_at_ms().is_none_or(|end| end > now_ms);
    if is_current && wanted(&parsed) { parsed.encode(encoding) } else { None }
}
