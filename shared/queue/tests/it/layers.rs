//! apalis's own layers and monitor around this store.

use std::{sync::Arc, time::Duration};

use apalis::prelude::WorkerBuilderExt;
use apalis_core::{
    error::BoxDynError,
    monitor::Monitor,
    task::data::Data,
    worker::{builder::WorkerBuilder, ext::parallelize::ParallelizeExt},
};
use apalis_fred::{FredStorage, Job, JobContext, NewJob, State, WorkerOptions};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::redis::{Server, eventually};

#[derive(Serialize, Deserialize)]
struct Step {
    panics: bool,
}

impl Job for Step {
    const KIND: &'static str = "step";
}

async fn run(step: Step, context: JobContext, seen: Data<Arc<Mutex<Vec<u32>>>>) -> Result<u32, BoxDynError> {
    seen.lock().push(context.attempt());
    assert!(!step.panics, "as told");
    Ok(7)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_under_a_monitor_with_concurrency_parallel_tasks_tracing_and_caught_panics() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let seen = Arc::new(Mutex::new(Vec::<u32>::new()));
    let stop = Arc::new(Notify::new());
    let (told, monitored, data) = (Arc::clone(&stop), queue.clone(), Arc::clone(&seen));
    let monitor = Monitor::new().shutdown_timeout(Duration::from_secs(20)).register(move |restart| {
        WorkerBuilder::new(format!("layered-{restart}"))
            .backend(FredStorage::<Step>::new(
                monitored.clone(),
                WorkerOptions { concurrency: 4, ..WorkerOptions::default() },
            ))
            .data(Arc::clone(&data))
            .concurrency(4)
            .enable_tracing()
            .catch_panic()
            .parallelize(tokio::spawn)
            .build(run)
    });
    let running = tokio::spawn(async move {
        let signal = async move {
            told.notified().await;
            Ok(())
        };
        monitor.run_with_signal(signal).await
    });
    let jobs = (0..20).map(|_| NewJob::new(&Step { panics: false }).unwrap()).collect();
    queue.push_all(jobs).await.unwrap();
    let panics = queue.push(NewJob::new(&Step { panics: true }).unwrap().max_attempts(1)).await.unwrap().id;
    eventually("all ended", || async {
        let stats = queue.stats().await.unwrap();
        (stats.completed, stats.dead) == (20, 1)
    })
    .await;
    let dead = queue.job(&panics).await.unwrap().unwrap();
    assert_eq!(dead.state, State::Dead);
    assert_eq!(seen.lock().len(), 21);
    stop.notify_one();
    running.await.unwrap().unwrap();
    assert!(queue.workers().await.unwrap().is_empty());
}
