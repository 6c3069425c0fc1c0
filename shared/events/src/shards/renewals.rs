//! Whether connections are new: Redis may have lost its last writes with the old ones.

use super::Watch;
use fred::{clients::Client, interfaces::EventInterface, types::config::Server};
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::{
    sync::broadcast::{Receiver, error::TryRecvError},
    task::JoinSet,
};

/// Counts new connections. Looked at by those who want to know, so that it needs no task.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    connections: Mutex<Vec<Receiver<Server>>>,
    count: AtomicU64,
}

impl Renewals {
    /// How many there were; more than the last time, and what was written may be lost.
    pub(crate) fn count(&self) -> u64 {
        self.connections.lock().retain_mut(|connections| {
            loop {
                match connections.try_recv() {
                    Ok(_) | Err(TryRecvError::Lagged(_)) => self.count.fetch_add(1, Ordering::Relaxed),
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Closed) => return false,
                };
            }
        });
        self.count.load(Ordering::Relaxed)
    }
}

impl Watch for Arc<Renewals> {
    fn on_client(&self, client: &Client) -> JoinSet<()> {
        // Forgets clients that are gone.
        self.count();
        self.connections.lock().push(client.reconnect_rx());
        JoinSet::new()
    }

    fn on_moved(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}
