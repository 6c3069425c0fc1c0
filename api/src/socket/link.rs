//! One upgraded stream: reads messages, writes what waits in the outbox. No task and no buffer besides the session's own. An event to a
//! connection whose task sleeps is written past it; see `relay`.

use super::{
    close::Close,
    conn::Conn,
    frame::Frame,
    framing::{self, Decoder, Incoming},
};
use oneiro_core::clock;
use oneiro_events::{ChannelName, Position};
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    net::{TcpStream, tcp::OwnedReadHalf},
    time::Sleep,
};

/// Read and write buffers are a thread's, not a connection's: most connections are idle most of the time.
const READ_BUFFER: usize = 16 * 1024;
/// Frames of about this many bytes go out in one write: well past where a write's fixed cost matters, below a socket's usual send buffer.
const WRITE_BUFFER: usize = 64 * 1024;
/// Writes in a row before other connections get their turn.
const WRITES_PER_TURN: usize = 8;
/// One in so many deliveries is timed: enough for a histogram, too few to cost anything.
const TIMED: u64 = 16;
/// How long a client may take nothing at all of the past that it is sent.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
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

pub(crate) struct Link {
    /// The other half is the outbox's.
    io: OwnedReadHalf,
    conn: Arc<Conn>,
    decoder: Decoder,
    /// What a full socket did not take. While there is any, the queue waits, so that its bound holds.
    unsent: Vec<u8>,
    sent_of_unsent: usize,
    traffic: Traffic,
    /// The last stored event of the user's channel among what is being written.
    inbox_queued: Option<Position>,
    /// When one of the events that are being written was published, in Unix milliseconds; 0: none of them is timed.
    timed_ms: u64,
}

impl Link {
    /// `early`: what the client sent before it heard that the protocol was switched.
    pub(crate) fn new(io: TcpStream, early: &[u8], conn: Arc<Conn>, max_message: usize) -> Self {
        let (io, writing) = io.into_split();
        conn.outbox.attach(writing);
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
            inbox_queued: None,
            timed_ms: 0,
        }
    }

    /// What went either way so far.
    pub(crate) fn traffic(&self) -> Traffic {
        let (Traffic { received, sent, bytes_sent }, relayed) = (self.traffic, self.conn.outbox.relayed());
        Traffic { received, sent: sent + relayed.frames, bytes_sent: bytes_sent + relayed.bytes }
    }

    fn note_written(&mut self) {
        if let (Some(cursor), Some(position)) = (self.conn.inbox.get(), self.inbox_queued.take()) {
            cursor.note_written(position);
        }
        if self.timed_ms > 0 {
            note_delivery(std::mem::take(&mut self.timed_ms));
        }
    }

    /// Writes what waits until something happens that the session must know of.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn turn(&mut self) -> Turn {
        poll_fn(|cx| self.poll_turn(cx)).await
    }

    /// Writes what waits whenever `step` waits for room, as it may fill the queue more than once; what finds room is written after it. It is
    /// always done to its end; a client that takes nothing for [`WRITE_PATIENCE`] is too slow, and the next [`Link::turn`] says so.
    ///
    /// # Errors
    /// The other side is gone.
    pub(crate) async fn write_during<T>(&mut self, step: impl Future<Output = T>) -> io::Result<T> {
        let mut step = pin!(step);
        let mut outcome = Ok(());
        let mut progress = (0, 0);
        let mut patience: Option<Pin<Box<Sleep>>> = None;
        let done = poll_fn(|cx| {
            if let Poll::Ready(done) = step.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            if outcome.is_err() || !self.conn.outbox.is_awaited() {
                return Poll::Pending;
            }
            if let Poll::Ready(Err(error)) = self.poll_write_queue(cx) {
                outcome = Err(error);
                self.conn.outbox.abandon(Close::INTERNAL);
                return Poll::Pending;
            }
            let now = (self.traffic.bytes_sent, self.sent_of_unsent);
            if self.unsent.is_empty() || progress != now {
                (progress, patience) = (now, None);
            }
            if !self.unsent.is_empty() {
                let patience = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_PATIENCE)));
                if patience.as_mut().poll(cx).is_ready() {
                    metrics::counter!("oneiro_ws_slow_consumers_total").increment(1);
                    outcome = Err(io::ErrorKind::TimedOut.into());
                    self.conn.outbox.abandon(Close::SLOW);
                }
            }
            Poll::Pending
        })
        .await;
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::TimedOut => Err(error),
            _ => Ok(done),
        }
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
                let written = ready!(self.conn.outbox.poll_write(cx, &self.unsent[self.sent_of_unsent..]))?;
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
                let (traffic, conn, queued) = (&mut self.traffic, &self.conn, &mut self.inbox_queued);
                let timed_ms = &mut self.timed_ms;
                let any = self.conn.outbox.take_bytes(out, WRITE_BUFFER, |frame| {
                    traffic.sent += 1;
                    traffic.bytes_sent += frame.bytes.len() as u64;
                    if is_timed(frame, traffic.sent) {
                        *timed_ms = frame.published_ms;
                    }
                    if let Some((_, position)) = conn.inbox_of(frame) {
                        *queued = Some(position.clone());
                    }
                });
                if !any {
                    return Ok(false);
                }
                let written = match self.conn.outbox.poll_write(cx, out) {
                    Poll::Ready(written) => written?,
                    Poll::Pending => 0,
                };
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
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends what waits and a close frame, then lets the peer read them: closing at once would reset a connection with unread input.
    pub(crate) async fn close(&mut self, close: &Close) {
        let goodbye = async {
            // From now on only this task writes.
            self.conn.outbox.close(close.clone());
            poll_fn(|cx| self.poll_write_queue(cx)).await?;
            self.unsent = framing::close(close.code, &close.reason).to_vec();
            poll_fn(|cx| self.poll_write_queue(cx)).await?;
            drop(self.conn.outbox.detach());
            let mut sink = [0; 256];
            while self.io.read(&mut sink).await? > 0 {}
            Ok::<(), io::Error>(())
        };
        // Either way the connection ends; a peer that is gone or too slow does not get its goodbye.
        let _ = tokio::time::timeout(CLOSE_PATIENCE, goodbye).await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Others may know the connection a moment longer. Closing the socket says enough to the peer.
        if let Some(socket) = self.conn.outbox.detach() {
            socket.forget();
        }
    }
}

/// Whether the delivery of this frame, the `count`th, is timed.
pub(super) fn is_timed(frame: &Frame, count: u64) -> bool {
    frame.published_ms > 0 && count % TIMED == 1
}

/// Measures from the publisher's clock to ours: as good as the two agree. Where they do not, and the event comes from the future, that is counted.
pub(super) fn note_delivery(published_ms: u64) {
    match clock::unix_millis().checked_sub(published_ms) {
        Some(took_ms) => metrics::histogram!("oneiro_ws_delivery_seconds").record(took_ms as f64 / 1_000.0),
        None => metrics::counter!("oneiro_ws_delivery_clock_skew_total").increment(1),
    }
}
