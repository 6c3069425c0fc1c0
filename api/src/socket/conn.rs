//! What the process knows of one connection, and what others may do to it.

use super::{
    encode::Kind,
    frame::Frame,
    inbox::Cursor,
    link::{is_timed, note_delivery},
    outbox::Outbox,
};
use oneiro_core::{auth::UserId, clock};
use oneiro_events::Position;
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

pub(crate) struct Conn {
    pub(crate) outbox: Outbox,
    /// `dream`, `notifications`, `presence` or `sse`.
    pub(crate) dialect: &'static str,
    /// Without a port; what a trusted proxy said may be any text.
    pub(crate) address: Box<str>,
    pub(crate) since_ms: u64,
    user: OnceLock<UserId>,
    /// The reading of the user's own channel, whose events wait for a user who is away. Told of stored events once they are written.
    pub(crate) inbox: OnceLock<Arc<Cursor>>,
    /// How many it has joined.
    channels: AtomicU32,
    /// Kinds of event that the client unsubscribed from, one bit each.
    muted: AtomicU8,
    /// The turn of the wheel at which the session is woken; see [`Wheel`](super::wheel::Wheel).
    pub(crate) armed: AtomicU64,
}

impl Conn {
    pub(crate) fn new(outbox: Outbox, dialect: &'static str, address: &str) -> Self {
        Self {
            outbox,
            dialect,
            address: address.into(),
            since_ms: clock::unix_millis(),
            user: OnceLock::new(),
            inbox: OnceLock::new(),
            channels: AtomicU32::new(0),
            muted: AtomicU8::new(0),
            armed: AtomicU64::new(super::wheel::NEVER),
        }
    }

    /// Whose it is, once that is proved. It never changes.
    pub(crate) fn user(&self) -> Option<&UserId> {
        self.user.get()
    }

    /// Notes whose it is; only the first time counts.
    pub(super) fn belongs_to(&self, user: &UserId) {
        self.user.get_or_init(|| user.clone());
    }

    pub(super) fn joined(&self) {
        self.channels.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn left(&self) {
        self.channels.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn channel_count(&self) -> usize {
        self.channels.load(Ordering::Relaxed) as usize
    }

    /// Writes an event that waits for its sleeping task; see [`Outbox::write_now`].
    pub(super) fn write_now(&self) {
        self.outbox.write_now(|frame, count| {
            if is_timed(frame, count) {
                note_delivery(frame.published_ms);
            }
            if let Some((inbox, position)) = self.inbox_of(frame) {
                inbox.note_written(position.clone());
            }
        });
    }

    /// The reading that a frame moves on once it is written, and to where.
    pub(super) fn inbox_of<'a>(&'a self, frame: &'a Frame) -> Option<(&'a Cursor, &'a Position)> {
        let (inbox, origin) = (self.inbox.get()?, frame.origin.as_ref()?);
        (origin.channel == inbox.channel).then_some((&**inbox, &origin.position))
    }

    /// Replaces the set of muted kinds.
    pub(crate) fn mute(&self, kinds: &[Kind]) {
        self.muted.store(kinds.iter().fold(0, |bits, kind| bits | bit(*kind)), Ordering::Relaxed);
    }

    pub(crate) fn hears(&self, kind: Kind) -> bool {
        self.muted.load(Ordering::Relaxed) & bit(kind) == 0
    }
}

fn bit(kind: Kind) -> u8 {
    match kind {
        Kind::Notification => 1,
        Kind::Order => 2,
        Kind::Material => 4,
        // Alerts reach everybody whatever they subscribe to, and the rest is not a kind one subscribes to.
        Kind::Alert | Kind::Other => 0,
    }
}
