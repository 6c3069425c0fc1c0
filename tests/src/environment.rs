//! One installation of Oneiro for one test.

use crate::{Artifacts, Process, Proxy, RedisServer, Spawn, User, eventually, free_port, program};
use anyhow::{Context, Result, bail, ensure};
use apalis_fred::{Queue, QueueName};
use fred::prelude::*;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many environments run at once: each is five processes, and a pipeline uses every core.
const ENVIRONMENTS: usize = 3;
static ROOM: Semaphore = Semaphore::const_new(ENVIRONMENTS);

/// Signs the tokens of every environment; nothing outside a test accepts it.
const SECRET: &str = "a secret for tests only, longer than 32 bytes";

/// Which program a request or socket goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// The program `api`, which serves sockets as well.
    Api,
    /// The program `ws`.
    Ws,
}

/// What an environment shall have. See [`Oneiro::builder`].
#[derive(Debug)]
pub struct Builder {
    workers: usize,
    with_proxy: bool,
    env: Vec<(String, String)>,
}

impl Builder {
    /// How many workers start at once; 1 where this is not called.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// Puts a [`Proxy`] between the programs and Redis.
    #[must_use]
    pub fn proxy(mut self) -> Self {
        self.with_proxy = true;
        self
    }

    /// Sets an environment variable for every program.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// When a program does not start; its log is in the artifacts.
    pub async fn start(self) -> Result<Oneiro> {
        let room = ROOM.acquire().await.context("the semaphore is never closed")?;
        // Built first, so that no Redis waits for a compiler.
        program("api")?;
        let artifacts = Artifacts::of_this_test()?;
        let dir = tempfile::Builder::new().prefix("oneiro-test-").tempdir().context("failed to make a folder")?;
        let redis = RedisServer::start(free_port(), dir.path().join("redis"), artifacts.path("redis.log")).await?;
        let proxy = if self.with_proxy { Some(Proxy::start(redis.port()).await?) } else { None };
        let redis_port = proxy.as_ref().map_or(redis.port(), Proxy::port);
        let (api_port, ws_port) = (free_port(), free_port());
        let storage = dir.path().join("storage");
        std::fs::create_dir_all(&storage).context("failed to make the storage folder")?;
        let mut env: Vec<(String, String)> = [
            ("REDIS_URL", format!("redis://127.0.0.1:{redis_port}")),
            ("STORAGE_URL", format!("file://{}", storage.display())),
            ("JWT_SECRET", SECRET.to_owned()),
            ("HTTP_ADDR", format!("127.0.0.1:{api_port}")),
            ("WS_ADDR", format!("127.0.0.1:{ws_port}")),
            ("RUST_LOG", "info,oneiro=debug".to_owned()),
            // What is tested is that nothing accepted is lost on a crash of a process, which needs no disk flush.
            ("ONEIRO_STORAGE_FSYNC", "false".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        env.extend(self.env);
        let mut oneiro = Oneiro {
            api: None,
            ws: None,
            workers: Vec::new(),
            proxy,
            redis,
            env,
            api_port,
            ws_port,
            storage,
            started: 0,
            artifacts,
            _dir: dir,
            _room: room,
        };
        oneiro.start_api()?;
        oneiro.start_ws()?;
        for _ in 0..self.workers {
            oneiro.start_worker()?;
        }
        oneiro.ready().await?;
        Ok(oneiro)
    }
}

/// A running installation. Dropping it kills every process and removes the data.
#[derive(Debug)]
pub struct Oneiro {
    // Dropped from top to bottom: the programs before the Redis that they talk to, the folder after both.
    api: Option<Process>,
    ws: Option<Process>,
    workers: Vec<Process>,
    proxy: Option<Proxy>,
    /// The private Redis, to stop, kill and start.
    pub redis: RedisServer,
    env: Vec<(String, String)>,
    api_port: u16,
    ws_port: u16,
    storage: PathBuf,
    started: usize,
    artifacts: Artifacts,
    _dir: TempDir,
    _room: SemaphorePermit<'static>,
}

impl Oneiro {
    /// An environment with one worker, to be changed before it starts.
    pub fn builder() -> Builder {
        Builder { workers: 1, with_proxy: false, env: Vec::new() }
    }

    /// Starts an environment with one worker.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// The folder with this test's logs, for further files.
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// The folder behind `STORAGE_URL`.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// The proxy in front of Redis.
    ///
    /// # Errors
    /// When the environment was made without [`Builder::proxy`].
    pub fn proxy(&self) -> Result<&Proxy> {
        self.proxy.as_ref().context("made without a proxy")
    }

    /// The environment variables that every program gets.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// The port of `api` or `ws`.
    pub fn port(&self, tier: Tier) -> u16 {
        match tier {
            Tier::Api => self.api_port,
            Tier::Ws => self.ws_port,
        }
    }

    /// `http://127.0.0.1:<port>` of `api` or `ws`.
    pub fn url(&self, tier: Tier) -> String {
        format!("http://127.0.0.1:{}", self.port(tier))
    }

    /// A user with a valid token and no scopes.
    ///
    /// # Errors
    /// When the token cannot be made.
    pub fn user(&self, id: u64) -> Result<User> {
        let token = token(&json!({ "user_id": id }), 3600)?;
        User::new(self.url(Tier::Api), self.url(Tier::Ws), Some(token))
    }

    /// Somebody with this token, which may be anything; `None` for no token at all.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn bearer(&self, token: Option<String>) -> Result<User> {
        User::new(self.url(Tier::Api), self.url(Tier::Ws), token)
    }

    /// The queue of `process_image` jobs, over a connection of its own (never through the proxy).
    ///
    /// # Errors
    /// When Redis is down.
    pub async fn image_queue(&self) -> Result<Queue> {
        Ok(Queue::new(self.redis_client().await?, QueueName::try_from("images")?))
    }

    /// A connection to the private Redis (never through the proxy).
    ///
    /// # Errors
    /// When Redis is down.
    pub async fn redis_client(&self) -> Result<Client> {
        let url = format!("redis://127.0.0.1:{}", self.redis.port());
        let client = fred::types::Builder::from_config(Config::from_url(&url)?).build()?;
        client.init().await?;
        Ok(client)
    }

    /// Runs the operator's program with the environment's settings; returns exit code, standard output, standard error.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn cli(&self, args: &[&str]) -> Result<(i32, String, String)> {
        let mut spawn = Spawn::new(program("oneiro")?).envs(&self.env);
        for arg in args {
            spawn = spawn.arg(*arg);
        }
        spawn.run().await
    }

    /// Starts one more worker; returns its index. It may not be ready yet.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub fn start_worker(&mut self) -> Result<usize> {
        let process = self.spawn("worker")?;
        self.workers.push(process);
        Ok(self.workers.len() - 1)
    }

    /// The worker with this index, in the order of their starts.
    ///
    /// # Errors
    /// When there were not so many.
    pub fn worker(&mut self, index: usize) -> Result<&mut Process> {
        self.workers.get_mut(index).with_context(|| format!("no worker {index}"))
    }

    /// The running `api`.
    ///
    /// # Errors
    /// When it was taken away.
    pub fn api(&mut self) -> Result<&mut Process> {
        self.api.as_mut().context("api does not run")
    }

    /// The running `ws`.
    ///
    /// # Errors
    /// When it was taken away.
    pub fn ws(&mut self) -> Result<&mut Process> {
        self.ws.as_mut().context("ws does not run")
    }

    /// Starts `api`, in place of one that was killed.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub fn start_api(&mut self) -> Result<()> {
        self.api = Some(self.spawn("api")?);
        Ok(())
    }

    /// Starts `ws`, in place of one that was killed.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub fn start_ws(&mut self) -> Result<()> {
        self.ws = Some(self.spawn("ws")?);
        Ok(())
    }

    fn spawn(&mut self, name: &str) -> Result<Process> {
        self.started += 1;
        let log = self.artifacts.path(&format!("{name}-{}.log", self.started));
        Spawn::new(program(name)?).envs(&self.env).start(log)
    }

    /// Waits until `api` and `ws` say that they are ready.
    ///
    /// # Errors
    /// When one of them ends or never is.
    pub async fn ready(&mut self) -> Result<()> {
        for tier in [Tier::Api, Tier::Ws] {
            let url = format!("{}/readyz", self.url(tier));
            eventually(&format!("{tier:?} is ready"), async || {
                let process = if tier == Tier::Api { self.api()? } else { self.ws()? };
                if process.has_ended()? {
                    bail!("{tier:?} ended:\n{}", process.output()?);
                }
                Ok(reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Asks every program to stop and sees that each does so with exit code 0.
    ///
    /// # Errors
    /// When one does not.
    pub async fn stop(&mut self) -> Result<()> {
        let mut running: Vec<Process> = self.workers.drain(..).chain(self.ws.take()).chain(self.api.take()).collect();
        for process in &mut running {
            if !process.has_ended()? {
                process.terminate()?;
                let status = process.ended().await?;
                ensure!(status.success(), "{} ended with {status}:\n{}", process.log().display(), process.output()?);
            }
        }
        Ok(())
    }
}

/// A token with these claims beside `iat` and `exp`, which is `ttl_seconds` from now (a past moment where negative).
///
/// # Errors
/// When it cannot be signed.
pub fn token(claims: &Value, ttl_seconds: i64) -> Result<String> {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let mut claims = claims.clone();
    claims["iat"] = json!(now + ttl_seconds.min(0));
    claims["exp"] = json!(now + ttl_seconds);
    Ok(encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))?)
}
