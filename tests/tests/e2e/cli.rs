//! The operator's program.

use crate::dreams::noise_in_a_png;
use anyhow::{Context, Result, ensure};
use apalis_core::backend::TaskSink;
use apalis_redis::{Config, RedisStorage};
use oneiro_tests::{Form, Oneiro, Tier, eventually, photo};
use serde_json::Value;
use std::time::Duration;

/// Runs `oneiro ARGS --json` and reads its answer.
async fn json(oneiro: &Oneiro, args: &[&str]) -> Result<Value> {
    let (code, out, errors) = oneiro.cli(&[args, &["--json"]].concat()).await?;
    ensure!(code == 0, "oneiro {args:?} ended with {code}: {out}{errors}");
    serde_json::from_str(&out).with_context(|| format!("oneiro {args:?} says {out}"))
}

/// Runs `oneiro ARGS` and returns what it prints.
async fn text(oneiro: &Oneiro, args: &[&str]) -> Result<String> {
    let (code, out, errors) = oneiro.cli(args).await?;
    ensure!(code == 0, "oneiro {args:?} ended with {code}: {out}{errors}");
    Ok(out)
}

fn ids(jobs: &Value) -> Vec<String> {
    jobs.as_array().into_iter().flatten().filter_map(|job| job["id"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_jobs_are_listed_shown_cancelled_and_deleted_without_the_api() -> Result<()> {
    let builder = Oneiro::builder().workers(0).env("ONEIRO_WORKER_SWEEP_SECONDS", "1");
    let mut oneiro = builder.env("ONEIRO_WORKER_SWEEP_AFTER_SECONDS", "1").start().await?;
    let ada = oneiro.user(1)?;
    let form = Form::new("Waiting", "text").image(1, photo::jpeg(64, 48, 1)?, 0).image(2, photo::jpeg(64, 48, 2)?, 0);
    ada.dream(form).await?;
    oneiro.api()?.kill().await?;

    let jobs = json(&oneiro, &["jobs", "list"]).await?;
    let ids = ids(&jobs);
    assert_eq!(ids.len(), 2, "{jobs}");
    assert_eq!((&jobs[0]["kind"], &jobs[0]["state"]), (&"process_image".into(), &"available".into()), "{jobs}");
    let table = text(&oneiro, &["jobs", "list"]).await?;
    assert!(ids.iter().all(|id| table.contains(id)) && table.contains("process_image"), "{table}");

    let shown = json(&oneiro, &["jobs", "show", &ids[0]]).await?;
    assert_eq!(shown["id"], ids[0].as_str(), "{shown}");
    assert!(text(&oneiro, &["jobs", "show", &ids[0]]).await?.contains(&ids[0]));

    let why = json(&oneiro, &["jobs", "explain", &ids[0]]).await?;
    assert!(why["reasons"].to_string().contains("no living worker serves kind process_image"), "{why}");
    let why = text(&oneiro, &["jobs", "explain", &ids[0]]).await?;
    assert!(why.contains("available") && why.contains("no living worker"), "{why}");

    text(&oneiro, &["jobs", "cancel", &ids[0]]).await?;
    assert_eq!(json(&oneiro, &["jobs", "show", &ids[0]]).await?["state"], "cancelled");
    text(&oneiro, &["jobs", "retry", &ids[0]]).await?;
    assert_eq!(json(&oneiro, &["jobs", "show", &ids[0]]).await?["state"], "available");
    let (code, out, _) = oneiro.cli(&["jobs", "delete", &ids[1]]).await?;
    assert!(code == 1 && out.contains("cancel it first"), "a job that something waits for stays: {code} {out}");
    text(&oneiro, &["jobs", "cancel", &ids[1]]).await?;
    let (code, out, _) = oneiro.cli(&["jobs", "delete", &ids[1]]).await?;
    assert!(code == 1 && out.contains("has not been told"), "its image would be enqueued again: {code} {out}");
    let all_cancelled = ["jobs", "delete", "--all", "--state", "cancelled"];
    for args in [all_cancelled.to_vec(), [all_cancelled.as_slice(), &["--dry-run"]].concat()] {
        let (code, out, _) = oneiro.cli(&args).await?;
        assert!(code == 1 && out.contains("1 not changed: its dream"), "{args:?}: {code} {out}");
    }
    // A worker tells the dream; of the other job it shall not take anything yet.
    text(&oneiro, &["queues", "pause", "images"]).await?;
    oneiro.start_worker()?;
    eventually("the dream is told, and the job can go", async || {
        Ok((oneiro.cli(&["jobs", "delete", &ids[1]]).await?.0 == 0).then_some(()))
    })
    .await?;
    let left = json(&oneiro, &["jobs", "list", "--state", "available"]).await?;
    assert_eq!(left.as_array().map(Vec::len), Some(1), "nothing came back: {left}");
    let foreseen = json(&oneiro, &["jobs", "cancel", "--all", "--state", "available", "--dry-run"]).await?;
    assert_eq!((&foreseen["changed"], &foreseen["refused"]), (&1.into(), &0.into()), "{foreseen}");
    assert_eq!(json(&oneiro, &["jobs", "list", "--state", "available"]).await?, left, "a dry run changes nothing");

    let (code, out, errors) = oneiro.cli(&["jobs", "show", &ids[1]]).await?;
    assert!(code == 1 && errors.contains(&ids[1]), "an unknown job is a clear failure: {code} {out}{errors}");
    let (code, _, errors) = oneiro.cli(&["jobs", "explain", &ids[1]]).await?;
    assert!(code == 1 && errors.contains(&ids[1]), "{code}: {errors}");
    let (code, _, errors) = oneiro.cli(&["jobs", "show", "nonsense"]).await?;
    assert!(code == 2 && errors.contains("`nonsense` is not a job id"), "a wrong argument: {code} {errors}");
    let (code, _, errors) = oneiro.cli(&["jobs", "list", "--state", "asleep"]).await?;
    assert!(code == 2 && errors.contains("scheduled, available, running"), "a wrong argument: {code} {errors}");
    let (code, ..) = oneiro.cli(&["jobs", "retry"]).await?;
    assert_eq!(code, 2, "retry of nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_jobs_are_retried_all_at_once() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let broken = noise_in_a_png()?;
    let form = Form::new("Broken", "text").image(1, broken.clone(), 0).image(2, broken.clone(), 0).image(3, broken, 0);
    let id = ada.dream(form).await?;
    ada.settled(id, "failed").await?;
    let dead = eventually("three dead jobs", async || {
        let jobs = json(&oneiro, &["jobs", "list", "--state", "dead"]).await?;
        Ok((jobs.as_array().map(Vec::len) == Some(3)).then_some(jobs))
    })
    .await?;
    assert!(dead[0]["error"].to_string().len() > 10, "the reason is kept: {dead}");
    let shown = text(&oneiro, &["jobs", "retry", "--dead", "--all"]).await?;
    assert!(shown.contains('3'), "{shown}");
    eventually("they ran again and are dead again", async || {
        let stats = oneiro.image_queue().await?.stats().await?;
        Ok((stats.dead == 3 && stats.running == 0 && stats.available == 0).then_some(()))
    })
    .await?;
    let removed = json(&oneiro, &["jobs", "delete", "--dead", "--all"]).await?;
    assert_eq!(removed["changed"], 3, "{removed}");
    assert_eq!(json(&oneiro, &["jobs", "list", "--state", "dead"]).await?, serde_json::json!([]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_and_workers_are_shown_paused_and_resumed() -> Result<()> {
    let oneiro = Oneiro::builder().workers(2).start().await?;
    let ada = oneiro.user(1)?;
    let workers = eventually("both workers are known", async || {
        let workers = json(&oneiro, &["workers"]).await?;
        let on_images = workers.as_array().into_iter().flatten().filter(|worker| worker["queue"] == "images").count();
        Ok((on_images == 2).then_some(workers))
    })
    .await?;
    assert!(workers[0]["pid"].is_u64(), "{workers}");
    assert!(text(&oneiro, &["workers"]).await?.contains("images"));

    text(&oneiro, &["queues", "pause", "images"]).await?;
    let id = ada.dream(Form::new("Paused", "text").image(1, photo::jpeg(64, 48, 1)?, 0)).await?;
    let queues = json(&oneiro, &["queues"]).await?;
    let images =
        queues.as_array().into_iter().flatten().find(|queue| queue["name"] == "images").context("the queue")?;
    assert_eq!((&images["is_paused"], &images["available"]), (&true.into(), &1.into()), "{queues}");
    assert_eq!(ada.show(id).await?["images_status"]["status"], "processing");
    text(&oneiro, &["queues", "resume", "images"]).await?;
    ada.settled(id, "completed").await?;
    assert!(text(&oneiro, &["queues"]).await?.contains("images"));
    Ok(())
}

/// The whole process: left with its deletions it would look well, and images would wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_stop_finishes_what_runs_and_ends() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(1).start().await?;
    let (ada, large) = (oneiro.user(1)?, photo::jpeg(3000, 2000, 1)?);
    let number = eventually("the worker is known", async || {
        let workers = json(&oneiro, &["workers"]).await?;
        let images = workers.as_array().into_iter().flatten().find(|worker| worker["queue"] == "images").cloned();
        Ok(images.and_then(|worker| worker["number"].as_u64()))
    })
    .await?;
    let form = (1..=6).fold(Form::new("Last", "text"), |form, n| form.image(n, large.clone(), u64::from(n)));
    let id = ada.dream(form).await?;
    text(&oneiro, &["workers", "stop", "images", &number.to_string()]).await?;
    let status = tokio::time::timeout(Duration::from_secs(30), oneiro.worker(0)?.ended()).await??;
    assert_eq!(status.code(), Some(0), "{}", oneiro.worker(0)?.output()?);
    assert_eq!(json(&oneiro, &["workers"]).await?, serde_json::json!([]));
    // What it did not come to waits for the next one, as if nobody had ever taken it.
    oneiro.start_worker()?;
    ada.settled(id, "completed").await?;
    let jobs = json(&oneiro, &["jobs", "list", "--state", "completed"]).await?;
    let failed: Vec<&Value> = jobs.as_array().into_iter().flatten().map(|job| &job["attempts"]).collect();
    assert_eq!(failed, vec![&Value::from(0); 6], "{jobs}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_come_is_told_to_people_and_to_monitoring() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("Measured", "text").image(1, photo::jpeg(64, 48, 1)?, 0)).await?;
    ada.settled(id, "completed").await?;
    let images = eventually("a run was measured", async || {
        let queues = json(&oneiro, &["queues", "forecast", "--within", "30"]).await?;
        let images = queues.as_array().into_iter().flatten().find(|queue| queue["name"] == "images").cloned();
        Ok(images.filter(|images| images["completions_per_second"].as_f64() > Some(0.0)))
    })
    .await?;
    // One, or none where the minute that was measured begins after the push.
    assert!(images["backlog"] == 0 && images["wanted_workers"].as_u64().is_some_and(|n| n <= 1), "{images}");
    assert!(images["mean_run_time"]["nanos"].as_u64() > Some(0), "{images}");
    assert!(text(&oneiro, &["queues", "forecast"]).await?.contains("workers for 10s"));

    let metrics = reqwest::get(format!("{}/metrics", oneiro.url(Tier::Api))).await?.text().await?;
    for line in [
        r#"oneiro_queue_jobs{queue="images",state="completed"} 1"#,
        r#"oneiro_queue_workers{queue="images"} 1"#,
        r#"oneiro_queue_wanted_workers{queue="images"} "#,
        r#"oneiro_queue_paused{queue="deletes"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_users_running_jobs_are_bounded_by_hand() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    text(&oneiro, &["queues", "limit", "images", "--rate", "0.001", "--group-cap", "1"]).await?;
    let queues = json(&oneiro, &["queues"]).await?;
    let images =
        queues.as_array().into_iter().flatten().find(|queue| queue["name"] == "images").context("the queue")?;
    let limits = &images["limits"];
    assert_eq!((&limits["per_second"], &limits["group_cap"]), (&0.001.into(), &1.into()), "{queues}");
    assert!(text(&oneiro, &["queues"]).await?.contains("1 of a group"));
    let form = Form::new("Limited", "text").image(1, photo::jpeg(64, 48, 1)?, 0).image(2, photo::jpeg(64, 48, 2)?, 0);
    let id = ada.dream(form).await?;
    let job = ids(&json(&oneiro, &["jobs", "list"]).await?).swap_remove(0);
    let why = json(&oneiro, &["jobs", "explain", &job]).await?;
    assert!(why["reasons"].to_string().contains("at most 0.001 jobs a second"), "{why}");

    for refused in [["--rate", "0"], ["--rate", "fast"], ["--group-cap", "-1"]] {
        let (code, _, errors) = oneiro.cli(&[["queues", "limit", "images"].as_slice(), &refused].concat()).await?;
        assert!(code == 2, "{refused:?}: {code} {errors}");
    }
    let (code, ..) = oneiro.cli(&["queues", "limit", "images"]).await?;
    assert_eq!(code, 2, "a limit of nothing");
    let (code, _, errors) = oneiro.cli(&["queues", "limit", "imgaes", "--rate", "off"]).await?;
    assert!(code == 1 && errors.contains("images"), "a queue that is not there: {errors}");

    text(&oneiro, &["queues", "limit", "images", "--rate", "off", "--group-cap", "off"]).await?;
    oneiro.start_worker()?;
    ada.settled(id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_stock_queue_are_adopted() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let connection = apalis_redis::connect(format!("redis://127.0.0.1:{}", oneiro.redis.port())).await?;
    let mut stock: RedisStorage<u64> = RedisStorage::new(connection).with_config(Config::default().queue("numbers"));
    stock.push_stream(&mut futures::stream::iter(0..1_200)).await?;

    let adopt = ["queue", "adopt", "numbers", "--into", "counted", "--kind", "number"];
    assert_eq!(json(&oneiro, &adopt).await?["adopted"], 1_200);
    let queues = json(&oneiro, &["queues"]).await?;
    let counted = queues.as_array().into_iter().flatten().find(|queue| queue["name"] == "counted");
    assert_eq!(counted.context("the queue")?["available"], 1_200, "{queues}");
    assert!(text(&oneiro, &adopt).await?.contains("no waiting jobs"), "nothing is left");
    let (code, ..) = oneiro.cli(&["queue", "adopt", "numbers", "--into", "no/name", "--kind", "number"]).await?;
    assert_eq!(code, 2, "a name that cannot be");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_the_command_line_is_accepted() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let token = text(&oneiro, &["token", "--user", "7", "--username", "grace"]).await?;
    let grace = oneiro.bearer(Some(token.trim().to_owned()))?;
    let id = grace.dream(Form::new("By token", "text")).await?;
    assert_eq!(oneiro.user(7)?.show(id).await?["title"], "By token");
    let (code, _, errors) = oneiro.cli(&["token", "--user", "7", "--scope", "everything"]).await?;
    assert!(code == 1 && errors.contains("everything"), "{code}: {errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_command_line_says_so() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(0).start().await?;
    oneiro.redis.stop().await?;
    let (code, out, errors) = oneiro.cli(&["queues"]).await?;
    assert!(code == 1 && errors.to_lowercase().contains("redis"), "{code}: {out}{errors}");
    Ok(())
}
