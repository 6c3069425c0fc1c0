//! `[realtime]`: the socket tier, wherever it runs (`ws`, and `api` in development).

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How ids of dreams are written in server frames. A connection may choose with `?ids=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdForm {
    /// A string in `connection_established`, a number in events: what most documented clients expect.
    #[default]
    Mixed,
    /// Strings everywhere.
    String,
    /// Numbers everywhere.
    Number,
}

/// What is kept of messages for the developer endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageLog {
    /// Nothing.
    Off,
    /// Direction, type, channel, size and time.
    #[default]
    Meta,
    /// The same and the body, which may hold what people wrote to each other.
    Body,
}

/// `[realtime]`. Every key has a default, so an empty table is a good one. Zero switches a limit off where the key says so.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RealtimeSettings {
    /// Seconds within which a dream socket without a token must send `authenticate`, else close 4008. 1 to 600; default 30.
    pub auth_timeout_seconds: u64,
    /// Seconds without any inbound frame after which a connection is closed, with 1001 `idle timeout`. 5 to 86,400; default 75, two and a half
    /// heartbeats.
    pub idle_timeout_seconds: u64,
    /// Seconds between server heartbeats: protocol pings everywhere, JSON pings on dream sockets. 1 to 3,600; default 30.
    pub ping_interval_seconds: u64,
    /// Ends idle connections without a close frame, which browsers report as 1006. Default false.
    pub legacy_1006: bool,
    /// Form of dream ids: `mixed`, `string` or `number`. Default mixed.
    pub ids: IdForm,
    /// Largest inbound message, in bytes; more is closed with 1009. 1,024 to 16 MiB; default 65,536.
    pub max_message_bytes: usize,
    /// Most frames waiting for one connection. Beyond, state events are coalesced, then the connection is closed with 4010. Default 1,024.
    pub queue_messages: usize,
    /// Most bytes waiting for one connection. At least one frame always fits. Default 1 MiB.
    pub queue_bytes: usize,
    /// Inbound messages a second one connection may sustain; more get an error frame, persistent excess 4029. 0: no limit; default 20.
    pub messages_per_second: u32,
    /// Messages it may send at once before that. Default 60.
    pub message_burst: u32,
    /// Typing and presence messages a second of one user: others are told of each. More get an error frame. 0: no limit; default 4. Bursts of four
    /// seconds' worth pass.
    pub signals_per_second_per_user: u32,
    /// Chat messages a second of one user, over all connections to one process; more get an error frame and are not sent. 0: no limit; default 5.
    /// Bursts of four seconds' worth pass.
    pub chats_per_second_per_user: u32,
    /// Handshakes a second from one address; more get HTTP 429. 0: no limit; default 50.
    pub handshakes_per_second_per_address: u32,
    /// Handshakes a second of one user; more are closed with 4029. 0: no limit; default 10. Bursts of four seconds' worth pass.
    pub handshakes_per_second_per_user: u32,
    /// Connections of one process; more are closed with 1013. 0: no limit; default 100,000.
    pub max_connections: usize,
    /// Connections of one user on one process; more are closed with 4009. 0: no limit; default 50.
    pub connections_per_user: usize,
    /// Proxies in front whose `X-Forwarded-For` entries are believed, counted from the right. 0: the peer's address counts. Default 0.
    pub trusted_proxies: usize,
    /// Origins whose pages may connect, such as `https://app.example`; `*` is any. Empty: any page may connect with a token, only pages of
    /// the same host with a cookie. Default empty.
    pub allowed_origins: Vec<String>,
    /// Cookie that may carry the token; empty: none. Default `access_token`.
    pub cookie_name: String,
    /// Channels that any signed-in user may subscribe to, `*` at the end matching any rest. Default `post_*`, `room_*`, `public_*`.
    pub open_channels: Vec<String>,
    /// Channels one connection may subscribe to beyond its own. Default 100.
    pub max_channels: usize,
    /// Seconds a process's presence is believed without a sign of life. 3 to 300; default 10.
    pub presence_lease_seconds: u64,
    /// Seconds between a user's last disconnection and `user_status offline`, for page reloads. 0 to 300; default 5.
    pub presence_grace_seconds: u64,
    /// Whether `user_status`, `presence` and `typing` without a joined context reach everybody. Default true.
    pub presence_broadcast: bool,
    /// Users online above which that ends, as its cost grows with their square. Default 1,000.
    pub presence_broadcast_limit: u64,
    /// Seconds for which a user's notifications and chat messages wait for the next connection. Default 604,800, a week.
    pub inbox_seconds: u64,
    /// How many of them wait. Default 1,000.
    pub inbox_messages: u64,
    /// Chat messages of one sender that wait for a user who is away; more get an error frame until that user has been online. 0: no limit;
    /// default 100.
    pub inbox_chats_per_sender: u32,
    /// The same over all users who are away, whether they exist or not. 0: no limit; default 1,000.
    pub inbox_chats_per_sender_total: u32,
    /// Least and most seconds of the `retry_after` that a draining process tells its clients, drawn at random for each. Default 1 and 10.
    pub drain_retry_after_seconds: [u64; 2],
    /// Sessions kept for the developer endpoint, the newest. Default 10,000.
    pub sessions_kept: u64,
    /// Messages kept for the developer endpoint, the newest. Default 10,000.
    pub messages_kept: u64,
    /// Seconds for which both are kept. Default 604,800, a week.
    pub records_seconds: u64,
    /// What is kept of messages: `off`, `meta` or `body`. Default meta.
    pub message_log: MessageLog,
    /// Messages a second that one process records at most; more are counted, not kept. Default 200.
    pub records_per_second: u32,
}

impl Default for RealtimeSettings {
    fn default() -> Self {
        const WEEK: u64 = 7 * 24 * 60 * 60;
        Self {
            auth_timeout_seconds: 30,
            idle_timeout_seconds: 75,
            ping_interval_seconds: 30,
            legacy_1006: false,
            ids: IdForm::Mixed,
            max_message_bytes: 64 * 1024,
            queue_messages: 1_024,
            queue_bytes: 1024 * 1024,
            messages_per_second: 20,
            message_burst: 60,
            signals_per_second_per_user: 4,
            chats_per_second_per_user: 5,
            handshakes_per_second_per_address: 50,
            handshakes_per_second_per_user: 10,
            max_connections: 100_000,
            connections_per_user: 50,
            trusted_proxies: 0,
            allowed_origins: Vec::new(),
            cookie_name: "access_token".to_owned(),
            open_channels: ["post_*", "room_*", "public_*"].map(str::to_owned).to_vec(),
            max_channels: 100,
            presence_lease_seconds: 10,
            presence_grace_seconds: 5,
            presence_broadcast: true,
            presence_broadcast_limit: 1_000,
            inbox_seconds: WEEK,
            inbox_messages: 1_000,
            inbox_chats_per_sender: 100,
            inbox_chats_per_sender_total: 1_000,
            drain_retry_after_seconds: [1, 10],
            sessions_kept: 10_000,
            messages_kept: 10_000,
            records_seconds: WEEK,
            message_log: MessageLog::Meta,
            records_per_second: 200,
        }
    }
}

impl RealtimeSettings {
    /// What is impossible, one sentence a key; empty where all is well.
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut range = |key: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                mistakes.push(format!("realtime.{key}: {value} is not from {least} to {most}"));
            }
        };
        range("auth_timeout_seconds", self.auth_timeout_seconds, 1, 600);
        range("idle_timeout_seconds", self.idle_timeout_seconds, 5, 86_400);
        range("ping_interval_seconds", self.ping_interval_seconds, 1, 3_600);
        range("max_message_bytes", self.max_message_bytes as u64, 1_024, 16 * 1024 * 1024);
        range("queue_messages", self.queue_messages as u64, 8, 1_000_000);
        range("queue_bytes", self.queue_bytes as u64, 64 * 1024, 1 << 30);
        range("message_burst", u64::from(self.message_burst), 1, 1_000_000);
        range("presence_lease_seconds", self.presence_lease_seconds, 3, 300);
        range("presence_grace_seconds", self.presence_grace_seconds, 0, 300);
        range("inbox_seconds", self.inbox_seconds, 1, u64::MAX / 1_000_000);
        range("inbox_messages", self.inbox_messages, 1, 1_000_000);
        range("sessions_kept", self.sessions_kept, 1, 10_000_000);
        range("messages_kept", self.messages_kept, 1, 10_000_000);
        range("records_seconds", self.records_seconds, 1, u64::MAX / 1_000_000);
        let [least, most] = self.drain_retry_after_seconds;
        if least > most || most > 3_600 {
            mistakes.push("realtime.drain_retry_after_seconds: must be [least, most] of 0 to 3600 seconds".to_owned());
        }
        super::check::origins("realtime.allowed_origins", &self.allowed_origins, &mut mistakes);
        mistakes
    }

    /// [`RealtimeSettings::auth_timeout_seconds`].
    pub fn auth_timeout(&self) -> Duration {
        Duration::from_secs(self.auth_timeout_seconds)
    }

    /// [`RealtimeSettings::idle_timeout_seconds`].
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }

    /// [`RealtimeSettings::ping_interval_seconds`].
    pub fn ping_interval(&self) -> Duration {
        Duration::from_secs(self.ping_interval_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_possible_and_mistakes_are_named() {
        assert_eq!(RealtimeSettings::default().mistakes(), Vec::<String>::new());
        let wrong = RealtimeSettings {
            idle_timeout_seconds: 0,
            allowed_origins: vec!["app.example".into(), "https://ok.example".into(), "*".into()],
            drain_retry_after_seconds: [5, 1],
            ..RealtimeSettings::default()
        };
        let mistakes = wrong.mistakes();
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
    }
}
