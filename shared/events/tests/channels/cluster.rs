//! Clusters of three shards: one that fails over to its replica, and one that has none and is gone until somebody starts it again.

use crate::{
    channel,
    redis::PATIENCE,
    servers::{Server, builder, cli, cluster, eventually, next, replicated, shard, subscriber},
};
use fred::{
    clients::Client,
    interfaces::{ClientLike, PubsubInterface},
    util::redis_keyslot,
};
use futures::future::join_all;
use oneiro_events::{
    Broker, BrokerOptions, ChannelName, EventError, Subscription, Subscriptions, SubscriptionsOptions,
};
use std::{
    collections::HashMap,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

async fn clients(nodes: &[Server]) -> (Client, Client) {
    let client = builder(nodes).build().unwrap();
    client.init().await.unwrap();
    let subscriber = subscriber(nodes);
    subscriber.init().await.unwrap();
    (client, subscriber)
}

#[tokio::test]
async fn a_shard_that_fails_over_costs_no_stored_event_and_repeats_none() {
    let mut nodes = cluster(1).await;
    let (client, subscriber) = clients(&nodes).await;
    let broker = Broker::new(client.clone(), BrokerOptions::default());
    let options = SubscriptionsOptions {
        attach_timeout: PATIENCE,
        probe_interval: Duration::from_secs(1),
        ..SubscriptionsOptions::default()
    };
    let subscriptions = Subscriptions::start(subscriber, broker.clone(), options);
    // Enough names to fall on every shard.
    let names: Vec<_> = (0..8).map(|n| channel(&format!("user_{n}"))).collect();
    let mut readers = Vec::new();
    for name in &names {
        readers.push(subscriptions.subscribe(name).await.unwrap());
    }
    // What is published without history goes to the shard as well.
    for (name, reader) in names.iter().zip(&mut readers) {
        client.spublish::<(), _, _>(name.as_str(), "plain").await.unwrap();
        assert_eq!(next(reader).await, "plain");
        assert_eq!(broker.notify(name, b"notified").await.unwrap(), 1);
        assert_eq!(next(reader).await, "notified");
    }
    for n in 0..20 {
        for name in &names {
            broker.publish(name, format!("before {n}").as_bytes()).await.unwrap();
        }
    }
    // What a master had told nobody yet when it died would be lost whatever the subscribers do.
    eventually("the replicas are in step", || {
        nodes[..3].iter().all(|node| replicated(&cli(node.port, &["INFO", "replication"])))
    })
    .await;
    let dead = nodes.remove(0);
    drop(dead);
    for n in 0..20 {
        for name in &names {
            let begun = Instant::now();
            // An event whose publishing failed may be there twice; the history tells.
            while broker.publish(name, format!("after {n}").as_bytes()).await.is_err() {
                assert!(begun.elapsed() < 2 * PATIENCE, "{name} cannot be published on any more");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    for (name, reader) in names.iter().zip(&mut readers) {
        let history = broker.history(name, None, 1_000).await.unwrap();
        assert!(history.publications.len() >= 40);
        for publication in history.publications {
            assert_eq!(next(reader).await.as_bytes(), publication.payload, "{name}");
        }
    }
    subscriptions_end(readers, &subscriptions).await;
}

#[tokio::test]
async fn a_slot_that_moves_costs_no_stored_event_and_repeats_none() {
    const MOVED: u16 = 100;
    let nodes = cluster(0).await;
    let (client, connected) = clients(&nodes).await;
    let broker = Broker::new(client, BrokerOptions { history_len: 1_000_000, ..BrokerOptions::default() });
    let subscriptions = Subscriptions::start(connected, broker.clone(), options());
    let slot = |name: &ChannelName| redis_keyslot(name.as_str().as_bytes());
    let name = (0..).map(|n| channel(&format!("user_{n}"))).find(|name| slot(name) < MOVED).unwrap();
    let mut reader = subscriptions.subscribe(&name).await.unwrap();
    let publish = async |text: String| {
        let begun = Instant::now();
        // Redis asks to try again while half of a slot's keys are here and half are there.
        while let Err(error) = broker.publish(&name, text.as_bytes()).await {
            assert!(error.is_transient() && begun.elapsed() < PATIENCE, "{text} cannot be published: {error}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    publish("before".to_owned()).await;

    let id = |node: &Server| cli(node.port, &["CLUSTER", "MYID"]).trim().to_owned();
    let (from, to, address) = (id(&nodes[0]), id(&nodes[1]), format!("127.0.0.1:{}", nodes[0].port));
    let moving = tokio::task::spawn_blocking(move || {
        let slots = MOVED.to_string();
        let ends = ["--cluster-from", &from, "--cluster-to", &to, "--cluster-slots", &slots, "--cluster-yes"];
        Command::new("redis-cli").args(["--cluster", "reshard", &address]).args(ends).output().unwrap()
    });
    let mut during = 0;
    while !moving.is_finished() {
        publish(format!("during {during}")).await;
        during += 1;
    }
    let told = moving.await.unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stdout));
    publish("after".to_owned()).await;
    assert!(cli(nodes[1].port, &["--raw", "EXISTS", &format!("oneiro:ev:s:{{{name}}}")]).starts_with('1'));
    // Read bit by bit, as many may have been published. One whose publishing failed may be there twice; the history tells.
    let mut since = None;
    let mut last = Vec::new();
    while last != b"after" {
        let history = match &since {
            None => broker.oldest(&name, 1_000).await.unwrap(),
            Some(since) => broker.history(&name, Some(since), 1_000).await.unwrap(),
        };
        for publication in history.publications {
            assert_eq!(next(&mut reader).await.as_bytes(), publication.payload);
            last = publication.payload.to_vec();
            since = publication.position;
        }
    }
    let mut joined = subscriptions.subscribe(&name).await.unwrap();
    publish("later".to_owned()).await;
    assert_eq!((next(&mut reader).await, next(&mut joined).await), ("later".to_owned(), "later".to_owned()));
}

#[tokio::test]
async fn a_channel_whose_slot_is_on_the_move_is_served_meanwhile_and_one_that_nobody_has_is_away() {
    let nodes = cluster(0).await;
    let broker = Broker::new(builder(&nodes).build().unwrap(), BrokerOptions::default());
    let subscriptions = Subscriptions::start(subscriber(&nodes), broker.clone(), options());
    let name = (0..).map(|n| channel(&format!("user_{n}"))).find(|name| shard(name) == 0).unwrap();
    let slot = redis_keyslot(name.as_str().as_bytes()).to_string();
    let ids: Vec<String> = nodes.iter().map(|node| cli(node.port, &["CLUSTER", "MYID"]).trim().to_owned()).collect();
    let set = |node: usize, change: &str, of: usize| {
        assert!(cli(nodes[node].port, &["CLUSTER", "SETSLOT", &slot, change, &ids[of]]).contains("OK"));
    };
    let keys = |node: usize| cli(nodes[node].port, &["--raw", "CLUSTER", "GETKEYSINSLOT", &slot, "10"]);

    broker.publish(&name, b"before").await.unwrap();
    set(1, "IMPORTING", 0);
    set(0, "MIGRATING", 1);
    let (port, ahead) = (nodes[1].port.to_string(), keys(0));
    let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
    migrate.extend(ahead.split_whitespace());
    assert!(cli(nodes[0].port, &migrate).contains("OK"));
    let published = broker.publish(&name, b"on the move").await.unwrap();
    assert_eq!((published.offset, keys(0).trim(), keys(1).lines().count()), (2, "", ahead.lines().count()));
    assert_eq!(broker.position(&name).await.unwrap(), published);
    assert_eq!(broker.history(&name, None, 10).await.unwrap().publications.len(), 2);
    let mut reader = subscriptions.subscribe(&name).await.unwrap();
    assert_eq!(*reader.position(), published);
    set(1, "NODE", 1);
    set(0, "NODE", 1);
    broker.publish(&name, b"moved").await.unwrap();
    assert_eq!(next(&mut reader).await, "moved");

    // A slot that nobody has is away like one whose shard is dead.
    for node in [1, 0, 2] {
        cli(nodes[node].port, &["CLUSTER", "DELSLOTS", &slot]);
    }
    let begun = Instant::now();
    while !matches!(subscriptions.subscribe(&name).await, Err(EventError::ShardAway(_)))
        || !matches!(broker.publish(&name, b"lost").await, Err(EventError::ShardAway(_)))
    {
        assert!(begun.elapsed() < PATIENCE, "nobody has the slot, and nobody says so");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn subscriptions_end(readers: Vec<Subscription>, subscriptions: &Subscriptions) {
    drop(readers);
    eventually("nothing is subscribed any more", || subscriptions.channel_count() == 0).await;
}

fn options() -> SubscriptionsOptions {
    SubscriptionsOptions { probe_interval: Duration::from_secs(1), ..SubscriptionsOptions::default() }
}

#[tokio::test]
async fn a_shard_that_stays_dead_holds_up_nobody_but_its_own_channels_until_it_is_back() {
    without_a_shard(Server::stop, Server::start_again).await;
}

#[tokio::test]
async fn neither_does_one_that_keeps_its_connections_and_does_not_answer() {
    without_a_shard(|node| node.freeze(), |node| node.thaw()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_answer_is_known_to_be_away_while_many_write_to_it() {
    let nodes = cluster(0).await;
    // As in production, what waits for one answer waits half as long as a connection may be silent.
    let mut builder = builder(&nodes);
    builder.with_performance_config(|performance| performance.default_command_timeout = Duration::from_secs(1));
    builder.with_connection_config(|connection| connection.unresponsive.max_timeout = Some(Duration::from_secs(2)));
    let broker = Broker::new(builder.build().unwrap(), BrokerOptions::default());
    let name = (0..).map(|n| channel(&format!("user_{n}"))).find(|name| shard(name) == 0).unwrap();
    let first = broker.publish(&name, b"before").await.unwrap();

    nodes[0].freeze();
    // Enough to fill the socket.
    let (away, payload) = (AtomicBool::new(false), vec![b'x'; 64 * 1024]);
    let begun = Instant::now();
    let writers = (0..32).map(|_| async {
        while !away.load(Ordering::Relaxed) {
            assert!(begun.elapsed() < PATIENCE, "the shard is not known to be away");
            let writing = broker.publish(&name, &payload);
            // Some give up before the client does.
            match tokio::time::timeout(Duration::from_millis(700), writing).await {
                Ok(Err(EventError::ShardAway(_))) => away.store(true, Ordering::Relaxed),
                Ok(Ok(_)) => panic!("the shard is frozen"),
                Ok(Err(_)) | Err(_) => {}
            }
        }
    });
    join_all(writers).await;

    nodes[0].thaw();
    let begun = Instant::now();
    while let Err(error) = broker.publish(&name, b"after").await {
        assert!(error.is_transient() && begun.elapsed() < PATIENCE, "the shard is lost: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(broker.position(&name).await.unwrap().offset > first.offset);
}

async fn without_a_shard(lose: impl FnOnce(&mut Server), bring_back: impl FnOnce(&mut Server)) {
    let mut nodes = cluster(0).await;
    let (client, connected) = clients(&nodes).await;
    let broker = Broker::new(client, BrokerOptions::default());
    let subscriptions = Subscriptions::start(connected, broker.clone(), options());
    let (lost, alive): (Vec<_>, Vec<_>) =
        (0..24).map(|n| channel(&format!("user_{n}"))).partition(|name| shard(name) == 0);
    assert!(lost.len() > 2 && alive.len() > 4);
    let mut readers = HashMap::new();
    for name in alive.iter().chain(&lost) {
        readers.insert(name.clone(), subscriptions.subscribe(name).await.unwrap());
        broker.publish(name, b"before").await.unwrap();
    }

    lose(&mut nodes[0]);
    eventually("the others know that the first is dead, and go on without it", || {
        nodes[1..].iter().all(|node| {
            cli(node.port, &["CLUSTER", "NODES"]).contains("master,fail ")
                && cli(node.port, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
        })
    })
    .await;
    // A process that comes up only now finds its way as well.
    let late = Broker::new(builder(&nodes).build().unwrap(), BrokerOptions::default());
    let late_subscriptions = Subscriptions::start(subscriber(&nodes), late.clone(), options());
    for name in &alive {
        let fresh =
            channel(&format!("{name}:{}", (0..).find(|n| shard(&channel(&format!("{name}:{n}"))) != 0).unwrap()));
        let mut joined = subscriptions.subscribe(&fresh).await.unwrap();
        broker.publish(&fresh, b"fresh").await.unwrap();
        assert_eq!(next(&mut joined).await, "fresh");
        assert_eq!(broker.history(&fresh, None, 10).await.unwrap().publications.len(), 1);

        let mut joined = late_subscriptions.subscribe(name).await.unwrap();
        late.publish(name, b"meanwhile").await.unwrap();
        assert_eq!(next(&mut joined).await, "meanwhile");
        for expected in ["before", "meanwhile"] {
            assert_eq!(next(readers.get_mut(name).unwrap()).await, expected);
        }
    }
    eventually("both are well", || subscriptions.is_healthy() && late_subscriptions.is_healthy()).await;
    let begun = Instant::now();
    while !matches!(broker.publish(&lost[0], b"lost").await, Err(EventError::ShardAway(_)))
        || !matches!(subscriptions.subscribe(&lost[0]).await, Err(EventError::ShardAway(_)))
    {
        assert!(begun.elapsed() < PATIENCE, "the shard is not known to be away");
    }
    // Nobody is kept waiting for what cannot be, and nothing is left behind by those who asked.
    let count = subscriptions.channel_count();
    for n in 0..200 {
        let name = channel(&format!("lost_{n}"));
        if shard(&name) != 0 {
            continue;
        }
        for outcome in [subscriptions.subscribe(&name).await.err(), broker.publish(&name, b"lost").await.err()] {
            let error = outcome.expect("the shard is dead");
            assert!(error.is_transient(), "{error}");
        }
        assert!(matches!(subscriptions.subscribe(&name).await, Err(EventError::ShardAway(away)) if away == name));
    }
    eventually("those who gave up are forgotten", || subscriptions.channel_count() <= count).await;

    bring_back(&mut nodes[0]);
    for name in &lost {
        let begun = Instant::now();
        while let Err(error) = broker.publish(name, b"after").await {
            assert!(
                error.is_transient() && begun.elapsed() < PATIENCE,
                "{name} cannot be published on any more: {error}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // An event whose publishing failed may be there twice; the history tells.
        for publication in broker.history(name, None, 1_000).await.unwrap().publications {
            assert_eq!(next(readers.get_mut(name).unwrap()).await.as_bytes(), publication.payload, "{name}");
        }
        let begun = Instant::now();
        while let Err(error) = late_subscriptions.subscribe(name).await {
            assert!(error.is_transient() && begun.elapsed() < PATIENCE, "{name} cannot be joined any more: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    subscriptions_end(readers.into_values().collect(), &subscriptions).await;
}
