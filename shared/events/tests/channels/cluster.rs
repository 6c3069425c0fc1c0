//! A cluster of three shards with a replica each, one of which fails over.

use crate::{
    channel,
    redis::PATIENCE,
    servers::{Server, cli, eventually, free_port, next, replicated},
};
use fred::{
    clients::Client,
    interfaces::{ClientLike, PubsubInterface},
    types::{
        Builder, RespVersion,
        config::{Config, ReconnectPolicy},
    },
};
use oneiro_events::{Broker, BrokerOptions, Subscription, Subscriptions, SubscriptionsOptions};
use std::time::{Duration, Instant};

async fn node() -> (Server, u16) {
    let bus = free_port();
    // The bus is usually the port + 10,000, which a free port may have no room for.
    let bus_port = bus.to_string();
    let arguments = ["--cluster-port", &bus_port, "--cluster-enabled", "yes", "--cluster-node-timeout", "3000"];
    (Server::start(&arguments).await, bus)
}

/// Three masters, then their replicas.
async fn cluster() -> Vec<Server> {
    let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let (node, bus) = node().await;
        addresses.push(format!("127.0.0.1:{}@{bus}", node.port));
        nodes.push(node);
    }
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

fn builder(nodes: &[Server]) -> Builder {
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

async fn clients(nodes: &[Server]) -> (Client, Client) {
    let client = builder(nodes).build().unwrap();
    client.init().await.unwrap();
    let mut builder = builder(nodes);
    builder.with_config(|config| config.version = RespVersion::RESP3);
    let subscriber = builder.build().unwrap();
    subscriber.init().await.unwrap();
    (client, subscriber)
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
