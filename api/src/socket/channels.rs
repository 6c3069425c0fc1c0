//! What any client may ask for on top of its dialect: channels, resuming, acknowledging, history. And who may read which channel, in one place.

use super::{
    close::Close,
    dream::channel_dream,
    encode::{Encoding, Form, Kind, Parsed, position_members},
    fields::{Fields, ObjectWriter, extend_object},
    hub::Membership,
    messages::ErrorCode,
    options::Dialect,
    outbox::Origin,
    session::{Session, unavailable},
};
use oneiro_core::{auth::Claims, config::RealtimeSettings, dreams::Dream};
use oneiro_events::{ChannelName, Epoch, Position};
use std::sync::LazyLock;

/// Events in one `history` answer, unless fewer were asked for.
const MAX_HISTORY: u64 = 100;
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

/// What a user may do with a channel, as far as that can be told without looking anything up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Granted,
    Denied,
    /// Ask whether the dream is the user's to see.
    IfDream(oneiro_core::dreams::DreamId),
}

/// The one rule of who may read what.
pub(crate) fn access(channel: &ChannelName, claims: &Claims, settings: &RealtimeSettings) -> Access {
    let name = channel.as_str();
    if let Some(id) = channel_dream(channel) {
        return Access::IfDream(id);
    }
    if SHARED.contains(&name) || *channel == user_channel(&claims.user_id) {
        return Access::Granted;
    }
    // What is ours to grant one by one stays so, whatever the patterns say.
    if name.starts_with("user_") || is_reserved(name) {
        return Access::Denied;
    }
    let matches = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    if settings.open_channels.iter().any(matches) { Access::Granted } else { Access::Denied }
}

fn form_of(channel: &ChannelName, dream_form: Form) -> Form {
    if channel_dream(channel).is_some() {
        dream_form
    } else if SHARED.contains(&channel.as_str()) {
        Form::Notifications
    } else {
        Form::Raw
    }
}

/// The kind that a name stands for on a notifications connection.
fn kind_named(name: &str) -> Option<Kind> {
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
            self.muted = [Kind::Notification, Kind::Order, Kind::Material].to_vec();
        }
        let mut granted = Vec::with_capacity(names.len());
        let mut rejected = Vec::new();
        let mut joined = Vec::new();
        for name in names {
            match self.subscribe(&name).await? {
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
            frame.raw("positions", &self.positions_of(&granted, &joined));
        }
        self.send(&frame.finish());
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
            self.catch_up(&membership, encoding, live_from.clone(), |_| true).await?;
            self.memberships.push(Joined { membership, form, live_from, is_own: false });
        }
        Ok(())
    }

    /// Where the granted channels stand, so that a client that sees no event can resume all the same: to be sent back as `since`.
    fn positions_of(&self, granted: &[String], joined: &[(Membership, Form, Position)]) -> String {
        let new = joined.iter().map(|(membership, _, last)| (membership.channel(), last.clone()));
        let old = self.memberships.iter().map(|old| (old.membership.channel(), old.membership.position()));
        let mut positions = ObjectWriter::new();
        for (channel, position) in
            new.chain(old).filter(|(channel, _)| granted.iter().any(|name| name == channel.as_str()))
        {
            positions.value(channel.as_str(), &position);
        }
        String::from_utf8(positions.finish()).expect("made of JSON texts")
    }

    /// Grants or refuses one name; a channel that is new to the connection is joined, held.
    async fn subscribe(
        &mut self,
        name: &str,
    ) -> Result<Result<Option<(Membership, Form, Position)>, &'static str>, Close> {
        let kind = if self.dialect == Dialect::Notifications { kind_named(name) } else { None };
        if let Some(kind) = kind {
            self.muted.retain(|muted| *muted != kind);
            return Ok(Ok(None));
        }
        let Ok(channel) = name.parse::<ChannelName>() else { return Ok(Err("invalid_name")) };
        if self.memberships.iter().any(|joined| *joined.membership.channel() == channel) {
            return Ok(Ok(None));
        }
        if !self.may_read(&channel).await? {
            return Ok(Err("forbidden"));
        }
        if self.memberships.iter().filter(|joined| !joined.is_own).count() >= self.ctx.settings.max_channels {
            return Ok(Err("too_many"));
        }
        let form = form_of(&channel, self.dream_form());
        let (membership, last) = self.join(&channel, form).await?;
        Ok(Ok(Some((membership, form, last))))
    }

    async fn may_read(&self, channel: &ChannelName) -> Result<bool, Close> {
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

    /// `resume` in the midst of a connection: what was missed before it began to deliver.
    async fn on_resume(&mut self, message: &Fields<'_>) -> Result<(), Close> {
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
        self.send_publications(&missed, self.encoding(form), |_| true);
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
                let sent = self.send_publications(&missed, encoding, |_| true);
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
        let mut frame = ObjectWriter::new();
        frame
            .value("type", &"resume_failed")
            .value("channel", channel)
            .value("epoch", &end.epoch)
            .value("seq", &end.offset)
            .value("reason", &"history_lost");
        self.send(&frame.finish());
    }

    async fn on_history(&mut self, message: &Fields<'_>) -> Result<(), Close> {
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
