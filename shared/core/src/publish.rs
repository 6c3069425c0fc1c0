//! Publishing to people: which channel an event goes to, and the form in which it is stored there.
//!
//! A stored event is `{"type", "data", "timestamp", "expires_at_ms"?}`; the socket tier turns it into each dialect's own form. The API, the
//! command line and whoever speaks Redis use the same channels:
//!
//! | type | with a user | without |
//! |---|---|---|
//! | `alert` | (not allowed) | `alerts`: everybody |
//! | `notification` | `user_{id}` | `notifications`: everybody |
//! | `order_update` | `user_{id}` | `orders` |
//! | `material_update` | `user_{id}` | `materials` |
//! | any other | `user_{id}` | the channel that is named |

use crate::{auth::UserId, clock, config::RealtimeSettings};
use oneiro_events::{Broker, ChannelName, EventError, MAX_CHANNEL_BYTES, Position, Retention};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// Largest event, in bytes of JSON.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;
/// A year: longer than any history is kept.
const MAX_TTL_SECONDS: u64 = 366 * 24 * 3600;

/// Everybody's channels, by the names that clients and publishers use.
pub const SHARED_CHANNELS: [&str; 4] = ["notifications", "alerts", "orders", "materials"];

/// What somebody wants to publish.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct NewEvent {
    /// `notification`, `alert`, `order_update`, `material_update`, or any other word.
    pub r#type: String,
    /// An object; what it holds is the publisher's business.
    pub data: Value,
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

/// Why an event is not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// A field is wrong; nothing was published.
    #[error("{field} {problem}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// Redis did not take it.
    #[error("the event could not be stored")]
    Unavailable(#[source] EventError),
}

/// The channel of one user. Ids that a channel name cannot hold are written in hexadecimal behind `x-`.
pub fn user_channel(user: &UserId) -> ChannelName {
    let plain = format!("user_{user}");
    if !user.as_str().starts_with("x-")
        && let Ok(channel) = plain.parse()
    {
        return channel;
    }
    let mut hex: String = user.as_str().bytes().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(MAX_CHANNEL_BYTES - "user_x-".len());
    format!("user_x-{hex}").parse().expect("hexadecimal digits, cut to fit")
}

impl NewEvent {
    /// The channel it goes to, or what is wrong with it.
    ///
    /// # Errors
    /// [`PublishError::Invalid`] names the field.
    pub fn target(&self) -> Result<ChannelName, PublishError> {
        let wrong = |field, problem| Err(PublishError::Invalid { field, problem });
        let word = &self.r#type;
        if word.is_empty() || word.len() > 64 || !word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
            return wrong("type", "must be 1 to 64 letters, digits, `_`, `.` or `-`");
        }
        if !self.data.is_object() {
            return wrong("data", "must be a JSON object");
        }
        if self.ttl_seconds.is_some_and(|ttl| ttl == 0 || ttl > MAX_TTL_SECONDS) {
            return wrong("ttl_seconds", "must be from 1 to 31622400");
        }
        let own = match word.as_str() {
            "alert" => Some("alerts"),
            "notification" => Some("notifications"),
            "order_update" => Some("orders"),
            "material_update" => Some("materials"),
            _ => None,
        };
        match (&self.user_id, &self.channel, own) {
            (Some(_), Some(_), _) => wrong("channel", "cannot be given together with user_id"),
            (Some(_), None, Some("alerts")) => wrong("user_id", "cannot be given: an alert goes to everybody"),
            (Some(user), None, _) => Ok(user_channel(user)),
            (None, Some(name), own) => {
                let Ok(channel) = name.parse::<ChannelName>() else {
                    return wrong("channel", "must be 1 to 128 letters, digits, `_`, `.`, `:` or `-`");
                };
                // Their events are states of records; a publisher's would contradict them.
                if name.starts_with("dream_images_") || name == "presence" {
                    return wrong("channel", "belongs to Oneiro itself");
                }
                if own.is_some_and(|own| own != name) && SHARED_CHANNELS.contains(&name.as_str()) {
                    return wrong("channel", "is another type's");
                }
                Ok(channel)
            }
            (None, None, Some(own)) => Ok(own.parse().expect("a constant name")),
            (None, None, None) => wrong("channel", "is missing: say user_id or channel"),
        }
    }

    /// Stores the event on its channel and delivers it to whoever listens, in one step.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, broker: &Broker, settings: &RealtimeSettings) -> Result<Published, PublishError> {
        let channel = self.target()?;
        let mut record = serde_json::json!({ "type": self.r#type, "data": self.data, "timestamp": clock::utc_iso() });
        if let Some(ttl) = self.ttl_seconds {
            record["expires_at_ms"] = (clock::unix_millis() + ttl * 1000).into();
        }
        let payload = record.to_string();
        if payload.len() > MAX_EVENT_BYTES {
            return Err(PublishError::Invalid { field: "data", problem: "makes the event larger than 65536 bytes" });
        }
        let position = if self.user_id.is_some() {
            // A user's channel is the inbox that waits for the next connection.
            let retention = Retention {
                history_len: settings.inbox_messages,
                history_ttl: Duration::from_secs(settings.inbox_seconds),
            };
            broker.publish_with(&channel, payload.as_bytes(), retention).await
        } else {
            broker.publish(&channel, payload.as_bytes()).await
        };
        let Position { epoch, offset } = position.map_err(PublishError::Unavailable)?;
        Ok(Published { channel: channel.as_str().to_owned(), offset, epoch: epoch.as_str().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: serde_json::Value) -> NewEvent {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_user_has_a_channel_of_its_own() {
        let channel = |id: &str| user_channel(&UserId::parse(id).unwrap()).to_string();
        assert_eq!(channel("7"), "user_7");
        assert_eq!(channel("a b"), "user_x-612062");
        assert_ne!(channel("x-612062"), channel("a b"));
        assert!(channel(&"ü".repeat(64)).len() <= MAX_CHANNEL_BYTES);
    }

    #[test]
    fn each_type_has_its_channel() {
        for (json, channel) in [
            (serde_json::json!({"type": "alert", "data": {}}), "alerts"),
            (serde_json::json!({"type": "notification", "data": {}, "user_id": 7}), "user_7"),
            (serde_json::json!({"type": "order_update", "data": {}}), "orders"),
            (serde_json::json!({"type": "score", "data": {}, "channel": "post_1"}), "post_1"),
            (serde_json::json!({"type": "score", "data": {}, "user_id": "a b"}), "user_x-612062"),
        ] {
            assert_eq!(event(json).target().unwrap().as_str(), channel);
        }
    }

    #[test]
    fn wrong_events_name_their_field() {
        for (json, field) in [
            (serde_json::json!({"type": "", "data": {}}), "type"),
            (serde_json::json!({"type": "alert", "data": []}), "data"),
            (serde_json::json!({"type": "alert", "data": {}, "user_id": 1}), "user_id"),
            (serde_json::json!({"type": "x", "data": {}}), "channel"),
            (serde_json::json!({"type": "x", "data": {}, "channel": "dream_images_1"}), "channel"),
            (serde_json::json!({"type": "x", "data": {}, "channel": "a b"}), "channel"),
            (serde_json::json!({"type": "x", "data": {}, "channel": "c", "user_id": 1}), "channel"),
            (serde_json::json!({"type": "x", "data": {}, "channel": "c", "ttl_seconds": 0}), "ttl_seconds"),
        ] {
            match event(json.clone()).target() {
                Err(PublishError::Invalid { field: named, .. }) => assert_eq!(named, field, "{json}"),
                other => panic!("{json}: {other:?}"),
            }
        }
    }
}
