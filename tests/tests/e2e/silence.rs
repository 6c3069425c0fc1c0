//! An object store that takes connections and never answers.

use anyhow::{Context, Result, ensure};
use apalis_fred::{JobFilter, State};
use fred::interfaces::SortedSetsInterface;
use oneiro_tests::{Form, Oneiro, Process, Spawn, Tier, eventually, photo, program};
use std::time::{Duration, SystemTime};
use tokio::net::TcpListener;

/// An installation whose one worker has such a store.
async fn with_a_silent_store() -> Result<(Oneiro, Process, TcpListener)> {
    let builder = Oneiro::builder().workers(0).env("ONEIRO_QUEUES_JOB_TIMEOUT_SECONDS", "6");
    let builder = builder.env("ONEIRO_WORKER_DECODE_TIMEOUT_SECONDS", "2").env("ONEIRO_WORKER_SWEEP_SECONDS", "1");
    let oneiro = builder.env("ONEIRO_WORKER_SWEEP_AFTER_SECONDS", "1").start().await?;
    // The system accepts what nobody takes.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let worker = Spawn::new(program("worker")?)
        .envs(oneiro.env())
        .env("STORAGE_URL", "s3://bucket")
        .env("AWS_ENDPOINT", format!("http://{}", silent.local_addr()?))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_REGION", "here")
        .start(oneiro.artifacts().path("worker-without-store.log"))?;
    Ok((oneiro, worker, silent))
}

async fn one_image(oneiro: &Oneiro) -> Result<u64> {
    oneiro.user(1)?.dream(Form::new("Waits", "text").image(1, photo::jpeg(64, 48, 1)?, 0)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_an_outage_and_not_the_end_of_a_job_s_time() -> Result<()> {
    let (oneiro, worker, _silent) = with_a_silent_store().await?;
    one_image(&oneiro).await?;
    let queue = oneiro.image_queue().await?;
    let job = eventually("the first run failed", async || {
        let page = queue.jobs(&JobFilter::in_state(State::Retryable)).await?;
        Ok(page.jobs.into_iter().next())
    })
    .await?;
    let message = job.error.context("an error")?.message;
    ensure!(message.contains("cannot read the original") && message.contains("did not answer"), "{message}");
    let wait = job.due_at.context("a time")?.duration_since(SystemTime::now()).unwrap_or_default();
    ensure!(wait > Duration::from_secs(1), "outages have waits of their own: {wait:?}");
    ensure!(worker.output()?.contains("image run failed"), "it is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dreams_that_need_redis_only_are_helped_all_the_same() -> Result<()> {
    let (oneiro, _worker, _silent) = with_a_silent_store().await?;
    let redis = oneiro.redis_client().await?;
    // Abandoned uploads, hours old: each takes as long as the store may take.
    let abandoned: Vec<(f64, u64)> = (900_001..900_021).map(|id| (1.0, id)).collect();
    let _: u64 = redis.zadd("oneiro:dreams:uploading", None, None, false, false, abandoned).await?;
    let queue = oneiro.image_queue().await?;
    queue.pause().await?;
    // The sweep of the next second begins with them.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let id = one_image(&oneiro).await?;
    let mut socket = oneiro.user(1)?.watch(Tier::Ws, id).await?;
    for job in queue.jobs(&JobFilter::default()).await?.jobs {
        queue.cancel(&job.id).await?;
    }
    let begun = std::time::Instant::now();
    let failed = socket.update("failed").await?;
    ensure!(failed["errors"][0]["code"] == "cancelled", "{failed}");
    ensure!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    Ok(())
}
