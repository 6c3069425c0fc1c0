//! The connection to one master of a cluster.

use fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{
        ConnectHandle,
        config::{ReconnectPolicy, Server, ServerConfig},
    },
};
use parking_lot::Mutex;
use std::time::Duration;
use tokio::{task::JoinSet, time::Instant};

/// A connection that is away for no longer than this is being renewed: commands wait for it. Beyond, they would only pile up.
const AWAY_PATIENCE: Duration = Duration::from_secs(1);
/// Where the caller's client has no policy of its own.
const RECONNECT_MS: u32 = 100;

pub(super) struct Shard {
    client: Client,
    connection: ConnectHandle,
    /// Since when it was found without a connection.
    away_since: Mutex<Option<Instant>>,
    _tasks: JoinSet<()>,
}

impl Shard {
    /// Connects to `server` as `whole` is set up, for as long as it takes; `watch` sees the client before that.
    pub(super) fn connect(whole: &Client, server: Server, watch: impl FnOnce(&Client) -> JoinSet<()>) -> Self {
        let mut config = whole.client_config();
        config.server = ServerConfig::Centralized { server };
        // A master that is away already is waited for like one that goes away later.
        config.fail_fast = false;
        let policy = whole.client_reconnect_policy().unwrap_or_else(|| ReconnectPolicy::new_constant(0, RECONNECT_MS));
        let client =
            Client::new(config, Some(whole.perf_config()), Some(whole.connection_config().clone()), Some(policy));
        let tasks = watch(&client);
        let connection = client.connect();
        Self { client, connection, away_since: Mutex::new(Some(Instant::now())), _tasks: tasks }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) fn is_here(&self) -> bool {
        let is_connected = self.client.is_connected();
        let mut away_since = self.away_since.lock();
        if is_connected {
            *away_since = None;
        } else {
            away_since.get_or_insert_with(Instant::now);
        }
        is_connected
    }

    /// Whether a command may wait for the connection.
    pub(super) fn may_come_back(&self) -> bool {
        self.is_here() || self.away_since.lock().is_none_or(|since| since.elapsed() < AWAY_PATIENCE)
    }

    /// Ends the connection; whoever waits for an answer learns of it.
    pub(super) fn close(&self) {
        self.connection.abort();
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.close();
    }
}
