use crate::{
    broker, channel,
    redis::{PATIENCE, Redis},
};
use fred::interfaces::{ClientLike, HashesInterface, SortedSetsInterface};
use oneiro_events::{
    Broker, BrokerOptions, Position,
    presence::{Presence, PresenceOptions},
};
use std::time::Duration;

fn options(lease: Duration, grace: Duration) -> PresenceOptions {
    let event = |online: bool| (if online { "+" } else { "-" }.to_owned(), String::new());
    PresenceOptions { channel: channel("presence"), lease, grace, tell_up_to: 1_000, event }
}

const LONG: Duration = Duration::from_secs(600);

async fn told(broker: &Broker) -> Vec<String> {
    let history = broker.history(&channel("presence"), Some(&Position::origin()), 1_000).await.unwrap();
    history.publications.iter().map(|p| String::from_utf8(p.payload.to_vec()).unwrap()).collect()
}

async fn eventually_told(broker: &Broker, expected: &[&str]) {
    let waiting = async {
        // Who is stalled once more later is told once more.
        while !told(broker).await.iter().map(String::as_str).take(expected.len()).eq(expected.iter().copied()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("{:?} instead of {expected:?}", told(broker).await);
    }
}

#[tokio::test]
async fn only_the_first_connection_and_the_last_disconnection_are_told() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let one = Presence::new(broker.clone(), "one", options(LONG, Duration::ZERO));
    let two = Presence::new(broker.clone(), "two", options(LONG, Duration::ZERO));
    let keeper = tokio::spawn(one.clone().keep());
    let first = one.connect("7").await.unwrap();
    assert_eq!((first.is_first, first.connections, first.online), (true, 1, 1));
    let second = two.connect("7").await.unwrap();
    assert_eq!((second.is_first, second.connections, second.online), (false, 2, 1));
    two.connect("8").await.unwrap();
    one.disconnect("7").await.unwrap();
    assert_eq!(one.member("7").await.unwrap().connections, 1);
    two.disconnect("7").await.unwrap();
    eventually_told(&broker, &["+7", "+8", "-7"]).await;
    let (online, members) = one.online(10).await.unwrap();
    assert_eq!((online, members.len(), members[0].member.as_str()), (1, 1, "8"));
    let gone = one.member("7").await.unwrap();
    assert!(!gone.is_online && gone.last_seen_ms.is_some());
    assert_eq!(one.member("nobody").await.unwrap().last_seen_ms, None);
    keeper.abort();
}

#[tokio::test]
async fn a_reload_within_the_grace_is_not_told() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let presence = Presence::new(broker.clone(), "one", options(LONG, Duration::from_secs(1)));
    let keeper = tokio::spawn(presence.clone().keep());
    for _ in 0..3 {
        presence.connect("7").await.unwrap();
        presence.disconnect("7").await.unwrap();
    }
    presence.connect("7").await.unwrap();
    presence.connect("8").await.unwrap();
    presence.disconnect("8").await.unwrap();
    eventually_told(&broker, &["+7", "+8", "-8"]).await;
    assert!(presence.member("7").await.unwrap().is_online);
    keeper.abort();
}

#[tokio::test]
async fn a_dead_process_leaves_no_ghosts_and_a_stalled_one_comes_back() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let lease = Duration::from_secs(2);
    let dead = Presence::new(broker.clone(), "dead", options(lease, LONG));
    let alive = Presence::new(broker.clone(), "alive", options(lease, LONG));
    dead.connect("7").await.unwrap();
    dead.connect("7").await.unwrap();
    dead.connect("9").await.unwrap();
    alive.connect("9").await.unwrap();
    let keeper = tokio::spawn(alive.clone().keep());
    eventually_told(&broker, &["+7", "+9", "-7"]).await;
    assert_eq!(alive.member("9").await.unwrap().connections, 1);
    // It was only stalled: its lease is gone, so it tells its connections again, and takes nobody's away at the end.
    let stalled = tokio::spawn(dead.clone().keep());
    eventually_told(&broker, &["+7", "+9", "-7", "+7"]).await;
    let counted = async {
        while alive.member("7").await.unwrap().connections != 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap();
    stalled.abort();
    keeper.abort();
}

#[tokio::test]
async fn what_redis_lost_with_its_last_writes_is_put_right_after_a_reconnection() {
    let redis = Redis::start().await;
    let client = redis.client().await;
    let broker = Broker::new(client.clone(), BrokerOptions::default());
    let presence = Presence::new(broker.clone(), "one", options(LONG, Duration::ZERO));
    let keeper = tokio::spawn(presence.clone().keep());
    for member in ["7", "8", "9"] {
        presence.connect(member).await.unwrap();
    }
    presence.set_status("8", "{}", true).await.unwrap();
    let key = |name: &str| format!("oneiro:ev:p:{{presence}}:{name}");
    // As after a failover: one came, one hid, and one went without it.
    let lost = redis.client().await;
    for hash in ["members", "node:one"] {
        lost.hdel::<(), _, _>(key(hash), "7").await.unwrap();
        lost.hset::<(), _, _>(key(hash), ("10", 1)).await.unwrap();
    }
    lost.zrem::<(), _, _>(key("online"), "7").await.unwrap();
    lost.hdel::<(), _, _>(key("status"), "8").await.unwrap();
    lost.zadd::<(), _, _>(key("online"), None, None, false, false, vec![(1.0, "8"), (1.0, "10")]).await.unwrap();
    client.force_reconnection().await.unwrap();
    let put_right = async {
        loop {
            let (_, mut online) = presence.online(10).await.unwrap();
            online.sort_by(|a, b| a.member.cmp(&b.member));
            let counts: Vec<_> = online.iter().map(|member| (member.member.as_str(), member.connections)).collect();
            if counts == [("7", 1), ("9", 1)] && presence.member("8").await.unwrap().connections == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, put_right).await.expect("all is as it was");
    keeper.abort();
}

#[tokio::test]
async fn who_hides_is_offline_to_others() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let presence = Presence::new(broker.clone(), "one", options(LONG, LONG));
    presence.connect("7").await.unwrap();
    presence.set_status("7", "{\"status\":\"away\"}", false).await.unwrap();
    presence.set_status("7", "{}", true).await.unwrap();
    presence.connect("7").await.unwrap();
    let hidden = presence.member("7").await.unwrap();
    assert_eq!((hidden.is_online, hidden.connections), (false, 2));
    presence.set_status("7", "{}", false).await.unwrap();
    assert_eq!(told(&broker).await, ["+7", "-7", "+7"]);
    presence.set_status("nobody", "{}", false).await.unwrap();
    assert_eq!(presence.online(10).await.unwrap().0, 1);
}
