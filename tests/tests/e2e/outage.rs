//! Redis restarted, cut off, silent, gone.

use anyhow::{Context, Result, ensure};
use oneiro_tests::{Form, Oneiro, Tier, eventually, photo};
use std::time::Duration;

fn form(title: &str) -> Result<Form> {
    Ok(Form::new(title, "text").image(1, photo::jpeg(1200, 900, 1)?, 0).image(2, photo::jpeg(900, 1200, 2)?, 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_redis_in_mid_run_loses_nothing() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(2).start().await?;
    let ada = oneiro.user(1)?;
    let mut ids = Vec::new();
    for round in 0..3 {
        for n in 0..4 {
            ids.push(ada.dream(form(&format!("{round}.{n}"))?).await?);
        }
        // A service's restart, then twice a crash: the append-only file has everything that was answered.
        if round == 0 {
            oneiro.redis.stop().await?;
        } else {
            oneiro.redis.kill().await?;
        }
        oneiro.redis.resume().await?;
        oneiro.ready().await?;
    }
    for id in ids {
        let done = ada.settled(id, "completed").await?;
        assert_eq!(done["images"].as_array().map(Vec::len), Some(2));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_misses_nothing_while_redis_is_away() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(form("Away")?).await?;
    let mut through_api = ada.watch(Tier::Api, id).await?;
    let mut through_ws = ada.watch(Tier::Ws, id).await?;
    oneiro.redis.stop().await?;
    oneiro.redis.resume().await?;
    oneiro.start_worker()?;
    for socket in [&mut through_api, &mut through_ws] {
        assert_eq!(socket.update("completed").await?["images"].as_array().map(Vec::len), Some(2));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_and_silent_connections_are_healed() -> Result<()> {
    let oneiro = Oneiro::builder().workers(2).proxy().start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(form("Before")?).await?;
    let mut socket = ada.watch(Tier::Ws, id).await?;
    let proxy = oneiro.proxy()?;
    for round in 0..2 {
        if round == 0 {
            proxy.cut();
        } else {
            proxy.silence();
        }
        // As long as it is broken, nobody is told that all is well.
        eventually("not ready", async || {
            let answer = ada.get("/readyz").await?;
            Ok((answer.status == 503).then_some(()))
        })
        .await?;
        proxy.restore();
        eventually("ready again", async || Ok(ada.get("/readyz").await?.status.is_success().then_some(()))).await?;
        let next = ada.dream(form("After")?).await?;
        ada.settled(next, "completed").await?;
    }
    assert_eq!(socket.update("completed").await?["images"].as_array().map(Vec::len), Some(2));
    proxy.delay(Duration::from_millis(30));
    let slow = ada.dream(form("Slow")?).await?;
    ada.settled(slow, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_connections_are_renewed_however_busy_they_are() -> Result<()> {
    let oneiro = Oneiro::builder().proxy().start().await?;
    let ada = oneiro.user(1)?;
    let before = ada.dream(form("Before")?).await?;
    let mut socket = ada.watch(Tier::Ws, before).await?;
    ada.settled(before, "completed").await?;
    oneiro.proxy()?.forget();
    // Calls that keep coming must not hide that none is answered.
    let served = async || {
        eventually("served again", async || {
            Ok(ada.get(&format!("/api/dreams/{before}/")).await?.status.is_success().then_some(()))
        })
        .await
    };
    tokio::try_join!(served(), served(), served())?;
    let after = ada.dream(form("After")?).await?;
    ada.settled(after, "completed").await?;
    ada.delete(&format!("/api/dreams/{before}/")).await?.expect(202)?;
    socket.update("delete_completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_uploads_are_refused_for_now_and_nothing_accepted_is_lost() -> Result<()> {
    let mut oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let before = ada.dream(form("Before")?).await?;
    oneiro.redis.stop().await?;
    for tier in [Tier::Api, Tier::Ws] {
        let url = format!("{}/readyz", oneiro.url(tier));
        eventually(&format!("{tier:?} is not ready"), async || Ok((ada.get(&url).await?.status == 503).then_some(())))
            .await?;
        ada.get(&format!("{}/healthz", oneiro.url(tier))).await?.expect(200)?;
    }
    let refused = ada.post_dream(form("During")?).await?.expect(503)?;
    ensure!(refused.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{:?}", refused.headers);
    ensure!(refused.json["code"].is_string() && refused.json["detail"].is_string(), "{}", refused.json);
    ada.get(&format!("/api/dreams/{before}/")).await?.expect(503)?;

    oneiro.redis.resume().await?;
    oneiro.ready().await?;
    ada.settled(before, "completed").await?;
    let after = ada.dream(form("After")?).await?;
    ada.settled(after, "completed").await?;
    let listed = ada.get("/api/dreams/").await?.expect(200)?.json;
    let titles: Vec<_> = listed["results"].as_array().context("results")?.iter().map(|dream| &dream["title"]).collect();
    assert_eq!(titles, ["After", "Before"], "what was refused is not there");
    Ok(())
}
