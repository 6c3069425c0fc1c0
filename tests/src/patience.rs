//! Waiting for other processes, with one setting.

use anyhow::{Result, bail};
use std::{future::Future, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// How long a test waits for anything before it fails. Far above what is normal: a loaded machine must not fail a test, and a test
/// that passes never waits for it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something that gives no signal.
const LOOK_AGAIN: Duration = Duration::from_millis(40);

/// Calls `look` until it returns `Some`, and fails with `what` after [`PATIENCE`].
///
/// # Errors
/// When the patience is over, or as soon as `look` fails.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain: {what}", PATIENCE.as_secs());
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Awaits `future` for at most [`PATIENCE`].
///
/// # Errors
/// When the patience is over.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    match timeout(PATIENCE, future).await {
        Ok(value) => Ok(value),
        Err(_) => bail!("waited {} s in vain: {what}", PATIENCE.as_secs()),
    }
}
