//! The lists that a worker's sweep looks at: dreams that wait for an outcome, uploads under way, and variants that may come too late.

use super::{DreamId, DreamStore, StoreError};
use crate::clock;
use fred::{interfaces::SortedSetsInterface, types::FromValue};
use std::time::Duration;

impl DreamStore {
    /// Notes that originals are stored for a dream whose record does not name them yet, so that they are swept up should it never do so.
    /// Nobody ends it but the sweep: another addition to the same dream may be under way.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn begin_addition(&self, id: DreamId) -> Result<(), StoreError> {
        self.note(&self.uploading_key(), id.to_string()).await
    }

    /// Ends what [`DreamStore::begin`] began: the record is written, or nothing of the upload is left.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: then the sweep does it.
    pub async fn end_upload(&self, id: DreamId) -> Result<(), StoreError> {
        let () = self.client.zrem(self.uploading_key(), id.get()).await?;
        Ok(())
    }

    /// Up to `limit` ids whose upload began more than `age` ago.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn abandoned_uploads(&self, age: Duration, limit: i64) -> Result<Vec<DreamId>, StoreError> {
        Ok(dream_ids(self.older(&self.uploading_key(), age, limit).await?))
    }

    /// Notes that variants of an image are being removed while a job may still be storing some below `folder`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn note_removed(&self, id: DreamId, folder: &str) -> Result<(), StoreError> {
        self.note(&self.removed_key(), removed_entry(id, folder)).await
    }

    /// Up to `limit` dreams and folders that were noted so more than `age` ago.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn removed(&self, age: Duration, limit: i64) -> Result<Vec<(DreamId, String)>, StoreError> {
        let entries: Vec<String> = self.older(&self.removed_key(), age, limit).await?;
        let parsed = entries.iter().filter_map(|entry| {
            let (id, folder) = entry.split_once(' ')?;
            Some((DreamId::new(id.parse().ok()?)?, folder.to_owned()))
        });
        Ok(parsed.collect())
    }

    /// Nothing unwanted can be below the folder any more.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn forget_removed(&self, id: DreamId, folder: &str) -> Result<(), StoreError> {
        let () = self.client.zrem(self.removed_key(), removed_entry(id, folder)).await?;
        Ok(())
    }

    /// Up to `limit` dreams that wait for an outcome and have not moved for `idle`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn unsettled(&self, idle: Duration, limit: i64) -> Result<Vec<DreamId>, StoreError> {
        Ok(dream_ids(self.older(&self.unsettled_key(), idle, limit).await?))
    }

    async fn older<T: FromValue>(&self, key: &str, idle: Duration, limit: i64) -> Result<Vec<T>, StoreError> {
        let before = clock::unix_millis().saturating_sub(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX));
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are below 2^53")]
        Ok(self.client.zrangebyscore(key, f64::NEG_INFINITY, before as f64, false, Some((0, limit))).await?)
    }

    /// Notes that something was done about an unsettled dream: the sweep looks again only after a while.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn touch(&self, id: DreamId) -> Result<(), StoreError> {
        self.note(&self.unsettled_key(), id.to_string()).await
    }

    pub(super) async fn note(&self, key: &str, what: String) -> Result<(), StoreError> {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are below 2^53")]
        let entry = (clock::unix_millis() as f64, what);
        let () = self.client.zadd(key, None, None, false, false, vec![entry]).await?;
        Ok(())
    }

    /// Takes a dream off the unsettled ones, unless it has become one again meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Corrupt`].
    pub async fn forget_unsettled(&self, id: DreamId) -> Result<(), StoreError> {
        let () = self.client.zrem(self.unsettled_key(), id.get()).await?;
        // A retry may have entered it between our look at the record and the removal.
        match self.load(id).await? {
            Some(dream) if !dream.is_settled() => self.touch(id).await,
            _ => Ok(()),
        }
    }

    pub(super) fn uploading_key(&self) -> String {
        format!("{}:dreams:uploading", self.prefix)
    }

    fn removed_key(&self) -> String {
        format!("{}:media:removed", self.prefix)
    }

    fn unsettled_key(&self) -> String {
        format!("{}:dreams:unsettled", self.prefix)
    }
}

fn removed_entry(id: DreamId, folder: &str) -> String {
    format!("{id} {folder}")
}

fn dream_ids(ids: Vec<u64>) -> Vec<DreamId> {
    ids.into_iter().filter_map(DreamId::new).collect()
}
