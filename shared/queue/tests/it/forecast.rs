//! Measured rates and what they foretell.

use std::time::Duration;

use apalis_core::{
    error::BoxDynError,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{FredStorage, Job, JobContext, NewJob, WorkerOptions};
use serde::{Deserialize, Serialize};

use crate::redis::{Server, eventually};

const RUN: Duration = Duration::from_millis(20);

#[derive(Serialize, Deserialize)]
struct Nap;

impl Job for Nap {
    const KIND: &'static str = "nap";
}

async fn nap(_: Nap) -> Result<(), BoxDynError> {
    tokio::time::sleep(RUN).await;
    Ok(())
}

fn naps(n: usize) -> Vec<NewJob> {
    (0..n).map(|_| NewJob::new(&Nap).unwrap()).collect()
}

/// Side by side, because they mostly wait for samples.
#[tokio::test]
async fn forecasts_rest_on_what_was_measured() {
    tokio::join!(
        rates_are_measured_and_foretell_when_a_queue_is_empty_and_how_many_workers_it_wants(),
        jobs_that_run_for_long_keep_their_workers_and_what_a_run_took_is_remembered(),
    );
}

async fn rates_are_measured_and_foretell_when_a_queue_is_empty_and_how_many_workers_it_wants() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let before = queue.forecast().await.unwrap();
    assert_eq!((before.backlog, before.drain_in, before.measured_over), (0, Some(Duration::ZERO), Duration::ZERO));
    assert_eq!(before.wanted_workers(Duration::from_secs(1)), Some(0));
    let context = WorkerContext::new("napper");
    let storage = FredStorage::<Nap>::new(queue.clone(), WorkerOptions { concurrency: 2, ..WorkerOptions::default() });
    let worker = WorkerBuilder::new(&context).backend(storage).build(nap);
    let task = tokio::spawn(async move { worker.run().await.unwrap() });
    eventually("measuring", || async { !queue.forecast().await.unwrap().measured_over.is_zero() }).await;

    queue.push_all(naps(100)).await.unwrap();
    eventually("all ran", || async { queue.stats().await.unwrap().completed_total == 100 }).await;
    let after = queue.forecast().await.unwrap();
    let seconds = after.measured_over.as_secs_f64();
    assert!(seconds >= 1.0, "100 runs of 20 ms two by two take a second: {seconds}");
    for rate in [after.arrivals_per_second, after.completions_per_second] {
        assert!((rate * seconds - 100.0).abs() < 0.5, "{rate} a second over {seconds} s");
    }
    assert!(after.mean_run_time.is_some_and(|run| run >= RUN), "{after:?}");
    assert_eq!((after.backlog, after.drain_in, after.workers, after.slots), (0, Some(Duration::ZERO), 1, 2));

    // More than two by two can do for as long as this test may last.
    queue.push_all(naps(10_000)).await.unwrap();
    eventually("measured while jobs waited", || async { queue.forecast().await.unwrap().drain_per_second.is_some() })
        .await;
    let busy = queue.forecast().await.unwrap();
    let rate = busy.drain_per_second.unwrap();
    assert!(rate > 0.0 && rate <= 101.0, "two by two in 20 ms are at most 100 a second: {rate}");
    assert!(busy.backlog > 1_000);
    // 10,000 in a minute or less are more than 100 a second, so it never ends, and it takes more workers.
    assert_eq!(busy.drain_in, None);
    assert!(busy.wanted_workers(Duration::from_secs(10)).is_some_and(|wanted| wanted > 5), "{busy:?}");
    context.stop().unwrap();
    task.await.unwrap();
}

async fn sit(_: Nap, context: JobContext) -> Result<(), BoxDynError> {
    context.cancelled().await;
    Ok(())
}

async fn jobs_that_run_for_long_keep_their_workers_and_what_a_run_took_is_remembered() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let context = WorkerContext::new("sitter");
    let options = WorkerOptions {
        concurrency: 2,
        cancel_grace: Duration::from_secs(600),
        shutdown_grace: Duration::ZERO,
        ..WorkerOptions::default()
    };
    let worker = WorkerBuilder::new(&context).backend(FredStorage::<Nap>::new(queue.clone(), options)).build(sit);
    let task = tokio::spawn(async move { worker.run().await.unwrap() });
    let jobs = queue.push_all(naps(2)).await.unwrap();
    eventually("both run", || async { queue.stats().await.unwrap().running == 2 }).await;
    // As after a minute: the arrivals are over, no run has ended.
    let in_10_s = Duration::from_secs(10);
    let _: i64 = server.command(&["DEL", "aq:{q}:samples"]).await;
    let busy = queue.forecast().await.unwrap();
    assert_eq!((busy.backlog, busy.running, busy.arrivals_per_second, busy.mean_run_time), (0, 2, 0.0, None));
    assert_eq!(busy.wanted_workers(in_10_s), Some(1), "who would stop it stops two jobs");
    queue.push_all(naps(1)).await.unwrap();
    assert_eq!(queue.forecast().await.unwrap().wanted_workers(in_10_s), Some(2), "no run time is known");
    queue.pause().await.unwrap();
    queue.limit_rate(7.0, 1).await.unwrap();
    let paused = queue.forecast().await.unwrap();
    assert_eq!((paused.is_paused, paused.rate_limit, paused.wanted_workers(in_10_s)), (true, Some(7.0), Some(1)));
    queue.resume().await.unwrap();
    for job in &jobs {
        queue.cancel(&job.id).await.unwrap();
    }
    eventually("measured", || async { server.command::<i64>(&["HEXISTS", "aq:{q}:stat", "mean_us"]).await == 1 }).await;
    let _: i64 = server.command(&["DEL", "aq:{q}:samples"]).await;
    assert!(queue.forecast().await.unwrap().mean_run_time.is_some_and(|run| !run.is_zero()));
    context.stop().unwrap();
    task.await.unwrap();
}
