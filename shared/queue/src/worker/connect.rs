//! Connections that a worker owns.

use std::{pin::pin, time::Duration};

use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientInterface, ClientLike},
    types::{
        ClientState, Value,
        config::{ReconnectPolicy, UnresponsiveConfig},
    },
};

use crate::{QueueError, scripts};

/// Shortest and longest wait between two tries to reconnect. Short at first: leases go on running out while we are away.
const RECONNECT_MS: (u32, u32) = (20, 1_000);
/// A frame that waits this long for its answer means that the peer is gone without a word. Longer than any blocking pop here.
const UNRESPONSIVE: Duration = Duration::from_secs(12);

/// A new connection with the caller's address, credentials and TLS, but a policy that never gives up.
pub(crate) fn client_like(source: &Client) -> Client {
    let mut config = source.client_config();
    config.fail_fast = false;
    let mut connection = source.connection_config().clone();
    // A call behind a waiting pop must not be held back until something comes the other way (Nagle's algorithm).
    connection.tcp.nodelay = Some(true);
    connection.max_command_attempts = scripts::writes(source).unwrap_or(1);
    connection.unresponsive = UnresponsiveConfig { max_timeout: Some(UNRESPONSIVE), interval: Duration::from_secs(3) };
    let policy = ReconnectPolicy::new_exponential(0, RECONNECT_MS.0, RECONNECT_MS.1, 2);
    Client::new(config, Some(source.perf_config()), Some(connection), Some(policy))
}

/// Connects, however long it takes, as long as the connection is wanted.
pub(crate) async fn connected(source: &Client, is_wanted: impl Fn() -> bool) -> Option<Client> {
    /// How often it is asked.
    const GLANCE: Duration = Duration::from_millis(200);
    let mut wait = Duration::from_millis(u64::from(RECONNECT_MS.0));
    while is_wanted() {
        let client = client_like(source);
        let made = {
            let mut connecting = pin!(client.init());
            loop {
                if let Ok(made) = tokio::time::timeout(GLANCE, connecting.as_mut()).await {
                    break made;
                }
                if !is_wanted() {
                    close(&client).await;
                    return None;
                }
            }
        };
        match made {
            Ok(_) => return Some(client),
            Err(error) => {
                tracing::warn!(%error, "failed to connect to redis, will try again");
                close(&client).await;
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_millis(u64::from(RECONNECT_MS.1)));
            }
        }
    }
    None
}

/// Replaces a connection on which a call had no answer in time.
///
/// The client does that by itself only for a connection to which nothing more is written: each write starts its clock anew, and
/// a blocking pop stops it. So a worker that tries again would keep for ever a connection that a firewall or a proxy has forgotten.
/// While it is connecting anyway there is nothing to replace: what is asked of it then waits in line, and would tear down one new connection
/// after the other when Redis is back.
pub(crate) async fn renew(client: &Client, error: &Error) {
    /// The client goes on connecting after that; the caller has its own waits.
    const PATIENCE: Duration = Duration::from_secs(1);
    if *error.kind() == ErrorKind::Timeout
        && client.state() == ClientState::Connected
        && let Ok(Err(error)) = tokio::time::timeout(PATIENCE, client.force_reconnection()).await
    {
        tracing::debug!(%error, "failed to replace a connection that does not answer");
    }
}

/// The same for a call of the store's.
pub(crate) async fn renew_after(client: &Client, error: &QueueError) {
    if let QueueError::Unavailable(error) = error {
        renew(client, error).await;
    }
}

/// Ends the blocking pop of another connection, which can be closed only then. In a cluster it ends by itself, a few seconds later.
pub(crate) async fn unblock(through: &Client, waiting: &Client) {
    const PATIENCE: Duration = Duration::from_secs(1);
    if through.is_clustered() {
        return;
    }
    for id in waiting.connection_ids().into_values() {
        let _ = tokio::time::timeout(PATIENCE, through.client_unblock::<Value, _>(id, None)).await;
    }
}

/// Ends a connection that is not needed any more. Everything is settled by then, so how it ends changes nothing; but one that does
/// not answer must not keep its worker from ending.
pub(crate) async fn close(client: &Client) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let _ = tokio::time::timeout(PATIENCE, client.quit()).await;
}
