//! One upgraded stream: reads messages, writes what waits in the outbox. No task and no buffer besides the session's own.

use super::{
    close::Close,
    conn::Conn,
    framing::{self, Decoder, Incoming},
    inbox::Cursor,
};
use oneiro_core::clock;
use oneiro_events::{ChannelName, Position};
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read and write buffers are a thread's, not a connection's: most connections are idle most of the time.
const READ_BUFFER: usize = 16 * 1024;
/// Frames of about this many bytes go out in one write: well past where a write's fixed cost matters, below a socket's usual send buffer.
const WRITE_BUFFER: usize = 64 * 1024;
/// Writes in a row before other connections get their turn.
const WRITES_PER_TURN: usize = 8;
/// One in so many deliveries is timed: enough for a histogram, too few to cost anything.
const TIMED: u64 = 16;
/// How long a closing peer may take to read our last frames and to answer.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BUFFER]);
    static WRITE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(WRITE_BUFFER));
}

/// What happened.
pub(crate) enum Turn {
    Message(Incoming),
    /// The other side is gone, without or after a goodbye.
    Gone,
    /// The client broke the rules, or somebody asked for the end.
    Close(Close),
    /// It is time to look at the clock.
    Due,
    /// These channels lost events for good.
    Gaps(Vec<ChannelName>),
}

/// Counts for the session record.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) bytes_sent: u64,
}

pub(crate) struct Link<Io> {
    io: Io,
    conn: Arc<Conn>,
    decoder: Decoder,
    /// What a full socket did not take. While there is any, the queue waits, so that its bound holds.
    unsent: Vec<u8>,
    sent_of_unsent: usize,
    pub(crate) traffic: Traffic,
    /// Told of the user's stored events once they are written.
    inbox: Option<Arc<Cursor>>,
    /// The last stored event of the user's channel among what is being written.
    inbox_queued: Option<Position>,
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Link<Io> {
    /// `early`: what the client sent before it heard that the protocol was switched.
    pub(crate) fn new(io: Io, early: &[u8], conn: Arc<Conn>, max_message: usize) -> Self {
        let mut decoder = Decoder::new(max_message);
        if !early.is_empty() {
            decoder.feed(early);
        }
        Self {
            io,
            conn,
            decoder,
            unsent: Vec::new(),
            sent_of_unsent: 0,
            traffic: Traffic::default(),
            inbox: None,
            inbox_queued: None,
        }
    }

    /// Tells this cursor of the user's stored events as they are written.
    pub(crate) fn watch_inbox(&mut self, cursor: Option<&Arc<Cursor>>) {
        if self.inbox.is_none() {
            self.inbox = cursor.cloned();
        }
    }

    fn note_written(&mut self) {
        if let (Some(cursor), Some(position)) = (&self.inbox, self.inbox_queued.take()) {
            cursor.note_written(position);
        }
    }

    /// Writes what waits until something happens that the session must know of.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn turn(&mut self) -> Turn {
        poll_fn(|cx| self.poll_turn(cx)).await
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let taken = self.conn.outbox.poll(cx.waker());
        if let Poll::Ready(Err(_)) = self.poll_write_queue(cx) {
            return Poll::Ready(Turn::Gone);
        }
        if let Some(close) = taken.close {
            return Poll::Ready(Turn::Close(close));
        }
        if !taken.gaps.is_empty() {
            return Poll::Ready(Turn::Gaps(taken.gaps));
        }
        if taken.is_due {
            return Poll::Ready(Turn::Due);
        }
        self.poll_read(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        loop {
            match self.decoder.next() {
                Ok(Some(incoming)) => {
                    self.traffic.received += 1;
                    return Poll::Ready(Turn::Message(incoming));
                }
                Ok(None) => {}
                Err(violation) => return Poll::Ready(Turn::Close(violation.into())),
            }
            let read = READ.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
                self.decoder.feed(buffer.filled());
                Poll::Ready(Ok::<usize, io::Error>(buffer.filled().len()))
            });
            match ready!(read) {
                Ok(0) | Err(_) => return Poll::Ready(Turn::Gone),
                Ok(_) => {}
            }
        }
    }

    /// Ready once all is written, or on an error.
    fn poll_write_queue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..WRITES_PER_TURN {
            while self.sent_of_unsent < self.unsent.len() {
                let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.unsent[self.sent_of_unsent..]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.sent_of_unsent += written;
            }
            if !self.unsent.is_empty() {
                self.unsent = Vec::new();
                self.sent_of_unsent = 0;
            }
            self.note_written();
            let more = WRITE.with_borrow_mut(|out| {
                out.clear();
                let (traffic, inbox, queued) = (&mut self.traffic, &self.inbox, &mut self.inbox_queued);
                let mut published = None;
                let any = self.conn.outbox.take_bytes(out, WRITE_BUFFER, |frame| {
                    traffic.sent += 1;
                    traffic.bytes_sent += frame.bytes.len() as u64;
                    if frame.published_ms > 0 && traffic.sent % TIMED == 1 {
                        published = Some(frame.published_ms);
                    }
                    if let (Some(origin), Some(inbox)) = (&frame.origin, inbox)
                        && origin.channel == inbox.channel
                    {
                        *queued = Some(origin.position.clone());
                    }
                });
                if !any {
                    return Ok(false);
                }
                let written = match Pin::new(&mut self.io).poll_write(cx, out) {
                    Poll::Ready(written) => written?,
                    Poll::Pending => 0,
                };
                if let Some(published_ms) = published {
                    note_delivery(published_ms);
                }
                if written < out.len() {
                    self.unsent = out[written..].to_vec();
                    self.sent_of_unsent = 0;
                }
                if out.capacity() > 4 * WRITE_BUFFER {
                    *out = Vec::with_capacity(WRITE_BUFFER);
                }
                Ok::<bool, io::Error>(true)
            })?;
            if !more {
                return Pin::new(&mut self.io).poll_flush(cx);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends what waits and a close frame, then lets the peer read them: closing at once would reset a connection with unread input.
    pub(crate) async fn close(&mut self, close: &Close) {
        let goodbye = async {
            poll_fn(|cx| self.poll_write_queue(cx)).await?;
            self.unsent = framing::close(close.code, &close.reason).to_vec();
            poll_fn(|cx| self.poll_write_queue(cx)).await?;
            tokio::io::AsyncWriteExt::shutdown(&mut self.io).await?;
            let mut sink = [0; 256];
            while tokio::io::AsyncReadExt::read(&mut self.io, &mut sink).await? > 0 {}
            Ok::<(), io::Error>(())
        };
        // Either way the connection ends; a peer that is gone or too slow does not get its goodbye.
        let _ = tokio::time::timeout(CLOSE_PATIENCE, goodbye).await;
    }
}

/// Measures from the publisher's clock to ours: as good as the two agree. Where they do not, and the event comes from the future, that is counted.
fn note_delivery(published_ms: u64) {
    match clock::unix_millis().checked_sub(published_ms) {
        Some(took_ms) => metrics::histogram!("oneiro_ws_delivery_seconds").record(took_ms as f64 / 1_000.0),
        None => metrics::counter!("oneiro_ws_delivery_clock_skew_total").increment(1),
    }
}
