//! A TCP relay between the programs and Redis that can break the network.

use anyhow::{Context, Result};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Clear,
    /// Every chunk waits so long.
    Slow(Duration),
    /// Nothing passes, connections stay open: a network that swallows packets.
    Silent,
    /// Connections are closed, new ones too: a host that is down.
    Cut,
}

/// Relays connections from its own port to Redis's. Dropping it closes all of them.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
    /// How often all connections were forgotten.
    forgotten: Arc<AtomicU32>,
    accept: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port and relays to `target` on this machine.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(target: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("failed to listen")?;
        let port = listener.local_addr()?.port();
        let (weather, seen) = watch::channel(Weather::Clear);
        let forgotten = Arc::new(AtomicU32::new(0));
        let memory = Arc::clone(&forgotten);
        let accept = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *seen.borrow() != Weather::Cut {
                    tokio::spawn(relay(client, target, seen.clone(), Memory::of(&memory)));
                }
            }
        });
        Ok(Self { port, weather, forgotten, accept })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes every connection and refuses new ones.
    pub fn cut(&self) {
        self.weather.send_replace(Weather::Cut);
    }

    /// Holds back everything without closing anything.
    pub fn silence(&self) {
        self.weather.send_replace(Weather::Silent);
    }

    /// Carries nothing more on the connections that are open, and tells nobody: a firewall that lost its table. New ones work.
    pub fn forget(&self) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    /// Delays every chunk, in both directions.
    pub fn delay(&self, by: Duration) {
        self.weather.send_replace(Weather::Slow(by));
    }

    /// Ends whatever was broken.
    pub fn restore(&self) {
        self.weather.send_replace(Weather::Clear);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.accept.abort();
    }
}

/// Whether a connection is one that was forgotten.
#[derive(Clone)]
struct Memory {
    forgotten: Arc<AtomicU32>,
    before: u32,
}

impl Memory {
    fn of(forgotten: &Arc<AtomicU32>) -> Self {
        Self { forgotten: Arc::clone(forgotten), before: forgotten.load(Ordering::Relaxed) }
    }

    fn is_lost(&self) -> bool {
        self.forgotten.load(Ordering::Relaxed) != self.before
    }
}

async fn relay(client: TcpStream, target: u16, weather: watch::Receiver<Weather>, memory: Memory) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let mut cut = weather.clone();
    tokio::select! {
        () = carry(client_read, server_write, weather.clone(), memory.clone()) => {}
        () = carry(server_read, client_write, weather, memory) => {}
        // Also when the sender is gone: the test is over.
        _ = cut.wait_for(|weather| *weather == Weather::Cut) => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>, memory: Memory) {
    let mut buffer = vec![0_u8; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if memory.is_lost() {
            continue;
        }
        let now = *weather.borrow();
        if let Weather::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if weather.wait_for(|weather| *weather != Weather::Silent).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
