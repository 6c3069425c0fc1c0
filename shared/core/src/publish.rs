//! Publishing to people: which channel an event goes to, and the form in which it is stored there.
//!
//! A stored event is `{"type", "data", "timestamp", "expires_at_ms"?}`; the socket tier turns it into each dialect's own form. The API, the
//! command line and whoever speaks Redis use the same channels:
//!
//! | type | goes to |
//! |---|---|
//! | any, with a user | `user_{id}`, the user's inbox |
//! | any, with a channel | that channel |
//! | `alert`, with neither | `alerts`: everybody |

use crate::{auth::UserId, clock, config::RealtimeSettings};
use oneiro_events::{Broker, ChannelName, EventError, MAX_CHANNEL_BYTES, Position, Retention};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, time::Duration};

/// Largest event, in bytes of JSON.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;
/// A year: longer than any history is kept.
const MAX_TTL_SECONDS: u64 = 365 * 24 * 3600;
/// Where typing, presence and status of users are told.
pub const PRESENCE_CHANNEL: &str = "presence";
/// Where operators tell every socket process what to do; see [`Order`](crate::sockets::Order).
pub const CONTROL_CHANNEL: &str = "socket_control";
/// What the names of channels begin with on which socket processes answer.
pub const REPLY_PREFIX: &str = "socket_replies_";
/// Where socket processes record who was connected, for the developer endpoints.
pub const SESSIONS_CHANNEL: &str = "records_sessions";
/// Where they record what was sent.
pub const MESSAGES_CHANNEL: &str = "records_messages";

/// Everybody's channels, by the names that clients and publishers use.
pub const SHARED_CHANNELS: [&str; 4] = ["notifications", "alerts", "orders", "materials"];

/// What somebody wants to publish.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct NewEvent {
    /// `notification`, `alert`, `order_update`, `material_update`, or any other word.
    pub r#type: String,
    /// What it holds is the publisher's business.
    #[serde(default)]
    pub data: Map<String, Value>,
    /// To whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// Where, for types without a channel of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// For how long it is worth delivering, from now; as long as histories are kept where `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
}

/// Where an event went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The channel.
    pub channel: String,
    /// Its place there.
    pub offset: u64,
    /// The generation of the channel's history.
    pub epoch: String,
}

/// An event that is understood and ready to go.
#[derive(Debug, Clone)]
pub struct Accepted {
    channel: ChannelName,
    payload: Vec<u8>,
    ttl: Duration,
    is_for_user: bool,
}

/// What is wrong, by field.
pub type FieldProblems = BTreeMap<String, String>;

/// The channel of one user. Ids that a channel name cannot hold are written in hexadecimal behind `x-`, or as their SHA-256 behind `h-` where
/// that is too long.
pub fn user_channel(user: &UserId) -> ChannelName {
    let plain = format!("user_{user}");
    let is_ours = ["x-", "h-"].iter().any(|prefix| user.as_str().starts_with(prefix));
    if !is_ours && let Ok(channel) = plain.parse() {
        return channel;
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let written = format!("user_x-{}", hex(user.as_str().as_bytes()));
    let name = if written.len() <= MAX_CHANNEL_BYTES {
        written
    } else {
        format!("user_h-{}", hex(&Sha256::digest(user.as_str())))
    };
    name.parse().expect("hexadecimal digits of a bounded length")
}

/// Whether a channel's events are Oneiro's own: a publisher's would contradict them.
pub fn is_reserved(channel: &str) -> bool {
    let own = [PRESENCE_CHANNEL, CONTROL_CHANNEL, SESSIONS_CHANNEL, MESSAGES_CHANNEL];
    channel.starts_with("dream_images_") || channel.starts_with(REPLY_PREFIX) || own.contains(&channel)
}

impl NewEvent {
    /// Checks the event and decides where it goes. Events that clients know by an id get one where `data` has none.
    ///
    /// # Errors
    /// Every wrong field with what is wrong with it.
    pub fn accept(self) -> Result<Accepted, FieldProblems> {
        let mut wrong = FieldProblems::new();
        let mut refuse = |field: &str, why: &str| {
            wrong.entry(field.to_owned()).or_insert_with(|| why.to_owned());
        };
        let word = self.r#type.as_str();
        if !(1..=64).contains(&word.len()) || !word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
            refuse("type", "must be 1 to 64 letters, digits, `_`, `.` or `-`");
        }
        if self.ttl_seconds.is_some_and(|ttl| !(1..=MAX_TTL_SECONDS).contains(&ttl)) {
            refuse("ttl_seconds", "must be from 1 to 31536000");
        }
        // By name it is the same inbox, and waits as long.
        let is_for_user = self.user_id.is_some() || self.channel.as_ref().is_some_and(|name| name.starts_with("user_"));
        let channel = match (&self.channel, &self.user_id, word) {
            (Some(_), Some(_), _) => Err(("channel", "cannot be given together with user_id")),
            (Some(name), None, _) if is_reserved(name) => Err(("channel", "is kept for the service itself")),
            (Some(name), None, _) => {
                name.parse().map_err(|_| ("channel", "must be 1 to 128 letters, digits, `_`, `.`, `:` or `-`"))
            }
            (None, Some(user), _) => Ok(user_channel(user)),
            (None, None, "alert") => Ok("alerts".parse().expect("a constant name")),
            (None, None, "notification" | "order_update" | "material_update") => {
                Err(("user_id", "is needed: this type is for one user; or name a channel"))
            }
            (None, None, _) => Err(("channel", "is needed for this type; or name a user")),
        };
        let channel = channel.map_err(|(field, why)| refuse(field, why)).ok();
        let mut data = self.data;
        let is_known = matches!(word, "notification" | "alert" | "order_update" | "material_update");
        if is_known && !data.contains_key("id") {
            // Microseconds, made unlikely to repeat by their last digits; below 2^53 for three centuries.
            data.insert("id".to_owned(), (clock::unix_millis() * 1_000 + rand::random::<u64>() % 1_000).into());
        }
        let mut record = serde_json::json!({ "type": word, "data": data, "timestamp": clock::utc_iso() });
        if let Some(ttl) = self.ttl_seconds.filter(|&ttl| ttl <= MAX_TTL_SECONDS) {
            record["expires_at_ms"] = (clock::unix_millis() + ttl * 1_000).into();
        }
        let payload = record.to_string().into_bytes();
        if payload.len() > MAX_EVENT_BYTES {
            refuse("data", "makes the event larger than 65536 bytes");
        }
        let ttl = Duration::from_secs(self.ttl_seconds.unwrap_or_default());
        match channel {
            Some(channel) if wrong.is_empty() => Ok(Accepted { channel, payload, ttl, is_for_user }),
            _ => Err(wrong),
        }
    }
}

impl Accepted {
    /// Stores the event on its channel and delivers it to whoever listens, in one step.
    ///
    /// # Errors
    /// [`EventError`] where Redis did not take it.
    pub async fn publish(&self, broker: &Broker, settings: &RealtimeSettings) -> Result<Published, EventError> {
        let options = broker.options();
        let mut retention = if self.is_for_user {
            // A user's channel is the inbox that waits for the next connection.
            inbox_retention(settings)
        } else {
            Retention { history_len: options.history_len, history_ttl: options.history_ttl }
        };
        // The stream of a channel outlives its longest event, not only its last one.
        retention.history_ttl = retention.history_ttl.max(self.ttl);
        let Position { epoch, offset } = broker.publish_with(&self.channel, &self.payload, retention).await?;
        metrics::counter!("oneiro_events_published_total").increment(1);
        Ok(Published { channel: self.channel.as_str().to_owned(), offset, epoch: epoch.as_str().to_owned() })
    }
}

/// How much of a user's channel waits for the next connection.
pub fn inbox_retention(settings: &RealtimeSettings) -> Retention {
    Retention { history_len: settings.inbox_messages, history_ttl: Duration::from_secs(settings.inbox_seconds) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: Value) -> NewEvent {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_user_has_a_channel_of_its_own() {
        let channel = |id: &str| user_channel(&UserId::parse(id).unwrap()).to_string();
        assert_eq!(channel("7"), "user_7");
        assert_eq!(channel("a b"), "user_x-612062");
        assert_ne!(channel("x-612062"), channel("a b"));
        assert!(channel(&"ü".repeat(64)).len() <= MAX_CHANNEL_BYTES);
        assert_ne!(channel(&format!("{}a", "ü".repeat(60))), channel(&format!("{}b", "ü".repeat(60))));
    }

    #[test]
    fn each_event_has_its_channel() {
        for (json, channel) in [
            (serde_json::json!({"type": "alert", "data": {}}), "alerts"),
            (serde_json::json!({"type": "notification", "data": {}, "user_id": 7}), "user_7"),
            (serde_json::json!({"type": "order_update", "data": {}, "channel": "orders"}), "orders"),
            (serde_json::json!({"type": "score", "data": {}, "channel": "post_1"}), "post_1"),
            (serde_json::json!({"type": "score", "data": {}, "user_id": "a b"}), "user_x-612062"),
        ] {
            assert_eq!(event(json).accept().unwrap().channel.as_str(), channel);
        }
    }

    #[test]
    fn wrong_events_name_their_fields() {
        for (json, field) in [
            (serde_json::json!({"type": ""}), "type"),
            (serde_json::json!({"type": "x"}), "channel"),
            (serde_json::json!({"type": "notification"}), "user_id"),
            (serde_json::json!({"type": "x", "channel": "dream_images_1"}), "channel"),
            (serde_json::json!({"type": "x", "channel": "a b"}), "channel"),
            (serde_json::json!({"type": "x", "channel": CONTROL_CHANNEL}), "channel"),
            (serde_json::json!({"type": "x", "channel": "c", "user_id": 1}), "channel"),
            (serde_json::json!({"type": "x", "channel": "c", "ttl_seconds": 0}), "ttl_seconds"),
            (serde_json::json!({"type": "x", "channel": "c", "ttl_seconds": u64::MAX}), "ttl_seconds"),
            (serde_json::json!({"type": "x", "channel": "c", "data": {"a": "x".repeat(MAX_EVENT_BYTES)}}), "data"),
        ] {
            let wrong = event(json).accept().unwrap_err();
            assert!(wrong.contains_key(field), "{field}: {wrong:?}");
        }
    }
}
