//! Telling workers that consume from those that only live.

use std::{sync::Arc, time::Duration};

use apalis::prelude::WorkerBuilderExt;
use apalis_core::{
    error::BoxDynError,
    task::data::Data,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{Canary, FredStorage, Health, JobContext, JobFilter, Queue, QueueOptions, State, WorkerOptions};
use parking_lot::{Condvar, Mutex};

use crate::{
    redis::{Server, eventually},
    worker::{Act, Play, act, start},
};

async fn queue_with_quick_beats(server: &Server) -> Queue {
    server.queue_with("q", QueueOptions { lease: Duration::from_secs(1), ..QueueOptions::default() }).await
}

async fn health(queue: &Queue) -> Option<Health> {
    queue.workers().await.unwrap().first().map(|worker| worker.health)
}

fn impatient(canary: &Canary) -> WorkerOptions {
    WorkerOptions {
        concurrency: 2,
        stuck_after: Duration::from_millis(1_500),
        cancel_grace: Duration::ZERO,
        canary: canary.clone(),
        ..WorkerOptions::default()
    }
}

#[tokio::test]
async fn idle_consuming_quiet_and_never_ending_jobs_are_told_apart() {
    let server = Server::start().await;
    let queue = queue_with_quick_beats(&server).await;
    let canary = Canary::default();
    let worker = start(&queue, impatient(&canary));
    eventually("idle", || async { health(&queue).await == Some(Health::Idle) }).await;
    let record = &queue.workers().await.unwrap()[0];
    assert_eq!((record.last_fetched_at_ms, record.last_finished_at_ms, record.is_offered), (None, None, false));
    let hanging = queue.push_all(vec![act(Act::Hang, "a"), act(Act::Hang, "b")]).await.unwrap();
    eventually("fetched", || async { queue.workers().await.unwrap()[0].last_fetched_at_ms.is_some() }).await;
    // Both slots are taken and neither gets free.
    eventually("stuck", || async { matches!(health(&queue).await, Some(Health::Stuck { since_ms: 1.. })) }).await;
    assert_eq!(canary.stuck().map(|row| (row.worker, row.kind)), Some(("player".to_owned(), "play".to_owned())));
    queue.cancel(&hanging[0].id).await.unwrap();
    eventually("consuming", || async { health(&queue).await == Some(Health::Consuming) }).await;
    assert!(canary.stuck().is_none());
    queue.cancel(&hanging[1].id).await.unwrap();
    eventually("idle again", || async {
        let record = &queue.workers().await.unwrap()[0];
        record.health == Health::Idle && record.last_finished_at_ms.is_some()
    })
    .await;
    queue.quiet_worker(queue.workers().await.unwrap()[0].number).await.unwrap();
    eventually("quiet", || async { health(&queue).await == Some(Health::Quiet) }).await;
    worker.stop().await;
    assert!(canary.look().is_empty(), "a worker that ended is not looked at");
}

#[derive(Clone, Default)]
struct Door(Arc<(Mutex<bool>, Condvar)>);

/// Blocks the thread that it runs on, which is the only one of its runtime.
async fn block(_: Play, door: Data<Door>) -> Result<(), BoxDynError> {
    let (is_open, opened) = &*door.0.0;
    let mut is_open = is_open.lock();
    opened.wait_while(&mut is_open, |is_open| !*is_open);
    Ok(())
}

#[tokio::test]
async fn a_worker_whose_threads_are_all_blocked_is_told_as_stuck_although_its_heart_beats() {
    let server = Server::start().await;
    let queue = queue_with_quick_beats(&server).await;
    let (canary, door, context) = (Canary::default(), Door::default(), WorkerContext::new("blocked"));
    let (url, options, data, own) = (server.url(), impatient(&canary), door.clone(), context.clone());
    let queue_options = queue.options().clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            use fred::prelude::*;
            let client = Builder::from_config(Config::from_url(&url).unwrap()).build().unwrap();
            client.init().await.unwrap();
            let queue = Queue::with_options(client, "q".parse().unwrap(), queue_options);
            let storage = FredStorage::<Play>::new(queue, options);
            WorkerBuilder::new(&own).backend(storage).data(data).build(block).run().await.unwrap();
        });
    });
    eventually("idle", || async { health(&queue).await == Some(Health::Idle) }).await;
    let id = queue.push(act(Act::Succeed, "a")).await.unwrap().id;
    eventually("stuck", || async {
        let record = queue.workers().await.unwrap().remove(0);
        matches!(record.health, Health::Stuck { .. }) && !record.is_late
    })
    .await;
    assert!(canary.stuck().is_some());
    *door.0.0.lock() = true;
    door.0.1.notify_all();
    queue.wait(id).await.unwrap();
    eventually("well again", || async { health(&queue).await == Some(Health::Idle) }).await;
    context.stop().unwrap();
    thread.join().unwrap();
}

#[tokio::test]
async fn a_worker_that_its_own_program_paused_is_quiet_and_keeps_no_job_that_it_has_not_begun() {
    async fn hold(_: Play, job: JobContext) {
        job.cancelled().await;
    }
    let server = Server::start().await;
    let queue = queue_with_quick_beats(&server).await;
    let canary = Canary::default();
    let options = WorkerOptions { concurrency: 1, prefetch: 5, ..impatient(&canary) };
    let context = WorkerContext::new("paused");
    let storage = FredStorage::<Play>::new(queue.clone(), options);
    let worker = WorkerBuilder::new(&context).backend(storage).concurrency(1).build(hold);
    let task = tokio::spawn(worker.run());
    queue.push_all((0..6).map(|_| act(Act::Hang, "hold")).collect()).await.unwrap();
    let counts = async || {
        let stats = queue.stats().await.unwrap();
        (stats.available, stats.running, stats.completed)
    };
    eventually("fetched", || async { counts().await == (0, 6, 0) }).await;
    eventually("one begun", || async { queue.workers().await.unwrap()[0].jobs.len() == 1 }).await;
    let begun = queue.workers().await.unwrap()[0].jobs[0].id;
    context.pause().unwrap();
    eventually("the others are given back", || async { counts().await == (5, 1, 0) }).await;
    queue.cancel(&begun).await.unwrap();
    eventually("ended", || async { counts().await == (5, 0, 1) }).await;
    eventually("quiet", || async { health(&queue).await == Some(Health::Quiet) }).await;
    let waiting = queue.jobs(&JobFilter::default()).await.unwrap().jobs[0].id;
    let reasons = queue.explain(&waiting).await.unwrap().unwrap().reasons;
    assert_eq!(reasons[0], "all 1 workers of kind play are quiet");
    // For longer than it takes to be stuck: nor is it offered what it does not want.
    let beat = async || queue.workers().await.unwrap()[0].beat_at_ms;
    let later = beat().await + 3_000;
    eventually("more signs of life", || async { beat().await > later }).await;
    assert_eq!((health(&queue).await, canary.stuck(), counts().await), (Some(Health::Quiet), None, (5, 0, 1)));
    context.resume().unwrap();
    eventually("fetched again", || async { counts().await == (0, 5, 1) }).await;
    task.abort();
}

#[tokio::test]
async fn a_worker_that_died_is_told_as_stuck_since_its_last_sign_of_life() {
    let server = Server::start().await;
    let queue = queue_with_quick_beats(&server).await;
    let dead = r#"{"name":"gone","host":"h","pid":1,"kind":"play","concurrency":1,"started_at_ms":1,"is_quiet":false,"running":0,"jobs":[]}"#;
    let _: i64 = server.command(&["HSET", "aq:{q}:w:7", "f", "1", "beat", "1234", "info", dead]).await;
    let _: i64 = server.command(&["ZADD", "aq:{q}:workers", "1", "7"]).await;
    assert_eq!(health(&queue).await, Some(Health::Stuck { since_ms: 1234 }));
}

#[tokio::test]
async fn a_worker_that_waits_for_redis_is_not_stuck() {
    let mut server = Server::start().await;
    let queue = server.queue("q").await;
    let canary = Canary::default();
    let stuck_after = Duration::from_secs(4);
    let options = || WorkerOptions { stuck_after, canary: canary.clone(), ..WorkerOptions::default() };
    let before = start(&queue, options());
    eventually("registered", || async { !queue.workers().await.unwrap().is_empty() }).await;
    server.kill();
    // One loses its connection, the other never had one.
    let after = start(&queue, options());
    let begun = std::time::Instant::now();
    while begun.elapsed() < stuck_after * 2 {
        assert_eq!(canary.stuck(), None);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.launch().await;
    eventually("both are back", || async { queue.workers().await.is_ok_and(|workers| workers.len() == 2) }).await;
    before.stop().await;
    after.stop().await;
}

/// Each of a worker's connections comes and goes by itself, so its jobs must not depend on the others' luck.
#[tokio::test]
async fn a_worker_whose_heartbeat_is_refused_takes_no_jobs_until_it_beats() {
    let server = Server::start().await;
    let queue = queue_with_quick_beats(&server).await;
    let refused = async || -> u64 {
        let info: String = server.command(&["INFO", "errorstats"]).await;
        // Versions of Redis differ in the code that they give what a script may not do.
        let count = |line: &str| -> Option<u64> {
            let (code, count) = line.strip_prefix("errorstat_")?.split_once(":count=")?;
            ["ERR", "NOPERM"].contains(&code).then(|| count.trim().parse().unwrap())
        };
        info.lines().filter_map(count).sum()
    };
    let refuse = async |beats: u64| {
        let before = refused().await;
        // Of what a worker sends, only its signs of life say this; they are sent six times in a lease while they fail.
        let _: () = server.command(&["ACL", "SETUSER", "default", "-srandmember"]).await;
        eventually("refused", || async { refused().await >= before + beats }).await;
    };
    let allow = async || {
        let _: () = server.command(&["ACL", "SETUSER", "default", "+srandmember"]).await;
    };
    refuse(0).await;
    let worker = start(&queue, WorkerOptions::default());
    let first = queue.push(act(Act::Succeed, "first")).await.unwrap().id;
    // It was never heard of.
    eventually("registered", || async { queue.workers().await.unwrap().len() == 1 }).await;
    refuse(4).await;
    assert_eq!((worker.log.of("first").len(), queue.job(&first).await.unwrap().unwrap().state), (0, State::Available));
    allow().await;
    eventually("first", || async { worker.log.of("first").len() == 1 }).await;
    // It was, but not for longer than its lease.
    refuse(12).await;
    let second = queue.push(act(Act::Succeed, "second")).await.unwrap().id;
    refuse(4).await;
    assert_eq!(
        (worker.log.of("second").len(), queue.job(&second).await.unwrap().unwrap().state),
        (0, State::Available)
    );
    allow().await;
    eventually("second", || async { queue.job(&second).await.unwrap().unwrap().state == State::Completed }).await;
    assert_eq!((worker.log.of("second"), queue.job(&second).await.unwrap().unwrap().kills), (vec![1], 0));
    worker.stop().await;
}
