//! Queues that are full: by jobs, by bytes, by waiting time.

use std::time::Duration;

use apalis_core::{
    backend::TaskSink,
    task::{builder::TaskBuilder, task_id::TaskId},
};
use apalis_fred::{FredStorage, FullReason, JobId, NewJob, Queue, QueueError, QueueOptions, Unique, WorkerOptions};

use crate::{
    redis::{Server, eventually},
    worker::{Act, Play, act, start},
};

/// A time in ms that is no test's past.
const FAR: &str = "99999999999999";

fn job() -> NewJob {
    act(Act::Succeed, "a")
}

fn full(outcome: Result<impl std::fmt::Debug, QueueError>) -> (FullReason, Duration) {
    match outcome {
        Err(QueueError::Full { reason, retry_after }) => (reason, retry_after),
        other => panic!("not full: {other:?}"),
    }
}

async fn waiting_bytes(queue: &Queue) -> u64 {
    queue.stats().await.unwrap().waiting_bytes
}

#[tokio::test]
async fn a_push_beyond_the_depth_stores_nothing_and_one_that_adds_nothing_is_no_push_beyond() {
    let server = Server::start().await;
    let queue = server.queue_with("q", QueueOptions { max_depth: Some(10), ..QueueOptions::default() }).await;
    let mut jobs: Vec<NewJob> = (0..6).map(|_| job()).collect();
    jobs.push(job().run_in(Duration::from_secs(3600)));
    jobs.push(job().unique("k", Unique::UntilDone));
    queue.push_all(jobs.clone()).await.unwrap();
    let (reason, _) = full(queue.push_all((0..3).map(|_| job()).collect()).await);
    assert_eq!(reason, FullReason::Depth { waiting: 8, most: 10 });
    assert_eq!(queue.stats().await.unwrap().pushed_total, 8, "all or nothing");
    queue.push_all(vec![job(), job()]).await.unwrap();
    full(queue.push(job()).await);
    let twin = queue.push(job().unique("k", Unique::UntilDone)).await.unwrap();
    assert!(twin.is_duplicate && twin.id == jobs[7].id());
    for job in [&jobs[0], &jobs[6]] {
        assert_eq!(queue.push(job.clone()).await.unwrap().id, job.id(), "the same job again is stored already");
    }
    let mixed = vec![job().unique("k", Unique::UntilDone), job().unique("other", Unique::UntilDone)];
    full(queue.push_all(mixed).await);
    assert_eq!(server.command::<i64>(&["EXISTS", "aq:{q}:u:other"]).await, 0, "a refused push holds no key");
    let empty = server.queue_with("empty", QueueOptions { max_depth: Some(2), ..QueueOptions::default() }).await;
    empty.push_all((0..5).map(|_| job()).collect()).await.unwrap();
    full(empty.push(job()).await);
}

#[tokio::test]
async fn bytes_that_wait_are_counted_through_all_that_becomes_of_a_job() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let (one, two) = (job(), act(Act::Hang, "b").run_in(Duration::from_secs(3600)));
    let (first, second): (JobId, JobId) = (one.id(), two.id());
    queue.push(one).await.unwrap();
    let of_one = waiting_bytes(&queue).await;
    assert!(of_one > 16);
    queue.push(two).await.unwrap();
    let both = waiting_bytes(&queue).await;
    let of_two = both - of_one;
    queue.cancel(&second).await.unwrap();
    assert_eq!(waiting_bytes(&queue).await, of_one);
    queue.retry(&second).await.unwrap();
    assert_eq!(waiting_bytes(&queue).await, both);
    queue.reschedule(&second, Duration::from_secs(3600)).await.unwrap();
    assert_eq!(waiting_bytes(&queue).await, both);
    let longer = serde_json::to_vec(&Play { act: Act::Hang, label: "longer".into() }).unwrap();
    queue.update_payload(&second, longer.into()).await.unwrap();
    assert_eq!(waiting_bytes(&queue).await, both + 5);
    queue.delete(&first).await.unwrap();
    assert_eq!(waiting_bytes(&queue).await, of_two + 5);
    let worker = start(&queue, WorkerOptions { shutdown_grace: Duration::ZERO, ..WorkerOptions::default() });
    queue.retry(&second).await.unwrap();
    eventually("claimed", || async { waiting_bytes(&queue).await == 0 }).await;
    let fails = act(Act::Fail, "c").max_attempts(2);
    queue.push(fails).await.unwrap();
    eventually("dead", || async { queue.stats().await.unwrap().dead == 1 }).await;
    assert_eq!(waiting_bytes(&queue).await, 0);
    worker.stop().await;
    assert_eq!(waiting_bytes(&queue).await, of_two + 5, "what a stopping worker hands back waits again");
    queue.delete(&second).await.unwrap();
    assert_eq!(waiting_bytes(&queue).await, 0);
}

#[tokio::test]
async fn a_push_beyond_the_bytes_is_refused_until_jobs_are_gone() {
    let server = Server::start().await;
    let queue = server.queue_with("q", QueueOptions { max_bytes: Some(10_000), ..QueueOptions::default() }).await;
    let big = || NewJob::raw("play", vec![b'x'; 3_000]).unwrap();
    let jobs = queue.push_all(vec![big(), big(), big()]).await.unwrap();
    let (reason, _) = full(queue.push(big()).await);
    assert!(matches!(reason, FullReason::Bytes { waiting: 9_000..9_100, most: 10_000 }), "{reason:?}");
    queue.push(job()).await.unwrap();
    queue.delete(&jobs[0].id).await.unwrap();
    queue.push(big()).await.unwrap();
}

#[tokio::test]
async fn a_queue_that_is_late_refuses_jobs_until_a_worker_caught_up() {
    let server = Server::start().await;
    let options = QueueOptions { max_latency: Some(Duration::from_millis(300)), ..QueueOptions::default() };
    let queue = server.queue_with("q", options).await;
    eventually("late", || async { matches!(queue.push(job()).await, Err(QueueError::Full { .. })) }).await;
    let (reason, _) = full(queue.push(job()).await);
    assert!(
        matches!(reason, FullReason::Latency { expected, .. } if expected > Duration::from_millis(300)),
        "{reason:?}"
    );
    let worker = start(&queue, WorkerOptions::default());
    eventually("caught up", || async { queue.push(job()).await.is_ok() }).await;
    worker.stop().await;
}

#[tokio::test]
async fn retry_after_is_when_the_excess_will_have_drained_at_the_measured_rate() {
    let server = Server::start().await;
    let queue = server.queue_with("q", QueueOptions { max_depth: Some(20), ..QueueOptions::default() }).await;
    queue.push_all((0..20).map(|_| job()).collect()).await.unwrap();
    let ten = || (0..10).map(|_| job()).collect::<Vec<_>>();
    assert_eq!(full(queue.push_all(ten()).await).1, Duration::from_secs(10), "a guess: nothing is measured");
    // What heartbeats write: jobs that end a second.
    for (rate, seconds) in [("2.000", 5), ("500.0", 1), ("0.010", 300), ("0.000", 300)] {
        let _: i64 = server.command(&["HSET", "aq:{q}:stat", "drain", rate, "drain_at", FAR]).await;
        assert_eq!(full(queue.push_all(ten()).await).1, Duration::from_secs(seconds), "{rate}");
    }
    let options = QueueOptions { max_latency: Some(Duration::from_secs(3)), ..QueueOptions::default() };
    let queue = server.queue_with("q", options).await;
    let _: i64 = server.command(&["HSET", "aq:{q}:stat", "drain", "2.000", "at:play", FAR]).await;
    // 20 at 2 a second wait 10 s, which is 7 s too long.
    let (reason, after) = full(queue.push(job()).await);
    assert_eq!(reason, FullReason::Latency { expected: Duration::from_secs(10), most: Duration::from_secs(3) });
    assert_eq!(after, Duration::from_secs(7));
}

#[tokio::test]
async fn a_rate_that_is_not_of_the_last_minute_refuses_nothing_and_one_that_no_job_waits_for_is_forgotten() {
    let server = Server::start().await;
    let options = QueueOptions { max_latency: Some(Duration::from_secs(60)), ..QueueOptions::default() };
    let queue = server.queue_with("q", options).await;
    // A job that nobody serves, so that something waits.
    queue.push(NewJob::raw("unheard_of", b"{}".to_vec()).unwrap()).await.unwrap();
    let _: i64 = server.command(&["HSET", "aq:{q}:stat", "drain", "0.010", "drain_at", "1"]).await;
    assert_eq!(queue.forecast().await.unwrap().drain_per_second, None);
    queue.push(job()).await.unwrap();
    let _: i64 = server.command(&["HSET", "aq:{q}:stat", "drain_at", FAR]).await;
    assert_eq!(queue.forecast().await.unwrap().drain_per_second, Some(0.01));
    full(queue.push(job()).await);
    // Its heartbeats find no time over which jobs waited, and then one in which the job that nobody serves did.
    let worker = start(&queue, WorkerOptions::default());
    eventually("forgotten", || async { queue.push(job()).await.is_ok() }).await;
    eventually("measured", || async { queue.forecast().await.unwrap().drain_per_second.is_some() }).await;
    queue.pause().await.unwrap();
    let _: i64 = server.command(&["DEL", "aq:{q}:samples"]).await;
    eventually("a pause is not measured", || async { queue.forecast().await.unwrap().drain_per_second.is_none() })
        .await;
    worker.stop().await;
}

#[tokio::test]
async fn a_kind_that_starves_is_late_although_another_is_served_and_a_job_waits_from_when_it_is_available() {
    let server = Server::start().await;
    let late = QueueOptions { max_latency: Some(Duration::from_millis(300)), ..QueueOptions::default() };
    let queue = server.queue_with("q", late).await;
    let worker = start(&queue, WorkerOptions::default());
    let starving = || NewJob::raw("unheard_of", b"{}".to_vec()).unwrap();
    queue.push(starving()).await.unwrap();
    eventually("one kind is late", || async {
        eventually("the other is served", || async { queue.push(job()).await.is_ok() }).await;
        matches!(queue.push(starving()).await, Err(QueueError::Full { .. }))
    })
    .await;
    worker.stop().await;
    // One that was made in 1970 and is available since now.
    let patient = QueueOptions { max_latency: Some(Duration::from_secs(600)), ..QueueOptions::default() };
    let queue = server.queue_with("patient", patient).await;
    let old = TaskBuilder::new(Play { act: Act::Succeed, label: "old".into() })
        .task_id(TaskId::from_ulid(ulid::Ulid::from_parts(1, 1)))
        .build();
    FredStorage::<Play>::new(queue.clone(), WorkerOptions::default()).push_task(old).await.unwrap();
    queue.push(job()).await.unwrap();
}

#[tokio::test]
async fn a_count_of_bytes_that_went_wrong_is_never_below_none() {
    let server = Server::start().await;
    let queue = server.queue_with("q", QueueOptions { max_bytes: Some(100), ..QueueOptions::default() }).await;
    queue.push(job()).await.unwrap();
    let _: i64 = server.command(&["HSET", "aq:{q}:stat", "bytes", "-1000000"]).await;
    assert_eq!(waiting_bytes(&queue).await, 0);
    let (reason, _) = full(queue.push(NewJob::raw("play", vec![b'x'; 3_000]).unwrap()).await);
    assert_eq!(reason, FullReason::Bytes { waiting: 0, most: 100 });
}
