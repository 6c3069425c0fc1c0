//! What the documents say about `/metrics` is what a scrape brings, and the other way round.

use crate::crowds::stall;
use anyhow::{Context, Result, ensure};
use fred::prelude::*;
use oneiro_tests::{Form, Oneiro, Tier, User, crowd::Member, eventually, free_port, photo, project_root};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

/// Documented, and not to be seen here: each with what it takes.
const CONDITIONAL: [(&str, &str); 7] = [
    ("oneiro_http_cut_total", "a client that keeps its connection waiting for ten seconds"),
    ("oneiro_uploads_refused_total", "more uploads at once than a user may have"),
    ("oneiro_pipeline_children_lost_total", "a decoder's process that dies"),
    ("oneiro_sweep_reenqueued_total", "an image that has lost its job"),
    ("oneiro_events_dropped_total", "more publications than a process can hold"),
    ("oneiro_events_heals_total", "a lost connection to Redis, or a gap in a channel"),
    ("oneiro_events_receiver_overflow_total", "a reader within the process that lags"),
];

/// The names in the first column of a document's tables.
fn documented(document: &str) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(project_root().join("docs").join(document))?;
    let first_columns = text.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    let names: BTreeSet<String> = first_columns
        .flat_map(|column| column.split('`'))
        .filter(|name| name.starts_with("oneiro_"))
        .map(str::to_owned)
        .collect();
    ensure!(!names.is_empty(), "{document} has a table of metrics");
    Ok(names)
}

/// Names with their kinds, as a scrape tells them.
fn told(scrape: &str) -> BTreeMap<String, String> {
    let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

async fn scrape(url: &str) -> Result<String> {
    Ok(reqwest::get(url).await?.error_for_status()?.text().await?)
}

/// The code with which a socket is refused.
async fn refused(url: &str) -> Result<u16> {
    let mut member = Member::connect(url).await?;
    loop {
        if let Err((code, _)) = member.next().await? {
            return Ok(code);
        }
    }
}

/// Everything that a healthy process counts on its sockets, and what it refuses.
async fn be_a_crowd(oneiro: &Oneiro, ada: &User, dream: u64) -> Result<()> {
    let port = oneiro.port(Tier::Ws);
    let at = |path: &str| format!("ws://127.0.0.1:{port}{path}");
    let token = ada.token();
    let foreign = oneiro.user(2)?.dream(Form::new("Bob's", "text")).await?;
    assert_eq!(refused(&at("/ws/notifications/?token=nonsense")).await?, 4001);
    assert_eq!(refused(&at(&format!("/ws/dream-images/{foreign}/?token={token}"))).await?, 4003);
    assert_eq!(refused(&at(&format!("/ws/dream-images/x/?token={token}"))).await?, 4003);
    let evil = ada
        .http()
        .get(format!("http://127.0.0.1:{port}/ws/notifications/"))
        .header("origin", "https://evil.example")
        .header("cookie", format!("access_token={token}"))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(ada.send(evil).await?.status, 403);
    // What refuses a socket refuses an event stream, and is counted with it.
    let events = |query: String| ada.http().get(format!("http://127.0.0.1:{port}/api/v1/events?{query}"));
    let evil = events(String::new())
        .header("origin", "https://evil.example")
        .header("cookie", format!("access_token={token}"));
    for (refused, status) in [
        (evil, 403),
        (events("token=nonsense".to_owned()), 401),
        (events(format!("token={token}&channels=dream_images_{foreign}")), 403),
    ] {
        assert_eq!(ada.send(refused).await?.status, status);
    }

    // An event that waits for its user, an error, a resumption that finds nothing.
    let publisher = oneiro.bearer(Some(oneiro_tests::token(&json!({ "user_id": 9, "scope": "publish" }), 600)?))?;
    let waiting = json!({ "type": "notification", "user_id": 1, "data": { "title": "waits" } });
    let publish = publisher.request(reqwest::Method::POST, &format!("{}/api/v1/publish", oneiro.url(Tier::Ws)));
    publisher.send(publish.json(&waiting)).await?.expect(201)?;
    let mut member = Member::connect(&at(&format!("/ws/notifications/?token={token}"))).await?;
    member.expect("notification").await?;
    member.send(&json!({ "type": "nonsense" })).await?;
    member.expect("error").await?;
    member.send(&json!({ "type": "resume", "epoch": "gone", "seq": 1 })).await?;
    member.expect("resume_failed").await?;
    // One delivery in sixteen is measured: those of now, and those of a publisher whose clock is ahead.
    let redis = oneiro.redis_client().await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    for time in [now - 0.01, now + 3_600.0] {
        for n in 0..32 {
            let alert = json!({ "type": "alert", "data": { "id": n }, "timestamp": time }).to_string();
            let _: i64 = redis.publish("alerts", alert).await?;
            member.expect("alert").await?;
        }
    }
    member.leave().await?;
    Member::connect(&at(&format!("/api/v1/ws?token={token}"))).await?.settle().await?;
    ada.watch(Tier::Ws, dream).await?.close().await?;

    // Who does not read is let go.
    let stalled = stall(&at(&format!("/ws/notifications/?token={token}")), port).await?;
    let large = json!({ "type": "alert", "data": { "title": "x".repeat(60_000) } }).to_string();
    let metrics = format!("{}/metrics", oneiro.url(Tier::Ws));
    eventually("who does not read is let go", async || {
        let _: i64 = redis.publish("alerts", large.as_str()).await?;
        Ok(told(&scrape(&metrics).await?).contains_key("oneiro_ws_slow_consumers_total").then_some(()))
    })
    .await?;
    drop(stalled);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_metric_is_scraped_and_every_scraped_one_is_documented() -> Result<()> {
    let worker = format!("127.0.0.1:{}", free_port());
    let oneiro = Oneiro::builder()
        .env("WORKER_METRICS_ADDR", &worker)
        .env("ONEIRO_REALTIME_QUEUE_MESSAGES", "64")
        .start()
        .await?;
    let ada = oneiro.user(1)?;
    let dream = ada.dream(Form::new("Measured", "text").image(1, photo::jpeg(64, 48, 1)?, 0)).await?;
    ada.settled(dream, "completed").await?;
    for tier in [Tier::Api, Tier::Ws] {
        ada.get(&format!("{}/no/such/path", oneiro.url(tier))).await?.expect(404)?;
    }
    be_a_crowd(&oneiro, &ada, dream).await?;

    let urls =
        [oneiro.url(Tier::Api), oneiro.url(Tier::Ws), format!("http://{worker}")].map(|url| format!("{url}/metrics"));
    let names: BTreeSet<String> = documented("OPERATIONS.md")?.union(&documented("REALTIME.md")?).cloned().collect();
    let conditional: BTreeMap<&str, &str> = CONDITIONAL.into();
    let stale: Vec<_> = conditional.keys().filter(|name| !names.contains(**name)).collect();
    ensure!(stale.is_empty(), "no document tells of {stale:?}");
    // Some are set every few seconds only.
    let text = eventually("all of them are told", async || {
        let mut text = String::new();
        for url in &urls {
            text += &scrape(url).await?;
        }
        let told = told(&text);
        let is_here = |name: &&String| !told.contains_key(*name) && !conditional.contains_key(name.as_str());
        let missing: Vec<_> = names.iter().filter(is_here).collect();
        if !missing.is_empty() {
            std::fs::write(oneiro.artifacts().path("missing.txt"), format!("{missing:?}"))?;
        }
        Ok(missing.is_empty().then_some(text))
    })
    .await
    .with_context(|| std::fs::read_to_string(oneiro.artifacts().path("missing.txt")).unwrap_or_default())?;

    let told = told(&text);
    for (name, kind) in &told {
        // The store's own have their table in its README.
        let is_known = !name.starts_with("oneiro_") || names.contains(name);
        ensure!(is_known, "{name} ({kind}) is in no document");
    }
    for (name, kind) in [
        ("oneiro_ws_connections", "gauge"),
        ("oneiro_ws_delivery_seconds", "histogram"),
        ("oneiro_ws_connection_seconds", "histogram"),
        ("oneiro_ws_longest_queue", "gauge"),
        ("oneiro_ws_handshakes_total", "counter"),
        ("oneiro_queue_jobs", "gauge"),
    ] {
        assert_eq!(told.get(name).map(String::as_str), Some(kind), "{name}");
    }
    ensure!(!text.contains(r#"route="""#), "an empty route in {text}");
    for series in [
        r#"oneiro_http_requests_total{method="GET",route="none",status="404"} 1"#,
        r#"oneiro_ws_rejected_total{reason="token"} 2"#,
        r#"oneiro_ws_rejected_total{reason="origin"} 2"#,
        r#"oneiro_ws_rejected_total{reason="forbidden"} 2"#,
        r#"oneiro_ws_rejected_total{reason="dream_id"} 1"#,
        r#"oneiro_ws_closed_total{code="4010"} 1"#,
        r#"oneiro_ws_closed_total{code="1000"} "#,
        r#"oneiro_ws_handshakes_total{dialect="notifications"} "#,
        r#"oneiro_ws_sessions_total{dialect="presence"} 1"#,
        r#"oneiro_ws_frames_dropped_total{reason="slow_consumer"} "#,
        r#"oneiro_ws_resumes_total{outcome="failed"} 1"#,
        "oneiro_ws_inbox_delivered_total ",
        "oneiro_ws_slow_consumers_total 1",
        r#"oneiro_ws_delivery_seconds_bucket{le="+Inf"} "#,
        r#"oneiro_queue_jobs{queue="images",state="completed"} 1"#,
        r#"oneiro_image_runs_total{outcome="completed"} 1"#,
    ] {
        ensure!(text.lines().any(|line| line.starts_with(series)), "{series} is not in {text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stands_still_is_told_as_stuck_and_not_as_alive() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(1).start().await?;
    let metrics = format!("{}/metrics", oneiro.url(Tier::Api));
    let told = async |lines: [&str; 2]| {
        eventually(lines[0], async || {
            let scrape = scrape(&metrics).await?;
            Ok(lines.iter().all(|line| scrape.lines().any(|told| told == *line)).then_some(()))
        })
        .await
    };
    let (alive, stuck) = (r#"oneiro_queue_workers{queue="images"}"#, r#"oneiro_queue_workers_stuck{queue="images"}"#);
    told([&format!("{alive} 1"), &format!("{stuck} 0")]).await?;
    // Its lease runs out in five seconds, and there is no other worker to recover what it holds.
    oneiro.worker(0)?.freeze()?;
    told([&format!("{alive} 0"), &format!("{stuck} 1")]).await?;
    oneiro.worker(0)?.thaw()?;
    told([&format!("{alive} 1"), &format!("{stuck} 0")]).await
}
