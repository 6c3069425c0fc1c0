//! The rest of a request's body: what its handler left unread when it had its answer.
//!
//! A connection that is closed on a client that still sends is reset, and the client may lose the answer; one that is closed behind an answer that
//! did not say so breaks the client's next request. Handlers refuse early (no token, too many, no record store): of what they leave, the server
//! reads a little away; of more, the answer says that the connection closes, and it closes a while later.

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
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

/// Most bytes that are read away before the answer, so that the connection can go on. Of more, the client hears at once.
const MOST: u64 = 1024 * 1024;
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How far a body was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Untouched,
    Begun,
    /// It has no end.
    Broken,
    Over,
}

struct Shared {
    stream: BoxStream<'static, io::Result<Bytes>>,
    progress: Progress,
}

/// The server's hold on a body that a handler reads.
pub(crate) struct Rest {
    shared: Arc<Mutex<Shared>>,
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
        let stream = request.take_body().into_bytes_stream().boxed();
        let shared = Arc::new(Mutex::new(Shared { stream, progress: Progress::Untouched }));
        request.set_body(Body::from_bytes_stream(Lent(shared.clone())));
        Self { shared, waits, announced }
    }

    /// Reads and throws away what is left, where it is little. Whether that was all of it, and the connection can go on.
    pub(crate) async fn read_away(self) -> bool {
        let progress = || self.shared.lock().progress;
        let is_much = self.announced.is_some_and(|length| length > MOST);
        if progress() == Progress::Untouched && (self.waits || is_much) {
            return false;
        }
        let reading = async {
            let mut left = MOST;
            while progress() != Progress::Over {
                let Some(Ok(bytes)) = poll_fn(|cx| self.shared.lock().poll_next(cx)).await else { break };
                let Some(less) = left.checked_sub(bytes.len() as u64) else { break };
                left = less;
            }
            progress() == Progress::Over
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap_or(false)
    }
}

impl Shared {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let polled = self.stream.as_mut().poll_next(cx);
        self.progress = match (&polled, self.progress) {
            (Poll::Ready(Some(Err(_))), _) | (_, Progress::Broken) => Progress::Broken,
            (Poll::Ready(None), _) => Progress::Over,
            _ => Progress::Begun,
        };
        polled
    }
}

/// The handler's hold on it.
struct Lent(Arc<Mutex<Shared>>);

impl Stream for Lent {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.lock().poll_next(cx)
    }
}
