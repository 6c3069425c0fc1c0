//! The socket tier: three WebSocket dialects over one hub, and the HTTP that belongs to it.
//!
//! A connection is one task (`session`) over one upgraded stream (`link`), which reads frames (`framing`) and writes what waits in its bounded
//! queue (`outbox`). The `hub` knows who listens to which channel; it takes events from the process's one subscription, makes each form of a
//! frame once (`encode`), and puts it into the queues, from where the `relay` writes it for connections whose tasks sleep. `dream`, `notifications` and `presence` are the dialects, `channels` what all of them
//! know on top. See `docs/REALTIME.md` for the protocol and `docs/SCALING.md` for what it costs.

mod access;
mod channels;
mod close;
mod conn;
mod delivery;
mod dream;
mod encode;
mod fields;
mod frame;
mod framing;
mod handshake;
mod heartbeat;
mod http;
mod hub;
mod inbox;
mod limits;
mod link;
mod memory;
mod messages;
mod notifications;
mod options;
mod orders;
mod outbox;
mod presence;
mod publish;
mod records;
mod registry;
mod relay;
mod resume;
mod session;
mod sse;
mod stored;
mod waiting;
mod wheel;

use crate::{ApiError, listener::Upgrade};
use close::Close;
use fred::clients::Client;
use handshake::Caller;
use hub::Hub;
use limits::Limiter;
pub use oneiro_core::publish::CONTROL_CHANNEL;
use oneiro_core::{
    auth::{UserId, Verifier},
    config::RealtimeSettings,
    dreams::DreamStore,
    publish::PRESENCE_CHANNEL,
};
use oneiro_events::{
    Broker, Subscriptions, SubscriptionsOptions,
    presence::{Presence, PresenceOptions},
};
use options::Dialect;
use poem::{Endpoint, EndpointExt, Request, Response, Route, RouteMethod, get, post};
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::Instant};
use waiting::Waiting;

/// Handshakes pass in bursts of this many seconds' worth: a page with several sockets, a reload, a shared address.
const BURST_SECONDS: u32 = 4;

/// What clients of a process that restarts need beyond the `retry_after` that they are told: their own jitter, a handshake among thousands, or the
/// five seconds of those that know no `retry_after`.
const RETURN_TIME: Duration = Duration::from_secs(10);

/// What the socket tier stands on; the caller connects and configures it.
pub struct Deps {
    /// Publishes, reads histories.
    pub broker: Broker,
    /// A connected client of its own for subscribing, with a `broadcast_channel_capacity` of 8,192 or more, used by nobody else.
    pub subscriber: Client,
    /// Checks tokens.
    pub verifier: Verifier,
    /// Looks dreams up.
    pub dreams: DreamStore,
    /// `[realtime]`.
    pub settings: RealtimeSettings,
}

/// What is counted for every connection, by dialect, looked up once a process.
struct Counters {
    handshakes: [metrics::Counter; Dialect::ALL.len()],
    sessions: [metrics::Counter; Dialect::ALL.len()],
}

impl Counters {
    fn new() -> Self {
        Self {
            handshakes: Dialect::ALL
                .map(|dialect| metrics::counter!("oneiro_ws_handshakes_total", "dialect" => dialect.label())),
            sessions: Dialect::ALL
                .map(|dialect| metrics::counter!("oneiro_ws_sessions_total", "dialect" => dialect.label())),
        }
    }
}

/// The running socket tier of one process.
pub struct SocketContext {
    broker: Broker,
    verifier: Verifier,
    dreams: DreamStore,
    settings: RealtimeSettings,
    hub: Hub,
    presence: Presence,
    records: Arc<records::Records>,
    /// This process among the others.
    node: String,
    registry: Arc<registry::Registry>,
    cursors: inbox::Cursors,
    address_handshakes: Limiter<String>,
    user_handshakes: Limiter<UserId>,
    signals: Limiter<UserId>,
    chats: Limiter<UserId>,
    waiting_chats: Waiting,
    counters: Counters,
    tasks: parking_lot::Mutex<JoinSet<()>>,
}

impl SocketContext {
    /// Starts the tier's tasks. Call within a tokio runtime.
    pub fn start(deps: Deps) -> Arc<Self> {
        let subscriptions = Subscriptions::start(deps.subscriber, deps.broker.clone(), SubscriptionsOptions::default());
        let settings = deps.settings;
        let limiter = |rate: u32| (rate, rate.saturating_mul(BURST_SECONDS));
        let (address_rate, address_burst) = limiter(settings.handshakes_per_second_per_address);
        let (user_rate, user_burst) = limiter(settings.handshakes_per_second_per_user);
        let (signal_rate, signal_burst) = limiter(settings.signals_per_second_per_user);
        let (chat_rate, chat_burst) = limiter(settings.chats_per_second_per_user);
        let node = format!("{:08x}", rand::random::<u32>());
        let presence = PresenceOptions {
            channel: PRESENCE_CHANNEL.parse().expect("a constant name"),
            lease: Duration::from_secs(settings.presence_lease_seconds),
            grace: Duration::from_secs(settings.presence_grace_seconds),
            tell_up_to: if settings.presence_broadcast { settings.presence_broadcast_limit } else { 0 },
            event: presence::user_status,
        };
        let presence = Presence::new(deps.broker.clone(), &node, presence);
        let (records, recording) = records::Records::new(deps.broker.clone(), &settings);
        let relay = Arc::new(relay::Relay::default());
        let ctx = Arc::new(Self {
            presence: presence.clone(),
            records: records.clone(),
            node,
            broker: deps.broker,
            verifier: deps.verifier,
            dreams: deps.dreams,
            hub: Hub::new(subscriptions.clone(), records, relay.clone()),
            registry: Arc::new(registry::Registry::new()),
            cursors: inbox::Cursors::default(),
            address_handshakes: Limiter::new(address_rate, address_burst),
            user_handshakes: Limiter::new(user_rate, user_burst),
            signals: Limiter::new(signal_rate, signal_burst),
            chats: Limiter::new(chat_rate, chat_burst),
            waiting_chats: Waiting::new(
                settings.inbox_chats_per_sender,
                settings.inbox_chats_per_sender_total,
                Duration::from_secs(settings.inbox_seconds),
            ),
            counters: Counters::new(),
            settings,
            tasks: parking_lot::Mutex::default(),
        });
        let mut tasks = ctx.tasks.lock();
        tasks.spawn(ctx.clone().flush_cursors());
        tasks.spawn(ctx.registry.clone().keep_time());
        tasks.spawn(presence.keep());
        tasks.spawn(recording);
        tasks.spawn(relay.run());
        tasks.spawn(ctx.clone().obey(subscriptions));
        drop(tasks);
        ctx
    }

    /// Whether events arrive: the subscriber connection answered its last proof of life. For readiness checks.
    pub fn is_healthy(&self) -> bool {
        self.hub.is_healthy()
    }

    /// Whether Redis answers within `limit`; in a cluster, whether any shard does: those who need another are told so themselves.
    pub async fn redis_answers(&self, limit: Duration) -> bool {
        self.broker.answers(limit).await
    }

    /// How many sockets and event streams are open.
    pub fn connection_count(&self) -> usize {
        self.registry.len()
    }

    /// How many channels this process listens to.
    pub fn channel_count(&self) -> usize {
        self.hub.topic_count()
    }

    /// Ends every connection with 1012 and a `retry_after` of its own, so that the clients do not all come back at once, and refuses new ones.
    /// Returns once all are gone, or after `deadline`; whether all were. Calling it twice is harmless.
    pub async fn drain(&self, deadline: Duration) -> bool {
        let open = self.registry.len();
        tracing::info!(connections = open, "closing sockets for a restart");
        let [_, most] = self.settings.drain_retry_after_seconds;
        self.presence.lengthen_grace(Duration::from_secs(most) + RETURN_TIME);
        let is_done = tokio::time::timeout(deadline, self.registry.drain(|| self.goodbye())).await.is_ok();
        tracing::info!(left = self.registry.len(), "sockets are closed");
        is_done
    }

    /// Ends the tier's tasks without a word to anybody, as a kill would; for tests of what others then see.
    pub fn abort(&self) {
        self.tasks.lock().abort_all();
    }

    fn goodbye(&self) -> Close {
        let [least, most] = self.settings.drain_retry_after_seconds;
        Close::restart(least + rand::random::<u64>() % (most.saturating_sub(least) + 1))
    }

    fn limits(&self) -> outbox::Limits {
        outbox::Limits { messages: self.settings.queue_messages, bytes: self.settings.queue_bytes }
    }
}

/// Every path that the socket tier serves; both forms of each, with and without a trailing slash.
pub fn routes(ctx: &Arc<SocketContext>) -> Route {
    let socket = |dialect| Socket { ctx: ctx.clone(), dialect };
    let mut route = Route::new();
    for (path, dialect) in [
        ("/ws/dream-images/:id", Dialect::Dream),
        ("/ws/notifications", Dialect::Notifications),
        ("/api/v1/ws", Dialect::Presence),
    ] {
        route = route.at(path, socket(dialect)).at(format!("{path}/"), socket(dialect));
    }
    let mut http = |path: &str, method: fn() -> RouteMethod| {
        let endpoint = || method().data(ctx.clone());
        route = std::mem::take(&mut route).at(path, endpoint()).at(format!("{path}/"), endpoint());
    };
    http("/api/v1/online", || get(presence::list_online));
    http("/api/v1/online/count", || get(presence::count_online));
    http("/api/v1/status/:user_id", || get(presence::show_status));
    http("/api/v1/publish", || post(publish::publish_events));
    http("/api/v1/events", || get(sse::stream_events));
    http("/api/developer/websocket-sessions", || get(records::list_sessions));
    http("/api/developer/websocket-messages", || get(records::list_messages));
    route
}

/// The upgrade of one path.
struct Socket {
    ctx: Arc<SocketContext>,
    dialect: Dialect,
}

impl Endpoint for Socket {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let key = match handshake::upgrade_key(&request) {
            Ok(key) => key,
            Err(refusal) => return Ok(*refusal),
        };
        let caller = Box::new(Caller::of(&request, &self.ctx.settings));
        let source = caller.token.as_ref().map(|(_, source)| *source);
        if !handshake::is_origin_allowed(&request, &self.ctx.settings, source) {
            return Err(session::rejected("origin", http::forbidden("pages of this origin may not connect")).into());
        }
        if !self.ctx.address_handshakes.admit(&caller.address, Instant::now()) {
            return Err(session::rejected("address_rate", ApiError::rate_limited(Duration::from_secs(1))).into());
        }
        self.ctx.counters.handshakes[self.dialect as usize].increment(1);
        let upgrade = request.extensions().get::<Upgrade>().cloned();
        let upgrade = upgrade.ok_or_else(|| ApiError::malformed("this connection cannot be upgraded"))?;
        let response = handshake::accept(&request, &key);
        let (ctx, dialect) = (self.ctx.clone(), self.dialect);
        upgrade.then(Box::new(move |stream, early| {
            Box::pin(session::run(session::begin(ctx, dialect, caller, stream, &early)))
        }));
        Ok(response)
    }
}
