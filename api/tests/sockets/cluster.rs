//! One process that cannot reach a shard which others reach.

use crate::{
    node::{Node, settings, token},
    redis::PATIENCE,
    rest::{event, first_id, stream},
    servers::{builder, cli, cluster, eventually, shard, subscriber},
};
use fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{Builder, config::Config},
};
use oneiro_core::publish::user_channel;
use oneiro_events::{Broker, BrokerOptions, ChannelName};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// A way to a server that is shut at first: whoever comes is sent away.
struct Gate {
    port: u16,
    is_open: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Gate {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, is_open) = (listener.local_addr().unwrap().port(), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, server, is_open.clone()));
        Self { port, is_open, _tasks: tasks }
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }
}

async fn serve(listener: TcpListener, server: u16, is_open: Arc<AtomicBool>) {
    let mut ways = JoinSet::new();
    loop {
        let (mut guest, _) = listener.accept().await.unwrap();
        if is_open.load(Ordering::Relaxed) {
            ways.spawn(async move {
                let mut host = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                // Ends with either side.
                let _ = tokio::io::copy_bidirectional(&mut guest, &mut host).await;
            });
        }
    }
}

#[tokio::test]
async fn who_joined_while_a_shard_was_away_for_this_process_alone_is_told_what_they_missed() {
    let nodes = cluster(0).await;
    let alerts: ChannelName = "alerts".parse().unwrap();
    let lost = shard(&alerts);
    // The process under test is told to go through the gate, everybody else goes straight to the server.
    let gate = Gate::to(nodes[lost].port).await;
    let port = gate.port.to_string();
    cli(nodes[lost].port, &["CONFIG", "SET", "cluster-announce-port", &port]);
    eventually("every node names the gate", || {
        nodes.iter().all(|node| cli(node.port, &["CLUSTER", "SLOTS"]).contains(&port))
    })
    .await;
    // Good enough for another publisher: a client of that one master.
    let config = Config::from_url(&format!("redis://127.0.0.1:{}", nodes[lost].port)).unwrap();
    let straight: Client = Builder::from_config(config).build().unwrap();
    straight.init().await.unwrap();
    let other = Broker::new(straight, BrokerOptions::default());
    let alert = |n: u64| json!({ "type": "alert", "data": { "title": "a", "n": n } }).to_string();
    let first = other.publish(&alerts, alert(1).as_bytes()).await.unwrap();

    let node = Node::over(builder(&nodes).build().unwrap(), subscriber(&nodes), settings()).await;
    let user = (1..).find(|user| shard(&user_channel(&(*user).into())) != lost).unwrap();
    let mut client = node.connect(&format!("/ws/notifications/?positions=1&token={}", token(user))).await;
    client.expect_nothing_more().await;
    // Event streams begin without it, too: what is not known is not told, what the client knows is kept.
    let query = format!("channels=alerts,user_{user}&token={}", token(user));
    assert!(!first_id(&mut stream(&node, &query, "").await).await.contains("alerts="));
    let known = format!("alerts={first}");
    let mut events = stream(&node, &query, &known).await;
    assert!(first_id(&mut events).await.contains(&known));
    let missed = other.publish(&alerts, alert(2).as_bytes()).await.unwrap();

    gate.open();
    let told = client.expect("resume_failed").await;
    assert_eq!((&told["channel"], &told["seq"]), (&json!("alerts"), &json!(missed.offset)));
    let (_, told) = event(&mut events).await;
    assert_eq!((&told["type"], &told["channel"]), (&json!("resume_failed"), &json!("alerts")));
    client.send(json!({ "type": "resume", "channel": "alerts", "epoch": first.epoch, "seq": first.offset })).await;
    assert_eq!(client.expect("resumed").await["recovered"], 1);
    assert_eq!(client.expect("alert").await["data"]["n"], 2);
    let begun = Instant::now();
    while let Err(error) = node.broker.publish(&alerts, alert(3).as_bytes()).await {
        assert!(error.is_transient() && begun.elapsed() < PATIENCE, "the shard is lost: {error}");
    }
    assert_eq!(client.expect("alert").await["data"]["n"], 3);
    client.expect_nothing_more().await;
}
