//! A private `redis-server` that keeps its data across restarts.

use crate::{Process, Spawn, eventually, project_root};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// One server, its port and its data folder.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    spawn: Spawn,
    log: PathBuf,
    process: Option<Process>,
}

impl RedisServer {
    /// Starts a server on `port` with the project's own settings and its data in `dir`, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(port: u16, dir: PathBuf, log: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir).context("failed to make Redis's folder")?;
        let spawn = Spawn::new("redis-server")
            .arg(project_root().join("config/redis.conf").display().to_string())
            .arg("--port")
            .arg(port.to_string())
            .arg("--dir")
            .arg(dir.display().to_string());
        let mut server = Self { port, spawn, log, process: None };
        server.resume().await?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it again with the data that it had.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn resume(&mut self) -> Result<()> {
        self.process = Some(self.spawn.start(self.log.clone())?);
        eventually("Redis answers", async || {
            if self.process.as_mut().context("just set")?.has_ended()? {
                bail!("Redis ended at its start; its log: {}", self.log.display());
            }
            Ok(self.answers().await.then_some(()))
        })
        .await
    }

    /// Stops it as a restart of its service would: everything is on disk afterwards.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("Redis does not run")?;
        process.terminate()?;
        process.ended().await?;
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it does not go.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.take().context("Redis does not run")?.kill().await
    }

    async fn answers(&self) -> bool {
        async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(b"PING\r\n").await?;
            let mut answer = [0_u8; 7];
            stream.read_exact(&mut answer).await?;
            std::io::Result::Ok(&answer == b"+PONG\r\n")
        }
        .await
        .unwrap_or(false)
    }
}
