//! One timer for all connections of the process: a wheel of turns a quarter of a second long, each with the connections to wake then.
//!
//! A timer of the runtime's own would cost each connection more memory than its queue. Deadlines move later with every message, so a connection
//! is left where it stands, woken too early now and then, and put where it then belongs.

use parking_lot::Mutex;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::time::Instant;

/// How late a deadline may be noticed.
pub(crate) const TURN: Duration = Duration::from_millis(250);
/// Two minutes; what is further away is looked at then.
const TURNS: u64 = 512;
/// No turn.
pub(crate) const NEVER: u64 = u64::MAX;

pub(crate) struct Wheel {
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    /// The last turn that was taken.
    turn: u64,
    slots: Vec<Vec<u64>>,
}

impl Wheel {
    pub(crate) fn new(now: Instant) -> Self {
        let slots = (0..TURNS).map(|_| Vec::new()).collect();
        Self { begun: now, state: Mutex::new(State { turn: 0, slots }) }
    }

    /// The first turn at or after `deadline`.
    pub(crate) fn turn_of(&self, deadline: Instant) -> u64 {
        let after = deadline.saturating_duration_since(self.begun);
        u64::try_from(after.as_nanos().div_ceil(TURN.as_nanos())).unwrap_or(NEVER - 1)
    }

    /// Puts a connection in, and notes in `armed` the turn at which it comes out: the next one for what is past, the last of the wheel for what is
    /// too far. Noted with the wheel locked, so that the turn cannot be taken before.
    pub(crate) fn put(&self, id: u64, turn: u64, armed: &AtomicU64) {
        let mut state = self.state.lock();
        let turn = turn.clamp(state.turn + 1, state.turn + TURNS - 1);
        state.slots[(turn % TURNS) as usize].push(id);
        armed.store(turn, Ordering::Relaxed);
    }

    /// Takes every turn up to `now`, each with the connections that were put there.
    pub(crate) fn advance(&self, now: Instant, mut due: impl FnMut(u64, Vec<u64>)) {
        let last = u64::try_from(now.saturating_duration_since(self.begun).as_nanos() / TURN.as_nanos()).unwrap_or(0);
        loop {
            let (turn, ids) = {
                let mut state = self.state.lock();
                if state.turn >= last {
                    return;
                }
                state.turn += 1;
                let turn = state.turn;
                (turn, std::mem::take(&mut state.slots[(turn % TURNS) as usize]))
            };
            if !ids.is_empty() {
                due(turn, ids);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_told_early_and_at_most_a_turn_late() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let deadlines = [0, 1, 249, 250, 251, 5_000, 119_000];
        for (id, ms) in deadlines.iter().enumerate() {
            wheel.put(id as u64, wheel.turn_of(start + Duration::from_millis(*ms)), &AtomicU64::new(NEVER));
        }
        let mut told = Vec::new();
        for ms in (0..130_000).step_by(50) {
            wheel.advance(start + Duration::from_millis(ms), |_, ids| told.extend(ids.into_iter().map(|id| (id, ms))));
        }
        assert_eq!(told.len(), deadlines.len());
        for (id, at) in told {
            let wanted = deadlines[id as usize];
            assert!(at >= wanted && at <= wanted + 350, "{wanted} at {at}");
        }
    }

    #[test]
    fn what_is_further_away_than_the_wheel_is_long_comes_out_at_its_end() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let armed = AtomicU64::new(NEVER);
        wheel.put(1, wheel.turn_of(start + Duration::from_secs(86_400)), &armed);
        assert_eq!(armed.into_inner(), TURNS - 1);
        let mut turns = Vec::new();
        wheel.advance(start + TURN * 2_000, |turn, ids| turns.push((turn, ids)));
        assert_eq!(turns, [(TURNS - 1, vec![1])]);
    }
}
