//! Where the object store is: the storage URL.

use std::path::PathBuf;
use url::Url;

/// Why a storage URL is refused.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{url}` cannot be used: {reason}; examples: file:///var/lib/oneiro, file://./var/storage, memory:///, s3://bucket/prefix"
)]
pub struct StorageUrlError {
    url: String,
    reason: String,
}

impl StorageUrlError {
    pub(super) fn new(url: &str, reason: impl Into<String>) -> Self {
        Self { url: redact(url), reason: reason.into() }
    }
}

/// A parsed storage URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A folder of this machine.
    Folder(PathBuf),
    /// This process's memory: everything is gone when it ends, and no other process sees it.
    Memory,
    /// A cloud store.
    Cloud(Url),
}

/// Reads a storage URL. `file://./dir` and `file://dir` are relative to the working directory.
///
/// # Errors
/// Where the scheme is unknown or the URL malformed.
pub fn parse_url(text: &str) -> Result<Location, StorageUrlError> {
    let refuse = |reason: &str| StorageUrlError::new(text, reason);
    if text.starts_with("file:///") {
        let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
        return url.to_file_path().map(Location::Folder).map_err(|()| refuse("it names no folder"));
    }
    if let Some(path) = text.strip_prefix("file://") {
        return if path.is_empty() {
            Err(refuse("it names no folder"))
        } else {
            Ok(Location::Folder(PathBuf::from(path)))
        };
    }
    let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
    match url.scheme() {
        "memory" => Ok(Location::Memory),
        "s3" | "s3a" | "gs" | "az" | "azure" | "abfs" | "abfss" if url.host_str().is_some() => Ok(Location::Cloud(url)),
        "s3" | "s3a" | "gs" | "az" | "azure" | "abfs" | "abfss" => Err(refuse("it names no bucket")),
        other => Err(refuse(&format!("the scheme `{other}` is unknown"))),
    }
}

/// Credentials belong into the environment; should a URL carry them, no message repeats them.
fn redact(text: &str) -> String {
    match Url::parse(text) {
        Ok(mut url) if url.password().is_some() || !url.username().is_empty() => {
            // Both fail only for URLs that cannot have a user, which this branch excludes.
            let _ = url.set_password(None);
            let _ = url.set_username("");
            url.to_string()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_parsed_and_credentials_not_repeated() {
        assert_eq!(parse_url("file:///a b").unwrap(), Location::Folder("/a b".into()));
        assert_eq!(parse_url("file:///a%20b%23").unwrap(), Location::Folder("/a b#".into()));
        assert_eq!(parse_url("file://./var/storage").unwrap(), Location::Folder("./var/storage".into()));
        assert_eq!(parse_url("memory:///").unwrap(), Location::Memory);
        assert!(matches!(parse_url("s3://bucket/prefix").unwrap(), Location::Cloud(_)));
        for bad in ["", "file://", "ftp://user:pw@x/", "s3://", "/plain/path"] {
            let error = parse_url(bad).unwrap_err().to_string();
            assert!(!error.contains("pw"), "{error}");
        }
    }
}
