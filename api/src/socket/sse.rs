//! `GET /api/v1/events?channels=..`: the same events as a stream of server-sent events, for networks without WebSockets.
//!
//! Each stored event's `id` holds the positions of all channels of the stream, so that `Last-Event-ID` resumes every one of them.

mod asked;

use super::{
    SocketContext,
    channels::{SHARED, user_channel},
    close::Close,
    conn::Conn,
    delivery::frame_of,
    encode::{Encoding, Form, Kind, Parsed},
    frame::Frame,
    handshake::{self, Caller},
    http,
    hub::Membership,
    inbox::{waits_for_users, wants_acks},
    options::Dialect,
    outbox::Outbox,
    registry,
    resume::{before, resume_failed},
    session::{rejected, unavailable},
};
use crate::ApiError;
use bytes::Bytes;
use oneiro_core::{
    auth::{AuthError, Claims},
    clock,
};
use oneiro_events::{ChannelName, EventError, Position};
use poem::{Body, Request, Response, handler, http::header, web::Data};
use std::{
    collections::{BTreeMap, VecDeque},
    future::poll_fn,
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::time::Instant;

/// Events of the past in one chunk of a resuming stream: at most 6 MiB, as the largest are 64 KiB.
const PAGE: u64 = 100;
/// Most seconds between two signs of life. Proxies, and this server itself, cut a response in which nothing happens for a minute or more.
const LONGEST_BEAT: Duration = Duration::from_secs(30);

/// What a stream brings where it carries the whole inbox.
const INBOX_KINDS: [Kind; 3] = [Kind::Notification, Kind::Order, Kind::Material];

struct Stream {
    ctx: Arc<SocketContext>,
    conn: Arc<Conn>,
    _entry: registry::Entry,
    /// What is told before all else.
    first: Option<Bytes>,
    memberships: Vec<Membership>,
    /// Joined, and not live yet.
    behind: VecDeque<Behind>,
    positions: BTreeMap<ChannelName, Position>,
    /// The last event of the inbox in what was handed out: it counts as written once more is asked for.
    inbox_handed: Option<Position>,
    expires: Instant,
    next_beat: Instant,
    is_over: bool,
}

/// A channel whose past is not sent yet.
struct Behind {
    membership: Membership,
    encoding: Encoding,
    sent: Position,
    /// Whether its stream was looked at; not needed where it begins where the process does.
    is_read: bool,
    /// Where it begins at what the user has read of the inbox: where the inbox stood when it was joined, and whether anything of it was told.
    inbox: Option<(Position, bool)>,
}

/// `GET /api/v1/events`. Token as on the sockets; `channels` defaults to the user's own and everybody's.
#[handler]
pub(crate) async fn stream_events(request: &Request, ctx: Data<&Arc<SocketContext>>) -> poem::Result<Response> {
    let ctx = ctx.0.clone();
    let caller = Caller::of(request, &ctx.settings);
    let source = caller.token.as_ref().map(|(_, source)| *source);
    if !handshake::is_origin_allowed(request, &ctx.settings, source) {
        return Err(rejected("origin", http::forbidden("pages of this origin may not connect")).into());
    }
    if !ctx.address_handshakes.admit(&caller.address, Instant::now()) {
        return Err(rejected("address_rate", ApiError::rate_limited(Duration::from_secs(1))).into());
    }
    if ctx.registry.is_draining() {
        return Err(ApiError::unavailable("this server is about to restart", None).into());
    }
    if ctx.settings.max_connections > 0 && ctx.registry.len() >= ctx.settings.max_connections {
        return Err(rejected("capacity", ApiError::unavailable("this server takes no more streams", None)).into());
    }
    let verified = caller.token.as_ref().ok_or(AuthError::Missing).and_then(|(token, _)| ctx.verifier.verify(token));
    let claims = verified.map_err(|error| rejected("token", ApiError::unauthorized(&error)))?;
    if !ctx.user_handshakes.admit(&claims.user_id, Instant::now()) {
        return Err(rejected("user_rate", ApiError::rate_limited(Duration::from_secs(1))).into());
    }
    let wanted = caller.parameter("channels").unwrap_or_default();
    let (channels, refused) = asked::channels(&ctx, &wanted, &claims).await?;
    let hello = if refused.is_empty() { Bytes::new() } else { hello(&channels, &refused) };
    let conn = Arc::new(Conn::new(Outbox::new(ctx.limits()), "sse", &caller.address));
    conn.mute(&asked::muted(&wanted, &claims));
    let entry = ctx.registry.add(&conn);
    if !entry.claim(&claims.user_id, ctx.settings.connections_per_user) {
        return Err(rejected("user_connections", ApiError::rate_limited(Duration::from_secs(5))).into());
    }
    let expires = ctx.deadline_of(&claims);
    let next_beat = Instant::now() + beat_interval(&ctx);
    let mut stream = Stream {
        ctx,
        conn,
        _entry: entry,
        first: None,
        memberships: Vec::new(),
        behind: VecDeque::new(),
        positions: BTreeMap::new(),
        inbox_handed: None,
        expires,
        next_beat,
        is_over: false,
    };
    let last = request.header("last-event-id").map(asked::parse_id).unwrap_or_default();
    for channel in channels {
        stream.join(channel, &claims, &last, wants_acks(&caller)).await?;
    }
    // Where the channels stand: whoever is cut off before the first event goes on from here. A record without data is no event.
    let mut first = Vec::new();
    stream.write_id(&mut first);
    first.push(b'\n');
    first.extend_from_slice(&hello);
    stream.first = Some(first.into());
    let body = futures::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((Ok::<Bytes, std::io::Error>(chunk), stream))
    });
    let response = Response::builder()
        .content_type("text/event-stream; charset=utf-8")
        .header(header::CACHE_CONTROL, "no-cache, no-transform")
        // nginx would otherwise hold the stream back.
        .header("x-accel-buffering", "no");
    Ok(response.body(Body::from_bytes_stream(body)))
}

impl Stream {
    async fn join(
        &mut self,
        channel: ChannelName,
        claims: &Claims,
        last: &BTreeMap<ChannelName, Position>,
        needs_acks: bool,
    ) -> Result<(), ApiError> {
        let name = channel.as_str();
        let form = match super::dream::channel_dream(&channel) {
            Some(_) => Form::DreamNumber,
            None if SHARED.contains(&name) || channel == user_channel(&claims.user_id) => Form::Notifications,
            None => Form::Raw,
        };
        let encoding = Encoding { form, with_position: true, with_progress: true };
        let (is_shared, is_resuming) = (SHARED.contains(&name), last.contains_key(&channel));
        if is_shared && !is_resuming {
            return self.join_live(channel, encoding).await;
        }
        let (membership, dispatched) = match self.ctx.hub.join(&channel, &self.conn, encoding).await {
            // The others are worth having without it, and what is lost until it is back is told then.
            Err(EventError::ShardAway(_)) if is_shared => {
                self.positions.extend(last.get_key_value(&channel).map(|(name, place)| (name.clone(), place.clone())));
                return self.join_live(channel, encoding).await;
            }
            joined => joined.map_err(|error| http::failed(&error))?,
        };
        // A stream that is narrowed to some kinds leaves the others to the user's next connection.
        let is_inbox =
            channel == user_channel(&claims.user_id) && INBOX_KINDS.iter().all(|kind| self.conn.hears(*kind));
        if is_inbox {
            self.ctx.read_inbox(&self.conn, &channel, Dialect::Notifications, needs_acks);
        }
        let (sent, inbox) = match last.get(&channel) {
            Some(place) => (place.clone(), None),
            None if is_inbox && !dispatched.is_origin() => {
                let read = self.ctx.broker.cursor(&channel, Dialect::Notifications.label()).await;
                let read = read.map_err(|error| http::failed(&error))?;
                (read.unwrap_or_else(Position::origin), Some((dispatched.clone(), false)))
            }
            None => (dispatched.clone(), None),
        };
        // Not where the queue ends but where it begins: ids are told as frames leave.
        self.positions.insert(channel, sent.clone());
        let is_read = !is_resuming && sent == dispatched;
        self.behind.push_back(Behind { membership, encoding, sent, is_read, inbox });
        Ok(())
    }

    /// Without what was before.
    async fn join_live(&mut self, channel: ChannelName, encoding: Encoding) -> Result<(), ApiError> {
        let joined = self.ctx.hub.join_live(&channel, &self.conn, encoding).await;
        let (membership, sent) = joined.map_err(|error| http::failed(&error))?;
        // While its shard is away nobody knows where it stands.
        if membership.is_attached() {
            self.positions.insert(channel, sent);
        }
        self.memberships.push(membership);
        Ok(())
    }

    /// Goes one step further with a channel: reads a page of its past, or begins live delivery.
    async fn catch_up(&mut self, mut behind: Behind, out: &mut Vec<u8>) -> Result<(), EventError> {
        if behind.is_read && behind.membership.go_live(&behind.sent) {
            if let (Some((_, false)), Some(inbox)) = (&behind.inbox, self.conn.inbox.get()) {
                inbox.pass(behind.sent.clone());
            }
            self.positions.insert(behind.membership.channel().clone(), behind.sent);
            self.memberships.push(behind.membership);
            return Ok(());
        }
        let channel = behind.membership.channel();
        let mut history = self.ctx.broker.history(channel, Some(&behind.sent), PAGE).await?;
        if !history.is_complete && self.conn.inbox.get().is_some_and(|inbox| inbox.channel == *channel) {
            // What is left is delivered; what no inbox holds any more is told to those who knew of it.
            history = self.ctx.broker.oldest(channel, PAGE).await?;
            if behind.inbox.is_none() {
                self.tell_lost(channel, before(&history), out);
            }
        } else if !history.is_complete {
            self.tell_lost(channel, history.position.clone(), out);
        }
        let now = clock::unix_millis();
        for event in &history.publications {
            let mut wanted = |event: &Parsed<'_>| {
                let waits = |(joined, _): &(Position, bool)| waits_for_users(event) || event.is_behind(joined);
                self.conn.hears(event.kind()) && behind.inbox.as_ref().is_none_or(waits)
            };
            if let Some(frame) = frame_of(event, behind.encoding, now, &mut wanted) {
                if let Some((_, is_told)) = &mut behind.inbox {
                    *is_told = true;
                }
                self.write(&frame, out);
            }
        }
        let read = history.publications.last().and_then(|event| event.position.clone());
        behind.sent = read.unwrap_or(history.position);
        behind.is_read = true;
        self.behind.push_front(behind);
        Ok(())
    }

    async fn next(&mut self) -> Option<Bytes> {
        if let (Some(inbox), Some(position)) = (self.conn.inbox.get(), self.inbox_handed.take()) {
            inbox.note_written(position);
        }
        if self.is_over {
            return None;
        }
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            // Whatever there is to tell, however much of it.
            if self.expires <= Instant::now() {
                self.is_over = true;
                return Some(goodbye(&Close::TOKEN_EXPIRED).into());
            }
            let mut out = Vec::new();
            self.drain(&mut out);
            if let Some(behind) = self.behind.pop_front() {
                if let Err(error) = self.catch_up(behind, &mut out).await {
                    out.extend(goodbye(&unavailable(&error)));
                    self.is_over = true;
                }
                if out.is_empty() {
                    continue;
                }
            }
            if !out.is_empty() {
                return Some(out.into());
            }
            let outbox = &self.conn.outbox;
            let woken = poll_fn(|cx| {
                let taken = outbox.poll(cx.waker());
                let is_woken = taken.close.is_some() || !taken.gaps.is_empty() || outbox.waiting().0 > 0;
                if is_woken { Poll::Ready(taken) } else { Poll::Pending }
            });
            tokio::select! {
                taken = woken => {
                    self.tell_gaps(&taken.gaps, &mut out);
                    if let Some(close) = taken.close {
                        // What is queued goes first; the reason is the last event.
                        self.drain(&mut out);
                        out.extend(goodbye(&close));
                        self.is_over = true;
                    }
                    if !out.is_empty() {
                        return Some(out.into());
                    }
                },
                () = tokio::time::sleep_until(self.expires) => {}
                () = tokio::time::sleep_until(self.next_beat) => {
                    self.next_beat = Instant::now() + beat_interval(&self.ctx);
                    return Some(Bytes::from_static(b": beat\n\n"));
                }
            }
        }
    }

    /// All that waits.
    fn drain(&mut self, out: &mut Vec<u8>) {
        while let Some(frame) = self.conn.outbox.take() {
            self.write(&frame, out);
        }
    }

    /// Where channels lost events for good, tells from where they go on.
    fn tell_gaps(&mut self, channels: &[ChannelName], out: &mut Vec<u8>) {
        let places: Vec<_> =
            self.memberships.iter().map(|joined| (joined.channel().clone(), joined.position())).collect();
        // All that was dispatched up to those places is queued, and goes first.
        self.drain(out);
        for (channel, place) in places.into_iter().filter(|(channel, _)| channels.contains(channel)) {
            let later =
                self.positions.get(&channel).filter(|told| told.epoch == place.epoch && told.offset > place.offset);
            let end = later.cloned().unwrap_or(place);
            self.tell_lost(&channel, end, out);
        }
    }

    /// Tells that events of a channel are lost; whoever goes on from `end` misses nothing more.
    fn tell_lost(&mut self, channel: &ChannelName, end: Position, out: &mut Vec<u8>) {
        let frame = resume_failed(channel, &end);
        self.positions.insert(channel.clone(), end);
        self.write_id(out);
        write_data(&frame, out);
    }

    fn write(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        if let Some(origin) = &frame.origin {
            if self.conn.inbox.get().is_some_and(|inbox| inbox.channel == origin.channel) {
                self.inbox_handed = Some(origin.position.clone());
            }
            self.positions.insert(origin.channel.clone(), origin.position.clone());
            self.write_id(out);
        }
        write_data(&frame.json(), out);
    }

    fn write_id(&self, out: &mut Vec<u8>) {
        let ids: Vec<String> =
            self.positions.iter().map(|(channel, position)| format!("{channel}={position}")).collect();
        out.extend_from_slice(format!("id: {}\n", ids.join(",")).as_bytes());
    }
}

/// As sockets answer a subscription of which parts are refused.
fn hello(channels: &[ChannelName], refused: &[asked::Refused<'_>]) -> Bytes {
    let refused: Vec<_> =
        refused.iter().map(|(name, reason)| serde_json::json!({ "channel": name, "reason": reason })).collect();
    let frame = serde_json::json!({ "type": "subscription_success", "channels": channels, "rejected": refused });
    let mut out = Vec::new();
    write_data(frame.to_string().as_bytes(), &mut out);
    out.into()
}

fn write_data(json: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    // A publisher's JSON may hold line ends between its members; a data line may not.
    out.extend(json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    out.extend_from_slice(b"\n\n");
}

fn beat_interval(ctx: &SocketContext) -> Duration {
    ctx.settings.ping_interval().min(LONGEST_BEAT)
}

fn goodbye(close: &Close) -> Vec<u8> {
    format!(
        "event: close\ndata: {{\"code\":{},\"reason\":{}}}\n\n",
        close.code,
        serde_json::Value::from(&*close.reason)
    )
    .into_bytes()
}
