//! The rest of a request's body: what its handler left unread when it had its answer.
//!
//! A connection that is closed on a client that still sends is reset, and the client may lose the answer; one that is closed behind an answer that
//! did not say so breaks the client's next request. Handlers refuse early (no token, too many, no record store), so the server reads away
//! what they leave.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use parking_lot::Mutex;
use poem::{
    Body, Request,
    http::header::{CONTENT_LENGTH, EXPECT},
};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

/// How long a client that has its answer may go on sending.
const PATIENCE: Duration = Duration::from_secs(10);

struct Shared {
    stream: Mutex<BoxStream<'static, io::Result<Bytes>>>,
    /// Somebody has begun to read.
    is_begun: AtomicBool,
    is_over: AtomicBool,
}

/// The server's hold on a body that a handler reads.
pub(crate) struct Rest {
    shared: Arc<Shared>,
    /// The client sends its body only once it is asked to.
    waits: bool,
    /// Its length in bytes, where the client said it.
    announced: Option<u64>,
}

impl Rest {
    /// Of `request`, whose body is read through it from here on.
    pub(crate) fn of(request: &mut Request) -> Self {
        let waits = request.headers().contains_key(EXPECT);
        let announced = request.header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let stream = Mutex::new(request.take_body().into_bytes_stream().boxed());
        let shared = Arc::new(Shared { stream, is_begun: AtomicBool::new(false), is_over: AtomicBool::new(false) });
        request.set_body(Body::from_bytes_stream(Lent(shared.clone())));
        Self { shared, waits, announced }
    }

    /// Reads and throws away what is left, up to `most` bytes and for a while. Whether that was all of it, and the connection can go on.
    pub(crate) async fn read_away(self, most: u64) -> bool {
        if self.shared.is_over.load(Relaxed) {
            return true;
        }
        let is_begun = self.shared.is_begun.load(Relaxed);
        if !is_begun && (self.waits || self.announced.is_some_and(|length| length > most)) {
            return false;
        }
        let reading = async {
            let mut left = most;
            while let Some(Ok(bytes)) = poll_fn(|cx| self.shared.poll_next(cx)).await {
                let Some(less) = left.checked_sub(bytes.len() as u64) else { return false };
                left = less;
            }
            true
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap_or(false)
    }
}

impl Shared {
    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        self.is_begun.store(true, Relaxed);
        let polled = self.stream.lock().as_mut().poll_next(cx);
        if matches!(polled, Poll::Ready(None)) {
            self.is_over.store(true, Relaxed);
        }
        polled
    }
}

/// The handler's hold on it.
struct Lent(Arc<Shared>);

impl Stream for Lent {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next(cx)
    }
}
