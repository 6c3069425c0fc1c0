//! Connecting to Redis the same way everywhere: jittered reconnection without end, bounded waits, no silent loss.

use crate::config::RedisConfig;
use fred::{
    clients::Client,
    error::ErrorKind,
    interfaces::ClientLike,
    types::{
        Builder, RespVersion, Value,
        config::{Config as FredConfig, Options, ReconnectPolicy, ServerConfig, TcpConfig, UnresponsiveConfig},
    },
};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Publications that the library holds until the subscriber takes them. Its own default of 32 loses them in a burst. Only the subscriber pays for
/// it: a client keeps eight such queues, all allocated at once, here 6 MB.
const SUBSCRIBER_CAPACITY: usize = 8_192;
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
        }
        outcome => drop(outcome?),
    }
    if !is_clustered {
        tokio::spawn(guard(client.clone(), silence_limit(config)));
    }
    Ok(client)
}

/// How long a server may be silent until its connection is made anew.
fn silence_limit(config: &RedisConfig) -> Duration {
    config.command_timeout() * 2
}

/// Makes a connection anew on which a ping was not answered within `limit`. The client library does so by itself only where nothing is written for
/// as long: with calls that keep coming, one whose peer is gone would stay for as long as the kernel sends again, some 15 minutes.
async fn guard(client: Client, limit: Duration) {
    let mut ticks = interval(limit / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !client.is_connected() || !is_silent(&client, limit).await || !client.is_connected() {
            continue;
        }
        tracing::warn!("Redis keeps its connection and does not answer; connecting anew");
        if let Ok(Err(error)) = timeout(limit, client.force_reconnection()).await {
            tracing::warn!(%error, "the connection to Redis could not be renewed");
        }
    }
}

/// Whether the server says nothing at all; that it refuses is an answer.
async fn is_silent(client: &Client, limit: Duration) -> bool {
    // Longer than commands wait: what is late is not lost, and those under way would be sent again.
    let patient = client.with_options(&Options { timeout: Some(limit), ..Options::default() });
    patient.ping::<Value>(None).await.is_err_and(|error| *error.kind() == ErrorKind::Timeout)
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
    matches!(timeout(limit, client.ping::<String>(None)).await, Ok(Ok(_)))
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
            connection.tcp = TcpConfig {
                nodelay: Some(true),
                // A peer that is gone or reads no more: the client library cannot leave what it is still writing to.
                #[cfg(target_os = "linux")]
                user_timeout: Some(silence_limit(config)),
                ..TcpConfig::default()
            };
            // A server that accepts but never answers (a stalled disk, a half-open connection) is left after twice the command timeout.
            connection.unresponsive =
                UnresponsiveConfig { max_timeout: Some(silence_limit(config)), interval: Duration::from_secs(1) };
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
            Poll::Pending => timeout(config.connect_timeout(), ready).await,
        }
    };
    let outcome = outcome.unwrap_or_else(|_| {
        Err(fred::error::Error::new(ErrorKind::Timeout, "no answer within redis.connect_timeout_seconds"))
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
