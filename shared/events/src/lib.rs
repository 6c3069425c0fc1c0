//! Publish, subscribe and replay on Redis channels and streams.
//!
//! A **channel** is a name that anybody may publish on. [`Broker::publish`] appends an event to the channel's capped stream and delivers
//! the same bytes to every subscriber, in one Redis step, so that the stream is the exact past of what was delivered. Every stored event has a
//! [`Position`] `(epoch, offset)`; [`Broker::history`] returns what came after one. A plain Redis `PUBLISH` on the same name is
//! delivered too, without a position.
//!
//! A channel may carry one **document**: the state that its events tell. [`Broker::commit`] changes both in one step.
//!
//! [`Subscriptions`] holds one subscriber connection per process, shared by everyone who listens. It heals itself: what pub/sub lost while the
//! connection was down, or while the process was too slow, is read from the streams and delivered in order, once. What cannot be
//! had back is told as an [`Event::Gap`].
//!
//! [`presence`] counts who is connected, across processes.
//!
//! This crate does not look inside payloads, and knows nothing of who may read what.

mod broker;
mod channel;
mod error;
mod keys;
pub mod presence;
mod script;
mod shards;
mod subscriptions;

pub use broker::{Broker, BrokerOptions, Commit, Committed, Document, History, MAX_HISTORY_PAGE, Retention};
pub use channel::{ChannelName, Epoch, MAX_CHANNEL_BYTES, Position, Publication};
pub use error::EventError;
pub use subscriptions::{Attachment, Event, Gap, Listener, Subscription, Subscriptions, SubscriptionsOptions};
