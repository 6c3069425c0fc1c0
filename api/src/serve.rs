//! Starting and stopping the two servers: `api` (HTTP, and sockets where one process is enough) and `ws` (sockets alone).

use crate::{
    AppState,
    access_log::AccessLog,
    cross_origin, error,
    listener::Limits,
    routes, server,
    socket::{self, SocketContext},
};
use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser};
use oneiro_core::{
    auth::Verifier,
    config::{Config, Role},
    dreams::DreamStore,
    jobs::Queues,
    process, redis,
    storage::Storage,
    telemetry,
};
use oneiro_events::Broker;
use poem::{EndpointExt, Route, endpoint::BoxEndpoint};
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};

/// A connection that sends nothing for so long between two requests is closed: browsers keep theirs for about as long.
const IDLE_LIMIT: Duration = Duration::from_secs(75);

/// Connections that wait to be accepted, as far as the system allows: everybody comes back at once after a restart, and a connection that finds no
/// room tries again only a second later.
const BACKLOG: u32 = 4_096;

/// What both servers take on the command line; everything else is configuration.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// A TOML file with settings that differ from the defaults (also: ONEIRO_CONFIG).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, print what is in force (secrets hidden) and exit; 64 where it is wrong.
    #[arg(long)]
    check_config: bool,
}

fn after_help(name: &str) -> String {
    format!(
        "Environment: REDIS_URL, STORAGE_URL, JWT_SECRET (32 bytes or more), HTTP_ADDR, WS_ADDR, PORT, PUBLIC_MEDIA_URL, RUST_LOG, LOG_FORMAT
(text or json), and ONEIRO_<SECTION>_<KEY> for every key of config/default.toml.

Example: JWT_SECRET=$(openssl rand -hex 32) REDIS_URL=redis://127.0.0.1:6379 {name}

SIGTERM or Ctrl-C stops it gracefully; a second one at once. Exit status: 0 stopped, 1 failed, 64 wrong configuration."
    )
}

/// The whole of `main` for both binaries.
pub fn run(role: Role) -> ExitCode {
    let (name, about) = match role {
        Role::Ws => ("ws", "Oneiro's socket tier: tells browsers what happens, over WebSockets and SSE."),
        _ => (
            "api",
            "Oneiro's API: takes uploads, pushes jobs, serves pictures, the page and (http.serve_sockets) the sockets.",
        ),
    };
    let matches = Args::command().name(name).about(about).after_help(after_help(name)).get_matches();
    let args = Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let loaded = Config::load(role, args.config.as_deref()).map(|config| (config, ()));
    // What still runs after the grace period (a stuck disk, a client that reads nothing) does not keep the process.
    process::run(loaded, args.check_config, Duration::from_secs(2), |config, ()| serve(role, config))
}

async fn serve(role: Role, config: Config) -> anyhow::Result<()> {
    let metrics = telemetry::init_metrics().context("cannot install the metrics recorder")?;
    let verifier = Verifier::new(&config.auth).context("cannot read the keys that tokens are checked with")?;
    let storage = Storage::open(&config.storage).context("cannot open storage.url (STORAGE_URL)")?;
    let client = redis::connect(&config.redis).await?;
    let broker = Broker::new(client.clone(), config.broker_options());
    let dreams =
        DreamStore::new(broker.clone(), client.clone(), storage.clone(), &config.redis.key_prefix, &config.dreams);
    let queues = Queues::new(client.clone(), &config.queues);
    let (addr, grace) = match role {
        Role::Ws => (config.ws.socket_addr(), config.http.shutdown_grace()),
        _ => (config.http.socket_addr(), config.http.shutdown_grace()),
    };
    let sockets = if role == Role::Ws || config.http.serve_sockets {
        let subscriber = redis::connect_subscriber(&config.redis).await?;
        let (verifier, dreams, settings) = (verifier.clone(), dreams.clone(), config.realtime.clone());
        Some(SocketContext::start(socket::Deps { broker, subscriber, verifier, dreams, settings }))
    } else {
        None
    };
    let limits =
        Limits { head: config.http.header_timeout(), idle: IDLE_LIMIT, connections: config.http.max_connections };
    let client = if role == Role::Ws { None } else { Some(client) };
    let state =
        Arc::new(AppState::new(config, verifier, dreams, queues, storage, client, Some(metrics), sockets.clone()));
    let app = app(role, &state, sockets.as_ref());
    let listener = bind(addr)?;
    tracing::info!(%addr, role = ?role, "listening");
    let stop = {
        let state = state.clone();
        async move {
            if let Err(error) = process::stop_signal().await {
                tracing::error!(%error, "cannot listen for signals; only SIGKILL will stop this process");
                return std::future::pending().await;
            }
            tracing::info!(grace_seconds = grace.as_secs(), "stopping: no new work is taken");
            state.begin_draining();
            // The server itself does not know of upgraded connections, so they are closed here.
            if let Some(sockets) = sockets {
                sockets.drain(grace / 2).await;
            }
        }
    };
    let patience = if state.sockets.is_some() { grace / 2 } else { grace };
    // On the runtime's own threads, as this one would have to be woken for every connection.
    let serving = tokio::spawn(server::serve(listener, app, limits, stop, patience));
    serving.await.context("the server panicked")?.context("the listener failed")?;
    tracing::info!("stopped");
    Ok(())
}

fn app(role: Role, state: &Arc<AppState>, sockets: Option<&Arc<SocketContext>>) -> BoxEndpoint<'static> {
    let mut route = match role {
        Role::Ws => routes::probes(Route::new()),
        _ => Route::new().nest_no_strip("/", cross_origin::allow(routes::routes(), &state.config.http.cors_origins)),
    };
    if let Some(sockets) = sockets {
        let tier = Arc::new(cross_origin::allow(socket::routes(sockets), &state.config.http.cors_origins));
        for prefix in ["/ws", "/api/v1", "/api/developer"] {
            route = route.nest_no_strip(prefix, tier.clone());
        }
    }
    route.data(state.clone()).catch_all_error(error::respond).with(AccessLog).boxed()
}

fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let listening = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restarted process takes the port again while connections of its predecessor are still winding down.
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)
    };
    listening().with_context(|| {
        format!("cannot listen on {addr}; is another process using the port? HTTP_ADDR, WS_ADDR or PORT choose another")
    })
}

/// Serves the socket tier alone on a listener of the caller's, until the returned task is aborted; for tests and for embedding.
pub fn serve_sockets(listener: TcpListener, sockets: &Arc<SocketContext>, header_timeout: Duration) -> JoinHandle<()> {
    let app = socket::routes(sockets).map_to_response();
    let limits = Limits { head: header_timeout, idle: IDLE_LIMIT, connections: 0 };
    tokio::spawn(async move {
        let served = server::serve(listener, app, limits, std::future::pending(), Duration::ZERO).await;
        if let Err(error) = served {
            tracing::error!(error = error::report(&error), "the listener failed");
        }
    })
}
