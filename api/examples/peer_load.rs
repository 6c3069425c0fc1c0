//! Loads a WebSocket server, Oneiro's or a peer's, and prints what it measured as one JSON object. Started by `scripts/bench-realtime`.
//!
//! `peer_load KIND PORT SERVER_PID CONNECTIONS REDIS_URL [PUBLISHER...]`. Every connection brings a JWT of its own and is in a channel that all
//! share and in one that is its alone. Events are published where the server listens: by `PUBLISH` (KIND `ws` and `oneiro`), stored (`oneiro-stored`),
//! or by the program PUBLISHER, which reads lines `channel TAB event`. Publishing never runs further ahead than a window, so that the figures are
//! of a server that keeps up; only the burst at the end is let loose.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement prints, and ends where something is wrong"
)]

use fred::{clients::Client, interfaces::PubsubInterface, types::Builder, types::config::Config};
use oneiro_core::{
    auth::{UserId, mint},
    config::Secret,
};
use oneiro_events::{Broker, BrokerOptions};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    process::Stdio,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufWriter},
    net::TcpStream,
    process::{Child, ChildStdin, Command},
    sync::{Mutex, Semaphore},
    time::sleep,
};

/// Shared with the servers that `scripts/bench-realtime` starts.
const SECRET: &str = "a secret that is long enough for a bench";
/// Makes an event of 310 bytes.
const FILLER: usize = 200;
const SHAKING_HANDS: usize = 128;
/// Between two looks at a process that gives no signal.
const TICK: Duration = Duration::from_millis(1);
/// Without a delivery for so long, whatever is missing is lost.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a rate is measured.
const MEASURED: Duration = Duration::from_secs(4);
const MEMORY_AT: [usize; 3] = [1_000, 5_000, 10_000];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [kind, port, pid, connections, redis, publisher @ ..] = args.as_slice() else {
        println!("usage: peer_load KIND PORT SERVER_PID CONNECTIONS REDIS_URL [PUBLISHER...]");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let figures = tokio::task::LocalSet::new().block_on(&runtime, async {
        let target = Target { kind: (*kind).to_owned(), addr: format!("127.0.0.1:{port}"), pid: (*pid).to_owned() };
        let publisher = Publisher::start(kind, redis, publisher).await;
        measure(Rc::new(target), publisher, connections.parse().unwrap()).await
    });
    println!("{figures}");
}

struct Target {
    kind: String,
    addr: String,
    pid: String,
}

impl Target {
    /// The request's path, what is said after the upgrade, and by what one knows the answer that all is set up.
    fn greeting(&self, token: &str) -> (String, Option<String>, &'static str) {
        match self.kind.as_str() {
            "socketio" => (
                "/socket.io/?EIO=4&transport=websocket".to_owned(),
                Some(format!(r#"40{{"token":"{token}"}}"#)),
                r#"42["ready""#,
            ),
            "channels" | "ws" => (format!("/ws/?token={token}"), None, "ready"),
            _ => (format!("/ws/notifications/?token={token}"), Some(r#"{"type":"ping"}"#.to_owned()), "pong"),
        }
    }
}

enum Publisher {
    Plain(Client),
    Stored(Broker),
    Program(Box<Program>),
}

struct Program {
    stdin: Mutex<BufWriter<ChildStdin>>,
    /// Ends with its owner.
    _child: Child,
}

impl Publisher {
    async fn start(kind: &str, redis: &str, program: &[&str]) -> Self {
        if let [name, args @ ..] = program {
            let mut child = Command::new(name).args(args).stdin(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
            let stdin = child.stdin.take().unwrap();
            return Self::Program(Box::new(Program { stdin: Mutex::new(BufWriter::new(stdin)), _child: child }));
        }
        let client = Builder::from_config(Config::from_url(redis).unwrap()).build().unwrap();
        fred::interfaces::ClientLike::init(&client).await.unwrap();
        match kind {
            "oneiro-stored" => {
                // As the server has it by default, which reads what was missed.
                let options = BrokerOptions { key_prefix: "oneiro".to_owned(), ..BrokerOptions::default() };
                Self::Stored(Broker::new(client, options))
            }
            _ => Self::Plain(client),
        }
    }

    /// Publishes an event on each of these channels.
    async fn publish(&self, channels: Vec<String>, zero: Instant) {
        match self {
            Self::Plain(client) => {
                let all = channels.iter().map(|channel| client.publish::<(), _, _>(channel, event(zero)));
                futures::future::try_join_all(all).await.unwrap();
            }
            Self::Stored(broker) => {
                let all = channels.into_iter().map(async |channel| {
                    broker.publish(&channel.parse().unwrap(), event(zero).as_bytes()).await.map(|_| ())
                });
                futures::future::try_join_all(all).await.unwrap();
            }
            Self::Program(program) => {
                let mut stdin = program.stdin.lock().await;
                for channel in channels {
                    stdin.write_all(format!("{channel}\t{}\n", event(zero)).as_bytes()).await.unwrap();
                }
                stdin.flush().await.unwrap();
            }
        }
    }
}

/// What the connections have seen since the last look.
#[derive(Default)]
struct Seen {
    events: u64,
    latencies: Histogram,
    last: Option<Instant>,
}

/// Counts by time in steps of 1.1 %, so that a hundred million latencies need no memory.
struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(vec![0; 2_048])
    }
}

impl Histogram {
    const STEPS: f64 = 64.0;

    fn add(&mut self, us: u64) {
        let at = ((us.max(1) as f64).log2() * Self::STEPS) as usize;
        let at = at.min(self.0.len() - 1);
        self.0[at] += 1;
    }

    fn percentile_ms(&self, part: f64) -> f64 {
        let wanted = self.0.iter().sum::<u64>() as f64 * part;
        let mut sum = 0.0;
        let at = self.0.iter().position(|&count| {
            sum += count as f64;
            sum >= wanted
        });
        ((at.unwrap_or(0) as f64 + 0.5) / Self::STEPS).exp2() / 1_000.0
    }
}

async fn measure(target: Rc<Target>, publisher: Publisher, connections: usize) -> Value {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let zero = Instant::now();
    let all = connections as u64;
    let mut figures = connect_all(&target, connections, zero, &seen).await;
    let alerts = || vec!["alerts".to_owned()];

    // Broadcast, one at a time: until everybody has it.
    publisher.publish(alerts(), zero).await;
    wait_for(&seen, all).await;
    seen.take();
    let begun = Instant::now();
    let mut rounds = 0;
    while rounds < 20 && begun.elapsed() < 3 * MEASURED {
        rounds += 1;
        publisher.publish(alerts(), zero).await;
        wait_for(&seen, all * rounds).await;
    }
    let one = begun.elapsed() / u32::try_from(rounds).unwrap();
    figures["broadcast_p99_ms"] = json!(seen.take().latencies.percentile_ms(0.99));

    // Broadcast as fast as it is taken: as many on their way as one second would see one by one.
    let window = (1.0 / one.as_secs_f64()).clamp(2.0, 64.0) as u64;
    let rate = rate(&target, &publisher, &seen, zero, window * all, all, |_| "alerts".to_owned()).await;
    figures["broadcast_per_s"] = json!(rate.per_second);
    figures["broadcast_cpu_us"] = json!(rate.cpu_us);
    figures["broadcast_lost"] = json!(rate.lost);

    // Unicast: 500 a second for latency, then as fast as they are taken.
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    for n in 0..2_000 {
        ticks.tick().await;
        publisher.publish(vec![format!("user_{}", n % all)], zero).await;
    }
    wait_for(&seen, 2_000).await;
    let paced = seen.take();
    figures["unicast_p50_ms"] = json!(paced.latencies.percentile_ms(0.5));
    figures["unicast_p99_ms"] = json!(paced.latencies.percentile_ms(0.99));
    let rate = self::rate(&target, &publisher, &seen, zero, 512, 1, |n| format!("user_{}", n % all)).await;
    figures["unicast_per_s"] = json!(rate.per_second);
    figures["unicast_cpu_us"] = json!(rate.cpu_us);
    figures["unicast_lost"] = json!(rate.lost);

    publisher.publish(vec!["user_0".to_owned(); 2_000], zero).await;
    wait_for(&seen, 2_000).await;
    figures["burst_lost"] = json!(2_000 - seen.take().events.min(2_000));
    figures
}

/// Opens the connections, and looks at the server's memory on the way, when it has come to rest.
async fn connect_all(target: &Rc<Target>, connections: usize, zero: Instant, seen: &Rc<RefCell<Seen>>) -> Value {
    let tokens = (0..connections)
        .map(|n| mint(&Secret::new(SECRET), &UserId::from(n as u64), None, "", Duration::from_secs(3_600)).unwrap());
    let mut tokens = tokens.collect::<Vec<_>>().into_iter();
    let before = memory_kib(&target.pid);
    let permits = Arc::new(Semaphore::new(SHAKING_HANDS));
    let ready = Rc::new(Semaphore::new(0));
    let (mut opened, mut spent, mut kib) = (0, Duration::ZERO, Vec::new());
    let stops = MEMORY_AT.into_iter().filter(|&stop| stop < connections).chain([connections]);
    for stop in stops {
        let begun = Instant::now();
        for token in tokens.by_ref().take(stop - opened) {
            let permit = permits.clone().acquire_owned().await.unwrap();
            let (target, seen, ready) = (target.clone(), seen.clone(), ready.clone());
            tokio::task::spawn_local(async move {
                let mut connection = Connection::open(&target, &token).await;
                drop(permit);
                ready.add_permits(1);
                while let Some(payload) = connection.message().await {
                    if let Some(at) = published_at(payload) {
                        let mut seen = seen.borrow_mut();
                        let now = zero.elapsed().as_micros() as u64;
                        seen.events += 1;
                        seen.latencies.add(now.saturating_sub(at));
                        seen.last = Some(Instant::now());
                    }
                }
            });
        }
        let arrived = tokio::time::timeout(Duration::from_secs(120), ready.acquire_many((stop - opened) as u32)).await;
        arrived.expect("the server takes the connections in two minutes").unwrap().forget();
        spent += begun.elapsed();
        opened = stop;
        sleep(PATIENCE).await;
        kib.push(json!([stop, (memory_kib(&target.pid) - before) / stop as f64]));
    }
    json!({ "connections": connections, "connects_per_s": connections as f64 / spent.as_secs_f64(), "kib": kib })
}

struct Rate {
    per_second: f64,
    cpu_us: f64,
    lost: u64,
}

/// Publishes for a while, never more than `window` deliveries ahead; each event is delivered `fan_out` times.
async fn rate(
    target: &Target,
    publisher: &Publisher,
    seen: &RefCell<Seen>,
    zero: Instant,
    window: u64,
    fan_out: u64,
    channel: impl Fn(u64) -> String,
) -> Rate {
    seen.take();
    let (begun, cpu) = (Instant::now(), cpu_us(&target.pid));
    let (mut published, mut lost) = (0, 0);
    while begun.elapsed() < MEASURED {
        let (events, last) = (seen.borrow().events, seen.borrow().last.unwrap_or(begun));
        let ahead = (published * fan_out).saturating_sub(events + lost);
        if ahead + fan_out <= window {
            let more = (window - ahead) / fan_out;
            publisher.publish((published..published + more).map(&channel).collect(), zero).await;
            published += more;
        } else if last.elapsed() > PATIENCE {
            // A server that drops must not stop the measurement.
            lost += ahead;
        }
        sleep(TICK).await;
    }
    wait_for(seen, published * fan_out).await;
    let spent = cpu_us(&target.pid) - cpu;
    let seen = seen.take();
    let took = seen.last.map_or(MEASURED, |last| last - begun).as_secs_f64();
    Rate {
        per_second: seen.events as f64 / took,
        cpu_us: spent / seen.events.max(1) as f64,
        lost: (published * fan_out).saturating_sub(seen.events),
    }
}

/// Returns when so many events have arrived, or none has for a while.
async fn wait_for(seen: &RefCell<Seen>, events: u64) {
    let begun = Instant::now();
    while seen.borrow().events < events && seen.borrow().last.unwrap_or(begun).max(begun).elapsed() < 2 * PATIENCE {
        sleep(TICK).await;
    }
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    from: usize,
}

impl Connection {
    async fn open(target: &Target, token: &str) -> Self {
        let (path, hello, ready) = target.greeting(token);
        let stream = TcpStream::connect(&target.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut this = Self { stream, buffer: Vec::new(), from: 0 };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            target.addr
        );
        this.stream.write_all(request.as_bytes()).await.unwrap();
        let end = loop {
            assert!(this.fill().await, "the server closed during the handshake");
            if let Some(at) = this.buffer.windows(4).position(|part| part == b"\r\n\r\n") {
                break at + 4;
            }
        };
        assert!(this.buffer.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&this.buffer));
        this.from = end;
        if let Some(hello) = hello {
            this.send(0x81, hello.as_bytes()).await;
        }
        loop {
            let payload = this.message().await.expect("the server says that it is ready");
            if payload.windows(ready.len()).any(|part| part == ready.as_bytes()) {
                return this;
            }
        }
    }

    /// The next message's payload; heartbeats are answered. `None` at the end.
    async fn message(&mut self) -> Option<&[u8]> {
        loop {
            while let Some((header, payload)) = frame(&self.buffer[self.from..]) {
                let opcode = self.buffer[self.from] & 0x0f;
                let body = self.from + header..self.from + header + payload;
                self.from = body.end;
                match (opcode, &self.buffer[body.clone()]) {
                    // Engine.io's heartbeat and answer are texts of one character.
                    (1, b"2") => self.send(0x81, b"3").await,
                    (9, ping) => {
                        let ping = ping.to_vec();
                        self.send(0x8a, &ping).await;
                    }
                    (8, _) => return None,
                    _ => return Some(&self.buffer[body]),
                }
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Reads what is there; false at the end.
    async fn fill(&mut self) -> bool {
        self.buffer.drain(..self.from);
        self.from = 0;
        if self.buffer.is_empty() {
            // Ten thousand idle connections shall not hold ten thousand buffers.
            self.buffer = Vec::new();
            if self.stream.readable().await.is_err() {
                return false;
            }
        }
        self.buffer.reserve(4_096);
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }

    /// A masked frame of less than 64 KiB; the mask of zeros leaves the payload as it is.
    async fn send(&mut self, first: u8, payload: &[u8]) {
        let mut out = vec![first];
        match u8::try_from(payload.len()) {
            Ok(short @ ..=125) => out.push(0x80 | short),
            _ => {
                out.push(0x80 | 126);
                out.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        out.extend([0; 4]);
        out.extend(payload);
        self.stream.write_all(&out).await.unwrap();
    }
}

/// The lengths of the header and of the payload, once the frame is whole.
fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header, len) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        len => (2, usize::from(len)),
    };
    (bytes.len() >= header + len).then_some((header, len))
}

/// The time of publishing that an event carries as `"at":<us>`, however the server has written the rest.
fn published_at(payload: &[u8]) -> Option<u64> {
    let at = payload.windows(5).position(|part| part == b"\"at\":")?;
    let digits = payload[at + 5..].iter().skip_while(|byte| **byte == b' ').take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |sum, byte| sum * 10 + u64::from(byte - b'0')))
}

fn event(zero: Instant) -> String {
    let (at, filler) = (zero.elapsed().as_micros(), "x".repeat(FILLER));
    format!(r#"{{"type":"alert","data":{{"id":"1","at":{at},"title":"t","content":"{filler}","created_at":"now"}}}}"#)
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
