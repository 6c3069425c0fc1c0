//! The TypeScript client, on Node.js, against the real servers.

use anyhow::{Context, Result, ensure};
use oneiro_tests::{Oneiro, Spawn, Tier, project_root, token};
use serde_json::json;

/// Runs a program of Node's in `web/`.
async fn node(spawn: Spawn) -> Result<String> {
    let (code, out, err) = spawn.run().await.context("Node.js runs (scripts/setup --tests installs it)")?;
    ensure!(code == 0, "ended with {code}:\n{out}\n{err}");
    Ok(out)
}

/// Builds the client and what drives it from what is checked out now.
async fn build() -> Result<()> {
    let web = project_root().join("web");
    let npm = |args: &[&str]| {
        let spawn = Spawn::new("npm").arg("--prefix").arg(web.display().to_string());
        args.iter().fold(spawn, |spawn, arg| spawn.arg(*arg))
    };
    if !web.join("node_modules/.package-lock.json").exists() {
        node(npm(&["ci", "--no-audit", "--no-fund"])).await?;
    }
    node(npm(&["run", "lib"])).await?;
    node(npm(&["exec", "--", "tsc", "-p", &web.display().to_string()])).await?;
    Ok(())
}

/// Runs `web/test/against-server.ts` with an installation of its own.
async fn drive(tier: Tier) -> Result<()> {
    let builder = Oneiro::builder().workers(0).env("ONEIRO_REALTIME_PRESENCE_GRACE_SECONDS", "0");
    let mut oneiro = builder.start().await?;
    let built = project_root().join("web/build/test");
    let spawn = Spawn::new("node")
        .arg("--import")
        .arg(built.join("browser-globals.js").display().to_string())
        .arg("--test")
        .arg("--test-reporter=tap")
        .arg(built.join("against-server.js").display().to_string())
        .env("ORIGIN", oneiro.url(tier))
        .env("ADA", token(&json!({ "user_id": 1, "username": "ada" }), 3600)?)
        .env("JOHN", token(&json!({ "user_id": 2, "username": "John" }), 3600)?)
        .env("PUBLISHER", token(&json!({ "user_id": 99, "scope": "publish" }), 3600)?);
    let output = node(spawn).await.with_context(|| format!("against {tier:?}"))?;
    ensure!(output.contains("# pass 5") && output.contains("# skipped 0"), "{output}");
    oneiro.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_library_speaks_with_the_real_servers() -> Result<()> {
    build().await?;
    for tier in [Tier::Api, Tier::Ws] {
        drive(tier).await?;
    }
    Ok(())
}
