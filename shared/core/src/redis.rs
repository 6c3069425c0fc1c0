//! Connecting to Redis the same way everywhere: jittered reconnection without end, bounded waits, no silent loss.

use crate::config::RedisConfig;
use fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{
        Builder, RespVersion,
        config::{Config as FredConfig, ReconnectPolicy, ServerConfig, TcpConfig, UnresponsiveConfig},
    },
};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

/// Publications that the library holds until the subscriber takes them. Its own default of 32 loses them in a burst; one turn of its reader
/// brings at most some 10,000 short ones. Only the subscriber pays for it: a client keeps eight such queues, all allocated at once.
const SUBSCRIBER_CAPACITY: usize = 16_384;
/// First wait of the reconnection policy, and its random part.
const RECONNECT_MIN_MS: u32 = 50;
const RECONNECT_JITTER_MS: u32 = 100;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL or the TLS setup is wrong.
    #[error("redis.url (REDIS_URL) cannot be used")]
    Setup(#[source] fred::error::Error),
    /// The server did not answer.
    #[error("cannot reach Redis at {server}; is it running, and is REDIS_URL right?")]
    Unreachable {
        /// Host and port, without any password.
        server: String,
        /// Why.
        #[source]
        source: fred::error::Error,
    },
}

/// A connected client that reconnects for ever. Waits up to the connect timeout for the first connection. In a cluster whose masters do not all
/// answer by then it goes on trying, as long as one does: what needs no more than that one can be served.
///
/// # Errors
/// [`ConnectError`] where the URL is wrong or the server does not answer in time.
pub async fn connect(config: &RedisConfig) -> Result<Client, ConnectError> {
    let mut builder = builder(config)?;
    let is_clustered = is_clustered(&builder);
    // The first attempt is then not the last.
    builder.with_config(|config| config.fail_fast = !is_clustered);
    let client = builder.build().map_err(ConnectError::Setup)?;
    match init(config, client.clone()).await {
        Err(error) if is_clustered => {
            // What a node says is worth more than that the whole did not come about: a wrong password, say.
            any_node_answers(config, &builder).await?;
            tracing::warn!(%error, "not every master of the cluster answers; starting without");
            Ok(client)
        }
        outcome => outcome,
    }
}

async fn any_node_answers(config: &RedisConfig, builder: &Builder) -> Result<(), ConnectError> {
    let mut outcome = Ok(());
    for server in builder.get_config().map(|config| config.server.hosts()).unwrap_or_default() {
        let mut builder = builder.clone();
        builder.with_config(|config| {
            config.server = ServerConfig::Centralized { server };
            config.fail_fast = true;
        });
        let client = builder.build().map_err(ConnectError::Setup)?;
        outcome = init(config, client.clone()).await.map(|_| ());
        if outcome.is_ok() {
            // It has answered; that it may not take its leave changes nothing.
            let _ = client.quit().await;
            break;
        }
    }
    outcome
}

fn is_clustered(builder: &Builder) -> bool {
    builder.get_config().is_some_and(|config| config.server.is_clustered())
}

/// The same for subscribing. In a cluster it is not connected: subscriptions take its settings for connections of their own, one to each master.
///
/// # Errors
/// As [`connect`].
pub async fn connect_subscriber(config: &RedisConfig) -> Result<Client, ConnectError> {
    let mut builder = builder(config)?;
    builder.with_performance_config(|performance| performance.broadcast_channel_capacity = SUBSCRIBER_CAPACITY);
    if is_clustered(&builder) {
        // A connection that has subscribed answers other commands only in this version, and a cluster's subscriptions are confirmed by one.
        builder.with_config(|config| config.version = RespVersion::RESP3);
        return builder.build().map_err(ConnectError::Setup);
    }
    let client = builder.build().map_err(ConnectError::Setup)?;
    init(config, client).await
}

/// Whether the server answers a PING within `limit`.
pub async fn answers(client: &Client, limit: Duration) -> bool {
    matches!(tokio::time::timeout(limit, client.ping::<String>(None)).await, Ok(Ok(_)))
}

fn builder(config: &RedisConfig) -> Result<Builder, ConnectError> {
    let parsed = FredConfig::from_url(config.url.expose()).map_err(ConnectError::Setup)?;
    let mut builder = Builder::from_config(parsed);
    let timeout = config.command_timeout();
    let connect_timeout = config.connect_timeout();
    builder
        .with_connection_config(|connection| {
            connection.connection_timeout = connect_timeout;
            connection.internal_command_timeout = timeout;
            connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
            // A server that accepts but never answers (a stalled disk, a half-open connection) is left after twice the command timeout.
            connection.unresponsive =
                UnresponsiveConfig { max_timeout: Some(timeout * 2), interval: Duration::from_secs(1) };
        })
        .with_performance_config(|performance| performance.default_command_timeout = timeout);
    let cap = u32::try_from(config.reconnect_max_seconds * 1000).unwrap_or(u32::MAX);
    let mut policy = ReconnectPolicy::new_exponential(0, RECONNECT_MIN_MS, cap, 2);
    policy.set_jitter(RECONNECT_JITTER_MS);
    builder.set_policy(policy);
    Ok(builder)
}

async fn init<C: ClientLike>(config: &RedisConfig, client: C) -> Result<C, ConnectError> {
    let outcome = {
        let mut ready = pin!(client.wait_for_connect());
        // The wait subscribes to fred's notice when it is first polled. Polled only after `connect`, it would miss a connection
        // made in between and wait in vain.
        let first = poll_fn(|context| Poll::Ready(ready.as_mut().poll(context))).await;
        client.connect();
        match first {
            Poll::Ready(outcome) => Ok(outcome),
            Poll::Pending => tokio::time::timeout(config.connect_timeout(), ready).await,
        }
    };
    let outcome = outcome.unwrap_or_else(|_| {
        Err(fred::error::Error::new(fred::error::ErrorKind::Timeout, "no answer within redis.connect_timeout_seconds"))
    });
    match outcome {
        Ok(()) => Ok(client),
        Err(source) => {
            let server =
                client.client_config().server.hosts().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Err(ConnectError::Unreachable { server, source })
        }
    }
}
