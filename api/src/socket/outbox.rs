//! What waits for one connection: a bounded queue of frames shared with other connections, and the signals that end or wake it.

use super::close::Close;
use bytes::Bytes;
use oneiro_events::{ChannelName, Position};
use parking_lot::Mutex;
use std::{
    collections::{HashSet, VecDeque},
    future::poll_fn,
    sync::Arc,
    task::{Poll, Waker},
};

/// A frame ready for the socket, made once and shared by all who get it.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// WebSocket header and text.
    pub(crate) bytes: Bytes,
    /// Length of the header in `bytes`; what follows is the JSON text.
    pub(crate) header: u8,
    /// Frames with the same key tell the state of the same thing: the later replaces the earlier. 0: every one counts.
    pub(crate) state_key: u64,
    /// When its event was published, in Unix milliseconds by the publisher's clock; 0: not told.
    pub(crate) published_ms: u64,
    /// The stored event it tells, if it tells one.
    pub(crate) origin: Option<Arc<Origin>>,
}

/// Where a stored event stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) channel: ChannelName,
    pub(crate) position: Position,
}

impl Frame {
    /// A frame of its own: an answer, a heartbeat.
    pub(crate) fn reply(json: &[u8]) -> Self {
        Self::stated(json, 0)
    }

    pub(crate) fn stated(json: &[u8], state_key: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "a header has at most ten bytes")]
        let header = super::framing::header_len(json.len()) as u8;
        Self { bytes: super::framing::text(json), header, state_key, published_ms: 0, origin: None }
    }

    /// A control frame.
    pub(crate) fn control(bytes: Bytes) -> Self {
        Self { bytes, header: 0, state_key: 0, published_ms: 0, origin: None }
    }

    /// The JSON text.
    pub(crate) fn json(&self) -> Bytes {
        self.bytes.slice(usize::from(self.header)..)
    }
}

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
    /// Who waits for room.
    room: Option<Waker>,
    /// The session's time has come.
    is_due: bool,
    /// What seldom happens takes no room until it does.
    signals: Option<Box<Signals>>,
    /// Frames that went nowhere.
    dropped: u32,
}

#[derive(Debug, Default)]
struct Signals {
    close: Option<Close>,
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

    pub(crate) fn push(&self, frame: Frame) {
        self.push_all(std::iter::once(frame));
    }

    /// Queues frames in order. Where the queue is full, superseded state frames go first; if that does not help, the client is too slow and its
    /// connection ends with 4010.
    pub(crate) fn push_all(&self, frames: impl Iterator<Item = Frame>) {
        let waker = {
            let mut inner = self.inner.lock();
            for frame in frames {
                if inner.is_ending() {
                    return;
                }
                let is_full = |inner: &Inner| {
                    inner.queue.len() >= self.limits.messages
                        || (inner.bytes + frame.bytes.len() > self.limits.bytes && !inner.queue.is_empty())
                };
                if is_full(&inner) {
                    inner.coalesce();
                    // Room for one frame only would mean to coalesce again for each: too slow either way.
                    if is_full(&inner) || inner.queue.len() > self.limits.messages / 4 * 3 {
                        metrics::counter!("oneiro_ws_slow_consumers_total").increment(1);
                        let frames = inner.queue.len() + 1;
                        inner.note_dropped("slow_consumer", frames);
                        inner.end(Close::SLOW);
                        break;
                    }
                }
                inner.bytes += frame.bytes.len();
                inner.queue.push_back(frame);
            }
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
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
        let mut took = false;
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
mod tests {
    use super::*;

    fn outbox(messages: usize, bytes: usize) -> Outbox {
        Outbox::new(Limits { messages, bytes })
    }

    fn texts(outbox: &Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.take()).map(|frame| String::from_utf8(frame.json().to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_full_queue_keeps_the_latest_of_each_state() {
        let outbox = outbox(8, 1_000_000);
        for n in 0..20 {
            outbox.push(Frame::stated(format!("a{n}").as_bytes(), 1));
            if n < 2 {
                outbox.push(Frame::reply(format!("r{n}").as_bytes()));
            }
        }
        assert_eq!(outbox.poll(Waker::noop()).close, None);
        let texts = texts(&outbox);
        assert_eq!(texts[..2], ["r0", "r1"], "what counts each for itself is never dropped");
        assert_eq!(texts.last().map(String::as_str), Some("a19"));
        assert!(texts.len() <= 8);
    }

    #[test]
    fn a_queue_full_of_events_ends_the_connection() {
        let outbox = outbox(8, 1_000_000);
        for n in 0..9 {
            outbox.push(Frame::reply(format!("{n}").as_bytes()));
        }
        assert_eq!(outbox.poll(Waker::noop()).close, Some(Close::SLOW));
        assert_eq!((outbox.waiting(), outbox.dropped()), ((0, 0), 9));
    }

    #[test]
    fn bytes_are_bounded_too_but_one_frame_always_fits() {
        let outbox = outbox(100, 64);
        outbox.push(Frame::reply(&[b'x'; 1_000]));
        assert_eq!(outbox.poll(Waker::noop()).close, None);
        outbox.push(Frame::reply(b"y"));
        assert_eq!(outbox.poll(Waker::noop()).close, Some(Close::SLOW));
    }

    #[test]
    fn the_first_reason_to_close_stays() {
        let outbox = outbox(8, 64);
        outbox.close(Close::KICKED);
        outbox.close(Close::INTERNAL);
        assert_eq!(outbox.poll(Waker::noop()).close, Some(Close::KICKED));
    }

    #[test]
    fn many_frames_leave_in_one_buffer() {
        let outbox = outbox(100, 10_000);
        for _ in 0..10 {
            outbox.push(Frame::reply(b"{}"));
        }
        let (mut out, mut noted) = (Vec::new(), 0);
        assert!(outbox.take_bytes(&mut out, 1_000, |_| noted += 1));
        assert_eq!((out.len(), noted), (40, 10));
        assert!(!outbox.take_bytes(&mut out, 1_000, |_| {}));
    }
}
