//! One connection from hello to goodbye: what is common to the dialects. What differs is in the file of each.

use super::{
    SocketContext,
    channels::Joined,
    close::Close,
    encode::{Encoding, Form, Kind, Parsed},
    fields::{Fields, ObjectWriter},
    framing::{self, Incoming},
    handshake::Caller,
    hub::{Conn, Membership},
    inbox::Cursor,
    limits::Bucket,
    link::{Link, Turn},
    outbox::{Frame, Outbox},
    presence::Seat,
    records::SessionRecord,
    registry,
};
use oneiro_core::{
    auth::{AuthError, Claims},
    clock,
    config::IdForm,
};
use oneiro_events::{ChannelName, Epoch, EventError, Position, Publication};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

/// Publications read per step while catching up.
const PAGE: u64 = 500;
/// Reads before live delivery begins all the same: only a channel that changes its epoch meanwhile gets there.
const MAX_CATCH_UPS: usize = 100;
/// A token within the verifier's leeway is good for at least this long.
const LEAST_LIFE: Duration = Duration::from_secs(2);

/// Which seed's protocol a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `/ws/dream-images/{id}/`
    Dream,
    /// `/ws/notifications/`
    Notifications,
    /// `/api/v1/ws`
    Presence,
}

impl Dialect {
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Dream => "dream",
            Self::Notifications => "notifications",
            Self::Presence => "presence",
        }
    }
}

/// What the client asked for in the URL.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) ids: IdForm,
    pub(crate) with_progress: bool,
    pub(crate) with_position: bool,
    pub(crate) resume: Option<Position>,
}

impl Options {
    pub(crate) fn of(caller: &Caller, default_ids: IdForm) -> Self {
        let is_on = |name: &str| caller.parameter(name).is_some_and(|value| matches!(&*value, "1" | "true"));
        let ids = match caller.parameter("ids").as_deref() {
            Some("mixed") => IdForm::Mixed,
            Some("string") => IdForm::String,
            Some("number") => IdForm::Number,
            _ => default_ids,
        };
        let resume = position(caller.parameter("epoch").as_deref(), caller.parameter("seq").as_deref());
        Self { ids, with_progress: is_on("progress"), with_position: is_on("positions") || resume.is_some(), resume }
    }
}

fn position(epoch: Option<&str>, seq: Option<&str>) -> Option<Position> {
    Some(Position { epoch: Epoch::parse(epoch?)?, offset: seq?.parse().ok()? })
}

/// A client's stable words for what went wrong with one of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorCode {
    InvalidJson,
    InvalidMessage,
    UnknownMessageType,
    MessageProcessingError,
    RateLimited,
    Forbidden,
    TooLarge,
    NotSubscribed,
}

impl ErrorCode {
    fn word(self) -> &'static str {
        match self {
            Self::InvalidJson => "INVALID_JSON",
            Self::InvalidMessage => "INVALID_MESSAGE",
            Self::UnknownMessageType => "UNKNOWN_MESSAGE_TYPE",
            Self::MessageProcessingError => "MESSAGE_PROCESSING_ERROR",
            Self::RateLimited => "RATE_LIMITED",
            Self::Forbidden => "FORBIDDEN",
            Self::TooLarge => "TOO_LARGE",
            Self::NotSubscribed => "NOT_SUBSCRIBED",
        }
    }
}

/// Who is connected, once that is proved.
pub(crate) struct Bearer {
    pub(crate) claims: Claims,
    pub(crate) expires: Instant,
}

pub(crate) struct Session {
    pub(crate) ctx: Arc<SocketContext>,
    pub(crate) conn: Arc<Conn>,
    pub(crate) entry: registry::Entry,
    pub(crate) dialect: Dialect,
    pub(crate) caller: Box<Caller>,
    pub(crate) options: Options,
    pub(crate) bearer: Option<Bearer>,
    pub(crate) memberships: Vec<Joined>,
    /// Kinds of event that a notifications client does not want.
    pub(crate) muted: Vec<Kind>,
    /// The user's own channel, whose events wait for a user who is away.
    pub(crate) inbox: Option<Arc<Cursor>>,
    /// The user's seat among those who are online.
    pub(crate) seat: Option<Seat>,
    record: Option<Box<SessionRecord>>,
    bucket: Bucket,
    strikes: u32,
    last_heard: Instant,
    next_ping: Instant,
    opened: Instant,
}

impl Session {
    fn new(ctx: Arc<SocketContext>, dialect: Dialect, caller: Caller) -> Self {
        let settings = &ctx.settings;
        let conn = Arc::new(Conn::new(Outbox::new(ctx.limits())));
        let entry = ctx.registry.add(&conn);
        let options = Options::of(&caller, settings.ids);
        let now = Instant::now();
        // Spread over the interval, so that ten thousand clients of a restarted process are not pinged at once.
        let next_ping = now + settings.ping_interval().mul_f64(0.5 + rand::random::<f64>() / 2.0);
        let bucket = Bucket::full(settings.message_burst, now);
        Self {
            conn,
            entry,
            dialect,
            options,
            caller: Box::new(caller),
            bearer: None,
            memberships: Vec::new(),
            muted: Vec::new(),
            inbox: None,
            seat: None,
            record: None,
            bucket,
            strikes: 0,
            last_heard: now,
            next_ping,
            opened: now,
            ctx,
        }
    }

    async fn opening(&mut self) -> Result<(), Close> {
        if self.ctx.registry.is_draining() {
            return Err(self.ctx.goodbye());
        }
        let most = self.ctx.settings.max_connections;
        if most > 0 && self.ctx.registry.len() > most {
            metrics::counter!("oneiro_ws_rejected_total", "reason" => "capacity").increment(1);
            return Err(Close::try_later(5));
        }
        if self.dialect == Dialect::Dream {
            self.check_dream_id()?;
        }
        match self.caller.token.take() {
            Some((token, _)) => self.authenticate(&token).await,
            None if self.dialect == Dialect::Dream => Ok(()),
            None => Err(rejected("token", Close::BAD_TOKEN)),
        }
    }

    /// Verifies a token: the first one opens the session, a later one refreshes it in place.
    pub(crate) async fn authenticate(&mut self, token: &str) -> Result<(), Close> {
        let claims = self.ctx.verifier.verify(token).map_err(|error| {
            rejected("token", if matches!(error, AuthError::Expired) { Close::TOKEN_EXPIRED } else { Close::BAD_TOKEN })
        })?;
        let expires = self.ctx.deadline_of(&claims);
        match &mut self.bearer {
            Some(bearer) if bearer.claims.user_id != claims.user_id => Err(Close::new(4001, "token of another user")),
            Some(bearer) => {
                *bearer = Bearer { claims, expires };
                self.reauthorise().await
            }
            None => {
                if !self.ctx.user_handshakes.admit(claims.user_id.clone(), Instant::now()) {
                    return Err(rejected("user_rate", Close::RATE_LIMIT));
                }
                if !self.entry.claim(&claims.user_id, self.ctx.settings.connections_per_user) {
                    return Err(rejected("user_connections", Close::TOO_MANY));
                }
                let record = SessionRecord::new(&self.ctx.node, self.entry.id(), &claims.user_id);
                self.ctx
                    .records
                    .session(|| record.opened(&self.ctx.node, claims.expires_at, self.dialect, &self.caller));
                self.record = Some(Box::new(record));
                self.bearer = Some(Bearer { claims, expires });
                metrics::counter!("oneiro_ws_sessions_total", "dialect" => self.dialect.label()).increment(1);
                match self.dialect {
                    Dialect::Dream => self.enter_dream().await,
                    Dialect::Notifications => self.enter_notifications().await,
                    Dialect::Presence => self.enter_presence().await,
                }
            }
        }
    }

    /// After a refresh: every channel is looked at again.
    async fn reauthorise(&mut self) -> Result<(), Close> {
        self.recheck_channels().await?;
        if self.dialect == Dialect::Dream {
            return self.re_enter_dream().await;
        }
        let expires_at = self.bearer.as_ref().map(|bearer| bearer.claims.expires_at);
        let mut frame = ObjectWriter::new();
        frame.value("type", &"authenticated").value("expires_at", &expires_at);
        self.send(&frame.finish());
        Ok(())
    }

    pub(crate) fn claims(&self) -> Result<&Claims, Close> {
        self.bearer.as_ref().map(|bearer| &bearer.claims).ok_or(Close::INTERNAL)
    }

    pub(crate) fn send(&self, json: &[u8]) {
        self.conn.outbox.push(Frame::reply(json));
    }

    pub(crate) fn send_error(&self, code: ErrorCode, message: &str) {
        metrics::counter!("oneiro_ws_errors_total", "code" => code.word()).increment(1);
        let mut frame = ObjectWriter::new();
        frame
            .value("type", &"error")
            .value("error_code", &code.word())
            .value("message", &message)
            .value("timestamp", &clock::utc_iso());
        self.send(&frame.finish());
    }

    pub(crate) fn encoding(&self, form: Form) -> Encoding {
        Encoding { form, with_position: self.options.with_position, with_progress: self.options.with_progress }
    }

    /// Joins a channel, held. Redis that does not answer ends the connection: the client comes back, perhaps to a process that is better off.
    pub(crate) async fn join(&self, channel: &ChannelName, form: Form) -> Result<(Membership, Position), Close> {
        let user = &self.claims()?.user_id;
        self.ctx.hub.join(channel, &self.conn, user, self.encoding(form)).await.map_err(|error| unavailable(&error))
    }

    /// Sends what a channel stored after `since`, as far as `wanted` lets it, and begins live delivery without a hole or a repetition.
    pub(crate) async fn catch_up(
        &self,
        membership: &Membership,
        encoding: Encoding,
        since: Position,
        mut wanted: impl FnMut(&Parsed<'_>) -> bool,
    ) -> Result<u64, Close> {
        let mut sent = since;
        let mut count = 0;
        for _ in 0..MAX_CATCH_UPS {
            if membership.go_live(&sent) {
                return Ok(count);
            }
            let history = self
                .ctx
                .broker
                .history(membership.channel(), Some(&sent), PAGE)
                .await
                .map_err(|error| unavailable(&error))?;
            count += self.send_publications(&history.publications, encoding, &mut wanted);
            sent = match history.publications.last().and_then(|last| last.position.clone()) {
                Some(last) => last,
                None => history.position,
            };
        }
        membership.go_live_now();
        Ok(count)
    }

    pub(crate) fn send_publications(
        &self,
        publications: &[Publication],
        encoding: Encoding,
        mut wanted: impl FnMut(&Parsed<'_>) -> bool,
    ) -> u64 {
        let now = clock::unix_millis();
        let frames: Vec<Frame> = publications
            .iter()
            .filter_map(|publication| {
                let parsed = Parsed::new(publication);
                let is_current = parsed.expires_at_ms().is_none_or(|end| end > now);
                if is_current && wanted(&parsed) { parsed.encode(encoding) } else { None }
            })
            .collect();
        let count = frames.len() as u64;
        self.conn.outbox.push_all(frames.into_iter());
        count
    }

    async fn on_text(&mut self, text: &str) -> Result<(), Close> {
        let now = Instant::now();
        let settings = &self.ctx.settings;
        if !self.bucket.take(settings.messages_per_second, settings.message_burst, now) {
            self.strikes += 1;
            if self.strikes > settings.message_burst {
                return Err(rejected("message_rate", Close::RATE_LIMIT));
            }
            self.send_error(ErrorCode::RateLimited, "too many messages; this one was not looked at");
            return Ok(());
        }
        let Some(message) = Fields::parse(text.as_bytes()) else {
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
            let code = if is_json { ErrorCode::InvalidMessage } else { ErrorCode::InvalidJson };
            self.send_error(code, "the message is not a JSON object");
            return Ok(());
        };
        let Some(r#type) = message.text("type") else {
            self.send_error(ErrorCode::InvalidMessage, "the message has no `type`");
            return Ok(());
        };
        let record = self.record.as_ref();
        self.ctx.records.message_in(record.map(|record| (&*record.id, &record.user_id)), &r#type, text);
        match r#type.as_str() {
            "ping" => self.pong(&message),
            "pong" => {}
            "authenticate" => match message.text("token") {
                Some(token) => return self.authenticate(&token).await,
                None => self.send_error(ErrorCode::InvalidMessage, "`token` must be a string"),
            },
            _ if self.bearer.is_none() => self.send_error(ErrorCode::Forbidden, "authenticate first"),
            _ => return self.on_message(&r#type, &message).await,
        }
        Ok(())
    }

    async fn on_message(&mut self, r#type: &str, message: &Fields<'_>) -> Result<(), Close> {
        let known = match self.dialect {
            Dialect::Dream => self.on_dream_message(r#type, message).await?,
            Dialect::Notifications => false,
            Dialect::Presence => self.on_presence_message(r#type, message).await?,
        };
        if known || self.on_channel_message(r#type, message).await? {
            return Ok(());
        }
        let shown: String = r#type.chars().take(64).collect();
        self.send_error(ErrorCode::UnknownMessageType, &format!("unknown message type `{shown}`"));
        Ok(())
    }

    /// The client's timestamp goes back as it was written; a float would not survive a trip through a number.
    fn pong(&self, message: &Fields<'_>) {
        let own = match self.dialect {
            Dialect::Dream => clock::unix_seconds().to_string(),
            _ => format!("\"{}\"", clock::utc_iso()),
        };
        let mut frame = ObjectWriter::new();
        frame
            .value("type", &"pong")
            .raw("timestamp", message.raw("timestamp").map_or(own.as_str(), |raw| raw.get()))
            .value("server_time", &clock::unix_seconds());
        self.send(&frame.finish());
    }

    fn deadline(&self) -> Instant {
        let settings = &self.ctx.settings;
        let idle = self.last_heard + settings.idle_timeout();
        let identity = match &self.bearer {
            Some(bearer) => bearer.expires,
            None => self.opened + settings.auth_timeout(),
        };
        idle.min(self.next_ping).min(identity)
    }

    fn on_deadline(&mut self) -> Result<(), Close> {
        let now = Instant::now();
        let settings = &self.ctx.settings;
        match &self.bearer {
            Some(bearer) if bearer.expires <= now => return Err(Close::TOKEN_EXPIRED),
            None if self.opened + settings.auth_timeout() <= now => {
                return Err(rejected("auth_timeout", Close::AUTH_TIMEOUT));
            }
            _ => {}
        }
        if self.last_heard + settings.idle_timeout() <= now {
            return Err(Close::IDLE);
        }
        if self.next_ping <= now {
            self.next_ping = now + settings.ping_interval();
            self.conn.outbox.push(Frame::control(framing::ping()));
            if self.dialect == Dialect::Dream && self.bearer.is_some() {
                let mut frame = ObjectWriter::new();
                frame.value("type", &"ping").value("timestamp", &(clock::unix_millis() / 1000));
                self.send(&frame.finish());
            }
        }
        Ok(())
    }

    async fn on_turn(&mut self, turn: Turn) -> Result<(), End> {
        match turn {
            Turn::Gone => return Err(End::Gone),
            Turn::Close(close) => return Err(End::Close(close)),
            Turn::Deadline => self.on_deadline()?,
            Turn::Gaps(channels) => Box::pin(self.on_gaps(channels)).await?,
            Turn::Message(incoming) => {
                self.last_heard = Instant::now();
                match incoming {
                    // Boxed: what a message needs while it is handled, an idle connection does not hold.
                    Incoming::Text(text) => Box::pin(self.on_text(&text)).await?,
                    Incoming::Ping(payload) => self.conn.outbox.push(Frame::control(framing::pong(&payload))),
                    Incoming::Pong => {}
                    Incoming::Close(code) => return Err(End::Close(Close::new(code.unwrap_or(1000), ""))),
                }
            }
        }
        Ok(())
    }

    async fn on_gaps(&mut self, channels: Vec<ChannelName>) -> Result<(), Close> {
        for channel in channels {
            let position = self.ctx.broker.position(&channel).await.map_err(|error| unavailable(&error))?;
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

impl SocketContext {
    /// When a token ends.
    pub(crate) fn deadline_of(&self, claims: &Claims) -> Instant {
        let left = u64::try_from(claims.expires_at).unwrap_or(0).saturating_sub(clock::unix_millis() / 1000);
        // Decades from now an Instant may not reach; nothing is connected for that long.
        Instant::now() + Duration::from_secs(left.min(100_000_000)).max(LEAST_LIFE)
    }
}

/// How a connection ends.
enum End {
    Gone,
    Close(Close),
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Close(close)
    }
}

/// Counts a refusal and passes it on.
pub(crate) fn rejected(reason: &'static str, close: Close) -> Close {
    metrics::counter!("oneiro_ws_rejected_total", "reason" => reason).increment(1);
    close
}

/// What a failing Redis means to a client.
pub(crate) fn unavailable(error: &EventError) -> Close {
    tracing::warn!(error = crate::error::report(error), "a socket cannot be served");
    Close::try_later(2 + rand::random::<u64>() % 4)
}

/// Serves one upgraded stream to its end.
pub(crate) async fn run<Io: AsyncRead + AsyncWrite + Unpin>(
    ctx: Arc<SocketContext>,
    dialect: Dialect,
    caller: Caller,
    io: Io,
) {
    let mut session = Session::new(ctx, dialect, caller);
    let conn = session.conn.clone();
    let mut link = Link::new(io, conn, session.ctx.settings.max_message_bytes);
    let opened = Box::pin(session.opening()).await;
    session.caller.forget_query();
    let end = match opened {
        Err(close) => End::Close(close),
        Ok(()) => loop {
            link.watch_inbox(session.inbox.as_ref());
            let turn = link.turn(session.deadline()).await;
            if let Err(end) = session.on_turn(turn).await {
                break end;
            }
        },
    };
    Box::pin(finish(session, link, end)).await;
}

async fn finish<Io: AsyncRead + AsyncWrite + Unpin>(mut session: Session, mut link: Link<Io>, end: End) {
    // No more events: what comes from here on belongs to the next connection.
    session.memberships.clear();
    let close = match end {
        End::Gone => None,
        End::Close(close) => Some(close),
    };
    let is_silent = close.as_ref() == Some(&Close::IDLE) && session.ctx.settings.legacy_1006;
    let close = close.filter(|_| !is_silent);
    session.leave_presence().await;
    if let Some(close) = &close {
        link.close(close).await;
    }
    if let Some(cursor) = session.inbox.take() {
        session.ctx.flush_cursor(&cursor).await;
    }
    let code = close.as_ref().map_or(1006, |close| close.code);
    metrics::counter!("oneiro_ws_closed_total", "code" => code.to_string()).increment(1);
    metrics::histogram!("oneiro_ws_connection_seconds").record(session.opened.elapsed().as_secs_f64());
    if let (Some(record), Some(bearer)) = (&session.record, &session.bearer) {
        session.ctx.records.session(|| {
            let opened = record.opened(&session.ctx.node, bearer.claims.expires_at, session.dialect, &session.caller);
            SessionRecord::closed(opened, close.as_ref(), link.traffic)
        });
    }
}
