//! Dialect P, `/api/v1/ws`: who is online, chat, typing, notifications. And its HTTP: `/api/v1/online`, `/api/v1/status/{user_id}`.

use super::{
    SocketContext,
    channels::{Joined, user_channel},
    close::Close,
    encode::Form,
    fields::{Fields, ObjectWriter},
    http,
    messages::ErrorCode,
    session::{Session, unavailable},
};
use crate::ApiError;
use oneiro_core::{auth::UserId, clock, publish::PRESENCE_CHANNEL};
use oneiro_events::{
    EventError,
    presence::{Around, Member},
};
use poem::{IntoResponse, Response, handler, web::Data};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::time::Instant;

/// Longest chat message in bytes, well below the frame limit, so that what is stored stays small.
const MAX_CHAT_BYTES: usize = 16 * 1024;
/// Longest context, device or status text in bytes.
const MAX_LABEL_BYTES: usize = 128;
const DEFAULT_LIST: u64 = 100;

/// The event around a member, which is a user id as JSON.
pub(crate) fn user_status(is_online: bool) -> Around {
    let status = if is_online { "online" } else { "offline" };
    let after = format!(r#","status":"{status}","timestamp":"{}"}}}}"#, clock::utc_iso());
    (r#"{"type":"user_status","data":{"user_id":"#.to_owned(), after)
}

/// A user as presence knows it: the id as JSON, so that events can be put together around it.
fn member_of(user: &UserId) -> String {
    serde_json::to_string(user).expect("an id is a number or a string")
}

/// A seat taken in presence; given back by the session's end.
pub(crate) struct Seat {
    member: String,
}

impl Session {
    /// After the token: take a seat, then greet, as the greeting must be the first frame and counts this user already.
    pub(crate) async fn enter_presence(&mut self) -> Result<(), Close> {
        let claims = self.claims()?;
        let (user, name) = (claims.user_id.clone(), claims.display_name());
        let member = member_of(&user);
        let presence = &self.ctx.presence;
        let arrival = presence.connect(&member).await;
        self.seat = Some(Seat { member });
        let arrival = arrival.map_err(|error| unavailable(&error))?;
        let mut frame = ObjectWriter::new();
        let data = json!({ "message": format!("欢迎, {name}!"), "user_id": user, "online_count": arrival.online });
        frame.value("type", &"connected").value("data", &data);
        self.send(&frame.finish());
        // Live behind what the greeting counts: whoever came or went since is told once.
        let channel = PRESENCE_CHANNEL.parse().expect("a constant name");
        let (membership, _) = self.join(&channel, Form::Presence).await?;
        let live_from = arrival.position;
        self.catch_up(&membership, self.encoding(Form::Presence), live_from.clone()).await?;
        self.memberships.push(Joined { membership, form: Form::Presence, live_from, is_own: true });
        self.join_own(&"notifications".parse().expect("a constant name"), Form::Presence).await?;
        self.join_inbox(&user_channel(&user), Form::Presence).await
    }

    /// Gives the seat back; the user goes offline after the grace unless there is another connection.
    pub(crate) async fn leave_presence(&mut self) {
        if let Some(seat) = self.seat.take()
            && let Err(error) = Box::pin(self.ctx.presence.disconnect(&seat.member)).await
        {
            tracing::debug!(error = crate::error::report(&error), "a disconnection is told later");
        }
    }

    /// Messages that only this dialect knows. `false`: not one of them.
    pub(crate) async fn on_presence_message(&mut self, r#type: &str, message: &Fields<'_>) -> Result<bool, Close> {
        match r#type {
            "typing" => self.on_typing(message).await,
            "presence" => self.on_presence(message).await,
            "message" => self.on_chat(message).await,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn invalid(&self, what: &str) {
        self.send_error(ErrorCode::InvalidMessage, what);
    }

    fn failed(&self, error: &EventError) {
        tracing::warn!(error = crate::error::report(error), "a message could not be passed on");
        self.send_error(ErrorCode::MessageProcessingError, "the message could not be passed on; please try again");
    }

    /// To the members of the context's channel where the sender is one; else, as the seed has it, to everybody, while that is affordable.
    async fn on_typing(&mut self, message: &Fields<'_>) {
        let data = message.object("data");
        let context = data.as_ref().and_then(|data| data.text("context")).filter(|text| text.len() <= MAX_LABEL_BYTES);
        let is_typing = data.as_ref().and_then(|data| data.get::<bool>("is_typing"));
        let (Some(context), Some(is_typing), Ok(claims)) = (context, is_typing, self.claims()) else {
            return self.invalid("`data` must hold `is_typing` (true or false) and `context` (text)");
        };
        if !self.may_signal(&claims.user_id) {
            return;
        }
        let event = json!({ "type": "typing", "data": { "user_id": claims.user_id, "is_typing": is_typing, "context": context } });
        let joined =
            self.memberships.iter().find(|joined| !joined.is_own && joined.membership.channel().as_str() == context);
        if let Some(joined) = joined {
            let outcome = self.ctx.broker.notify(joined.membership.channel(), event.to_string().as_bytes()).await;
            if let Err(error) = outcome {
                self.failed(&error);
            }
            return;
        }
        self.tell_everybody(&event).await;
    }

    /// Whether others may be told one more thing of this user: one message makes as many frames as there are others.
    fn may_signal(&self, user: &UserId) -> bool {
        let may = self.ctx.signals.admit(user, Instant::now());
        if !may {
            self.send_error(
                ErrorCode::RateLimited,
                "too many typing and presence messages; nobody was told of this one",
            );
        }
        may
    }

    async fn tell_everybody(&self, event: &Value) {
        let settings = &self.ctx.settings;
        if !settings.presence_broadcast {
            return;
        }
        let told = async {
            let (online, _) = self.ctx.presence.online(1).await?;
            if online <= settings.presence_broadcast_limit {
                let channel = PRESENCE_CHANNEL.parse().expect("a constant name");
                self.ctx.broker.notify(&channel, event.to_string().as_bytes()).await?;
            }
            Ok(())
        };
        if let Err(error) = told.await {
            self.failed(&error);
        }
    }

    /// `offline` means invisible: told as going offline, though the connection stays.
    async fn on_presence(&mut self, message: &Fields<'_>) {
        let status = message.text("status").filter(|status| ["online", "away", "busy", "offline"].contains(&&**status));
        let (Some(status), Ok(claims)) = (status, self.claims()) else {
            return self.invalid("`status` must be online, away, busy or offline");
        };
        let device =
            message.object("data").and_then(|data| data.text("device")).filter(|text| text.len() <= MAX_LABEL_BYTES);
        let details = device.map_or_else(|| json!({}), |device| json!({ "device": device }));
        if !self.may_signal(&claims.user_id) {
            return;
        }
        let stored = json!({ "status": status, "data": details }).to_string();
        let is_hidden = status == "offline";
        if let Err(error) = self.ctx.presence.set_status(&member_of(&claims.user_id), &stored, is_hidden).await {
            return self.failed(&error);
        }
        if !is_hidden {
            let event =
                json!({ "type": "presence", "data": { "user_id": claims.user_id, "status": status, "data": details } });
            self.tell_everybody(&event).await;
        }
    }

    /// Whether one more chat message may go into the receiver's inbox, should the receiver be away: it holds so many events of whatever kind, and
    /// the oldest go first. And there are as many inboxes as one can think of ids.
    async fn may_wait(&self, from: &UserId, to: &UserId) -> Result<bool, EventError> {
        let (waiting, presence) = (&self.ctx.waiting_chats, &self.ctx.presence);
        if !waiting.is_limited() {
            return Ok(true);
        }
        let receiver = presence.member(&member_of(to)).await?;
        if receiver.connections > 0 {
            waiting.clear(from, to);
            return Ok(true);
        }
        let now = std::time::Instant::now();
        if waiting.admit(from, to, receiver.last_seen_ms, now) {
            return Ok(true);
        }
        let Some(receivers) = waiting.receivers_to_review(from, now) else { return Ok(false) };
        let members: Vec<String> = receivers.iter().map(member_of).collect();
        let seen = presence.last_seen_ms(&members).await?;
        waiting.review(from, &receivers.into_iter().zip(seen).collect::<Vec<_>>(), now);
        Ok(waiting.admit(from, to, receiver.last_seen_ms, now))
    }

    /// Stored in the receiver's inbox, so it waits for a receiver who is away.
    async fn on_chat(&mut self, message: &Fields<'_>) {
        let (to, text) = (message.get::<UserId>("to_user_id"), message.text("message"));
        let (Some(to), Some(text), Ok(claims)) = (to, text, self.claims()) else {
            return self.invalid("`to_user_id` must be a user's id and `message` a text");
        };
        if text.len() > MAX_CHAT_BYTES {
            return self.send_error(ErrorCode::TooLarge, "the message is longer than 16 KiB");
        }
        if !self.ctx.chats.admit(&claims.user_id, Instant::now()) {
            return self.send_error(ErrorCode::RateLimited, "too many chat messages; this one was not sent");
        }
        match self.may_wait(&claims.user_id, &to).await {
            Ok(true) => {}
            Ok(false) => {
                let why =
                    "this user is away, and as many of your messages wait already, for this user or for all, as may";
                return self.send_error(ErrorCode::RateLimited, why);
            }
            Err(error) => return self.failed(&error),
        }
        let now = clock::utc_iso();
        let sent_at =
            message.text("timestamp").filter(|time| time.len() <= 64 && time.parse::<jiff::Timestamp>().is_ok());
        let data = json!({ "from_user_id": claims.user_id, "from_username": claims.display_name(), "message": text,
            "timestamp": sent_at.unwrap_or_else(|| now.clone().into()) });
        let event = json!({ "type": "chat", "data": data, "timestamp": now });
        if let Err(error) = self.ctx.store_for_user(&to, &event).await {
            self.failed(&error);
        }
    }
}

fn iso(unix_ms: u64) -> Value {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or(Value::Null, |time| time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string().into())
}

fn view(member: &Member) -> Value {
    let id: Value = serde_json::from_str(&member.member).unwrap_or(Value::Null);
    // Whoever is online is being seen right now.
    let last_seen = if member.is_online { Some(clock::unix_millis()) } else { member.last_seen_ms };
    let connections = if member.is_online { member.connections } else { 0 };
    json!({ "user_id": id, "online": member.is_online, "last_seen": last_seen.map_or(Value::Null, iso), "connections_count": connections })
}

/// `GET /api/v1/online?limit=100`
#[handler]
pub(crate) async fn list_online(request: &poem::Request, ctx: Data<&Arc<SocketContext>>) -> Result<Response, ApiError> {
    http::bearer(request, &ctx)?;
    let limit = http::limit(request, DEFAULT_LIST, 1_000)?;
    let (count, members) = ctx.presence.online(limit).await.map_err(|error| http::failed(&error))?;
    let users: Vec<Value> = members.iter().map(view).collect();
    Ok(poem::web::Json(json!({ "online_count": count, "users": users })).into_response())
}

/// `GET /api/v1/online/count`
#[handler]
pub(crate) async fn count_online(
    request: &poem::Request,
    ctx: Data<&Arc<SocketContext>>,
) -> Result<Response, ApiError> {
    http::bearer(request, &ctx)?;
    let (count, _) = ctx.presence.online(1).await.map_err(|error| http::failed(&error))?;
    Ok(poem::web::Json(json!({ "online_count": count })).into_response())
}

/// `GET /api/v1/status/{user_id}`
#[handler]
pub(crate) async fn show_status(request: &poem::Request, ctx: Data<&Arc<SocketContext>>) -> Result<Response, ApiError> {
    http::bearer(request, &ctx)?;
    let id = request.raw_path_param("user_id").and_then(UserId::parse).ok_or_else(|| ApiError::not_found("user"))?;
    let member = ctx.presence.member(&member_of(&id)).await.map_err(|error| http::failed(&error))?;
    Ok(poem::web::Json(view(&member)).into_response())
}
