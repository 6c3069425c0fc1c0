//! Dialect N, `/ws/notifications/`: a user's notifications, orders and materials, and alerts for all.

use super::{
    channels::{Joined, SHARED_NAMES, user_channel},
    close::Close,
    encode::Form,
    session::{Session, unavailable},
};

impl Session {
    /// After the token: the user's own channel and everybody's. There is no greeting; the seed has none.
    pub(crate) async fn enter_notifications(&mut self) -> Result<(), Close> {
        // Room for these and no more: most connections stay with them.
        self.memberships.reserve_exact(SHARED_NAMES.len() + 1);
        for channel in SHARED_NAMES.iter() {
            self.join_own(channel, Form::Notifications).await?;
        }
        let own = user_channel(&self.claims()?.user_id);
        self.join_inbox(&own, Form::Notifications).await
    }

    /// Joins a channel that the connection comes with, live from now on.
    pub(crate) async fn join_own(&mut self, channel: &oneiro_events::ChannelName, form: Form) -> Result<(), Close> {
        let joined = self.ctx.hub.join_live(channel, &self.conn, self.encoding(form)).await;
        let (membership, live_from) = joined.map_err(|error| unavailable(&error))?;
        self.memberships.push(Joined { membership, form, live_from, is_own: true });
        Ok(())
    }
}
