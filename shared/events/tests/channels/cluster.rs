//! A cluster of three shards with a replica each, one of which fails over.

use crate::{channel, redis::PATIENCE};
use fred::{
    clients::{Client, SubscriberClient},
    interfaces::{ClientLike, PubsubInterface},
    types::{
        Builder, RespVersion,
        config::{Config, ReconnectPolicy},
    },
};
use oneiro_events::{Broker, BrokerOptions, Event, Subscription, Subscriptions, SubscriptionsOptions};
use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

struct Node {
    child: Child,
    port: u16,
    bus: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        // Either fails only where the process has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn cli(port: u16, args: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn node() -> Node {
    let (folder, port, bus) = (tempfile::tempdir().unwrap(), free_port(), free_port());
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--cluster-port", &bus.to_string(), "--bind", "127.0.0.1"])
        .args(["--cluster-enabled", "yes", "--cluster-node-timeout", "3000", "--save", "", "--appendonly", "no"])
        .args(["--repl-diskless-sync-delay", "0", "--dir"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let node = Node { child, port, bus, _folder: folder };
    eventually("a node answers", || cli(port, &["PING"]).contains("PONG")).await;
    node
}

/// Three masters, then their replicas.
async fn cluster() -> Vec<Node> {
    let mut nodes = Vec::new();
    for _ in 0..6 {
        nodes.push(node().await);
    }
    let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}@{}", node.port, node.bus)).collect();
    let mut create = vec!["--cluster", "create"];
    create.extend(addresses.iter().map(String::as_str));
    create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
    let told = cli(nodes[0].port, &create);
    assert!(told.contains("All 16384 slots covered"), "{told}");
    eventually("every node knows the whole cluster and every master has a replica in step", || {
        nodes.iter().all(|node| {
            let is_ready = |info: &str| !info.contains("role:master") || replicated(info);
            cli(node.port, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
                && is_ready(&cli(node.port, &["INFO", "replication"]))
        })
    })
    .await;
    nodes
}

/// Whether a master's replica has all that the master has.
fn replicated(info: &str) -> bool {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let offset = field("master_repl_offset:").unwrap_or("?");
    field("slave0:").is_some_and(|slave| slave.contains("state=online") && slave.contains(&format!("offset={offset},")))
}

fn builder(nodes: &[Node]) -> Builder {
    let others: Vec<String> = nodes[1..].iter().map(|node| format!("node=127.0.0.1:{}", node.port)).collect();
    let url = format!("redis-cluster://127.0.0.1:{}?{}", nodes[0].port, others.join("&"));
    let mut builder = Builder::from_config(Config::from_url(&url).unwrap());
    builder.set_policy(ReconnectPolicy::new_constant(0, 50));
    builder.with_performance_config(|performance| {
        performance.broadcast_channel_capacity = 16_384;
        performance.default_command_timeout = Duration::from_secs(5);
    });
    builder
}

async fn clients(nodes: &[Node]) -> (Client, SubscriberClient) {
    let client = builder(nodes).build().unwrap();
    client.init().await.unwrap();
    let mut builder = builder(nodes);
    builder.with_config(|config| config.version = RespVersion::RESP3);
    let subscriber = builder.build_subscriber_client().unwrap();
    subscriber.init().await.unwrap();
    (client, subscriber)
}

async fn next(subscription: &mut Subscription) -> String {
    match tokio::time::timeout(PATIENCE, subscription.recv()).await.expect("an event in time") {
        Event::Publication(publication) => String::from_utf8(publication.payload.to_vec()).unwrap(),
        Event::Gap(gap) => panic!("{gap:?}"),
    }
}

#[tokio::test]
async fn a_shard_that_fails_over_costs_no_stored_event_and_repeats_none() {
    let mut nodes = cluster().await;
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

async fn subscriptions_end(readers: Vec<Subscription>, subscriptions: &Subscriptions) {
    drop(readers);
    eventually("nothing is subscribed any more", || subscriptions.channel_count() == 0).await;
}
