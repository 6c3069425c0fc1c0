//! Measures the socket tier: a server on one core, the load and Redis on the other. Started by `scripts/bench-realtime`.
//!
//! `realtime_bench server PORT` serves; `realtime_bench load PORT SERVER_PID CONNECTIONS` measures and prints a table. Both take `REDIS_URL`'s
//! value as the last argument. Dialect N: every connection is in five channels, four of them shared, and has a token of its own.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement prints, and ends where something is wrong"
)]

use fred::{clients::Client, interfaces::PubsubInterface};
use oneiro_api::socket::{Deps, SocketContext, routes};
use oneiro_core::{
    auth::{UserId, Verifier, mint},
    config::{Config, RealtimeSettings, Role, Secret},
    dreams::DreamStore,
    redis,
    storage::Storage,
};
use oneiro_events::{Broker, BrokerOptions};
use poem::{
    listener::{Acceptor, Listener, TcpAcceptor, TcpListener},
    web::{LocalAddr, RemoteAddr},
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
};

const SECRET: &str = "a secret that is long enough for a bench";
/// With its channel's frame around it, an event of 310 bytes, as in the comparison.
const FILLER: usize = 200;
const SHAKING_HANDS: usize = 128;

fn config(redis: &str) -> Config {
    let env = [("JWT_SECRET", SECRET), ("STORAGE_URL", "memory:///"), ("REDIS_URL", redis)];
    let env: BTreeMap<String, String> = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    Config::from_layers(Role::Ws, None, &env).unwrap()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    match args.as_slice() {
        ["server", port, redis] => local.block_on(&runtime, server(port, redis)),
        ["load", port, pid, connections, redis] => {
            local.block_on(&runtime, load(port, pid, connections.parse().unwrap(), redis));
        }
        _ => println!("usage: realtime_bench server PORT REDIS | load PORT SERVER_PID CONNECTIONS REDIS"),
    }
}

async fn server(port: &str, redis: &str) {
    let config = config(redis);
    let client = redis::connect(&config.redis).await.unwrap();
    let broker = Broker::new(client.clone(), BrokerOptions::default());
    let storage = Storage::open(&config.storage).unwrap();
    let settings = RealtimeSettings {
        handshakes_per_second_per_address: 0,
        handshakes_per_second_per_user: 0,
        messages_per_second: 0,
        ..RealtimeSettings::default()
    };
    let ctx = SocketContext::start(Deps {
        broker: broker.clone(),
        subscriber: redis::connect_subscriber(&config.redis).await.unwrap(),
        verifier: Verifier::new(&config.auth).unwrap(),
        dreams: DreamStore::new(broker, client, storage, "oneiro", &config.dreams),
        settings,
    });
    let acceptor = TcpListener::bind(format!("127.0.0.1:{port}")).into_acceptor().await.unwrap();
    poem::Server::new_with_acceptor(NoDelay(acceptor)).run(routes(&ctx)).await.unwrap();
}

/// As the real servers have it: poem leaves Nagle's algorithm on.
struct NoDelay(TcpAcceptor);

impl Acceptor for NoDelay {
    type Io = TcpStream;

    fn local_addr(&self) -> Vec<LocalAddr> {
        self.0.local_addr()
    }

    async fn accept(&mut self) -> std::io::Result<(TcpStream, LocalAddr, RemoteAddr, poem::http::uri::Scheme)> {
        let accepted = self.0.accept().await?;
        accepted.0.set_nodelay(true)?;
        Ok(accepted)
    }
}

/// What the connections have seen.
#[derive(Default)]
struct Seen {
    events: u64,
    latencies_us: Vec<u32>,
    last: Option<Instant>,
}

async fn load(port: &str, pid: &str, connections: usize, redis: &str) {
    let addr = format!("127.0.0.1:{port}");
    let client = redis::connect(&config(redis).redis).await.unwrap();
    let broker = Broker::new(client.clone(), BrokerOptions::default());
    let seen = Rc::new(RefCell::new(Seen::default()));
    let zero = Instant::now();

    let tokens: Vec<String> = (0..connections)
        .map(|n| mint(&Secret::new(SECRET), &UserId::from(n as u64), None, "", Duration::from_secs(3_600)).unwrap())
        .collect();
    let before = memory_kib(pid);
    let permits = std::sync::Arc::new(Semaphore::new(SHAKING_HANDS));
    let begun = Instant::now();
    let ready = Rc::new(Semaphore::new(0));
    for token in tokens {
        let permit = permits.clone().acquire_owned().await.unwrap();
        let (addr, seen, ready) = (addr.clone(), seen.clone(), ready.clone());
        tokio::task::spawn_local(async move {
            let mut stream = connect(&addr, &token).await;
            drop(permit);
            ready.add_permits(1);
            read(&mut stream, zero, &seen).await;
        });
    }
    ready.acquire_many(connections as u32).await.unwrap().forget();
    let rate = connections as f64 / begun.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let each = (memory_kib(pid) - before) / connections as f64;
    println!(
        "| connections | {connections} |\n| connects/s, a JWT each | {rate:.0} |\n| KiB per idle connection | {each:.2} |"
    );

    // Broadcast, one at a time: latency until everybody has it.
    for n in 1..=20 {
        publish(&client, "alerts", n, zero).await;
        wait_for(&seen, connections as u64 * n).await;
    }
    let p99 = percentile(&seen, 0.99);
    println!("| broadcast to all, p99 ms | {:.1} |", p99 / 1_000.0);

    // Broadcast, as much as goes.
    let events = (2_000_000 / connections as u64).clamp(20, 800);
    let (rate, cpu) = timed(pid, &seen, connections as u64 * events, async {
        for n in 0..events {
            publish(&client, "alerts", n, zero).await;
        }
    })
    .await;
    println!("| broadcast deliveries/s | {rate:.0} |\n| CPU us per delivery | {cpu:.2} |");

    *seen.borrow_mut() = Seen::default();
    // Unicast: paced for latency, then as much as goes.
    for n in 0..2_000_u64 {
        publish(&client, &format!("user_{}", n % connections as u64), n, zero).await;
        if n % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    wait_for(&seen, 2_000).await;
    println!(
        "| unicast p50 / p99 ms | {:.2} / {:.2} |",
        percentile(&seen, 0.5) / 1_000.0,
        percentile(&seen, 0.99) / 1_000.0
    );
    let unicasts = 200_000;
    let (rate, cpu) = timed(pid, &seen, unicasts, async {
        let all = (0..unicasts).map(|n| {
            let (client, channel) = (client.clone(), format!("user_{}", n % connections as u64));
            async move { publish(&client, &channel, n, zero).await }
        });
        futures::StreamExt::for_each(
            futures::StreamExt::buffer_unordered(futures::stream::iter(all), 512),
            async |()| {},
        )
        .await;
    })
    .await;
    println!("| unicast events/s | {rate:.0} |\n| CPU us per unicast | {cpu:.2} |");

    // Stored events to one user, faster than they can be read: nothing may be missing.
    for burst in [2_000, 50_000] {
        let channel = "user_0".parse().unwrap();
        *seen.borrow_mut() = Seen::default();
        let all = (0..burst).map(|n| {
            let (broker, channel, event) = (broker.clone(), &channel, event(n, zero));
            async move { broker.publish(channel, event.as_bytes()).await.map(|_| ()).unwrap() }
        });
        futures::StreamExt::for_each(
            futures::StreamExt::buffer_unordered(futures::stream::iter(all), 512),
            async |()| {},
        )
        .await;
        settle(&seen).await;
        println!("| lost of a burst of {burst} stored events | {} |", burst as i64 - seen.borrow().events as i64);
    }
}

async fn connect(addr: &str, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "GET /ws/notifications/?token={token} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    // Authenticated and subscribed: only then is a message answered.
    let ping = b"\x81\x8f\0\0\0\0{\"type\":\"ping\"}";
    stream.write_all(ping).await.unwrap();
    let mut header = [0; 2];
    stream.read_exact(&mut header).await.unwrap();
    let mut pong = vec![0; usize::from(header[1])];
    stream.read_exact(&mut pong).await.unwrap();
    stream
}

/// Counts frames by their times of publishing, written as `"at":<us>`.
async fn read(stream: &mut TcpStream, zero: Instant, seen: &RefCell<Seen>) {
    let mut rest = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(len) = stream.read(&mut buffer).await else { return };
        if len == 0 {
            return;
        }
        rest.extend_from_slice(&buffer[..len]);
        let now = zero.elapsed().as_micros() as u64;
        let mut from = 0;
        let mut seen = seen.borrow_mut();
        while let Some((header, payload)) = frame(&rest[from..]) {
            let body = &rest[from + header..from + header + payload];
            if let Some(at) = body.windows(5).position(|part| part == b"\"at\":") {
                let digits = body[at + 5..].iter().take_while(|byte| byte.is_ascii_digit());
                let sent = digits.fold(0, |sum: u64, byte| sum * 10 + u64::from(byte - b'0'));
                seen.events += 1;
                seen.latencies_us.push(u32::try_from(now.saturating_sub(sent)).unwrap_or(u32::MAX));
                seen.last = Some(Instant::now());
            }
            from += header + payload;
        }
        rest.drain(..from);
        if rest.is_empty() {
            rest = Vec::new();
        }
    }
}

fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header, len) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => return None,
        len => (2, usize::from(len)),
    };
    (bytes.len() >= header + len).then_some((header, len))
}

fn event(n: u64, zero: Instant) -> String {
    let (at, filler) = (zero.elapsed().as_micros(), "x".repeat(FILLER));
    format!(r#"{{"type":"alert","data":{{"id":"{n}","at":{at},"title":"t","content":"{filler}","created_at":"now"}}}}"#)
}

async fn publish(client: &Client, channel: &str, n: u64, zero: Instant) {
    client.publish::<(), _, _>(channel, event(n, zero)).await.unwrap();
}

async fn wait_for(seen: &RefCell<Seen>, events: u64) {
    let begun = Instant::now();
    while seen.borrow().events < events && begun.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn settle(seen: &RefCell<Seen>) {
    let mut before = u64::MAX;
    while seen.borrow().events != before {
        before = seen.borrow().events;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Deliveries a second and the server's CPU time for each, from the first publish to the last delivery.
async fn timed(pid: &str, seen: &RefCell<Seen>, deliveries: u64, publishing: impl Future<Output = ()>) -> (f64, f64) {
    *seen.borrow_mut() = Seen::default();
    let (begun, cpu) = (Instant::now(), cpu_us(pid));
    publishing.await;
    settle(seen).await;
    let spent = cpu_us(pid) - cpu;
    let seen_now = seen.take();
    if seen_now.events < deliveries {
        println!("| missing | {} |", deliveries - seen_now.events);
    }
    let took = seen_now.last.map_or(1.0, |last| (last - begun).as_secs_f64());
    (seen_now.events as f64 / took, spent / seen_now.events.max(1) as f64)
}

fn percentile(seen: &RefCell<Seen>, part: f64) -> f64 {
    let mut seen = seen.borrow_mut();
    seen.latencies_us.sort_unstable();
    let at = ((seen.latencies_us.len() as f64 * part) as usize).min(seen.latencies_us.len().saturating_sub(1));
    f64::from(seen.latencies_us.get(at).copied().unwrap_or(0))
}

fn memory_kib(pid: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn cpu_us(pid: &str) -> f64 {
    /// Linux counts in hundredths of a second (`getconf CLK_TCK`).
    const TICK_US: f64 = 10_000.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * TICK_US
}
