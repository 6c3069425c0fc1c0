//! Workers that die, freeze or are stopped in the middle of their work.

use anyhow::{Context, Result, ensure};
use oneiro_tests::{Form, Oneiro, Process, Tier, User, eventually, photo, within};
use reqwest::Method;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A dream with so many large photos that a worker is busy with them for a while.
async fn busy_dream(user: &User, images: u32) -> Result<u64> {
    let mut form = Form::new("Busy", "text");
    let photo = photo::twelve_megapixels(1)?;
    for n in 1..=images {
        form = form.image(n, photo.clone(), n.into());
    }
    user.dream(form).await
}

/// A dream with so many images, of which a worker runs one now. A test that sleeps at the wrong moment may come too late, and tries another.
async fn dream_under_way(oneiro: &Oneiro, user: &User, images: u32) -> Result<u64> {
    let queue = oneiro.image_queue().await?;
    loop {
        let id = busy_dream(user, images).await?;
        let is_running = eventually("a job is running, or all have run", async || {
            let stats = queue.stats().await?;
            Ok((stats.running > 0 || stats.available == 0).then_some(stats.running > 0))
        });
        if is_running.await? {
            return Ok(id);
        }
    }
}

/// Sees that the dream is completed exactly once, with every image.
async fn expect_complete(user: &User, dream: u64, images: usize) -> Result<()> {
    let mut socket = user.watch(Tier::Ws, dream).await?;
    let updates = socket.updates_until("completed").await?;
    let done = updates.last().context("the last one")?;
    ensure!(done["images"].as_array().map(Vec::len) == Some(images), "expected {images} images: {done}");
    ensure!(done["errors"].as_array().is_none_or(Vec::is_empty), "no image failed: {done}");
    let versions: Vec<_> = updates.iter().filter_map(|update| update["version"].as_u64()).collect();
    ensure!(versions.windows(2).all(|pair| pair[0] < pair[1]), "versions rise: {versions:?}");
    for image in done["images"].as_array().into_iter().flatten() {
        user.get(image["url"].as_str().context("a URL")?).await?.expect(200)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_killed_worker_run_elsewhere() -> Result<()> {
    let mut oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let mut worker = 0;
    let id = loop {
        let id = dream_under_way(&oneiro, &ada, 8).await?;
        oneiro.worker(worker)?.kill().await?;
        let is_mid_work = ada.show(id).await?["images_status"]["status"] == "processing";
        worker = oneiro.start_worker()?;
        if is_mid_work {
            break id;
        }
    };
    expect_complete(&ada, id, 8).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_frozen_worker_run_elsewhere_and_its_late_results_harm_nobody() -> Result<()> {
    let mut oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let id = dream_under_way(&oneiro, &ada, 6).await?;
    oneiro.worker(0)?.freeze()?;
    oneiro.start_worker()?;
    expect_complete(&ada, id, 6).await?;
    let before = ada.show(id).await?;
    // It wakes with results that others have delivered.
    oneiro.worker(0)?.thaw()?;
    let next = busy_dream(&ada, 2).await?;
    expect_complete(&ada, next, 2).await?;
    assert_eq!(ada.show(id).await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_hands_its_jobs_back_and_ends_well() -> Result<()> {
    let mut oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let id = dream_under_way(&oneiro, &ada, 8).await?;
    oneiro.worker(0)?.terminate()?;
    let status = oneiro.worker(0)?.ended().await?;
    ensure!(status.success(), "{status}: {}", oneiro.worker(0)?.output()?);
    oneiro.start_worker()?;
    expect_complete(&ada, id, 8).await
}

/// An upload that has begun and does not go on: a process that stops has something to wait for.
async fn begun_upload(user: &User) -> Result<TcpStream> {
    user.begin(Method::POST, "/api/dreams/", "multipart/form-data; boundary=XX", FORM.len()).await
}

/// What [`begun_upload`] holds back.
const FORM: &str = "--XX\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nSlow\r\n--XX--\r\n";

async fn stopping(process: &Process) -> Result<()> {
    let is_stopping = async || Ok(process.output()?.contains("no new work is taken").then_some(()));
    eventually("it stops", is_stopping).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_under_a_process_manager_lets_what_is_under_way_end() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let mut upload = begun_upload(&ada).await?;
    // The terminal tells every process of its group, and the manager its own a second later.
    oneiro.api()?.interrupt()?;
    stopping(oneiro.api()?).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    oneiro.api()?.terminate()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    upload.write_all(FORM.as_bytes()).await?;
    let mut answer = String::new();
    within("the upload is answered", upload.read_to_string(&mut answer)).await??;
    ensure!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let status = oneiro.api()?.ended().await?;
    ensure!(status.success(), "{status}: {}", oneiro.api()?.output()?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_wish_to_stop_ends_a_process_at_once() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    for signals in ["int int", "term term", "term int", "int term int"] {
        let _upload = begun_upload(&ada).await?;
        for (at, signal) in signals.split(' ').enumerate() {
            if at > 0 {
                stopping(oneiro.api()?).await?;
                // Two that come as one would be told as one.
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            if signal == "int" { oneiro.api()?.interrupt()? } else { oneiro.api()?.terminate()? }
        }
        let status = oneiro.api()?.ended().await?;
        ensure!(status.code() == Some(1), "{signals}: {status}: {}", oneiro.api()?.output()?);
        oneiro.start_api()?;
        oneiro.ready().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dream_survives_the_death_of_every_program() -> Result<()> {
    let mut oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let id = dream_under_way(&oneiro, &ada, 6).await?;
    oneiro.worker(0)?.kill().await?;
    oneiro.api()?.kill().await?;
    oneiro.ws()?.kill().await?;
    oneiro.redis.kill().await?;
    oneiro.redis.resume().await?;
    oneiro.start_api()?;
    oneiro.start_ws()?;
    oneiro.start_worker()?;
    oneiro.ready().await?;
    expect_complete(&ada, id, 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_cut_off_in_the_middle_leaves_nothing_and_the_next_works() -> Result<()> {
    let mut oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    {
        let mut stream = TcpStream::connect(("127.0.0.1", oneiro.port(Tier::Api))).await?;
        let head = format!(
            "POST /api/dreams/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: multipart/form-data; boundary=XX\r\nContent-Length: 1000000\r\n\r\n\
             --XX\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nCut\r\n--XX\r\nContent-Disposition: form-data; name=\"imageFile_1\"; filename=\"a.jpg\"\r\n\r\n",
            ada.token()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&photo::jpeg(800, 600, 1)?[..20_000]).await?;
        stream.shutdown().await?;
    }
    let id = ada.dream(Form::new("Fine", "text").image(1, photo::jpeg(64, 48, 1)?, 0)).await?;
    ada.settled(id, "completed").await?;
    let listed = ada.get("/api/dreams/").await?.expect(200)?;
    assert_eq!(listed.json["results"].as_array().map(Vec::len), Some(1));
    oneiro.stop().await
}
