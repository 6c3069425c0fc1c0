use crate::{broker, channel, redis::Redis};
use fred::interfaces::{ClientLike, HashesInterface, KeysInterface, LuaInterface};
use fred::types::{ClusterHash, CustomCommand, Value};
use oneiro_events::{Broker, BrokerOptions, Commit, EventError, Position, Retention};
use std::time::Duration;

#[tokio::test]
async fn offsets_count_up_from_one_and_history_returns_what_came_after() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let name = channel("a");
    assert_eq!(broker.position(&name).await.unwrap(), Position::origin());
    let mut positions = Vec::new();
    for n in 0..5 {
        positions.push(broker.publish(&name, format!("{{\"n\":{n}}}").as_bytes()).await.unwrap());
    }
    assert_eq!(positions.iter().map(|p| p.offset).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let history = broker.history(&name, Some(&positions[2]), 10).await.unwrap();
    assert!(history.is_complete);
    assert_eq!(history.position, positions[4]);
    assert_eq!(history.publications.iter().map(|p| &p.payload[..]).collect::<Vec<_>>(), [b"{\"n\":3}", b"{\"n\":4}"]);
    let all = broker.history(&name, Some(&Position::origin()), 2).await.unwrap();
    assert!(all.is_complete);
    assert_eq!(all.publications.len(), 2);
    let latest = broker.history(&name, None, 2).await.unwrap();
    assert_eq!(latest.publications.iter().filter_map(|p| p.position.clone()).collect::<Vec<_>>(), positions[3..]);
}

#[tokio::test]
async fn history_says_when_it_was_trimmed_or_belongs_to_another_epoch() {
    let redis = Redis::start().await;
    let client = redis.client().await;
    let broker = Broker::new(client.clone(), BrokerOptions { history_len: 10, ..BrokerOptions::default() });
    let name = channel("a");
    let first = broker.publish(&name, b"1").await.unwrap();
    for _ in 0..500 {
        broker.publish(&name, b"2").await.unwrap();
    }
    let history = broker.history(&name, Some(&first), 1_000).await.unwrap();
    assert!(!history.is_complete && history.publications.is_empty());
    assert_eq!(history.position.offset, 501);

    client.flushall::<()>(false).await.unwrap();
    let fresh = broker.publish(&name, b"3").await.unwrap();
    assert_eq!(fresh.offset, 1);
    assert_ne!(fresh.epoch, first.epoch);
    assert!(!broker.history(&name, Some(&first), 10).await.unwrap().is_complete);
    assert!(broker.history(&name, Some(&fresh), 10).await.unwrap().is_complete);
}

#[tokio::test]
async fn commit_changes_document_and_history_together_or_not_at_all() {
    let redis = Redis::start().await;
    let client = redis.client().await;
    let broker = Broker::new(client.clone(), BrokerOptions::default());
    let name = channel("dream_images_1");
    let commit = |expected, body: Option<&'static [u8]>, event: Option<&'static [u8]>| Commit {
        expected,
        body,
        event,
        expire_after: None,
    };

    let made = broker.commit(&name, commit(None, Some(b"one"), Some(b"{\"v\":1}"))).await.unwrap();
    assert_eq!((made.revision, made.position.as_ref().map(|p| p.offset)), (1, Some(1)));
    let (document, position) = broker.snapshot(&name).await.unwrap();
    let document = document.unwrap();
    assert_eq!((document.revision, &document.body[..], Some(position)), (1, &b"one"[..], made.position));

    for expected in [None, Some(7)] {
        match broker.commit(&name, commit(expected, Some(b"no"), Some(b"{}"))).await {
            Err(EventError::Conflict { current: Some(1), .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(broker.position(&name).await.unwrap().offset, 1);

    let silent = broker.commit(&name, commit(Some(1), Some(b"two"), None)).await.unwrap();
    assert_eq!((silent.revision, silent.position), (2, None));
    let gone = broker.commit(&name, commit(Some(2), None, Some(b"{\"v\":3}"))).await.unwrap();
    assert_eq!(gone.revision, 3);
    assert_eq!(broker.document(&name).await.unwrap(), None);
    match broker.commit(&name, commit(Some(3), Some(b"x"), None)).await {
        Err(EventError::Conflict { current: None, .. }) => {}
        other => panic!("{other:?}"),
    }
    let again = broker.commit(&name, commit(None, Some(b"four"), None)).await.unwrap();
    assert_eq!(again.revision, 4);

    let keys = "oneiro:ev:m:{dream_images_1}";
    assert_eq!(client.pttl::<i64, _>(keys).await.unwrap(), -1, "a document without an expiry stays");
    broker.publish(&name, b"{}").await.unwrap();
    assert_eq!(client.pttl::<i64, _>(keys).await.unwrap(), -1, "publishing does not shorten a document's life");
    let expiring = Commit { expire_after: Some(Duration::from_secs(60)), ..commit(Some(4), Some(b"five"), None) };
    broker.commit(&name, expiring).await.unwrap();
    let ttl = client.pttl::<i64, _>(keys).await.unwrap();
    assert!((1..=60_000).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn concurrent_commits_lose_no_update() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let name = channel("counter");
    let workers = (0..8).map(|_| {
        let (broker, name) = (broker.clone(), name.clone());
        tokio::spawn(async move {
            for _ in 0..25 {
                loop {
                    let document = broker.document(&name).await.unwrap();
                    let count: u64 =
                        document.as_ref().map_or(0, |d| std::str::from_utf8(&d.body).unwrap().parse().unwrap());
                    let body = (count + 1).to_string();
                    let commit = Commit {
                        expected: document.map(|d| d.revision),
                        body: Some(body.as_bytes()),
                        event: Some(body.as_bytes()),
                        expire_after: None,
                    };
                    match broker.commit(&name, commit).await {
                        Ok(_) => break,
                        Err(EventError::Conflict { .. }) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    let document = broker.document(&name).await.unwrap().unwrap();
    assert_eq!((&document.body[..], document.revision), (&b"200"[..], 200));
    let history = broker.history(&name, Some(&Position::origin()), 1_000).await.unwrap();
    let events: Vec<_> = history.publications.iter().map(|p| String::from_utf8(p.payload.to_vec()).unwrap()).collect();
    assert_eq!(events, (1..=200).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_repeated_call_takes_effect_once() {
    let redis = Redis::start().await;
    let client = redis.client().await;
    let name = channel("a");
    let script = concat!(
        "local PUBLISH = 'PUBLISH'\n",
        include_str!("../../src/lua/channel.lua"),
        include_str!("../../src/lua/publish.lua")
    );
    let publish = async |nonce: &str| -> (String, u64) {
        let mut args: Vec<Value> = vec![script.into(), 2.into(), "oneiro:ev:m:{a}".into(), "oneiro:ev:s:{a}".into()];
        args.extend(["a", "{}", "abc", nonce, "100", "100000", "100000", "oneiro:ev:c:{a}"].map(Value::from));
        client.custom(CustomCommand::new_static("EVAL", ClusterHash::FirstKey, false), args).await.unwrap()
    };
    // As the client does when answers were cut off: the same calls again, of which many may have been under way, and others between them.
    let nonces: Vec<String> =
        (0..25).map(|n: u64| format!("{:012x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16)).collect();
    for (n, nonce) in (1..).zip(&nonces) {
        assert_eq!(publish(nonce).await, ("abc".to_owned(), n));
    }
    let broker = Broker::new(client.clone(), BrokerOptions::default());
    let created = Commit { expected: None, body: Some(b"{}"), event: Some(b"{}"), expire_after: None };
    broker.commit(&name, created).await.unwrap();
    for (n, nonce) in (1..).zip(&nonces) {
        assert_eq!(publish(nonce).await, ("abc".to_owned(), n));
    }
    assert_eq!(broker.position(&name).await.unwrap().offset, 26);
    // Older ones are forgotten, in the end: a channel does not grow for it.
    for n in 0..300 {
        publish(&format!("{n:012x}")).await;
    }
    let calls: String = client.hget("oneiro:ev:m:{a}", "n").await.unwrap();
    assert!(calls.len() < 700, "{} bytes", calls.len());
}

#[tokio::test]
async fn scripts_come_back_after_script_flush_and_restart() {
    let mut redis = Redis::start().await;
    let client = redis.client().await;
    let broker = Broker::new(client.clone(), BrokerOptions::default());
    let name = channel("a");
    assert_eq!(broker.publish(&name, b"{}").await.unwrap().offset, 1);
    client.script_flush(false).await.unwrap();
    assert_eq!(broker.publish(&name, b"{}").await.unwrap().offset, 2);
    redis.restart().await;
    assert_eq!(broker.publish(&name, b"{}").await.unwrap().offset, 3);
}

#[tokio::test]
async fn a_long_life_is_not_shortened_by_the_next_event() {
    let redis = Redis::start().await;
    let client = redis.client().await;
    let broker = Broker::new(client.clone(), BrokerOptions::default());
    let (name, month) = (channel("user_1"), Duration::from_secs(30 * 24 * 60 * 60));
    let first = broker.publish_with(&name, b"1", Retention { history_len: 10, history_ttl: month }).await.unwrap();
    broker.publish(&name, b"2").await.unwrap();
    for key in ["oneiro:ev:s:{user_1}", "oneiro:ev:m:{user_1}"] {
        let left = Duration::from_millis(client.pttl(key).await.unwrap());
        assert!(left > month / 2, "{key} lives for {left:?}");
    }
    assert!(broker.history(&name, Some(&first), 10).await.unwrap().is_complete);
}

#[tokio::test]
async fn a_cursor_is_remembered_for_as_long_as_there_are_events_to_read() {
    let redis = Redis::start().await;
    let client = redis.client().await;
    let broker = Broker::new(client.clone(), BrokerOptions::default());
    let (name, brief, month) = (channel("user_1"), Duration::from_secs(1), Duration::from_secs(30 * 24 * 60 * 60));
    let long = Retention { history_len: 10, history_ttl: month };
    let lives = || async { Duration::from_millis(client.pttl("oneiro:ev:c:{user_1}").await.unwrap()) };
    // Events that are kept for longer than the reader asks for.
    let first = broker.publish_with(&name, b"1", long).await.unwrap();
    broker.advance_cursor(&name, "n", &first, brief).await.unwrap();
    assert!(lives().await > month / 2);
    client.pexpire::<(), _>("oneiro:ev:c:{user_1}", 60_000, None).await.unwrap();
    // Events that do not concern the reader, who stays where it was.
    broker.publish_with(&name, b"2", long).await.unwrap();
    assert!(lives().await > month / 2);
    client.pexpire::<(), _>("oneiro:ev:c:{user_1}", 60_000, None).await.unwrap();
    broker.advance_cursor(&name, "n", &first, brief).await.unwrap();
    assert!(lives().await > month / 2);
    assert_eq!(broker.cursor(&name, "n").await.unwrap(), Some(first));
}

#[tokio::test]
async fn cursors_go_forward_only_within_an_epoch() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let name = channel("user_1");
    let ttl = Duration::from_secs(60);
    assert_eq!(broker.cursor(&name, "n").await.unwrap(), None);
    for (advance, expected) in [("abc:5", "abc:5"), ("abc:3", "abc:5"), ("abc:10", "abc:10"), ("def:1", "def:1")] {
        let position: Position = advance.parse().unwrap();
        broker.advance_cursor(&name, "n", &position, ttl).await.unwrap();
        assert_eq!(broker.cursor(&name, "n").await.unwrap().unwrap().to_string(), expected);
    }
    assert_eq!(broker.cursor(&name, "p").await.unwrap(), None);
}
