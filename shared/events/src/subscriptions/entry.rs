//! One channel's place in the stream, and those who listen to it.

use super::{Event, Gap, Listener};
use crate::{ChannelName, Position, Publication, broker::Read};
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::Notify;

/// Live events kept aside while a channel heals. More are dropped and read from the stream instead.
const MAX_HELD: usize = 1_024;

pub(super) struct Entry {
    channel: ChannelName,
    /// Changed only with the map of channels locked, so that the last release and a new attach cannot miss each other.
    references: AtomicUsize,
    became_active: Notify,
    state: Mutex<State>,
}

struct State {
    listeners: Vec<(u64, Arc<dyn Listener>)>,
    phase: Phase,
    /// The last position delivered, or told in a gap.
    last: Position,
    /// Digest of the payload at `last`, where it was delivered here: shows whether Redis lost the end of a stream and wrote it anew.
    last_digest: Option<u64>,
    held: Vec<Publication>,
    /// Events came that `held` has no room for, or that came before the place to start from was known.
    missed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Subscribed or not, the place to start from is unknown yet.
    Starting,
    Live,
    /// Something is missing; live events wait until it is read.
    Healing,
}

/// What the dispatcher shall do about a message.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Done,
    Heal,
}

/// What a healing read achieved.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Healed {
    Live,
    ReadOn,
}

impl Entry {
    pub(super) fn new(channel: ChannelName) -> Self {
        let state = State {
            listeners: Vec::with_capacity(1),
            phase: Phase::Starting,
            last: Position::origin(),
            last_digest: None,
            held: Vec::new(),
            missed: false,
        };
        Self { channel, references: AtomicUsize::new(0), became_active: Notify::new(), state: Mutex::new(state) }
    }

    pub(super) fn channel(&self) -> &ChannelName {
        &self.channel
    }

    pub(super) fn retain(&self) {
        self.references.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether that was the last reference.
    pub(super) fn release(&self) -> bool {
        self.references.fetch_sub(1, Ordering::Relaxed) == 1
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.references.load(Ordering::Relaxed) > 0
    }

    /// Returns once the subscription is active and the place to start from is known.
    pub(super) async fn active(&self) {
        loop {
            let notified = self.became_active.notified();
            if self.state.lock().phase != Phase::Starting {
                return;
            }
            notified.await;
        }
    }

    pub(super) fn add_listener(&self, id: u64, listener: Arc<dyn Listener>) -> Position {
        let mut state = self.state.lock();
        state.listeners.push((id, listener));
        state.last.clone()
    }

    pub(super) fn remove_listener(&self, id: u64) {
        let mut state = self.state.lock();
        if let Some(index) = state.listeners.iter().position(|(other, _)| *other == id) {
            state.listeners.swap_remove(index);
        }
    }

    pub(super) fn last(&self) -> Position {
        self.state.lock().last.clone()
    }

    /// Sets the place to start from, read after the subscription became active.
    pub(super) fn start_at(&self, position: Position) -> Verdict {
        let verdict = {
            let mut state = self.state.lock();
            if state.phase != Phase::Starting {
                return Verdict::Done;
            }
            state.last = position;
            // What came in the meantime may be before or after the place just read; the stream knows.
            let needs_healing = state.missed;
            state.phase = if needs_healing { Phase::Healing } else { Phase::Live };
            if needs_healing { Verdict::Heal } else { Verdict::Done }
        };
        self.became_active.notify_waiters();
        verdict
    }

    /// Compares with the stream's end, which was read after the connection was known to be subscribed; `before` is [`Entry::last`] from
    /// before that reading, as live events may have gone past the end since.
    pub(super) fn compare(&self, before: &Position, end: &Position) -> Verdict {
        let mut state = self.state.lock();
        if state.phase != Phase::Live {
            return Verdict::Done;
        }
        let was_rewound = before.epoch == end.epoch && before.offset > end.offset;
        let is_current = state.last.epoch == end.epoch && state.last.offset >= end.offset;
        if is_current && !was_rewound {
            return Verdict::Done;
        }
        state.phase = Phase::Healing;
        Verdict::Heal
    }

    /// Takes a run of messages in the order of arrival and tells the listeners what is new.
    pub(super) fn receive(&self, publications: impl Iterator<Item = Publication>) -> Verdict {
        let mut state = self.state.lock();
        let mut events = Vec::with_capacity(publications.size_hint().0);
        let mut verdict = Verdict::Done;
        for publication in publications {
            if state.admit(publication, &mut events) == Verdict::Heal {
                verdict = Verdict::Heal;
            }
        }
        state.tell(&self.channel, &events);
        verdict
    }

    /// Takes what a healing read found from the last delivered position on, that one included where it is still retained.
    pub(super) fn heal(&self, read: Read) -> Healed {
        let mut state = self.state.lock();
        let mut events = Vec::with_capacity(read.publications.len());
        let end = &read.position;
        if !read.reaches_back_to(&state.last) {
            // What is left behind the gap is read next, and delivered.
            let next = read.goes_on_at(&state.last);
            state.skip_to(next, &mut events);
        } else if state.was_rewritten(&read.publications) {
            state.skip_to(end.clone(), &mut events);
        } else {
            for publication in read.publications {
                let is_new = publication.position.as_ref().is_some_and(|position| position.offset > state.last.offset);
                if is_new {
                    state.take(publication, &mut events);
                }
            }
            if state.last.offset == end.offset {
                // Also where an epoch began without an event.
                state.last.epoch = end.epoch.clone();
            }
        }
        let has_reached_end = state.last.epoch == end.epoch && state.last.offset >= end.offset;
        let missed = std::mem::take(&mut state.missed);
        let mut healed = Healed::ReadOn;
        if has_reached_end && !missed {
            state.phase = Phase::Live;
            healed = Healed::Live;
            for publication in std::mem::take(&mut state.held) {
                if state.admit(publication, &mut events) == Verdict::Heal {
                    healed = Healed::ReadOn;
                }
            }
        } else if has_reached_end {
            // All that is held is older than what was dropped, and both are in the stream.
            state.held.clear();
        }
        state.tell(&self.channel, &events);
        healed
    }
}

impl State {
    fn admit(&mut self, publication: Publication, events: &mut Vec<Event>) -> Verdict {
        let Some(position) = &publication.position else {
            events.push(Event::Publication(publication));
            return Verdict::Done;
        };
        match self.phase {
            Phase::Starting => {
                self.missed = true;
                Verdict::Done
            }
            Phase::Healing => {
                if self.held.len() < MAX_HELD {
                    self.held.push(publication);
                } else {
                    self.missed = true;
                }
                Verdict::Done
            }
            Phase::Live => {
                let same = position.epoch == self.last.epoch || self.last.is_origin();
                if same && position.offset == self.last.offset + 1 {
                    self.take(publication, events);
                    Verdict::Done
                } else if same && position.offset <= self.last.offset {
                    Verdict::Done
                } else {
                    self.phase = Phase::Healing;
                    self.held.push(publication);
                    Verdict::Heal
                }
            }
        }
    }

    fn skip_to(&mut self, to: Position, events: &mut Vec<Event>) {
        events.push(Event::Gap(Gap { from: std::mem::replace(&mut self.last, to.clone()), to }));
        self.last_digest = None;
    }

    fn take(&mut self, publication: Publication, events: &mut Vec<Event>) {
        if let Some(position) = &publication.position {
            self.last = position.clone();
            self.last_digest = Some(digest(&publication.payload));
        }
        events.push(Event::Publication(publication));
    }

    /// Whether the stream holds something else at the last delivered position than what was delivered: Redis came back without the end
    /// of its log, and writers went on from there.
    fn was_rewritten(&self, publications: &[Publication]) -> bool {
        let Some(known) = self.last_digest else {
            return false;
        };
        publications
            .iter()
            .find(|publication| publication.position.as_ref() == Some(&self.last))
            .is_some_and(|publication| digest(&publication.payload) != known)
    }

    fn tell(&self, channel: &ChannelName, events: &[Event]) {
        if !events.is_empty() {
            for (_, listener) in &self.listeners {
                listener.on_events(channel, events);
            }
        }
    }
}

fn digest(payload: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(payload);
    hasher.finish()
}
