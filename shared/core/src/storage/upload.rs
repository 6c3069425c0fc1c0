//! An original on its way into the store.

use super::StorageError;
use bytes::Bytes;
use object_store::buffered::BufWriter;
use tokio::io::AsyncWriteExt;

/// An upload under way. Dropped before [`Upload::finish`], as where the client hangs up, it leaves nothing behind but what
/// [`Upload::abort`] would not have removed either.
pub struct Upload {
    /// Until it is finished or aborted.
    writer: Option<BufWriter>,
}

impl Upload {
    pub(super) fn new(writer: BufWriter) -> Self {
        Self { writer: Some(writer) }
    }

    /// Adds bytes; waits while the store is slower than the caller.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        let writer = self.writer.as_mut().expect("only methods that consume the upload take it");
        writer.put(bytes).await.map_err(StorageError::Failed)
    }

    /// Makes the object visible and durable.
    ///
    /// # Errors
    /// [`StorageError::Failed`]: nothing is visible then.
    pub async fn finish(mut self) -> Result<(), StorageError> {
        // From here on there is no way to abort.
        let mut writer = self.writer.take().expect("only methods that consume the upload take it");
        writer.shutdown().await.map_err(|error| {
            StorageError::Failed(match error.downcast::<object_store::Error>() {
                Ok(error) => error,
                Err(error) => object_store::Error::Generic { store: "upload", source: Box::new(error) },
            })
        })
    }

    /// Throws away what was written.
    pub async fn abort(mut self) {
        if let Some(writer) = self.writer.take() {
            abort(writer).await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Outside a runtime the process is about to end, and nothing can be told to the store any more.
        if let (Some(writer), Ok(runtime)) = (self.writer.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(abort(writer));
        }
    }
}

async fn abort(mut writer: BufWriter) {
    if let Err(error) = writer.abort().await {
        tracing::warn!(%error, "an aborted upload left parts behind; the store's own clean-up has to remove them");
    }
}
