//! Several Redis servers that know each other.

use crate::redis::PATIENCE;
use fred::{
    clients::Client,
    types::{
        Builder, RespVersion,
        config::{Config, ReconnectPolicy, UnresponsiveConfig},
    },
    util::redis_keyslot,
};
use oneiro_events::{ChannelName, Event, Subscription};
use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub(crate) struct Server {
    command: Command,
    child: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts one with these arguments besides the usual ones, and waits until it answers.
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let usual = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string()]).args(usual).args(arguments).arg("--dir").arg(folder.path());
        Self::run(command, port, folder).await
    }

    /// Starts a sentinel that watches a master; two of them must agree that it is gone.
    pub(crate) async fn sentinel(master: u16) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let file = folder.path().join("sentinel.conf");
        // Long enough that a busy machine is not taken for a dead master.
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor themaster 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds themaster 3000\nsentinel failover-timeout themaster 10000\n",
            folder.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel");
        Self::run(command, port, folder).await
    }

    async fn run(mut command: Command, port: u16, folder: tempfile::TempDir) -> Self {
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let server = Self { command, child, port, _folder: folder };
        eventually("a server answers", || cli(port, &["PING"]).contains("PONG")).await;
        server
    }

    pub(crate) fn stop(&mut self) {
        // Either fails only where the process has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it without ending it: its connections stay open, and nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Starts it again after [`Server::stop`], with what it kept in its folder.
    pub(crate) fn start_again(&mut self) {
        self.child = self.command.spawn().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn cli(port: u16, args: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether a master's replicas, of which there is one at least, have all that the master has.
pub(crate) fn replicated(info: &str) -> bool {
    let offset = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")).unwrap_or("?").trim();
    let mut replicas = info.lines().filter(|line| line.starts_with("slave") && line.contains("offset=")).peekable();
    replicas.peek().is_some()
        && replicas.all(|replica| replica.contains("state=online") && replica.contains(&format!("offset={offset},")))
}

/// The next event, which is not a gap.
pub(crate) async fn next(subscription: &mut Subscription) -> String {
    match tokio::time::timeout(PATIENCE, subscription.recv()).await.expect("an event in time") {
        Event::Publication(publication) => String::from_utf8(publication.payload.to_vec()).unwrap(),
        Event::Gap(gap) => panic!("{gap:?}"),
    }
}

async fn node() -> (Server, u16) {
    let bus = free_port();
    // The bus is usually the port + 10,000, which a free port may have no room for.
    let bus_port = bus.to_string();
    let mut arguments = vec!["--cluster-port", &bus_port, "--cluster-enabled", "yes", "--cluster-node-timeout", "5000"];
    arguments.extend(["--cluster-require-full-coverage", "no", "--appendonly", "yes", "--appendfsync", "always"]);
    (Server::start(&arguments).await, bus)
}

/// Three masters, then their replicas, as many for each.
pub(crate) async fn cluster(replicas: usize) -> Vec<Server> {
    let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..3 * (1 + replicas) {
        let (node, bus) = node().await;
        addresses.push(format!("127.0.0.1:{}@{bus}", node.port));
        nodes.push(node);
    }
    let mut create = vec!["--cluster", "create"];
    create.extend(addresses.iter().map(String::as_str));
    let count = replicas.to_string();
    create.extend(["--cluster-replicas", &count, "--cluster-yes"]);
    let told = cli(nodes[0].port, &create);
    assert!(told.contains("All 16384 slots covered"), "{told}");
    eventually("every node knows the whole cluster and every master has a replica in step", || {
        nodes.iter().all(|node| {
            let is_ready = |info: &str| replicas == 0 || !info.contains("role:master") || replicated(info);
            cli(node.port, &["CLUSTER", "INFO"]).contains("cluster_state:ok")
                && is_ready(&cli(node.port, &["INFO", "replication"]))
        })
    })
    .await;
    nodes
}

pub(crate) fn builder(nodes: &[Server]) -> Builder {
    let others: Vec<String> = nodes[1..].iter().map(|node| format!("node=127.0.0.1:{}", node.port)).collect();
    let url = format!("redis-cluster://127.0.0.1:{}?{}", nodes[0].port, others.join("&"));
    let mut builder = Builder::from_config(Config::from_url(&url).unwrap());
    builder.set_policy(ReconnectPolicy::new_constant(0, 50));
    builder.with_performance_config(|performance| {
        performance.broadcast_channel_capacity = 16_384;
        performance.default_command_timeout = Duration::from_secs(5);
    });
    builder.with_connection_config(|connection| {
        connection.internal_command_timeout = Duration::from_secs(5);
        connection.unresponsive =
            UnresponsiveConfig { max_timeout: Some(Duration::from_secs(3)), interval: Duration::from_millis(500) };
    });
    builder
}

pub(crate) fn subscriber(nodes: &[Server]) -> Client {
    let mut builder = builder(nodes);
    builder.with_config(|config| config.version = RespVersion::RESP3);
    builder.build().unwrap()
}

/// Which of three masters, as `redis-cli --cluster create` shares the slots out, has the channel.
pub(crate) fn shard(name: &ChannelName) -> usize {
    match redis_keyslot(name.as_str().as_bytes()) {
        ..=5_460 => 0,
        5_461..=10_922 => 1,
        _ => 2,
    }
}
