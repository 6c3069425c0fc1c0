//! Who of a worker's queues may claim how many jobs.
//!
//! All queues of one worker share its slots. A slot that gets free goes to one of the queues that are hungry (they may have work), in
//! proportion to their weights; a queue without work, paused or out of reach is not hungry and its share goes to the others.

use parking_lot::Mutex;

#[derive(Debug, Default)]
struct Seat {
    weight: u64,
    /// What the queue is owed, in units of 1 / sum of weights of a slot.
    credit: i64,
    is_hungry: bool,
    /// Slots given to it and not taken yet.
    granted: usize,
    /// Slots that its call under way may fill.
    taken: usize,
}

/// The slots of one worker.
#[derive(Debug)]
pub(crate) struct Budget {
    room: usize,
    seats: Mutex<Vec<Seat>>,
}

impl Budget {
    /// `room` slots for queues of these weights; a weight below 1 counts as 1.
    pub(crate) fn new(room: usize, weights: impl Iterator<Item = u32>) -> Self {
        let seats = weights.map(|weight| Seat { weight: u64::from(weight.max(1)), ..Seat::default() }).collect();
        Self { room, seats: Mutex::new(seats) }
    }

    /// Takes what a queue may claim now, while `held` jobs are held by all; `is_hungry` says whether it knows of work. One that
    /// does not gets what nobody else wants. Also tells which other queues have slots waiting for them.
    ///
    /// Calls under way never fill the last slots of a worker, one for each queue that makes none (but one slot may always be taken):
    /// should they hang, it has something to go on with until they are given up.
    ///
    /// Every call is followed by [`done`](Self::done).
    pub(crate) fn take(&self, at: usize, is_hungry: bool, held: usize) -> (usize, Vec<usize>) {
        let mut seats = self.seats.lock();
        seats[at].is_hungry = is_hungry;
        let left = self.share_out(&mut seats, held);
        let others = || seats.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, seat)| seat.taken);
        // A slot that is kept for a queue without a call counts as much as one that a call may fill.
        let most = self.room.saturating_sub(others().map(|taken| taken.max(1)).sum()).max(1);
        let seat = &mut seats[at];
        seat.taken = (std::mem::take(&mut seat.granted) + if is_hungry { 0 } else { left }).min(most);
        (seat.taken, waiting(&seats, at))
    }

    /// A queue's call has ended and what it claimed is counted in `held`. Tells which queues have slots waiting for them.
    pub(crate) fn done(&self, at: usize, is_hungry: bool, held: usize) -> Vec<usize> {
        let mut seats = self.seats.lock();
        let seat = &mut seats[at];
        seat.taken = 0;
        seat.is_hungry = is_hungry;
        if !is_hungry {
            seat.granted = 0;
        }
        self.share_out(&mut seats, held);
        waiting(&seats, at)
    }

    /// Gives free slots to hungry queues by smooth weighted round-robin and returns how many are left.
    fn share_out(&self, seats: &mut [Seat], held: usize) -> usize {
        let promised: usize = seats.iter().map(|seat| seat.granted + seat.taken).sum();
        let mut free = self.room.saturating_sub(held + promised);
        let all: u64 = seats.iter().map(|seat| seat.weight).sum();
        // A queue whose call hangs must not gather the slots of all others meanwhile.
        let most = |seat: &Seat| (self.room as u64 * seat.weight).div_ceil(all) as usize;
        while free > 0 {
            let is_open = |seat: &Seat| seat.is_hungry && (seat.taken == 0 || seat.granted + seat.taken < most(seat));
            let total = seats.iter().filter(|seat| is_open(seat)).map(|seat| seat.weight).sum::<u64>();
            if total == 0 {
                break;
            }
            let mut best: Option<usize> = None;
            for at in 0..seats.len() {
                if is_open(&seats[at]) {
                    seats[at].credit += seats[at].weight as i64;
                    if best.is_none_or(|best| seats[at].credit > seats[best].credit) {
                        best = Some(at);
                    }
                }
            }
            let Some(best) = best else { break };
            seats[best].credit -= total as i64;
            seats[best].granted += 1;
            free -= 1;
        }
        free
    }
}

fn waiting(seats: &[Seat], at: usize) -> Vec<usize> {
    // A queue whose call is under way looks by itself when it ends.
    let has_grant = |(other, seat): &(usize, &Seat)| *other != at && seat.granted > 0 && seat.taken == 0;
    seats.iter().enumerate().filter(has_grant).map(|(other, _)| other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_go_to_hungry_queues_in_proportion_to_their_weights() {
        let budget = Budget::new(1, [5, 2, 1].into_iter());
        for at in 0..3 {
            budget.done(at, true, 1);
        }
        let mut runs = [0; 3];
        for _ in 0..800 {
            // One slot is free; whoever it was given to claims one job, which ends at once.
            let at = (0..3).find(|at| {
                let (want, _) = budget.take(*at, true, 0);
                if want == 0 {
                    budget.done(*at, true, 0);
                }
                want == 1
            });
            let at = at.unwrap();
            runs[at] += 1;
            budget.done(at, true, 1);
        }
        assert_eq!(runs, [500, 200, 100]);
    }

    #[test]
    fn the_share_of_a_queue_without_work_goes_to_the_others() {
        let budget = Budget::new(10, [9, 1].into_iter());
        assert!(budget.done(1, true, 0).is_empty());
        assert_eq!(budget.take(1, true, 0), (9, vec![]));
        assert!(budget.done(1, true, 9).is_empty());
        assert_eq!(budget.take(1, true, 9), (1, vec![]));
        assert!(budget.done(1, true, 10).is_empty());
        // A queue that knows of no work gets nothing while another waits for slots.
        assert_eq!(budget.take(0, false, 10), (0, vec![]));
        budget.done(0, false, 10);
        assert_eq!(budget.take(0, false, 8), (0, vec![1]));
        // When nobody else has work it may look with all that is free.
        budget.done(1, false, 8);
        budget.done(0, false, 8);
        assert_eq!(budget.take(0, false, 8), (2, vec![]));
    }

    #[test]
    fn a_call_that_hangs_holds_no_more_than_its_queues_share() {
        let budget = Budget::new(10, [1, 1].into_iter());
        budget.done(0, true, 10);
        budget.done(1, true, 10);
        let (first, _) = budget.take(0, true, 9);
        let mut of_other = 0;
        for _ in 0..40 {
            let (want, _) = budget.take(1, true, 1);
            of_other += want;
            budget.done(1, true, 5);
        }
        assert!(of_other >= 5, "{first} {of_other}");
    }

    #[test]
    fn a_call_that_hangs_leaves_a_slot_to_each_other_queue_that_gets_work_meanwhile() {
        let budget = Budget::new(10, [1, 1, 1].into_iter());
        let (hanging, _) = budget.take(0, true, 0);
        assert_eq!(hanging, 8, "it alone is hungry");
        let mut others = 0;
        for at in [1, 2] {
            let (want, _) = budget.take(at, true, others);
            assert_eq!(want, 1);
            others += want;
            budget.done(at, false, others);
        }
        let small = Budget::new(1, [1, 1].into_iter());
        assert_eq!(small.take(0, true, 0).0, 1);
    }

    #[test]
    fn one_queue_gets_all_there_is() {
        let budget = Budget::new(10, [1].into_iter());
        assert_eq!(budget.take(0, true, 3), (7, vec![]));
        budget.done(0, true, 10);
        assert_eq!(budget.take(0, false, 4), (6, vec![]));
    }
}
