//! The object store behind one type: originals in, variants out, by key. A local folder, memory, S3, Google Cloud Storage or Azure.

use crate::config::StorageConfig;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutOptions, PutPayload,
    buffered::BufWriter, local::LocalFileSystem, memory::InMemory, path::Path, prefix::PrefixStore,
};
use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

mod folder;
mod location;
mod upload;

pub use location::{Location, StorageUrlError, parse_url};
pub use upload::Upload;

/// Variants never change under their key, so browsers and proxies may keep them for a year.
pub const IMMUTABLE: &str = "public, max-age=31536000, immutable";

/// Bytes buffered for one upload to a cloud store before it becomes a multipart one; S3 wants parts of 5 MB or more.
const CLOUD_PART_BYTES: usize = 5 * 1024 * 1024;
/// The same for a local folder, where a part is a write to a file and a larger one brings nothing.
const LOCAL_PART_BYTES: usize = 128 * 1024;
/// Parts of one upload on their way to the store; with the size of a part the most memory that an upload takes.
const PARTS_AT_ONCE: usize = 2;

/// Why an object could not be stored or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// There is no such object.
    #[error("there is no object `{0}`")]
    NotFound(String),
    /// The key is not one.
    #[error("`{0}` is not an object key")]
    BadKey(String),
    /// The range is outside of the object.
    #[error("the range is outside of the object")]
    BadRange,
    /// The object is larger than the caller allows.
    #[error("the object has {size} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The store did not do it: full disk, no network, no permission. Trying again later may help.
    #[error("the object store failed")]
    Failed(#[source] object_store::Error),
    /// The store did not do it in time. Trying again later may help.
    #[error("the object store did not answer within {0:?}")]
    TooSlow(Duration),
}

/// Metadata of a stored object.
#[derive(Debug, Clone)]
pub struct ObjectInfo {
    /// Size in bytes.
    pub size: u64,
    /// Changes when the object does.
    pub etag: Option<String>,
    /// Media type it was stored with, where the store keeps one.
    pub content_type: Option<String>,
}

/// An object being read.
pub struct Download {
    /// Of the whole object.
    pub info: ObjectInfo,
    /// Bytes from where to where (exclusive) the stream gives.
    pub range: std::ops::Range<u64>,
    /// The bytes.
    pub stream: BoxStream<'static, Result<Bytes, StorageError>>,
}

/// The object store. Cheap to clone.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    /// Where the store is a local folder. It has nowhere to keep attributes and refuses to store them.
    folder: Option<PathBuf>,
    media_base: String,
}

impl Storage {
    /// Opens the store; a local folder is created where it is missing. Cloud credentials come from the environment names of each
    /// provider (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, ...).
    ///
    /// # Errors
    /// A sentence that says what is wrong with the URL, the folder or the credentials.
    pub fn open(config: &StorageConfig) -> Result<Self, StorageUrlError> {
        let refuse = |reason: String| StorageUrlError::new(&config.url, reason);
        let location = parse_url(&config.url)?;
        let folder = match &location {
            Location::Folder(dir) => Some(dir.clone()),
            Location::Memory | Location::Cloud(_) => None,
        };
        let store: Arc<dyn ObjectStore> = match location {
            Location::Memory => Arc::new(InMemory::new()),
            Location::Folder(dir) => {
                std::fs::create_dir_all(&dir).map_err(|error| refuse(format!("cannot create the folder: {error}")))?;
                let local = LocalFileSystem::new_with_prefix(&dir).map_err(|error| refuse(error.to_string()))?;
                Arc::new(local.with_automatic_cleanup(true).with_fsync(config.fsync))
            }
            Location::Cloud(url) => {
                let (store, prefix) = object_store::parse_url_opts(&url, provider_settings())
                    .map_err(|error| refuse(error.to_string()))?;
                if prefix.as_ref().is_empty() { Arc::from(store) } else { Arc::new(PrefixStore::new(store, prefix)) }
            }
        };
        let base = config.public_media_url.trim_end_matches('/');
        let media_base = if base.is_empty() { "/media".to_owned() } else { base.to_owned() };
        Ok(Self { store, folder, media_base })
    }

    /// The URL under which browsers fetch a variant.
    pub fn media_url(&self, key: &str) -> String {
        format!("{}/{}", self.media_base, key.strip_prefix("media/").unwrap_or(key))
    }

    /// Starts an upload of unknown length. Nothing is visible under the key before [`Upload::finish`].
    ///
    /// # Errors
    /// [`StorageError::BadKey`].
    pub fn upload(&self, key: &str, content_type: &str) -> Result<Upload, StorageError> {
        let part_bytes = if self.folder.is_some() { LOCAL_PART_BYTES } else { CLOUD_PART_BYTES };
        let writer = BufWriter::with_capacity(self.store.clone(), parse_key(key)?, part_bytes)
            .with_max_concurrency(PARTS_AT_ONCE)
            .with_attributes(self.attributes(content_type, false));
        Ok(Upload::new(writer))
    }

    /// Stores a variant whole; it replaces what was there.
    ///
    /// # Errors
    /// [`StorageError::Failed`] where the store did not take it.
    pub async fn put_variant(&self, key: &str, bytes: Bytes, content_type: &str) -> Result<(), StorageError> {
        let options = PutOptions { attributes: self.attributes(content_type, true), ..PutOptions::default() };
        self.store
            .put_opts(&parse_key(key)?, PutPayload::from_bytes(bytes), options)
            .await
            .map_err(|error| failed(key, error))?;
        Ok(())
    }

    /// Reads an object whole.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], [`StorageError::TooLarge`] before anything is read, [`StorageError::Failed`].
    pub async fn read(&self, key: &str, limit: u64) -> Result<Bytes, StorageError> {
        let found = self.store.get(&parse_key(key)?).await.map_err(|error| failed(key, error))?;
        if found.meta.size > limit {
            return Err(StorageError::TooLarge { size: found.meta.size, limit });
        }
        found.bytes().await.map_err(|error| failed(key, error))
    }

    /// Opens an object, or a part of it, for streaming.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], [`StorageError::BadRange`], [`StorageError::Failed`].
    pub async fn download(&self, key: &str, range: Option<GetRange>) -> Result<Download, StorageError> {
        let wanted = range.clone();
        let options = GetOptions { range, ..GetOptions::default() };
        let path = parse_key(key)?;
        let found = match self.store.get_opts(&path, options).await.map_err(|error| failed(key, error)) {
            Ok(found) => found,
            // The stores report an unsatisfiable range as a failure like any other; the object's size tells them apart.
            Err(error @ StorageError::Failed(_)) => {
                let meta = self.store.head(&path).await.map_err(|error| failed(key, error))?;
                return Err(if beyond(wanted.as_ref(), meta.size) { StorageError::BadRange } else { error });
            }
            Err(error) => return Err(error),
        };
        let info = ObjectInfo {
            size: found.meta.size,
            etag: found.meta.e_tag.clone(),
            content_type: found.attributes.get(&Attribute::ContentType).map(|value| value.to_string()),
        };
        let range = found.range.clone();
        let name = key.to_owned();
        let stream = found.into_stream().map_err(move |error| failed(&name, error)).boxed();
        Ok(Download { info, range, stream })
    }

    /// Deletes an object; one that is not there counts as deleted.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    pub async fn delete(&self, key: &str) -> Result<(), StorageError> {
        match self.store.delete(&parse_key(key)?).await.map_err(|error| failed(key, error)) {
            Ok(()) | Err(StorageError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes every object below a prefix (`media/1-ab`), and says how many there were. Running it again is harmless.
    ///
    /// # Errors
    /// [`StorageError::Failed`] at the first object that resists.
    pub async fn delete_prefix(&self, prefix: &str) -> Result<u64, StorageError> {
        let deleted = self.delete_listed(prefix, |_| true).await?;
        self.delete_leftovers(&parse_key(prefix)?).await.map_err(folder::failed)?;
        Ok(deleted)
    }

    /// Deletes the objects below a prefix that were last written more than `age` ago and that `is_kept` does not want, and says how many.
    ///
    /// # Errors
    /// [`StorageError::Failed`] at the first object that resists.
    pub async fn delete_older(
        &self,
        prefix: &str,
        age: Duration,
        is_kept: impl Fn(&str) -> bool,
    ) -> Result<u64, StorageError> {
        let now = SystemTime::now();
        let is_old = |meta: &ObjectMeta| now.duration_since(meta.last_modified.into()).is_ok_and(|past| past > age);
        let deleted = self.delete_listed(prefix, |meta| is_old(meta) && !is_kept(meta.location.as_ref())).await?;
        self.delete_staged(&parse_key(prefix)?, age).await.map_err(folder::failed)?;
        Ok(deleted)
    }

    async fn delete_listed(
        &self,
        prefix: &str,
        is_unwanted: impl Fn(&ObjectMeta) -> bool,
    ) -> Result<u64, StorageError> {
        let keys: Vec<Path> = self
            .store
            .list(Some(&parse_key(prefix)?))
            .try_filter(|meta| std::future::ready(is_unwanted(meta)))
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .map_err(|error| failed(prefix, error))?;
        for key in &keys {
            self.delete(key.as_ref()).await?;
        }
        Ok(keys.len() as u64)
    }

    /// Whether the store takes and gives back a small object: what readiness asks.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    pub async fn check(&self) -> Result<(), StorageError> {
        let key = Path::from("health/probe");
        self.store.put(&key, PutPayload::from_static(b"ok")).await.map_err(StorageError::Failed)?;
        Ok(())
    }

    fn attributes(&self, content_type: &str, is_immutable: bool) -> Attributes {
        let mut attributes = Attributes::new();
        if self.folder.is_none() {
            attributes.insert(Attribute::ContentType, content_type.to_owned().into());
            if is_immutable {
                attributes.insert(Attribute::CacheControl, IMMUTABLE.into());
            }
        }
        attributes
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Storage({})", self.store)
    }
}

fn parse_key(key: &str) -> Result<Path, StorageError> {
    Path::parse(key).map_err(|_| StorageError::BadKey(key.to_owned()))
}

/// Whether no byte of an object of `size` bytes lies in the range.
fn beyond(range: Option<&GetRange>, size: u64) -> bool {
    match range {
        Some(GetRange::Bounded(range)) => range.start >= size,
        Some(GetRange::Offset(start)) => *start >= size,
        Some(GetRange::Suffix(_)) => size == 0,
        None => false,
    }
}

/// What the environment says for a cloud provider, by the names that the providers' own tools read. The stores would take others, too: a
/// `TOKEN`, an `ENDPOINT` or a `TIMEOUT` that is meant for another program.
#[expect(clippy::disallowed_methods, reason = "the providers define these environment names, not our configuration")]
fn provider_settings() -> impl Iterator<Item = (String, String)> {
    const PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];
    // That of Azure's managed identities, and of Google's key file.
    const NAMES: [&str; 2] = ["IDENTITY_ENDPOINT", "SERVICE_ACCOUNT"];
    std::env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        let is_theirs = PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name.as_str());
        is_theirs.then(|| (name.to_ascii_lowercase(), value))
    })
}

/// Whether a folder's file system says that there can be no such file: a name that is too long, or one below a file.
fn cannot_be(error: &object_store::Error) -> bool {
    let object_store::Error::Generic { source, .. } = error else { return false };
    let causes = std::iter::successors(Some(&**source as &(dyn std::error::Error + 'static)), |cause| cause.source());
    causes
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| matches!(error.kind(), ErrorKind::NotADirectory | ErrorKind::InvalidFilename))
}

fn failed(key: &str, error: object_store::Error) -> StorageError {
    match error {
        object_store::Error::NotFound { .. } => StorageError::NotFound(key.to_owned()),
        error if cannot_be(&error) => StorageError::NotFound(key.to_owned()),
        other => StorageError::Failed(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(dir: &std::path::Path) -> Storage {
        let url = format!("file://{}", dir.display());
        Storage::open(&StorageConfig { url, public_media_url: String::new(), fsync: false }).unwrap()
    }

    #[tokio::test]
    async fn an_upload_is_invisible_until_it_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let storage = local(dir.path());
        let mut upload = storage.upload("originals/1/2", "image/jpeg").unwrap();
        upload.write(Bytes::from(vec![7; LOCAL_PART_BYTES + 1])).await.unwrap();
        assert!(matches!(storage.read("originals/1/2", 1 << 30).await, Err(StorageError::NotFound(_))));
        upload.finish().await.unwrap();
        assert_eq!(storage.read("originals/1/2", 1 << 30).await.unwrap().len(), LOCAL_PART_BYTES + 1);
        assert!(matches!(storage.read("originals/1/2", 10).await, Err(StorageError::TooLarge { limit: 10, .. })));
    }

    #[tokio::test]
    async fn what_no_file_can_be_called_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let storage = local(dir.path());
        storage.put_variant("media/1-a/x.jpg", Bytes::from_static(b"x"), "image/jpeg").await.unwrap();
        for key in ["media/1-a/x.jpg/below.jpg".to_owned(), format!("media/{}.jpg", "a".repeat(260))] {
            for range in [None, Some(GetRange::Offset(1))] {
                let found = storage.download(&key, range).await.map(drop);
                assert!(matches!(found, Err(StorageError::NotFound(_))), "{key}: {found:?}");
            }
        }
    }

    #[tokio::test]
    async fn deleting_twice_is_harmless_and_a_prefix_takes_all_below_it_only() {
        let dir = tempfile::tempdir().unwrap();
        let storage = local(dir.path());
        for key in ["media/1-a/x/large.jpg", "media/1-a/x/small.jpg", "media/1-ab/x/small.jpg"] {
            storage.put_variant(key, Bytes::from_static(b"x"), "image/jpeg").await.unwrap();
        }
        assert_eq!(storage.delete_prefix("media/1-a").await.unwrap(), 2);
        assert_eq!(storage.delete_prefix("media/1-a").await.unwrap(), 0);
        assert!(storage.read("media/1-ab/x/small.jpg", 10).await.is_ok());
        storage.delete("media/1-ab/x/small.jpg").await.unwrap();
        storage.delete("media/1-ab/x/small.jpg").await.unwrap();
    }

    #[tokio::test]
    async fn only_what_is_old_and_not_wanted_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let storage = local(dir.path());
        for key in ["originals/1/2-a", "originals/1/3-b", "originals/1/4-c", "originals/12/5-d"] {
            storage.put_variant(key, Bytes::from_static(b"x"), "image/jpeg").await.unwrap();
        }
        for key in ["originals/1/2-a", "originals/1/3-b", "originals/12/5-d"] {
            let file = std::fs::File::options().write(true).open(dir.path().join(key)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
        }
        // What a killed process was writing, and what one is writing now.
        for (name, age) in [("6-e#1", 7200), ("7-f#12", 10)] {
            let file = std::fs::File::create(dir.path().join("originals/1").join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        let hour = Duration::from_secs(3600);
        assert_eq!(storage.delete_older("originals/1", hour, |key| key == "originals/1/2-a").await.unwrap(), 1);
        let is_there = |name: &str| dir.path().join("originals/1").join(name).exists();
        assert_eq!(["6-e#1", "7-f#12"].map(is_there), [false, true]);
        for (key, is_there) in [("1/2-a", true), ("1/3-b", false), ("1/4-c", true), ("12/5-d", true)] {
            assert_eq!(storage.read(&format!("originals/{key}"), 10).await.is_ok(), is_there, "{key}");
        }
    }

    #[tokio::test]
    async fn what_a_killed_process_was_writing_goes_with_its_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let storage = local(dir.path());
        let mut upload = storage.upload("originals/1/2-ab", "image/jpeg").unwrap();
        upload.write(Bytes::from(vec![7; 2 * LOCAL_PART_BYTES])).await.unwrap();
        upload.write(Bytes::from(vec![7; 2 * LOCAL_PART_BYTES])).await.unwrap();
        // As a kill does: nothing cleans up.
        std::mem::forget(upload);
        let staged = || std::fs::read_dir(dir.path().join("originals/1")).map_or(0, Iterator::count);
        assert_eq!(staged(), 1);
        assert_eq!(storage.delete_prefix("originals/1").await.unwrap(), 0, "no object was ever there");
        assert_eq!(staged(), 0);
    }

    #[tokio::test]
    async fn keys_that_climb_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let storage = local(dir.path());
        for key in ["../x", "media/../../etc/passwd", "a//b", "media/./x"] {
            assert!(storage.download(key, None).await.is_err(), "{key}");
        }
    }

    #[tokio::test]
    async fn ranges_are_read_and_impossible_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let storage = local(dir.path());
        storage.put_variant("media/a", Bytes::from_static(b"0123456789"), "x/y").await.unwrap();
        let part = storage.download("media/a", Some(GetRange::Bounded(2..5))).await.unwrap();
        assert_eq!((part.range.clone(), part.info.size), (2..5, 10));
        let bytes: Vec<Bytes> = part.stream.try_collect().await.unwrap();
        assert_eq!(bytes.concat(), b"234");
        assert!(matches!(storage.download("media/a", Some(GetRange::Offset(10))).await, Err(StorageError::BadRange)));
    }
}
