//! Many sockets on real processes: the network and Redis fail under them, some do not read, processes die and are replaced.
//!
//! `ONEIRO_TEST_SCALE=full` runs each with as many as the promise names.

use anyhow::{Context, Result, ensure};
use fred::interfaces::SortedSetsInterface;
use futures::future::try_join_all;
use oneiro_events::{Broker, BrokerOptions};
use oneiro_tests::{
    Oneiro, PATIENCE, Process, Spawn, Tier,
    crowd::{Member, allow_many_files, gather, resident_kib, scaled},
    eventually, free_port, program, token, within,
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    task::JoinSet,
};

/// Sockets alone, without the limits that are for strangers: here everybody has the same address.
async fn sockets(proxied: bool) -> Result<Oneiro> {
    allow_many_files()?;
    let builder = Oneiro::builder().workers(0).env("ONEIRO_REALTIME_HANDSHAKES_PER_SECOND_PER_ADDRESS", "0");
    let builder = builder.env("ONEIRO_REALTIME_DRAIN_RETRY_AFTER_SECONDS", "[1, 2]").env("RUST_LOG", "info");
    if proxied { builder.proxy() } else { builder }.start().await
}

fn notifications(port: u16, user: usize) -> Result<String> {
    let token = token(&json!({ "user_id": user }), 3_600)?;
    Ok(format!("ws://127.0.0.1:{port}/ws/notifications/?positions=1&token={token}"))
}

fn numbered(n: u64) -> Value {
    json!({ "type": "edited", "data": { "n": n } })
}

/// Reads until event `last`; fails at the first gap, repetition or change of order.
async fn read_all(mut member: Member, last: u64, reached: Arc<AtomicU64>) -> Result<()> {
    for n in 1..=last {
        let event = member.expect("edited").await.with_context(|| format!("event {n}"))?;
        ensure!(event["data"]["n"] == n && event["seq"] == n, "expected event {n}: {event}");
        reached.fetch_max(n, Ordering::Relaxed);
    }
    member.settle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_sees_the_same_events_over_cut_connections_and_restarts_of_redis() -> Result<()> {
    let mut oneiro = sockets(true).await?;
    let (clients, last) = (scaled(150, 1_000), 240);
    let (ws, api) = (oneiro.port(Tier::Ws), oneiro.port(Tier::Api));
    let urls = (0..clients).map(|user| notifications(if user % 2 == 0 { ws } else { api }, user));
    let mut members = gather(urls.collect::<Result<Vec<_>>>()?).await?;
    try_join_all(members.iter_mut().map(async |member| {
        member.send(&json!({ "type": "subscribe", "channels": ["post_1"] })).await?;
        member.expect("subscription_success").await.map(|_| ())
    }))
    .await?;
    let reached = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for member in members {
        readers.spawn(read_all(member, last, Arc::clone(&reached)));
    }
    // Published next to the broken network, as another process would.
    let mut broker = events_broker(&oneiro).await?;
    for n in 1..=last {
        broker.publish(&"post_1".parse()?, numbered(n).to_string().as_bytes()).await?;
        match n {
            // In mid-stream: some have been told, and what follows is published while nobody can be told.
            60 => {
                eventually("somebody is told", async || Ok((reached.load(Ordering::Relaxed) > 0).then_some(())))
                    .await?;
                oneiro.proxy()?.cut();
            }
            90 => oneiro.proxy()?.restore(),
            120 => {
                oneiro.redis.kill().await?;
                oneiro.redis.resume().await?;
                broker = events_broker(&oneiro).await?;
            }
            180 => {
                oneiro.redis.stop().await?;
                oneiro.redis.resume().await?;
                broker = events_broker(&oneiro).await?;
            }
            _ => {}
        }
    }
    while let Some(reader) = readers.join_next().await {
        reader??;
    }
    Ok(())
}

/// Publishes as the programs do, on a connection of its own.
async fn events_broker(oneiro: &Oneiro) -> Result<Broker> {
    let options = BrokerOptions { key_prefix: "oneiro".to_owned(), ..BrokerOptions::default() };
    Ok(Broker::new(oneiro.redis_client().await?, options))
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stall_cost_bounded_memory_and_nobody_an_event() -> Result<()> {
    let mut oneiro = sockets(false).await?;
    let (stalled, last, size) = (scaled(60, 1_000), 1_500_u64, 16 * 1_024);
    let port = oneiro.port(Tier::Ws);
    let mut readers =
        gather((0..10).map(|user| notifications(port, 1_000_000 + user)).collect::<Result<Vec<_>>>()?).await?;
    // Small kernel buffers, and after the upgrade not a byte is read.
    let mut silent = Vec::new();
    for user in 0..stalled {
        silent.push(stall(&notifications(port, user)?, port).await?);
    }
    let pid = oneiro.ws()?.id()?;
    let before = resident_kib(pid)?;
    let broker = events_broker(&oneiro).await?;
    let filler = "x".repeat(size);
    let alerts = "alerts".parse()?;
    for n in 1..=last {
        let alert = json!({ "type": "alert", "data": { "id": n, "title": filler } });
        broker.publish(&alerts, alert.to_string().as_bytes()).await?;
        for reader in &mut readers {
            let seen = reader.expect("alert").await?;
            ensure!(seen["seq"] == n, "expected event {n}, not {}", seen["seq"]);
        }
    }
    // A queue holds a megabyte at most, and one serialized event is shared by all of them; beyond that only what the allocator keeps.
    let grown = resident_kib(pid)?.saturating_sub(before);
    ensure!(grown < 64 * 1_024, "{grown} KiB more for {stalled} stalled readers");
    // Their queues are full: each has been let go.
    let metrics = format!("{}/metrics", oneiro.url(Tier::Ws));
    eventually("the stalled are let go", async || {
        let text = reqwest::get(&metrics).await?.text().await?;
        let open = text.lines().find_map(|line| line.strip_prefix("oneiro_ws_connections ")).unwrap_or("?");
        Ok((open.parse() == Ok(readers.len())).then_some(()))
    })
    .await?;
    drop(silent);
    Ok(())
}

/// An upgraded socket that is not read.
pub(crate) async fn stall(url: &str, port: u16) -> Result<tokio::net::TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await?;
    let path = url.split_once(&format!(":{port}")).context("the URL has the port")?.1;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; 12];
    within("an answer", stream.read_exact(&mut status)).await??;
    ensure!(&status == b"HTTP/1.1 101", "{}", String::from_utf8_lossy(&status));
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_reconnects_resumes_everybody() -> Result<()> {
    let mut oneiro = sockets(false).await?;
    let clients = scaled(400, 10_000);
    let broker = events_broker(&oneiro).await?;
    let post = "post_1".parse()?;
    let first = broker.publish(&post, numbered(1).to_string().as_bytes()).await?;
    let port = oneiro.port(Tier::Ws);
    let urls = (0..clients).map(|user| notifications(port, user)).collect::<Result<Vec<_>>>()?;
    let members = gather(urls.clone()).await?;
    // Not a goodbye: the process dies, and everybody comes back at once.
    oneiro.ws()?.kill().await?;
    drop(members);
    for n in 2..=4 {
        broker.publish(&post, numbered(n).to_string().as_bytes()).await?;
    }
    oneiro.start_ws()?;
    oneiro.ready().await?;
    let since = json!({ "epoch": first.epoch, "offset": first.offset });
    let resume = json!({ "type": "subscribe", "channels": ["post_1"], "since": since });
    let begun = Instant::now();
    try_join_all(urls.iter().map(async |url| {
        // A server that is too busy says when to come back.
        let mut member = loop {
            // So many at once may find a handshake's time over.
            let Ok(mut member) = Member::connect(url).await else {
                ensure!(begun.elapsed() < PATIENCE, "never let in");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            // Where it closes at the same moment, its close frame is read below.
            let _ = member.send(&resume).await;
            let (code, reason) = loop {
                match member.next().await? {
                    Ok(frame) if frame["type"] == "resumed" => {
                        ensure!(frame["recovered"] == 3, "three were missed: {frame}");
                        break (0, String::new());
                    }
                    Ok(frame) => ensure!(frame["type"] == "subscription_success", "{frame}"),
                    Err(closed) => break closed,
                }
            };
            if code == 0 {
                break member;
            }
            let pause = reason.strip_prefix("retry_after=").filter(|_| code == 1013);
            let pause = pause.with_context(|| format!("closed with {code} `{reason}`"))?;
            tokio::time::sleep(Duration::from_secs(pause.parse()?)).await;
        };
        for n in 2..=4 {
            let event = member.expect("edited").await?;
            ensure!(event["data"]["n"] == n, "expected event {n}: {event}");
        }
        Ok(())
    }))
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_connections_that_came_and_went() -> Result<()> {
    let mut oneiro = sockets(false).await?;
    let (at_once, rounds) = (100, scaled(30, 10_000));
    let (port, pid) = (oneiro.port(Tier::Ws), oneiro.ws()?.id()?);
    let mut settled_at = None;
    for round in 0..rounds {
        let urls = (0..at_once).map(|n| notifications(port, round * at_once + n)).collect::<Result<Vec<_>>>()?;
        try_join_all(gather(urls).await?.into_iter().map(Member::leave)).await?;
        // The first third fills what is kept on purpose: allocator, tables, records.
        if round == rounds / 3 {
            settled_at = Some(resident_kib(pid)?);
        }
    }
    let before = settled_at.context("there were rounds")?;
    let after = resident_kib(pid)?;
    // A page or two of the allocator is no leak: a leak of 100 bytes a connection would show as 65 MiB at full scale.
    ensure!(after <= before + (before / 20).max(2_048), "{before} KiB after a third, {after} KiB at the end");
    Ok(())
}

/// A second `ws`, beside the environment's own.
fn second_ws(oneiro: &Oneiro, port: u16) -> Result<Process> {
    let spawn = Spawn::new(program("ws")?).envs(oneiro.env()).env("WS_ADDR", format!("127.0.0.1:{port}"));
    spawn.start(oneiro.artifacts().path("ws-second.log"))
}

async fn is_ready(port: u16) -> Result<()> {
    let url = format!("http://127.0.0.1:{port}/readyz");
    eventually("a ws is ready", async || {
        Ok(reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()).then_some(()))
    })
    .await
}

/// Follows post_1 over two processes as the client library does: after 1012 it waits as it is told, comes back where somebody listens, and resumes.
async fn follow(
    ports: [u16; 2],
    user: usize,
    there: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    last: Arc<AtomicU64>,
) -> Result<u64> {
    let mut at: Option<Value> = None;
    let (mut seen, mut breaks) = (0, 0);
    for attempt in user.. {
        let Ok(mut member) = Member::connect(&notifications(ports[attempt % 2], user)?).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let mut subscribe = json!({ "type": "subscribe", "channels": ["post_1"] });
        if let Some(at) = &at {
            subscribe["since"] = at.clone();
        }
        // Where the process closes at the same moment, its close frame is read below.
        let _ = member.send(&subscribe).await;
        let closed = loop {
            match member.next().await? {
                Ok(frame) if frame["type"] == "edited" => {
                    seen += 1;
                    there.fetch_add(u64::from(seen == 1), Ordering::Release);
                    ensure!(frame["data"]["n"] == seen, "client {user} expected event {seen}: {frame}");
                    at = Some(json!({ "epoch": frame["epoch"], "offset": frame["seq"] }));
                }
                Ok(frame) if frame["type"] == "subscription_success" => {
                    there.fetch_add(u64::from(breaks == 0), Ordering::Release);
                }
                Ok(frame) => ensure!(frame["type"] != "resume_failed", "{frame}"),
                Err(closed) => break closed,
            }
            if done.load(Ordering::Acquire) && seen == last.load(Ordering::Acquire) {
                return Ok(breaks);
            }
        };
        let (code, reason) = closed;
        ensure!(code == 1012, "closed with {code} `{reason}`");
        let seconds = reason.strip_prefix("retry_after=").context("a pause")?.parse()?;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        breaks += 1;
    }
    Ok(breaks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_two_processes_loses_no_event() -> Result<()> {
    let mut oneiro = sockets(false).await?;
    let ports = [oneiro.port(Tier::Ws), free_port()];
    let mut second = second_ws(&oneiro, ports[1])?;
    is_ready(ports[1]).await?;
    let clients = scaled(60, 1_000);
    let (done, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let there = Arc::new(AtomicU64::new(0));
    let mut followers = JoinSet::new();
    for user in 0..clients {
        followers.spawn(follow(ports, user, Arc::clone(&there), Arc::clone(&done), Arc::clone(&last)));
    }
    // Everybody has subscribed, and then has a position to resume from.
    let broker = events_broker(&oneiro).await?;
    for counted in [clients as u64, 2 * clients as u64] {
        eventually("everybody is there", async || Ok((there.load(Ordering::Acquire) == counted).then_some(()))).await?;
        if counted == clients as u64 {
            last.store(1, Ordering::Release);
            broker.publish(&"post_1".parse()?, numbered(1).to_string().as_bytes()).await?;
        }
    }
    let load = tokio::spawn({
        let (done, last) = (Arc::clone(&done), Arc::clone(&last));
        async move {
            let post = "post_1".parse()?;
            // One event after the end of the restarts too, so that everybody who waits is woken.
            loop {
                let is_last = done.load(Ordering::Acquire);
                let n = last.load(Ordering::Acquire) + 1;
                last.store(n, Ordering::Release);
                broker.publish(&post, numbered(n).to_string().as_bytes()).await?;
                if is_last {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    oneiro.ws()?.terminate()?;
    ensure!(oneiro.ws()?.ended().await?.success(), "the first ends well");
    oneiro.start_ws()?;
    oneiro.ready().await?;
    second.terminate()?;
    ensure!(second.ended().await?.success(), "the second ends well");
    second = second_ws(&oneiro, ports[1])?;
    is_ready(ports[1]).await?;
    done.store(true, Ordering::Release);
    load.await??;
    let mut breaks = 0;
    while let Some(follower) = followers.join_next().await {
        breaks += follower??;
    }
    ensure!(breaks >= clients as u64, "everybody was sent away at least once: {breaks}");
    drop(second);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_users_of_a_killed_process_go_offline_and_leave_no_ghosts() -> Result<()> {
    let mut oneiro = sockets(false).await?;
    let users = scaled(40, 500);
    let presence = |port: u16, user: usize| -> Result<String> {
        let token = token(&json!({ "user_id": user }), 3_600)?;
        Ok(format!("ws://127.0.0.1:{port}/api/v1/ws?token={token}"))
    };
    let mut ada = gather([presence(oneiro.port(Tier::Api), 1_000_000)?]).await?.pop().context("ada")?;
    let port = oneiro.port(Tier::Ws);
    let doomed = gather((0..users).map(|user| presence(port, user)).collect::<Result<Vec<_>>>()?).await?;
    let of_ada = oneiro.user(1_000_000)?;
    let count =
        async || anyhow::Ok(of_ada.get("/api/v1/online/count").await?.expect(200)?.json["online_count"].clone());
    ensure!(count().await? == users + 1, "everybody is online");
    oneiro.ws()?.kill().await?;
    // No ghost for longer than 15 s, a bound that does not depend on this machine: no lease ends later than ten seconds from now, which is the
    // default, and whoever lives looks once a second for those that have ended.
    let lease = Duration::from_secs(10);
    let leases: Vec<(String, f64)> =
        oneiro.redis_client().await?.zrange("oneiro:p:{presence}:nodes", 0, -1, None, false, None, true).await?;
    let latest = (SystemTime::now().duration_since(UNIX_EPOCH)? + lease).as_millis() as f64;
    ensure!(leases.len() >= 2 && leases.iter().all(|(_, end)| *end <= latest), "{leases:?}, latest {latest}");
    drop(doomed);
    let mut offline = std::collections::BTreeSet::new();
    while offline.len() < users {
        let told = ada.expect("user_status").await?;
        if told["data"]["status"] == "offline" {
            ensure!(offline.insert(told["data"]["user_id"].as_u64()), "told twice: {told}");
        }
    }
    ensure!(count().await? == 1, "ada alone");
    Ok(())
}
