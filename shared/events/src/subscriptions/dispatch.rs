//! From the connection to the listeners.

use super::{Audit, Shared, entry::Verdict};
use crate::{Publication, broker::into_bytes, channel::split_header};
use fred::{interfaces::EventInterface, types::Message};
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;

/// Messages handled before other tasks get their turn: long enough to share one write per connection, short enough to keep latency.
const BATCH: usize = 256;

pub(super) async fn run(shared: Arc<Shared>) {
    let mut messages = shared.client.message_rx();
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        match messages.recv().await {
            Ok(message) => batch.push(message),
            Err(RecvError::Lagged(dropped)) => {
                note_drop(&shared, dropped);
                continue;
            }
            Err(RecvError::Closed) => return,
        }
        while batch.len() < BATCH {
            match messages.try_recv() {
                Ok(message) => batch.push(message),
                Err(tokio::sync::broadcast::error::TryRecvError::Lagged(dropped)) => {
                    note_drop(&shared, dropped);
                }
                Err(_) => break,
            }
        }
        for run in batch.chunk_by(|a, b| a.channel == b.channel) {
            deliver(&shared, run);
        }
        batch.clear();
        tokio::task::yield_now().await;
    }
}

fn note_drop(shared: &Shared, dropped: u64) {
    metrics::counter!("oneiro_events_dropped_total").increment(dropped);
    tracing::warn!(dropped, "events came faster than they were dispatched; reading them from the streams");
    shared.ask_audit(Audit::Compare);
}

fn deliver(shared: &Shared, run: &[Message]) {
    let Some(first) = run.first() else { return };
    let entry = shared.channels.lock().get(&*first.channel).cloned();
    let Some(entry) = entry else { return };
    let publications = run.iter().filter_map(|message| {
        let (position, payload) = split_header(&into_bytes(message.value.clone())?);
        Some(Publication { channel: entry.channel().clone(), position, payload })
    });
    let verdict = entry.receive(publications);
    metrics::counter!("oneiro_events_received_total").increment(run.len() as u64);
    if verdict == Verdict::Heal {
        shared.ask(|todo| todo.heal.push(entry));
    }
}
