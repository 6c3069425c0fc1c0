//! Chat messages that wait for users who are away: how many of each sender, and to whom.
//!
//! Kept in memory, each process for itself. Only messages to a receiver without a connection count, and they count until the receiver has been
//! here: what Redis knows of when that was is another then, whichever process the receiver came to.

use oneiro_core::auth::UserId;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Pairs of sender and receiver that are remembered. When more come, the senders that have been quiet for longest are forgotten, down to half.
const MAX_PAIRS: usize = 100_000;
/// Between two looks at which receivers of a sender at the bound have been here meanwhile.
const REVIEW_PAUSE: Duration = Duration::from_secs(10);

pub(crate) struct Waiting {
    per_receiver: u32,
    per_sender: u32,
    /// How long a message waits at most.
    kept_for: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    senders: HashMap<UserId, Sender>,
    pairs: usize,
}

struct Sender {
    receivers: HashMap<UserId, Pair>,
    total: u32,
    counted_at: Instant,
    reviewed_at: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Pair {
    count: u32,
    since: Instant,
    /// When the receiver was last seen, as Redis knew it when the first of these was sent.
    seen_ms: Option<u64>,
}

impl Waiting {
    /// Bounds of one sender's messages, for one receiver and for all together; a bound of 0 is none.
    pub(crate) fn new(per_receiver: u32, per_sender: u32, kept_for: Duration) -> Self {
        Self { per_receiver, per_sender, kept_for, state: Mutex::default() }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.per_receiver > 0 || self.per_sender > 0
    }

    /// Whether one more may wait for a receiver who is away and was last seen then; if so, it is counted.
    pub(crate) fn admit(&self, from: &UserId, to: &UserId, seen_ms: Option<u64>, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.forget(from, to, |pair| self.is_over(pair, seen_ms, now));
        if state.pairs >= MAX_PAIRS {
            state.forget_quiet_senders();
        }
        let State { senders, pairs } = &mut *state;
        let sender = senders.entry(from.clone()).or_insert_with(|| Sender::new(now));
        let count = sender.receivers.get(to).map_or(0, |pair| pair.count);
        let has_room = |count: u32, most: u32| most == 0 || count < most;
        if !has_room(count, self.per_receiver) || !has_room(sender.total, self.per_sender) {
            return false;
        }
        *pairs += usize::from(count == 0);
        sender.receivers.entry(to.clone()).or_insert(Pair { count: 0, since: now, seen_ms }).count += 1;
        sender.total += 1;
        sender.counted_at = now;
        true
    }

    /// The receiver is here and reads.
    pub(crate) fn clear(&self, from: &UserId, to: &UserId) {
        self.state.lock().forget(from, to, |_| true);
    }

    /// Where a sender has reached the bound for all receivers: these, some of whom may have been here meanwhile. `None` where that is not so, or
    /// was looked at just now.
    pub(crate) fn receivers_to_review(&self, from: &UserId, now: Instant) -> Option<Vec<UserId>> {
        let mut state = self.state.lock();
        let sender = state.senders.get_mut(from)?;
        let is_due = sender.reviewed_at.is_none_or(|at| now.saturating_duration_since(at) >= REVIEW_PAUSE);
        if self.per_sender == 0 || sender.total < self.per_sender || !is_due {
            return None;
        }
        sender.reviewed_at = Some(now);
        Some(sender.receivers.keys().cloned().collect())
    }

    /// Takes when these were last seen.
    pub(crate) fn review(&self, from: &UserId, seen: &[(UserId, Option<u64>)], now: Instant) {
        let mut state = self.state.lock();
        for (receiver, seen_ms) in seen {
            state.forget(from, receiver, |pair| self.is_over(pair, *seen_ms, now));
        }
    }

    /// Whether the messages wait no more: the receiver was here, or their time is over.
    fn is_over(&self, pair: &Pair, seen_ms: Option<u64>, now: Instant) -> bool {
        pair.seen_ms != seen_ms || now.saturating_duration_since(pair.since) > self.kept_for
    }
}

impl Sender {
    fn new(now: Instant) -> Self {
        Self { receivers: HashMap::new(), total: 0, counted_at: now, reviewed_at: None }
    }
}

impl State {
    fn forget(&mut self, from: &UserId, to: &UserId, is_over: impl Fn(&Pair) -> bool) {
        let Some(sender) = self.senders.get_mut(from) else { return };
        let Some(pair) = sender.receivers.get(to).copied().filter(is_over) else { return };
        sender.receivers.remove(to);
        sender.total -= pair.count;
        self.pairs -= 1;
        if sender.receivers.is_empty() {
            self.senders.remove(from);
        }
    }

    /// Whoever floods is not quiet, so nobody gets a new quota by making others lose theirs.
    fn forget_quiet_senders(&mut self) {
        let mut quiet: Vec<(Instant, UserId)> =
            self.senders.iter().map(|(user, sender)| (sender.counted_at, user.clone())).collect();
        quiet.sort_unstable_by_key(|(at, _)| *at);
        for (_, user) in quiet {
            if self.pairs <= MAX_PAIRS / 2 {
                break;
            }
            self.pairs -= self.senders.remove(&user).map_or(0, |sender| sender.receivers.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

    fn user(id: u64) -> UserId {
        UserId::from(id)
    }

    #[test]
    fn each_receiver_and_all_together_have_a_bound() {
        let waiting = Waiting::new(2, 5, WEEK);
        let now = Instant::now();
        let admitted = |to| (0..4).filter(|_| waiting.admit(&user(1), &user(to), None, now)).count();
        assert_eq!((admitted(2), admitted(3), admitted(4), admitted(5)), (2, 2, 1, 0));
        assert!(waiting.admit(&user(9), &user(2), None, now), "each sender has bounds of its own");
        waiting.clear(&user(1), &user(3));
        assert_eq!((admitted(3), admitted(5)), (2, 0));
    }

    #[test]
    fn a_receiver_who_was_here_and_a_time_that_is_over_make_room() {
        let waiting = Waiting::new(2, 3, WEEK);
        let now = Instant::now();
        let admitted = |to, seen, now| (0..4).filter(|_| waiting.admit(&user(1), &user(to), seen, now)).count();
        assert_eq!(admitted(2, Some(7), now), 2);
        assert_eq!(admitted(2, Some(8), now), 2, "seen since");
        assert_eq!(admitted(3, None, now), 1);
        assert_eq!(waiting.receivers_to_review(&user(1), now).map(|users| users.len()), Some(2));
        assert_eq!(waiting.receivers_to_review(&user(1), now), None, "not at every message");
        waiting.review(&user(1), &[(user(2), Some(9)), (user(3), None)], now);
        assert_eq!(admitted(4, None, now), 2);
        assert_eq!(admitted(3, None, now + WEEK + Duration::from_secs(1)), 1);
    }

    #[test]
    fn who_floods_the_memory_keeps_a_full_quota() {
        let waiting = Waiting::new(1, 0, WEEK);
        let start = Instant::now();
        assert!(waiting.admit(&user(1), &user(2), None, start));
        let mut admitted = 0_u64;
        for n in 0..3 * MAX_PAIRS as u64 {
            let now = start + Duration::from_millis(n + 1);
            admitted += u64::from(waiting.admit(&user(10 + n / 1_000), &user(n), None, now));
            assert!(waiting.state.lock().pairs <= MAX_PAIRS);
        }
        assert_eq!(admitted, 3 * MAX_PAIRS as u64);
        let last = (3 * MAX_PAIRS as u64 - 1) / 1_000 + 10;
        assert!(!waiting.admit(&user(last), &user(3 * MAX_PAIRS as u64 - 1), None, start + WEEK / 2));
    }

    #[test]
    fn zero_is_no_limit() {
        let waiting = Waiting::new(0, 0, WEEK);
        assert!(!waiting.is_limited());
        assert!((0..1_000).all(|_| waiting.admit(&user(1), &user(2), None, Instant::now())));
    }
}
