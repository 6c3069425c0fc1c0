//! The connections of this process: counted, capped per user, and reachable for those who must end them.

use super::{close::Close, hub::Conn};
use oneiro_core::auth::UserId;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::sync::Notify;

#[derive(Default)]
pub(crate) struct Registry {
    state: Mutex<State>,
    count: AtomicUsize,
    is_draining: AtomicBool,
    emptied: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    conns: HashMap<u64, (Arc<Conn>, Option<UserId>)>,
    users: HashMap<UserId, usize>,
}

/// A connection's entry; dropping it takes the connection off the books.
pub(crate) struct Entry {
    registry: Arc<Registry>,
    id: u64,
}

impl Registry {
    pub(crate) fn add(self: &Arc<Self>, conn: &Arc<Conn>) -> Entry {
        let mut state = self.state.lock();
        state.next += 1;
        let id = state.next;
        state.conns.insert(id, (conn.clone(), None));
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        metrics::gauge!("oneiro_ws_connections").set(count as f64);
        Entry { registry: self.clone(), id }
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Ends every connection, each with its own goodbye, and refuses new ones from now on. Returns once all are gone.
    pub(crate) async fn drain(&self, goodbye: impl Fn() -> Close) {
        self.is_draining.store(true, Ordering::Relaxed);
        loop {
            let emptied = self.emptied.notified();
            let conns: Vec<Arc<Conn>> = self.state.lock().conns.values().map(|(conn, _)| conn.clone()).collect();
            if conns.is_empty() {
                return;
            }
            for conn in conns {
                conn.outbox.close(goodbye());
            }
            emptied.await;
        }
    }

    /// Ends the connections of one user. How many there were.
    pub(crate) fn kick(&self, user: &UserId) -> usize {
        let conns: Vec<Arc<Conn>> = self
            .state
            .lock()
            .conns
            .values()
            .filter(|(_, owner)| owner.as_ref() == Some(user))
            .map(|(conn, _)| conn.clone())
            .collect();
        for conn in &conns {
            conn.outbox.close(Close::KICKED);
        }
        conns.len()
    }
}

impl Entry {
    /// Unique in this process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Notes whose connection it is. `false` where that user has `most` already; 0 is no limit.
    pub(crate) fn claim(&self, user: &UserId, most: usize) -> bool {
        let mut state = self.registry.state.lock();
        let count = state.users.entry(user.clone()).or_default();
        if most > 0 && *count >= most {
            return false;
        }
        *count += 1;
        if let Some((_, owner)) = state.conns.get_mut(&self.id) {
            *owner = Some(user.clone());
        }
        true
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.registry.state.lock();
        if let Some((_, Some(user))) = state.conns.remove(&self.id)
            && let Some(count) = state.users.get_mut(&user)
        {
            *count -= 1;
            if *count == 0 {
                state.users.remove(&user);
            }
        }
        if state.conns.is_empty() {
            self.registry.emptied.notify_waiters();
        }
        drop(state);
        let count = self.registry.count.fetch_sub(1, Ordering::Relaxed) - 1;
        metrics::gauge!("oneiro_ws_connections").set(count as f64);
    }
}
