//! Subscribing, unsubscribing, and checking on the connections. The only task that changes subscriptions, so the order of commands is certain.

use super::{Audit, Shared, Todo, entry::Entry, entry::Verdict, heal};
use crate::{ChannelName, EventError, Position};
use fred::{
    clients::Client,
    interfaces::{ClientLike, PubsubInterface},
    types::{ClusterHash, CustomCommand, Value},
};
use futures::{StreamExt, future::join_all, stream};
use std::{
    collections::{HashMap, HashSet},
    iter::repeat,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

/// Channels looked after in one go: one SUBSCRIBE's worth that Redis answers without being held up, their positions read in one step. New
/// channels wait for no more than that.
const CHUNK: usize = 512;
/// In a cluster, how long one channel may hold up the others of its chunk: it is on a shard that does not answer, and is tried again.
const SHARD_PATIENCE: Duration = Duration::from_secs(2);
/// Channels that are read from their streams at the same time.
const HEALS_IN_FLIGHT: usize = 64;
/// In a cluster, shards move and fail over without this client's connection being cut: every so many probes, all is subscribed and compared anew.
const AUDIT_PROBES: u32 = 6;
/// Between two attempts at channels that failed, a [`CHUNK`] each time. A connection that comes back has all of them tried at once.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn run(shared: Arc<Shared>) {
    metrics::gauge!("oneiro_events_connections_away").set(0.0);
    let mut probes = 0_u32;
    let mut probing = JoinSet::new();
    let mut heals = Heals::new(shared.clone());
    let mut auditing = Auditing::default();
    let mut again = Again::default();
    let mut next_probe = Instant::now() + shared.options.probe_interval;
    loop {
        tokio::select! {
            () = shared.inbound.wake.notified() => {}
            () = sleep_until(again.at), if !again.entries.is_empty() => {}
            () = sleep_until(next_probe) => {
                next_probe = Instant::now() + shared.options.probe_interval;
                // The last one may still be waiting for an answer.
                if probing.is_empty() {
                    probing.spawn(probe(shared.clone()));
                }
                probes += 1;
                if shared.shards.is_clustered() && probes.is_multiple_of(AUDIT_PROBES) {
                    shared.inbound.ask_audit(Audit::Resubscribe);
                }
            }
            Some(_) = probing.join_next() => continue,
            Some(_) = heals.tasks.join_next() => continue,
        }
        let mut todo = std::mem::take(&mut *shared.inbound.todo.lock());
        for entry in todo.heal.drain(..) {
            heals.start(entry);
        }
        auditing.begin(&shared, todo.audit, &mut again);
        todo.subscribe.append(&mut again.due());
        serve(&shared, &mut todo, &mut auditing, &mut heals, &mut again).await;
        again.is_told &= !again.entries.is_empty();
        if !todo.subscribe.is_empty() || !auditing.left.is_empty() {
            // Behind those that were asked for meanwhile.
            shared.inbound.ask(|next| next.subscribe.append(&mut todo.subscribe));
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
        self.tasks.spawn(heal::run(self.shared.clone(), entry, self.permits.clone()));
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
    fn begin(&mut self, shared: &Shared, audit: Option<Audit>, again: &mut Again) {
        let Some(audit) = audit else { return };
        // What was left of the last one is among them.
        self.subscribes = audit == Audit::Resubscribe || (self.subscribes && !self.left.is_empty());
        append_missing(&mut self.left, shared.channels.lock().values());
        if self.subscribes {
            // They are among them, too.
            again.entries.clear();
        }
        if audit == Audit::Resubscribe {
            tracing::info!(
                channels = self.left.len(),
                "subscribing again, as a connection is new or may have lost some"
            );
        }
    }
}

/// Adds those that are not there yet behind those that are: a shard that comes and goes has audits begin again and again, and each must get further.
fn append_missing<'a>(left: &mut Vec<Arc<Entry>>, all: impl Iterator<Item = &'a Arc<Entry>>) {
    let waiting: HashSet<*const Entry> = left.iter().map(Arc::as_ptr).collect();
    left.extend(all.filter(|entry| !waiting.contains(&Arc::as_ptr(entry))).cloned());
}

/// Channels that something went wrong with: their shard is away, or all of Redis. They wait apart, so that they hold up no others.
struct Again {
    entries: Vec<Arc<Entry>>,
    at: Instant,
    is_told: bool,
}

impl Default for Again {
    fn default() -> Self {
        Self { entries: Vec::new(), at: Instant::now(), is_told: false }
    }
}

impl Again {
    /// Those whose turn has come.
    fn due(&mut self) -> Vec<Arc<Entry>> {
        if self.at > Instant::now() {
            return Vec::new();
        }
        self.at = Instant::now() + RETRY_PAUSE;
        next_chunk(&mut self.entries)
    }

    fn add(&mut self, entry: Arc<Entry>, error: &EventError) {
        if !self.is_told {
            tracing::warn!(channel = %entry.channel(), %error, "failed to subscribe to some channels, trying again");
        }
        self.is_told = true;
        self.entries.push(entry);
    }
}

/// Does a chunk of what was asked. What is left stays in `todo` and `auditing`, what failed goes to `again`.
async fn serve(shared: &Shared, todo: &mut Todo, auditing: &mut Auditing, heals: &mut Heals, again: &mut Again) {
    let gone = detach(shared, todo);
    if let Err(error) = unsubscribe(shared, gone).await {
        // Forgotten all the same: at worst messages come that nobody wants.
        tracing::warn!(%error, "failed to unsubscribe");
    }
    let wanted = next_chunk(&mut todo.subscribe);
    let audited = next_chunk(&mut auditing.left);
    let settle = |entry: Arc<Entry>, subscribes: bool, read: Result<Read, &EventError>| match read {
        Ok(Read { before, end }) => {
            let starts = subscribes && entry.start_at(end.clone()) == Verdict::Heal;
            if starts || entry.compare(&before, &end) == Verdict::Heal {
                heals.start(entry);
            }
        }
        Err(error) => again.add(entry, error),
    };
    positions(shared, [(wanted, true), (audited, auditing.subscribes)], settle).await;
}

/// Takes up to [`CHUNK`] channels that somebody still wants.
fn next_chunk(entries: &mut Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
    entries.retain(|entry| entry.is_wanted());
    entries.drain(..entries.len().min(CHUNK)).collect()
}

/// What was told of a channel before its stream was read, and the stream's end.
#[derive(Clone)]
struct Read {
    before: Position,
    end: Position,
}

/// Reads where each channel stands, and tells `settle`. Those with `true` are subscribed first. A channel that cannot be read takes no other along.
async fn positions(
    shared: &Shared,
    batches: [(Vec<Arc<Entry>>, bool); 2],
    mut settle: impl FnMut(Arc<Entry>, bool, Result<Read, &EventError>),
) {
    if shared.shards.is_clustered() {
        return positions_in_shards(shared, batches, settle).await;
    }
    for (entries, subscribes) in batches {
        if entries.is_empty() {
            continue;
        }
        let reading = async {
            if subscribes {
                subscribe(shared, &entries).await?;
            }
            let before: Vec<Position> = entries.iter().map(|entry| entry.last()).collect();
            let channels: Vec<&ChannelName> = entries.iter().map(|entry| entry.channel()).collect();
            Ok::<_, EventError>((before, shared.broker.positions(&channels).await?))
        };
        match reading.await {
            Ok((before, ends)) => {
                for ((entry, before), end) in entries.into_iter().zip(before).zip(ends) {
                    settle(entry, subscribes, end.as_ref().map(|end| Read { before, end: end.clone() }));
                }
            }
            Err(error) => entries.into_iter().for_each(|entry| settle(entry, subscribes, Err(&error))),
        }
    }
}

/// The same in a cluster, one by one and all at once, as each may be on another shard.
async fn positions_in_shards(
    shared: &Shared,
    batches: [(Vec<Arc<Entry>>, bool); 2],
    mut settle: impl FnMut(Arc<Entry>, bool, Result<Read, &EventError>),
) {
    let entries = batches.into_iter().flat_map(|(entries, subscribes)| entries.into_iter().zip(repeat(subscribes)));
    let mut readings = stream::iter(entries)
        .map(|(entry, subscribes)| async move {
            let reading = async {
                if subscribes {
                    subscribe_in_shard(shared, entry.channel()).await?;
                }
                let before = entry.last();
                Ok(Read { before, end: shared.broker.position(entry.channel()).await? })
            };
            let late = |_| Err(EventError::SubscribeTimeout(entry.channel().clone()));
            (timeout(SHARD_PATIENCE, reading).await.unwrap_or_else(late), entry.clone(), subscribes)
        })
        .buffer_unordered(2 * CHUNK);
    while let Some((read, entry, subscribes)) = readings.next().await {
        settle(entry, subscribes, read.as_ref().map(Read::clone));
    }
}

/// Takes listeners away; returns the channels that nobody listens to any more.
fn detach(shared: &Shared, todo: &mut Todo) -> Vec<ChannelName> {
    let mut gone = Vec::new();
    for (entry, id) in todo.detach.drain(..) {
        entry.remove_listener(id);
        let mut channels = shared.channels.lock();
        if entry.release() {
            channels.remove(entry.channel());
            gone.push(entry.channel().clone());
        }
    }
    gone
}

async fn unsubscribe(shared: &Shared, channels: Vec<ChannelName>) -> Result<(), EventError> {
    if shared.shards.is_clustered() {
        let unsubscribing = stream::iter(channels).map(|channel| async move {
            let name = channel.as_str();
            let call = |client: Client| async move { client.sunsubscribe(name).await };
            // One that is not answered for is as good as forgotten: a connection that breaks takes its subscriptions along. Where the channel
            // moved, Redis has forgotten it already and answers MOVED, which the library takes for the answer to the next command: that one
            // fails or has an answer of the wrong form, and is tried again.
            let _ = timeout(SHARD_PATIENCE, shared.shards.on(&channel, "unsubscribe", call)).await;
        });
        unsubscribing.buffer_unordered(CHUNK).collect::<()>().await;
        return Ok(());
    }
    let mut outcome = Ok(());
    for chunk in channels.chunks(CHUNK) {
        let names: Vec<String> = chunk.iter().map(ToString::to_string).collect();
        outcome = outcome.and(shared.shards.whole().unsubscribe(names).await);
    }
    outcome.map_err(EventError::redis("unsubscribe"))
}

/// Subscribes, and returns once Redis has done so.
async fn subscribe(shared: &Shared, entries: &[Arc<Entry>]) -> Result<(), EventError> {
    let names: Vec<String> = entries.iter().map(|entry| entry.channel().to_string()).collect();
    let client = shared.shards.whole();
    client.subscribe(names).await.map_err(EventError::redis("subscribe"))?;
    barrier(client).await.map_err(EventError::redis("confirm a subscription"))
}

/// Subscribes on the shard that the channel's keys are on.
async fn subscribe_in_shard(shared: &Shared, channel: &ChannelName) -> Result<(), EventError> {
    let name = channel.as_str();
    let call = |client: Client| async move {
        client.ssubscribe(name).await?;
        // Behind it on the same connection, so its answer comes once the subscription is made. It tells that the shard has a subscriber, though
        // not that it is this process: where the channel moved between the two and others listen to it too, the next audit subscribes again.
        let count = CustomCommand::new_static("PUBSUB", ClusterHash::FirstKey, false);
        client.custom::<HashMap<String, u64>, _>(count, vec!["SHARDNUMSUB", name]).await
    };
    let count = shared.shards.on(channel, "subscribe", call).await?;
    if count.get(name).is_none_or(|count| *count == 0) {
        return Err(EventError::Corrupt("confirm a subscription"));
    }
    Ok(())
}

/// Returns once everything sent before on the connection has been done: the client resolves a SUBSCRIBE when it is written, but answers come in
/// order.
async fn barrier(client: &Client) -> Result<(), fred::error::Error> {
    client.ping::<Value>(None).await.map(|_| ())
}

/// Has every connection prove that it lives.
async fn probe(shared: Arc<Shared>) {
    // The last one was stamped when it ended.
    shared.shards.refresh(shared.options.probe_interval / 2).await;
    let clients = shared.shards.clients();
    let answers = join_all(clients.iter().map(|client| is_alive(&shared, client))).await;
    let away = answers.iter().filter(|is_alive| !**is_alive).count();
    // A cluster of which nothing is known yet is away as a whole.
    metrics::gauge!("oneiro_events_connections_away").set(if answers.is_empty() { 1.0 } else { away as f64 });
    let is_active = away < answers.len();
    let was_active = shared.is_active.swap(is_active, Ordering::Relaxed);
    if was_active != is_active {
        tracing::warn!(is_active, "the subscriber connection changed its state");
    }
}

async fn is_alive(shared: &Shared, client: &Client) -> bool {
    let limit = shared.options.probe_interval;
    let is_sharded = shared.shards.is_clustered();
    if is_sharded && !client.is_connected() {
        return false;
    }
    let answered = timeout(limit, barrier(client)).await;
    // A shard renews its connection by itself.
    if answered.is_err() && !is_sharded && client.is_connected() {
        // Half-open: the peer is gone, but nothing told us.
        if let Ok(Err(error)) = timeout(limit, client.force_reconnection()).await {
            tracing::warn!(%error, "failed to renew the subscriber connection");
        }
    }
    matches!(answered, Ok(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audit_that_begins_again_goes_on_where_it_was() {
        let entry = |n: usize| Arc::new(Entry::new(format!("post_{n}").parse().expect("a name")));
        let all: Vec<_> = (0..10).map(entry).collect();
        let mut left = Vec::new();
        append_missing(&mut left, all.iter());
        assert_eq!(left.len(), 10);
        left.drain(..4);
        append_missing(&mut left, all.iter());
        let order: Vec<&str> = left.iter().map(|entry| entry.channel().as_str()).collect();
        let expected: Vec<&str> = all[4..].iter().chain(&all[..4]).map(|entry| entry.channel().as_str()).collect();
        assert_eq!(order, expected);
    }
}
