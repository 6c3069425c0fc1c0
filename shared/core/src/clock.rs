//! Wall-clock time in the forms that the wire contract asks for. The only place that reads the clock for them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch with a fraction, as `timestamp` carries them.
pub fn unix_seconds() -> f64 {
    since_epoch().as_secs_f64()
}

/// Whole milliseconds since the Unix epoch.
pub fn unix_millis() -> u64 {
    u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX)
}

/// Now without a zone and without a fraction, in the machine's time zone: `2025-04-08T10:00:00`. The seeds' REST answers carry this form.
pub fn naive_local() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

/// Now in UTC with milliseconds: `2025-04-08T10:00:00.123Z`.
pub fn utc_iso() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

fn since_epoch() -> Duration {
    // A clock set before 1970 yields zero rather than a panic; every timestamp is then wrong, but nothing is lost.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
