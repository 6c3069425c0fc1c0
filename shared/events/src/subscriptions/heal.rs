//! Reading what one channel missed.

use super::{Shared, entry::Entry, entry::Healed};
use crate::{EventError, MAX_HISTORY_PAGE};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long one reading may take: all shards of a cluster share the permits, and one that is silent is tried again.
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// Reads from the stream until the channel is live again, however long Redis is away. Ends early when nobody listens any more. A permit is held
/// for each reading, not for the waits in between: what cannot be read does not keep others from it.
pub(super) async fn run(shared: Arc<Shared>, entry: Arc<Entry>, permits: Arc<Semaphore>) {
    let mut pause = FIRST_PAUSE;
    metrics::counter!("oneiro_events_heals_total").increment(1);
    while entry.is_wanted() {
        let since = entry.last();
        // From the last delivered event on, that one included: it shows whether the stream is still the one that was read.
        let reading = async {
            // Never closed; an error would only mean that the process is ending.
            let _permit = permits.acquire().await;
            let read = shared.broker.read(entry.channel(), Some(since.offset.max(1)), MAX_HISTORY_PAGE);
            timeout(READ_PATIENCE, read)
                .await
                .unwrap_or_else(|_| Err(EventError::SubscribeTimeout(entry.channel().clone())))
        };
        match reading.await {
            Ok(read) => {
                if entry.heal(read) == Healed::Live {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(channel = %entry.channel(), %error, "failed to read missed events, trying again");
                // Jitter: after an outage every channel heals at once.
                tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
