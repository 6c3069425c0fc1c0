//! An original on its way into the store.

use super::StorageError;
use bytes::Bytes;
use object_store::buffered::BufWriter;
use tokio::io::AsyncWriteExt;

/// An upload under way. Dropped before [`Upload::finish`], it leaves nothing behind but what [`Upload::abort`] would have removed.
pub struct Upload {
    pub(super) writer: BufWriter,
}

impl Upload {
    /// Adds bytes; waits while the store is slower than the caller.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.writer.put(bytes).await.map_err(StorageError::Failed)
    }

    /// Makes the object visible and durable.
    ///
    /// # Errors
    /// [`StorageError::Failed`]: nothing is visible then.
    pub async fn finish(mut self) -> Result<(), StorageError> {
        self.writer.shutdown().await.map_err(|error| {
            StorageError::Failed(match error.downcast::<object_store::Error>() {
                Ok(error) => error,
                Err(error) => object_store::Error::Generic { store: "upload", source: Box::new(error) },
            })
        })
    }

    /// Throws away what was written.
    pub async fn abort(mut self) {
        if let Err(error) = self.writer.abort().await {
            tracing::warn!(%error, "an aborted upload left parts behind; the store's own clean-up has to remove them");
        }
    }
}
