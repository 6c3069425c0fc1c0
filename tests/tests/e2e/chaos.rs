//! The options of `scripts/chaos`; what it does belongs to its own crates.

use anyhow::{Result, ensure};
use oneiro_tests::{Spawn, project_root};

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_is_none_is_refused_before_anything_is_built() -> Result<()> {
    for minutes in ["0", "0.5", "05", "-1", "x", ""] {
        let fuzz = Spawn::new(project_root().join("scripts/chaos")).arg("fuzz").arg("--minutes").arg(minutes);
        let (code, out, errors) = fuzz.run().await?;
        ensure!(code == 64 && errors.contains("--minutes takes"), "{minutes}: {code}: {out}{errors}");
    }
    Ok(())
}
