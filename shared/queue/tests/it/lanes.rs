//! Lists with ghosts, caps, the same job twice: what a lane must neither lose nor run twice.

use std::time::Duration;

use apalis_fred::{QueueOptions, State, Unique, WorkerOptions};

use crate::{
    redis::{Server, eventually},
    worker::{Act, act, claim_and_vanish, start},
};

#[tokio::test]
async fn a_capped_group_whose_next_jobs_were_cancelled_goes_on() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    queue.cap_groups(Some(2)).await.unwrap();
    let jobs = queue.push_all((0..6).map(|_| act(Act::Succeed, "g").group("g")).collect()).await.unwrap();
    // As many as the cap: those that take all places below it are no jobs any more.
    for job in &jobs[..2] {
        queue.cancel(&job.id).await.unwrap();
    }
    let worker = start(&queue, WorkerOptions { concurrency: 10, ..WorkerOptions::default() });
    eventually("all ran", || async { worker.log.of("g").len() == 4 }).await;
    worker.stop().await;
    assert_eq!(server.command::<i64>(&["EXISTS", "aq:{q}:run", "aq:{q}:parked", "aq:{q}:capped"]).await, 0);
}

#[tokio::test]
async fn a_higher_cap_counts_at_once() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    queue.cap_groups(Some(1)).await.unwrap();
    let options = WorkerOptions { concurrency: 10, shutdown_grace: Duration::ZERO, ..WorkerOptions::default() };
    let worker = start(&queue, options);
    queue.push_all((0..3).map(|_| act(Act::Hang, "g").group("g")).collect()).await.unwrap();
    eventually("parked", || async { server.command::<i64>(&["EXISTS", "aq:{q}:parked"]).await == 1 }).await;
    queue.cap_groups(Some(2)).await.unwrap();
    eventually("two run", || async { worker.log.of("g").len() == 2 }).await;
    queue.cap_groups(None).await.unwrap();
    eventually("all run", || async { worker.log.of("g").len() == 3 }).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_was_deleted_and_pushed_again_runs() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let job = act(Act::Succeed, "again");
    let id = queue.push(job.clone()).await.unwrap().id;
    assert!(queue.delete(&id).await.unwrap());
    queue.push(job).await.unwrap();
    let worker = start(&queue, WorkerOptions { concurrency: 10, ..WorkerOptions::default() });
    eventually("ran", || async { worker.log.of("again").len() == 1 }).await;
    worker.stop().await;
    assert_eq!(server.command::<i64>(&["EXISTS", "aq:{q}:ghosts"]).await, 0);
}

#[tokio::test]
async fn a_job_that_left_its_list_more_than_once_runs_once() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let (pushed, moved) = (act(Act::Succeed, "pushed"), act(Act::Succeed, "moved"));
    for _ in 0..2 {
        let id = queue.push(pushed.clone()).await.unwrap().id;
        assert!(queue.delete(&id).await.unwrap());
    }
    queue.push(pushed).await.unwrap();
    let id = queue.push(moved.clone()).await.unwrap().id;
    assert!(queue.delete(&id).await.unwrap());
    queue.push(moved).await.unwrap();
    assert!(queue.reschedule(&id, Duration::from_secs(3600)).await.unwrap());
    assert!(queue.retry(&id).await.unwrap());
    // One at a time: when a later place of the same job is reached, the job is completed and kept.
    let worker = start(&queue, WorkerOptions { concurrency: 1, ..WorkerOptions::default() });
    eventually("both ran", || async { queue.stats().await.unwrap().completed == 2 }).await;
    let last = queue.push(act(Act::Succeed, "last")).await.unwrap().id;
    assert_eq!(queue.wait(last).await.unwrap().state, Some(State::Completed));
    assert_eq!((worker.log.of("pushed").len(), worker.log.of("moved").len()), (1, 1));
    worker.stop().await;
    assert_eq!(server.command::<i64>(&["EXISTS", "aq:{q}:ghosts"]).await, 0);
}

#[tokio::test]
async fn a_job_that_stands_twice_in_one_push_is_stored_once() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    queue.cap_groups(Some(5)).await.unwrap();
    let job = act(Act::Succeed, "twice").group("g");
    let pushed = queue.push_all(vec![job.clone(), act(Act::Succeed, "other").group("g"), job]).await.unwrap();
    assert_eq!(pushed[0].id, pushed[2].id);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.available, stats.pushed_total), (2, 2));
    let worker = start(&queue, WorkerOptions { concurrency: 10, ..WorkerOptions::default() });
    eventually("completed", || async { queue.stats().await.unwrap().completed == 2 }).await;
    worker.stop().await;
    let counts = server.command::<i64>(&["EXISTS", "aq:{q}:run", "aq:{q}:capped", "aq:{q}:parked"]).await;
    assert_eq!(counts, 0, "nothing counts as running");
    assert_eq!(queue.stats().await.unwrap().waiting_bytes, 0);
}

#[tokio::test]
async fn jobs_of_many_groups_are_all_stored_by_one_push_and_by_pushing_it_again() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let jobs: Vec<_> = (0..1_000).map(|n| act(Act::Succeed, "a").group(format!("g{}", n % 700))).collect();
    // As after a lost answer: some are there already, in some of the script's blocks.
    queue.push_all(jobs[200..260].to_vec()).await.unwrap();
    queue.push_all(jobs.clone()).await.unwrap();
    queue.push_all(jobs).await.unwrap();
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.available, stats.pushed_total), (1_000, 1_000));
    assert_eq!(
        server.command::<i64>(&["LLEN", "aq:{q}:r:n:play"]).await,
        700,
        "each group stands in the rotation once"
    );
    let worker = start(&queue, WorkerOptions { concurrency: 100, prefetch: 300, ..WorkerOptions::default() });
    eventually("all ran", || async { queue.stats().await.unwrap().completed == 1_000 }).await;
    assert_eq!(worker.log.of("a").len(), 1_000);
    worker.stop().await;
}

#[tokio::test]
async fn recovered_jobs_stand_as_they_stood() {
    let server = Server::start().await;
    let queue = server.queue_with("q", QueueOptions { lease: Duration::from_secs(1), ..QueueOptions::default() }).await;
    for n in 0..5 {
        queue.push(act(Act::Succeed, &n.to_string())).await.unwrap();
    }
    claim_and_vanish(&server, 4).await;
    eventually("rescued", || async {
        queue.rescue().await.unwrap();
        queue.stats().await.unwrap().available == 5
    })
    .await;
    let worker = start(&queue, WorkerOptions { concurrency: 1, ..WorkerOptions::default() });
    eventually("all ran", || async { queue.stats().await.unwrap().completed == 5 }).await;
    let ran: Vec<String> = worker.log.0.lock().iter().map(|(label, _)| label.clone()).collect();
    assert_eq!(ran, ["0", "1", "2", "3", "4"]);
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_is_retried_by_hand_holds_its_key_again() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let id = queue.push(act(Act::Succeed, "a").unique("k", Unique::UntilDone)).await.unwrap().id;
    queue.cancel(&id).await.unwrap();
    assert!(queue.retry(&id).await.unwrap());
    let twin = queue.push(act(Act::Succeed, "a").unique("k", Unique::UntilDone)).await.unwrap();
    assert_eq!((twin.id, twin.is_duplicate), (id, true));
    // Nor does it take the key from one that came in between.
    queue.cancel(&id).await.unwrap();
    let second = queue.push(act(Act::Succeed, "a").unique("k", Unique::UntilDone)).await.unwrap();
    assert!(!second.is_duplicate);
    assert!(queue.retry(&id).await.unwrap());
    queue.cancel(&id).await.unwrap();
    assert_eq!(queue.push(act(Act::Succeed, "a").unique("k", Unique::UntilDone)).await.unwrap().id, second.id);
}

#[tokio::test]
async fn the_oldest_available_job_is_none_that_was_cancelled_or_moved() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let aged = |age: u64| {
        let made = std::time::SystemTime::now() - Duration::from_secs(age);
        act(Act::Succeed, "a").with_id(ulid::Ulid::from_datetime(made).into())
    };
    let oldest = async || queue.stats().await.unwrap().oldest_available_age.map(|age| age.as_secs() / 1_000);
    assert_eq!(oldest().await, None);
    let gone: Vec<_> = (0..250).map(|_| aged(9_500)).collect();
    let ids: Vec<_> = queue.push_all(gone).await.unwrap().iter().map(|pushed| pushed.id).collect();
    let moved = queue.push(aged(8_500)).await.unwrap().id;
    queue.push(aged(2_500)).await.unwrap();
    assert_eq!(oldest().await, Some(9));
    for id in &ids {
        queue.cancel(id).await.unwrap();
    }
    assert_eq!(oldest().await, Some(8));
    queue.reschedule(&moved, Duration::from_secs(3_600)).await.unwrap();
    assert_eq!(oldest().await, Some(2));
}

#[tokio::test]
async fn a_retry_of_what_was_listed_leaves_alone_what_went_on_since() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let id = queue.push(act(Act::RetryAfter(3_600_000), "a")).await.unwrap().id;
    let is = async |state: State| queue.job(&id).await.unwrap().unwrap().state == state;
    assert!(!queue.retry_from(State::Available, &id).await.unwrap(), "there is nothing to retry");
    let worker = start(&queue, WorkerOptions::default());
    eventually("retryable", || async { is(State::Retryable).await }).await;
    assert!(!queue.retry_from(State::Dead, &id).await.unwrap());
    assert!(queue.retry_from(State::Retryable, &id).await.unwrap());
    // All its attempts again: it fails once more.
    eventually("retryable again", || async { worker.log.of("a").len() == 2 && is(State::Retryable).await }).await;
    let running = queue.push(act(Act::Hang, "hang")).await.unwrap().id;
    eventually("running", || async { worker.log.of("hang").len() == 1 }).await;
    assert!(!queue.retry_from(State::Running, &running).await.unwrap());
    queue.cancel(&running).await.unwrap();
    eventually("cancelled", || async { queue.job(&running).await.unwrap().unwrap().state == State::Cancelled }).await;
    assert!(!queue.retry_from(State::Retryable, &running).await.unwrap());
    worker.stop().await;
    assert!(queue.retry_from(State::Cancelled, &running).await.unwrap());
    let done = queue.push(act(Act::Succeed, "done")).await.unwrap().id;
    let worker = start(&queue, WorkerOptions { cancel_grace: Duration::ZERO, ..WorkerOptions::default() });
    eventually("completed", || async { queue.job(&done).await.unwrap().unwrap().state == State::Completed }).await;
    assert!(!queue.retry_from(State::Retryable, &done).await.unwrap(), "it would run again");
    assert!(queue.job(&done).await.unwrap().unwrap().state == State::Completed);
    queue.cancel(&running).await.unwrap();
    worker.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_job_is_told_that_it_was_deleted() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let id = queue.push(act(Act::Succeed, "a")).await.unwrap().id;
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.wait(id).await }
    });
    eventually("waited for", || async { server.command::<i64>(&["EXISTS", "aq:{q}:waiters"]).await == 1 }).await;
    assert!(queue.delete(&id).await.unwrap());
    assert_eq!(waiting.await.unwrap().unwrap().state, None::<State>);
    assert_eq!(server.command::<i64>(&["EXISTS", "aq:{q}:waiters"]).await, 0, "it was told, not found out");
}

/// A worker at rest claims by a script of its own: what is rare about a job must not get past it.
#[tokio::test]
async fn a_worker_at_rest_minds_caps_cancels_pauses_and_second_entries() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions { cancel_grace: Duration::ZERO, ..WorkerOptions::default() });
    // It waits: nothing is said to it but by the token that it takes.
    let at_rest = || async {
        eventually("at rest", || async {
            let clients: String = server.command(&["CLIENT", "LIST"]).await;
            clients.lines().any(|client| client.contains("cmd=blpop") && !client.contains("qbuf=0 "))
        })
        .await;
    };
    queue.cap_groups(Some(1)).await.unwrap();
    at_rest().await;
    let first = queue.push(act(Act::Hang, "capped").group("g")).await.unwrap().id;
    eventually("running", || async { worker.log.of("capped").len() == 1 }).await;
    at_rest().await;
    queue.push(act(Act::Succeed, "next").group("g")).await.unwrap();
    at_rest().await;
    queue.push(act(Act::Succeed, "ungrouped")).await.unwrap();
    eventually("ran", || async { worker.log.of("ungrouped").len() == 1 }).await;
    assert!(worker.log.of("next").is_empty(), "its group is at its cap");
    assert_eq!(server.command::<i64>(&["HGET", "aq:{q}:run", "g"]).await, 1);
    queue.cancel(&first).await.unwrap();
    eventually("the next of the group ran", || async { worker.log.of("next").len() == 1 }).await;
    queue.cap_groups(None).await.unwrap();
    // A cancelled job's place in its list, and a second place of a running job.
    queue.pause().await.unwrap();
    let ghost = queue.push(act(Act::Succeed, "ghost")).await.unwrap().id;
    queue.cancel(&ghost).await.unwrap();
    at_rest().await;
    assert!(worker.log.of("ghost").is_empty());
    queue.resume().await.unwrap();
    let twice = queue.push(act(Act::Hang, "twice")).await.unwrap().id;
    eventually("running", || async { worker.log.of("twice").len() == 1 }).await;
    at_rest().await;
    let double = "redis.call('RPUSH', KEYS[1] .. 'q:n:play:', redis.call('ZRANGE', KEYS[1] .. 'lease', 0, 0)[1]) \
                  redis.call('RPUSH', KEYS[1] .. 'r:n:play', '') return redis.call('RPUSH', KEYS[1] .. 'wk:play', '1')";
    assert_eq!(server.command::<i64>(&["EVAL", double, "1", "aq:{q}:"]).await, 1);
    queue.push(act(Act::Succeed, "after")).await.unwrap();
    eventually("after", || async { worker.log.of("after").len() == 1 }).await;
    eventually("settled", || async { queue.stats().await.unwrap().completed == 3 }).await;
    assert_eq!((worker.log.of("twice").len(), queue.stats().await.unwrap().running), (1, 1));
    queue.cancel(&twice).await.unwrap();
    eventually("cancelled", || async { queue.stats().await.unwrap().cancelled == 3 }).await;
    assert!(worker.log.of("ghost").is_empty());
    assert_eq!(server.command::<i64>(&["EXISTS", "aq:{q}:run", "aq:{q}:ghosts", "aq:{q}:r:n:play"]).await, 0);
    worker.stop().await;
}
