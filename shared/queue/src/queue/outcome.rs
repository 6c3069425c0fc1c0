//! Waiting for jobs to end, by notification.

use std::{collections::HashSet, time::Duration};

use fred::{
    clients::SubscriberClient,
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{Builder, Message, Value, config::ReconnectPolicy},
};
use serde::{Deserialize, Serialize};

use super::{Queue, push::id_value};
use crate::{JobError, JobId, QueueError, State, scripts};

/// How long a wait trusts notifications before it looks itself: a message can be lost while the connection is.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Ids looked at by one call.
const LOOK: usize = 200;
/// Messages held for a slow waiter; one that lags behind looks itself.
const BACKLOG: usize = 8_192;

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The job.
    pub id: JobId,
    /// [`State::Completed`], [`State::Cancelled`] or [`State::Dead`]; `None` when nothing is known of the job (any more).
    pub state: Option<State>,
    /// What its handler returned (JSON), while the result is kept.
    pub result: Option<String>,
    /// Its last failure.
    pub error: Option<JobError>,
    /// Attempts it took; 0 where the job is not kept.
    pub attempts: u32,
}

impl Queue {
    /// The outcomes of those of the given jobs that have ended, or of which nothing is known.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn outcomes(&self, ids: &[JobId]) -> Result<Vec<Outcome>, QueueError> {
        self.look(ids, false).await
    }

    /// Waits until a job has ended; tells `state: None` when nothing is known of it. Of a job that is not kept (see
    /// [`QueueOptions::retention_completed`](crate::QueueOptions)) the end is known from its news alone: it may be missed where it came before
    /// the wait began or while the connection was away, its attempts are 0, and its result is there as long as results are kept.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached at the start; later trouble is waited out.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn wait(&self, id: JobId) -> Result<Outcome, QueueError> {
        let mut waiting = self.wait_all(&[id]).await?;
        waiting.next(self).await.ok_or(QueueError::Corrupt { what: "no outcome of a job" })
    }

    /// Begins to wait for several jobs.
    pub(crate) async fn wait_all(&self, ids: &[JobId]) -> Result<Waiting, QueueError> {
        // Subscribed before the first look: an end between the two is heard.
        let events = self.events().await?.message_rx();
        let mut pending: HashSet<JobId> = ids.iter().copied().collect();
        let mut ended = self.look(ids, true).await?;
        ended.retain(|outcome| pending.remove(&outcome.id));
        Ok(Waiting { events, pending, ended })
    }

    async fn look(&self, ids: &[JobId], is_waiting: bool) -> Result<Vec<Outcome>, QueueError> {
        let mut outcomes = Vec::new();
        for part in ids.chunks(LOOK) {
            let mut args: Vec<Value> = vec![i64::from(is_waiting).into()];
            args.extend(part.iter().map(|id| id_value(*id)));
            let rows: Vec<(String, Option<String>, Option<String>, u32)> = self.run(&scripts::OUTCOME, args).await?;
            outcomes.extend(part.iter().zip(rows).filter_map(|(id, (state, result, error, attempts))| {
                let state = end_of(*state.as_bytes().first()?)?;
                let error = error.and_then(|json| serde_json::from_str(&json).ok());
                Some(Outcome { id: *id, state, result, error, attempts })
            }));
        }
        Ok(outcomes)
    }

    async fn events(&self) -> Result<&SubscriberClient, QueueError> {
        let events = self
            .inner
            .events
            .get_or_try_init(|| async {
                let source = self.client();
                let client = Builder::from_config(source.client_config())
                    .set_connection_config(source.connection_config().clone())
                    .with_performance_config(|perf| perf.broadcast_channel_capacity = BACKLOG)
                    .set_policy(ReconnectPolicy::new_exponential(0, 20, 1_000, 2))
                    .build_subscriber_client()?;
                // From here on it is ended also where this fails or is given up.
                let events = Events { client, runtime: tokio::runtime::Handle::current() };
                events.client.init().await?;
                events.client.subscribe(self.key("ev")).await?;
                // Subscribes again after each reconnect; ends with the client.
                drop(events.client.manage_subscriptions());
                Ok::<_, QueueError>(events)
            })
            .await?;
        Ok(&events.client)
    }
}

/// The connection on which ends of jobs are told. It and the task that keeps it would outlive the queue's last handle: dropped, it is ended.
pub(super) struct Events {
    client: SubscriberClient,
    /// Where its tasks run: the handle may be dropped anywhere.
    runtime: tokio::runtime::Handle,
}

impl Drop for Events {
    fn drop(&mut self) {
        let client = self.client.clone();
        self.runtime.spawn(async move {
            // Nobody listens any more, however it ends.
            let _ = client.quit().await;
        });
    }
}

/// What a letter of the scripts says of a job: how it ended, or that it is gone; `None` for one that has not ended.
fn end_of(letter: u8) -> Option<Option<State>> {
    match letter {
        b'c' => Some(Some(State::Completed)),
        b'x' => Some(Some(State::Cancelled)),
        b'd' => Some(Some(State::Dead)),
        b'g' => Some(None),
        _ => None,
    }
}

/// A wait for several jobs under way.
pub(crate) struct Waiting {
    events: tokio::sync::broadcast::Receiver<Message>,
    pending: HashSet<JobId>,
    ended: Vec<Outcome>,
}

impl Waiting {
    /// Which jobs there is reason to look at: one that ended, and how, or all, after a while without news of them or when news were missed.
    async fn hear(&mut self) -> (Vec<JobId>, Option<State>) {
        let look_again = tokio::time::Instant::now() + LOOK_AGAIN;
        while let Ok(Ok(message)) = tokio::time::timeout_at(look_again, self.events.recv()).await {
            let ended = message.value.as_bytes().and_then(|raw| {
                let (letter, id) = raw.split_first()?;
                Some((JobId::from_bytes(id).ok()?, end_of(*letter).flatten()))
            });
            if let Some((id, state)) = ended.filter(|(id, _)| self.pending.contains(id)) {
                return (vec![id], state);
            }
        }
        (self.pending.iter().copied().collect(), None)
    }

    /// The next job that ended; `None` when all have.
    pub(crate) async fn next(&mut self, queue: &Queue) -> Option<Outcome> {
        loop {
            if let Some(outcome) = self.ended.pop() {
                return Some(outcome);
            }
            if self.pending.is_empty() {
                return None;
            }
            let (heard, told) = self.hear().await;
            match queue.look(&heard, true).await {
                Ok(outcomes) => {
                    let ended = outcomes.into_iter().filter(|outcome| self.pending.remove(&outcome.id));
                    // A job that is not kept leaves nothing to look at; then the news is all that is known of it.
                    self.ended.extend(ended.map(|outcome| Outcome { state: outcome.state.or(told), ..outcome }));
                }
                Err(error) => {
                    tracing::debug!(%error, "failed to look whether jobs have ended");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}
