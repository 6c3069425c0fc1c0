//! One subscriber connection per process, its channels counted by reference, its losses made good from the streams.
//!
//! Three parts share the state in [`Shared`]:
//! - `dispatch` takes messages from the connection and hands them to listeners, in order, at most once;
//! - `control` subscribes, unsubscribes, and after a reconnect compares every channel with its stream;
//! - `heal` reads what one channel missed.

mod control;
mod dispatch;
mod entry;
mod heal;
mod receiver;

use crate::{Broker, ChannelName, EventError, Position, Publication, shards::Shards};
use entry::Entry;
use fred::clients::Client;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet};

pub use receiver::Subscription;

/// What a listener is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An event, in the channel's order, without a hole since the last one unless [`Event::Gap`] said so.
    Publication(Publication),
    /// Events were lost for good: trimmed before they could be read, or forgotten by Redis. What is left of them follows.
    Gap(Gap),
}

/// A hole in a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The last position delivered before.
    pub from: Position,
    /// Where the channel goes on; the next publication follows this one.
    pub to: Position,
}

/// Takes a channel's events as they come. Called on the dispatching task with the channel locked: it must not block and must not call
/// back into [`Subscriptions`].
pub trait Listener: Send + Sync {
    /// One or more events of one channel, in order.
    fn on_events(&self, channel: &ChannelName, events: &[Event]);
}

/// How patient the shared subscription is.
#[derive(Debug, Clone)]
pub struct SubscriptionsOptions {
    /// How long [`Subscriptions::attach`] waits for a subscription to become active. Default 10 s.
    pub attach_timeout: Duration,
    /// How often the connection is proved alive while idle; a proof missed for as long again forces a reconnect (in a cluster, where the
    /// client's `unresponsive.max_timeout` does). Default 5 s.
    pub probe_interval: Duration,
    /// Most events that a [`Subscription`] holds for a reader that lags behind; more become a gap. Default 1,024.
    pub receiver_capacity: usize,
    /// Most bytes of events that came from Redis and were not told to the listeners yet. Beyond, events are dropped: stored ones are read from
    /// their streams, those of a plain `PUBLISH` are lost, and `oneiro_events_dropped_total` counts both. Default 64 MiB, a burst of some
    /// 100,000 events.
    pub backlog_bytes: usize,
}

impl Default for SubscriptionsOptions {
    fn default() -> Self {
        Self {
            attach_timeout: Duration::from_secs(10),
            probe_interval: Duration::from_secs(5),
            receiver_capacity: 1_024,
            backlog_bytes: 64 << 20,
        }
    }
}

pub(crate) struct Shared {
    shards: Shards,
    broker: Broker,
    options: SubscriptionsOptions,
    inbound: Arc<Inbound>,
    channels: Mutex<HashMap<ChannelName, Arc<Entry>>>,
    is_active: AtomicBool,
    next_listener: AtomicU64,
}

/// What comes from the connections, each of which has tasks that fill it.
pub(crate) struct Inbound {
    backlog: dispatch::Backlog,
    todo: Mutex<Todo>,
    wake: Notify,
}

/// Work for the control task. Bounded by the number of channels that callers hold or just let go of.
#[derive(Default)]
struct Todo {
    subscribe: Vec<Arc<Entry>>,
    detach: Vec<(Arc<Entry>, u64)>,
    heal: Vec<Arc<Entry>>,
    /// Compare every channel with its stream: the connection is new, or messages were dropped.
    audit: Option<Audit>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Audit {
    /// Messages were dropped on our side.
    Compare,
    /// The connection is new: subscribe again first.
    Resubscribe,
}

impl Inbound {
    fn ask(&self, change: impl FnOnce(&mut Todo)) {
        change(&mut self.todo.lock());
        self.wake.notify_one();
    }

    fn ask_audit(&self, audit: Audit) {
        self.ask(|todo| todo.audit = todo.audit.max(Some(audit)));
    }
}

/// The process's subscriptions. Cheap to clone; dropping the last clone ends its tasks.
///
/// ```no_run
/// # async fn example(client: fred::clients::Client, subscriber: fred::clients::Client) -> Result<(), oneiro_events::EventError> {
/// use oneiro_events::{Broker, BrokerOptions, Event, Subscriptions, SubscriptionsOptions};
/// let broker = Broker::new(client, BrokerOptions::default());
/// let subscriptions = Subscriptions::start(subscriber, broker, SubscriptionsOptions::default());
/// let mut subscription = subscriptions.subscribe(&"post_7".parse()?).await?;
/// while let Event::Publication(publication) = subscription.recv().await {
///     println!("{:?}", publication.payload);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Subscriptions {
    shared: Arc<Shared>,
    _tasks: Arc<JoinSet<()>>,
}

impl Subscriptions {
    /// Starts the tasks that serve `client`, which the caller has connected, with a `broadcast_channel_capacity` of 8,192 or more (the
    /// default of 32 drops events whenever a burst is faster than one wake-up), for this alone. A `SubscriberClient` would remember every name a
    /// second time; this type subscribes again by itself, in the right order. Of a clustered client only the settings are taken, for a connection
    /// to each master, and it need not be connected. Call within a tokio runtime.
    pub fn start(client: Client, broker: Broker, options: SubscriptionsOptions) -> Self {
        let backlog = dispatch::Backlog::new(options.backlog_bytes);
        let inbound = Arc::new(Inbound { backlog, todo: Mutex::default(), wake: Notify::new() });
        let shared = Arc::new(Shared {
            shards: Shards::new(client, inbound.clone()),
            broker,
            options,
            inbound,
            channels: Mutex::default(),
            is_active: AtomicBool::new(true),
            next_listener: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(dispatch::run(shared.clone()));
        tasks.spawn(control::run(shared.clone()));
        Self { shared, _tasks: Arc::new(tasks) }
    }

    /// Whether the connection answered its last proof of life; in a cluster, whether that of any shard did.
    pub fn is_healthy(&self) -> bool {
        self.shared.is_active.load(Ordering::Relaxed)
    }

    /// How many channels are subscribed or about to be.
    pub fn channel_count(&self) -> usize {
        self.shared.channels.lock().len()
    }

    /// Adds a listener to a channel and returns once the subscription is active in Redis, with the position that the listener's first event
    /// follows. A snapshot read after this call therefore misses nothing. The listener stays until the [`Attachment`] is dropped.
    ///
    /// # Errors
    /// [`EventError::SubscribeTimeout`] when Redis is away for longer than the limit; [`EventError::ShardAway`], at once, when that is known of
    /// the channel's shard.
    ///
    /// # Cancel safety
    /// Dropping the future undoes what it did.
    pub async fn attach(
        &self,
        channel: &ChannelName,
        listener: Arc<dyn Listener>,
    ) -> Result<(Attachment, Position), EventError> {
        if self.shared.shards.is_away(channel) {
            return Err(EventError::ShardAway(channel.clone()));
        }
        let entry = {
            let mut channels = self.shared.channels.lock();
            let known = channels.get(channel).cloned();
            let entry = known.clone().unwrap_or_else(|| Arc::new(Entry::new(channel.clone())));
            // Before the control task can see it: an entry that nobody holds is not subscribed.
            entry.retain();
            if known.is_none() {
                channels.insert(channel.clone(), entry.clone());
                self.shared.inbound.ask(|todo| todo.subscribe.push(entry.clone()));
            }
            entry
        };
        let id = self.shared.next_listener.fetch_add(1, Ordering::Relaxed);
        let attachment = Attachment { shared: self.shared.clone(), entry: entry.clone(), id };
        let is_late = tokio::time::sleep(self.shared.options.attach_timeout);
        tokio::select! {
            () = entry.active() => {}
            () = self.shared.shards.away(channel) => return Err(EventError::ShardAway(channel.clone())),
            () = is_late => return Err(EventError::SubscribeTimeout(channel.clone())),
        }
        let position = entry.add_listener(id, listener);
        Ok((attachment, position))
    }

    /// Subscribes and returns a receiver of the channel's events, bounded by [`SubscriptionsOptions::receiver_capacity`].
    ///
    /// # Errors
    /// As [`Subscriptions::attach`].
    pub async fn subscribe(&self, channel: &ChannelName) -> Result<Subscription, EventError> {
        receiver::subscribe(self, channel, self.shared.options.receiver_capacity).await
    }
}

/// Keeps a listener on a channel; dropping it takes the listener away a moment later, and the last one unsubscribes the process.
pub struct Attachment {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    id: u64,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // Left to the control task: a listener may let go of its own attachment while it is being told, with the entry locked.
        self.shared.inbound.ask(|todo| todo.detach.push((self.entry.clone(), self.id)));
    }
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Attachment").field(self.entry.channel()).finish()
    }
}
