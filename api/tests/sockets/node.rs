//! One socket process, in the test's own process.

use crate::{client::Client, redis::Redis};
use oneiro_api::socket::{Deps, SocketContext};
use oneiro_core::{
    auth::{UserId, Verifier, mint},
    clock,
    config::{Config, RealtimeSettings, Role, Secret},
    dreams::{Change, Dream, DreamId, DreamStore, NewText},
    storage::Storage,
};
use oneiro_events::{Broker, BrokerOptions};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

pub(crate) const SECRET: &str = "a secret that is long enough for tests";

/// How long a client may take for its handshake, on the slowest machine.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Node {
    pub(crate) addr: SocketAddr,
    pub(crate) ctx: Arc<SocketContext>,
    pub(crate) broker: Broker,
    pub(crate) dreams: DreamStore,
    server: tokio::task::JoinHandle<()>,
}

/// Settings under which nothing is limited, and no heartbeat comes, that a test does not ask for.
pub(crate) fn settings() -> RealtimeSettings {
    RealtimeSettings {
        handshakes_per_second_per_address: 0,
        handshakes_per_second_per_user: 0,
        connections_per_user: 0,
        messages_per_second: 0,
        signals_per_second_per_user: 0,
        chats_per_second_per_user: 0,
        // A test on a busy machine may last for longer than the usual interval.
        ping_interval_seconds: 3_600,
        idle_timeout_seconds: 7_200,
        ..RealtimeSettings::default()
    }
}

pub(crate) async fn node(redis: &Redis) -> Node {
    Node::start(redis, settings()).await
}

impl Node {
    pub(crate) async fn start(redis: &Redis, settings: RealtimeSettings) -> Self {
        Self::over(redis.client().await, redis.subscriber().await, settings).await
    }

    pub(crate) async fn over(
        client: fred::clients::Client,
        subscriber: fred::clients::Client,
        settings: RealtimeSettings,
    ) -> Self {
        assert_eq!(settings.mistakes(), Vec::<String>::new());
        let env = BTreeMap::from(
            [("JWT_SECRET", SECRET), ("STORAGE_URL", "memory:///")].map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        let config = Config::from_layers(Role::Ws, None, &env).unwrap();
        let broker = Broker::new(client.clone(), BrokerOptions::default());
        let storage = Storage::open(&config.storage).unwrap();
        let dreams = DreamStore::new(broker.clone(), client, storage, "oneiro", &config.dreams);
        let ctx = SocketContext::start(Deps {
            broker: broker.clone(),
            subscriber,
            verifier: Verifier::new(&config.auth).unwrap(),
            dreams: dreams.clone(),
            settings,
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = oneiro_api::serve_sockets(listener, &ctx, HEADER_TIMEOUT);
        Self { addr, ctx, broker, dreams, server }
    }

    /// A dream of this user, without images.
    pub(crate) async fn dream(&self, owner: u64) -> DreamId {
        let id = self.dreams.begin().await.unwrap();
        let text = NewText { title: "t".into(), ..NewText::default() };
        let dream = Dream::new(id, UserId::from(owner), text, vec![], clock::naive_local(), clock::unix_seconds());
        self.dreams.create(&dream).await.unwrap();
        id
    }

    /// Publishes the dream's next event; its version.
    pub(crate) async fn announce(&self, id: DreamId) -> u64 {
        self.dreams.change(id, |_| Change::Announce(())).await.unwrap().0.version
    }

    /// A whole HTTP exchange; the status and the JSON body, or the text as a JSON string.
    pub(crate) async fn http(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, serde_json::Value) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.addr).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n{body}",
            self.addr,
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap_or_else(|_| body.into()))
    }

    pub(crate) async fn publish(&self, event: serde_json::Value) -> serde_json::Value {
        let token = token_for(99, "publish", Duration::from_secs(600));
        let (status, answer) = self.http("POST", "/api/v1/publish", &token, &event.to_string()).await;
        assert_eq!(status, 201, "{answer}");
        answer
    }

    pub(crate) async fn connect(&self, path: &str) -> Client {
        Client::connect(self.addr, path, &[]).await.unwrap()
    }

    /// Closes a connection, the only one, and sees the process notice.
    pub(crate) async fn leave(&self, mut client: Client) {
        client.stream.close(None).await.unwrap();
        client.closed().await;
        drop(client);
        crate::presence::eventually(async || self.ctx.connection_count() == 0).await;
    }
}

impl Node {
    /// As if killed: nothing is told to anybody.
    pub(crate) fn die(&self) {
        self.ctx.abort();
        self.server.abort();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.abort();
    }
}

pub(crate) fn token(user: u64) -> String {
    token_for(user, "", Duration::from_secs(3_600))
}

pub(crate) fn token_for(user: u64, scopes: &str, ttl: Duration) -> String {
    mint(&Secret::new(SECRET), &UserId::from(user), Some(&format!("name{user}")), scopes, ttl).unwrap()
}
