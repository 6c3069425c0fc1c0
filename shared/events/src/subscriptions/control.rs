//! Subscribing, unsubscribing, and checking on the connection. The only task that sends on it, so the order of commands is certain.

use super::{Audit, Shared, Todo, entry::Entry, entry::Verdict, heal};
use crate::{ChannelName, EventError, Position};
use fred::{
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{ClusterHash, CustomCommand, Value},
    util::redis_keyslot,
};
use futures::{StreamExt, stream};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

/// Channels looked after in one go: one SUBSCRIBE's worth that Redis answers without being held up, their positions read in one step. New
/// channels wait for no more than that.
const CHUNK: usize = 512;
/// In a cluster, how long one channel may hold up the others of its chunk: it is on a shard that does not answer, and is tried again.
const SHARD_PATIENCE: Duration = Duration::from_secs(2);
/// Channels that heal at the same time.
const HEALS_IN_FLIGHT: usize = 64;
/// In a cluster, shards move and fail over without this client's connection being cut: every so many probes, all is subscribed and compared anew.
const AUDIT_PROBES: u32 = 6;
const RETRY_PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut reconnects = shared.client.reconnect_rx();
    let mut moves = shared.client.cluster_change_rx();
    let mut probes = 0_u32;
    let mut heals = Heals::new(shared.clone());
    let mut auditing = Auditing::default();
    let mut next_probe = Instant::now() + shared.options.probe_interval;
    loop {
        tokio::select! {
            () = shared.wake.notified() => {}
            reconnect = reconnects.recv() => match reconnect {
                Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => shared.ask_audit(Audit::Resubscribe),
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            },
            Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) = moves.recv() => {
                shared.ask_audit(Audit::Resubscribe);
            }
            () = tokio::time::sleep_until(next_probe) => {
                next_probe = Instant::now() + shared.options.probe_interval;
                probe(&shared).await;
                probes += 1;
                if shared.client.is_clustered() && probes.is_multiple_of(AUDIT_PROBES) {
                    shared.ask_audit(Audit::Resubscribe);
                }
            }
            Some(_) = heals.tasks.join_next() => continue,
        }
        let mut todo = std::mem::take(&mut *shared.todo.lock());
        for entry in todo.heal.drain(..) {
            heals.start(entry);
        }
        auditing.begin(&shared, todo.audit);
        let failed = serve(&shared, &mut todo, &mut auditing, &mut heals).await;
        let has_more = !todo.subscribe.is_empty() || !auditing.left.is_empty();
        if let Some(error) = failed {
            tracing::warn!(%error, "failed to change subscriptions, trying again");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        if has_more {
            // Behind those that were asked for meanwhile.
            shared.ask(|next| next.subscribe.append(&mut todo.subscribe));
        }
    }
}

/// The channels that are being read from their streams.
struct Heals {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    permits: Arc<Semaphore>,
}

impl Heals {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, tasks: JoinSet::new(), permits: Arc::new(Semaphore::new(HEALS_IN_FLIGHT)) }
    }

    fn start(&mut self, entry: Arc<Entry>) {
        let (shared, permits) = (self.shared.clone(), self.permits.clone());
        self.tasks.spawn(async move {
            // Never closed; an error would only mean that the process is ending.
            if let Ok(_permit) = permits.acquire().await {
                heal::run(shared, entry).await;
            }
        });
    }
}

/// An audit under way. It goes on chunk by chunk, so that new channels need not wait for the end of it.
#[derive(Default)]
struct Auditing {
    left: Vec<Arc<Entry>>,
    subscribes: bool,
}

impl Auditing {
    /// All over again: what was looked at before may have changed since.
    fn begin(&mut self, shared: &Shared, audit: Option<Audit>) {
        let Some(audit) = audit else { return };
        // What was left of the last one is among them.
        self.subscribes = audit == Audit::Resubscribe || (self.subscribes && !self.left.is_empty());
        self.left = shared.channels.lock().values().cloned().collect();
        if audit == Audit::Resubscribe {
            tracing::info!(channels = self.left.len(), "the subscriber connection is new, subscribing again");
        }
    }
}

/// Does a chunk of what was asked. What is left, and what failed, stays in `todo` and `auditing`; the first error is returned.
async fn serve(shared: &Shared, todo: &mut Todo, auditing: &mut Auditing, heals: &mut Heals) -> Option<EventError> {
    let gone = detach(shared, todo);
    // What could not be unsubscribed is forgotten: at worst messages come that nobody wants.
    let mut first_error = unsubscribe(shared, gone).await.err();

    let wanted = next_chunk(&mut todo.subscribe);
    let (read, failed) = positions(shared, wanted, true).await;
    for (entry, _, position) in read {
        if entry.start_at(position) == Verdict::Heal {
            heals.start(entry);
        }
    }
    first_error = first_error.or(failed.error);
    todo.subscribe.extend(failed.entries);

    let audited = next_chunk(&mut auditing.left);
    let (read, failed) = positions(shared, audited, auditing.subscribes).await;
    for (entry, before, end) in read {
        if entry.compare(&before, &end) == Verdict::Heal {
            heals.start(entry);
        }
    }
    auditing.left.extend(failed.entries);
    first_error.or(failed.error)
}

/// Takes up to [`CHUNK`] channels that somebody still wants.
fn next_chunk(entries: &mut Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
    entries.retain(|entry| entry.is_wanted());
    entries.drain(..entries.len().min(CHUNK)).collect()
}

/// Channels that something went wrong with.
#[derive(Default)]
struct Failed {
    entries: Vec<Arc<Entry>>,
    /// The first of their errors.
    error: Option<EventError>,
}

impl Failed {
    fn push(&mut self, entry: Arc<Entry>, error: EventError) {
        self.entries.push(entry);
        self.error.get_or_insert(error);
    }
}

/// What was told of each channel before its stream was read, and the stream's end.
type Read = Vec<(Arc<Entry>, Position, Position)>;

/// Where each channel stands. With `subscribes`, each is subscribed first. A channel that cannot be read takes no other along.
async fn positions(shared: &Shared, entries: Vec<Arc<Entry>>, subscribes: bool) -> (Read, Failed) {
    if entries.is_empty() {
        return (Vec::new(), Failed::default());
    }
    if shared.client.is_clustered() {
        return positions_in_shards(shared, entries, subscribes).await;
    }
    let reading = async {
        if subscribes {
            subscribe(shared, &entries).await?;
        }
        let before: Vec<Position> = entries.iter().map(|entry| entry.last()).collect();
        let channels: Vec<&ChannelName> = entries.iter().map(|entry| entry.channel()).collect();
        Ok((before, shared.broker.positions(&channels).await?))
    };
    let outcome = reading.await;
    let (before, ends) = match outcome {
        Ok(found) => found,
        Err(error) => return (Vec::new(), Failed { entries, error: Some(error) }),
    };
    let (mut read, mut failed) = (Vec::with_capacity(entries.len()), Failed::default());
    for ((entry, before), end) in entries.into_iter().zip(before).zip(ends) {
        match end {
            Ok(end) => read.push((entry, before, end)),
            Err(error) => failed.push(entry, error),
        }
    }
    (read, failed)
}

/// The same in a cluster, one by one, as each may be on another shard.
async fn positions_in_shards(shared: &Shared, entries: Vec<Arc<Entry>>, subscribes: bool) -> (Read, Failed) {
    let mut read = Vec::with_capacity(entries.len());
    let mut failed = Failed::default();
    let mut readings = stream::iter(entries)
        .map(|entry| async move {
            let reading = async {
                if subscribes {
                    subscribe_in_shard(shared, entry.channel()).await?;
                }
                let before = entry.last();
                Ok((before, shared.broker.position(entry.channel()).await?))
            };
            let timeout = |_| Err(EventError::SubscribeTimeout(entry.channel().clone()));
            (tokio::time::timeout(SHARD_PATIENCE, reading).await.unwrap_or_else(timeout), entry.clone())
        })
        .buffer_unordered(CHUNK);
    while let Some((outcome, entry)) = readings.next().await {
        match outcome {
            Ok((before, end)) => read.push((entry, before, end)),
            Err(error) => failed.push(entry, error),
        }
    }
    (read, failed)
}

/// Takes listeners away; returns the channels that nobody listens to any more.
fn detach(shared: &Shared, todo: &mut Todo) -> Vec<String> {
    let mut gone = Vec::new();
    for (entry, id) in todo.detach.drain(..) {
        entry.remove_listener(id);
        let mut channels = shared.channels.lock();
        if entry.release() {
            channels.remove(entry.channel());
            gone.push(entry.channel().to_string());
        }
    }
    gone
}

async fn unsubscribe(shared: &Shared, channels: Vec<String>) -> Result<(), EventError> {
    let mut outcome = Ok(());
    if shared.client.is_clustered() {
        let mut done = stream::iter(channels)
            .map(|channel| async move {
                // One that is not answered for is as good as forgotten.
                let unsubscribing = shared.client.sunsubscribe(channel);
                tokio::time::timeout(SHARD_PATIENCE, unsubscribing).await.unwrap_or(Ok(()))
            })
            .buffer_unordered(CHUNK);
        while let Some(done) = done.next().await {
            outcome = outcome.and(done);
        }
    } else {
        for chunk in channels.chunks(CHUNK) {
            outcome = outcome.and(shared.client.unsubscribe(chunk.to_vec()).await);
        }
    }
    outcome.map_err(EventError::redis("unsubscribe"))
}

/// Subscribes, and returns once Redis has done so.
async fn subscribe(shared: &Shared, entries: &[Arc<Entry>]) -> Result<(), EventError> {
    let names: Vec<String> = entries.iter().map(|entry| entry.channel().to_string()).collect();
    shared.client.subscribe(names).await.map_err(EventError::redis("subscribe"))?;
    barrier(shared).await
}

/// Subscribes on the shard that the channel's keys are on.
async fn subscribe_in_shard(shared: &Shared, channel: &ChannelName) -> Result<(), EventError> {
    let channel = channel.as_str();
    shared.client.ssubscribe(channel).await.map_err(EventError::redis("subscribe"))?;
    // Behind it on the same connection, so its answer comes once the subscription is made. It tells that the shard has a subscriber, though not
    // that it is this process: where the channel moved between the two and others listen to it too, the next audit subscribes again.
    let count: HashMap<String, u64> = shared
        .client
        .custom(
            CustomCommand::new_static("PUBSUB", ClusterHash::Custom(redis_keyslot(channel.as_bytes())), false),
            vec!["SHARDNUMSUB", channel],
        )
        .await
        .map_err(EventError::redis("confirm a subscription"))?;
    if count.get(channel).is_none_or(|count| *count == 0) {
        return Err(EventError::Corrupt("confirm a subscription"));
    }
    Ok(())
}

/// Returns once everything sent before on the subscriber connection has been done: the client resolves a SUBSCRIBE when it is written,
/// but answers come in order.
async fn barrier(shared: &Shared) -> Result<(), EventError> {
    let result: Result<Value, _> = if shared.client.is_clustered() {
        // Some shard answers; that each does is for the client library to watch, and for the audits.
        shared.client.pubsub_shardnumsub(vec!["-"]).await
    } else {
        shared.client.ping(None).await
    };
    result.map(|_| ()).map_err(EventError::redis("confirm a subscription"))
}

async fn probe(shared: &Shared) {
    let answered = tokio::time::timeout(shared.options.probe_interval, barrier(shared)).await;
    let is_active = matches!(answered, Ok(Ok(())));
    let was_active = shared.is_active.swap(is_active, Ordering::Relaxed);
    if was_active != is_active {
        tracing::warn!(is_active, "the subscriber connection changed its state");
    }
    if answered.is_err() && shared.client.is_connected() {
        // Half-open: the peer is gone, but nothing told us.
        if let Err(error) = shared.client.force_reconnection().await {
            tracing::warn!(%error, "failed to renew the subscriber connection");
        }
    }
}
