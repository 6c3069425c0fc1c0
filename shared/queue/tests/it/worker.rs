//! Workers: running, failing, dying, stopping.

use std::{sync::Arc, time::Duration};

use apalis_core::{
    error::{AbortError, BoxDynError, RetryAfterError},
    task::data::Data,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{
    CancelOutcome, FredStorage, Job, JobContext, NewJob, Queue, QueueOptions, RetryPolicy, State, WorkerOptions,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::redis::{Server, eventually};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Act {
    Succeed,
    Fail,
    Abort,
    RetryAfter(u64),
    Panic,
    Hang,
    Return(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Play {
    pub(crate) act: Act,
    pub(crate) label: String,
}

impl Job for Play {
    const KIND: &'static str = "play";

    fn retry_policy() -> RetryPolicy {
        RetryPolicy { max_attempts: 3, base: Duration::from_millis(1), cap: Duration::from_millis(5) }
    }
}

/// What ran, in order: (label, attempt).
#[derive(Clone, Default)]
pub(crate) struct Log(pub(crate) Arc<Mutex<Vec<(String, u32)>>>);

impl Log {
    pub(crate) fn of(&self, label: &str) -> Vec<u32> {
        self.0.lock().iter().filter(|(l, _)| l == label).map(|(_, a)| *a).collect()
    }
}

async fn play(play: Play, context: JobContext, log: Data<Log>) -> Result<Option<String>, BoxDynError> {
    log.0.0.lock().push((play.label.clone(), context.attempt()));
    match play.act {
        Act::Succeed => Ok(None),
        Act::Fail => Err("it failed".into()),
        Act::Abort => Err(AbortError::new("never again").into()),
        Act::RetryAfter(ms) if context.attempt() == 1 => {
            Err(RetryAfterError::new("later", Duration::from_millis(ms)).into())
        }
        Act::RetryAfter(_) => Ok(None),
        Act::Panic => panic!("boom"),
        Act::Hang => {
            context.progress(1, 2, "hanging").await?;
            context.cancelled().await;
            Err("told to end".into())
        }
        Act::Return(text) => Ok(Some(text)),
    }
}

pub(crate) fn act(act: Act, label: &str) -> NewJob {
    NewJob::new(&Play { act, label: label.to_owned() }).unwrap()
}

pub(crate) struct Running {
    pub(crate) log: Log,
    pub(crate) context: WorkerContext,
    pub(crate) task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.context.stop().unwrap();
        self.task.await.unwrap();
    }
}

pub(crate) fn start(queue: &Queue, options: WorkerOptions) -> Running {
    let log = Log::default();
    let context = WorkerContext::new("player");
    let storage = FredStorage::<Play>::new(queue.clone(), options);
    let worker = WorkerBuilder::new(&context).backend(storage).data(log.clone()).build(play);
    let task = tokio::spawn(async move { worker.run().await.unwrap() });
    Running { log, context, task }
}

async fn state(queue: &Queue, id: apalis_fred::JobId) -> Option<State> {
    queue.job(&id).await.unwrap().map(|job| job.state)
}

#[tokio::test]
async fn a_job_runs_and_is_completed_with_its_result() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    let id = queue.push(act(Act::Return("hello".into()), "a")).await.unwrap().id;
    eventually("completed", || async { state(&queue, id).await == Some(State::Completed) }).await;
    assert_eq!(queue.job(&id).await.unwrap().unwrap().result.as_deref(), Some("\"hello\""));
    assert_eq!(worker.log.of("a"), vec![1]);
    worker.stop().await;
    assert!(queue.workers().await.unwrap().is_empty(), "a worker that stopped signs off");
}

#[tokio::test]
async fn a_failing_job_is_tried_as_often_as_its_policy_says_and_is_then_dead() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    let id = queue.push(act(Act::Fail, "a")).await.unwrap().id;
    eventually("dead", || async { state(&queue, id).await == Some(State::Dead) }).await;
    assert_eq!(worker.log.of("a"), vec![1, 2, 3]);
    let job = queue.job(&id).await.unwrap().unwrap();
    assert_eq!((job.attempts, job.error.as_ref().unwrap().attempt), (3, 3));
    assert!(job.error.unwrap().message.contains("it failed"));
    // By hand it gets all its attempts again.
    assert!(queue.retry(&id).await.unwrap());
    eventually("tried again", || async { worker.log.of("a").len() == 6 }).await;
    worker.stop().await;
}

#[tokio::test]
async fn abort_is_dead_at_once_and_retry_after_comes_back_after_its_time() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    let dead = queue.push(act(Act::Abort, "abort")).await.unwrap().id;
    let later = queue.push(act(Act::RetryAfter(300), "later")).await.unwrap().id;
    eventually("dead", || async { state(&queue, dead).await == Some(State::Dead) }).await;
    eventually("retryable", || async {
        matches!(state(&queue, later).await, Some(State::Retryable | State::Completed))
    })
    .await;
    eventually("completed", || async { state(&queue, later).await == Some(State::Completed) }).await;
    assert_eq!((worker.log.of("abort"), worker.log.of("later")), (vec![1], vec![1, 2]));
    worker.stop().await;
}

#[tokio::test]
async fn a_panic_and_a_timeout_are_failed_attempts_and_the_worker_goes_on() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions { cancel_grace: Duration::ZERO, ..WorkerOptions::default() });
    let panics = queue.push(act(Act::Panic, "panic")).await.unwrap().id;
    let hangs = queue.push(act(Act::Hang, "hang").timeout(Duration::from_millis(50)).max_attempts(1)).await.unwrap().id;
    eventually("dead", || async {
        state(&queue, panics).await == Some(State::Dead) && state(&queue, hangs).await == Some(State::Dead)
    })
    .await;
    assert!(queue.job(&panics).await.unwrap().unwrap().error.unwrap().message.contains("boom"));
    assert!(queue.job(&hangs).await.unwrap().unwrap().error.unwrap().message.contains("timed out"));
    let id = queue.push(act(Act::Succeed, "after")).await.unwrap().id;
    eventually("completed", || async { state(&queue, id).await == Some(State::Completed) }).await;
    worker.stop().await;
}

#[tokio::test]
async fn arguments_that_cannot_be_read_are_failures_and_do_not_end_the_worker() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    let bad = queue.push(NewJob::raw("play", b"not json".to_vec()).unwrap().max_attempts(1)).await.unwrap().id;
    let unknown = queue.push(NewJob::raw("unheard_of", b"{}".to_vec()).unwrap()).await.unwrap().id;
    let good = queue.push(act(Act::Succeed, "good")).await.unwrap().id;
    eventually("completed", || async { state(&queue, good).await == Some(State::Completed) }).await;
    eventually("dead", || async { state(&queue, bad).await == Some(State::Dead) }).await;
    assert_eq!(state(&queue, unknown).await, Some(State::Available), "a kind nobody knows waits for somebody who does");
    worker.stop().await;
}

#[tokio::test]
async fn a_scheduled_job_runs_when_due_and_not_before() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    let begun = std::time::Instant::now();
    let id = queue.push(act(Act::Succeed, "later").run_in(Duration::from_millis(700))).await.unwrap().id;
    assert_eq!(state(&queue, id).await, Some(State::Scheduled));
    eventually("ran", || async { worker.log.of("later").len() == 1 }).await;
    assert!(begun.elapsed() >= Duration::from_millis(699), "{:?}", begun.elapsed());
    worker.stop().await;
}

#[tokio::test]
async fn a_running_job_shows_progress_and_its_worker_and_ends_when_cancelled() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    let id = queue.push(act(Act::Hang, "hang")).await.unwrap().id;
    eventually("progress", || async {
        queue.job(&id).await.unwrap().unwrap().progress.is_some_and(|p| p.text == "hanging")
    })
    .await;
    let job = queue.job(&id).await.unwrap().unwrap();
    assert_eq!(job.state, State::Running);
    eventually("listed", || async {
        queue.workers().await.unwrap().iter().any(|w| Some(w.number) == job.worker && w.jobs.len() == 1)
    })
    .await;
    assert!(!queue.delete(&id).await.unwrap(), "a running job is not deleted under its worker's hands");
    assert_eq!(queue.cancel(&id).await.unwrap(), CancelOutcome::Requested);
    eventually("cancelled", || async { state(&queue, id).await == Some(State::Cancelled) }).await;
    assert_eq!(worker.log.of("hang"), vec![1]);
    worker.stop().await;
}

#[tokio::test]
async fn a_stopping_worker_returns_its_jobs_without_spending_an_attempt() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let options = WorkerOptions {
        concurrency: 2,
        prefetch: 5,
        shutdown_grace: Duration::from_millis(50),
        ..WorkerOptions::default()
    };
    let worker = start(&queue, options);
    queue.push_all((0..5).map(|_| act(Act::Hang, "hang")).collect()).await.unwrap();
    eventually("running", || async { worker.log.of("hang").len() >= 2 }).await;
    worker.stop().await;
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.available, stats.running, stats.retryable), (5, 0, 0));
    let page = queue.jobs(&apalis_fred::JobFilter::default()).await.unwrap();
    assert!(page.jobs.iter().all(|job| job.attempts == 0 && job.kills == 0), "{:?}", page.jobs);
}

#[tokio::test]
async fn a_worker_that_is_dropped_returns_its_jobs() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    queue.push(act(Act::Hang, "hang")).await.unwrap();
    eventually("running", || async { worker.log.of("hang").len() == 1 }).await;
    worker.task.abort();
    eventually("returned", || async { queue.stats().await.unwrap().available == 1 }).await;
    eventually("signed off", || async { queue.workers().await.unwrap().is_empty() }).await;
}

#[tokio::test]
async fn jobs_of_a_dead_worker_are_run_by_another() {
    let server = Server::start().await;
    let queue = server.queue_with("q", QueueOptions { lease: Duration::from_secs(1), ..QueueOptions::default() }).await;
    // A worker that claims and is never heard of again: its whole runtime is gone, thread and all.
    let orphan = queue.push(act(Act::Succeed, "orphan")).await.unwrap().id;
    claim_and_vanish(&server, 1).await;
    assert_eq!(state(&queue, orphan).await, Some(State::Running));
    let worker = start(&queue, WorkerOptions::default());
    eventually("rescued", || async { state(&queue, orphan).await == Some(State::Completed) }).await;
    let stats = queue.stats().await.unwrap();
    assert_eq!(stats.rescued_total, 1);
    worker.stop().await;
}

/// Leases `n` jobs to a worker that exists only in Redis.
pub(crate) async fn claim_and_vanish(server: &Server, n: usize) {
    const NUMBER: u64 = 7;
    let base = NUMBER * 268_435_456 + 1;
    let worker = format!("aq:{{q}}:w:{NUMBER}");
    let _: i64 = server.command(&["HSET", &worker, "f", &(base + 1000).to_string(), "pre", "0"]).await;
    let _: i64 = server.command(&["ZADD", "aq:{q}:workers", "1", &NUMBER.to_string()]).await;
    let script = "for k = 1, tonumber(ARGV[1]) do local id = redis.call('LPOP', KEYS[1]) redis.call('ZADD', KEYS[2], ARGV[2] + k, id) end return 1";
    let _: i64 = server
        .command(&["EVAL", script, "2", "aq:{q}:q:n:play:", "aq:{q}:lease", &n.to_string(), &base.to_string()])
        .await;
}

#[tokio::test]
async fn a_worker_survives_restart_script_flush_client_kill_and_a_stall_of_redis() {
    let mut server = Server::durable().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    let run = |label: &'static str| {
        let (queue, log) = (queue.clone(), worker.log.clone());
        async move {
            eventually("pushed", || async { queue.push(act(Act::Succeed, label)).await.is_ok() }).await;
            eventually(label, || async { !log.of(label).is_empty() }).await;
        }
    };
    run("first").await;
    let _: () = server.command(&["SCRIPT", "FLUSH"]).await;
    run("script flush").await;
    let _: i64 = server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    run("client kill").await;
    let _: () = server.command(&["DEBUG", "SLEEP", "1.5"]).await;
    run("stall").await;
    server.kill();
    server.launch().await;
    run("restart").await;
    worker.stop().await;
}

#[tokio::test]
async fn higher_priorities_go_first_and_lower_ones_are_not_starved() {
    use apalis_fred::Priority::{High, Low, Normal};
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let mut jobs = Vec::new();
    for (priority, label) in [(Low, "low"), (Normal, "normal"), (High, "high")] {
        jobs.extend((0..100).map(|_| act(Act::Succeed, label).priority(priority)));
    }
    queue.push_all(jobs).await.unwrap();
    let worker = start(&queue, WorkerOptions { concurrency: 1, ..WorkerOptions::default() });
    eventually("all ran", || async { worker.log.0.lock().len() == 300 }).await;
    let first: Vec<String> = worker.log.0.lock().iter().take(63).map(|(label, _)| label.clone()).collect();
    let count = |label: &str| first.iter().filter(|l| *l == label).count();
    assert_eq!((count("high"), count("normal"), count("low")), (48, 12, 3));
    worker.stop().await;
}

#[tokio::test]
async fn groups_take_turns_so_that_a_big_one_does_not_delay_a_small_one() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let mut jobs: Vec<NewJob> = (0..500).map(|_| act(Act::Succeed, "big").group("big")).collect();
    jobs.push(act(Act::Succeed, "small").group("small"));
    queue.push_all(jobs).await.unwrap();
    let worker = start(&queue, WorkerOptions { concurrency: 1, ..WorkerOptions::default() });
    eventually("all ran", || async { worker.log.0.lock().len() == 501 }).await;
    let at = worker.log.0.lock().iter().position(|(label, _)| label == "small").unwrap();
    assert!(at <= 2, "the small group's job ran as number {at}");
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_stands_in_its_list_twice_runs_once_at_a_time() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let id = queue.push(act(Act::Hang, "twice")).await.unwrap().id;
    // What no script does: a second entry.
    let double = "local id = redis.call('LINDEX', KEYS[1], 0) return redis.call('RPUSH', KEYS[1], id)";
    assert_eq!(server.command::<i64>(&["EVAL", double, "1", "aq:{q}:q:n:play:"]).await, 2);
    let worker = start(&queue, WorkerOptions { cancel_grace: Duration::ZERO, ..WorkerOptions::default() });
    eventually("running", || async { worker.log.of("twice").len() == 1 }).await;
    let after = queue.push(act(Act::Succeed, "after")).await.unwrap().id;
    eventually("completed", || async { state(&queue, after).await == Some(State::Completed) }).await;
    assert_eq!((worker.log.of("twice").len(), queue.stats().await.unwrap().running), (1, 1));
    queue.cancel(&id).await.unwrap();
    eventually("cancelled", || async { state(&queue, id).await == Some(State::Cancelled) }).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_is_pushed_again_after_it_ran_neither_runs_again_nor_holds_its_key() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    let plain = act(Act::Succeed, "plain");
    let unique = act(Act::Succeed, "unique").unique("key", apalis_fred::Unique::UntilDone);
    for job in [&plain, &unique] {
        queue.push(job.clone()).await.unwrap();
    }
    eventually("completed", || async { queue.stats().await.unwrap().completed == 2 }).await;
    // As somebody does who never heard the answer to the first push.
    let again = queue.push_all(vec![plain.clone(), unique.clone(), act(Act::Succeed, "other")]).await.unwrap();
    assert_eq!((again[0].id, again[1].id), (plain.id(), unique.id()));
    assert!(again.iter().all(|pushed| !pushed.is_duplicate));
    let next = act(Act::Succeed, "next").unique("key", apalis_fred::Unique::UntilDone);
    assert!(!queue.push(next).await.unwrap().is_duplicate, "the key is held by a job that has ended");
    eventually("completed", || async { queue.stats().await.unwrap().completed == 4 }).await;
    for label in ["plain", "unique", "other", "next"] {
        assert_eq!(worker.log.of(label), vec![1], "{label}");
    }
    worker.stop().await;
}
