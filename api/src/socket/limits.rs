//! Token buckets: for messages of one connection, for handshakes by address and by user, for what others are told of a user.

use parking_lot::Mutex;
use std::{collections::HashMap, hash::Hash};
use tokio::time::Instant;

/// Keys a limiter remembers. When more come, all are forgotten: an attacker with that many addresses is not stopped here, and must not fill the
/// memory.
const MAX_KEYS: usize = 100_000;
/// From so many keys on, buckets that have filled up again are forgotten whenever the table has doubled.
const MANY_KEYS: usize = 1_024;

/// Fills at a steady rate up to its capacity.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    level: f32,
    filled_at: Instant,
}

impl Bucket {
    pub(crate) fn full(capacity: u32, now: Instant) -> Self {
        Self { level: capacity as f32, filled_at: now }
    }

    /// Takes one, if there is one. A rate of 0 is no limit.
    pub(crate) fn take(&mut self, rate: u32, capacity: u32, now: Instant) -> bool {
        if rate == 0 {
            return true;
        }
        self.fill(rate, capacity, now);
        let has_one = self.level >= 1.0;
        if has_one {
            self.level -= 1.0;
        }
        has_one
    }

    /// Whether all but the one just taken are there.
    pub(crate) fn is_rested(&self, capacity: u32) -> bool {
        self.level + 1.0 >= capacity as f32
    }

    fn fill(&mut self, rate: u32, capacity: u32, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f32();
        self.level = (self.level + passed * rate as f32).min(capacity as f32);
        self.filled_at = now;
    }
}

/// One bucket a key.
pub(crate) struct Limiter<K> {
    rate: u32,
    capacity: u32,
    state: Mutex<State<K>>,
}

struct State<K> {
    buckets: HashMap<K, Bucket>,
    /// At how many keys the table is looked through.
    looked_through_at: usize,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    /// `rate` a second sustained, `capacity` at once. A rate of 0 is no limit.
    pub(crate) fn new(rate: u32, capacity: u32) -> Self {
        let state = State { buckets: HashMap::new(), looked_through_at: MANY_KEYS };
        Self { rate, capacity: capacity.max(1), state: Mutex::new(state) }
    }

    /// Whether this one may pass.
    pub(crate) fn admit(&self, key: &K, now: Instant) -> bool {
        if self.rate == 0 {
            return true;
        }
        let mut state = self.state.lock();
        if state.buckets.len() >= state.looked_through_at {
            state.buckets.retain(|_, bucket| {
                bucket.fill(self.rate, self.capacity, now);
                bucket.level < self.capacity as f32
            });
            if state.buckets.len() >= MAX_KEYS {
                state.buckets.clear();
            }
            state.buckets.shrink_to(MANY_KEYS);
            state.looked_through_at = MANY_KEYS.max(state.buckets.len() * 2).min(MAX_KEYS);
        }
        if let Some(bucket) = state.buckets.get_mut(key) {
            return bucket.take(self.rate, self.capacity, now);
        }
        let mut bucket = Bucket::full(self.capacity, now);
        let is_admitted = bucket.take(self.rate, self.capacity, now);
        state.buckets.insert(key.clone(), bucket);
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limiter = Limiter::new(2, 4);
        let start = Instant::now();
        let passed = |at: Duration| (0..10).filter(|_| limiter.admit(&"a", start + at)).count();
        assert_eq!(passed(Duration::ZERO), 4);
        assert_eq!(passed(Duration::from_secs(1)), 2);
        assert_eq!(passed(Duration::from_secs(100)), 4);
        assert!(limiter.admit(&"b", start), "each key has its own");
    }

    #[test]
    fn who_has_not_come_for_a_while_is_forgotten() {
        let limiter = Limiter::new(1, 2);
        let start = Instant::now();
        for n in 0..50_000_u32 {
            assert!(limiter.admit(&n, start + Duration::from_millis(u64::from(n))));
        }
        assert!(limiter.state.lock().buckets.len() <= 2 * MANY_KEYS);
    }

    #[test]
    fn zero_is_no_limit() {
        let limiter = Limiter::new(0, 0);
        assert!((0..1_000).all(|_| limiter.admit(&"a", Instant::now())));
    }
}
