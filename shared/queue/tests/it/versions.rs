//! Jobs that are newer than a worker.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use apalis_core::{
    backend::TaskSink,
    error::BoxDynError,
    task::data::Data,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{
    FredStorage, Job, JobContext, JobFilter, JobId, KeyRing, NewJob, Queue, QueueOptions, State, WorkerOptions,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::redis::{PATIENCE, Server, eventually};

/// The program before the deploy.
#[derive(Serialize, Deserialize)]
struct Old {
    width: u32,
}

impl Job for Old {
    const KIND: &'static str = "frame";
}

/// The program after it: its arguments cannot be read by the one before.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum New {
    Size { size: [u32; 2] },
    Width { width: u32 },
}

impl Job for New {
    const KIND: &'static str = "frame";
    const VERSION: u32 = 3;
}

async fn old(_: Old, context: JobContext, ran: Data<Arc<AtomicU32>>) -> Result<(), BoxDynError> {
    assert_eq!(context.version(), 1);
    ran.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn new(job: New, context: JobContext) -> Result<u32, BoxDynError> {
    match job {
        New::Size { size } => Ok(size[0] + context.version()),
        New::Width { width } => Ok(width + context.version()),
    }
}

struct Worker(WorkerContext, JoinHandle<()>);

impl Worker {
    async fn stop(self) {
        self.0.stop().unwrap();
        self.1.await.unwrap();
    }
}

fn start_old(queue: &Queue, ran: &Arc<AtomicU32>) -> Worker {
    let context = WorkerContext::new("old");
    let storage = FredStorage::<Old>::new(queue.clone(), WorkerOptions::default());
    let worker = WorkerBuilder::new(&context).backend(storage).data(Arc::clone(ran)).build(old);
    Worker(context, tokio::spawn(async move { worker.run().await.unwrap() }))
}

fn start_new(queue: &Queue) -> Worker {
    let context = WorkerContext::new("new");
    let storage = FredStorage::<New>::new(queue.clone(), WorkerOptions::default());
    let worker = WorkerBuilder::new(&context).backend(storage).build(new);
    Worker(context, tokio::spawn(async move { worker.run().await.unwrap() }))
}

#[tokio::test]
async fn a_job_newer_than_its_worker_is_handed_back_unspent_until_one_comes_that_knows_it() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let ran = Arc::new(AtomicU32::new(0));
    let before = start_old(&queue, &ran);
    let id = queue.push(NewJob::new(&New::Size { size: [40, 30] }).unwrap().max_attempts(1)).await.unwrap().id;
    eventually("handed back", || async { queue.job(&id).await.unwrap().unwrap().state == State::Scheduled }).await;
    eventually("explained", || async {
        let why = queue.explain(&id).await.unwrap().unwrap().reasons.join("; ");
        why.contains("it needs a worker that knows version 3 of kind frame")
            && why.contains("it is scheduled and due in")
    })
    .await;
    // It stands in nobody's way.
    let usual = queue.push(NewJob::new(&Old { width: 1 }).unwrap()).await.unwrap().id;
    assert_eq!(queue.wait(usual).await.unwrap().state, Some(State::Completed));
    let job = queue.job(&id).await.unwrap().unwrap();
    assert_eq!((job.attempts, job.kills, job.version, job.error), (0, 0, 3, None));
    let after = start_new(&queue);
    let outcome = queue.wait(id).await.unwrap();
    assert_eq!((outcome.state, outcome.result.as_deref()), (Some(State::Completed), Some("43")));
    assert_eq!(ran.load(Ordering::Relaxed), 1);
    before.stop().await;
    after.stop().await;
}

#[tokio::test]
async fn a_worker_is_not_kept_busy_by_jobs_it_cannot_run() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let ran = Arc::new(AtomicU32::new(0));
    let worker = start_old(&queue, &ran);
    queue.push_all((0..300).map(|_| NewJob::new(&New::Size { size: [1, 1] }).unwrap()).collect()).await.unwrap();
    eventually("all handed back", || async { queue.stats().await.unwrap().scheduled == 300 }).await;
    // Each comes back half a second later at the soonest, by Redis' clock, so that the 300 cost few calls.
    let mut dues: HashMap<JobId, Vec<SystemTime>> = HashMap::new();
    let filter = JobFilter { limit: 1_000, ..JobFilter::in_state(State::Scheduled) };
    let begun = Instant::now();
    while dues.len() < 300 || dues.values().any(|times| times.len() < 3) {
        assert!(begun.elapsed() < PATIENCE, "they do not come back");
        for job in queue.jobs(&filter).await.unwrap().jobs {
            let times = dues.entry(job.id).or_default();
            if times.last() != job.due_at.as_ref() {
                times.extend(job.due_at);
            }
        }
    }
    for times in dues.values() {
        let waits = times.windows(2).map(|pair| pair[1].duration_since(pair[0]).unwrap());
        assert!(waits.min().unwrap() >= Duration::from_millis(500), "{times:?}");
    }
    assert!(queue.job(dues.keys().next().unwrap()).await.unwrap().unwrap().attempts == 0);
    queue.push(NewJob::new(&Old { width: 1 }).unwrap()).await.unwrap();
    eventually("the usual one ran", || async { ran.load(Ordering::Relaxed) == 1 }).await;
    worker.stop().await;
}

#[tokio::test]
async fn jobs_that_are_handed_back_leave_a_limited_queue_its_rate() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    queue.limit_rate(0.001, 3).await.unwrap();
    queue.push_all((0..3).map(|_| NewJob::new(&New::Size { size: [1, 1] }).unwrap()).collect()).await.unwrap();
    let ran = Arc::new(AtomicU32::new(0));
    let worker = start_old(&queue, &ran);
    eventually("all handed back", || async { queue.stats().await.unwrap().scheduled == 3 }).await;
    // At a job every 16 minutes these would wait for as long, had the others spent what there was.
    queue.push_all((0..3).map(|_| NewJob::new(&Old { width: 1 }).unwrap()).collect()).await.unwrap();
    eventually("the usual ones ran", || async { ran.load(Ordering::Relaxed) == 3 }).await;
    worker.stop().await;
}

#[tokio::test]
async fn the_new_worker_runs_old_jobs_and_what_apalis_pushes_has_the_version_of_its_type() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let old = queue.push(NewJob::new(&Old { width: 7 }).unwrap()).await.unwrap().id;
    let raw = queue.push(NewJob::raw("frame", b"{\"width\":1}".to_vec()).unwrap()).await.unwrap().id;
    assert_eq!(queue.job(&raw).await.unwrap().unwrap().version, 1);
    FredStorage::<New>::new(queue.clone(), WorkerOptions::default()).push(New::Width { width: 9 }).await.unwrap();
    let versions: Vec<u32> =
        queue.jobs(&JobFilter::default()).await.unwrap().jobs.iter().map(|job| job.version).collect();
    assert_eq!(versions, [1, 1, 3]);
    let worker = start_new(&queue);
    assert_eq!(queue.wait(old).await.unwrap().result.as_deref(), Some("8"));
    eventually("all ran", || async { queue.stats().await.unwrap().completed == 3 }).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_no_one_worker_can_run_or_of_whose_kind_there_is_none_says_so_before_it_is_due() {
    let server = Server::start().await;
    let keys = Some(KeyRing::new("k", &[1; 32]).unwrap());
    let sealed = server.queue_with("q", QueueOptions { keys, ..QueueOptions::default() }).await;
    let job = NewJob::new(&New::Size { size: [1, 1] }).unwrap().run_in(Duration::from_secs(3600));
    let id = sealed.push(job).await.unwrap().id;
    let why = || async { sealed.explain(&id).await.unwrap().unwrap().reasons.join("; ") };
    assert!(why().await.starts_with("no living worker serves kind frame; it is scheduled and due in 59 min"));
    // One has the key, the other the version.
    let ran = Arc::new(AtomicU32::new(0));
    let (one, other) = (start_old(&sealed, &ran), start_new(&server.queue("q").await));
    eventually("both are known", || async { sealed.workers().await.unwrap().len() == 2 }).await;
    let reasons = why().await;
    assert!(reasons.starts_with("no worker of kind frame both knows version 3 and has key k; it is sch"), "{reasons}");
    one.stop().await;
    other.stop().await;
}
