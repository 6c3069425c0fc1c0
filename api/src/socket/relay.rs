//! Writes events to connections whose own tasks sleep. To wake a task, to have it look at everything it waits for, and to put it to sleep again
//! takes as long as half of what the write itself takes; here one task writes for many connections.

use super::conn::Conn;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

/// Connections that one task writes to in a row, in less than a millisecond. What is beyond goes to further tasks, which other threads may take.
const TURN: usize = 64;

#[derive(Default)]
pub(crate) struct Relay {
    /// Each is in it about once, as one that has something waiting is not put there again.
    waiting: Mutex<Vec<Arc<Conn>>>,
    news: Notify,
}

impl Relay {
    /// Has what waits for these connections written.
    pub(crate) fn write(&self, mut asleep: Vec<Arc<Conn>>) {
        if asleep.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            *waiting = asleep;
        } else {
            waiting.append(&mut asleep);
        }
        drop(waiting);
        self.news.notify_one();
    }

    /// Runs until the process ends.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            self.news.notified().await;
            // Under a steady stream of events, others on this thread have their turn all the same.
            tokio::task::coop::consume_budget().await;
            let mut conns = std::mem::take(&mut *self.waiting.lock());
            while conns.len() > TURN {
                let others = conns.split_off(conns.len() - TURN);
                tokio::spawn(async move { write_all(&others) });
            }
            write_all(&conns);
        }
    }
}

fn write_all(conns: &[Arc<Conn>]) {
    conns.iter().for_each(|conn| conn.write_now());
}

#[cfg(test)]
mod tests;
