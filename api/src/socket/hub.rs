//! Who listens to what in this process. One subscription per channel, one serialised frame per form, one push per connection.

mod members;

use super::{
    conn::Conn,
    encode::{Encoding, Kind, Parsed},
    frame::Frame,
    records::Records,
    relay::Relay,
};
use members::{Member, Places};
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
use tokio::{sync::OnceCell, time::Instant};

/// Between two attempts at a channel whose shard is away.
const ATTACH_PAUSE: Duration = Duration::from_millis(500);

/// About what a write to a socket takes.
const WRITE_TIME: Duration = Duration::from_micros(5);

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
    /// When that was.
    last_at: Instant,
}

impl TopicState {
    /// Whether the events before had time to be written to every member, to be asked once for each dispatch. If not, members' tasks are woken: each
    /// gets its turn when the others have had theirs, and writes all that has come until then at once.
    fn is_calm(&mut self) -> bool {
        let now = Instant::now();
        let passed = now.duration_since(std::mem::replace(&mut self.last_at, now));
        passed.as_nanos() / WRITE_TIME.as_nanos() >= self.members.len() as u128
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
        let is_calm = state.is_calm();
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
                    deliveries += self.deliver(&state, &mut prepared, is_calm);
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
        deliveries += self.deliver(&state, &mut prepared, is_calm);
        self.hub.deliveries.increment(deliveries);
    }

    /// Hands events to those who are to have them, and takes them off the list. How many frames that made.
    fn deliver(&self, state: &TopicState, prepared: &mut Vec<Prepared<'_>>, is_calm: bool) -> u64 {
        let mut deliveries = 0_u64;
        let mut asleep = Vec::new();
        for member in state.members.iter() {
            let frames = prepared.iter_mut().filter_map(|event| event.frame_for(member));
            if member.conn.outbox.offer(frames.inspect(|_| deliveries += 1), is_calm) {
                asleep.push(member.conn.clone());
            }
        }
        self.hub.relay.write(asleep);
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
    relay: Arc<Relay>,
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
    pub(crate) fn new(subscriptions: Subscriptions, records: Arc<Records>, relay: Arc<Relay>) -> Self {
        let deliveries = metrics::counter!("oneiro_ws_deliveries_total");
        Self(Arc::new(Inner { subscriptions, records, relay, deliveries, topics: Mutex::default() }))
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
                state: Mutex::new(TopicState {
                    members: Places::default(),
                    last: Position::origin(),
                    last_at: Instant::now(),
                }),
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
