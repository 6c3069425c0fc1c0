//! Where the programs under test are, built from what is checked out now.

use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The checkout's root.
pub fn project_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the project")
}

/// The program `name` (`api`, `ws`, `worker`, `oneiro`) of the profile that the tests were built with.
///
/// The first call builds the programs, unless `scripts/test` says that it has: a test must never judge yesterday's program.
///
/// # Errors
/// When they do not build.
pub fn program(name: &str) -> Result<PathBuf> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOLDER.get_or_init(|| build().map_err(|error| format!("{error:#}"))) {
        Ok(folder) => Ok(folder.join(name)),
        Err(error) => bail!("{error}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "a word from scripts/test to the harness, no setting of the product")]
fn build() -> Result<PathBuf> {
    // This test binary is target/<profile>/deps/e2e-<hash>.
    let this = std::env::current_exe().context("failed to find the test binary")?;
    let folder = this.parent().and_then(Path::parent).context("the test binary is in no target folder")?.to_owned();
    if std::env::var_os("ONEIRO_TEST_BUILT").is_none() {
        // The same choice of targets as in scripts/test, so that no dependency is built twice with other features.
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--workspace", "--bins", "--test", "e2e"]).current_dir(project_root());
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.status().context("failed to run cargo")?;
        if !status.success() {
            bail!("the programs under test do not build");
        }
    }
    Ok(folder)
}
