//! Masters that die and replicas that take their place: under Sentinel, in a cluster, and by hand.
//!
//! Redis replicates after it has answered, so an `Ok` of a push alone says nothing about a failover. What is tested is what can be
//! promised: a job is safe from the death of its master as soon as `WAIT` has said that the replicas have it.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use apalis_fred::{JobId, Queue, QueueOptions, WorkerOptions};
use fred::{
    prelude::*,
    types::{ClusterHash, CustomCommand},
};
use tempfile::TempDir;

use crate::{
    proxy::{Proxy, Wire},
    redis::{PATIENCE, Server, eventually},
    worker::{Act, act, start},
};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn cli(port: u16, words: &[&str]) -> String {
    let output = Command::new("redis-cli").args(["-p", &port.to_string()]).args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn replica_of(port: u16) -> Server {
    let replica =
        Server::with(&["--save", "", "--appendonly", "no", "--replicaof", "127.0.0.1", &port.to_string()]).await;
    eventually("in step with its master", || async {
        cli(replica.port, &["INFO", "replication"]).contains("master_link_status:up")
    })
    .await;
    replica
}

/// A process that watches a master.
struct Sentinel {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Sentinel {
    async fn watching(master: u16) -> Self {
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        let file = dir.path().join("sentinel.conf");
        // Long enough that a busy machine is not taken for a dead master. An election without a winner is held again after twice the
        // time that a failover may take.
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor themaster 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds themaster 3000\nsentinel failover-timeout themaster 5000\n",
            dir.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let sentinel = Self { child, port, _dir: dir };
        eventually("a sentinel answers", || async { cli(port, &["PING"]).contains("PONG") }).await;
        sentinel
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // One that is gone needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn connected(url: &str) -> Client {
    let client = Builder::from_config(Config::from_url(url).unwrap())
        .set_policy(ReconnectPolicy::new_constant(0, 50))
        .build()
        .unwrap();
    eventually("connected", || async { client.init().await.is_ok() }).await;
    client
}

/// Sends a plain command to the node on which queue `q` lives.
async fn ask<R: FromValue>(client: &Client, words: &[&str]) -> Result<R, Error> {
    let slot = ClusterHash::Custom(fred::util::redis_keyslot(b"aq:{q}:jobs"));
    let command = CustomCommand::new(words[0].to_owned(), slot, false);
    client.custom(command, words[1..].iter().map(ToString::to_string).collect::<Vec<_>>()).await
}

/// Names the master that answers and its history: another after a failover.
async fn history(client: &Client) -> Option<String> {
    let info: String = ask(client, &["INFO", "replication"]).await.ok()?;
    info.lines().find_map(|line| line.strip_prefix("master_replid:")).map(|id| id.trim().to_owned())
}

/// What a pusher knows of its jobs.
#[derive(Default)]
struct Pushed {
    /// Stored on this master and on `replicas` others before anything else happened.
    safe: Vec<JobId>,
    /// Stored, as the master said; nothing is known of its replicas.
    stored: Vec<JobId>,
}

/// Pushes until told to stop, and asks after each job whether the replicas have it.
async fn push_and_wait(
    client: Client,
    queue: Queue,
    replicas: i64,
    is_over: Arc<AtomicBool>,
    safe: Arc<AtomicUsize>,
) -> Pushed {
    let mut pushed = Pushed::default();
    while !is_over.load(Ordering::Relaxed) {
        let before = history(&client).await;
        let id = match queue.push(act(Act::Succeed, "job")).await {
            Ok(stored) => stored.id,
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // WAIT speaks of what this connection wrote, so nothing is known if there was another master in between.
        // After the failover a replica is missing, so it ends by its time, once a push.
        let reached: i64 = ask(&client, &["WAIT", &replicas.to_string(), "250"]).await.unwrap_or(0);
        let is_same_master = before.is_some() && before == history(&client).await;
        let list = if is_same_master && reached >= replicas { &mut pushed.safe } else { &mut pushed.stored };
        list.push(id);
        safe.store(pushed.safe.len(), Ordering::Relaxed);
    }
    pushed
}

/// Jobs run, the master is killed, jobs run again; afterwards no safe job is missing.
async fn survives(client: Client, replicas: i64, mut master: Server) {
    let options = QueueOptions { command_timeout: Duration::from_secs(2), ..QueueOptions::default() };
    let queue = Queue::with_options(client.clone(), "q".parse().unwrap(), options);
    let worker = start(&queue, WorkerOptions::default());
    let is_over = Arc::new(AtomicBool::new(false));
    let safe = Arc::new(AtomicUsize::new(0));
    let pusher = push_and_wait(client.clone(), queue.clone(), replicas, Arc::clone(&is_over), Arc::clone(&safe));
    let pusher = tokio::spawn(pusher);
    let ran = || worker.log.of("job").len();
    eventually("jobs run", || async { ran() > 50 && safe.load(Ordering::Relaxed) > 20 }).await;
    let old = history(&client).await.unwrap();
    master.kill();
    eventually("the replica has taken over", || async { history(&client).await.is_some_and(|now| now != old) }).await;
    let then = ran();
    eventually("jobs run again, by the same worker", || async { ran() > then + 20 }).await;
    is_over.store(true, Ordering::Relaxed);
    let pushed = pusher.await.unwrap();
    eventually("everything ended", || async {
        queue.stats().await.is_ok_and(|s| s.available + s.scheduled + s.running + s.retryable == 0)
    })
    .await;
    assert!(pushed.safe.len() > 20, "{} safe jobs", pushed.safe.len());
    let begun = Instant::now();
    for id in &pushed.safe {
        let job = loop {
            match queue.job(id).await {
                Ok(job) => break job,
                Err(error) => assert!(error.is_transient() && begun.elapsed() < PATIENCE, "{error:?}"),
            }
        };
        assert_eq!(job.map(|job| job.state), Some(apalis_fred::State::Completed), "{id} was lost");
    }
    // Each pushed job ran at least once or was never replicated; none of the latter may be a safe one (above).
    assert!(ran() >= pushed.safe.len());
    worker.stop().await;
}

/// Side by side, because they mostly wait until a dead master is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_die_and_replicas_take_their_place() {
    tokio::join!(
        workers_and_pushers_follow_a_replica_that_sentinel_promotes_and_no_replicated_job_is_lost(),
        workers_and_pushers_follow_a_cluster_s_replica_when_their_master_dies_and_no_replicated_job_is_lost(),
        a_failover_forgets_a_job_of_which_wait_said_that_no_replica_has_it_and_no_other(),
    );
}

async fn workers_and_pushers_follow_a_replica_that_sentinel_promotes_and_no_replicated_job_is_lost() {
    let master = Server::with(&["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]).await;
    let replicas = [replica_of(master.port).await, replica_of(master.port).await];
    let sentinels = [
        Sentinel::watching(master.port).await,
        Sentinel::watching(master.port).await,
        Sentinel::watching(master.port).await,
    ];
    eventually("the sentinels know each other and the replicas", || async {
        sentinels.iter().all(|sentinel| {
            let known = cli(sentinel.port, &["SENTINEL", "MASTER", "themaster"]);
            let lines: Vec<&str> = known.lines().collect();
            let field = |name: &str| lines.iter().position(|l| *l == name).map(|at| lines[at + 1].to_owned());
            field("num-slaves").as_deref() == Some("2") && field("num-other-sentinels").as_deref() == Some("2")
        })
    })
    .await;
    let [a, b, c] = sentinels.each_ref().map(|sentinel| sentinel.port);
    let url =
        format!("redis-sentinel://127.0.0.1:{a}?sentinelServiceName=themaster&node=127.0.0.1:{b}&node=127.0.0.1:{c}");
    // Both replicas have what is safe, so it does not matter which is promoted.
    survives(connected(&url).await, 2, master).await;
    drop(replicas);
}

async fn workers_and_pushers_follow_a_cluster_s_replica_when_their_master_dies_and_no_replicated_job_is_lost() {
    let mut nodes = Vec::new();
    for _ in 0..4 {
        let bus = free_port().to_string();
        let node = [
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus,
            "--cluster-node-timeout",
            "5000",
            "--save",
            "",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let server = Server::with(&node).await;
        let address = format!("127.0.0.1:{}@{bus}", server.port);
        nodes.push((server, address));
    }
    let addresses = nodes[..3].iter().map(|(_, address)| address.as_str());
    let words: Vec<&str> = ["--cluster", "create"].into_iter().chain(addresses).chain(["--cluster-yes"]).collect();
    let text = cli(nodes[0].0.port, &words);
    assert!(text.contains("All 16384 slots covered"), "{text}");
    let slot = cli(nodes[0].0.port, &["CLUSTER", "KEYSLOT", "aq:{q}:jobs"]).trim().parse::<u32>().unwrap();
    // `create` deals the slots out in the order of the nodes.
    let at = (slot / 5462).min(2) as usize;
    let master_id = cli(nodes[at].0.port, &["CLUSTER", "MYID"]).trim().to_owned();
    let (replica, bus) = nodes[3].1.split_once('@').unwrap();
    let (_, replica_port) = replica.split_once(':').unwrap();
    cli(nodes[at].0.port, &["CLUSTER", "MEET", "127.0.0.1", replica_port, bus]);
    eventually("the replica knows its master", || async {
        cli(nodes[3].0.port, &["CLUSTER", "REPLICATE", &master_id]).starts_with("OK")
    })
    .await;
    eventually("the replica is in step", || async {
        cli(nodes[3].0.port, &["INFO", "replication"]).contains("master_link_status:up")
            && nodes.iter().all(|(node, _)| cli(node.port, &["CLUSTER", "NODES"]).matches("slave").count() == 1)
    })
    .await;
    let ports: Vec<u16> = nodes.iter().map(|(node, _)| node.port).collect();
    let url = format!("redis-cluster://127.0.0.1:{}?node=127.0.0.1:{}&node=127.0.0.1:{}", ports[0], ports[1], ports[2]);
    let (master, _) = nodes.swap_remove(at);
    survives(connected(&url).await, 1, master).await;
    drop(nodes);
}

/// The limit of the promise, so that nobody reads more into it.
async fn a_failover_forgets_a_job_of_which_wait_said_that_no_replica_has_it_and_no_other() {
    let mut master = Server::start().await;
    let link = Proxy::start(master.port).await;
    let replica = replica_of(link.port).await;
    let client = connected(&master.url()).await;
    let queue = Queue::new(client.clone(), "q".parse().unwrap());
    let safe = queue.push(act(Act::Succeed, "safe")).await.unwrap().id;
    eventually("replicated", || async { ask::<i64>(&client, &["WAIT", "1", "1000"]).await.unwrap() == 1 }).await;
    link.set(Wire::Stalled);
    let stored = queue.push(act(Act::Succeed, "stored")).await.unwrap().id;
    assert_eq!(ask::<i64>(&client, &["WAIT", "1", "200"]).await.unwrap(), 0);
    // A master that shall not store alone says so, and the push is told.
    let _: () = master.command(&["CONFIG", "SET", "min-replicas-max-lag", "1"]).await;
    let _: () = master.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    eventually("the master misses its replica", || async {
        match queue.push(act(Act::Succeed, "refused")).await {
            Ok(_) => false,
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                true
            }
        }
    })
    .await;
    master.kill();
    link.set(Wire::Cut);
    cli(replica.port, &["REPLICAOF", "NO", "ONE"]);
    let queue = replica.queue("q").await;
    assert!(queue.job(&safe).await.unwrap().is_some());
    assert!(queue.job(&stored).await.unwrap().is_none());
    let worker = start(&queue, WorkerOptions::default());
    eventually("the safe job ran", || async { worker.log.of("safe") == [1] }).await;
    worker.stop().await;
}
