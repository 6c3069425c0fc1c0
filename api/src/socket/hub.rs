//! Who listens to what in this process. One subscription per channel, one serialised frame per form, one push per connection.

use super::{
    encode::{Encoding, Kind, Parsed},
    outbox::{Frame, Outbox},
    records::Records,
};
use oneiro_core::auth::UserId;
use oneiro_events::{Attachment, ChannelName, Event, EventError, Listener, Position, Publication, Subscriptions};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, Ordering},
    },
};
use tokio::sync::OnceCell;

/// What others may do to a connection.
pub(crate) struct Conn {
    pub(crate) outbox: Outbox,
    /// Kinds of event that the client unsubscribed from, one bit each.
    muted: AtomicU8,
}

impl Conn {
    pub(crate) fn new(outbox: Outbox) -> Self {
        Self { outbox, muted: AtomicU8::new(0) }
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

struct Member {
    conn: Arc<Conn>,
    user: UserId,
    encoding: Encoding,
    /// Stored events up to here are not delivered: the session has sent them, or is about to read them. [`HELD`]: none yet.
    skip_until: u64,
}

const HELD: u64 = u64::MAX;

struct Topic {
    channel: ChannelName,
    records: Arc<Records>,
    attached: OnceCell<Attachment>,
    state: Mutex<TopicState>,
}

struct TopicState {
    members: Vec<Member>,
    /// The last event dispatched in this process.
    last: Position,
}

/// The subscription must not keep the topic alive, which owns the subscription.
struct TopicListener(Weak<Topic>);

impl Listener for TopicListener {
    fn on_events(&self, _channel: &ChannelName, events: &[Event]) {
        if let Some(topic) = self.0.upgrade() {
            topic.dispatch(events);
        }
    }
}

/// One event, and its frames as far as somebody wanted them.
struct Prepared<'a> {
    publication: &'a Publication,
    parsed: Parsed<'a>,
    kind: Kind,
    author: Option<String>,
    frames: [Option<Option<Frame>>; Encoding::VARIANTS],
}

impl Topic {
    fn dispatch(&self, events: &[Event]) {
        let mut state = self.state.lock();
        let mut prepared = Vec::with_capacity(events.len());
        for event in events {
            match event {
                Event::Publication(publication) => {
                    if let Some(position) = &publication.position {
                        state.last = position.clone();
                    }
                    let parsed = Parsed::new(publication);
                    let (kind, author) = (parsed.kind(), parsed.author());
                    prepared.push(Prepared {
                        publication,
                        parsed,
                        kind,
                        author,
                        frames: [const { None }; Encoding::VARIANTS],
                    });
                }
                Event::Gap(gap) => {
                    state.last = gap.to.clone();
                    for member in &state.members {
                        member.conn.outbox.signal_gap(&self.channel);
                    }
                }
            }
        }
        let mut deliveries = 0_u64;
        for member in &state.members {
            let frames = prepared.iter_mut().filter_map(|event| event.frame_for(member));
            member.conn.outbox.push_all(frames.inspect(|_| deliveries += 1));
        }
        metrics::counter!("oneiro_ws_deliveries_total").increment(deliveries);
        for event in &prepared {
            self.records.message_out(event.publication, event.parsed.r#type(), state.members.len());
        }
    }
}

impl Prepared<'_> {
    fn frame_for(&mut self, member: &Member) -> Option<Frame> {
        let is_sent_already = match &self.publication.position {
            Some(position) => member.skip_until != HELD && position.offset <= member.skip_until,
            None => false,
        };
        let is_held = member.skip_until == HELD && self.publication.position.is_some();
        if is_sent_already
            || is_held
            || !member.conn.hears(self.kind)
            || self.author.as_deref() == Some(member.user.as_str())
        {
            return None;
        }
        let slot = &mut self.frames[member.encoding.index()];
        slot.get_or_insert_with(|| self.parsed.encode(member.encoding)).clone()
    }
}

/// The process's topics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Hub {
    subscriptions: Subscriptions,
    records: Arc<Records>,
    topics: Arc<Mutex<HashMap<ChannelName, Counted>>>,
}

struct Counted {
    topic: Arc<Topic>,
    /// Memberships, among them those about to be.
    references: usize,
}

/// A connection's place in a topic; dropping it leaves.
pub(crate) struct Membership {
    hub: Hub,
    topic: Arc<Topic>,
    conn: Arc<Conn>,
}

impl Hub {
    pub(crate) fn new(subscriptions: Subscriptions, records: Arc<Records>) -> Self {
        Self { subscriptions, records, topics: Arc::default() }
    }

    /// Joins a channel, held: nothing stored is delivered until [`Membership::go_live`], so that the session can send what was before.
    /// Returns once the subscription is active, with the position that the process has dispatched up to.
    ///
    /// # Errors
    /// As [`Subscriptions::attach`].
    pub(crate) async fn join(
        &self,
        channel: &ChannelName,
        conn: &Arc<Conn>,
        user: &UserId,
        encoding: Encoding,
    ) -> Result<(Membership, Position), EventError> {
        let topic = {
            let mut topics = self.topics.lock();
            let counted = topics.entry(channel.clone()).or_insert_with(|| {
                let state = TopicState { members: Vec::with_capacity(1), last: Position::origin() };
                let (records, attached) = (self.records.clone(), OnceCell::new());
                let topic = Topic { channel: channel.clone(), records, attached, state: Mutex::new(state) };
                Counted { topic: Arc::new(topic), references: 0 }
            });
            counted.references += 1;
            counted.topic.clone()
        };
        // From here on dropping the membership gives the reference back, also when the attempt fails or is cancelled.
        let membership = Membership { hub: self.clone(), topic: topic.clone(), conn: conn.clone() };
        topic
            .attached
            .get_or_try_init(|| async {
                let listener = Arc::new(TopicListener(Arc::downgrade(&topic)));
                let (attachment, position) = self.subscriptions.attach(channel, listener).await?;
                let mut state = topic.state.lock();
                // Events may have been dispatched since; they are later than where the attachment began.
                if state.last == Position::origin() {
                    state.last = position;
                }
                Ok::<_, EventError>(attachment)
            })
            .await?;
        let mut state = topic.state.lock();
        state.members.push(Member { conn: conn.clone(), user: user.clone(), encoding, skip_until: HELD });
        let last = state.last.clone();
        drop(state);
        Ok((membership, last))
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.subscriptions.is_healthy()
    }

    pub(crate) fn topic_count(&self) -> usize {
        self.topics.lock().len()
    }
}

impl Membership {
    pub(crate) fn channel(&self) -> &ChannelName {
        &self.topic.channel
    }

    /// The last event of the channel that this process has dispatched.
    pub(crate) fn position(&self) -> Position {
        self.topic.state.lock().last.clone()
    }

    /// Begins live delivery behind `sent`, the last stored event that the session has taken care of. `false`, and nothing changes, where the
    /// process has dispatched later ones meanwhile: read them from the history and try again.
    pub(crate) fn go_live(&self, sent: &Position) -> bool {
        let mut state = self.topic.state.lock();
        // Another epoch cannot be compared; its events are announced by a gap.
        if state.last.epoch == sent.epoch && state.last.offset > sent.offset {
            return false;
        }
        let skip_until =
            if state.last.epoch == sent.epoch || state.last == Position::origin() { sent.offset } else { 0 };
        if let Some(member) = state.members.iter_mut().find(|member| Arc::ptr_eq(&member.conn, &self.conn)) {
            member.skip_until = skip_until;
        }
        true
    }

    /// Begins live delivery with whatever comes next.
    pub(crate) fn go_live_now(&self) -> Position {
        let mut state = self.topic.state.lock();
        let last = state.last.clone();
        if let Some(member) = state.members.iter_mut().find(|member| Arc::ptr_eq(&member.conn, &self.conn)) {
            member.skip_until = last.offset;
        }
        last
    }

    /// Changes how this connection sees the channel from now on.
    pub(crate) fn set_encoding(&self, encoding: Encoding) {
        let mut state = self.topic.state.lock();
        if let Some(member) = state.members.iter_mut().find(|member| Arc::ptr_eq(&member.conn, &self.conn)) {
            member.encoding = encoding;
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        {
            let mut state = self.topic.state.lock();
            if let Some(index) = state.members.iter().position(|member| Arc::ptr_eq(&member.conn, &self.conn)) {
                state.members.swap_remove(index);
            }
        }
        let mut topics = self.hub.topics.lock();
        let is_last = topics.get_mut(&self.topic.channel).is_some_and(|counted| {
            counted.references -= 1;
            counted.references == 0
        });
        // The attachment goes with the last owner of the topic, after the lock is gone.
        let _last = if is_last { topics.remove(&self.topic.channel) } else { None };
        drop(topics);
    }
}
