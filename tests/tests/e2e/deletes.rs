//! Deleting dreams and single images.

use anyhow::{Context, Result};
use oneiro_tests::{Form, Oneiro, Tier, eventually, photo};
use std::path::{Path, PathBuf};

/// The files under a folder, at any depth; not what readiness probes write to see that the store takes something.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.ends_with("storage/health") {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

async fn no_file_is_left(oneiro: &Oneiro) -> Result<()> {
    let gone = eventually("no file is left", async || Ok(files(oneiro.storage())?.is_empty().then_some(()))).await;
    gone.with_context(|| format!("left: {:?}", files(oneiro.storage())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_dream_is_gone_with_its_files_and_its_socket_is_told() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let form = Form::new("Gone", "text").image(1, photo::jpeg(800, 600, 1)?, 0).image(2, photo::jpeg(600, 800, 2)?, 1);
    let id = ada.dream(form).await?;
    let done = ada.settled(id, "completed").await?;
    let url = done["images"][0]["url"].as_str().context("a URL")?.to_owned();
    assert!(!files(oneiro.storage())?.is_empty());

    let mut socket = ada.watch(Tier::Ws, id).await?;
    socket.update("completed").await?;
    ada.delete(&format!("/api/dreams/{id}/")).await?.expect(202)?;
    let updates = socket.updates_until("delete_completed").await?;
    assert!(updates.iter().any(|update| update["status"] == "delete_processing"), "{updates:?}");
    assert!(updates.iter().all(|update| update["images"] == serde_json::json!([])), "{updates:?}");

    ada.get(&format!("/api/dreams/{id}/")).await?.expect(404)?;
    ada.get(&url).await?.expect(404)?;
    assert_eq!(ada.get("/api/dreams/").await?.expect(200)?.json["results"], serde_json::json!([]));
    no_file_is_left(&oneiro).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_image_of_a_dream_is_deleted_and_the_other_stays() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let form = Form::new("Two", "text").image(1, photo::jpeg(300, 200, 1)?, 0).image(2, photo::jpeg(200, 300, 2)?, 1);
    let id = ada.dream(form).await?;
    let done = ada.settled(id, "completed").await?;
    let first = done["images"][0]["id"].as_u64().context("an id")?;
    let second = &done["images"][1]["id"];
    let mut socket = ada.watch(Tier::Api, id).await?;
    ada.delete(&format!("/api/dreams/{id}/images/999999/")).await?.expect(404)?;
    ada.delete(&format!("/api/dreams/{id}/images/{first}/")).await?.expect(202)?;
    socket.update("delete_completed").await?;
    let shown = ada.show(id).await?;
    assert_eq!(shown["images"].as_array().map(Vec::len), Some(1));
    assert_eq!(&shown["images"][0]["id"], second);
    ada.get(shown["images"][0]["url"].as_str().context("a URL")?).await?.expect(200)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dream_is_deleted_while_its_images_are_processed() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let mut form = Form::new("Hasty", "text");
    for n in 1..=6 {
        form = form.image(n, photo::twelve_megapixels(1)?, 0);
    }
    let id = ada.dream(form).await?;
    let mut socket = ada.watch(Tier::Ws, id).await?;
    ada.delete(&format!("/api/dreams/{id}/")).await?.expect(202)?;
    socket.update("delete_completed").await?;
    ada.get(&format!("/api/dreams/{id}/")).await?.expect(404)?;
    // A job that was running when the dream went must not leave a file behind, nor bring the dream back.
    no_file_is_left(&oneiro).await?;
    let next = ada.dream(Form::new("Next", "text").image(1, photo::jpeg(100, 100, 1)?, 0)).await?;
    ada.settled(next, "completed").await?;
    ada.get(&format!("/api/dreams/{id}/")).await?.expect(404)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_dream_that_was_refused_nothing_is_left() -> Result<()> {
    let builder = Oneiro::builder().env("ONEIRO_QUEUES_MAX_DEPTH", "1");
    // Not by the sweep: that comes in an hour.
    let oneiro = builder.env("ONEIRO_WORKER_SWEEP_AFTER_SECONDS", "3600").start().await?;
    let ada = oneiro.user(1)?;
    oneiro.image_queue().await?.pause().await?;
    let form = |title: &str| anyhow::Ok(Form::new(title, "text").image(1, photo::jpeg(64, 48, 1)?, 0));
    let kept = ada.dream(form("Kept")?).await?;
    ada.post_dream(form("Refused")?).await?.expect(503)?;
    eventually("only one is left", async || {
        let listed = ada.get("/api/dreams/").await?.expect(200)?.json;
        let ids: Vec<_> =
            listed["results"].as_array().into_iter().flatten().map(|dream| dream["id"].as_u64()).collect();
        let folders = std::fs::read_dir(oneiro.storage().join("originals"))?.count();
        let left =
            std::fs::read_dir(oneiro.storage().join(format!("originals/{}", kept + 1))).map_or(0, Iterator::count);
        Ok((ids == [Some(kept)] && left == 0 && folders >= 1).then_some(()))
    })
    .await
}
