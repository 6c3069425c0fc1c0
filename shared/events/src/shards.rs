//! Which connection a channel's commands go over.
//!
//! Without a cluster that is the caller's client. In a cluster it is a client of our own for each master, found by our own map of the slots: the
//! library's clustered client sends everything through one task, and that task goes on with nothing while one master cannot be reached. Here a
//! master that is away holds up no other; its channels are refused after a moment, and go on when it is back or another took over.

mod renewals;
mod shard;

pub(crate) use renewals::Renewals;

use crate::{ChannelName, EventError};
use fred::{
    clients::Client,
    error::Error,
    interfaces::{ClientLike, ClusterInterface},
    types::{
        ClusterHash, CustomCommand, Value,
        cluster::ClusterRouting,
        config::{Server, ServerConfig},
    },
    util::redis_keyslot,
};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared, join},
    stream::FuturesUnordered,
};
use parking_lot::{Mutex, RwLock};
use shard::{Line, Shard};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

/// How often one command follows a channel that moves before its caller is told.
const ATTEMPTS: usize = 5;
/// While a shard is away, the map is not read more often than this.
const MAP_AGE: Duration = Duration::from_millis(500);
/// A slot that moved is looked up at once, but not again and again while the cluster makes up its mind.
const MOVED_AGE: Duration = Duration::from_millis(50);
/// How long one node may think about where the slots are.
const MAP_PATIENCE: Duration = Duration::from_secs(1);
/// Messages that a client holds which is there for one question.
const SEED_CAPACITY: usize = 1;

/// Who serves the connections as they come.
pub(crate) trait Watch: Send + Sync {
    /// A client that is not connected yet. The tasks end with it.
    fn on_client(&self, client: &Client) -> JoinSet<()>;

    /// Channels may be on other shards than before.
    fn on_moved(&self);
}

/// For connections that only look around.
impl Watch for () {
    fn on_client(&self, _client: &Client) -> JoinSet<()> {
        JoinSet::new()
    }

    fn on_moved(&self) {}
}

/// The way to every channel. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shards(Arc<Inner>);

struct Inner {
    /// In a cluster only its settings.
    whole: Client,
    watch: Arc<dyn Watch>,
    /// Where there is no cluster.
    _tasks: JoinSet<()>,
    map: RwLock<Arc<Map>>,
    refreshing: Mutex<Refreshing>,
    /// Nodes are asked in turn.
    turn: AtomicUsize,
}

#[derive(Default)]
struct Refreshing {
    /// When the map was last read, or could not be.
    at: Option<Instant>,
    /// The reading under way, for all who wait for it.
    running: Option<Shared<BoxFuture<'static, ()>>>,
}

struct Map {
    slots: ClusterRouting,
    shards: HashMap<Server, Arc<Shard>>,
}

impl Shards {
    pub(crate) fn new(whole: Client, watch: impl Watch + 'static) -> Self {
        let tasks = if whole.is_clustered() { JoinSet::new() } else { watch.on_client(&whole) };
        let map = Map { slots: ClusterRouting::new(), shards: HashMap::new() };
        Self(Arc::new(Inner {
            whole,
            watch: Arc::new(watch),
            _tasks: tasks,
            map: RwLock::new(Arc::new(map)),
            refreshing: Mutex::default(),
            turn: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn is_clustered(&self) -> bool {
        self.0.whole.is_clustered()
    }

    /// What the caller gave: reaches everything where there is no cluster.
    pub(crate) fn whole(&self) -> &Client {
        &self.0.whole
    }

    /// Every connection there is now.
    pub(crate) fn clients(&self) -> Vec<Client> {
        if !self.is_clustered() {
            return vec![self.0.whole.clone()];
        }
        self.map().shards.values().map(|shard| shard.client()).collect()
    }

    /// Whether one connection at least answers, however long that takes.
    pub(crate) async fn any_answers(&self) -> bool {
        if !self.is_clustered() {
            return self.whole().ping::<Value>(None).await.is_ok();
        }
        self.refresh(MAP_AGE).await;
        let map = self.map();
        // What is sent to one that is away would only pile up.
        let here = map.shards.values().filter(|shard| shard.may_come_back());
        let mut answers: FuturesUnordered<_> =
            here.map(|shard| async { shard.client().ping::<Value>(None).await }).collect();
        while let Some(answer) = answers.next().await {
            if answer.is_ok() {
                return true;
            }
        }
        false
    }

    /// Runs `call` on the connection that reaches the channel's keys, and again where these turn out to be elsewhere: it must bear repetition, as
    /// it must for the library, which repeats what a cut connection left without an answer. `action` is the verb phrase that errors tell.
    ///
    /// # Errors
    /// [`EventError::Redis`], [`EventError::ShardAway`].
    pub(crate) async fn on<R, F>(
        &self,
        channel: &ChannelName,
        action: &'static str,
        call: impl Fn(Client) -> F,
    ) -> Result<R, EventError>
    where
        F: Future<Output = Result<R, Error>>,
    {
        let told = EventError::redis(action);
        if !self.is_clustered() {
            return call(self.0.whole.clone()).await.map_err(told);
        }
        let mut attempts = 0;
        let mut asked: Option<Arc<Shard>> = None;
        loop {
            let shard = self.shard(channel).await?;
            let reply = match asked.take() {
                Some(other) => call_asking(&other, &call).await,
                None => call(shard.client()).await,
            };
            let error = match reply {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            attempts += 1;
            if attempts == ATTEMPTS {
                return Err(told(error));
            }
            let (kind, rest) = error.details().split_once(' ').unwrap_or_default();
            if kind == "ASK" {
                // Its slot is on the move at this moment, and this key has gone ahead.
                asked = self.named(rest);
                if asked.is_none() {
                    return Err(told(error));
                }
                continue;
            }
            // The keys of a slot on the move may be half here and half there.
            let is_moving = matches!(kind, "MOVED" | "TRYAGAIN");
            self.refresh(if is_moving { MOVED_AGE } else { MAP_AGE }).await;
            let is_elsewhere = self.owner(channel).is_some_and(|owner| !Arc::ptr_eq(&owner, &shard));
            if !(is_moving || is_elsewhere) {
                return Err(told(error));
            }
            if !is_elsewhere {
                // Whoever told the map does not know yet.
                tokio::time::sleep(MOVED_AGE).await;
            }
        }
    }

    /// The shard that a redirection (`slot host:port`) names, if it has slots of its own already.
    fn named(&self, redirection: &str) -> Option<Arc<Shard>> {
        let (host, port) = redirection.split_once(' ')?.1.rsplit_once(':')?;
        let map = self.map();
        let mut shards = map.shards.iter();
        shards
            .find(|(server, _)| *server.host == *host && port.parse() == Ok(server.port))
            .map(|(_, shard)| shard.clone())
    }

    /// The shard that has the channel, unless it is known to be away.
    async fn shard(&self, channel: &ChannelName) -> Result<Arc<Shard>, EventError> {
        if let Some(shard) = self.owner(channel).filter(|shard| shard.is_here()) {
            return Ok(shard);
        }
        // Not known yet, or away: another may have taken over.
        self.refresh(MAP_AGE).await;
        self.owner(channel).filter(|shard| shard.may_come_back()).ok_or_else(|| EventError::ShardAway(channel.clone()))
    }

    /// Whether the channel's shard is away for longer than a reconnect takes.
    pub(crate) fn is_away(&self, channel: &ChannelName) -> bool {
        self.is_clustered()
            && match self.owner(channel) {
                Some(shard) => !shard.may_come_back(),
                // Nobody has the slot; or the map was not read yet.
                None => !self.map().shards.is_empty(),
            }
    }

    /// Returns once [`Shards::is_away`] says so, which may be never.
    pub(crate) async fn away(&self, channel: &ChannelName) {
        if !self.is_clustered() {
            std::future::pending::<()>().await;
        }
        while !self.is_away(channel) {
            tokio::time::sleep(MAP_AGE).await;
        }
    }

    fn owner(&self, channel: &ChannelName) -> Option<Arc<Shard>> {
        let map = self.map();
        let server = map.slots.get_server(redis_keyslot(channel.as_str().as_bytes()))?;
        map.shards.get(server).cloned()
    }

    fn map(&self) -> Arc<Map> {
        self.0.map.read().clone()
    }

    /// Reads the map of slots again, unless that was done within `age`. Where nobody answers, the old one stays.
    pub(crate) async fn refresh(&self, age: Duration) {
        if !self.is_clustered() {
            return;
        }
        let reading = {
            let mut refreshing = self.0.refreshing.lock();
            match &refreshing.running {
                Some(reading) => reading.clone(),
                None if refreshing.at.is_some_and(|at| at.elapsed() < age) => return,
                None => {
                    // In a task of its own: it goes on for the others when the caller that began it gives up.
                    let reading = tokio::spawn(self.clone().read_and_install()).map(|_| ()).boxed().shared();
                    refreshing.running.insert(reading).clone()
                }
            }
        };
        reading.await;
    }

    async fn read_and_install(self) {
        match self.read_map().await {
            Some(slots) => self.install(slots),
            None => tracing::warn!("no node of the cluster tells where the slots are"),
        }
        *self.0.refreshing.lock() = Refreshing { at: Some(Instant::now()), running: None };
    }

    async fn read_map(&self) -> Option<ClusterRouting> {
        let mut clients = self.clients();
        clients.retain(ClientLike::is_connected);
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let count = clients.len().max(1);
        clients.rotate_left(turn % count);
        for client in clients {
            if let Some(slots) = ask(&client, MAP_PATIENCE).await {
                return Some(slots);
            }
        }
        let whole = &self.0.whole;
        let limit = whole.connection_config().connection_timeout;
        let mut answers: FuturesUnordered<_> = whole
            .client_config()
            .server
            .hosts()
            .into_iter()
            .map(|seed| async move {
                let line = Line::open(whole, seed, SEED_CAPACITY, &());
                ask(line.client(), limit).await
            })
            .collect();
        while let Some(slots) = answers.next().await {
            if slots.is_some() {
                return slots;
            }
        }
        None
    }

    fn install(&self, slots: ClusterRouting) {
        let old = self.map();
        if old.slots.slots() == slots.slots() {
            return;
        }
        let shards: HashMap<Server, Arc<Shard>> = slots
            .unique_primary_nodes()
            .into_iter()
            .map(|server| {
                let known = old.shards.get(&server).cloned();
                let shard =
                    known.unwrap_or_else(|| Shard::connect(&self.0.whole, server.clone(), self.0.watch.clone()));
                (server, shard)
            })
            .collect();
        let gone = old.shards.iter().filter(|(server, _)| !shards.contains_key(server));
        let gone: Vec<Arc<Shard>> = gone.map(|(_, shard)| shard.clone()).collect();
        tracing::info!(shards = shards.len(), gone = gone.len(), "the cluster's slots are mapped");
        *self.0.map.write() = Arc::new(Map { slots, shards });
        for shard in gone {
            // What waits for an answer there is asked again elsewhere.
            shard.close();
        }
        self.0.watch.on_moved();
    }
}

impl std::fmt::Debug for Shards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shards").field("is_clustered", &self.is_clustered()).finish_non_exhaustive()
    }
}

/// Runs `call` on a shard that is about to get the channel's slot. The permission holds for the next command on the connection; where another's
/// comes between the two, the call is redirected again.
async fn call_asking<R, F>(shard: &Shard, call: impl Fn(Client) -> F) -> Result<R, Error>
where
    F: Future<Output = Result<R, Error>>,
{
    let client = shard.client();
    let asking = CustomCommand::new_static("ASKING", ClusterHash::FirstKey, false);
    // Polled in this order, and each is on its way with its first poll.
    join(client.custom::<Value, Value>(asking, Vec::new()), call(client.clone())).await.1
}

/// Where the slots are, as one node sees it. `limit`: for the answer, and the connection if there is none yet.
async fn ask(client: &Client, limit: Duration) -> Option<ClusterRouting> {
    let ServerConfig::Centralized { server } = client.client_config().server else { return None };
    let slots: Value = timeout(limit, client.cluster_slots()).await.ok()?.ok()?;
    ClusterRouting::from_cluster_slots(slots, server.host).ok().filter(|slots| slots.len() > 0)
}
