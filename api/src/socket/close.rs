//! The close codes, one table (RFC 6455 section 7.4 and the seeds' own). `web/` mirrors it; `tests/fixtures/wire/close_codes.json` holds both to it.

use std::borrow::Cow;

/// Why and how a connection ends. The code tells a client what to do: come back, come back with a better token, or give up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) code: u16,
    pub(crate) reason: Cow<'static, str>,
}

impl Close {
    /// No frame was heard for too long.
    pub(crate) const IDLE: Self = Self::new(1001, "idle timeout");
    pub(crate) const INTERNAL: Self = Self::new(1011, "internal error");
    /// An operator or the user's own account shut the user out: seeds' clients come back after any other code.
    pub(crate) const KICKED: Self = Self::new(1000, "signed out");
    pub(crate) const BAD_TOKEN: Self = Self::new(4001, "authentication failed");
    pub(crate) const TOKEN_EXPIRED: Self = Self::new(4001, "token_expired");
    pub(crate) const FORBIDDEN: Self = Self::new(4003, "forbidden");
    pub(crate) const AUTH_TIMEOUT: Self = Self::new(4008, "authentication timeout");
    pub(crate) const TOO_MANY: Self = Self::new(4009, "too many connections");
    pub(crate) const SLOW: Self = Self::new(4010, "slow consumer");
    pub(crate) const RATE_LIMIT: Self = Self::new(4029, "rate limit");

    pub(crate) const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason: Cow::Borrowed(reason) }
    }

    /// The code as a metric tells it. A client may make up its own: those are one.
    pub(crate) fn label(&self) -> &'static str {
        match self.code {
            1000 => "1000",
            1001 => "1001",
            1002 => "1002",
            1003 => "1003",
            1007 => "1007",
            1008 => "1008",
            1009 => "1009",
            1011 => "1011",
            1012 => "1012",
            1013 => "1013",
            4001 => "4001",
            4003 => "4003",
            4008 => "4008",
            4009 => "4009",
            4010 => "4010",
            4029 => "4029",
            _ => "client",
        }
    }

    /// The process is going away; others are there.
    pub(crate) fn restart(retry_after_seconds: u64) -> Self {
        Self { code: 1012, reason: format!("retry_after={retry_after_seconds}").into() }
    }

    /// Over capacity, or what is needed does not answer.
    pub(crate) fn try_later(retry_after_seconds: u64) -> Self {
        Self { code: 1013, reason: format!("retry_after={retry_after_seconds}").into() }
    }
}

impl From<super::framing::Violation> for Close {
    fn from(violation: super::framing::Violation) -> Self {
        Self::new(violation.code, violation.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_one_that_clients_read() {
        let table: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/wire/close_codes.json")).unwrap();
        let all = [
            Close::new(1000, ""),
            Close::IDLE,
            Close::new(1002, ""),
            Close::new(1003, ""),
            Close::new(1007, ""),
            Close::new(1008, ""),
            Close::new(1009, ""),
            Close::INTERNAL,
            Close::restart(3),
            Close::try_later(5),
            Close::BAD_TOKEN,
            Close::FORBIDDEN,
            Close::AUTH_TIMEOUT,
            Close::TOO_MANY,
            Close::SLOW,
            Close::RATE_LIMIT,
        ];
        let codes: Vec<u64> =
            table["codes"].as_array().unwrap().iter().map(|row| row["code"].as_u64().unwrap()).collect();
        for close in &all {
            assert_eq!(close.label(), close.code.to_string());
        }
        assert_eq!(Close::new(4321, "").label(), "client");
        assert_eq!(codes, all.iter().map(|close| u64::from(close.code)).collect::<Vec<_>>());
    }
}
