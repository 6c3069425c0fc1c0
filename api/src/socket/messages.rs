//! What a client says: messages are looked at here, and answered here or by the dialect that knows them.

use super::{
    close::Close,
    fields::{Fields, ObjectWriter},
    options::Dialect,
    session::{Session, rejected},
};
use oneiro_core::clock;
use tokio::time::Instant;

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

impl Session {
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

    /// Whether one more message, or frame of the protocol, is within the limit. One in excess is not looked at; persistent excess ends the
    /// connection.
    pub(crate) fn admit_frame(&mut self) -> Result<bool, Close> {
        let settings = &self.ctx.settings;
        if !self.bucket.take(settings.messages_per_second, settings.message_burst, Instant::now()) {
            self.strikes += 1;
            if self.strikes > settings.message_burst {
                return Err(rejected("message_rate", Close::RATE_LIMIT));
            }
            return Ok(false);
        }
        if self.bucket.is_rested(settings.message_burst) {
            // Excess now and then, over days, is not persistent.
            self.strikes = 0;
        }
        Ok(true)
    }

    /// Answers a message that takes no longer than a look; returns any other.
    pub(crate) fn look_at(&mut self, text: String) -> Result<Option<String>, Close> {
        if !self.admit_frame()? {
            self.send_error(ErrorCode::RateLimited, "too many messages; this one was not looked at");
            return Ok(None);
        }
        let Some(message) = Fields::parse(text.as_bytes()) else {
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            let code = if is_json { ErrorCode::InvalidMessage } else { ErrorCode::InvalidJson };
            self.send_error(code, "the message is not a JSON object");
            return Ok(None);
        };
        let Some(r#type) = message.text("type") else {
            self.send_error(ErrorCode::InvalidMessage, "the message has no `type`");
            return Ok(None);
        };
        let name = || self.bearer.as_ref().map(|_| self.name());
        self.ctx.records.message_in(name, self.conn.user(), &r#type, &text);
        match &*r#type {
            "ping" => self.pong(&message),
            "pong" => {}
            "authenticate" if message.text("token").is_none() => {
                self.send_error(ErrorCode::InvalidMessage, "`token` must be a string");
            }
            "authenticate" => return Ok(Some(text)),
            _ if self.bearer.is_none() => self.send_error(ErrorCode::Forbidden, "authenticate first"),
            _ => return Ok(Some(text)),
        }
        Ok(None)
    }

    /// Answers a message that was looked at.
    pub(crate) async fn on_message(&mut self, text: &str) -> Result<(), Close> {
        let Some(message) = Fields::parse(text.as_bytes()) else { return Ok(()) };
        let Some(r#type) = message.text("type") else { return Ok(()) };
        if r#type == "authenticate" {
            let token = message.text("token").unwrap_or_default();
            return self.authenticate(&token).await;
        }
        let known = match self.dialect {
            Dialect::Dream => self.on_dream_message(&r#type, &message).await?,
            Dialect::Notifications => false,
            Dialect::Presence => self.on_presence_message(&r#type, &message).await?,
        };
        if known || self.on_channel_message(&r#type, &message).await? {
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
}
