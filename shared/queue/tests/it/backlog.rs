//! Large numbers. `APALIS_FRED_SCALE=10` makes them ten times larger.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apalis_core::{
    error::BoxDynError,
    task::data::Data,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{FredStorage, Job, JobContext, JobId, NewJob, Queue, QueueOptions, Retention, WorkerOptions};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::redis::{Server, eventually};

#[derive(Serialize, Deserialize)]
struct Nop;

impl Job for Nop {
    const KIND: &'static str = "play";
}

async fn nop(_: Nop, context: JobContext, seen: Data<Arc<Mutex<Vec<JobId>>>>) -> Result<(), BoxDynError> {
    seen.lock().push(context.id());
    Ok(())
}

fn scaled(n: usize) -> usize {
    #[expect(clippy::disallowed_methods, reason = "a test's size is no setting of the product")]
    let scale = std::env::var("APALIS_FRED_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    n * scale
}

fn bare() -> QueueOptions {
    QueueOptions {
        retention_completed: Retention::NONE,
        result_ttl: Duration::ZERO,
        lease: Duration::from_secs(2),
        command_timeout: Duration::from_secs(30),
        ..QueueOptions::default()
    }
}

async fn drain(queue: &Queue, n: usize) -> Vec<JobId> {
    let seen = Arc::new(Mutex::new(Vec::with_capacity(n)));
    let context = WorkerContext::new("drain");
    let storage = FredStorage::<Nop>::new(
        queue.clone(),
        WorkerOptions { concurrency: 500, prefetch: 1_000, ..WorkerOptions::default() },
    );
    let worker = WorkerBuilder::new(&context).backend(storage).data(Arc::clone(&seen)).build(nop);
    let task = tokio::spawn(async move { worker.run().await.unwrap() });
    eventually("drained", || async { seen.lock().len() >= n }).await;
    context.stop().unwrap();
    task.await.unwrap();
    std::mem::take(&mut *seen.lock())
}

fn jobs(n: usize) -> Vec<NewJob> {
    (0..n).map(|_| NewJob::new(&Nop).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_waiting_jobs_of_many_groups_each_run_once() {
    let server = Server::start().await;
    let queue = server.queue_with("q", bare()).await;
    let n = scaled(100_000);
    let jobs: Vec<NewJob> = jobs(n).into_iter().enumerate().map(|(k, job)| job.group(format!("{}", k % 997))).collect();
    let pushed: BTreeSet<JobId> = queue.push_all(jobs).await.unwrap().into_iter().map(|p| p.id).collect();
    let ran = drain(&queue, n).await;
    assert_eq!((ran.len(), ran.into_iter().collect::<BTreeSet<_>>()), (n, pushed));
    assert_eq!(server.command::<i64>(&["HLEN", "aq:{q}:jobs"]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_thousand_jobs_due_at_once_do_not_wedge_the_queue() {
    let server = Server::start().await;
    let queue = server.queue_with("q", bare()).await;
    let n = scaled(200_000);
    // All in the scheduled set and due the moment they are there: 1 ms from the push on.
    let jobs = jobs(n).into_iter().map(|job| job.run_in(Duration::from_millis(1))).collect();
    queue.push_all(jobs).await.unwrap();
    assert!(queue.stats().await.unwrap().scheduled > 0);
    let ran = drain(&queue, n).await;
    assert_eq!(ran.into_iter().collect::<BTreeSet<_>>().len(), n);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_leases_of_one_dead_worker_are_recovered() {
    let server = Server::start().await;
    let queue = server.queue_with("q", bare()).await;
    let n = scaled(100_000);
    queue.push_all(jobs(n)).await.unwrap();
    crate::worker::claim_and_vanish(&server, n).await;
    assert_eq!(queue.stats().await.unwrap().running, n as u64);
    let ran = drain(&queue, n).await;
    assert_eq!(ran.into_iter().collect::<BTreeSet<_>>().len(), n);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.rescued_total, stats.running, stats.dead), (n as u64, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_cancelled_jobs_do_not_stand_in_the_way() {
    let server = Server::start().await;
    let queue = server.queue_with("q", bare()).await;
    let n = scaled(10_000);
    let pushed = queue.push_all(jobs(n)).await.unwrap();
    let cancelled = AtomicUsize::new(0);
    futures::future::join_all(pushed.iter().map(|p| async {
        if queue.cancel(&p.id).await.unwrap() == apalis_fred::CancelOutcome::Cancelled {
            cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }))
    .await;
    assert_eq!(cancelled.into_inner(), n);
    queue.push_all(jobs(1)).await.unwrap();
    assert_eq!(drain(&queue, 1).await.len(), 1);
    assert_eq!(server.command::<i64>(&["EXISTS", "aq:{q}:ghosts"]).await, 0);
}

#[tokio::test]
async fn a_waiting_job_of_100_bytes_takes_at_most_250_bytes_of_redis() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let used = || async {
        let info: String = server.command(&["INFO", "memory"]).await;
        info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse::<usize>().unwrap()
    };
    queue.push(NewJob::raw("play", vec![b'x'; 100]).unwrap()).await.unwrap();
    let before = used().await;
    let n = 50_000;
    queue.push_all((0..n).map(|_| NewJob::raw("play", vec![b'x'; 100]).unwrap()).collect()).await.unwrap();
    let each = (used().await - before) / n;
    assert!(each <= 250, "{each} bytes a waiting job");
}
