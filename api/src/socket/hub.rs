//! Who listens to what in this process. One subscription per channel, one serialised frame per form, one push per connection.

use super::{
    conn::Conn,
    encode::{Encoding, Kind, Parsed},
    outbox::Frame,
    records::Records,
};
use oneiro_core::auth::UserId;
use oneiro_events::{Attachment, ChannelName, Event, EventError, Listener, Position, Publication, Subscriptions};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::OnceCell;

/// Between two attempts at a channel whose shard is away.
const ATTACH_PAUSE: Duration = Duration::from_millis(500);

struct Member {
    conn: Arc<Conn>,
    encoding: Encoding,
    /// No stored events yet: the session is about to read them.
    is_held: bool,
    /// Stored events of its epoch up to here are not delivered: the session has sent them. `None`: the process has dispatched that far. Boxed, as
    /// few need it and there are hundreds of thousands of members.
    sent: Option<Box<Position>>,
}

struct Topic {
    channel: ChannelName,
    hub: Arc<Inner>,
    /// Memberships, among them those about to be. Changed only with the map of topics locked, so that the last one out and a new one cannot
    /// miss each other.
    references: AtomicUsize,
    attached: OnceCell<Attachment>,
    /// Whether a task attaches it as soon as the channel's shard is back.
    attaches_later: AtomicBool,
    state: Mutex<TopicState>,
}

struct TopicState {
    members: Places,
    /// The last event dispatched in this process.
    last: Position,
}

/// Members at places that stay theirs, so that a channel of a hundred thousand finds each at once.
#[derive(Default)]
struct Places {
    taken: Vec<Option<Member>>,
    free: Vec<u32>,
}

impl Places {
    fn put(&mut self, member: Member) -> u32 {
        member.conn.joined();
        match self.free.pop() {
            Some(place) => {
                self.taken[place as usize] = Some(member);
                place
            }
            None => {
                if self.taken.is_empty() {
                    // Most channels are a user's own, with one member.
                    self.taken.reserve_exact(1);
                }
                self.taken.push(Some(member));
                u32::try_from(self.taken.len() - 1).expect("fewer connections than file descriptors")
            }
        }
    }

    fn remove(&mut self, place: u32) {
        if let Some(member) = self.taken[place as usize].take() {
            member.conn.left();
        }
        self.free.push(place);
        if self.free.len() == self.taken.len() {
            *self = Self::default();
        }
    }

    fn get_mut(&mut self, place: u32) -> Option<&mut Member> {
        self.taken.get_mut(place as usize)?.as_mut()
    }

    fn iter(&self) -> impl Iterator<Item = &Member> {
        self.taken.iter().flatten()
    }

    /// Has everything behind `end` delivered again, whoever has been sent what stood there before.
    fn rewind(&mut self, end: &Position) {
        for sent in self.taken.iter_mut().flatten().filter_map(|member| member.sent.as_mut()) {
            if sent.epoch == end.epoch && sent.offset > end.offset {
                **sent = end.clone();
            }
        }
    }

    fn len(&self) -> usize {
        self.taken.len() - self.free.len()
    }
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
    /// By encoding. Few are in use on one channel, and most events go to one connection.
    frames: Vec<(Encoding, Option<Frame>)>,
}

impl Topic {
    async fn attach(self: &Arc<Self>) -> Result<(), EventError> {
        self.attached
            .get_or_try_init(|| async {
                let listener = Arc::new(TopicListener(Arc::downgrade(self)));
                let (attachment, position) = self.hub.subscriptions.attach(&self.channel, listener).await?;
                let mut state = self.state.lock();
                // Events may have been dispatched since; they are later than where the attachment began.
                if state.last.is_origin() {
                    state.last = position.clone();
                }
                if !position.is_origin() {
                    // Who waited for the shard to be back may have missed what others, who reached it, published meanwhile.
                    state.members.iter().for_each(|member| member.conn.outbox.signal_gap(&self.channel));
                }
                Ok::<_, EventError>(attachment)
            })
            .await
            .map(|_| ())
    }

    fn attach_later(self: &Arc<Self>) {
        if self.attaches_later.swap(true, Ordering::Relaxed) {
            return;
        }
        let topic = Arc::downgrade(self);
        tokio::spawn(async move {
            // Until nobody is in it any more.
            while let Some(topic) = topic.upgrade() {
                if topic.attach().await.is_ok() {
                    return topic.attaches_later.store(false, Ordering::Relaxed);
                }
                drop(topic);
                tokio::time::sleep(ATTACH_PAUSE).await;
            }
        });
    }

    fn dispatch(&self, events: &[Event]) {
        let mut state = self.state.lock();
        let mut deliveries = 0_u64;
        let mut prepared = Vec::with_capacity(events.len());
        for event in events {
            match event {
                Event::Publication(publication) => {
                    if let Some(position) = &publication.position {
                        state.last = position.clone();
                    }
                    let parsed = Parsed::new(publication);
                    let (kind, author) = (parsed.kind(), parsed.author());
                    prepared.push(Prepared { publication, parsed, kind, author, frames: Vec::new() });
                }
                Event::Gap(gap) => {
                    deliveries += self.deliver(&state, &mut prepared);
                    state.last = gap.to.clone();
                    if gap.to.epoch == gap.from.epoch && gap.to.offset < gap.from.offset {
                        // Redis lost the end of the stream: the same offsets come again, with other events.
                        state.members.rewind(&gap.to);
                    }
                    for member in state.members.iter() {
                        member.conn.outbox.signal_gap(&self.channel);
                    }
                }
            }
        }
        deliveries += self.deliver(&state, &mut prepared);
        self.hub.deliveries.increment(deliveries);
    }

    /// Hands events to those who are to have them, and takes them off the list. How many frames that made.
    fn deliver(&self, state: &TopicState, prepared: &mut Vec<Prepared<'_>>) -> u64 {
        let mut deliveries = 0_u64;
        for member in state.members.iter() {
            let frames = prepared.iter_mut().filter_map(|event| event.frame_for(member));
            member.conn.outbox.push_all(frames.inspect(|_| deliveries += 1));
        }
        for event in prepared.drain(..) {
            self.hub.records.message_out(event.publication, event.parsed.r#type(), state.members.len());
        }
        deliveries
    }
}

impl Prepared<'_> {
    fn frame_for(&mut self, member: &Member) -> Option<Frame> {
        let was_sent = |position: &Position| {
            let sent = member.sent.as_ref();
            sent.is_some_and(|sent| position.offset <= sent.offset && position.epoch == sent.epoch)
        };
        let is_skipped = self.publication.position.as_ref().is_some_and(|at| member.is_held || was_sent(at));
        if is_skipped
            || !member.conn.hears(self.kind)
            || (self.author.is_some() && self.author.as_deref() == member.conn.user().map(UserId::as_str))
        {
            return None;
        }
        if let Some((_, frame)) = self.frames.iter().find(|(encoding, _)| *encoding == member.encoding) {
            return frame.clone();
        }
        let frame = self.parsed.encode(member.encoding);
        self.frames.push((member.encoding, frame.clone()));
        frame
    }
}

/// The process's topics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

struct Inner {
    subscriptions: Subscriptions,
    records: Arc<Records>,
    deliveries: metrics::Counter,
    topics: Mutex<HashMap<ChannelName, Arc<Topic>>>,
}

/// A connection's place in a topic; dropping it leaves.
pub(crate) struct Membership {
    topic: Arc<Topic>,
    /// `None` until the topic is subscribed.
    place: Option<u32>,
}

impl Hub {
    pub(crate) fn new(subscriptions: Subscriptions, records: Arc<Records>) -> Self {
        let deliveries = metrics::counter!("oneiro_ws_deliveries_total");
        Self(Arc::new(Inner { subscriptions, records, deliveries, topics: Mutex::default() }))
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
        encoding: Encoding,
    ) -> Result<(Membership, Position), EventError> {
        self.enter(channel, conn, encoding, false).await
    }

    /// [`Hub::join`], live from now on. Where the channel's shard of a cluster is away, from when that is back, as a connection that has other
    /// channels can do without this one so long: what it missed until then is a gap.
    ///
    /// # Errors
    /// As [`Subscriptions::attach`].
    pub(crate) async fn join_live(
        &self,
        channel: &ChannelName,
        conn: &Arc<Conn>,
        encoding: Encoding,
    ) -> Result<(Membership, Position), EventError> {
        let (membership, _) = self.enter(channel, conn, encoding, true).await?;
        let live_from = membership.go_live_now();
        Ok((membership, live_from))
    }

    async fn enter(
        &self,
        channel: &ChannelName,
        conn: &Arc<Conn>,
        encoding: Encoding,
        may_attach_later: bool,
    ) -> Result<(Membership, Position), EventError> {
        let topic = self.topic(channel);
        // From here on dropping the membership gives the reference back, also when the attempt fails or is cancelled.
        let mut membership = Membership { topic: topic.clone(), place: None };
        match topic.attach().await {
            Err(EventError::ShardAway(_)) if may_attach_later => topic.attach_later(),
            outcome => outcome?,
        }
        let member = Member { conn: conn.clone(), encoding, is_held: true, sent: None };
        let mut state = topic.state.lock();
        membership.place = Some(state.members.put(member));
        let last = state.last.clone();
        drop(state);
        Ok((membership, last))
    }

    /// The channel's topic, with one more reference.
    fn topic(&self, channel: &ChannelName) -> Arc<Topic> {
        let mut topics = self.0.topics.lock();
        let topic = topics.entry(channel.clone()).or_insert_with(|| {
            Arc::new(Topic {
                channel: channel.clone(),
                hub: self.0.clone(),
                references: AtomicUsize::new(0),
                attached: OnceCell::new(),
                attaches_later: AtomicBool::new(false),
                state: Mutex::new(TopicState { members: Places::default(), last: Position::origin() }),
            })
        });
        topic.references.fetch_add(1, Ordering::Relaxed);
        topic.clone()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.0.subscriptions.is_healthy()
    }

    pub(crate) fn topic_count(&self) -> usize {
        self.0.topics.lock().len()
    }
}

impl Membership {
    pub(crate) fn channel(&self) -> &ChannelName {
        &self.topic.channel
    }

    /// Whether live delivery can have begun: not while the channel's shard is away since before anybody joined.
    pub(crate) fn is_attached(&self) -> bool {
        self.topic.attached.initialized()
    }

    /// The last event of the channel that this process has dispatched.
    pub(crate) fn position(&self) -> Position {
        self.topic.state.lock().last.clone()
    }

    /// Begins live delivery behind `sent`, the last stored event that the session has taken care of. `false`, and nothing changes, where the
    /// process has dispatched later ones meanwhile: read them from the history and try again.
    pub(crate) fn go_live(&self, sent: &Position) -> bool {
        let mut state = self.topic.state.lock();
        // Another epoch cannot be compared; its events are announced by a gap. Only the beginning of a channel comes before every epoch.
        let is_comparable = state.last.epoch == sent.epoch || sent.is_origin();
        if is_comparable && state.last.offset > sent.offset {
            return false;
        }
        let is_past = state.last == *sent;
        if let Some(member) = self.place.and_then(|place| state.members.get_mut(place)) {
            member.is_held = false;
            member.sent = if is_past { None } else { Some(Box::new(sent.clone())) };
        }
        true
    }

    /// Begins live delivery with whatever comes next.
    pub(crate) fn go_live_now(&self) -> Position {
        let mut state = self.topic.state.lock();
        let last = state.last.clone();
        if let Some(member) = self.place.and_then(|place| state.members.get_mut(place)) {
            (member.is_held, member.sent) = (false, None);
        }
        last
    }

    /// Changes how this connection sees the channel from now on.
    pub(crate) fn set_encoding(&self, encoding: Encoding) {
        let mut state = self.topic.state.lock();
        if let Some(member) = self.place.and_then(|place| state.members.get_mut(place)) {
            member.encoding = encoding;
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.topic.state.lock().members.remove(place);
        }
        let mut topics = self.topic.hub.topics.lock();
        let is_last = self.topic.references.fetch_sub(1, Ordering::Relaxed) == 1;
        // The attachment goes with the last owner of the topic, after the lock is gone.
        let _last = if is_last { topics.remove(&self.topic.channel) } else { None };
        drop(topics);
    }
}
