//! How fast a queue drains, and how many workers it needs.

use std::time::Duration;

use fred::types::Value;
use serde::Serialize;

use super::Queue;
use crate::{QueueError, WorkerOptions, scripts};

/// Workers are wanted so many that they are busy for this part of the time: at all of it a queue grows with every hiccup
/// (waiting grows with `1 / (1 - load)`, M/M/1).
const LOAD: f64 = 0.8;

/// What a queue did over the last minute or less, and what follows for the next if it goes on like that.
///
/// Workers measure at their heartbeats, five seconds apart; where none lives, the figures are averages since the last one did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// Jobs that are due and wait for a worker.
    pub backlog: u64,
    /// Over how long the rates below were measured; zero before a worker ever measured, and then all of them are 0.
    pub measured_over: Duration,
    /// Jobs pushed a second.
    pub arrivals_per_second: f64,
    /// Jobs of all kinds that run, or are held ready by a worker.
    pub running: u64,
    /// Jobs a second that ended for good: completed, dead or cancelled.
    pub completions_per_second: f64,
    /// Such jobs a second over the times only during which others waited and the queue was not paused: how fast the workers can be.
    /// `None` where the last minute had no such time.
    pub drain_per_second: Option<f64>,
    /// How long a run takes on average, failed ones counted; where none ended of late, what was last known. `None` before one ended.
    pub mean_run_time: Option<Duration>,
    /// When nothing will wait any more: zero where nothing waits, `None` where arrivals are as fast as the workers or faster.
    pub drain_in: Option<Duration>,
    /// Living workers that are not quiet, of whatever kind.
    pub workers: u64,
    /// Jobs that those may run at once, together. A worker of several queues counts in each of them with all it has.
    pub slots: u64,
    /// Whether workers may not take jobs.
    pub is_paused: bool,
    /// Jobs a second that may be started, where that is limited.
    pub rate_limit: Option<f64>,
}

impl Forecast {
    /// How many workers like the living ones (or of default concurrency, where none lives) it takes to keep up with the arrivals and to
    /// work off the backlog within `target`, busy for four fifths of the time. Never fewer than hold the jobs that run: a scaler that
    /// goes by this stops none of them.
    ///
    /// Before a run time is known it is one more than what runs fills, so that one gets known. A paused queue wants what runs
    /// there, and a limited one no more than can start at its rate. Always `Some`.
    ///
    /// It is an estimate for the queue as a whole: a limit on groups is not looked at, and neither is which kind a worker runs, nor what
    /// a worker of several queues does for the others. Where kinds have workers of their own, give each a queue of its own.
    ///
    /// By Little's law: arrivals a second times seconds a run are the slots that are busy on average.
    #[must_use]
    pub fn wanted_workers(&self, target: Duration) -> Option<u64> {
        let slots_each = if self.workers > 0 && self.slots > 0 {
            self.slots as f64 / self.workers as f64
        } else {
            WorkerOptions::default().concurrency as f64
        };
        let running = self.running as f64;
        let has_work = self.backlog > 0 || self.arrivals_per_second > 0.0;
        let slots = match self.mean_run_time {
            _ if self.is_paused || !has_work => running,
            None => running + 1.0,
            Some(run) => {
                let per_second = self.arrivals_per_second + self.backlog as f64 / target.as_secs_f64().max(0.001);
                let per_second = self.rate_limit.map_or(per_second, |limit| per_second.min(limit));
                // One job is work for one worker, however short.
                (per_second * run.as_secs_f64() / LOAD).max(running).max(f64::MIN_POSITIVE)
            }
        };
        Some((slots / slots_each).ceil() as u64)
    }
}

impl Queue {
    /// Rates measured over the last minute, and what they foretell.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    ///
    /// # Examples
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn example(queue: apalis_fred::Queue) -> Result<(), apalis_fred::QueueError> {
    /// let forecast = queue.forecast().await?;
    /// println!("{} jobs wait and are done in {:?}", forecast.backlog, forecast.drain_in);
    /// println!("{:?} workers would do it in 30 s", forecast.wanted_workers(Duration::from_secs(30)));
    /// # Ok(()) }
    /// ```
    pub async fn forecast(&self) -> Result<Forecast, QueueError> {
        let row: Vec<Value> = self.run(&scripts::FORECAST, vec![]).await?;
        let number = |n: usize| row.get(n).and_then(Value::as_u64).unwrap_or(0);
        // A moment's figures say nothing; a second's say little, but are not far out.
        let seconds = (number(0) as f64 / 1_000.0).max(1.0);
        let (pushed, ended, runs, run_us, backlog) = (number(1), number(2), number(3), number(4), number(5));
        let fraction = |n: usize| row.get(n).and_then(Value::as_f64);
        let (drain_per_second, last_run_us) = (fraction(6), fraction(8));
        let mean_run_us = if runs > 0 { Some(run_us as f64 / runs as f64) } else { last_run_us };
        let arrivals_per_second = pushed as f64 / seconds;
        let completions_per_second = ended as f64 / seconds;
        let net = drain_per_second.unwrap_or(completions_per_second) - arrivals_per_second;
        let drain_in = match backlog {
            0 => Some(Duration::ZERO),
            _ if net > 0.0 => Duration::try_from_secs_f64(backlog as f64 / net).ok(),
            _ => None,
        };
        let workers: Vec<_> =
            self.workers().await?.into_iter().filter(|worker| !worker.is_late && !worker.is_quiet).collect();
        Ok(Forecast {
            backlog,
            running: number(7),
            measured_over: Duration::from_millis(number(0)),
            arrivals_per_second,
            completions_per_second,
            drain_per_second,
            mean_run_time: mean_run_us.map(|us| Duration::from_micros(us as u64)),
            drain_in,
            workers: workers.len() as u64,
            slots: workers.iter().map(|worker| worker.concurrency as u64).sum(),
            is_paused: number(9) == 1,
            rate_limit: fraction(10),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forecast(backlog: u64, arrivals_per_second: f64, run_ms: Option<u64>) -> Forecast {
        Forecast {
            backlog,
            running: 0,
            measured_over: Duration::from_secs(60),
            arrivals_per_second,
            completions_per_second: 0.0,
            drain_per_second: None,
            mean_run_time: run_ms.map(Duration::from_millis),
            drain_in: None,
            workers: 2,
            slots: 8,
            is_paused: false,
            rate_limit: None,
        }
    }

    #[test]
    fn workers_are_wanted_by_littles_law_with_a_fifth_to_spare() {
        let in_10_s = Duration::from_secs(10);
        assert_eq!(forecast(0, 0.0, None).wanted_workers(in_10_s), Some(0));
        // 40 a second of 200 ms keep 8 slots busy; at four fifths 10 slots, of 4 a worker.
        assert_eq!(forecast(0, 40.0, Some(200)).wanted_workers(in_10_s), Some(3));
        // 400 waiting in 10 s are 40 a second more.
        assert_eq!(forecast(400, 40.0, Some(200)).wanted_workers(in_10_s), Some(5));
        assert_eq!(forecast(1, 0.0, Some(1)).wanted_workers(in_10_s), Some(1));
        // What a limit lets start: 400 in 10 s are 10 a second then, with 200 ms each 2 slots.
        let limited = Forecast { rate_limit: Some(10.0), ..forecast(400, 40.0, Some(200)) };
        assert_eq!(limited.wanted_workers(in_10_s), Some(1));
    }

    #[test]
    fn no_fewer_workers_are_wanted_than_hold_what_runs_and_one_more_before_a_run_time_is_known() {
        let wanted = |forecast: Forecast| forecast.wanted_workers(Duration::from_secs(10));
        assert_eq!(wanted(Forecast { running: 5, ..forecast(0, 0.0, Some(200)) }), Some(2));
        assert_eq!(wanted(Forecast { running: 5, ..forecast(1, 0.1, Some(200)) }), Some(2));
        assert_eq!(wanted(Forecast { running: 5, is_paused: true, ..forecast(4_000, 40.0, Some(200)) }), Some(2));
        assert_eq!(wanted(Forecast { is_paused: true, ..forecast(4_000, 40.0, Some(200)) }), Some(0));
        assert_eq!(wanted(forecast(5, 0.0, None)), Some(1));
        assert_eq!(wanted(Forecast { running: 7, ..forecast(5, 0.0, None) }), Some(2));
        assert_eq!(wanted(Forecast { running: 8, ..forecast(5, 0.0, None) }), Some(3));
        assert_eq!(wanted(Forecast { workers: 0, slots: 0, ..forecast(5, 0.0, None) }), Some(1));
    }
}
