//! The connection to one master of a cluster.

use super::Watch;
use fred::{
    clients::Client,
    error::ErrorKind,
    interfaces::ClientLike,
    types::{
        ConnectHandle, Value,
        config::{ReconnectPolicy, Server, ServerConfig},
    },
};
use parking_lot::{Mutex, RwLock};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, interval, timeout},
};

/// A connection that is away for no longer than this is being renewed: commands wait for it. Beyond, they would only pile up.
const AWAY_PATIENCE: Duration = Duration::from_secs(1);
/// Where the caller's client has no policy of its own.
const RECONNECT_MS: u32 = 100;
/// Where the caller's client has no limit of its own for a server that is silent.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// Commands that one connection holds before they are written; more fail. Far more than a connection that is served ever has.
const MAX_COMMANDS: usize = 65_536;

/// A client of its own for one node.
pub(super) struct Line {
    client: Client,
    connection: ConnectHandle,
    _tasks: JoinSet<()>,
}

impl Line {
    /// Connects to `server` as `whole` is set up, for as long as it takes; `watch` sees the client before that. `capacity`: messages that wait for
    /// whoever takes them.
    pub(super) fn open(whole: &Client, server: Server, capacity: usize, watch: &dyn Watch) -> Self {
        let mut config = whole.client_config();
        config.server = ServerConfig::Centralized { server };
        // A master that is away already is waited for like one that goes away later.
        config.fail_fast = false;
        let policy = whole.client_reconnect_policy().unwrap_or_else(|| ReconnectPolicy::new_constant(0, RECONNECT_MS));
        let mut connection = whole.connection_config().clone();
        connection.max_command_buffer_len = MAX_COMMANDS;
        let mut performance = whole.perf_config();
        performance.broadcast_channel_capacity = capacity;
        let client = Client::new(config, Some(performance), Some(connection), Some(policy));
        let tasks = watch.on_client(&client);
        let connection = client.connect();
        Self { client, connection, _tasks: tasks }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Whoever waits for an answer learns of it.
        self.connection.abort();
    }
}

pub(super) struct Shard {
    whole: Client,
    server: Server,
    watch: Arc<dyn Watch>,
    line: RwLock<Line>,
    /// Where it was found without a connection: until when commands wait for one.
    patient_until: Mutex<Option<Instant>>,
    guard: Mutex<JoinSet<()>>,
}

impl Shard {
    /// Connects to `server` as `whole` is set up, for as long as it takes; `watch` sees each client before that.
    pub(super) fn connect(whole: &Client, server: Server, watch: Arc<dyn Watch>) -> Arc<Self> {
        let line = RwLock::new(Self::open(whole, &server, &*watch));
        let patient_until = Mutex::new(Some(Instant::now() + AWAY_PATIENCE));
        let shard =
            Arc::new(Self { whole: whole.clone(), server, watch, line, patient_until, guard: Mutex::default() });
        let limit = whole.connection_config().unresponsive.max_timeout.unwrap_or(SILENCE_LIMIT);
        shard.guard.lock().spawn(guard(Arc::downgrade(&shard), limit));
        shard
    }

    fn open(whole: &Client, server: &Server, watch: &dyn Watch) -> Line {
        Line::open(whole, server.clone(), whole.perf_config().broadcast_channel_capacity, watch)
    }

    pub(super) fn client(&self) -> Client {
        self.line.read().client.clone()
    }

    pub(super) fn is_here(&self) -> bool {
        let is_connected = self.line.read().client.is_connected();
        let mut patient_until = self.patient_until.lock();
        if is_connected {
            *patient_until = None;
        } else {
            patient_until.get_or_insert_with(|| Instant::now() + AWAY_PATIENCE);
        }
        is_connected
    }

    /// Whether a command may wait for the connection.
    pub(super) fn may_come_back(&self) -> bool {
        self.is_here() || self.patient_until.lock().is_none_or(|until| Instant::now() < until)
    }

    /// Ends the connection; whoever waits for an answer learns of it.
    pub(super) fn close(&self) {
        self.guard.lock().abort_all();
        self.line.read().connection.abort();
    }

    /// Replaces a connection that is silent. Asking its client to reconnect would not do: that waits behind what it cannot write.
    fn renew(&self) {
        // It has had its time.
        *self.patient_until.lock() = Some(Instant::now());
        let fresh = Self::open(&self.whole, &self.server, &*self.watch);
        let _silent = std::mem::replace(&mut *self.line.write(), fresh);
    }
}

/// Replaces the connection once it has been silent for `limit`. The client library notices that only where nothing more is written meanwhile, and
/// not at all once the peer's silence has filled the socket.
async fn guard(shard: Weak<Shard>, limit: Duration) {
    let mut ticks = interval(limit / 4);
    loop {
        ticks.tick().await;
        let Some(client) = shard.upgrade().map(|shard| shard.client()) else { return };
        if !client.is_connected() || answers(&client, limit / 2).await || !client.is_connected() {
            continue;
        }
        let Some(shard) = shard.upgrade() else { return };
        tracing::warn!(server = %shard.server, "a master keeps its connection and does not answer; connecting anew");
        shard.renew();
    }
}

/// Whether the server says anything at all.
async fn answers(client: &Client, limit: Duration) -> bool {
    match timeout(limit, client.ping::<Value>(None)).await {
        Ok(answer) => {
            answer.map_or_else(|error| !matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Backpressure), |_| true)
        }
        Err(_) => false,
    }
}
