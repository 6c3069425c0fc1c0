//! apalis's own layers and monitor around this store.

use std::{sync::Arc, time::Duration};

use apalis::prelude::WorkerBuilderExt;
use apalis_core::{
    error::{AbortError, BoxDynError},
    monitor::Monitor,
    task::data::Data,
    worker::{builder::WorkerBuilder, context::WorkerContext, ext::parallelize::ParallelizeExt},
};
use apalis_fred::{FredStorage, Job, JobContext, NewJob, RetryPolicy, State, WorkerOptions};
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

/// `tokio::spawn` lets go of a handler whose run is over: what was a timeout for the store is none for it.
#[tokio::test]
async fn the_attempt_after_one_that_was_detached_waits_for_its_end_and_the_worker_lives() {
    async fn linger(_: Step, context: JobContext, seen: Data<Arc<Mutex<Vec<u32>>>>, door: Data<Arc<Notify>>) {
        seen.lock().push(context.attempt());
        if context.attempt() == 1 {
            door.notified().await;
        }
    }
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let (seen, door) = (Arc::new(Mutex::new(Vec::<u32>::new())), Arc::new(Notify::new()));
    let storage = FredStorage::<Step>::new(queue.clone(), WorkerOptions::default()).retry_policy(RetryPolicy {
        max_attempts: 5,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(5),
    });
    let context = WorkerContext::new("detached");
    let worker = WorkerBuilder::new(&context)
        .backend(storage)
        .data(Arc::clone(&seen))
        .data(Arc::clone(&door))
        .parallelize(tokio::spawn)
        .build(linger);
    let checks = async {
        let job = NewJob::new(&Step { panics: false }).unwrap().timeout(Duration::from_millis(200));
        let id = queue.push(job).await.unwrap().id;
        // Failed once, and put off since.
        eventually("put off", || async {
            queue.job(&id).await.unwrap().is_some_and(|job| (job.state, job.attempts) == (State::Scheduled, 1))
        })
        .await;
        assert_eq!(*seen.lock(), [1]);
        door.notify_one();
        let outcome = queue.wait(id).await.unwrap();
        assert_eq!(outcome.state, Some(State::Completed));
        assert_eq!(seen.lock()[..2], [1, 2]);
        context.stop().unwrap();
    };
    let (ended, ()) = tokio::join!(worker.run(), checks);
    ended.unwrap();
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt_under_apaliss_catch_panic_layer_and_an_abort_is_not() {
    async fn fall(step: Step, context: JobContext) -> Result<(), BoxDynError> {
        if context.attempt() < 3 && step.panics {
            panic!("attempt {}", context.attempt());
        }
        if step.panics { Ok(()) } else { Err(AbortError::new("never again").into()) }
    }
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let storage = FredStorage::<Step>::new(queue.clone(), WorkerOptions::default()).retry_policy(RetryPolicy {
        max_attempts: 5,
        base: Duration::from_millis(1),
        cap: Duration::from_millis(5),
    });
    let context = WorkerContext::new("caught");
    let worker = WorkerBuilder::new(&context).backend(storage).catch_panic().build(fall);
    let checks = async {
        let panics = queue.push(NewJob::new(&Step { panics: true }).unwrap()).await.unwrap().id;
        let outcome = queue.wait(panics).await.unwrap();
        assert_eq!((outcome.state, outcome.attempts), (Some(State::Completed), 3));
        let last = queue.push(NewJob::new(&Step { panics: true }).unwrap().max_attempts(2)).await.unwrap().id;
        let outcome = queue.wait(last).await.unwrap();
        assert_eq!((outcome.state, outcome.attempts), (Some(State::Dead), 2));
        assert_eq!(outcome.error.unwrap().message, "panicked: attempt 2");
        let aborts = queue.push(NewJob::new(&Step { panics: false }).unwrap()).await.unwrap().id;
        let outcome = queue.wait(aborts).await.unwrap();
        assert_eq!((outcome.state, outcome.attempts), (Some(State::Dead), 1));
        context.stop().unwrap();
    };
    let (ended, ()) = tokio::join!(worker.run(), checks);
    ended.unwrap();
}
