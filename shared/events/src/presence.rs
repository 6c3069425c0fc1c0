//! Who is here, across processes, without ghosts.
//!
//! Every process holds a lease that it renews; its connections are counted in a hash of its own, so that whoever finds the lease run out can take
//! exactly those away. A member without connections goes offline after a grace, for reloads. Changes are told on a channel in the same step.
//!
//! | key, all tagged `{<channel>}` | type | holds | lives |
//! |---|---|---|---|
//! | `<prefix>:p:{..}:members` | hash | connections by member | while connected |
//! | `<prefix>:p:{..}:online` | sorted set | members by when they came online | while online |
//! | `<prefix>:p:{..}:leaving` | sorted set | members by when they go offline | the grace |
//! | `<prefix>:p:{..}:seen` | sorted set | members by when they were last seen | 30 days |
//! | `<prefix>:p:{..}:nodes` | sorted set | processes by when their lease ends | while alive |
//! | `<prefix>:p:{..}:status` | hash | what members say of themselves | while online |
//! | `<prefix>:p:{..}:node:<process>` | hash | connections by member of one process | as the process |

mod reconcile;

use crate::{Broker, ChannelName, Epoch, EventError, Position, broker::stored_position, keys, script::Step};
use fred::{
    clients::Client,
    interfaces::SortedSetsInterface,
    types::{FromValue, Value},
};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::RwLock;

/// Members that one step takes offline at most: keeps it short.
const STEP: i64 = 500;
/// How long it is remembered when somebody was last seen.
const SEEN_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A command that took longer may have been repeated by the client: it reconnects after 50 ms at the earliest.
const DOUBT_AFTER: Duration = Duration::from_millis(25);
/// Longest list.
const MAX_LIST: u64 = 1_000;

/// What stands before and after a member in the event that tells its change.
pub type Around = (String, String);

/// How presence is kept and told.
#[derive(Clone)]
pub struct PresenceOptions {
    /// Where changes are told; its name also keeps all keys in one slot.
    pub channel: ChannelName,
    /// How long a process is believed without a sign of life. Renewed four times as often. Default 10 s.
    pub lease: Duration,
    /// Between a member's last disconnection and its going offline. Default 5 s.
    pub grace: Duration,
    /// Members online above which changes are not told any more: telling costs their square. 0: never told.
    pub tell_up_to: u64,
    /// Makes the event around a member: `true` for coming online.
    pub event: fn(bool) -> Around,
}

/// What is known of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// As it was given.
    pub member: String,
    /// Open connections over all processes; also counted for members who hide.
    pub connections: u64,
    /// Whether it is shown as online.
    pub is_online: bool,
    /// Unix ms of its last connection or disconnection; `None` where that is forgotten or never was.
    pub last_seen_ms: Option<u64>,
    /// What it last said of itself.
    pub status: Option<String>,
}

/// What a new connection changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Whether the member came online with it.
    pub is_first: bool,
    /// Connections of the member now.
    pub connections: u64,
    /// Members online now, this one included.
    pub online: u64,
    /// The place in the channel on which changes are told, up to which they are counted here.
    pub position: Position,
}

/// One process's part in who is here. Cheap to clone.
#[derive(Clone)]
pub struct Presence {
    broker: Broker,
    options: Arc<PresenceOptions>,
    node: Arc<str>,
    own: Arc<Own>,
    steps: Arc<Steps>,
}

/// This process's connections as it knows them itself.
#[derive(Default)]
struct Own {
    /// Shared by those who change a count here and in Redis, exclusive for those who compare the two.
    changing: RwLock<()>,
    counts: Mutex<HashMap<String, u64>>,
    /// Members whose last change may have taken effect twice or not at all: the client repeats a command whose answer was cut off.
    doubtful: Mutex<HashSet<String>>,
    /// What members said of themselves to this process, as Redis holds it; for as long as they are connected here.
    statuses: Mutex<HashMap<String, String>>,
    /// All members are to be compared: Redis may have lost writes.
    is_unsure: AtomicBool,
    /// The broker's renewals when that was looked at last.
    renewals: AtomicU64,
    /// Seconds on top of the grace.
    longer_grace: AtomicU64,
}

struct Steps {
    connect: Step,
    disconnect: Step,
    status: Step,
    tick: Step,
    list: Step,
}

macro_rules! presence_script {
    ($file:literal) => {
        concat!(include_str!("lua/channel.lua"), include_str!("lua/presence.lua"), include_str!($file))
    };
}

impl Presence {
    /// `node` names this process and must be its own.
    pub fn new(broker: Broker, node: &str, options: PresenceOptions) -> Self {
        let steps = Steps {
            connect: Step::publishing(
                presence_script!("lua/presence_connect.lua"),
                "note a connection",
                broker.shards(),
            ),
            disconnect: Step::publishing(
                presence_script!("lua/presence_disconnect.lua"),
                "note a disconnection",
                broker.shards(),
            ),
            status: Step::publishing(presence_script!("lua/presence_status.lua"), "note a status", broker.shards()),
            tick: Step::publishing(
                presence_script!("lua/presence_tick.lua"),
                "renew the presence lease",
                broker.shards(),
            ),
            list: Step::new(include_str!("lua/presence_list.lua"), "list who is online"),
        };
        let own = Arc::default();
        Self { broker, options: Arc::new(options), node: node.into(), own, steps: Arc::new(steps) }
    }

    /// Notes a connection of `member`.
    ///
    /// # Errors
    /// [`EventError::Redis`]; the connection is then told with the next tick that reaches Redis, so [`Presence::disconnect`] must follow all the
    /// same.
    pub async fn connect(&self, member: &str) -> Result<Arrival, EventError> {
        let _changing = self.own.changing.read().await;
        *self.own.counts.lock().entry(member.to_owned()).or_default() += 1;
        let begun = Instant::now();
        let arrival = self.tell_connections(member, 1, false).await;
        self.doubt(member, begun, arrival.is_err());
        arrival
    }

    async fn run<R: FromValue>(&self, step: &Step, keys: &[String], args: Vec<Value>) -> Result<R, EventError> {
        step.run(self.broker.shards(), &self.options.channel, keys, args).await
    }

    async fn tell_connections(&self, member: &str, count: u64, is_absolute: bool) -> Result<Arrival, EventError> {
        let mut args = self.args();
        args.extend([
            Value::from(member),
            Value::from(&*self.node),
            ms(now() + self.options.lease),
            Value::from(count as i64),
            Value::from(if is_absolute { "1" } else { "0" }),
            ms(now() + self.grace()),
            Value::from(
                if is_absolute { self.own.statuses.lock().get(member).cloned() } else { None }.unwrap_or_default(),
            ),
        ]);
        let (is_first, connections, online, epoch, offset): (u64, u64, u64, Value, Value) =
            self.run(&self.steps.connect, &self.keys(), args).await?;
        let position = stored_position(&epoch, &offset)?;
        Ok(Arrival { is_first: is_first == 1, connections, online, position })
    }

    /// Notes the end of a connection of `member`.
    ///
    /// # Errors
    /// [`EventError::Redis`]; it is then told with the next tick that reaches Redis.
    pub async fn disconnect(&self, member: &str) -> Result<(), EventError> {
        let _changing = self.own.changing.read().await;
        {
            let mut counts = self.own.counts.lock();
            if let Some(count) = counts.get_mut(member) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(member);
                    self.own.statuses.lock().remove(member);
                }
            }
        }
        let mut args = self.args();
        args.extend([Value::from(member), ms(now() + self.grace())]);
        let begun = Instant::now();
        let outcome = self.run::<i64>(&self.steps.disconnect, &self.keys(), args).await;
        self.doubt(member, begun, outcome.is_err());
        outcome.map(|_| ())
    }

    /// From now on members whose last connection ends here go offline that much later: the process is about to end, and they have been told when
    /// to come back.
    pub fn lengthen_grace(&self, by: Duration) {
        self.own.longer_grace.store(by.as_secs(), Ordering::Relaxed);
    }

    fn grace(&self) -> Duration {
        self.options.grace + Duration::from_secs(self.own.longer_grace.load(Ordering::Relaxed))
    }

    fn doubt(&self, member: &str, begun: Instant, has_failed: bool) {
        if has_failed || begun.elapsed() > DOUBT_AFTER {
            self.own.doubtful.lock().insert(member.to_owned());
        }
    }

    /// Notes what a member says of itself. With `is_hidden` it is told and listed as offline, though it is connected.
    ///
    /// # Errors
    /// [`EventError::Redis`].
    pub async fn set_status(&self, member: &str, status: &str, is_hidden: bool) -> Result<(), EventError> {
        let status = format!("{}{status}", if is_hidden { '0' } else { '1' });
        if self.own.counts.lock().contains_key(member) {
            self.own.statuses.lock().insert(member.to_owned(), status.clone());
        }
        let mut args = self.args();
        args.extend([Value::from(member), Value::from(status)]);
        self.run::<i64>(&self.steps.status, &self.keys(), args).await?;
        Ok(())
    }

    /// Renews the lease for ever, and takes offline who has left: members after their grace, and those of processes that died.
    pub async fn keep(self) {
        let mut ticks = tokio::time::interval((self.options.lease / 4).min(Duration::from_secs(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.tick().await {
                tracing::debug!(%error, "presence is not renewed");
            }
        }
    }

    async fn tick(&self) -> Result<(), EventError> {
        loop {
            let mut args = self.args();
            let node_prefix = format!("{}:node:", self.key_base());
            args.extend([
                Value::from(&*self.node),
                ms(now() + self.options.lease),
                Value::from(STEP),
                ms(now().saturating_sub(SEEN_TTL)),
                Value::from(node_prefix),
            ]);
            let (had_lease, more): (u64, u64) = self.run(&self.steps.tick, &self.keys(), args).await?;
            let renewals = self.broker.renewals();
            if had_lease == 0 || self.own.renewals.swap(renewals, Ordering::Relaxed) != renewals {
                self.own.is_unsure.store(true, Ordering::Relaxed);
            }
            self.reconcile().await?;
            if more == 0 {
                return Ok(());
            }
        }
    }

    /// How many are online, and the `limit` (at most 1,000) who came last.
    ///
    /// # Errors
    /// [`EventError::Redis`], [`EventError::Corrupt`].
    pub async fn online(&self, limit: u64) -> Result<(u64, Vec<Member>), EventError> {
        self.list("", limit.clamp(1, MAX_LIST)).await
    }

    /// What is known of one member.
    ///
    /// # Errors
    /// As [`Presence::online`].
    pub async fn member(&self, member: &str) -> Result<Member, EventError> {
        let (_, mut members) = self.list(member, 1).await?;
        members.pop().ok_or(EventError::Corrupt("look a member up"))
    }

    /// When these were last seen, in their order, as [`Member::last_seen_ms`].
    ///
    /// # Errors
    /// [`EventError::Redis`].
    pub async fn last_seen_ms(&self, members: &[String]) -> Result<Vec<Option<u64>>, EventError> {
        if members.is_empty() {
            return Ok(Vec::new());
        }
        let [_, _, _, seen, ..] = self.keys();
        let seen = &seen;
        let read = |client: Client| async move { client.zmscore(seen, members.to_vec()).await };
        let scores: Vec<Option<f64>> =
            self.broker.shards().on(&self.options.channel, "look up who was seen", read).await?;
        Ok(scores.into_iter().map(|score| score.map(|ms| ms as u64)).collect())
    }

    /// The processes whose lease has not run out.
    ///
    /// # Errors
    /// [`EventError::Redis`].
    pub async fn processes(&self) -> Result<Vec<String>, EventError> {
        let [_, _, _, _, nodes, ..] = self.keys();
        let now = now().as_millis() as f64;
        let nodes = &nodes;
        let read = |client: Client| async move { client.zrangebyscore(nodes, now, f64::INFINITY, false, None).await };
        self.broker.shards().on(&self.options.channel, "list the processes", read).await
    }

    async fn list(&self, member: &str, limit: u64) -> Result<(u64, Vec<Member>), EventError> {
        let [members, online, _, seen, _, status, ..] = self.keys();
        let args = vec![Value::from(member), Value::from(limit as i64)];
        let (online, flat): (u64, Vec<String>) =
            self.run(&self.steps.list, &[members, online, seen, status], args).await?;
        let members = flat.chunks_exact(5).map(|part| Member {
            member: part[0].clone(),
            connections: part[1].parse().unwrap_or(0),
            is_online: !part[2].is_empty(),
            last_seen_ms: part[3].parse::<f64>().ok().map(|seen| seen as u64),
            status: part[4].get(1..).filter(|status| !status.is_empty()).map(str::to_owned),
        });
        Ok((online, members.collect()))
    }

    fn key_base(&self) -> String {
        keys::presence(&self.broker.options().key_prefix, &self.options.channel)
    }

    fn keys(&self) -> [String; 9] {
        let base = self.key_base();
        let prefix = &self.broker.options().key_prefix;
        let key = |name: &str| format!("{base}:{name}");
        [
            key("members"),
            key("online"),
            key("leaving"),
            key("seen"),
            key("nodes"),
            key("status"),
            keys::meta(prefix, &self.options.channel),
            keys::stream(prefix, &self.options.channel),
            format!("{base}:node:{}", self.node),
        ]
    }

    fn args(&self) -> Vec<Value> {
        let options = self.broker.options();
        let (online_before, online_after) = (self.options.event)(true);
        let (offline_before, offline_after) = (self.options.event)(false);
        vec![
            ms(now()),
            Value::from(self.options.channel.as_str()),
            Value::from(Epoch::fresh().as_str()),
            Value::from(options.history_len.max(1) as i64),
            ms(options.history_ttl),
            ms(options.meta_ttl.max(options.history_ttl)),
            Value::from(self.options.tell_up_to.to_string()),
            Value::from(online_before),
            Value::from(online_after),
            Value::from(offline_before),
            Value::from(offline_after),
        ]
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn ms(duration: Duration) -> Value {
    Value::from(duration.as_millis().to_string())
}
