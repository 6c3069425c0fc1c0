//! The state of the queues as metrics. They are read from Redis when somebody scrapes: every process tells the same, and none
//! has to be the one that counts.

use super::Queues;
use apalis_fred::{Health, Queue, QueueError};
use metrics::gauge;
use std::time::Duration;

impl Queues {
    /// Sets the gauges `oneiro_queue_*`; what cannot be known just now is NaN.
    ///
    /// # Errors
    /// Where Redis does not answer; the gauges keep their values then.
    pub async fn observe(&self) -> Result<(), QueueError> {
        for queue in self.all() {
            observe(queue, self.target_wait).await?;
        }
        Ok(())
    }
}

async fn observe(queue: &Queue, target_wait: Duration) -> Result<(), QueueError> {
    let (stats, forecast, workers) = tokio::try_join!(queue.stats(), queue.forecast(), queue.workers())?;
    let name = queue.name().to_string();
    let states = [
        ("scheduled", stats.scheduled),
        ("available", stats.available),
        ("running", stats.running),
        ("retryable", stats.retryable),
        ("completed", stats.completed),
        ("cancelled", stats.cancelled),
        ("dead", stats.dead),
    ];
    for (state, count) in states {
        gauge!("oneiro_queue_jobs", "queue" => name.clone(), "state" => state).set(count as f64);
    }
    let seconds = |time: Option<Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64());
    let set = |metric: &'static str, value: f64| gauge!(metric, "queue" => name.clone()).set(value);
    set("oneiro_queue_waiting_bytes", stats.waiting_bytes as f64);
    set("oneiro_queue_oldest_wait_seconds", stats.oldest_available_age.unwrap_or_default().as_secs_f64());
    set("oneiro_queue_paused", f64::from(u8::from(stats.is_paused)));
    let stuck = workers.iter().filter(|worker| matches!(worker.health, Health::Stuck { .. })).count();
    set("oneiro_queue_workers", workers.iter().filter(|worker| !worker.is_late).count() as f64);
    set("oneiro_queue_workers_stuck", stuck as f64);
    set("oneiro_queue_wanted_workers", forecast.wanted_workers(target_wait).map_or(f64::NAN, |count| count as f64));
    set("oneiro_queue_arrivals_per_second", forecast.arrivals_per_second);
    set("oneiro_queue_completions_per_second", forecast.completions_per_second);
    set("oneiro_queue_drain_seconds", seconds(forecast.drain_in));
    set("oneiro_queue_run_seconds_mean", seconds(forecast.mean_run_time));
    Ok(())
}
