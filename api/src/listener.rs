//! One TCP connection and how long it may keep us waiting: for a request's head, between two requests, and in the midst of an exchange.
//!
//! One task looks at all connections once a second; a timer of the runtime's own would cost each of them more. A connection that becomes a
//! WebSocket leaves ([`Takeover`]): its session keeps its own time.

use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

/// How often connections are looked at, and so how late a limit may be noticed.
const ROUND: Duration = Duration::from_secs(1);
/// An exchange in whose course nothing goes in either direction for so long is over.
const SILENCE_LIMIT: Duration = Duration::from_secs(150);

/// How long and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// From a connection's beginning, or from the first byte of a later request, until the request's head is complete.
    pub(crate) head: Duration,
    /// Between two requests.
    pub(crate) idle: Duration,
    /// HTTP connections at a time; 0: no limit. WebSockets are not among them.
    pub(crate) connections: usize,
}

/// All HTTP connections of a server.
pub(crate) struct Watchman {
    limits: Limits,
    begun: Instant,
    watches: Mutex<Watches>,
}

#[derive(Default)]
struct Watches {
    next: u64,
    /// Each leaves with its connection: what is known of it then makes room for the next one at once.
    open: HashMap<u64, Weak<Watch>>,
}

/// What is known of one connection.
pub(crate) struct Watch {
    watchman: Arc<Watchman>,
    id: u64,
    state: Mutex<State>,
    /// Milliseconds since [`Watchman::begun`] after which it is cut.
    due_ms: AtomicU64,
}

struct State {
    phase: Phase,
    waker: Option<std::task::Waker>,
    is_cut: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A head has begun and must be completed.
    Head,
    /// A request is being read and answered, to the end of the answer's body. What is read of the next request meanwhile has time until then.
    Exchange,
    /// Answered; what is still written belongs to the answer, what is read to the next request.
    Idle,
}

impl Watchman {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, begun: Instant::now(), watches: Mutex::default() })
    }

    /// Takes a connection in; `None` where there are too many.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Arc<Watch>> {
        let mut watches = self.watches.lock();
        let most = self.limits.connections;
        if most > 0 && watches.open.len() >= most {
            return None;
        }
        let id = watches.next;
        watches.next += 1;
        let state = State { phase: Phase::Head, waker: None, is_cut: false };
        let due_ms = AtomicU64::new(self.after(self.limits.head));
        let watch = Arc::new(Watch { watchman: self.clone(), id, state: Mutex::new(state), due_ms });
        watches.open.insert(id, Arc::downgrade(&watch));
        Some(watch)
    }

    /// Cuts connections whose time is over, for as long as the server runs.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut rounds = tokio::time::interval(ROUND);
        loop {
            rounds.tick().await;
            let now = self.after(Duration::ZERO);
            let watches: Vec<Arc<Watch>> = {
                let mut watches = self.watches.lock();
                watches.open.shrink_to(1_024);
                watches.open.values().filter_map(Weak::upgrade).collect()
            };
            // Unlocked, as one of these may be the last owner of its watch.
            for watch in watches.iter().filter(|watch| watch.due_ms.load(Ordering::Relaxed) <= now) {
                watch.cut();
            }
        }
    }

    fn after(&self, limit: Duration) -> u64 {
        u64::try_from((self.begun.elapsed() + limit).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Watch {
    /// A request's head is complete.
    pub(crate) fn begin_exchange(&self) {
        self.enter(Phase::Exchange, SILENCE_LIMIT);
    }

    /// The answer is complete, but for what is still in the buffers.
    pub(crate) fn end_exchange(&self) {
        self.enter(Phase::Idle, SILENCE_LIMIT);
    }

    fn enter(&self, phase: Phase, limit: Duration) {
        self.state.lock().phase = phase;
        self.due_ms.store(self.watchman.after(limit), Ordering::Relaxed);
    }

    fn was_read(&self) {
        let mut state = self.state.lock();
        match state.phase {
            // However slowly it trickles in, the head's time does not grow.
            Phase::Head => return,
            Phase::Exchange => {}
            Phase::Idle => state.phase = Phase::Head,
        }
        let limit = if state.phase == Phase::Head { self.watchman.limits.head } else { SILENCE_LIMIT };
        self.due_ms.store(self.watchman.after(limit), Ordering::Relaxed);
    }

    fn was_written(&self) {
        let limit = match self.state.lock().phase {
            Phase::Head => return,
            Phase::Exchange => SILENCE_LIMIT,
            Phase::Idle => self.watchman.limits.idle,
        };
        self.due_ms.store(self.watchman.after(limit), Ordering::Relaxed);
    }

    fn cut(&self) {
        let mut state = self.state.lock();
        state.is_cut = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// An error once the connection is cut; else whoever waits now is woken then.
    fn wait(&self, cx: &Context<'_>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.is_cut {
            let what = if state.phase == Phase::Head { "head" } else { "silence" };
            metrics::counter!("oneiro_http_cut_total", "reason" => what).increment(1);
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the connection kept us waiting for too long"));
        }
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watchman.watches.lock().open.remove(&self.id);
    }
}

/// A connection with its watch.
pub(crate) struct Connection {
    stream: TcpStream,
    watch: Arc<Watch>,
    /// What was read already and is to be read again.
    ahead: Bytes,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, watch: Arc<Watch>) -> Self {
        Self { stream, watch, ahead: Bytes::new() }
    }

    pub(crate) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Gives back what was read, for the next reader.
    pub(crate) fn put_back(&mut self, read: Bytes) {
        self.ahead = read;
    }

    /// The bare stream, without the watch.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn check<T>(
        &self,
        cx: &Context<'_>,
        polled: Poll<io::Result<T>>,
        note: impl FnOnce(&Watch),
    ) -> Poll<io::Result<T>> {
        if polled.is_pending() {
            return match self.watch.wait(cx) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            };
        }
        note(&self.watch);
        polled
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let len = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..len]);
            self.ahead.advance(len);
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.check(cx, polled, Watch::was_read)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.check(cx, polled, Watch::was_written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.check(cx, polled, Watch::was_written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How a connection goes on that is HTTP no longer: with the bare stream, and what the client sent behind its request.
pub(crate) type Takeover = Box<dyn FnOnce(TcpStream, Bytes) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// In the extensions of every request: who answers it with 101 tells here how its connection goes on.
#[derive(Clone, Default)]
pub(crate) struct Upgrade(Arc<Mutex<Option<Takeover>>>);

impl Upgrade {
    /// Once the answer is written.
    pub(crate) fn then(&self, takeover: Takeover) {
        *self.0.lock() = Some(takeover);
    }

    pub(crate) fn take(&self) -> Option<Takeover> {
        self.0.lock().take()
    }
}
