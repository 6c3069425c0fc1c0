//! `scripts/up`, as a newcomer runs it.

use anyhow::{Context, Result, bail, ensure};
use oneiro_tests::{Artifacts, Form, Process, Spawn, User, eventually, free_port, photo, program, project_root};
use std::path::Path;

/// Starts the script with its data in `var` and waits until it is ready; returns the page's address.
async fn up(var: &Path, log: std::path::PathBuf) -> Result<(Process, String)> {
    let bin = program("api")?.parent().context("a folder")?.display().to_string();
    // A base port whose neighbours are free too is the script's own business; only its first choice is taken from it here.
    let spawn = Spawn::new(project_root().join("scripts/up"))
        .env("ONEIRO_VAR", var.display().to_string())
        .env("ONEIRO_BIN_DIR", bin)
        // A proxy that does not know this machine.
        .env("http_proxy", "http://127.0.0.1:9")
        .arg("--port")
        .arg(free_port().to_string())
        .arg("--workers")
        .arg("2");
    let mut process = spawn.start(log)?;
    let url = eventually("scripts/up is ready", async || {
        let output = process.output()?;
        if process.has_ended()? {
            bail!("scripts/up ended:\n{output}");
        }
        Ok(output.split("ready: open ").nth(1).and_then(|rest| rest.split_once(' ')).map(|(url, _)| url.to_owned()))
    })
    .await?;
    Ok((process, url.trim_end_matches('/').to_owned()))
}

/// Signs in as the page does.
async fn signed_in(url: &str) -> Result<User> {
    let anybody = User::at(url, None)?;
    let request = anybody.request(reqwest::Method::POST, "/api/dev/token");
    let answer =
        anybody.send(request.json(&serde_json::json!({ "user_id": 1, "username": "ada" }))).await?.expect(200)?;
    User::at(url, Some(answer.json["token"].as_str().context("a token")?.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_stops_cleanly_and_finds_its_data_again() -> Result<()> {
    let artifacts = Artifacts::of_this_test()?;
    let dir = tempfile::Builder::new().prefix("oneiro up ").tempdir()?;
    // A name that a careless script or URL would stumble over.
    let var = dir.path().join("my var & 100% \"fine\" #1");

    let (mut process, url) = up(&var, artifacts.path("first.log")).await?;
    let ada = signed_in(&url).await?;
    let id = ada.dream(Form::new("Kept", "text").image(1, photo::jpeg(800, 600, 1)?, 0)).await?;
    let done = ada.settled(id, "completed").await?;

    // A second start beside the first is refused and harms nothing.
    let (code, _, errors) = Spawn::new(project_root().join("scripts/up"))
        .env("ONEIRO_VAR", var.display().to_string())
        .env("ONEIRO_BIN_DIR", "unused")
        .run()
        .await?;
    ensure!(code == 1 && errors.contains("already running"), "{code}: {errors}");

    if ignores_interrupts() {
        process.terminate()?;
    } else {
        process.interrupt()?;
    }
    let status = process.ended().await?;
    ensure!(status.success(), "{status}:\n{}", process.output()?);
    ensure!(ada.get("/healthz").await.is_err(), "api has ended");
    let redis = std::fs::read_to_string(var.join("redis/port"))?;
    ensure!(std::net::TcpStream::connect(format!("127.0.0.1:{}", redis.trim())).is_err(), "Redis has ended");

    let (mut process, url) = up(&var, artifacts.path("second.log")).await?;
    let ada = signed_in(&url).await?;
    let again = ada.show(id).await?;
    assert_eq!(again["images"], done["images"]);
    ada.get(again["images"][0]["url"].as_str().context("a URL")?).await?.expect(200)?;
    let next = ada.dream(Form::new("Next", "text").image(1, photo::jpeg(64, 48, 1)?, 0)).await?;
    ada.settled(next, "completed").await?;
    process.terminate()?;
    let status = process.ended().await?;
    ensure!(status.success(), "{status}:\n{}", process.output()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_start_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (code, out, errors) = Spawn::new(project_root().join("scripts/up"))
        .env("ONEIRO_VAR", dir.path().display().to_string())
        .env("ONEIRO_BIN_DIR", program("api")?.parent().context("a folder")?.display().to_string())
        .env("STORAGE_URL", "ftp://nowhere")
        .arg("--port")
        .arg(free_port().to_string())
        .run()
        .await?;
    ensure!(code == 1, "{code}: {out}{errors}");
    ensure!(errors.contains("a process ended") && out.contains("STORAGE_URL"), "{out}{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_options_and_taken_ports_are_clear_errors() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let script = || {
        Spawn::new(project_root().join("scripts/up"))
            .env("ONEIRO_VAR", dir.path().display().to_string())
            .env("ONEIRO_BIN_DIR", "unused")
    };
    let (code, help, _) = script().arg("--help").run().await?;
    ensure!(code == 0 && help.contains("--workers"), "{help}");
    for wrong in [["--workers", "0"], ["--workers", "x"], ["--port", "99999"], ["--nonsense", "1"]] {
        let (code, _, errors) = script().arg(wrong[0]).arg(wrong[1]).run().await?;
        ensure!(code == 64 && errors.contains(wrong[0]), "{wrong:?}: {code} {errors}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let (code, _, errors) = script().arg("--port").arg(&port).run().await?;
    ensure!(code != 0 && errors.contains(&port), "{code}: {errors}");
    Ok(())
}

/// Whether we were started to ignore what Ctrl-C sends, as a shell does with what it runs in the background. What we start ignores it too, and
/// a shell cannot take that back.
fn ignores_interrupts() -> bool {
    const INT: u64 = 1 << 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & INT != 0)
}
