//! The operator's program on events and sockets: publishing, following a channel, seeing and ending connections.

use anyhow::{Context, Result, ensure};
use oneiro_tests::{Oneiro, Process, Spawn, Tier, crowd::Member, eventually, program};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

async fn text(oneiro: &Oneiro, args: &[&str]) -> Result<String> {
    let (code, out, errors) = oneiro.cli(args).await?;
    ensure!(code == 0, "oneiro {args:?} ended with {code}: {out}{errors}");
    Ok(out)
}

async fn json(oneiro: &Oneiro, args: &[&str]) -> Result<Value> {
    let out = text(oneiro, &[args, &["--json"]].concat()).await?;
    serde_json::from_str(&out).with_context(|| format!("oneiro {args:?} says {out}"))
}

/// `oneiro ARGS < input`
async fn with_input(oneiro: &Oneiro, args: &[&str], input: &Path) -> Result<String> {
    let mut shell = Spawn::new("/bin/sh").envs(oneiro.env()).env("INPUT", input.to_string_lossy());
    shell = shell.arg("-c").arg(r#"exec "$0" "$@" <"$INPUT""#).arg(program("oneiro")?.to_string_lossy());
    for arg in args {
        shell = shell.arg(*arg);
    }
    let (code, out, errors) = shell.run().await?;
    ensure!(code == 0, "oneiro {args:?} ended with {code}: {out}{errors}");
    Ok(out)
}

fn file(oneiro: &Oneiro, name: &str, content: &str) -> Result<String> {
    let path = oneiro.artifacts().path(name);
    std::fs::write(&path, content)?;
    Ok(path.to_string_lossy().into_owned())
}

/// A socket of dialect N, settled: what is published from now on reaches it.
async fn notifications(oneiro: &Oneiro, tier: Tier, user: u64) -> Result<Member> {
    let token = oneiro.user(user)?.token().to_owned();
    let url = format!("ws://127.0.0.1:{}/ws/notifications/?token={token}", oneiro.port(tier));
    let mut member = Member::connect(&url).await?;
    member.settle().await?;
    Ok(member)
}

async fn subscribe(member: &mut Member, channel: &str) -> Result<()> {
    member.send(&json!({ "type": "subscribe", "channels": [channel] })).await?;
    let answer = member.expect("subscription_success").await?;
    ensure!(answer["channels"] == json!([channel]), "{answer}");
    Ok(())
}

/// `oneiro events tail`, whose lines are read as they come.
struct Tail(Process);

impl Tail {
    fn start(oneiro: &Oneiro, name: &str, args: &[&str]) -> Result<Self> {
        let mut spawn = Spawn::new(program("oneiro")?).envs(oneiro.env()).arg("events").arg("tail");
        for arg in args {
            spawn = spawn.arg(*arg);
        }
        Ok(Self(spawn.start(oneiro.artifacts().path(name))?))
    }

    fn lines(&self) -> Result<Vec<Value>> {
        let output = self.0.output()?;
        Ok(output.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// The first `count` lines, once they are there.
    async fn told(&mut self, count: usize) -> Result<Vec<Value>> {
        eventually(&format!("{count} events are told"), async || {
            ensure!(!self.0.has_ended()?, "the program ended: {}", self.0.output()?);
            Ok(Some(self.lines()?).filter(|lines| lines.len() >= count))
        })
        .await
    }

    /// Ends it as a person does.
    async fn stop(mut self) -> Result<()> {
        self.0.interrupt()?;
        let status = self.0.ended().await?;
        ensure!(status.success(), "Ctrl-C is how it ends: {status}: {}", self.0.output()?);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_published_to_users_channels_and_everybody() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let mut ada = notifications(&oneiro, Tier::Ws, 1).await?;
    let mut bob = notifications(&oneiro, Tier::Api, 2).await?;
    subscribe(&mut bob, "post_1").await?;
    let hi = file(&oneiro, "hi.json", r#"{"id":"7","title":"Hi","content":"from a file"}"#)?;

    let published = json(&oneiro, &["publish", "notification", "--user", "1", &hi]).await?;
    assert_eq!((&published["channel"], &published["offset"]), (&json!("user_1"), &json!(1)), "{published}");
    let seen = ada.expect("notification").await?;
    assert_eq!((&seen["data"]["id"], &seen["data"]["content"]), (&json!("7"), &json!("from a file")), "{seen}");

    let said = with_input(&oneiro, &["publish", "edited", "--channel", "post_1"], Path::new(&hi)).await?;
    assert!(said.contains("published on post_1 as number 1"), "{said}");
    let said = with_input(&oneiro, &["publish", "edited", "--channel", "post_1", "-"], Path::new(&hi)).await?;
    assert!(said.contains("as number 2"), "{said}");
    for _ in 0..2 {
        assert_eq!(bob.expect("edited").await?["data"]["title"], "Hi");
    }

    assert_eq!(json(&oneiro, &["publish", "alert", &hi]).await?["channel"], "alerts");
    for member in [&mut ada, &mut bob] {
        let next = member.next().await?.map_err(|closed| anyhow::anyhow!("{closed:?}"))?;
        assert_eq!((&next["type"], &next["data"]["title"]), (&json!("alert"), &json!("Hi")), "and nothing before it");
    }

    let nonsense = file(&oneiro, "nonsense.json", "[1]")?;
    let large = file(&oneiro, "large.json", &json!({ "a": "x".repeat(70_000) }).to_string())?;
    for (args, word) in [
        (["--user", "1", "/not/there.json"].as_slice(), "/not/there.json"),
        (&["--user", "1", &nonsense], "JSON object"),
        (&["--user", "1", &large], "65536"),
        (&["--user", "1", "--channel", "post_1", &hi], "user_id"),
        (&["--channel", "socket_control", &hi], "kept for the service"),
        (&["--channel", "no channel", &hi], "channel"),
        (&["--ttl", "0", "--user", "1", &hi], "ttl"),
        (&[&hi], "user_id"),
    ] {
        let (code, out, errors) = oneiro.cli(&[&["publish", "notification"], args].concat()).await?;
        assert!(code == 1 && errors.contains(word), "{args:?}: {code} {out}{errors}");
    }
    ada.settle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_worth_delivering_for_a_while_is_not_delivered_later() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let brief = file(&oneiro, "brief.json", r#"{"id":"1","title":"brief"}"#)?;
    let lasting = file(&oneiro, "lasting.json", r#"{"id":"2","title":"lasting"}"#)?;
    text(&oneiro, &["publish", "notification", "--user", "1", "--ttl", "1", &brief]).await?;
    text(&oneiro, &["publish", "notification", "--user", "1", "--ttl", "3600", &lasting]).await?;
    let mut tail = Tail::start(&oneiro, "inbox.log", &["user_1"])?;
    let waiting = tail.told(2).await?;
    tail.stop().await?;
    let ends = |event: &Value| event["event"]["expires_at_ms"].as_u64().context("when it expires");
    let (first, second) = (ends(&waiting[0])?, ends(&waiting[1])?);
    ensure!(second > first + 3_000_000, "an hour is longer than a second: {waiting:?}");
    eventually("the first has expired", async || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        Ok((now > u128::from(first)).then_some(()))
    })
    .await?;
    let token = oneiro.user(1)?.token().to_owned();
    let url = format!("ws://127.0.0.1:{}/ws/notifications/?token={token}", oneiro.port(Tier::Ws));
    let mut ada = Member::connect(&url).await?;
    assert_eq!(ada.expect("notification").await?["data"]["title"], "lasting");
    ada.settle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_followed_with_as_much_of_its_past_as_was_asked_for() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let publish = async |n: u64| {
        let data = file(&oneiro, "event.json", &json!({ "n": n }).to_string())?;
        text(&oneiro, &["publish", "edited", "--channel", "post_1", &data]).await
    };
    for n in 1..=3 {
        publish(n).await?;
    }
    let mut all = Tail::start(&oneiro, "all.log", &["post_1"])?;
    let mut last = Tail::start(&oneiro, "last.log", &["post_1", "--history", "1"])?;
    let told = all.told(3).await?;
    assert_eq!((&told[0]["channel"], &told[0]["position"]["offset"]), (&json!("post_1"), &json!(1)), "{told:?}");
    last.told(1).await?;
    // Both have read the past, and were listening before that.
    publish(4).await?;
    let numbers = |lines: &[Value]| lines.iter().map(|line| line["event"]["data"]["n"].clone()).collect::<Vec<_>>();
    assert_eq!(numbers(&all.told(4).await?), [1, 2, 3, 4].map(Value::from), "each once, in order");
    assert_eq!(numbers(&last.told(2).await?), [3, 4].map(Value::from));
    all.stop().await?;
    last.stop().await?;
    let (code, _, errors) = oneiro.cli(&["events", "tail", "no channel"]).await?;
    assert!(code == 1 && errors.contains("no channel"), "{code}: {errors}");
    let (code, ..) = oneiro.cli(&["events", "tail", "post_1", "--history", "1001"]).await?;
    assert_eq!(code, 2, "more than is kept");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn open_sockets_are_listed_and_ended_by_user() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let mut here = notifications(&oneiro, Tier::Ws, 1).await?;
    let mut there = notifications(&oneiro, Tier::Api, 1).await?;
    let mut bob = notifications(&oneiro, Tier::Ws, 2).await?;
    // A process that has just started may not hear questions yet, and one that is busy answers too late; the listing says so.
    let list = async |args: &[&str]| {
        eventually("all processes answer", async || {
            let Ok(listing) = json(&oneiro, &[&["sockets", "list"], args].concat()).await else { return Ok(None) };
            Ok((listing["nodes"] == 2 && listing["is_complete"] == true).then_some(listing))
        })
        .await
    };
    let all = list(&[]).await?;
    assert_eq!(all["total"], 3, "{all}");
    let adas = list(&["--user", "1"]).await?;
    let sockets = adas["sockets"].as_array().context("sockets")?;
    assert_eq!(sockets.len(), 2, "{adas}");
    for socket in sockets {
        assert_eq!((&socket["user_id"], &socket["dialect"]), (&json!(1), &json!("notifications")), "{socket}");
        assert_eq!(socket["address"], "127.0.0.1", "{socket}");
    }
    let id = sockets[0]["id"].as_str().context("an id")?;
    let node = id.split_once('-').context("process and number")?.0;
    assert_eq!(list(&["--user", "1", "--node", node]).await?["total"], 1);
    let one = list(&["--limit", "1", "--user", "1", "--node", node]).await?;
    assert_eq!(one["sockets"].as_array().map(Vec::len), Some(1));
    eventually("the table of all", async || {
        let Ok(table) = text(&oneiro, &["sockets", "list"]).await else { return Ok(None) };
        Ok((table.contains(id) && table.contains("3 of 3 connections on 2 processes")).then_some(()))
    })
    .await?;

    let said = text(&oneiro, &["sockets", "kick", "--user", "1"]).await?;
    assert!(said.contains("user 1"), "{said}");
    for member in [&mut here, &mut there] {
        assert_eq!(member.next().await?, Err((1000, "signed out".to_owned())));
    }
    eventually("only the other user is left", async || {
        let Ok(left) = json(&oneiro, &["sockets", "list"]).await else { return Ok(None) };
        Ok((left["total"] == 1 && left["sockets"][0]["user_id"] == 2).then_some(()))
    })
    .await?;
    bob.settle().await?;
    // The token is still good: who was ended may come back.
    notifications(&oneiro, Tier::Ws, 1).await?;
    let (code, ..) = oneiro.cli(&["sockets", "kick"]).await?;
    assert_eq!(code, 2, "nobody to end");
    Ok(())
}
