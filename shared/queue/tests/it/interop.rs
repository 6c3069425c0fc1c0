//! What the stock store does with a backlog, and taking its jobs over.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apalis_core::{
    backend::TaskSink,
    error::BoxDynError,
    task::{builder::TaskBuilder, data::Data},
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{FredStorage, Job, State, WorkerOptions};
use apalis_redis::{Config, RedisStorage};
use futures::stream;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::redis::{PATIENCE, Server, eventually};

/// More than the stock script can unpack at once.
const WEDGING: u64 = 9_000;

async fn stock(server: &Server, queue: &str) -> RedisStorage<u64> {
    RedisStorage::new(apalis_redis::connect(server.url()).await.unwrap()).with_config(Config::default().queue(queue))
}

async fn fill(storage: &mut RedisStorage<u64>, n: u64) {
    for from in (0..n).step_by(500) {
        storage.push_stream(&mut stream::iter(from..n.min(from + 500))).await.unwrap();
    }
}

async fn count(_: u64, ran: Data<Arc<AtomicUsize>>) -> Result<(), BoxDynError> {
    ran.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

#[tokio::test]
async fn the_stock_store_is_wedged_for_good_by_nine_thousand_due_jobs() {
    let server = Server::start().await;
    let mut storage = stock(&server, "stock").await;
    fill(&mut storage, WEDGING).await;
    // Every start ends the same way, so no restart helps.
    for name in ["first", "second"] {
        let ran = Arc::new(AtomicUsize::new(0));
        let worker = WorkerBuilder::new(name).backend(storage.clone()).data(Arc::clone(&ran)).build(count);
        let ended =
            tokio::time::timeout(PATIENCE, worker.run()).await.expect("the stock worker neither works nor ends");
        let error = ended.unwrap_err().to_string();
        assert!(error.contains("too many results to unpack"), "{error}");
        assert_eq!(ran.load(Ordering::Relaxed), 0);
    }
}

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Number(u64);

impl Job for Number {
    const KIND: &'static str = "number";
}

async fn note(number: Number, seen: Data<Arc<Mutex<Vec<u64>>>>) -> Result<(), BoxDynError> {
    seen.lock().push(number.0);
    Ok(())
}

#[tokio::test]
async fn twenty_thousand_stock_jobs_are_adopted_without_loss_or_duplicate() {
    const N: u64 = 20_000;
    let server = Server::start().await;
    let mut storage = stock(&server, "stock").await;
    fill(&mut storage, N).await;
    let later = TaskBuilder::new(N).run_after(Duration::from_secs(3600)).idempotency_key("later").build();
    storage.push_task(later).await.unwrap();
    let queue = server.queue("q").await;
    assert_eq!(queue.adopt_stock("stock", "number").await.unwrap() as u64, N + 1);
    assert_eq!(queue.adopt_stock("stock", "number").await.unwrap(), 0);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.available, stats.scheduled), (N, 1));
    let scheduled = queue.jobs(&apalis_fred::JobFilter::in_state(State::Scheduled)).await.unwrap();
    assert_eq!((scheduled.jobs[0].unique.as_str(), scheduled.jobs[0].payload.as_str()), ("later", "20000"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let context = WorkerContext::new("w");
    let options = WorkerOptions { concurrency: 200, prefetch: 400, ..WorkerOptions::default() };
    let worker = WorkerBuilder::new(&context)
        .backend(FredStorage::<Number>::new(queue.clone(), options))
        .data(Arc::clone(&seen))
        .build(note);
    let task = tokio::spawn(async move { worker.run().await.unwrap() });
    eventually("all ran", || async { seen.lock().len() as u64 >= N }).await;
    context.stop().unwrap();
    task.await.unwrap();
    let seen = std::mem::take(&mut *seen.lock());
    assert_eq!((seen.len() as u64, seen.iter().copied().collect::<BTreeSet<_>>()), (N, (0..N).collect()));
    let left: Vec<String> = server.command(&["KEYS", "stock:*"]).await;
    assert!(left.iter().all(|key| key.contains("signal") || key.contains("idempotency")), "{left:?}");
}

async fn dawdle(number: u64, seen: Data<Arc<Mutex<Vec<u64>>>>) -> Result<(), BoxDynError> {
    tokio::time::sleep(Duration::from_millis(5)).await;
    seen.lock().push(number);
    Ok(())
}

/// Not what the documentation asks for, but what will happen: what the stock worker held at that moment runs here as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopting_under_a_stock_worker_that_still_runs_loses_nothing_and_repeats_only_what_it_held() {
    const N: u64 = 3_000;
    let server = Server::start().await;
    let mut storage = stock(&server, "stock").await;
    fill(&mut storage, N).await;
    let theirs = Arc::new(Mutex::new(Vec::new()));
    let stock_worker = WorkerBuilder::new("stock").backend(storage.clone()).data(Arc::clone(&theirs)).build(dawdle);
    let mut stock_task = tokio::spawn(async move { stock_worker.run().await });
    eventually("the stock worker works", || async { theirs.lock().len() >= 50 }).await;
    let queue = server.queue("q").await;
    queue.adopt_stock("stock", "number").await.unwrap();
    // It ends by itself when it tells the end of a job that is no longer its own, or finds nothing more.
    let ended = tokio::time::timeout(Duration::from_secs(5), &mut stock_task).await;
    if ended.is_err() {
        stock_task.abort();
    }
    queue.adopt_stock("stock", "number").await.unwrap();
    let ours = Arc::new(Mutex::new(Vec::new()));
    let context = WorkerContext::new("w");
    let worker = WorkerBuilder::new(&context)
        .backend(FredStorage::<Number>::new(
            queue.clone(),
            WorkerOptions { concurrency: 100, ..WorkerOptions::default() },
        ))
        .data(Arc::clone(&ours))
        .build(note);
    let task = tokio::spawn(async move { worker.run().await.unwrap() });
    eventually("the rest ran", || async {
        let stats = queue.stats().await.unwrap();
        stats.available + stats.running == 0
    })
    .await;
    context.stop().unwrap();
    task.await.unwrap();
    let (theirs, ours) = (theirs.lock().clone(), ours.lock().clone());
    let all: BTreeSet<u64> = theirs.iter().chain(&ours).copied().collect();
    assert_eq!(all, (0..N).collect());
    // It fetches ten at a time, and may have fetched again before its first ends were told.
    let twice = theirs.len() + ours.len() - all.len();
    assert!(twice <= 100, "{twice} ran on both sides");
}
