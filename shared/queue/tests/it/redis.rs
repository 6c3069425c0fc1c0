//! A Redis server of its own for each test, on a free port, in a directory that goes away with it.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use apalis_fred::{Queue, QueueOptions};
use fred::prelude::*;
use tempfile::TempDir;

/// How long anything here may take before the test fails; long, because tests share a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    child: Option<Child>,
    dir: TempDir,
    pub(crate) port: u16,
    extra: Vec<String>,
}

impl Server {
    /// A server without persistence.
    pub(crate) async fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"]).await
    }

    /// A server that writes each change to its append-only file before it answers.
    pub(crate) async fn durable() -> Self {
        Self::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]).await
    }

    pub(crate) async fn with(extra: &[&str]) -> Self {
        let mut server = Self {
            child: None,
            dir: TempDir::new().unwrap(),
            port: 0,
            extra: extra.iter().map(ToString::to_string).collect(),
        };
        // A port may be taken between here and the server's start.
        loop {
            server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if server.try_launch().await {
                return server;
            }
        }
    }

    pub(crate) async fn launch(&mut self) {
        assert!(self.try_launch().await, "redis-server ended");
    }

    /// Whether it came up; it ends by itself where its port is taken.
    async fn try_launch(&mut self) -> bool {
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--daemonize", "no", "--dir"])
            .arg(self.dir.path())
            .args(["--enable-debug-command", "yes"])
            .args(&self.extra)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let child = self.child.insert(child);
        let begun = Instant::now();
        loop {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if answers(self.port) {
                return true;
            }
            assert!(begun.elapsed() < PATIENCE, "redis-server does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the server as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn client(&self) -> Client {
        let client = Builder::from_config(Config::from_url(&self.url()).unwrap())
            .set_policy(ReconnectPolicy::new_constant(0, 50))
            .build()
            .unwrap();
        client.init().await.unwrap();
        client
    }

    pub(crate) async fn queue(&self, name: &str) -> Queue {
        Queue::new(self.client().await, name.parse().unwrap())
    }

    pub(crate) async fn queue_with(&self, name: &str, options: QueueOptions) -> Queue {
        Queue::with_options(self.client().await, name.parse().unwrap(), options)
    }

    /// Runs a command by its words.
    pub(crate) async fn command<R: FromValue>(&self, words: &[&str]) -> R {
        let client = self.client().await;
        let command = fred::types::CustomCommand::new(words[0].to_owned(), None::<u16>, false);
        let reply = client.custom(command, words[1..].iter().map(ToString::to_string).collect()).await.unwrap();
        client.quit().await.unwrap();
        reply
    }
}

/// Whether a server takes commands: not while it still reads its append-only file.
fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut reply = [0; 5];
    stream.write_all(b"PING\r\n").is_ok() && stream.read_exact(&mut reply).is_ok() && &reply == b"+PONG"
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until `probe` holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, probe: impl FnMut() -> F) {
    eventually_within(PATIENCE, what, probe).await;
}

/// The same with a patience of its own.
pub(crate) async fn eventually_within<F: Future<Output = bool>>(
    patience: Duration,
    what: &str,
    mut probe: impl FnMut() -> F,
) {
    let begun = Instant::now();
    while !probe().await {
        assert!(begun.elapsed() < patience, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
