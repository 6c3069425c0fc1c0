//! A redis-server of one's own: free port, temporary folder, append-only file written through, ended with its owner.

use fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{
        Builder,
        config::{Config, ReconnectPolicy, TcpConfig},
    },
};
use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up: generous, as the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Redis {
    pub(crate) port: u16,
    child: Option<Child>,
    folder: tempfile::TempDir,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        loop {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut redis = Self { port, child: None, folder: tempfile::tempdir().unwrap() };
            if redis.launch().await {
                return redis;
            }
        }
    }

    /// Whether it answers; false where somebody else took the port.
    async fn launch(&mut self) -> bool {
        self.child = Some(
            Command::new("redis-server")
                .args([
                    "--port",
                    &self.port.to_string(),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                    "--appendonly",
                    "yes",
                    "--appendfsync",
                    "always",
                ])
                .args(["--dir", self.folder.path().to_str().unwrap()])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-server is installed"),
        );
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                return false;
            }
            if self.answers().await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    async fn answers(&self) -> bool {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await else {
            return false;
        };
        let mut reply = [0; 7];
        stream.write_all(b"PING\r\n").await.is_ok()
            && stream.read_exact(&mut reply).await.is_ok()
            && &reply == b"+PONG\r\n"
    }

    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Either fails only where the process has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    #[allow(dead_code, reason = "not every test binary that includes this file needs it")]
    pub(crate) async fn restart(&mut self) {
        self.stop();
        assert!(self.launch().await, "redis-server did not come back");
    }

    #[allow(dead_code, reason = "not every test binary that includes this file needs it")]
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn builder(&self) -> Builder {
        let mut builder = Builder::from_config(Config::from_url(&format!("redis://127.0.0.1:{}", self.port)).unwrap());
        builder.set_policy(ReconnectPolicy::new_constant(0, 50));
        builder
            .with_performance_config(|performance| {
                performance.broadcast_channel_capacity = 16_384;
                performance.default_command_timeout = Duration::from_secs(10);
            })
            .with_connection_config(|connection| {
                connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
            });
        builder
    }

    pub(crate) async fn client(&self) -> Client {
        let client = self.builder().build().unwrap();
        client.init().await.unwrap();
        client
    }

    pub(crate) async fn subscriber(&self) -> Client {
        let client = self.builder().build().unwrap();
        client.init().await.unwrap();
        client
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}
