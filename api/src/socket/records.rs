//! Sessions and messages on record, for the developer endpoints. Stored as events of two channels of the tier's own, so that retention by count
//! and time is the broker's. Recording never holds a connection up: what is too much is counted and dropped.

use super::{SocketContext, close::Close, handshake::Caller, http, limits::Bucket, link::Traffic, options::Dialect};
use crate::ApiError;
use oneiro_core::publish::{MESSAGES_CHANNEL as MESSAGES, SESSIONS_CHANNEL as SESSIONS};
use oneiro_core::{
    auth::{Claims, Scope, UserId},
    clock,
    config::{MessageLog, RealtimeSettings},
};
use oneiro_events::{Broker, ChannelName, EventError, Position, Publication, Retention};
use parking_lot::Mutex;
use poem::{IntoResponse, Response, handler, web::Data};
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Records waiting to be stored; beyond, they are dropped.
const QUEUE: usize = 1_024;
/// Events read per step when a list is made.
const PAGE: u64 = oneiro_events::MAX_HISTORY_PAGE;
/// Longest body kept.
const MAX_BODY_CHARS: usize = 4_096;
const DEFAULT_LIST: u64 = 100;
/// `{"` in Base64: how every JWT begins.
const TOKEN_BEGINS: &str = "eyJ";

/// Takes records and stores them in the background.
pub(crate) struct Records {
    queue: mpsc::Sender<(&'static str, String)>,
    /// Of the beginnings of sessions, and of messages: neither takes the other's.
    budgets: [Mutex<Bucket>; 2],
    per_second: u32,
    log: MessageLog,
    dropped: metrics::Counter,
}

/// What a connection keeps of itself for the record of its end. Only those have one whose beginning was recorded.
/// As text: a tree of values takes five times as much, for as long as the connection lasts.
#[derive(Debug)]
pub(crate) struct SessionRecord {
    opened: Box<str>,
}

/// How a connection was when it ended.
pub(crate) struct Ending<'a> {
    /// When its last token expires, in Unix seconds.
    pub(crate) auth_exp: i64,
    /// `None`: without a word.
    pub(crate) close: Option<&'a Close>,
    pub(crate) traffic: Traffic,
    /// Joined until then.
    pub(crate) channels: usize,
    /// Frames that waited for the client.
    pub(crate) queue_len: usize,
    /// Frames that it was never sent, as later ones superseded them or it was too slow.
    pub(crate) dropped: u32,
}

impl SessionRecord {
    pub(crate) fn new(id: &str, node: &str, claims: &Claims, dialect: Dialect, caller: &Caller) -> Self {
        let now = clock::utc_iso();
        let opened = json!({ "id": id, "node": node, "user_id": claims.user_id, "path": caller.path, "dialect": dialect.label(),
            "remote": caller.address, "user_agent": caller.user_agent, "connected_at": now, "last_seen": now,
            "auth_exp": claims.expires_at, "channels": null, "sent": null, "received": null, "bytes": null, "queue_len": null,
            "dropped": null, "close_code": null, "close_reason": null, "disconnected_at": null });
        Self { opened: opened.to_string().into() }
    }

    fn closed(self, ending: &Ending<'_>) -> Value {
        let mut record: Value = serde_json::from_str(&self.opened).expect("written by `new`");
        let now = Value::from(clock::utc_iso());
        record["last_seen"] = now.clone();
        record["disconnected_at"] = now;
        record["auth_exp"] = ending.auth_exp.into();
        record["channels"] = ending.channels.into();
        record["sent"] = ending.traffic.sent.into();
        record["received"] = ending.traffic.received.into();
        record["bytes"] = ending.traffic.bytes_sent.into();
        record["queue_len"] = ending.queue_len.into();
        record["dropped"] = ending.dropped.into();
        record["close_code"] = ending.close.map_or(1006, |close| close.code).into();
        record["close_reason"] = ending.close.map_or("", |close| &close.reason).into();
        record
    }
}

impl Records {
    /// The recorder, and the task that stores.
    pub(crate) fn new(
        broker: Broker,
        settings: &RealtimeSettings,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + use<>) {
        let (queue, mut waiting) = mpsc::channel::<(&'static str, String)>(QUEUE);
        let budget = || Mutex::new(Bucket::full(settings.records_per_second, Instant::now()));
        let budgets = [budget(), budget()];
        let (per_second, log) = (settings.records_per_second, settings.message_log);
        let dropped = metrics::counter!("oneiro_ws_records_dropped_total");
        let records = Arc::new(Self { queue, budgets, per_second, log, dropped });
        let history_ttl = Duration::from_secs(settings.records_seconds);
        // A session is two records, its beginning and its end.
        let (sessions, messages) = (settings.sessions_kept.saturating_mul(2), settings.messages_kept);
        let store = async move {
            while let Some((channel, record)) = waiting.recv().await {
                let history_len = if channel == SESSIONS { sessions } else { messages };
                let channel = channel.parse().expect("a constant name");
                let retention = Retention { history_len, history_ttl };
                if let Err(error) = broker.publish_with(&channel, record.as_bytes(), retention).await {
                    tracing::debug!(error = crate::error::report(&error), "a record is lost");
                    metrics::counter!("oneiro_ws_records_dropped_total").increment(1);
                }
            }
        };
        (records, store)
    }

    /// Whether there was room.
    fn put(&self, channel: &'static str, record: impl FnOnce() -> String) -> bool {
        let budget = &self.budgets[usize::from(channel == SESSIONS)];
        let has_room = self.per_second > 0 && budget.lock().take(self.per_second, self.per_second, Instant::now());
        if !has_room {
            self.dropped.increment(1);
            return false;
        }
        self.enqueue(channel, record())
    }

    fn enqueue(&self, channel: &'static str, record: String) -> bool {
        let is_taken = self.queue.try_send((channel, record)).is_ok();
        if !is_taken {
            self.dropped.increment(1);
        }
        is_taken
    }

    /// Records the beginning of a session, if there is room; its end is recorded only then.
    pub(crate) fn session_opened(&self, record: impl FnOnce() -> SessionRecord) -> Option<Box<SessionRecord>> {
        let mut kept = None;
        let is_taken = self.put(SESSIONS, || kept.insert(record()).opened.to_string());
        kept.filter(|_| is_taken).map(Box::new)
    }

    pub(crate) fn session_closed(&self, record: SessionRecord, ending: &Ending<'_>) {
        // Whatever else goes on: without its end, a session would be listed as open for as long as this process lives. There are no
        // more ends than beginnings, which were counted.
        self.enqueue(SESSIONS, record.closed(ending).to_string());
    }

    /// A message that a client sent. Tokens never get here: the body of `authenticate` is not kept, nor of what holds one by a client's mistake.
    pub(crate) fn message_in(
        &self,
        session: impl FnOnce() -> Option<String>,
        user: Option<&UserId>,
        r#type: &str,
        text: &str,
    ) {
        if self.log == MessageLog::Off {
            return;
        }
        self.put(MESSAGES, || {
            let keeps_body = self.log == MessageLog::Body && r#type != "authenticate" && !text.contains(TOKEN_BEGINS);
            json!({ "session_id": session(), "user_id": user, "direction": "in",
                "type": r#type.chars().take(64).collect::<String>(), "channel": null, "size": text.len(), "at": clock::utc_iso(),
                "body": keeps_body.then(|| text.chars().take(MAX_BODY_CHARS).collect::<String>()) })
            .to_string()
        });
    }

    /// An event that this process gave to its connections.
    pub(crate) fn message_out(&self, publication: &Publication, r#type: &str, delivered: usize) {
        if self.log == MessageLog::Off {
            return;
        }
        self.put(MESSAGES, || {
            let user = publication.channel.as_str().strip_prefix("user_").and_then(UserId::parse);
            let body = (self.log == MessageLog::Body).then(|| String::from_utf8_lossy(&publication.payload));
            json!({ "session_id": null, "user_id": user, "direction": "out", "type": r#type.chars().take(64).collect::<String>(),
                "channel": publication.channel, "size": publication.payload.len(), "at": clock::utc_iso(), "delivered": delivered,
                "body": body.map(|body| body.chars().take(MAX_BODY_CHARS).collect::<String>()) })
            .to_string()
        });
    }
}

/// What a list is narrowed to.
struct Filter {
    user_id: Option<String>,
    path: Option<String>,
    is_open: Option<bool>,
    since: Option<String>,
    r#type: Option<String>,
    limit: usize,
    before: Option<u64>,
}

impl Filter {
    fn of(request: &poem::Request) -> Result<Self, ApiError> {
        let parameter = |name: &str| http::parameter(request, name).filter(|value| !value.is_empty());
        let is_open = match parameter("open").as_deref() {
            None => None,
            Some("1" | "true") => Some(true),
            Some("0" | "false") => Some(false),
            Some(_) => return Err(http::wrong("open", "must be true or false")),
        };
        let since = parameter("since");
        if since.as_ref().is_some_and(|since| since.parse::<jiff::Timestamp>().is_err()) {
            return Err(http::wrong("since", "must be a time such as 2025-10-22T10:00:00Z"));
        }
        let before = match parameter("cursor") {
            None => None,
            Some(cursor) => Some(cursor.parse().map_err(|_| http::wrong("cursor", "is not one that was given out"))?),
        };
        let limit = http::limit(request, DEFAULT_LIST, 1_000)? as usize;
        let (user_id, path, r#type) = (parameter("user_id"), parameter("path"), parameter("type"));
        Ok(Self { user_id, path, is_open, since, r#type, limit, before })
    }

    /// Whether the walk has come to the page that was asked for.
    fn has_begun(&self, offset: u64) -> bool {
        self.before.is_none_or(|before| offset < before)
    }

    fn lets_through(&self, record: &Value, time: &str) -> bool {
        let is = |field: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| match &record[field] {
                Value::String(text) => text == wanted,
                Value::Number(number) => number.as_u64().is_some_and(|number| wanted.parse() == Ok(number)),
                _ => false,
            })
        };
        // ISO times of one form compare as text; the filter may be written in another one.
        let instant = |text: &str| text.parse::<jiff::Timestamp>().ok();
        let is_recent =
            self.since.as_ref().is_none_or(|since| record[time].as_str().and_then(instant) >= instant(since));
        let is_open = record["disconnected_at"].is_null() && record["close_code"].is_null();
        is("user_id", &self.user_id)
            && is("path", &self.path)
            && is("type", &self.r#type)
            && is_recent
            && self.is_open.is_none_or(|wanted| wanted == is_open)
    }
}

impl SocketContext {
    /// Walks a record channel from its end backwards until `visit` has enough; returns where it stopped. Always from the end, as only what stands
    /// later tells whether a session has ended.
    async fn walk(&self, channel: &str, mut visit: impl FnMut(u64, Value) -> bool) -> Result<Option<u64>, EventError> {
        let channel: ChannelName = channel.parse().expect("a constant name");
        let end = self.broker.position(&channel).await?;
        let mut upper = end.offset;
        while upper > 0 {
            let lower = upper.saturating_sub(PAGE);
            // From the oldest retained where the stream begins later than the page.
            let mut page = self
                .broker
                .history(&channel, Some(&Position { epoch: end.epoch.clone(), offset: lower }), PAGE)
                .await?;
            let is_last = !page.is_complete;
            if is_last {
                page = self.broker.oldest(&channel, PAGE).await?;
            }
            let events = page
                .publications
                .iter()
                .rev()
                .filter_map(|event| Some((event.position.as_ref()?.offset, &event.payload)));
            for (offset, payload) in events.filter(|(offset, _)| *offset <= upper) {
                let Ok(record) = serde_json::from_slice(payload) else { continue };
                if visit(offset, record) {
                    return Ok(Some(offset));
                }
            }
            if is_last {
                return Ok(None);
            }
            upper = lower;
        }
        Ok(None)
    }
}

fn answer(results: Vec<Value>, next: Option<u64>) -> Response {
    poem::web::Json(json!({ "results": results, "next": next.map(|offset| offset.to_string()) })).into_response()
}

/// `GET /api/developer/websocket-sessions/`
#[handler]
pub(crate) async fn list_sessions(
    request: &poem::Request,
    ctx: Data<&Arc<SocketContext>>,
) -> Result<Response, ApiError> {
    http::bearer_with(request, &ctx, Scope::Developer)?;
    let filter = Filter::of(request)?;
    let alive = ctx.presence.processes().await.map_err(|error| http::failed(&error))?;
    let (mut results, mut seen) = (Vec::new(), HashSet::new());
    let next = ctx
        .walk(SESSIONS, |offset, mut record| {
            let id = record["id"].as_str().unwrap_or_default().to_owned();
            // The end of a session stands behind its beginning, and says all that the beginning does.
            if !seen.insert(id) || !filter.has_begun(offset) {
                return false;
            }
            let is_orphan = record["disconnected_at"].is_null()
                && !record["node"].as_str().is_some_and(|node| alive.iter().any(|other| other == node));
            if is_orphan {
                record["close_code"] = 1006.into();
                record["close_reason"] = "the process ended".into();
            }
            if filter.lets_through(&record, "connected_at") {
                results.push(record);
            }
            results.len() >= filter.limit
        })
        .await
        .map_err(|error| http::failed(&error))?;
    results.sort_by(|a, b| b["connected_at"].as_str().cmp(&a["connected_at"].as_str()));
    Ok(answer(results, next))
}

/// `GET /api/developer/websocket-messages/`
#[handler]
pub(crate) async fn list_messages(
    request: &poem::Request,
    ctx: Data<&Arc<SocketContext>>,
) -> Result<Response, ApiError> {
    http::bearer_with(request, &ctx, Scope::Developer)?;
    let filter = Filter::of(request)?;
    let mut results = Vec::new();
    let next = ctx
        .walk(MESSAGES, |offset, record| {
            if filter.has_begun(offset) && filter.lets_through(&record, "at") {
                results.push(record);
            }
            results.len() >= filter.limit
        })
        .await
        .map_err(|error| http::failed(&error))?;
    Ok(answer(results, next))
}
