//! What any client may ask for on top of its dialect: joining and leaving channels.

use super::{
    access::{Access, access},
    close::Close,
    dream::channel_dream,
    encode::{Form, Kind},
    fields::{Fields, ObjectWriter},
    hub::Membership,
    messages::ErrorCode,
    options::Dialect,
    session::Session,
};
use oneiro_events::{ChannelName, Epoch, Position};
use std::sync::LazyLock;

/// Names looked at in one message.
const MAX_NAMES: usize = 200;

/// [`SHARED`] as names of channels, made once.
pub(crate) static SHARED_NAMES: LazyLock<[ChannelName; SHARED.len()]> =
    LazyLock::new(|| SHARED.map(|name| name.parse().expect("a constant name")));

// Who publishes, and from where, must not matter: the names are the ones that `oneiro publish` uses.
pub(crate) use oneiro_core::publish::{SHARED_CHANNELS as SHARED, is_reserved, user_channel};

/// A channel that the session is in.
pub(crate) struct Joined {
    pub(crate) membership: Membership,
    pub(crate) form: Form,
    /// Every stored event behind this one was sent, or is about to be, by live delivery.
    pub(crate) live_from: Position,
    /// Whether the connection came with it; then it cannot be left.
    pub(crate) is_own: bool,
}

pub(crate) fn form_of(channel: &ChannelName, dream_form: Form) -> Form {
    if channel_dream(channel).is_some() {
        dream_form
    } else if SHARED.contains(&channel.as_str()) {
        Form::Notifications
    } else {
        Form::Raw
    }
}

/// The kind that a name stands for on a notifications connection.
pub(crate) fn kind_named(name: &str) -> Option<Kind> {
    match name {
        "notifications" => Some(Kind::Notification),
        "alerts" => Some(Kind::Alert),
        "orders" => Some(Kind::Order),
        "materials" => Some(Kind::Material),
        _ => None,
    }
}

impl Session {
    /// Messages that every dialect knows. `false`: not one of them.
    pub(crate) async fn on_channel_message(&mut self, r#type: &str, message: &Fields<'_>) -> Result<bool, Close> {
        match r#type {
            "subscribe" => self.on_subscribe(message).await?,
            "unsubscribe" => self.on_unsubscribe(message),
            "resume" => self.on_resume(message).await?,
            "ack" => self.on_ack(message).await?,
            "history" => self.on_history(message).await?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn names(&self, message: &Fields<'_>) -> Option<Vec<String>> {
        let names = message.get::<Vec<String>>("channels").filter(|names| names.len() <= MAX_NAMES);
        if names.is_none() {
            self.send_error(ErrorCode::InvalidMessage, "`channels` must be a list of names");
        }
        names
    }

    async fn on_subscribe(&mut self, message: &Fields<'_>) -> Result<(), Close> {
        let Some(names) = self.names(message) else { return Ok(()) };
        if message.text("mode").as_deref() == Some("replace") {
            self.memberships.retain(|joined| {
                joined.is_own || names.iter().any(|name| name == joined.membership.channel().as_str())
            });
            if self.dialect == Dialect::Notifications {
                self.muted = [Kind::Notification, Kind::Order, Kind::Material].to_vec();
            }
        }
        let mut granted = Vec::with_capacity(names.len());
        let mut rejected = Vec::new();
        let mut joined = Vec::new();
        for name in names {
            match self.subscribe(&name, &joined).await? {
                Ok(new) => {
                    joined.extend(new);
                    granted.push(name);
                }
                Err(reason) => rejected.push(serde_json::json!({ "channel": name, "reason": reason })),
            }
        }
        self.conn.mute(&self.muted);
        let mut frame = ObjectWriter::new();
        frame.value("type", &"subscription_success").value("channels", &granted);
        if !rejected.is_empty() {
            frame.value("rejected", &rejected);
        }
        if self.options.with_position || message.raw("since").is_some() {
            frame.raw("positions", &self.positions_of(message, &granted, &joined));
        }
        self.send(&frame.finish());
        let had = self.memberships.len();
        for (membership, form, last) in joined {
            let since = since_of(message, membership.channel());
            if since.is_some() {
                self.show_positions();
            }
            let encoding = self.encoding(form);
            membership.set_encoding(encoding);
            let live_from = match since {
                Some(since) => self.resume(membership.channel(), since, encoding, None).await?,
                None => last,
            };
            if form == Form::DreamNumber || form == Form::DreamString {
                self.send_snapshot_of(membership.channel()).await?;
            }
            self.catch_up(&membership, encoding, live_from.clone()).await?;
            self.memberships.push(Joined { membership, form, live_from, is_own: false });
        }
        // Those that the connection had already.
        for index in 0..had {
            let channel = self.memberships[index].membership.channel();
            let since =
                if granted.iter().any(|name| name == channel.as_str()) { since_of(message, channel) } else { None };
            if let Some(since) = since {
                self.show_positions();
                self.resume_joined(index, since).await?;
            }
        }
        Ok(())
    }

    /// From where each granted channel goes on, so that a client that sees no event can resume all the same: to be sent back as `since`. What
    /// the client itself resumes from stays that until it has got what it missed.
    fn positions_of(
        &self,
        message: &Fields<'_>,
        granted: &[String],
        joined: &[(Membership, Form, Position)],
    ) -> String {
        let new = joined.iter().map(|(membership, _, last)| {
            let channel = membership.channel();
            (channel, since_of(message, channel).unwrap_or_else(|| last.clone()))
        });
        let old = self.memberships.iter().map(|old| {
            let channel = old.membership.channel();
            (channel, since_of(message, channel).unwrap_or_else(|| old.membership.position()))
        });
        let mut positions = ObjectWriter::new();
        for (channel, position) in
            new.chain(old).filter(|(channel, _)| granted.iter().any(|name| name == channel.as_str()))
        {
            positions.value(channel.as_str(), &position);
        }
        String::from_utf8(positions.finish()).expect("made of JSON texts")
    }

    /// Grants or refuses one name; a channel that is new to the connection, and to the message, is joined, held.
    async fn subscribe(
        &mut self,
        name: &str,
        joined: &[(Membership, Form, Position)],
    ) -> Result<Result<Option<(Membership, Form, Position)>, &'static str>, Close> {
        let kind = if self.dialect == Dialect::Notifications { kind_named(name) } else { None };
        if let Some(kind) = kind {
            self.muted.retain(|muted| *muted != kind);
            return Ok(Ok(None));
        }
        let Ok(channel) = name.parse::<ChannelName>() else { return Ok(Err("invalid_name")) };
        let mut known = self.memberships.iter().map(|old| &old.membership).chain(joined.iter().map(|(new, ..)| new));
        if known.any(|membership| *membership.channel() == channel) {
            return Ok(Ok(None));
        }
        if !self.may_read(&channel).await? {
            return Ok(Err("forbidden"));
        }
        let chosen = self.memberships.iter().filter(|old| !old.is_own).count() + joined.len();
        if chosen >= self.ctx.settings.max_channels {
            return Ok(Err("too_many"));
        }
        let form = form_of(&channel, self.dream_form());
        let (membership, last) = self.join(&channel, form).await?;
        Ok(Ok(Some((membership, form, last))))
    }

    pub(crate) async fn may_read(&self, channel: &ChannelName) -> Result<bool, Close> {
        match access(channel, self.claims()?, &self.ctx.settings) {
            Access::Granted => Ok(true),
            Access::Denied => Ok(false),
            Access::IfDream(id) => self.may_see(id).await,
        }
    }

    /// After a token refresh: channels that the user may no longer read are left.
    pub(crate) async fn recheck_channels(&mut self) -> Result<(), Close> {
        let mut kept = Vec::with_capacity(self.memberships.len());
        for joined in std::mem::take(&mut self.memberships) {
            if joined.is_own || self.may_read(joined.membership.channel()).await? {
                kept.push(joined);
            }
        }
        self.memberships = kept;
        Ok(())
    }

    fn on_unsubscribe(&mut self, message: &Fields<'_>) {
        let Some(names) = self.names(message) else { return };
        for name in &names {
            match kind_named(name).filter(|_| self.dialect == Dialect::Notifications) {
                Some(kind) if !self.muted.contains(&kind) => self.muted.push(kind),
                Some(_) => {}
                None => self.memberships.retain(|joined| joined.is_own || joined.membership.channel().as_str() != name),
            }
        }
        self.conn.mute(&self.muted);
        let mut frame = ObjectWriter::new();
        frame.value("type", &"unsubscribed").value("channels", &names);
        self.send(&frame.finish());
    }

    /// From now on this connection's stored events tell their positions.
    pub(crate) fn show_positions(&mut self) {
        if !self.options.with_position {
            self.options.with_position = true;
            for joined in &self.memberships {
                joined.membership.set_encoding(self.encoding(joined.form));
            }
        }
    }
}

/// `since` is a position, or an object of positions by channel.
fn since_of(message: &Fields<'_>, channel: &ChannelName) -> Option<Position> {
    let since = message.object("since")?;
    let since = since.object(channel.as_str()).unwrap_or(since);
    Some(Position {
        epoch: Epoch::parse(&since.text("epoch")?)?,
        offset: since.get("offset").or_else(|| since.get("seq"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_read_for_one_channel_and_for_many() {
        let channel: ChannelName = "post_1".parse().unwrap();
        let read = |json: &str| {
            since_of(&Fields::parse(json.as_bytes()).unwrap(), &channel).map(|position| position.to_string())
        };
        assert_eq!(read(r#"{"since":{"epoch":"ab","offset":3}}"#).as_deref(), Some("ab:3"));
        assert_eq!(
            read(r#"{"since":{"post_1":{"epoch":"ab","offset":4},"post_2":{"epoch":"cd","offset":9}}}"#).as_deref(),
            Some("ab:4")
        );
        for bad in [r#"{}"#, r#"{"since":3}"#, r#"{"since":{"epoch":"a b","offset":3}}"#, r#"{"since":{"epoch":"ab"}}"#]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
