//! Dialect D, `/ws/dream-images/{id}/`: the state of one dream's images, from now until it is settled and beyond.

use super::{
    channels::Joined,
    close::Close,
    encode::{self, Form, Parsed},
    fields::{Fields, ObjectWriter},
    messages::ErrorCode,
    session::{Session, rejected},
};
use bytes::Bytes;
use oneiro_core::{
    config::IdForm,
    dreams::{Dream, DreamId, StoreError},
};
use oneiro_events::{ChannelName, Position, Publication};

/// The seeds' greeting: "connected, waiting for the state of the images".
const GREETING: &str = "连接已建立，等待图片处理状态更新";
const PREFIX: &str = "dream_images_";

impl Session {
    pub(crate) fn dream_form(&self) -> Form {
        if self.options.ids == IdForm::String { Form::DreamString } else { Form::DreamNumber }
    }

    /// After the first token: subscribe, then look at the dream, so that nothing falls in between.
    pub(crate) async fn enter_dream(&mut self) -> Result<(), Close> {
        let id = self.dream.ok_or(Close::FORBIDDEN)?;
        let form = self.dream_form();
        let (membership, _) = self.join(&id.channel(), form).await?;
        let (dream, position) = self.load_dream(id).await?;
        let dream = dream.ok_or_else(|| rejected("forbidden", Close::FORBIDDEN))?;
        self.send_hello(id);
        let since = match self.take_resume() {
            Some(since) => {
                self.resume(membership.channel(), since, self.encoding(form), Some((&dream, &position))).await?
            }
            None => {
                self.send_update(&dream, Some(&position));
                position
            }
        };
        self.catch_up(&membership, self.encoding(form), since.clone()).await?;
        self.memberships.push(Joined { membership, form, live_from: since, is_own: true });
        Ok(())
    }

    /// After a refresh: the same greeting and state, or the end where the dream is no longer the user's to see.
    pub(crate) async fn re_enter_dream(&mut self) -> Result<(), Close> {
        let id = self.dream.ok_or(Close::FORBIDDEN)?;
        let (dream, _) = self.load_dream(id).await?;
        let dream = dream.ok_or_else(|| rejected("forbidden", Close::FORBIDDEN))?;
        self.send_hello(id);
        self.send_update(&dream, None);
        Ok(())
    }

    /// The dream if this user may see it, and the place in its channel that it stands for. Somebody else's dream and none at all look alike.
    async fn load_dream(&self, id: DreamId) -> Result<(Option<Dream>, Position), Close> {
        let (dream, position) = self.ctx.dreams.snapshot(id).await.map_err(|error| store_failed(&error))?;
        let claims = self.claims()?;
        // One that was deleted is told as that, for as long as its last record is kept.
        Ok((dream.filter(|dream| dream.is_visible_to(claims)), position))
    }

    fn send_hello(&self, id: DreamId) {
        let mut frame = ObjectWriter::new();
        let is_string = self.options.ids != IdForm::Number;
        frame
            .value("type", &"connection_established")
            .raw("dream_id", &encode::dream_id(&id.to_string(), is_string))
            .value("message", &GREETING);
        self.send(&frame.finish());
    }

    /// Sends a dream's present state as the event that told it.
    pub(crate) fn send_update(&self, dream: &Dream, position: Option<&Position>) {
        let update = self.ctx.dreams.latest_update(dream);
        let payload = serde_json::to_vec(&update).expect("an event has only strings as map keys");
        let publication = Publication {
            channel: dream.id.channel(),
            position: position.filter(|p| p.offset > 0).cloned(),
            payload: Bytes::from(payload),
        };
        if let Some(frame) = Parsed::new(&publication).encode(self.encoding(self.dream_form())) {
            self.conn.outbox.push(frame);
        }
    }

    /// Sends the state of the dream whose channel this is; nothing for other channels and for dreams that are gone.
    pub(crate) async fn send_snapshot_of(&self, channel: &ChannelName) -> Result<(), Close> {
        let Some(id) = channel_dream(channel) else { return Ok(()) };
        if let (Some(dream), position) = self.load_dream(id).await? {
            self.send_update(&dream, Some(&position));
        }
        Ok(())
    }

    /// Whether this user may follow that dream.
    pub(crate) async fn may_see(&self, id: DreamId) -> Result<bool, Close> {
        Ok(self.load_dream(id).await?.0.is_some())
    }

    /// Messages that only this dialect knows. `false`: not one of them.
    pub(crate) async fn on_dream_message(&mut self, r#type: &str, message: &Fields<'_>) -> Result<bool, Close> {
        if r#type != "request_status" {
            return Ok(false);
        }
        let wanted = match message.raw("dream_id") {
            None => self.dream,
            Some(_) => message.id("dream_id").as_deref().and_then(DreamId::parse),
        };
        let Some(id) = wanted else {
            self.send_error(ErrorCode::InvalidMessage, "`dream_id` must be a positive integer");
            return Ok(true);
        };
        match self.load_dream(id).await? {
            (Some(dream), position) => self.send_update(&dream, Some(&position)),
            (None, _) => self.send_error(ErrorCode::Forbidden, &format!("dream {id} is not available to you")),
        }
        Ok(true)
    }
}

/// The dream whose channel this is.
pub(crate) fn channel_dream(channel: &ChannelName) -> Option<DreamId> {
    DreamId::parse(channel.as_str().strip_prefix(PREFIX)?)
}

fn store_failed(error: &StoreError) -> Close {
    match error {
        StoreError::Corrupt { .. } => {
            tracing::error!(error = crate::error::report(error), "a record cannot be read");
            Close::INTERNAL
        }
        StoreError::Unavailable(_) => {
            tracing::warn!(error = crate::error::report(error), "a socket cannot be served");
            Close::try_later(2 + rand::random::<u64>() % 4)
        }
        _ => Close::INTERNAL,
    }
}
