//! The connections, and what they have seen.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::{Notify, Semaphore},
    task::AbortHandle,
    time::Instant,
};

/// Handshakes under way when rates are measured: enough that the server never waits for the load.
const SHAKING_HANDS: usize = 128;
/// What the kernel keeps for a reader that has stopped reading: next to nothing.
const STALLED_BUFFER: u32 = 4 * 1024;
/// With the form's members around it, an event of 310 bytes, as in the comparison.
const FILLER: usize = 200;
/// Without news for so long, all that comes has come.
const SILENCE: Duration = Duration::from_secs(1);
/// What stands in front of an event's number; then a dash and its time of publishing.
const STAMP: &[u8] = b"\"id\":\"";

#[derive(Clone)]
pub(crate) struct Crowd(Rc<Seen>);

struct Seen {
    zero: Instant,
    next: Cell<u64>,
    events: Cell<u64>,
    /// Not newer than the one before it on the same connection.
    misplaced: Cell<u64>,
    last: Cell<Option<Instant>>,
    latencies_us: RefCell<Vec<u32>>,
    news: Notify,
    buffer: RefCell<Vec<u8>>,
    readers: RefCell<Vec<AbortHandle>>,
}

impl Default for Crowd {
    fn default() -> Self {
        Self(Rc::new(Seen {
            zero: Instant::now(),
            next: Cell::new(1),
            events: Cell::default(),
            misplaced: Cell::default(),
            last: Cell::default(),
            latencies_us: RefCell::default(),
            news: Notify::new(),
            buffer: RefCell::new(vec![0; 64 * 1024]),
            readers: RefCell::default(),
        }))
    }
}

impl Crowd {
    /// Connects with each query, [`SHAKING_HANDS`] at a time, and returns once every one is subscribed.
    pub(crate) async fn connect(&self, addr: &str, queries: Vec<String>) {
        let permits = std::sync::Arc::new(Semaphore::new(SHAKING_HANDS));
        let ready = Rc::new(Semaphore::new(0));
        let count = u32::try_from(queries.len()).unwrap();
        for query in queries {
            let permit = permits.clone().acquire_owned().await.unwrap();
            let (addr, seen, ready) = (addr.to_owned(), self.0.clone(), ready.clone());
            let reader = tokio::task::spawn_local(async move {
                let (mut stream, mut rest) = shake_hands(&addr, &query, None).await;
                answered(&mut stream, &mut rest).await;
                drop(permit);
                ready.add_permits(1);
                seen.read(stream, rest).await;
            });
            self.0.readers.borrow_mut().push(reader.abort_handle());
        }
        ready.acquire_many(count).await.unwrap().forget();
    }

    /// Begins to connect with all queries at once; what comes is counted.
    pub(crate) fn storm(&self, addr: &str, queries: Vec<String>) {
        for query in queries {
            let (addr, seen) = (addr.to_owned(), self.0.clone());
            let reader = tokio::task::spawn_local(async move {
                let (stream, rest) = shake_hands(&addr, &query, None).await;
                seen.read(stream, rest).await;
            });
            self.0.readers.borrow_mut().push(reader.abort_handle());
        }
    }

    /// Connections that are set up and then read nothing more.
    pub(crate) async fn stall(&self, addr: &str, queries: Vec<String>) -> Vec<TcpStream> {
        let mut stalled = Vec::with_capacity(queries.len());
        for query in queries {
            let (mut stream, mut rest) = shake_hands(addr, &query, Some(STALLED_BUFFER)).await;
            answered(&mut stream, &mut rest).await;
            stalled.push(stream);
        }
        stalled
    }

    /// All connections end at once, without a goodbye.
    pub(crate) fn drop_all(&self) {
        for reader in self.0.readers.borrow_mut().drain(..) {
            reader.abort();
        }
    }

    /// The next event, numbered and stamped with the time of its publishing.
    pub(crate) fn stamp(&self) -> String {
        let n = self.0.next.replace(self.0.next.get() + 1);
        let (at, filler) = (self.0.zero.elapsed().as_micros(), "x".repeat(FILLER));
        format!(
            r#"{{"type":"alert","data":{{"id":"{n}-{at}","title":"title","content":"{filler}","severity":"info","status":"open","created_at":"2026-01-01T00:00:00Z"}}}}"#
        )
    }

    pub(crate) fn events(&self) -> u64 {
        self.0.events.get()
    }

    pub(crate) fn last(&self) -> Option<Instant> {
        self.0.last.get()
    }

    /// Waits until so many events were read since the last [`Crowd::forget`], or nothing comes any more.
    pub(crate) async fn wait_for(&self, events: u64) {
        while self.events() < events {
            if tokio::time::timeout(SILENCE * 5, self.0.news.notified()).await.is_err() {
                return;
            }
        }
    }

    /// The same, for as long as `patience` where nothing comes at first.
    pub(crate) async fn wait_within(&self, events: u64, patience: Duration) {
        let begun = Instant::now();
        while self.events() < events && begun.elapsed() < patience {
            self.wait_for(events).await;
        }
    }

    /// Waits until nothing comes any more.
    pub(crate) async fn settle(&self) {
        while tokio::time::timeout(SILENCE, self.0.news.notified()).await.is_ok() {}
    }

    /// Begins a new measurement.
    pub(crate) fn forget(&self) {
        self.0.events.set(0);
        self.0.misplaced.set(0);
        self.0.last.set(None);
        self.0.latencies_us.borrow_mut().clear();
    }

    /// The median and the 99th percentile in milliseconds.
    pub(crate) fn latencies_ms(&self) -> (f64, f64) {
        let mut latencies = self.0.latencies_us.borrow_mut();
        latencies.sort_unstable();
        let at = |part: f64| {
            let index = (latencies.len() as f64 * part) as usize;
            f64::from(latencies.get(index.min(latencies.len().saturating_sub(1))).copied().unwrap_or(0)) / 1_000.0
        };
        (at(0.5), at(0.99))
    }

    /// How many of the expected events did not come, and how many came at the wrong place.
    pub(crate) fn faults(&self, expected: u64) -> String {
        format!("{} / {}", expected as i64 - self.events() as i64, self.0.misplaced.get())
    }
}

impl Seen {
    /// `rest`: what was read behind the handshake, later a frame that came in two reads.
    async fn read(&self, stream: TcpStream, mut rest: Vec<u8>) {
        let mut newest = 0;
        let counted = self.count(&rest, &mut newest);
        rest.drain(..counted);
        while stream.readable().await.is_ok() {
            // One buffer for all: ten thousand would be most of the memory traffic.
            let mut buffer = self.buffer.borrow_mut();
            let len = match stream.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(_) => return,
            };
            if rest.is_empty() {
                let counted = self.count(&buffer[..len], &mut newest);
                rest.extend_from_slice(&buffer[counted..len]);
            } else {
                rest.extend_from_slice(&buffer[..len]);
                let counted = self.count(&rest, &mut newest);
                rest.drain(..counted);
            }
        }
    }

    /// Counts the whole frames; how many bytes they have.
    fn count(&self, bytes: &[u8], newest: &mut u64) -> usize {
        let now = self.zero.elapsed().as_micros() as u64;
        let (mut from, mut events) = (0, 0);
        let mut latencies = self.latencies_us.borrow_mut();
        while let Some((header, payload)) = frame(&bytes[from..]) {
            let body = &bytes[from + header..from + header + payload];
            // Near the beginning, and nowhere in a heartbeat.
            let start = body.windows(STAMP.len()).take(64).position(|part| part == STAMP);
            if let Some((n, at)) = start.and_then(|start| stamp(&body[start + STAMP.len()..])) {
                if n <= *newest {
                    self.misplaced.set(self.misplaced.get() + 1);
                }
                *newest = n;
                events += 1;
                latencies.push(u32::try_from(now.saturating_sub(at)).unwrap_or(u32::MAX));
            }
            from += header + payload;
        }
        if events > 0 {
            self.events.set(self.events.get() + events);
            self.last.set(Some(Instant::now()));
            self.news.notify_one();
        }
        from
    }
}

fn stamp(text: &[u8]) -> Option<(u64, u64)> {
    let number = |text: &[u8]| {
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold((0, 0), |(sum, len), byte| (sum * 10 + u64::from(byte - b'0'), len + 1))
    };
    let (n, len) = number(text);
    let (at, _) = number(text.get(len + 1..)?);
    (len > 0).then_some((n, at))
}

fn frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (header, len) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => return None,
        len => (2, usize::from(len)),
    };
    (bytes.len() >= header + len).then_some((header, len))
}

/// The stream, and what was read behind the answer.
async fn shake_hands(addr: &str, query: &str, buffer: Option<u32>) -> (TcpStream, Vec<u8>) {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    let mut stream = socket.connect(addr.parse().unwrap()).await.unwrap();
    // Without TCP_NODELAY, one call less of the few that a connect costs: whatever is said here answers something, so that nothing is held back.
    let request = format!(
        "GET /ws/notifications/?{query} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut read = Vec::with_capacity(512);
    let end = loop {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "{}", String::from_utf8_lossy(&read));
        if let Some(end) = read.windows(4).position(|part| part == b"\r\n\r\n") {
            break end + 4;
        }
    };
    assert!(read.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&read));
    (stream, read.split_off(end))
}

/// Returns once a message is answered: then the connection is authenticated and subscribed.
async fn answered(stream: &mut TcpStream, read: &mut Vec<u8>) {
    let ping = b"\x81\x8f\0\0\0\0{\"type\":\"ping\"}";
    stream.write_all(ping).await.unwrap();
    loop {
        if let Some((header, payload)) = frame(read) {
            assert_eq!(read[0] & 0x0f, 1, "{}", String::from_utf8_lossy(read));
            read.drain(..header + payload);
            return;
        }
        assert!(stream.read_buf(read).await.unwrap() > 0, "a connection ended at once");
    }
}
