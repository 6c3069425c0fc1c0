//! Pause, rate, caps, poison, retention, remote control, unique keys.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use apalis_fred::{Health, JobFilter, JobId, QueueLimits, QueueOptions, Retention, State, Unique, WorkerOptions};

use crate::{
    redis::{PATIENCE, Server, eventually},
    worker::{Act, act, claim_and_vanish, start},
};

#[tokio::test]
async fn a_paused_queue_starts_nothing_until_it_is_resumed() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    queue.push(act(Act::Succeed, "before")).await.unwrap();
    eventually("ran", || async { worker.log.of("before").len() == 1 }).await;
    queue.pause().await.unwrap();
    assert!(queue.stats().await.unwrap().is_paused);
    queue.push(act(Act::Succeed, "paused")).await.unwrap();
    // The worker has looked and been turned away once it has taken the wake-up.
    eventually("looked", || async { server.command::<i64>(&["EXISTS", "aq:{q}:wk:play"]).await == 0 }).await;
    assert_eq!(queue.stats().await.unwrap().available, 1);
    assert!(worker.log.of("paused").is_empty());
    queue.resume().await.unwrap();
    eventually("ran", || async { worker.log.of("paused").len() == 1 }).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_rate_limit_is_exact_across_workers() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    queue.limit_rate(20.0, 5).await.unwrap();
    queue.push_all((0..25).map(|_| act(Act::Succeed, "a")).collect()).await.unwrap();
    let begun = Instant::now();
    let (one, two) = (start(&queue, WorkerOptions::default()), start(&queue, WorkerOptions::default()));
    let ran = || one.log.of("a").len() + two.log.of("a").len();
    eventually("all ran", || async { ran() == 25 }).await;
    // 5 at once and 20 more at 20 a second.
    assert!(begun.elapsed() >= Duration::from_millis(990), "{:?}", begun.elapsed());
    assert_eq!(ran(), 25);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_capped_group_never_runs_more_than_its_cap_and_others_go_on() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    queue.cap_groups(Some(2)).await.unwrap();
    let worker = start(&queue, WorkerOptions { cancel_grace: Duration::ZERO, ..WorkerOptions::default() });
    let hanging = queue.push_all((0..6).map(|_| act(Act::Hang, "hang").group("a")).collect()).await.unwrap();
    eventually("two run", || async { worker.log.of("hang").len() == 2 }).await;
    queue.push_all((0..5).map(|_| act(Act::Succeed, "other").group("b")).collect()).await.unwrap();
    eventually("others ran", || async { worker.log.of("other").len() == 5 }).await;
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.running, stats.available), (2, 4));
    // Each end lets the next one start.
    for job in hanging {
        eventually("running", || async {
            queue.job(&job.id).await.unwrap().is_some_and(|j| j.state == State::Running)
        })
        .await;
        assert!(queue.stats().await.unwrap().running <= 2);
        queue.cancel(&job.id).await.unwrap();
    }
    eventually("all over", || async { queue.stats().await.unwrap().cancelled == 6 }).await;
    assert_eq!(server.command::<i64>(&["EXISTS", "aq:{q}:run", "aq:{q}:parked"]).await, 0, "nothing is left behind");
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_takes_its_worker_down_three_times_is_dead() {
    let server = Server::start().await;
    let queue = server.queue_with("q", QueueOptions { lease: Duration::from_secs(1), ..QueueOptions::default() }).await;
    let id = queue.push(act(Act::Succeed, "poison")).await.unwrap().id;
    for kills in 1..=3 {
        claim_and_vanish(&server, 1).await;
        eventually("rescued", || async {
            queue.rescue().await.unwrap();
            queue.job(&id).await.unwrap().is_some_and(|job| job.state != State::Running)
        })
        .await;
        let job = queue.job(&id).await.unwrap().unwrap();
        assert_eq!((job.kills, job.attempts), (kills, kills));
        assert_eq!(job.state, if kills < 3 { State::Available } else { State::Dead });
    }
}

#[tokio::test]
async fn retention_bounds_finished_jobs_by_count_and_zero_leaves_nothing() {
    let server = Server::start().await;
    let kept =
        QueueOptions { retention_completed: Retention::new(Duration::from_secs(60), 10), ..QueueOptions::default() };
    let queue = server.queue_with("q", kept).await;
    let worker = start(&queue, WorkerOptions::default());
    queue.push_all((0..50).map(|_| act(Act::Succeed, "a")).collect()).await.unwrap();
    eventually("trimmed", || async { worker.log.of("a").len() == 50 && queue.stats().await.unwrap().completed == 10 })
        .await;
    worker.stop().await;
    let options =
        QueueOptions { retention_completed: Retention::NONE, result_ttl: Duration::ZERO, ..QueueOptions::default() };
    let queue = server.queue_with("none", options).await;
    let worker = start(&queue, WorkerOptions::default());
    queue
        .push_all((0..50).map(|n| act(Act::Return("x".into()), "a").group(format!("g{}", n % 3))).collect())
        .await
        .unwrap();
    eventually("all ran", || async { queue.stats().await.unwrap().completed_total == 50 }).await;
    worker.stop().await;
    let mut left: Vec<String> = server.command(&["KEYS", "aq:{none}:*"]).await;
    left.sort();
    // Samples are there once a heartbeat came, and all may be over before the first one.
    left.retain(|key| !key.contains(":wk:") && key != "aq:{none}:samples");
    assert_eq!(left, ["aq:{none}:days", "aq:{none}:kinds", "aq:{none}:stat"], "only what lives for ever is left");
}

#[tokio::test]
async fn old_finished_jobs_are_removed_by_vacuum_and_young_ones_are_not() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    queue.push_all((0..20).map(|_| act(Act::Succeed, "a")).collect()).await.unwrap();
    eventually("completed", || async { queue.stats().await.unwrap().completed == 20 }).await;
    assert_eq!(queue.vacuum(Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(queue.vacuum(Duration::ZERO).await.unwrap(), 20);
    worker.stop().await;
}

#[tokio::test]
async fn a_unique_key_is_free_again_when_its_job_is_completed() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    for _ in 0..3 {
        let pushed = queue.push(act(Act::Succeed, "a").unique("k", Unique::UntilDone)).await.unwrap();
        assert!(!pushed.is_duplicate);
        assert_eq!(queue.wait(pushed.id).await.unwrap().state, Some(State::Completed));
    }
    worker.stop().await;
}

#[tokio::test]
async fn workers_can_be_pinged_quieted_and_stopped_from_afar() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    eventually("registered", || async { queue.workers().await.unwrap().len() == 1 }).await;
    let number = queue.workers().await.unwrap()[0].number;
    let patience = Duration::from_secs(20);
    assert!(queue.ping_worker(number, patience).await.unwrap().is_some());
    assert!(queue.ping_worker(number + 1, Duration::from_millis(50)).await.unwrap().is_none());
    queue.quiet_worker(number).await.unwrap();
    eventually("quiet", || async { queue.workers().await.unwrap()[0].is_quiet }).await;
    queue.push(act(Act::Succeed, "a")).await.unwrap();
    assert!(queue.ping_worker(number, patience).await.unwrap().is_some());
    assert!(worker.log.of("a").is_empty());
    queue.wake_worker(number).await.unwrap();
    eventually("ran", || async { worker.log.of("a").len() == 1 }).await;
    queue.stop_worker(number).await.unwrap();
    worker.task.await.unwrap();
    assert!(queue.workers().await.unwrap().is_empty());
}

#[tokio::test]
async fn dead_letters_are_filtered_and_retried_in_bulk() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    let mut jobs: Vec<_> = (0..10).map(|_| act(Act::Abort, "abort").group("a")).collect();
    jobs.extend((0..5).map(|_| act(Act::Panic, "panic").group("b").max_attempts(1)));
    queue.push_all(jobs).await.unwrap();
    eventually("dead", || async { queue.stats().await.unwrap().dead == 15 }).await;
    worker.stop().await;
    let filter = JobFilter { error_contains: Some("boom".into()), ..JobFilter::in_state(State::Dead) };
    let page = queue.jobs(&filter).await.unwrap();
    assert_eq!(page.jobs.len(), 5);
    let mut by_group: BTreeMap<String, usize> = BTreeMap::new();
    for job in queue.jobs(&JobFilter::in_state(State::Dead)).await.unwrap().jobs {
        *by_group.entry(job.group).or_default() += 1;
    }
    assert_eq!(by_group, BTreeMap::from([("a".to_owned(), 10), ("b".to_owned(), 5)]));
    for job in page.jobs {
        assert!(queue.retry(&job.id).await.unwrap());
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.dead, stats.available), (10, 5));
}

#[tokio::test]
async fn explain_says_why_a_job_does_not_run() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let id = queue.push(act(Act::Hang, "a").group("g")).await.unwrap().id;
    let why = || async { queue.explain(&id).await.unwrap().unwrap().reasons.join("; ") };
    assert!(why().await.contains("no living worker serves kind play"));
    queue.pause().await.unwrap();
    assert!(why().await.contains("paused"));
    queue.reschedule(&id, Duration::from_secs(3600)).await.unwrap();
    assert!(why().await.contains("due in 59 min") || why().await.contains("due in 60 min"), "{}", why().await);
    queue.retry(&id).await.unwrap();
    queue.resume().await.unwrap();
    let worker = start(&queue, WorkerOptions { cancel_grace: Duration::ZERO, ..WorkerOptions::default() });
    eventually("running", || async { why().await.contains("worker player") }).await;
    queue.cap_groups(Some(1)).await.unwrap();
    queue.cancel(&id).await.unwrap();
    eventually("cancelled", || async { why().await.contains("it was cancelled") }).await;
    worker.stop().await;
}

#[tokio::test]
async fn workers_at_rest_share_the_tokens_of_a_rate_and_none_sleeps_when_they_run_out() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    queue.limit_rate(20.0, 1).await.unwrap();
    let workers: Vec<_> =
        (0..3).map(|_| start(&queue, WorkerOptions { concurrency: 1, ..WorkerOptions::default() })).collect();
    eventually("registered", || async { queue.workers().await.unwrap().len() == 3 }).await;
    let begun = Instant::now();
    for _ in 0..21 {
        queue.push(act(Act::Succeed, "a")).await.unwrap();
    }
    let ran = || workers.iter().map(|worker| worker.log.of("a").len()).sum::<usize>();
    eventually("all ran", || async { ran() == 21 }).await;
    assert!(begun.elapsed() >= Duration::from_millis(990), "{:?}", begun.elapsed());
    eventually("settled", || async { queue.stats().await.unwrap().completed == 21 }).await;
    assert_eq!(ran(), 21);
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn who_waits_is_told_the_end_of_a_job_that_is_not_kept() {
    let server = Server::start().await;
    let options = QueueOptions {
        retention_completed: Retention::NONE,
        retention_dead: Retention::NONE,
        ..QueueOptions::default()
    };
    let queue = server.queue_with("q", options).await;
    let jobs = vec![act(Act::Succeed, "a"), act(Act::Abort, "b"), act(Act::Hang, "c")];
    let ids: Vec<JobId> = queue.push_all(jobs).await.unwrap().iter().map(|pushed| pushed.id).collect();
    let waits: Vec<_> = ids
        .iter()
        .map(|&id| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.wait(id).await.unwrap().state })
        })
        .collect();
    eventually("waited for", || async { server.command::<i64>(&["HLEN", "aq:{q}:waiters"]).await == 3 }).await;
    let worker = start(&queue, WorkerOptions { cancel_grace: Duration::ZERO, ..WorkerOptions::default() });
    eventually("running", || async { worker.log.of("c").len() == 1 }).await;
    queue.cancel(&ids[2]).await.unwrap();
    let states: Vec<_> = futures::future::join_all(waits).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(states, [Some(State::Completed), Some(State::Dead), Some(State::Cancelled)]);
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_notes_its_queue_s_name_again_after_redis_lost_it() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    let names = async || server.command::<Vec<String>>(&["SMEMBERS", "aq:queues"]).await;
    eventually("noted", || async { names().await == ["q"] }).await;
    let _: () = server.command(&["FLUSHALL"]).await;
    eventually("noted again", || async { names().await == ["q"] }).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_handle_that_waited_for_jobs_leaves_no_connection_behind() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let id = queue.push(act(Act::Succeed, "a")).await.unwrap().id;
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.wait(id).await }
    });
    let listeners = async || {
        let clients: String = server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
        clients.lines().filter(|line| !line.is_empty()).count()
    };
    eventually("listening", || async { listeners().await == 1 }).await;
    queue.delete(&id).await.unwrap();
    waiting.await.unwrap().unwrap();
    drop(queue);
    eventually("gone", || async { listeners().await == 0 }).await;
}

#[tokio::test]
async fn days_are_forgotten_after_a_month_also_where_no_worker_lived_on_the_last_of_it() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let today = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() / 86_400;
    for ago in (0..40).map(|day| day * 2) {
        let _: i64 = server.command(&["HSET", "aq:{q}:days", &(today - ago).to_string(), "1"]).await;
    }
    queue.rescue().await.unwrap();
    // Those of this and the 29 days before, whichever of them the test began on.
    let left: i64 = server.command(&["HLEN", "aq:{q}:days"]).await;
    assert!((14..=15).contains(&left), "{left}");
}

#[tokio::test]
async fn what_operators_set_can_be_read() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let none = QueueLimits { burst: 1, ..QueueLimits::default() };
    assert_eq!(queue.limits().await.unwrap(), none);
    queue.limit_rate(2.5, 7).await.unwrap();
    queue.cap_groups(Some(3)).await.unwrap();
    queue.pause().await.unwrap();
    let all = QueueLimits { is_paused: true, per_second: Some(2.5), burst: 7, group_cap: Some(3) };
    assert_eq!(queue.limits().await.unwrap(), all);
    queue.unlimit_rate().await.unwrap();
    queue.cap_groups(None).await.unwrap();
    queue.resume().await.unwrap();
    assert_eq!(queue.limits().await.unwrap(), none);
}

#[tokio::test]
async fn an_empty_unique_key_is_none() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    for scope in [Unique::UntilDone, Unique::For(Duration::from_secs(3600))] {
        for _ in 0..2 {
            assert!(!queue.push(act(Act::Succeed, "a").unique("", scope)).await.unwrap().is_duplicate);
        }
    }
    assert_eq!(queue.stats().await.unwrap().available, 4);
    assert_eq!(server.command::<i64>(&["EXISTS", "aq:{q}:u:"]).await, 0);
}

#[tokio::test]
async fn durations_without_end_lose_no_job_and_hold_nothing_up() {
    const EVER: Duration = Duration::MAX;
    let server = Server::start().await;
    let options = QueueOptions {
        result_ttl: EVER,
        retention_completed: Retention::new(EVER, u64::MAX),
        retention_dead: Retention::new(EVER, u64::MAX),
        max_latency: Some(EVER),
        ..QueueOptions::default()
    };
    let queue = server.queue_with("q", options).await;
    let worker = start(
        &queue,
        WorkerOptions {
            concurrency: 1,
            shutdown_grace: EVER,
            cancel_grace: EVER,
            stuck_after: EVER,
            ..WorkerOptions::default()
        },
    );
    let unique = act(Act::Return("kept".into()), "a").unique("k", Unique::For(EVER)).timeout(EVER);
    let id = queue.push(unique.clone()).await.unwrap().id;
    let outcome = queue.wait(id).await.unwrap();
    assert_eq!((outcome.state, outcome.result.as_deref()), (Some(State::Completed), Some("\"kept\"")));
    let twin = act(Act::Succeed, "twin").unique("k", Unique::For(EVER));
    assert_eq!(queue.push(twin).await.unwrap().id, id);
    let later = queue.push(act(Act::Succeed, "later").run_in(EVER)).await.unwrap().id;
    assert_eq!(queue.job(&later).await.unwrap().unwrap().state, State::Scheduled);
    let hang = queue.push(act(Act::Hang, "hang").timeout(EVER)).await.unwrap().id;
    eventually("running", || async { worker.log.of("hang").len() == 1 }).await;
    // Its sign of life says how it is, with all its slots taken.
    eventually("consuming", || async { queue.workers().await.unwrap()[0].health == Health::Consuming }).await;
    worker.context.stop().unwrap();
    queue.cancel(&hang).await.unwrap();
    tokio::time::timeout(PATIENCE, worker.task).await.expect("the worker does not end").unwrap();
    assert_eq!(queue.job(&hang).await.unwrap().unwrap().state, State::Cancelled);
    assert_eq!(queue.vacuum(EVER).await.unwrap(), 0);
}

/// A clock that was set back cannot be had in a test, but what it leaves behind can: a bucket that was filled in the future.
#[tokio::test]
async fn a_rate_limit_holds_after_the_clock_went_back_by_an_hour() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    queue.limit_rate(20.0, 5).await.unwrap();
    let [seconds, _]: [String; 2] = server.command::<Vec<String>>(&["TIME"]).await.try_into().unwrap();
    let later = (seconds.parse::<u64>().unwrap() + 3_600) * 1_000;
    let _: i64 = server.command(&["HSET", "aq:{q}:rl", "t", "0", "at", &later.to_string()]).await;
    queue.push_all((0..10).map(|_| act(Act::Succeed, "a")).collect()).await.unwrap();
    let begun = Instant::now();
    let worker = start(&queue, WorkerOptions::default());
    eventually("all ran", || async { worker.log.of("a").len() == 10 }).await;
    assert!(begun.elapsed() >= Duration::from_millis(490), "{:?}", begun.elapsed());
    worker.stop().await;
}
