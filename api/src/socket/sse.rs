//! `GET /api/v1/events?channels=..`: the same events as a stream of server-sent events, for networks without WebSockets.
//!
//! Each stored event's `id` holds the positions of all channels of the stream, so that `Last-Event-ID` resumes every one of them.

use super::{
    SocketContext,
    access::{Access, access},
    channels::{SHARED, user_channel},
    close::Close,
    conn::Conn,
    encode::{Encoding, Form},
    fields::ObjectWriter,
    handshake::{self, Caller},
    http,
    hub::Membership,
    outbox::{Frame, Outbox},
    registry,
};
use crate::ApiError;
use bytes::Bytes;
use oneiro_core::auth::{AuthError, Claims};
use oneiro_events::{ChannelName, Position};
use poem::{Body, Request, Response, handler, http::header, web::Data};
use std::{collections::BTreeMap, future::poll_fn, sync::Arc, task::Poll};
use tokio::time::Instant;

/// What of the past a resuming stream is given per channel.
const MAX_RESUMED: u64 = oneiro_events::MAX_HISTORY_PAGE;

struct Stream {
    ctx: Arc<SocketContext>,
    conn: Arc<Conn>,
    _entry: registry::Entry,
    memberships: Vec<Membership>,
    positions: BTreeMap<ChannelName, Position>,
    expires: Instant,
    next_beat: Instant,
    is_over: bool,
}

/// `GET /api/v1/events`. Token as on the sockets; `channels` defaults to the user's own and everybody's.
#[handler]
pub(crate) async fn stream_events(request: &Request, ctx: Data<&Arc<SocketContext>>) -> poem::Result<Response> {
    let ctx = ctx.0.clone();
    let caller = Caller::of(request, &ctx.settings);
    let source = caller.token.as_ref().map(|(_, source)| *source);
    if !handshake::is_origin_allowed(request, &ctx.settings, source) {
        return Err(http::forbidden("pages of this origin may not connect").into());
    }
    if !ctx.address_handshakes.admit(caller.address.clone(), Instant::now()) {
        return Err(ApiError::rate_limited(std::time::Duration::from_secs(1)).into());
    }
    if ctx.registry.is_draining()
        || (ctx.settings.max_connections > 0 && ctx.registry.len() >= ctx.settings.max_connections)
    {
        return Err(ApiError::unavailable("this server takes no more streams", None).into());
    }
    let (token, _) = caller.token.clone().ok_or_else(|| ApiError::unauthorized(&AuthError::Missing))?;
    let claims = ctx.verifier.verify(&token).map_err(|error| ApiError::unauthorized(&error))?;
    let channels = channels(&ctx, &caller, &claims).await?;
    let conn = Arc::new(Conn::new(Outbox::new(ctx.limits()), "sse", &caller.address));
    let entry = ctx.registry.add(&conn);
    if !entry.claim(&claims.user_id, ctx.settings.connections_per_user) {
        return Err(ApiError::rate_limited(std::time::Duration::from_secs(5)).into());
    }
    let expires = ctx.deadline_of(&claims);
    let next_beat = Instant::now() + ctx.settings.ping_interval();
    let mut stream = Stream {
        ctx,
        conn,
        _entry: entry,
        memberships: Vec::new(),
        positions: BTreeMap::new(),
        expires,
        next_beat,
        is_over: false,
    };
    let last = request.header("last-event-id").map(parse_id).unwrap_or_default();
    for channel in channels {
        stream.open(channel, &claims, &last).await?;
    }
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

async fn channels(ctx: &SocketContext, caller: &Caller, claims: &Claims) -> Result<Vec<ChannelName>, ApiError> {
    let own = user_channel(&claims.user_id);
    let Some(wanted) = caller.parameter("channels").filter(|wanted| !wanted.trim().is_empty()) else {
        let shared = SHARED.iter().map(|name| name.parse().expect("a constant name"));
        return Ok(shared.chain([own]).collect());
    };
    let mut channels: Vec<ChannelName> = Vec::new();
    for name in wanted.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let channel: ChannelName =
            name.parse().map_err(|_| http::wrong("channels", "must be names separated by commas"))?;
        let is_granted = match access(&channel, claims, &ctx.settings) {
            Access::Granted => true,
            Access::Denied => false,
            Access::IfDream(id) => {
                ctx.dreams.load(id).await?.is_some_and(|dream| !dream.is_deleted() && dream.is_visible_to(claims))
            }
        };
        if !is_granted {
            return Err(http::forbidden(&format!("the channel `{channel}` is not yours to read")));
        }
        if name == SHARED[0] && !channels.contains(&own) {
            channels.push(own.clone());
        }
        if !channels.contains(&channel) {
            channels.push(channel);
        }
    }
    if channels.len() > ctx.settings.max_channels {
        return Err(http::wrong("channels", "are too many for one stream"));
    }
    Ok(channels)
}

/// `channel=epoch:offset,..`
fn parse_id(text: &str) -> BTreeMap<ChannelName, Position> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(channel, position)| Some((channel.parse().ok()?, position.parse().ok()?))).collect()
}

impl Stream {
    async fn open(
        &mut self,
        channel: ChannelName,
        claims: &Claims,
        last: &BTreeMap<ChannelName, Position>,
    ) -> Result<(), ApiError> {
        let name = channel.as_str();
        let form = match super::dream::channel_dream(&channel) {
            Some(_) => Form::DreamNumber,
            None if SHARED.contains(&name) || channel == user_channel(&claims.user_id) => Form::Notifications,
            None => Form::Raw,
        };
        let encoding = Encoding { form, with_position: true, with_progress: true };
        let ctx = self.ctx.clone();
        let joined = ctx.hub.join(&channel, &self.conn, encoding).await;
        let (membership, dispatched) = joined.map_err(|error| http::failed(&error))?;
        let mut sent = last.get(&channel).cloned().unwrap_or(dispatched);
        // Not where the queue ends but where it begins: ids are told as frames leave.
        self.positions.insert(channel.clone(), sent.clone());
        let mut is_behind = last.contains_key(&channel);
        while is_behind || !membership.go_live(&sent) {
            let history =
                ctx.broker.history(&channel, Some(&sent), MAX_RESUMED).await.map_err(|error| http::failed(&error))?;
            if !history.is_complete {
                let mut frame = ObjectWriter::new();
                frame
                    .value("type", &"resume_failed")
                    .value("channel", &channel)
                    .value("epoch", &history.position.epoch)
                    .value("seq", &history.position.offset)
                    .value("reason", &"history_lost");
                self.conn.outbox.push(Frame::reply(&frame.finish()));
                self.positions.insert(channel.clone(), history.position.clone());
            }
            let frames =
                history.publications.iter().filter_map(|event| super::encode::Parsed::new(event).encode(encoding));
            self.conn.outbox.push_all(frames.collect::<Vec<_>>().into_iter());
            sent = history.publications.last().and_then(|event| event.position.clone()).unwrap_or(history.position);
            is_behind = false;
        }
        self.memberships.push(membership);
        Ok(())
    }

    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        loop {
            if let Some(chunk) = self.drain() {
                return Some(chunk);
            }
            let outbox = &self.conn.outbox;
            let woken = poll_fn(|cx| {
                let taken = outbox.poll(cx.waker());
                match taken.close {
                    Some(close) => Poll::Ready(Some(close)),
                    None if !taken.gaps.is_empty() || outbox.waiting().0 > 0 => Poll::Ready(None),
                    None => Poll::Pending,
                }
            });
            let beat = self.next_beat.min(self.expires);
            tokio::select! {
                close = woken => if let Some(close) = close {
                    // What is queued goes first; the reason is the last event.
                    let mut last = self.drain().map(|chunk| chunk.to_vec()).unwrap_or_default();
                    last.extend(goodbye(&close));
                    self.is_over = true;
                    return Some(last.into());
                },
                () = tokio::time::sleep_until(beat) => {
                    if self.expires <= Instant::now() {
                        self.is_over = true;
                        return Some(goodbye(&Close::TOKEN_EXPIRED).into());
                    }
                    self.next_beat = Instant::now() + self.ctx.settings.ping_interval();
                    return Some(Bytes::from_static(b": beat\n\n"));
                }
            }
        }
    }

    /// All that waits as one chunk.
    fn drain(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while let Some(frame) = self.conn.outbox.take() {
            if let Some(origin) = &frame.origin {
                self.positions.insert(origin.channel.clone(), origin.position.clone());
                let ids: Vec<String> =
                    self.positions.iter().map(|(channel, position)| format!("{channel}={position}")).collect();
                out.extend_from_slice(format!("id: {}\n", ids.join(",")).as_bytes());
            }
            out.extend_from_slice(b"data: ");
            // A publisher's JSON may hold line ends between its members; a data line may not.
            out.extend(frame.json().iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
            out.extend_from_slice(b"\n\n");
        }
        (!out.is_empty()).then(|| out.into())
    }
}

fn goodbye(close: &Close) -> Vec<u8> {
    format!(
        "event: close\ndata: {{\"code\":{},\"reason\":{}}}\n\n",
        close.code,
        serde_json::Value::from(&*close.reason)
    )
    .into_bytes()
}
