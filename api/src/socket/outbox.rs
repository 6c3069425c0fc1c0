//! What waits for one connection: a bounded queue of frames shared with other connections, and the signals that end or wake it.

use super::{close::Close, frame::Frame};
use oneiro_events::ChannelName;
use parking_lot::Mutex;
use std::{
    collections::{HashSet, VecDeque},
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};
use tokio::{io::AsyncWrite, net::tcp::OwnedWriteHalf};

/// The bounds of one queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Frame>,
    bytes: usize,
    waker: Option<Waker>,
    /// Where frames go; `None` for those that are taken out one by one.
    socket: Option<OwnedWriteHalf>,
    /// The connection's task has taken frames out that are not written yet.
    is_writing: bool,
    /// What was written for the connection's task.
    relayed: Relayed,
    /// Who waits for room.
    room: Option<Waker>,
    /// The session's time has come.
    is_due: bool,
    /// What seldom happens takes no room until it does.
    signals: Option<Box<Signals>>,
    /// Frames that went nowhere.
    dropped: u32,
}

/// Frames and bytes that were written while the connection's task slept.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Relayed {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Default)]
struct Signals {
    close: Option<Close>,
    /// A frame of which the socket has taken the beginning.
    rest: Option<Frame>,
    /// Channels that lost events for good since the session last looked. At most as many as it has joined.
    gaps: Vec<ChannelName>,
}

/// What the connection's task takes out.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) close: Option<Close>,
    pub(crate) gaps: Vec<ChannelName>,
    pub(crate) is_due: bool,
}

impl Outbox {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, inner: Mutex::default() }
    }

    /// Gives it the socket: from now on others may write to it, too; see [`Outbox::offer`].
    pub(crate) fn attach(&self, socket: OwnedWriteHalf) {
        self.inner.lock().socket = Some(socket);
    }

    /// Takes the socket back.
    pub(crate) fn detach(&self) -> Option<OwnedWriteHalf> {
        self.inner.lock().socket.take()
    }

    /// Queues a frame for the connection's task to write; see [`Outbox::offer`].
    pub(crate) fn push(&self, frame: Frame) {
        self.offer(std::iter::once(frame), false);
    }

    /// Queues frames in order. Where the queue is full, superseded state frames go first; if that does not help, the client is too slow and its
    /// connection ends with 4010. `true`, which only those hear who `may_relay`: the connection's task sleeps, and somebody is to call
    /// [`Outbox::write_now`], which is less work than to wake it.
    pub(crate) fn offer(&self, frames: impl Iterator<Item = Frame>, may_relay: bool) -> bool {
        let waker = {
            let mut inner = self.inner.lock();
            let was_empty = inner.queue.is_empty();
            let mut any = false;
            for frame in frames {
                any = true;
                inner.queue(frame, self.limits);
                if inner.is_ending() {
                    break;
                }
            }
            if !any {
                return false;
            }
            if may_relay && inner.can_relay() && inner.waker.is_some() {
                // One that waits already has somebody who was told.
                return was_empty;
            }
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        false
    }

    /// Writes the frame that waits, and hands it to `note` with the number of those that were written so. More than one, and what the socket does
    /// not take, is left to the connection's task, which writes many at once.
    pub(crate) fn write_now(&self, note: impl FnOnce(&Frame, u64)) {
        let (waker, room) = {
            let mut inner = self.inner.lock();
            let is_done = inner.queue.is_empty() || inner.relay(note);
            let room = if is_done { inner.room.take() } else { None };
            (if is_done { None } else { inner.waker.take() }, room)
        };
        for waker in [waker, room].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Writes to the socket for the connection's task.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner.lock().socket {
            Some(socket) => Pin::new(socket).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// What was written without the connection's task.
    pub(crate) fn relayed(&self) -> Relayed {
        self.inner.lock().relayed
    }

    /// Returns once `frame` finds room and half the queue is left to live events, or the connection is ending. Whoever reads a channel's past
    /// waits here, as the past may be longer than any queue.
    pub(crate) async fn room_for(&self, frame: &Frame) {
        poll_fn(|cx| {
            let mut inner = self.inner.lock();
            let has_room = inner.queue.is_empty()
                || (inner.queue.len() < self.limits.messages / 2
                    && inner.bytes + frame.bytes.len() <= self.limits.bytes / 2);
            if has_room || inner.is_ending() {
                return Poll::Ready(());
            }
            inner.room = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends the connection from outside; what is queued is still sent, except to a client that is too slow. The first reason stays.
    pub(crate) fn close(&self, close: Close) {
        self.signal(|inner| {
            inner.signals().close.get_or_insert(close);
        });
    }

    /// Tells the session that a channel lost events for good.
    pub(crate) fn signal_gap(&self, channel: &ChannelName) {
        self.signal(|inner| {
            let gaps = &mut inner.signals().gaps;
            if !gaps.contains(channel) {
                gaps.push(channel.clone());
            }
        });
    }

    /// Tells the session that its time has come.
    pub(crate) fn signal_due(&self) {
        self.signal(|inner| inner.is_due = true);
    }

    fn signal(&self, change: impl FnOnce(&mut Inner)) {
        let (waker, room) = {
            let mut inner = self.inner.lock();
            change(&mut inner);
            (inner.waker.take(), inner.room.take())
        };
        for waker in [waker, room].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Whether somebody waits for room.
    pub(crate) fn is_awaited(&self) -> bool {
        self.inner.lock().room.is_some()
    }

    /// Ends the connection without another word: what is queued is dropped, and nobody waits for room any more.
    pub(crate) fn abandon(&self, close: Close) {
        self.signal(|inner| inner.end(close));
    }

    /// Registers who is to be woken, and returns what is to be done besides writing.
    pub(crate) fn poll(&self, waker: &Waker) -> Taken {
        let mut inner = self.inner.lock();
        if !inner.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        let is_due = std::mem::take(&mut inner.is_due);
        match &mut inner.signals {
            None => Taken { is_due, ..Taken::default() },
            Some(signals) => Taken { close: signals.close.clone(), gaps: std::mem::take(&mut signals.gaps), is_due },
        }
    }

    /// Moves frames of up to about `most` bytes to `out`, handing each to `note`. Whether there was any.
    pub(crate) fn take_bytes(&self, out: &mut Vec<u8>, most: usize, mut note: impl FnMut(&Frame)) -> bool {
        let mut inner = self.inner.lock();
        let rest = inner.signals.as_mut().and_then(|signals| signals.rest.take());
        let mut took = rest.is_some();
        if let Some(rest) = rest {
            out.extend_from_slice(&rest.bytes);
            note(&rest);
        }
        while let Some(frame) = inner.queue.front() {
            if took && out.len() + frame.bytes.len() > most {
                break;
            }
            took = true;
            out.extend_from_slice(&frame.bytes);
            note(frame);
            let len = frame.bytes.len();
            inner.bytes -= len;
            inner.queue.pop_front();
        }
        if inner.queue.is_empty() {
            // An idle connection keeps no queue.
            inner.queue = VecDeque::new();
        }
        inner.is_writing = took;
        let room = inner.room.take();
        drop(inner);
        if let Some(room) = room {
            room.wake();
        }
        took
    }

    /// The next frame, for those who do not write to a socket.
    pub(crate) fn take(&self) -> Option<Frame> {
        let mut inner = self.inner.lock();
        let frame = inner.queue.pop_front();
        inner.bytes -= frame.as_ref().map_or(0, |frame| frame.bytes.len());
        frame
    }

    /// How many frames wait, and how many bytes they have.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.queue.len(), inner.bytes)
    }

    /// How many frames it dropped so far, because later ones superseded them or the client was too slow.
    pub(crate) fn dropped(&self) -> u32 {
        self.inner.lock().dropped
    }
}

impl Inner {
    fn queue(&mut self, frame: Frame, limits: Limits) {
        if self.is_ending() {
            return;
        }
        let is_full = |inner: &Self| {
            inner.queue.len() >= limits.messages
                || (inner.bytes + frame.bytes.len() > limits.bytes && !inner.queue.is_empty())
        };
        if is_full(self) {
            self.coalesce();
            // Room for one frame only would mean to coalesce again for each: too slow either way.
            if is_full(self) || self.queue.len() > limits.messages / 4 * 3 {
                metrics::counter!("oneiro_ws_slow_consumers_total").increment(1);
                let frames = self.queue.len() + 1;
                self.note_dropped("slow_consumer", frames);
                self.end(Close::SLOW);
                return;
            }
        }
        self.bytes += frame.bytes.len();
        self.queue.push_back(frame);
    }

    /// Whether a frame may go to the socket past the connection's task: nothing is to go before it, and the task has nothing else to do.
    fn can_relay(&self) -> bool {
        let is_calm = |signals: &Signals| signals.close.is_none() && signals.gaps.is_empty() && signals.rest.is_none();
        self.socket.is_some() && !self.is_writing && !self.is_due && self.signals.as_deref().is_none_or(is_calm)
    }

    /// Writes the only frame that waits; `false` where there is something left to be done.
    fn relay(&mut self, note: impl FnOnce(&Frame, u64)) -> bool {
        if !self.can_relay() || self.queue.len() > 1 {
            return false;
        }
        let (Some(frame), Some(socket)) = (self.queue.front(), &self.socket) else { return false };
        let Ok(written @ 1..) = socket.try_write(&frame.bytes) else { return false };
        self.relayed.bytes += written as u64;
        let is_whole = written == frame.bytes.len();
        if is_whole {
            self.relayed.frames += 1;
            note(frame, self.relayed.frames);
        } else {
            let rest = Frame { bytes: frame.bytes.slice(written..), ..frame.clone() };
            self.signals().rest = Some(rest);
        }
        self.queue = VecDeque::new();
        self.bytes = 0;
        is_whole
    }

    fn note_dropped(&mut self, reason: &'static str, frames: usize) {
        metrics::counter!("oneiro_ws_frames_dropped_total", "reason" => reason).increment(frames as u64);
        self.dropped = self.dropped.saturating_add(u32::try_from(frames).unwrap_or(u32::MAX));
    }

    /// Drops every state frame that a later one supersedes.
    fn coalesce(&mut self) {
        let mut seen = HashSet::new();
        let before = self.queue.len();
        let kept: VecDeque<Frame> =
            self.queue.drain(..).rev().filter(|frame| frame.state_key == 0 || seen.insert(frame.state_key)).collect();
        self.queue = kept.into_iter().rev().collect();
        self.bytes = self.queue.iter().map(|frame| frame.bytes.len()).sum();
        self.note_dropped("superseded", before - self.queue.len());
    }

    fn signals(&mut self) -> &mut Signals {
        self.signals.get_or_insert_default()
    }

    fn is_ending(&self) -> bool {
        self.signals.as_ref().is_some_and(|signals| signals.close.is_some())
    }

    fn end(&mut self, close: Close) {
        self.signals().close = Some(close);
        self.queue = VecDeque::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests;
