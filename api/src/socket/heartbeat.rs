//! What a connection does when time passes: pings, and ends where nobody answers, nobody signs in, or the token is no longer good.

use super::{
    SocketContext,
    close::Close,
    fields::ObjectWriter,
    frame::Frame,
    framing,
    options::Dialect,
    session::{Session, rejected},
};
use oneiro_core::{auth::Claims, clock};
use std::time::Duration;
use tokio::time::Instant;

/// A token within the verifier's leeway is good for at least this long.
const LEAST_LIFE: Duration = Duration::from_secs(2);

impl Session {
    /// When it is time to look at the clock again.
    pub(crate) fn deadline(&self) -> Instant {
        let settings = &self.ctx.settings;
        let idle = self.last_heard + settings.idle_timeout();
        let identity = match &self.bearer {
            Some(bearer) => bearer.expires,
            None => self.opened + settings.auth_timeout(),
        };
        idle.min(self.next_ping).min(identity)
    }

    pub(crate) fn on_deadline(&mut self) -> Result<(), Close> {
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
}

impl SocketContext {
    /// When a token ends.
    pub(crate) fn deadline_of(&self, claims: &Claims) -> Instant {
        let left = u64::try_from(claims.expires_at).unwrap_or(0).saturating_sub(clock::unix_millis() / 1000);
        // Decades from now an Instant may not reach; nothing is connected for that long.
        Instant::now() + Duration::from_secs(left.min(100_000_000)).max(LEAST_LIFE)
    }
}
