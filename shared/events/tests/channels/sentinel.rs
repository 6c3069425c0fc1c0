//! A master with two replicas and three sentinels, of which one replica is promoted.

use crate::{
    channel,
    redis::PATIENCE,
    servers::{Server, cli, eventually, next, replicated},
};
use fred::{
    interfaces::ClientLike,
    types::{
        Builder,
        config::{Config, ReconnectPolicy},
    },
};
use oneiro_events::{Broker, BrokerOptions, Subscriptions, SubscriptionsOptions};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_promoted_replica_costs_no_stored_event_and_repeats_none() {
    let master = Server::start(&[]).await;
    let port = master.port.to_string();
    let _replicas = [
        Server::start(&["--replicaof", "127.0.0.1", &port]).await,
        Server::start(&["--replicaof", "127.0.0.1", &port]).await,
    ];
    let sentinels =
        [Server::sentinel(master.port).await, Server::sentinel(master.port).await, Server::sentinel(master.port).await];
    eventually("the sentinels know each other and the replicas", || {
        sentinels.iter().all(|sentinel| {
            let known = cli(sentinel.port, &["SENTINEL", "MASTER", "themaster"]);
            let lines: Vec<&str> = known.lines().collect();
            let field = |name: &str| lines.iter().position(|line| *line == name).map(|at| lines[at + 1]);
            field("num-slaves") == Some("2") && field("num-other-sentinels") == Some("2")
        })
    })
    .await;
    let [a, b, c] = sentinels.each_ref().map(|sentinel| sentinel.port);
    let url =
        format!("redis-sentinel://127.0.0.1:{a}?sentinelServiceName=themaster&node=127.0.0.1:{b}&node=127.0.0.1:{c}");
    let mut builder = Builder::from_config(Config::from_url(&url).unwrap());
    builder.set_policy(ReconnectPolicy::new_constant(0, 50));
    builder.with_performance_config(|performance| {
        performance.broadcast_channel_capacity = 16_384;
        performance.default_command_timeout = Duration::from_secs(5);
    });
    let (client, subscriber) = (builder.build().unwrap(), builder.build().unwrap());
    client.init().await.unwrap();
    subscriber.init().await.unwrap();
    let broker = Broker::new(client, BrokerOptions::default());
    let options = SubscriptionsOptions {
        attach_timeout: PATIENCE,
        probe_interval: Duration::from_secs(1),
        ..SubscriptionsOptions::default()
    };
    let subscriptions = Subscriptions::start(subscriber, broker.clone(), options);
    let name = channel("user_1");
    let mut reader = subscriptions.subscribe(&name).await.unwrap();
    for n in 0..50 {
        broker.publish(&name, format!("before {n}").as_bytes()).await.unwrap();
    }
    // What the master had told nobody yet when it died would be lost whatever the subscribers do.
    eventually("the replicas are in step", || replicated(&cli(master.port, &["INFO", "replication"]))).await;
    drop(master);
    for n in 0..50 {
        let begun = Instant::now();
        // An event whose publishing failed may be there twice; the history tells.
        while broker.publish(&name, format!("after {n}").as_bytes()).await.is_err() {
            assert!(begun.elapsed() < 2 * PATIENCE, "no replica was promoted");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let history = broker.history(&name, None, 1_000).await.unwrap();
    assert!(history.publications.len() >= 100);
    for publication in history.publications {
        assert_eq!(next(&mut reader).await.as_bytes(), publication.payload);
    }
}
