//! `?progress=1`: how far an image is, told while a worker works on it.

use anyhow::{Context, Result, ensure};
use oneiro_tests::{Form, Oneiro, Socket, Tier, photo};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_progress_sees_each_image_grow_until_all_are_completed() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let form = Form::new("Live", "text").image(1, photo::jpeg(900, 600, 1)?, 0).image(2, photo::jpeg(600, 900, 2)?, 0);
    let id = ada.dream(form).await?;
    let mut sockets = Vec::new();
    for tier in [Tier::Api, Tier::Ws] {
        let url = format!("ws://127.0.0.1:{}/ws/dream-images/{id}/?progress=1", oneiro.port(tier));
        let mut socket = Socket::connect(&url).await?;
        socket.authenticate(ada.token()).await?;
        assert_eq!(socket.message().await?["type"], "connection_established");
        assert_eq!(socket.message().await?["status"], "processing", "the snapshot");
        sockets.push(socket);
    }
    let mut unasked = ada.watch(Tier::Ws, id).await?;
    oneiro.start_worker()?;

    let mut ends = Vec::new();
    for socket in &mut sockets {
        let (steps, end) = until_completed(socket).await?;
        let images = end["images"].as_array().context("images")?;
        assert_eq!(images.len(), 2, "{end}");
        for image in images.iter().map(|image| &image["id"]) {
            let of_this: Vec<&Value> = steps.iter().filter(|step| step["image_id"] == *image).collect();
            let total = of_this.first().context("progress of each image")?["total"].as_u64().context("a total")?;
            let done: Vec<u64> = of_this.iter().filter_map(|step| step["done"].as_u64()).collect();
            assert_eq!(done, (1..=total).collect::<Vec<_>>(), "one step after the other: {of_this:?}");
            assert!(of_this.iter().all(|step| step["total"] == total && step["dream_id"] == id), "{of_this:?}");
        }
        ends.push(end);
    }
    assert_eq!(ends[0], ends[1], "both tiers tell the same");
    loop {
        let message = unasked.message().await?;
        ensure!(message["type"] == "image_update", "nobody else sees progress: {message}");
        if message["status"] == "completed" {
            return Ok(());
        }
    }
}

/// The progress frames, and the update behind them.
async fn until_completed(socket: &mut Socket) -> Result<(Vec<Value>, Value)> {
    let mut steps = Vec::new();
    loop {
        let message = socket.message().await?;
        match (message["type"].as_str(), message["status"].as_str()) {
            (Some("image_progress"), _) => steps.push(message),
            (Some("image_update"), Some("completed")) => return Ok((steps, message)),
            (Some("image_update"), Some("processing" | "partial")) => {}
            _ => anyhow::bail!("unexpected {message}"),
        }
    }
}
