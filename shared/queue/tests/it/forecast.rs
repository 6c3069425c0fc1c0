//! Measured rates and what they foretell.

use std::time::Duration;

use apalis_core::{
    error::BoxDynError,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{FredStorage, Job, NewJob, WorkerOptions};
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

#[tokio::test]
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
