//! Subscribing, unsubscribing, and checking on the connection. The only task that sends on it, so the order of commands is certain.

use super::{Audit, Shared, Todo, entry::Entry, entry::Verdict, heal};
use crate::EventError;
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

/// Channels per SUBSCRIBE: one command's worth that Redis answers without being held up.
const CHUNK: usize = 512;
/// Positions read at the same time, pipelined on the broker's connection.
const READS_IN_FLIGHT: usize = 256;
/// Channels that heal at the same time.
const HEALS_IN_FLIGHT: usize = 64;
/// In a cluster, shards move and fail over without this client's connection being cut: every so many probes, all is subscribed and compared anew.
const AUDIT_PROBES: u32 = 6;
const RETRY_PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn run(shared: Arc<Shared>) {
    let mut reconnects = shared.client.reconnect_rx();
    let mut moves = shared.client.cluster_change_rx();
    let mut probes = 0_u32;
    let mut heals = JoinSet::new();
    let permits = Arc::new(Semaphore::new(HEALS_IN_FLIGHT));
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
            Some(_) = heals.join_next() => continue,
        }
        let todo = std::mem::take(&mut *shared.todo.lock());
        for entry in todo.heal.iter().cloned() {
            spawn_heal(&shared, &mut heals, &permits, entry);
        }
        match serve(&shared, &todo).await {
            Ok(ill) => {
                for entry in ill {
                    spawn_heal(&shared, &mut heals, &permits, entry);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "failed to change subscriptions, trying again");
                // What was to be unsubscribed is forgotten: at worst messages come that nobody wants.
                shared.todo.lock().put_back(todo);
                tokio::time::sleep(RETRY_PAUSE).await;
                shared.wake.notify_one();
            }
        }
    }
}

impl Todo {
    fn put_back(&mut self, undone: Todo) {
        self.subscribe.extend(undone.subscribe);
        self.audit = self.audit.max(undone.audit);
    }
}

fn spawn_heal(shared: &Arc<Shared>, heals: &mut JoinSet<()>, permits: &Arc<Semaphore>, entry: Arc<Entry>) {
    let (shared, permits) = (shared.clone(), permits.clone());
    heals.spawn(async move {
        // Never closed; an error would only mean that the process is ending.
        if let Ok(_permit) = permits.acquire().await {
            heal::run(shared, entry).await;
        }
    });
}

/// Does what was asked; returns the channels that turned out to have missed something.
async fn serve(shared: &Arc<Shared>, todo: &Todo) -> Result<Vec<Arc<Entry>>, EventError> {
    let mut ill = Vec::new();
    let gone = detach(shared, todo);
    for chunk in gone.chunks(CHUNK) {
        unsubscribe(shared, chunk).await.map_err(EventError::redis("unsubscribe"))?;
    }
    let mut to_compare = Vec::new();
    if let Some(audit) = todo.audit {
        to_compare = shared.channels.lock().values().cloned().collect();
        if audit == Audit::Resubscribe {
            tracing::info!(channels = to_compare.len(), "the subscriber connection is new, subscribing again");
            subscribe(shared, &to_compare).await?;
        }
    }
    let wanted: Vec<Arc<Entry>> = todo.subscribe.iter().filter(|entry| entry.is_wanted()).cloned().collect();
    subscribe(shared, &wanted).await?;

    let mut started = stream::iter(wanted)
        .map(|entry| async {
            let position = shared.broker.position(entry.channel()).await?;
            Ok::<_, EventError>((entry.start_at(position), entry))
        })
        .buffer_unordered(READS_IN_FLIGHT);
    while let Some(started) = started.next().await {
        if let (Verdict::Heal, entry) = started? {
            ill.push(entry);
        }
    }
    let mut compared = stream::iter(to_compare)
        .map(|entry| async {
            let before = entry.last();
            let end = shared.broker.position(entry.channel()).await?;
            Ok::<_, EventError>((entry.compare(&before, &end), entry))
        })
        .buffer_unordered(READS_IN_FLIGHT);
    while let Some(compared) = compared.next().await {
        if let (Verdict::Heal, entry) = compared? {
            ill.push(entry);
        }
    }
    Ok(ill)
}

/// Takes listeners away; returns the channels that nobody listens to any more.
fn detach(shared: &Shared, todo: &Todo) -> Vec<String> {
    let mut gone = Vec::new();
    for (entry, id) in &todo.detach {
        entry.remove_listener(*id);
        let mut channels = shared.channels.lock();
        if entry.release() {
            channels.remove(entry.channel());
            gone.push(entry.channel().to_string());
        }
    }
    gone
}

async fn unsubscribe(shared: &Shared, channels: &[String]) -> Result<(), fred::error::Error> {
    if !shared.client.is_clustered() {
        return shared.client.unsubscribe(channels.to_vec()).await;
    }
    for channel in channels {
        shared.client.sunsubscribe(channel.as_str()).await?;
    }
    Ok(())
}

/// Subscribes, and returns once Redis has done so.
async fn subscribe(shared: &Shared, entries: &[Arc<Entry>]) -> Result<(), EventError> {
    if shared.client.is_clustered() {
        return subscribe_in_shards(shared, entries).await;
    }
    for chunk in entries.chunks(CHUNK) {
        let names: Vec<String> = chunk.iter().map(|entry| entry.channel().to_string()).collect();
        shared.client.subscribe(names).await.map_err(EventError::redis("subscribe"))?;
    }
    if !entries.is_empty() {
        barrier(shared).await?;
    }
    Ok(())
}

/// Subscribes on the shard that each channel's keys are on. One after the other, as a cluster may redirect each; the client waits for every answer.
async fn subscribe_in_shards(shared: &Shared, entries: &[Arc<Entry>]) -> Result<(), EventError> {
    for entry in entries {
        let channel = entry.channel().as_str();
        shared.client.ssubscribe(channel).await.map_err(EventError::redis("subscribe"))?;
        // The shard may have moved meanwhile; only the one that has the subscriber also has what is published next.
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
