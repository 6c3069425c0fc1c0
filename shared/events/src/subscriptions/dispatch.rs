//! From the connection to the listeners, in two tasks: `collect` takes messages from the client library as soon as they are there, which costs
//! next to nothing (one such task for each connection), and `run` tells the listeners, which takes as long as it takes. In between stands a queue bounded by bytes.

use super::{Audit, Inbound, Shared, entry::Verdict};
use crate::{Publication, broker::into_bytes, channel::split_header, shards::Watch};
use fred::{
    clients::Client,
    interfaces::EventInterface,
    types::{Message, config::Server},
};
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc};
use tokio::{
    sync::{
        Notify,
        broadcast::{
            Receiver,
            error::{RecvError, TryRecvError},
        },
    },
    task::JoinSet,
};

/// Messages handled before other tasks get their turn: long enough to share one write per connection, short enough to keep latency.
const BATCH: usize = 256;
/// What a message weighs besides its payload: its names, its place in the queue.
const OVERHEAD: usize = 256;
/// A queue that a burst has blown up is not kept beyond this when it is empty again.
const KEPT_CAPACITY: usize = 4_096;

/// What came from Redis and was not told yet.
pub(super) struct Backlog {
    state: Mutex<State>,
    filled: Notify,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Backlog {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { state: Mutex::default(), filled: Notify::new(), max_bytes }
    }

    /// Whether there was room.
    fn push(&self, message: Message) -> bool {
        let mut state = self.state.lock();
        let weight = weight(&message);
        if state.bytes + weight > self.max_bytes && !state.messages.is_empty() {
            return false;
        }
        state.bytes += weight;
        state.messages.push_back(message);
        true
    }

    fn take(&self, batch: &mut Vec<Message>) {
        let mut state = self.state.lock();
        let count = state.messages.len().min(BATCH);
        batch.extend(state.messages.drain(..count));
        state.bytes -= batch.iter().map(weight).sum::<usize>();
        if state.messages.is_empty() && state.messages.capacity() > KEPT_CAPACITY {
            state.messages = VecDeque::new();
        }
        metrics::gauge!("oneiro_events_backlog").set(state.messages.len() as f64);
    }
}

fn weight(message: &Message) -> usize {
    OVERHEAD + message.value.as_bytes().map_or(0, <[u8]>::len)
}

/// Moves messages into the backlog. The client library keeps the last `broadcast_channel_capacity` of them for us and no more, so this must not
/// wait for anything else.
async fn collect(inbound: Arc<Inbound>, mut messages: Receiver<Message>) {
    // Drops are told once for each spell of them.
    let mut is_dropping = false;
    loop {
        let mut dropped = 0;
        match messages.recv().await {
            Ok(message) => dropped += u64::from(!inbound.backlog.push(message)),
            Err(RecvError::Lagged(missed)) => dropped += missed,
            Err(RecvError::Closed) => return,
        }
        // Not by `recv`, which lets other tasks go first every 128 messages.
        loop {
            match messages.try_recv() {
                Ok(message) => dropped += u64::from(!inbound.backlog.push(message)),
                Err(TryRecvError::Lagged(missed)) => dropped += missed,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        inbound.backlog.filled.notify_one();
        if dropped > 0 {
            metrics::counter!("oneiro_events_dropped_total").increment(dropped);
            if !is_dropping {
                tracing::warn!(
                    dropped,
                    "events come faster than they are dispatched; reading the stored ones from their streams"
                );
            }
            inbound.ask_audit(Audit::Compare);
        }
        is_dropping = dropped > 0;
    }
}

/// After each new connection of this client, everything is subscribed again and compared with its stream.
async fn renew(inbound: Arc<Inbound>, mut connections: Receiver<Server>) {
    while let Ok(_) | Err(RecvError::Lagged(_)) = connections.recv().await {
        inbound.ask_audit(Audit::Resubscribe);
    }
}

impl Watch for Arc<Inbound> {
    fn on_client(&self, client: &Client) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(collect(self.clone(), client.message_rx()));
        tasks.spawn(renew(self.clone(), client.reconnect_rx()));
        tasks
    }

    fn on_moved(&self) {
        self.ask_audit(Audit::Resubscribe);
    }
}

/// Tells the listeners.
pub(super) async fn run(shared: Arc<Shared>) {
    let received = metrics::counter!("oneiro_events_received_total");
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        shared.inbound.backlog.take(&mut batch);
        if batch.is_empty() {
            shared.inbound.backlog.filled.notified().await;
            continue;
        }
        for run in batch.chunk_by(|a, b| a.channel == b.channel) {
            deliver(&shared, run);
        }
        received.increment(batch.len() as u64);
        batch.clear();
        tokio::task::yield_now().await;
    }
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
    if verdict == Verdict::Heal {
        shared.inbound.ask(|todo| todo.heal.push(entry));
    }
}
