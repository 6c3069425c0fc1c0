//! Many sockets at once: a client that costs a few kilobytes, and how many of them a test takes.

use crate::within;
use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt, TryStreamExt, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

/// Handshakes under way at once: fewer than any system's backlog.
const SHAKING_HANDS: usize = 64;

/// How many a test takes: `few`, or `all` where `ONEIRO_TEST_SCALE=full` is set.
#[expect(clippy::disallowed_methods, reason = "a word to the tests, no setting of the product")]
pub fn scaled(few: usize, all: usize) -> usize {
    if std::env::var_os("ONEIRO_TEST_SCALE").is_some_and(|scale| scale == "full") { all } else { few }
}

/// Raises this process's limit of open files to what the system allows; programs started later inherit it.
///
/// # Errors
/// When the system does not allow what it said it would.
pub fn allow_many_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("failed to raise the limit of open files")
}

/// How much memory a process holds, in KiB.
///
/// # Errors
/// Where the system does not say.
pub fn resident_kib(pid: u32) -> Result<u64> {
    // ps(1) rather than /proc, which only Linux has.
    let output = std::process::Command::new("ps").args(["-o", "rss=", "-p", &pid.to_string()]).output();
    let output = output.context("failed to run ps")?;
    String::from_utf8_lossy(&output.stdout).trim().parse().with_context(|| format!("no process {pid}"))
}

/// One of many: a socket with small buffers, which counts nothing and judges nothing.
#[derive(Debug)]
pub struct Member {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Member {
    /// Opens `url` (`ws://...`).
    ///
    /// # Errors
    /// When the upgrade is refused.
    pub async fn connect(url: &str) -> Result<Self> {
        let config = WebSocketConfig::default().read_buffer_size(2_048).write_buffer_size(0);
        let opening = connect_async_with_config(url, Some(config), true);
        let (stream, _) = within("a socket opens", opening).await?.with_context(|| format!("failed to open {url}"))?;
        Ok(Self { stream })
    }

    /// Sends a JSON message.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send(&mut self, message: &Value) -> Result<()> {
        self.stream.send(Message::text(message.to_string())).await.context("failed to send on the socket")
    }

    /// The next message; the code and reason with which the server closes as `Err` within `Ok`, 1006 where it says nothing.
    ///
    /// # Errors
    /// When none comes, or one that is no JSON.
    pub async fn next(&mut self) -> Result<Result<Value, (u16, String)>> {
        // The server's heartbeats must not prolong the patience.
        within("a message", async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(Ok(serde_json::from_str(&text)?)),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(Some(frame)))) => {
                        return Ok(Err((frame.code.into(), frame.reason.to_string())));
                    }
                    Some(Ok(Message::Close(None)) | Err(_)) | None => return Ok(Err((1006, String::new()))),
                    Some(Ok(other)) => bail!("unexpected frame {other:?}"),
                }
            }
        })
        .await?
    }

    /// The next message of this type; others are passed over, but for those that say that something failed.
    ///
    /// # Errors
    /// When the server reports an error or closes instead.
    pub async fn expect(&mut self, kind: &str) -> Result<Value> {
        loop {
            match self.next().await.with_context(|| format!("waiting for `{kind}`"))? {
                Ok(message) if message["type"] == kind => return Ok(message),
                Ok(message) if message["type"] == "error" || message["type"] == "resume_failed" => {
                    bail!("{message} instead of `{kind}`")
                }
                Ok(_) => {}
                Err((code, reason)) => bail!("closed with {code} `{reason}` instead of `{kind}`"),
            }
        }
    }

    /// Returns when the server has worked off everything that was sent before.
    ///
    /// # Errors
    /// When the server closes instead.
    pub async fn settle(&mut self) -> Result<()> {
        self.send(&json!({ "type": "ping", "timestamp": "settle" })).await?;
        self.expect("pong").await.map(|_| ())
    }

    /// Leaves with a goodbye, and waits for the server's.
    ///
    /// # Errors
    /// When the socket broke before.
    pub async fn leave(mut self) -> Result<()> {
        self.stream.close(None).await.context("failed to close the socket")?;
        while self.next().await?.is_ok() {}
        Ok(())
    }
}

/// Opens a socket at each URL and sees each settled, many at a time.
///
/// # Errors
/// When one is refused.
pub async fn gather(urls: impl IntoIterator<Item = String>) -> Result<Vec<Member>> {
    stream::iter(urls)
        .map(async |url| {
            let mut member = Member::connect(&url).await?;
            member.settle().await?;
            anyhow::Ok(member)
        })
        .buffered(SHAKING_HANDS)
        .try_collect()
        .await
}
