//! Large numbers. `APALIS_FRED_SCALE=10` makes them ten times larger: a million waiting, 200,000 due at once, 100,000 leases of one
//! dead worker, 100,000 dead letters. Each tells what was slowest in Redis (`--nocapture` shows it).

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apalis_core::{
    error::{AbortError, BoxDynError},
    task::data::Data,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{
    FredStorage, Job, JobContext, JobFilter, JobId, NewJob, Queue, QueueOptions, Retention, State, WorkerOptions,
};
use fred::types::Value;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::redis::{PATIENCE, Server, eventually_within};

#[derive(Serialize, Deserialize)]
struct Nop;

impl Job for Nop {
    const KIND: &'static str = "play";
}

async fn die(_: Nop) -> Result<(), BoxDynError> {
    Err(AbortError::new("as told").into())
}

async fn nop(_: Nop, context: JobContext, seen: Data<Arc<Mutex<Vec<JobId>>>>) -> Result<(), BoxDynError> {
    seen.lock().push(context.id());
    Ok(())
}

fn scale() -> usize {
    #[expect(clippy::disallowed_methods, reason = "a test's size is no setting of the product")]
    let scale = std::env::var("APALIS_FRED_SCALE").ok().and_then(|text| text.parse().ok());
    scale.unwrap_or(1)
}

fn scaled(n: usize) -> usize {
    n * scale()
}

/// How long a large number may take.
fn patience() -> Duration {
    PATIENCE * u32::try_from(scale()).unwrap()
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

/// A server that notes every command of more than 2 ms.
async fn watched() -> Server {
    let server = Server::start().await;
    let _: () =
        server.command(&["CONFIG", "SET", "slowlog-log-slower-than", "2000", "slowlog-max-len", "100000"]).await;
    server
}

/// Tells how many commands took long, and the longest.
#[expect(clippy::print_stdout, reason = "what a large number costs Redis is for a person to judge, on a quiet machine")]
async fn tell_slowest(server: &Server, what: &str) {
    let slow: Vec<Vec<Value>> = server.command(&["SLOWLOG", "GET", "-1"]).await;
    let worst = slow.iter().filter_map(|entry| entry.get(2)?.as_u64()).max().unwrap_or(0);
    println!("{what}: {} commands of more than 2 ms, the longest {:.1} ms", slow.len(), worst as f64 / 1e3);
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
    // However long it takes, as long as it goes on.
    loop {
        let before = seen.lock().len();
        if before >= n {
            break;
        }
        eventually_within(patience(), "another job ran", || async { seen.lock().len() > before }).await;
    }
    context.stop().unwrap();
    task.await.unwrap();
    std::mem::take(&mut *seen.lock())
}

fn jobs(n: usize) -> Vec<NewJob> {
    (0..n).map(|_| NewJob::new(&Nop).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_waiting_jobs_of_many_groups_each_run_once() {
    let server = watched().await;
    let queue = server.queue_with("q", bare()).await;
    let n = scaled(100_000);
    let jobs: Vec<NewJob> = jobs(n).into_iter().enumerate().map(|(k, job)| job.group(format!("{}", k % 997))).collect();
    let pushed: BTreeSet<JobId> = queue.push_all(jobs).await.unwrap().into_iter().map(|p| p.id).collect();
    let ran = drain(&queue, n).await;
    assert_eq!((ran.len(), ran.into_iter().collect::<BTreeSet<_>>()), (n, pushed));
    assert_eq!(server.command::<i64>(&["HLEN", "aq:{q}:jobs"]).await, 0);
    tell_slowest(&server, "waiting").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_jobs_due_at_once_do_not_wedge_the_queue() {
    let server = watched().await;
    let queue = server.queue_with("q", bare()).await;
    let n = scaled(20_000);
    // All in the scheduled set and due the moment they are there: 1 ms from the push on.
    let jobs = jobs(n).into_iter().map(|job| job.run_in(Duration::from_millis(1))).collect();
    queue.push_all(jobs).await.unwrap();
    assert!(queue.stats().await.unwrap().scheduled > 0);
    let ran = drain(&queue, n).await;
    assert_eq!(ran.into_iter().collect::<BTreeSet<_>>().len(), n);
    tell_slowest(&server, "due at once").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_leases_of_one_dead_worker_are_recovered() {
    let server = watched().await;
    let queue = server.queue_with("q", bare()).await;
    let n = scaled(10_000);
    queue.push_all(jobs(n)).await.unwrap();
    crate::worker::claim_and_vanish(&server, n).await;
    // That was one long script of the test's own.
    let _: () = server.command(&["SLOWLOG", "RESET"]).await;
    assert_eq!(queue.stats().await.unwrap().running, n as u64);
    let ran = drain(&queue, n).await;
    assert_eq!(ran.into_iter().collect::<BTreeSet<_>>().len(), n);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.rescued_total, stats.running, stats.dead), (n as u64, 0, 0));
    tell_slowest(&server, "leases of a dead worker").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_dead_letters_are_paged_and_retried() {
    let server = watched().await;
    let options = QueueOptions { retention_dead: Retention::new(Duration::from_secs(3600), 10_000_000), ..bare() };
    let queue = server.queue_with("q", options).await;
    let n = scaled(10_000);
    queue.push_all(jobs(n)).await.unwrap();
    let context = WorkerContext::new("killer");
    let storage = FredStorage::<Nop>::new(
        queue.clone(),
        WorkerOptions { concurrency: 500, prefetch: 1_000, ..WorkerOptions::default() },
    );
    let worker = WorkerBuilder::new(&context).backend(storage).build(die);
    let task = tokio::spawn(async move { worker.run().await.unwrap() });
    eventually_within(patience(), "dead", || async { queue.stats().await.unwrap().dead == n as u64 }).await;
    context.stop().unwrap();
    task.await.unwrap();
    let mut dead = BTreeSet::new();
    let mut filter = JobFilter { limit: 1_000, ..JobFilter::in_state(State::Dead) };
    loop {
        let page = queue.jobs(&filter).await.unwrap();
        dead.extend(page.jobs.iter().map(|job| job.id));
        let Some(next) = page.next else { break };
        filter.cursor = Some(next);
    }
    assert_eq!(dead.len(), n);
    let dead: Vec<JobId> = dead.into_iter().collect();
    for some in dead.chunks(1_000) {
        let retried = futures::future::join_all(some.iter().map(|id| queue.retry(id))).await;
        assert!(retried.into_iter().all(Result::unwrap));
    }
    assert_eq!(drain(&queue, n).await.into_iter().collect::<BTreeSet<_>>().len(), n);
    assert_eq!(queue.stats().await.unwrap().dead, 0);
    tell_slowest(&server, "dead letters").await;
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
