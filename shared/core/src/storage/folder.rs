//! What a local folder has besides objects: files that a killed process was writing.

use super::{Storage, StorageError};
use object_store::path::Path;
use std::{
    io::{self, ErrorKind},
    time::Duration,
};

impl Storage {
    /// What a killed process was writing below a prefix of the local folder: files that no listing shows, under names of their own.
    pub(super) async fn delete_leftovers(&self, prefix: &Path) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        match tokio::fs::remove_dir_all(folder.join(prefix.as_ref())).await {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(error),
            _ => Ok(()),
        }
    }

    /// The same in a folder where others stay: `#` and a number stand behind the name of a file that is being written.
    pub(super) async fn delete_staged(&self, prefix: &Path, age: Duration) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let mut files = match tokio::fs::read_dir(folder.join(prefix.as_ref())).await {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            files => files?,
        };
        while let Some(file) = files.next_entry().await? {
            let name = file.file_name();
            let number = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
            let is_staged = number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
            if is_staged && file.metadata().await?.modified()?.elapsed().is_ok_and(|past| past > age) {
                tokio::fs::remove_file(file.path()).await?;
            }
        }
        Ok(())
    }
}

pub(super) fn failed(error: io::Error) -> StorageError {
    StorageError::Failed(object_store::Error::Generic { store: "folder", source: Box::new(error) })
}
