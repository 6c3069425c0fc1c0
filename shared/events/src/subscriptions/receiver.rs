//! A listener with a queue, for those who would rather await.

use super::{Attachment, Event, Gap, Listener, Subscriptions};
use crate::{ChannelName, EventError, Position};
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::Notify;

struct Queue {
    state: Mutex<QueueState>,
    filled: Notify,
    capacity: usize,
}

struct QueueState {
    events: VecDeque<Event>,
    /// The last position that found room, and the last that did not.
    queued: Position,
    overflow: Option<Position>,
}

impl Listener for Queue {
    fn on_events(&self, _channel: &ChannelName, events: &[Event]) {
        let mut state = self.state.lock();
        for event in events {
            let end = match event {
                Event::Publication(publication) => publication.position.clone(),
                Event::Gap(gap) => Some(gap.to.clone()),
            };
            if state.overflow.is_some() || state.events.len() >= self.capacity {
                metrics::counter!("oneiro_events_receiver_overflow_total").increment(1);
                state.overflow = end.or_else(|| state.overflow.take()).or_else(|| Some(state.queued.clone()));
                continue;
            }
            state.events.push_back(event.clone());
            if let Some(end) = end {
                state.queued = end;
            }
        }
        drop(state);
        self.filled.notify_one();
    }
}

/// A receiver of one channel's events; dropping it ends the subscription.
pub struct Subscription {
    queue: Arc<Queue>,
    position: Position,
    _attachment: Attachment,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("channel", &self._attachment).field("position", &self.position).finish()
    }
}

pub(super) async fn subscribe(
    subscriptions: &Subscriptions,
    channel: &ChannelName,
    capacity: usize,
) -> Result<Subscription, EventError> {
    let state = QueueState { events: VecDeque::new(), queued: Position::origin(), overflow: None };
    let queue = Arc::new(Queue { state: Mutex::new(state), filled: Notify::new(), capacity: capacity.max(1) });
    let (attachment, position) = subscriptions.attach(channel, queue.clone()).await?;
    Ok(Subscription { queue, position, _attachment: attachment })
}

impl Subscription {
    /// Where the channel stood when the subscription began: the first event follows this.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The next event. Where the reader lagged so far behind that events had to be dropped, one [`Event::Gap`] stands for them; what it
    /// covers can still be read with [`Broker::history`](crate::Broker::history).
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Event {
        loop {
            {
                let mut state = self.queue.state.lock();
                if let Some(event) = state.events.pop_front() {
                    return event;
                }
                if let Some(to) = state.overflow.take() {
                    let from = std::mem::replace(&mut state.queued, to.clone());
                    return Event::Gap(Gap { from, to });
                }
            }
            // One reader, so the permit of a notification that came in between is not lost.
            self.queue.filled.notified().await;
        }
    }
}
