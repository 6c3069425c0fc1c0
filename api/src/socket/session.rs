//! One connection from hello to goodbye: what is common to the dialects. What differs is in the file of each.

use super::{
    SocketContext,
    channels::Joined,
    close::Close,
    conn::Conn,
    encode::{Encoding, Form, Kind},
    fields::ObjectWriter,
    frame::Frame,
    framing::{self, Incoming},
    handshake::Caller,
    limits::Bucket,
    link::{Link, Turn},
    options::{Dialect, Options},
    outbox::Outbox,
    presence::Seat,
    records::{Ending, SessionRecord},
    registry,
};
use oneiro_core::{
    auth::{AuthError, Claims},
    dreams::DreamId,
};
use oneiro_events::{EventError, Position};
use std::sync::Arc;
use tokio::{net::TcpStream, time::Instant};

/// Who is connected, once that is proved.
pub(crate) struct Bearer {
    pub(crate) claims: Claims,
    pub(crate) expires: Instant,
}

/// What only the opening needs; a connection lasts longer, and the query may hold a token.
pub(crate) struct Opening {
    pub(crate) caller: Box<Caller>,
    pub(crate) resume: Option<Position>,
}

pub(crate) struct Session {
    pub(crate) ctx: Arc<SocketContext>,
    pub(crate) conn: Arc<Conn>,
    pub(crate) entry: registry::Entry,
    pub(crate) dialect: Dialect,
    pub(crate) options: Options,
    /// Until the session has opened.
    pub(crate) opening: Option<Box<Opening>>,
    /// The dream that the path names; anything else there is a dream that nobody may see.
    pub(crate) dream: Option<DreamId>,
    pub(crate) bearer: Option<Bearer>,
    pub(crate) memberships: Vec<Joined>,
    /// Kinds of event that a notifications client does not want.
    pub(crate) muted: Vec<Kind>,
    /// The user's seat among those who are online.
    pub(crate) seat: Option<Seat>,
    record: Option<Box<SessionRecord>>,
    pub(crate) bucket: Bucket,
    pub(crate) strikes: u32,
    pub(crate) last_heard: Instant,
    pub(crate) next_ping: Instant,
    pub(crate) opened: Instant,
}

impl Session {
    fn new(ctx: Arc<SocketContext>, dialect: Dialect, caller: Box<Caller>) -> Self {
        let settings = &ctx.settings;
        let conn = Arc::new(Conn::new(Outbox::new(ctx.limits()), dialect.label(), &caller.address));
        let entry = ctx.registry.add(&conn);
        let (options, resume) = Options::of(&caller, settings.ids);
        let dream = if dialect == Dialect::Dream { dream_in(&caller.path) } else { None };
        let now = Instant::now();
        // Spread over the interval, so that ten thousand clients of a restarted process are not pinged at once.
        let next_ping = now + settings.ping_interval().mul_f64(0.5 + rand::random::<f64>() / 2.0);
        let bucket = Bucket::full(settings.message_burst, now);
        Self {
            conn,
            entry,
            dialect,
            options,
            opening: Some(Box::new(Opening { caller, resume })),
            dream,
            bearer: None,
            memberships: Vec::new(),
            muted: Vec::new(),
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

    async fn open(&mut self) -> Result<(), Close> {
        if self.ctx.registry.is_draining() {
            return Err(self.ctx.goodbye());
        }
        let most = self.ctx.settings.max_connections;
        if most > 0 && self.ctx.registry.len() > most {
            return Err(rejected("capacity", Close::try_later(5)));
        }
        if self.dialect == Dialect::Dream && self.dream.is_none() {
            return Err(rejected("dream_id", Close::FORBIDDEN));
        }
        match self.opening.as_mut().and_then(|opening| opening.caller.token.take()) {
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
                Box::pin(self.reauthorise()).await
            }
            None => {
                self.admit(&claims)?;
                self.bearer = Some(Bearer { claims, expires });
                // Only one of these is ever run, and what is never run is not to be moved about with the rest.
                match self.dialect {
                    Dialect::Dream => Box::pin(self.enter_dream()).await?,
                    Dialect::Notifications => Box::pin(self.enter_notifications()).await?,
                    Dialect::Presence => Box::pin(self.enter_presence()).await?,
                }
                self.opening = None;
                Ok(())
            }
        }
    }

    /// Holds a user's new session against the limits, and puts it on record.
    fn admit(&mut self, claims: &Claims) -> Result<(), Close> {
        if !self.ctx.user_handshakes.admit(&claims.user_id, Instant::now()) {
            return Err(rejected("user_rate", Close::RATE_LIMIT));
        }
        if !self.entry.claim(&claims.user_id, self.ctx.settings.connections_per_user) {
            return Err(rejected("user_connections", Close::TOO_MANY));
        }
        if let Some(opening) = &self.opening {
            self.record = self.ctx.records.session_opened(|| {
                SessionRecord::new(&self.name(), &self.ctx.node, claims, self.dialect, &opening.caller)
            });
        }
        self.ctx.counters.sessions[self.dialect as usize].increment(1);
        Ok(())
    }

    /// The session's name among those of all processes.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.ctx.node, self.entry.id())
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

    /// What the URL told to resume from; only once.
    pub(crate) fn take_resume(&mut self) -> Option<Position> {
        self.opening.as_mut()?.resume.take()
    }

    pub(crate) fn send(&self, json: &[u8]) {
        self.conn.outbox.push(Frame::reply(json));
    }

    pub(crate) fn encoding(&self, form: Form) -> Encoding {
        Encoding { form, with_position: self.options.with_position, with_progress: self.options.with_progress }
    }

    /// Seldom happens: an idle connection does not hold what it needs.
    async fn on_long(&mut self, long: Long) -> Result<(), Close> {
        match long {
            Long::Gaps(channels) => self.on_gaps(channels).await?,
            Long::Message(text) => self.on_message(&text).await?,
        }
        Ok(())
    }

    /// What is done at once; returns what is not.
    fn on_turn(&mut self, turn: Turn) -> Result<Option<Long>, End> {
        let incoming = match turn {
            Turn::Gone => return Err(End::Gone),
            Turn::Close(close) => return Err(End::Close(close)),
            Turn::Due => {
                self.on_deadline()?;
                return Ok(None);
            }
            Turn::Gaps(channels) => return Ok(Some(Long::Gaps(channels))),
            Turn::Message(incoming) => incoming,
        };
        self.last_heard = Instant::now();
        match incoming {
            Incoming::Text(text) => return Ok(self.look_at(text)?.map(Long::Message)),
            // Of those in excess, none is answered: there is no way to say so within the protocol.
            Incoming::Ping(payload) if self.admit_frame()? => {
                self.conn.outbox.push(Frame::control(framing::pong(&payload)));
            }
            Incoming::Ping(_) => {}
            Incoming::Pong => {
                self.admit_frame()?;
            }
            Incoming::Close(code) => return Err(End::Close(Close::new(code.unwrap_or(1000), ""))),
        }
        Ok(None)
    }
}

/// What may take longer than a look.
enum Long {
    Message(String),
    Gaps(Vec<oneiro_events::ChannelName>),
}

/// The dream whose path this is.
fn dream_in(path: &str) -> Option<DreamId> {
    DreamId::parse(path.trim_end_matches('/').rsplit('/').next()?)
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

/// Counts a refusal of a socket or an event stream and passes on what its client is told.
pub(crate) fn rejected<T>(reason: &'static str, told: T) -> T {
    metrics::counter!("oneiro_ws_rejected_total", "reason" => reason).increment(1);
    told
}

/// What a failing Redis means to a client.
pub(crate) fn unavailable(error: &EventError) -> Close {
    tracing::warn!(error = crate::error::report(error), "a socket cannot be served");
    Close::try_later(2 + rand::random::<u64>() % 4)
}

/// A connection's two halves, in one piece of memory of just their size: the task around them would keep room for the largest of its steps.
pub(crate) struct Connection {
    session: Session,
    link: Link,
}

/// Takes an upgraded stream over. `early`: what the client sent behind its handshake.
pub(crate) fn begin(
    ctx: Arc<SocketContext>,
    dialect: Dialect,
    caller: Box<Caller>,
    io: TcpStream,
    early: &[u8],
) -> Box<Connection> {
    let session = Session::new(ctx, dialect, caller);
    let link = Link::new(io, early, session.conn.clone(), session.ctx.settings.max_message_bytes);
    Box::new(Connection { session, link })
}

/// Serves a connection to its end.
pub(crate) async fn run(mut connection: Box<Connection>) {
    let Connection { session, link } = &mut *connection;
    let end = match Box::pin(link.write_during(session.open())).await {
        Err(_) => End::Gone,
        Ok(Err(close)) => End::Close(close),
        Ok(Ok(())) => loop {
            session.entry.arm(&session.conn, session.deadline());
            let turn = link.turn().await;
            let long = match session.on_turn(turn) {
                Ok(None) => continue,
                Ok(Some(long)) => long,
                Err(end) => break end,
            };
            match Box::pin(link.write_during(session.on_long(long))).await {
                Ok(Ok(())) => {}
                Ok(Err(close)) => break End::Close(close),
                Err(_) => break End::Gone,
            }
        },
    };
    Box::pin(finish(connection, end)).await;
}

async fn finish(connection: Box<Connection>, end: End) {
    let Connection { mut session, mut link } = *connection;
    let (channels, (queue_len, _)) = (session.conn.channel_count(), session.conn.outbox.waiting());
    let close = match end {
        End::Gone => None,
        End::Close(close) => Some(close),
    };
    let is_silent = close.as_ref() == Some(&Close::IDLE) && session.ctx.settings.legacy_1006;
    let close = close.filter(|_| !is_silent);
    // No more events: what comes from here on belongs to the next connection, and is not to be written to a socket that nobody reads.
    if close.is_none() {
        session.conn.outbox.abandon(Close::INTERNAL);
    }
    session.memberships.clear();
    session.leave_presence().await;
    if let Some(close) = &close {
        link.close(close).await;
    }
    if let Some(cursor) = session.conn.inbox.get() {
        session.ctx.flush_cursor(cursor).await;
    }
    let code = close.as_ref().map_or("1006", Close::label);
    metrics::counter!("oneiro_ws_closed_total", "code" => code).increment(1);
    metrics::histogram!("oneiro_ws_connection_seconds").record(session.opened.elapsed().as_secs_f64());
    if let (Some(record), Some(bearer)) = (session.record.take(), &session.bearer) {
        let (auth_exp, dropped) = (bearer.claims.expires_at, session.conn.outbox.dropped());
        let ending = Ending { auth_exp, close: close.as_ref(), traffic: link.traffic(), channels, queue_len, dropped };
        session.ctx.records.session_closed(*record, &ending);
    }
}
