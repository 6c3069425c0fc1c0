//! Where dreams live: one document a dream on its channel, an index per user, and an index of dreams that wait for an outcome.
//!
//! | key | type | holds | lifetime |
//! |---|---|---|---|
//! | the document of channel `dream_images_{id}` | see `oneiro_events` | the record as JSON | until deleted, then a tombstone for `dreams.tombstone_seconds` |
//! | `{prefix}:user:{user}:dreams` | sorted set, score = id | the user's dreams | with the dreams |
//! | `{prefix}:dreams:unsettled` | sorted set, score = ms of the last move | dreams that a sweep has to look at if nothing moves | until settled |
//! | `{prefix}:dreams:uploading` | sorted set, score = ms of the start | dreams that originals are stored for before their record names them | until a new record is written; else until the sweep has looked |
//! | `{prefix}:media:removed` | sorted set, score = ms of the removal | dream and folder of images that were deleted before their job had ended | an hour and until the sweep has looked |
//! | `{prefix}:dream_id`, `{prefix}:image_id` | counter | the last id given | for ever |
//!
//! A crash between two of these writes leaves nothing stuck: an id is in `uploading` while its originals are stored, the dream enters
//! `unsettled` before its record is written and leaves it after its terminal event is published, so whatever was interrupted is found
//! by the worker's sweep.

mod lists;

use super::{DeletionState, Dream, DreamId, ImageId, ImageUpdate};
use crate::{auth::UserId, clock, config::DreamsConfig, storage::Storage};
use fred::{
    clients::Client,
    interfaces::{KeysInterface, SortedSetsInterface},
};
use futures::{StreamExt, TryStreamExt, stream};
use oneiro_events::{Broker, Commit, EventError, Position};
use std::time::Duration;

/// A change that meets this many other writers in a row gives up. Writers of one dream are its images' workers, a handful.
const MAX_CONFLICTS: u32 = 200;
/// Times that a page is filled up: sixteen entries at a time, of which some may have no record.
const MAX_PAGE_READS: u32 = 40;
/// Documents of one page that are read at once.
const READS_AT_ONCE: usize = 16;
/// A page ends with the record with which it gets this large, in bytes: the longest contents are 800 KB, and hundreds of pages are made at once.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Redis did not answer, or refused.
    #[error("the record store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A record does not parse: written by a newer version, or damaged.
    #[error("the record of dream {id} cannot be read")]
    Corrupt {
        /// Whose.
        id: DreamId,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// There is no such dream.
    #[error("there is no dream {0}")]
    NotFound(DreamId),
    /// Too many others changed it at the same time.
    #[error("dream {0} is changed by too many writers at once")]
    Busy(DreamId),
}

impl From<EventError> for StoreError {
    fn from(error: EventError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

impl From<fred::error::Error> for StoreError {
    fn from(error: fred::error::Error) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// What a change of a record amounts to.
#[derive(Debug)]
pub enum Change<T> {
    /// Nothing is written.
    Keep(T),
    /// The record is replaced; clients are not told.
    Save(T),
    /// The record is replaced with its state derived anew and its version raised, and the event is published, in one step.
    Announce(T),
}

/// A page of a user's dreams.
#[derive(Debug)]
pub struct DreamPage {
    /// Newest first.
    pub dreams: Vec<Dream>,
    /// Where the next page begins, `None` at the end.
    pub next: Option<DreamId>,
}

/// The dreams. Cheap to clone.
#[derive(Clone)]
pub struct DreamStore {
    broker: Broker,
    client: Client,
    storage: Storage,
    prefix: String,
    tombstone: Duration,
}

impl DreamStore {
    /// Opens the store on a connected client; `storage` only turns object keys into URLs here.
    pub fn new(broker: Broker, client: Client, storage: Storage, key_prefix: &str, config: &DreamsConfig) -> Self {
        Self { broker, client, storage, prefix: key_prefix.to_owned(), tombstone: config.tombstone() }
    }

    /// Takes a new dream id and notes it as uploading, so that what is stored for it is swept up should its record never come.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn begin(&self) -> Result<DreamId, StoreError> {
        let id = self.next_id("dream_id").await?;
        let id = DreamId::new(id).expect("a counter does not reach 2^53");
        self.note(&self.uploading_key(), id.to_string()).await?;
        Ok(id)
    }

    /// Takes a new image id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn next_image_id(&self) -> Result<ImageId, StoreError> {
        Ok(ImageId::new(self.next_id("image_id").await?).expect("a counter does not reach 2^53"))
    }

    /// Writes a new record and publishes its first event in one step.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]. The record may be there all the same, if it was only the answer that got lost.
    pub async fn create(&self, dream: &Dream) -> Result<(), StoreError> {
        let body = encode(dream);
        let event = self.event(dream);
        let commit = Commit { expected: None, body: Some(&body), event: Some(&event), expire_after: None };
        self.touch(dream.id).await?;
        match self.broker.commit(&dream.id.channel(), commit).await {
            Ok(_) => {}
            // Ours, if the command was sent again after a connection broke; somebody else's, if Redis lost the counter.
            Err(EventError::Conflict { .. }) => {
                let there = self.load(dream.id).await?;
                if there.is_none_or(|there| !there.is_of_upload(dream)) {
                    return Err(StoreError::Busy(dream.id));
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.end_upload(dream.id).await
    }

    /// Puts the dream on its owner's list. Done before the record is written: lists skip what is not there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn enlist(&self, dream: &Dream) -> Result<(), StoreError> {
        #[expect(clippy::cast_precision_loss, reason = "ids are below 2^53")]
        let entry = (dream.id.get() as f64, dream.id.get());
        let () = self.client.zadd(self.user_key(&dream.owner), None, None, false, false, vec![entry]).await?;
        Ok(())
    }

    /// Reads a record; a tombstone is one too (see [`Dream::is_deleted`]).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn load(&self, id: DreamId) -> Result<Option<Dream>, StoreError> {
        Ok(self.load_sized(id).await?.map(|(dream, _)| dream))
    }

    /// A record, and how many bytes it has.
    async fn load_sized(&self, id: DreamId) -> Result<Option<(Dream, usize)>, StoreError> {
        let document = self.broker.document(&id.channel()).await?;
        document.map(|document| Ok((decode(id, &document.body)?, document.body.len()))).transpose()
    }

    /// Reads a record and the position of its channel's last event in one step.
    ///
    /// # Errors
    /// As [`DreamStore::load`].
    pub async fn snapshot(&self, id: DreamId) -> Result<(Option<Dream>, Position), StoreError> {
        let (document, position) = self.broker.snapshot(&id.channel()).await?;
        let dream = document.map(|document| decode(id, &document.body)).transpose()?;
        Ok((dream, position))
    }

    /// The newest `limit` dreams of a user whose id is below `before`; fewer where their records are large (4 MiB together): `next` tells where
    /// to go on.
    ///
    /// # Errors
    /// As [`DreamStore::load`].
    pub async fn list(&self, owner: &UserId, limit: usize, before: Option<DreamId>) -> Result<DreamPage, StoreError> {
        let mut page = DreamPage { dreams: Vec::new(), next: before };
        let mut bytes = 0;
        // Ids without a record, left by an outage between the two writes, are read over: a page that comes short would look like the last.
        for _ in 0..MAX_PAGE_READS {
            let wanted = (limit - page.dreams.len()).min(READS_AT_ONCE);
            let (found, next) = self.list_entries(owner, wanted, page.next).await?;
            page.next = next;
            let mut found = found.into_iter().peekable();
            while let Some((dream, size)) = found.next() {
                bytes += size;
                let id = dream.id;
                page.dreams.push(dream);
                if bytes >= PAGE_BYTES && (found.peek().is_some() || next.is_some()) {
                    page.next = Some(id);
                    return Ok(page);
                }
            }
            if page.dreams.len() >= limit || next.is_none() {
                break;
            }
        }
        Ok(page)
    }

    /// What is left of the next `limit` entries of an owner's list, each with its record's size, and where to go on.
    async fn list_entries(
        &self,
        owner: &UserId,
        limit: usize,
        before: Option<DreamId>,
    ) -> Result<(Vec<(Dream, usize)>, Option<DreamId>), StoreError> {
        let top = before.map_or_else(|| "+inf".to_owned(), |id| format!("({id}"));
        // One more than asked for tells whether there is a next page.
        let window = i64::try_from(limit).unwrap_or(i64::MAX - 1).saturating_add(1);
        let mut ids: Vec<u64> =
            self.client.zrevrangebyscore(self.user_key(owner), top, "-inf", false, Some((0, window))).await?;
        let more = ids.len() > limit;
        ids.truncate(limit);
        let ids: Vec<DreamId> = ids.into_iter().filter_map(DreamId::new).collect();
        let next = if more { ids.last().copied() } else { None };
        let found: Vec<Option<(Dream, usize)>> =
            stream::iter(ids).map(|id| self.load_sized(id)).buffered(READS_AT_ONCE).try_collect().await?;
        let is_theirs = |(dream, _): &(Dream, usize)| !dream.is_deleted() && dream.owner == *owner;
        Ok((found.into_iter().flatten().filter(is_theirs).collect(), next))
    }

    /// Changes a record: reads it, lets `change` decide, writes it unless somebody else did meanwhile, then begins again.
    ///
    /// `change` may run several times, each time on a fresh record.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Busy`], and as [`DreamStore::load`].
    pub async fn change<T>(
        &self,
        id: DreamId,
        mut change: impl FnMut(&mut Dream) -> Change<T>,
    ) -> Result<(Dream, T), StoreError> {
        let channel = id.channel();
        for _ in 0..MAX_CONFLICTS {
            let document = self.broker.document(&channel).await?.ok_or(StoreError::NotFound(id))?;
            let mut dream = decode(id, &document.body)?;
            let (outcome, event) = match change(&mut dream) {
                Change::Keep(outcome) => return Ok((dream, outcome)),
                Change::Save(outcome) => (outcome, None),
                Change::Announce(outcome) => {
                    dream.status = dream.derived_status();
                    dream.status_at = clock::unix_seconds();
                    dream.version += 1;
                    (outcome, Some(self.event(&dream)))
                }
            };
            let body = encode(&dream);
            let commit = Commit {
                expected: Some(document.revision),
                body: Some(&body),
                event: event.as_deref(),
                expire_after: dream.is_deleted().then_some(self.tombstone),
            };
            // An announced wait for an outcome is noted before it begins, an announced outcome is struck off after it is told.
            if event.is_some() && !dream.is_settled() {
                self.touch(id).await?;
            }
            match self.broker.commit(&channel, commit).await {
                Ok(_) => {
                    if event.is_some() && dream.is_settled() {
                        self.strike_off(&dream).await;
                    } else if event.is_some() {
                        // Whoever settled it a moment ago may have struck it off between our note and our commit. Not noted again, it is
                        // lost to the sweep only, which nobody needs while its jobs arrive.
                        if let Err(error) = self.touch(id).await {
                            tracing::debug!(dream.id = id.get(), %error, "a dream may be missing from the sweep's list");
                        }
                    }
                    return Ok((dream, outcome));
                }
                Err(EventError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Busy(id))
    }

    /// Notes in the record which jobs work on its images: `(image, generation, job)`.
    ///
    /// # Errors
    /// As [`DreamStore::change`].
    pub async fn note_jobs(&self, id: DreamId, jobs: &[(ImageId, u32, String)]) -> Result<(), StoreError> {
        self.change(id, |dream| {
            for (id, generation, job) in jobs {
                if let Some(image) = dream.images.iter_mut().find(|i| i.id == *id && i.generation == *generation) {
                    image.job = Some(job.clone());
                }
            }
            Change::Save(())
        })
        .await
        .map(drop)
    }

    /// Notes in the record which job carries out its deletion.
    ///
    /// # Errors
    /// As [`DreamStore::change`].
    pub async fn note_delete_job(&self, id: DreamId, job: &str) -> Result<(), StoreError> {
        self.change(id, |dream| match &mut dream.deletion {
            Some(deletion) if deletion.state == DeletionState::Processing => {
                deletion.job = Some(job.to_owned());
                Change::Save(())
            }
            _ => Change::Keep(()),
        })
        .await
        .map(drop)
    }

    /// Publishes an event that is not kept: late clients do not need it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn publish_transient(&self, id: DreamId, event: &serde_json::Value) -> Result<(), StoreError> {
        self.broker.notify(&id.channel(), event.to_string().as_bytes()).await?;
        Ok(())
    }

    /// Lets one process at a time do what `name` says: `true` for the one that may, for `lease` from now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn take_turn(&self, name: &str, lease: Duration) -> Result<bool, StoreError> {
        let key = format!("{}:turn:{name}", self.prefix);
        let expire = fred::types::Expiration::PX(i64::try_from(lease.as_millis()).unwrap_or(i64::MAX));
        let taken: Option<String> =
            self.client.set(key, "taken", Some(expire), Some(fred::types::SetOptions::NX), false).await?;
        Ok(taken.is_some())
    }

    /// Counts one call of `who` in the present minute: `Ok(None)` below `limit`, else how long to wait.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn count_call(&self, who: &UserId, limit: u64) -> Result<Option<Duration>, StoreError> {
        const WINDOW_SECONDS: u64 = 60;
        if limit == 0 {
            return Ok(None);
        }
        let now = clock::unix_millis() / 1000;
        let key = format!("{}:rate:{who}:{}", self.prefix, now / WINDOW_SECONDS);
        let calls: u64 = self.client.incr(&key).await?;
        let () = self.client.expire(&key, 2 * WINDOW_SECONDS as i64, None).await?;
        Ok((calls > limit).then(|| Duration::from_secs(WINDOW_SECONDS - now % WINDOW_SECONDS)))
    }

    /// The event that tells a record's present state.
    pub fn latest_update(&self, dream: &Dream) -> ImageUpdate {
        dream.update(&|key| self.storage.media_url(key))
    }

    /// The REST body of a record.
    pub fn view(&self, dream: &Dream) -> super::DreamView {
        dream.view(&|key| self.storage.media_url(key))
    }

    /// After a terminal event. Failing here costs the sweep a look, nothing else.
    async fn strike_off(&self, dream: &Dream) {
        if let Err(error) = self.forget_unsettled(dream.id).await {
            tracing::debug!(dream.id = dream.id.get(), %error, "a settled dream stays on the sweep's list");
        }
        if dream.is_deleted() {
            let removed: Result<(), fred::error::Error> =
                self.client.zrem(self.user_key(&dream.owner), dream.id.get()).await;
            if let Err(error) = removed {
                tracing::debug!(dream.id = dream.id.get(), %error, "a deleted dream stays in its owner's index, where lists skip it");
            }
        }
    }

    fn event(&self, dream: &Dream) -> Vec<u8> {
        serde_json::to_vec(&self.latest_update(dream)).expect("an event has only strings as map keys")
    }

    async fn next_id(&self, counter: &str) -> Result<u64, StoreError> {
        Ok(self.client.incr(format!("{}:{counter}", self.prefix)).await?)
    }

    fn user_key(&self, owner: &UserId) -> String {
        format!("{}:user:{owner}:dreams", self.prefix)
    }
}

fn encode(dream: &Dream) -> Vec<u8> {
    serde_json::to_vec(dream).expect("a record has only strings as map keys")
}

fn decode(id: DreamId, body: &[u8]) -> Result<Dream, StoreError> {
    serde_json::from_slice(body).map_err(|source| StoreError::Corrupt { id, source })
}
