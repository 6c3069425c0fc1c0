//! The request body as a stream that cannot outgrow its limits, and that can be drained after a refusal.

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use parking_lot::Mutex;
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

/// The parser reads ahead for as long as bytes are at hand; a pause after so many keeps its buffer this small.
const READ_AHEAD_BYTES: u64 = 128 * 1024;
/// Bytes that may pass without completing a part's header or giving a piece of its content: more is an attack on the parser's memory.
const MAX_UNPARSED_BYTES: u64 = 512 * 1024;
/// How long a refused client may go on sending before the connection is closed on it.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

struct Shared {
    stream: Mutex<BoxStream<'static, io::Result<Bytes>>>,
    limit: u64,
    read: AtomicU64,
    since_pause: AtomicU64,
    unparsed: AtomicU64,
    is_too_large: AtomicBool,
}

/// A handle to the body; its clones read the same stream.
#[derive(Clone)]
pub(super) struct LimitedBody(Arc<Shared>);

impl LimitedBody {
    pub(super) fn new(body: poem::Body, limit: u64) -> Self {
        Self(Arc::new(Shared {
            stream: Mutex::new(body.into_bytes_stream().boxed()),
            limit,
            read: AtomicU64::new(0),
            since_pause: AtomicU64::new(0),
            unparsed: AtomicU64::new(0),
            is_too_large: AtomicBool::new(false),
        }))
    }

    /// The parser made progress: what it read so far was worth reading.
    pub(super) fn note_progress(&self) {
        self.0.unparsed.store(0, Relaxed);
    }

    /// Whether the body went beyond its limit.
    pub(super) fn is_too_large(&self) -> bool {
        self.0.is_too_large.load(Relaxed)
    }

    /// Reads and throws away what the client still sends, within limits: a client that is still writing when the connection closes
    /// would see a reset instead of our answer.
    pub(super) async fn drain(self) {
        let drained = async {
            let mut left = self.0.limit;
            while let Some(Ok(bytes)) = std::future::poll_fn(|cx| self.0.stream.lock().as_mut().poll_next(cx)).await {
                left = left.saturating_sub(bytes.len() as u64);
                if left == 0 {
                    break;
                }
            }
        };
        // Running out of time only means that the connection is closed on a client that does not stop.
        let _ = tokio::time::timeout(DRAIN_LIMIT, drained).await;
    }
}

impl Stream for LimitedBody {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let shared = &self.0;
        if shared.since_pause.load(Relaxed) >= READ_AHEAD_BYTES {
            shared.since_pause.store(0, Relaxed);
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if shared.unparsed.load(Relaxed) > MAX_UNPARSED_BYTES {
            return Poll::Ready(Some(Err(io::Error::other("a part's header does not end"))));
        }
        let polled = shared.stream.lock().as_mut().poll_next(cx);
        match polled {
            Poll::Ready(Some(Ok(bytes))) => {
                let length = bytes.len() as u64;
                shared.since_pause.fetch_add(length, Relaxed);
                shared.unparsed.fetch_add(length, Relaxed);
                if shared.read.fetch_add(length, Relaxed) + length > shared.limit {
                    shared.is_too_large.store(true, Relaxed);
                    return Poll::Ready(Some(Err(io::Error::other("the body is too large"))));
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Pending => {
                shared.since_pause.store(0, Relaxed);
                Poll::Pending
            }
            end => end,
        }
    }
}
