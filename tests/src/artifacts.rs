//! What a test leaves to look at: logs and screenshots.

use crate::project_root;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The folder `tests/artifacts/<test>/`, emptied when the test starts.
#[derive(Debug, Clone)]
pub struct Artifacts {
    folder: PathBuf,
}

impl Artifacts {
    /// The folder of the test that runs on this thread.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn of_this_test() -> Result<Self> {
        // The test runner names each test's thread after the test.
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").replace("::", "-");
        let folder = project_root().join("tests/artifacts").join(name);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("failed to empty the artifacts folder");
            }
            _ => {}
        }
        std::fs::create_dir_all(&folder).context("failed to make the artifacts folder")?;
        Ok(Self { folder })
    }

    /// Where the file `name` goes.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}
