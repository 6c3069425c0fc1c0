//! A cluster of three nodes.

use std::{net::TcpListener, process::Command, time::Duration};

use apalis_fred::{Queue, State, WorkerOptions, list_queues};
use fred::prelude::*;

use crate::{
    redis::{Server, eventually},
    worker::{Act, act, start},
};

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

/// A node and its address as `redis-cli` wants it.
async fn node() -> (Server, String) {
    let bus = free_port();
    // The bus is usually the port + 10,000, which a free port may have no room for.
    let server = Server::with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--cluster-node-timeout",
        "5000",
        "--save",
        "",
    ])
    .await;
    let address = format!("127.0.0.1:{}@{bus}", server.port);
    (server, address)
}

#[tokio::test]
async fn queues_live_in_the_slots_of_a_cluster_and_their_workers_find_them() {
    let nodes = [node().await, node().await, node().await];
    let made = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(nodes.iter().map(|(_, address)| address))
        .arg("--cluster-yes")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(text.contains("All 16384 slots covered"), "{text}");
    let addresses: Vec<String> = nodes.iter().map(|(node, _)| format!("127.0.0.1:{}", node.port)).collect();
    let url = format!("redis-cluster://{}?node={}&node={}", addresses[0], addresses[1], addresses[2]);
    let client = Builder::from_config(Config::from_url(&url).unwrap())
        .set_policy(ReconnectPolicy::new_constant(0, 50))
        .build()
        .unwrap();
    eventually("connected", || async { client.init().await.is_ok() }).await;
    // Enough names to fall on all three nodes.
    let queues: Vec<Queue> = (0..6).map(|n| Queue::new(client.clone(), format!("q{n}").parse().unwrap())).collect();
    let mut workers = Vec::new();
    for queue in &queues {
        queue.push(act(Act::Succeed, "now")).await.unwrap();
        queue.push(act(Act::Succeed, "later").run_in(Duration::from_millis(100))).await.unwrap();
        workers.push(start(queue, WorkerOptions::default()));
    }
    for (queue, worker) in queues.iter().zip(&workers) {
        eventually("ran", || async { worker.log.of("now").len() == 1 && worker.log.of("later").len() == 1 }).await;
        let waited = queue.push(act(Act::Return("x".into()), "waited")).await.unwrap().id;
        assert_eq!(queue.wait(waited).await.unwrap().state, Some(State::Completed));
    }
    assert_eq!(list_queues(&client, "aq:").await.unwrap().len(), 6);
    for worker in workers {
        worker.stop().await;
    }
}
