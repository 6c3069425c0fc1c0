//! Measures a running socket process and prints a table. Started by `scripts/bench-realtime`, which says what runs where.
//!
//! `realtime_bench PORT SERVER_PID CONNECTIONS REDIS_URL CHURN`. `CHURN` connections come and go at the end. Dialect N: every connection is in five channels, four of them shared, and has a token
//! of its own. Connections count what they read event by event (`crowd`); a delivery counts when a client has the whole frame, and an event that
//! comes twice or out of order is told. Publishing costs next to nothing here (`publisher`), so that the server is what is measured.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement prints, and ends where something is wrong"
)]

mod crowd;
mod publisher;

use crowd::Crowd;
use fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand},
};
use futures::{StreamExt, stream};
use oneiro_core::{
    auth::{UserId, mint},
    config::{Config, Role, Secret},
    redis,
};
use oneiro_events::{Broker, Position};
use publisher::Publisher;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// What `scripts/bench-realtime` starts the server with.
const SECRET: &str = "a secret that is long enough for a bench";
/// Events under way at most when the rate of unicasts is measured: enough to keep the server busy, few enough to lose none.
const UNICAST_WINDOW: u64 = 2_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [port, pid, connections, redis, churn] = args.as_slice() else {
        println!("usage: realtime_bench PORT SERVER_PID CONNECTIONS REDIS_URL CHURN");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, measure(port, &Process(pid), connections.parse().unwrap(), redis, churn.parse().unwrap()));
}

async fn measure(port: &str, server: &Process<'_>, connections: u64, redis: &str, churn: u64) {
    let addr = format!("127.0.0.1:{port}");
    let token = |n| mint(&Secret::new(SECRET), &UserId::from(n), None, "", Duration::from_secs(3_600)).unwrap();
    let query = |n| format!("token={}", token(n));
    let queries: Vec<String> = (0..connections).map(query).collect();
    let mut publisher = Publisher::connect(redis.trim_start_matches("redis://")).await;
    let env = [("JWT_SECRET", SECRET), ("STORAGE_URL", "memory:///"), ("REDIS_URL", redis)];
    let env: BTreeMap<String, String> = env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let config = Config::from_layers(Role::Ws, None, &env).unwrap();
    let client = redis::connect(&config.redis).await.unwrap();
    let store_pid = pid_of(&client).await;
    let crowd = Crowd::default();

    let before = server.memory_kib();
    let processes = [server, &Process("self"), &Process(&store_pid)];
    let (cpu, begun) = (processes.map(Process::cpu_us), Instant::now());
    crowd.connect(&addr, queries).await;
    let took = begun.elapsed().as_secs_f64();
    row("connects/s, a JWT each", format!("{:.0}", connections as f64 / took));
    let [at_server, at_load, at_store] =
        [0, 1, 2].map(|which| (processes[which].cpu_us() - cpu[which]) / connections as f64);
    row("CPU us per connect: server", format!("{at_server:.0}"));
    row("CPU us per connect: load / Redis, on one core", format!("{at_load:.0} / {at_store:.0}"));
    let most = [at_server, at_load + at_store].map(|us| 1_000_000.0 / us);
    row(
        "connects/s that a core to itself would allow: server / load and Redis",
        format!("{:.0} / {:.0}", most[0], most[1]),
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    row("KiB per idle connection", format!("{:.2}", (server.memory_kib() - before) / connections as f64));

    // One at a time: from publishing until the last connection has it.
    let rate = one_at_a_time(&mut publisher, &crowd, connections).await;
    let (p50, alone_ms) = crowd.latencies_ms();
    row("broadcast to all, one at a time: p50 / p99 ms", format!("{p50:.1} / {alone_ms:.1}"));
    row("broadcast to all, one at a time: deliveries/s", format!("{rate:.0}"));
    stalled(&addr, &mut publisher, &crowd, connections, alone_ms, query).await;

    let events = (2_000_000 / connections).clamp(20, 800);
    for window in [10, events] {
        crowd.forget();
        let what = if window == events { "all at once" } else { "ten under way" };
        let measured = server.rate(&crowd, broadcast(&mut publisher, &crowd, events, window, connections)).await;
        row(&format!("{events} broadcasts, {what}: deliveries/s"), format!("{:.0}", measured.per_second));
        row(&format!("{events} broadcasts, {what}: CPU us per delivery"), format!("{:.2}", measured.cpu_us));
        row(&format!("{events} broadcasts, {what}: lost / out of order"), crowd.faults(events * connections));
    }

    crowd.forget();
    for n in 0..2_000 {
        publisher.queue(&user(n, connections), &crowd.stamp());
        if n % 10 == 9 {
            publisher.flush().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    crowd.wait_for(2_000).await;
    let (p50, p99) = crowd.latencies_ms();
    row("unicast, 10 in a millisecond: p50 / p99 ms", format!("{p50:.2} / {p99:.2}"));

    crowd.forget();
    let unicasts = 200_000;
    let measured = server.rate(&crowd, unicast(&mut publisher, &crowd, unicasts, UNICAST_WINDOW, connections)).await;
    row(&format!("unicast, {UNICAST_WINDOW} under way: events/s"), format!("{:.0}", measured.per_second));
    row(&format!("unicast, {UNICAST_WINDOW} under way: CPU us per event"), format!("{:.2}", measured.cpu_us));
    row(&format!("unicast, {UNICAST_WINDOW} under way: lost / out of order"), crowd.faults(unicasts));

    // Faster than they can be read; plain PUBLISH has no history to read from again.
    for (events, users) in [(2_000, 1), (50_000, 1), (50_000, connections), (200_000, connections)] {
        crowd.forget();
        unicast(&mut publisher, &crowd, events, u64::MAX, users).await;
        crowd.settle().await;
        let whom = if users == 1 { "one user" } else { "all users in turn" };
        row(&format!("plain PUBLISH, a burst of {events} to {whom}: lost / out of order"), crowd.faults(events));
    }
    let broker = Broker::new(client, config.broker_options());
    for burst in [2_000, 50_000] {
        crowd.forget();
        store(&broker, &crowd, (0..burst).map(|_| 0)).await;
        crowd.settle().await;
        row(&format!("stored, a burst of {burst} to one user: lost / out of order"), crowd.faults(burst));
    }
    storm(&addr, &broker, &crowd, connections, query).await;
    come_and_go(&addr, server, &crowd, connections, churn, query).await;
}

/// Broadcasts of which each begins when the last has arrived everywhere. Deliveries a second.
async fn one_at_a_time(publisher: &mut Publisher, crowd: &Crowd, connections: u64) -> f64 {
    const ROUNDS: u64 = 40;
    crowd.forget();
    let begun = Instant::now();
    broadcast(publisher, crowd, ROUNDS, 1, connections).await;
    (ROUNDS * connections) as f64 / begun.elapsed().as_secs_f64()
}

/// What readers that have stopped reading cost the others. `alone_ms`: the 99th percentile of a broadcast without them.
async fn stalled(
    addr: &str,
    publisher: &mut Publisher,
    crowd: &Crowd,
    connections: u64,
    alone_ms: f64,
    query: impl Fn(u64) -> String,
) {
    /// Fills what the kernel keeps for a reader, so that the rest waits in the server.
    const FILL: u64 = 200;
    let count = 1_000.min(connections);
    let queries = (0..count).map(|n| query(connections + n)).collect();
    let stalled = crowd.stall(addr, queries).await;
    crowd.forget();
    broadcast(publisher, crowd, FILL, 10, connections).await;
    one_at_a_time(publisher, crowd, connections).await;
    let (p50, p99) = crowd.latencies_ms();
    let change = (p99 / alone_ms - 1.0) * 100.0;
    row(
        &format!("the same beside {count} stalled readers: p50 / p99 ms"),
        format!("{p50:.1} / {p99:.1} ({change:+.0} %)"),
    );
    drop(stalled);
}

/// Publishes a stored event to each of these users; where it stands.
async fn store(broker: &Broker, crowd: &Crowd, users: impl Iterator<Item = u64>) -> Vec<Position> {
    let all = users.map(|user| {
        let (broker, event) = (broker.clone(), crowd.stamp());
        async move { broker.publish(&format!("user_{user}").parse().unwrap(), event.as_bytes()).await.unwrap() }
    });
    stream::iter(all).buffered(512).collect().await
}

/// All connections break, and all clients come back at the same moment and resume what each has missed.
async fn storm(addr: &str, broker: &Broker, crowd: &Crowd, connections: u64, query: impl Fn(u64) -> String) {
    /// Stored events that each user misses.
    const MISSED: u64 = 2;
    /// All are set up at the same time, so that a slow machine shows nothing for long.
    const PATIENCE: Duration = Duration::from_secs(60);
    let seen = store(broker, crowd, 0..connections).await;
    crowd.settle().await;
    crowd.drop_all();
    for _ in 0..MISSED {
        store(broker, crowd, 0..connections).await;
    }
    let queries = seen.iter().zip(0_u64..).map(|(at, n)| format!("{}&epoch={}&seq={}", query(n), at.epoch, at.offset));
    let queries = queries.collect();
    crowd.forget();
    let begun = Instant::now();
    crowd.storm(addr, queries);
    crowd.wait_within(MISSED * connections, PATIENCE).await;
    let took = crowd.last().map_or(f64::NAN, |last| (last - begun).as_secs_f64());
    row(
        &format!("{connections} come back at once, each with {MISSED} events to resume: s until all have them"),
        format!("{took:.2}"),
    );
    row("the same: lost / out of order", crowd.faults(MISSED * connections));
}

/// What is left of connections that came and went: the server's memory after each had its turn, against what it was after the first third, which
/// fills what is kept on purpose.
async fn come_and_go(
    addr: &str,
    server: &Process<'_>,
    crowd: &Crowd,
    connections: u64,
    churn: u64,
    query: impl Fn(u64) -> String,
) {
    let rounds = (churn / connections).max(3);
    let (mut settled, mut last) = (0.0, 0.0);
    let queries: Vec<String> = (0..connections).map(query).collect();
    for round in 1..=rounds {
        crowd.drop_all();
        // The next ones would share the moment with the end of these.
        tokio::time::sleep(Duration::from_secs(1)).await;
        crowd.connect(addr, queries.clone()).await;
        last = server.memory_kib();
        if round == rounds / 3 {
            settled = last;
        }
    }
    let change = (last / settled - 1.0) * 100.0;
    let what = format!(
        "{} connections came and went: MiB with {connections} open after a third / at the end",
        rounds * connections
    );
    row(&what, format!("{:.1} / {:.1} ({change:+.1} %)", settled / 1_024.0, last / 1_024.0));
}

/// Publishes to everybody, at most `window` events ahead of the slowest connections on average. How many.
async fn broadcast(publisher: &mut Publisher, crowd: &Crowd, events: u64, window: u64, connections: u64) -> u64 {
    let before = crowd.events();
    for n in 0..events {
        crowd.wait_for(before + (n + 1).saturating_sub(window) * connections).await;
        publisher.queue("alerts", &crowd.stamp());
        publisher.flush().await;
    }
    crowd.wait_for(before + events * connections).await;
    events
}

/// Publishes to one user after the other, at most `window` events ahead of what was read.
async fn unicast(publisher: &mut Publisher, crowd: &Crowd, events: u64, window: u64, users: u64) -> u64 {
    for n in 0..events {
        publisher.queue(&user(n, users), &crowd.stamp());
        if n % 64 == 63 || n + 1 == events {
            publisher.flush().await;
            crowd.wait_for((n + 1).saturating_sub(window)).await;
        }
    }
    events
}

/// The process that runs Redis.
async fn pid_of(client: &Client) -> String {
    let command = CustomCommand::new_static("INFO", ClusterHash::Random, false);
    let info: String = client.custom(command, vec!["server"]).await.unwrap();
    info.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap().trim().to_owned()
}

fn user(n: u64, users: u64) -> String {
    format!("user_{}", n % users)
}

fn row(what: &str, value: impl std::fmt::Display) {
    println!("| {what} | {value} |");
}

/// A process that is measured, by its id.
struct Process<'a>(&'a str);

struct Measured {
    per_second: f64,
    cpu_us: f64,
}

impl Process<'_> {
    /// Deliveries a second and the server's CPU time for each, from the first publish to the last delivery.
    async fn rate(&self, crowd: &Crowd, publishing: impl Future<Output = u64>) -> Measured {
        let (begun, cpu) = (Instant::now(), self.cpu_us());
        publishing.await;
        crowd.settle().await;
        let took = crowd.last().map_or(1.0, |last| (last - begun).as_secs_f64());
        let events = crowd.events().max(1) as f64;
        Measured { per_second: events / took, cpu_us: (self.cpu_us() - cpu) / events }
    }

    fn memory_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn cpu_us(&self) -> f64 {
        /// Linux counts in hundredths of a second (`getconf CLK_TCK`).
        const TICK_US: f64 = 10_000.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * TICK_US
    }
}
