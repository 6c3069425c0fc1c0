//! The connections of this process: counted, capped per user, reachable for those who must end them, and woken when their time has come.

use super::{
    close::Close,
    conn::Conn,
    memory::{CrowdWatch, give_back},
    wheel::{NEVER, TURN, Wheel},
};
use oneiro_core::auth::UserId;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use tokio::{sync::Notify, time::Instant};

/// Queues are measured every so many turns of the wheel: every five seconds.
const MEASURED: u64 = 20;
/// Crowds are looked for every so many: every second.
const WATCHED: u64 = 4;

pub(crate) struct Registry {
    state: Mutex<State>,
    count: AtomicUsize,
    is_draining: AtomicBool,
    emptied: Notify,
    wheel: Wheel,
    connections: metrics::Gauge,
}

#[derive(Default)]
struct State {
    next: u64,
    conns: HashMap<u64, Arc<Conn>>,
    users: HashMap<UserId, usize>,
}

/// A connection's entry; dropping it takes the connection off the books.
pub(crate) struct Entry {
    registry: Arc<Registry>,
    id: u64,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            count: AtomicUsize::new(0),
            is_draining: AtomicBool::new(false),
            emptied: Notify::new(),
            wheel: Wheel::new(Instant::now()),
            connections: metrics::gauge!("oneiro_ws_connections"),
        }
    }

    pub(crate) fn add(self: &Arc<Self>, conn: &Arc<Conn>) -> Entry {
        let mut state = self.state.lock();
        state.next += 1;
        let id = state.next;
        state.conns.insert(id, conn.clone());
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        self.connections.set(count as f64);
        Entry { registry: self.clone(), id }
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// Every connection with its id.
    pub(crate) fn conns(&self) -> Vec<(u64, Arc<Conn>)> {
        self.state.lock().conns.iter().map(|(id, conn)| (*id, conn.clone())).collect()
    }

    /// Ends every connection, each with its own goodbye, and refuses new ones from now on. Returns once all are gone.
    pub(crate) async fn drain(&self, goodbye: impl Fn() -> Close) {
        self.is_draining.store(true, Ordering::Relaxed);
        loop {
            let emptied = self.emptied.notified();
            let conns = self.conns();
            if conns.is_empty() {
                return;
            }
            for (_, conn) in conns {
                conn.outbox.close(goodbye());
            }
            emptied.await;
        }
    }

    /// Ends the connections of one user. How many there were.
    pub(crate) fn kick(&self, user: &UserId) -> usize {
        let mut conns = self.conns();
        conns.retain(|(_, conn)| conn.user() == Some(user));
        for (_, conn) in &conns {
            conn.outbox.close(Close::KICKED);
        }
        conns.len()
    }

    /// How many connections have come, and how many have gone.
    fn turnover(&self) -> u64 {
        let state = self.state.lock();
        2 * state.next - state.conns.len() as u64
    }

    /// Tells how much waits for clients, over all connections and for the one with the most.
    pub(crate) fn measure(&self) {
        let (mut frames, mut bytes, mut longest) = (0, 0, 0);
        for conn in self.state.lock().conns.values() {
            let waiting = conn.outbox.waiting();
            frames += waiting.0;
            bytes += waiting.1;
            longest = longest.max(waiting.0);
        }
        metrics::gauge!("oneiro_ws_queued_frames").set(frames as f64);
        metrics::gauge!("oneiro_ws_queued_bytes").set(bytes as f64);
        metrics::gauge!("oneiro_ws_longest_queue").set(longest as f64);
    }

    /// Wakes connections whose time has come, for as long as the process runs, and tidies up behind crowds.
    pub(crate) async fn keep_time(self: Arc<Self>) {
        let mut turns = tokio::time::interval(TURN);
        let mut watch = CrowdWatch::default();
        for turn in 0_u64.. {
            turns.tick().await;
            if turn % MEASURED == 0 {
                self.measure();
            }
            if turn % WATCHED == 0 && watch.is_over(self.turnover()) {
                tokio::task::spawn_blocking(give_back);
            }
            self.wheel.advance(Instant::now(), |turn, ids| {
                let state = self.state.lock();
                for conn in ids.iter().filter_map(|id| state.conns.get(id)) {
                    // One that was put in twice is woken by the turn that counts.
                    if conn.armed.compare_exchange(turn, NEVER, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                        conn.outbox.signal_due();
                    }
                }
            });
        }
    }
}

impl Entry {
    /// Unique in this process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Has the session woken at `deadline` or earlier.
    pub(crate) fn arm(&self, conn: &Conn, deadline: Instant) {
        let turn = self.registry.wheel.turn_of(deadline);
        if conn.armed.load(Ordering::Relaxed) > turn {
            self.registry.wheel.put(self.id, turn, &conn.armed);
        }
    }

    /// Notes whose connection it is. `false` where that user has `most` already; 0 is no limit.
    pub(crate) fn claim(&self, user: &UserId, most: usize) -> bool {
        let mut state = self.registry.state.lock();
        let count = state.users.entry(user.clone()).or_default();
        if most > 0 && *count >= most {
            return false;
        }
        *count += 1;
        if let Some(conn) = state.conns.get(&self.id) {
            conn.belongs_to(user);
        }
        true
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.registry.state.lock();
        let conn = state.conns.remove(&self.id);
        if let Some(user) = conn.as_ref().and_then(|conn| conn.user())
            && let Some(count) = state.users.get_mut(user)
        {
            *count -= 1;
            if *count == 0 {
                state.users.remove(user);
            }
        }
        if state.conns.is_empty() {
            self.registry.emptied.notify_waiters();
        }
        // With the lock held, so that the gauge is set in the order of the counts.
        let count = self.registry.count.fetch_sub(1, Ordering::Relaxed) - 1;
        self.registry.connections.set(count as f64);
    }
}
