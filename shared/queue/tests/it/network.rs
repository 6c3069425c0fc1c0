//! Workers and pushers whose network or whose Redis fails beneath them.

use std::time::{Duration, Instant};

use apalis_fred::{JobId, NewJob, Queue, QueueOptions, State, WorkerOptions};
use fred::prelude::*;

use crate::{
    proxy::{Proxy, Wire},
    redis::{PATIENCE, Server, eventually},
    weighted,
    worker::{Act, Running, act, start},
};

/// A queue behind the proxy, whose calls may take 2 seconds.
pub(crate) async fn behind(proxy: &Proxy, options: QueueOptions) -> Queue {
    queue_behind(proxy, "q", options).await
}

pub(crate) async fn queue_behind(proxy: &Proxy, name: &str, options: QueueOptions) -> Queue {
    let client = Builder::from_config(Config::from_url(&proxy.url()).unwrap())
        .set_policy(ReconnectPolicy::new_constant(0, 50))
        .build()
        .unwrap();
    client.init().await.unwrap();
    let options = QueueOptions { command_timeout: Duration::from_secs(2), ..options };
    Queue::with_options(client, name.parse().unwrap(), options)
}

/// Pushes the same job until it is stored, as a caller that must not lose it does.
async fn push(queue: &Queue, job: NewJob) -> JobId {
    eventually("pushed", || async {
        match queue.push(job.clone()).await {
            Ok(_) => true,
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                false
            }
        }
    })
    .await;
    job.id()
}

/// Once, and once more for each time that its worker was away for longer than its lease.
async fn runs(queue: &Queue, worker: &Running, id: JobId, label: &str) {
    eventually(label, || async { !worker.log.of(label).is_empty() }).await;
    eventually("settled", || async { queue.stats().await.is_ok_and(|s| s.running + s.available == 0) }).await;
    let job = queue.job(&id).await.unwrap().unwrap();
    assert_eq!(job.state, State::Completed);
    assert!(worker.log.of(label).len() <= 1 + job.kills as usize, "{label} ran twice without cause: {job:?}");
}

/// What waits for most of its time until a connection is given up: side by side, each with servers of its own.
#[tokio::test]
async fn workers_and_pushers_bear_connections_and_servers_that_do_not_answer() {
    tokio::join!(
        worker_and_pusher_go_on_after_their_connections_were_cut_stalled_and_forgotten(),
        a_claim_whose_answer_never_came_is_found_and_run(),
        jobs_that_run_while_redis_stands_still_for_longer_than_their_leases_stay_with_their_worker(),
        a_worker_whose_connections_do_not_answer_ends_when_told_to(),
        a_worker_that_cannot_tell_how_its_last_job_ended_ends_all_the_same_and_the_job_runs_again(),
        signs_of_life_do_not_pile_up_while_redis_is_deaf(),
        weighted::waits_whose_answers_never_come_are_given_up_in_each_of_a_worker_s_queues(),
    );
}

async fn worker_and_pusher_go_on_after_their_connections_were_cut_stalled_and_forgotten() {
    let server = Server::start().await;
    let (workers, pushers) = (Proxy::start(server.port).await, Proxy::start(server.port).await);
    let queue = behind(&pushers, QueueOptions::default()).await;
    let seen = server.queue("q").await;
    let worker = start(&behind(&workers, QueueOptions::default()).await, WorkerOptions::default());
    let id = push(&queue, act(Act::Succeed, "whole")).await;
    runs(&seen, &worker, id, "whole").await;
    for wire in [Wire::Cut, Wire::Stalled, Wire::Deaf] {
        // The worker alone: what is pushed meanwhile runs once it is back.
        workers.set(wire);
        let label = format!("worker {wire:?}");
        let id = push(&queue, act(Act::Succeed, &label)).await;
        workers.set(Wire::Whole);
        runs(&seen, &worker, id, &label).await;
        // The pusher alone: it is told that the job may not be stored, and its next tries store it once.
        pushers.set(wire);
        let label = format!("pusher {wire:?}");
        let job = act(Act::Succeed, &label);
        let error = queue.push(job.clone()).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        pushers.set(Wire::Whole);
        let id = push(&queue, job).await;
        runs(&seen, &worker, id, &label).await;
    }
    worker.stop().await;
}

async fn a_claim_whose_answer_never_came_is_found_and_run() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port).await;
    let queue = server.queue("q").await;
    // A lease that outlives the test: the worker itself has to find the job, no other comes to take it.
    let options = QueueOptions { lease: Duration::from_secs(600), ..QueueOptions::default() };
    let worker = start(&behind(&proxy, options).await, WorkerOptions::default());
    eventually("registered", || async { queue.workers().await.unwrap().len() == 1 }).await;
    proxy.set(Wire::Deaf);
    let id = queue.push(act(Act::Succeed, "unheard")).await.unwrap().id;
    proxy.set(Wire::Whole);
    runs(&queue, &worker, id, "unheard").await;
    assert_eq!(queue.stats().await.unwrap().rescued_total, 0, "nobody but its worker returned it");
    worker.stop().await;
}

async fn jobs_that_run_while_redis_stands_still_for_longer_than_their_leases_stay_with_their_worker() {
    let server = Server::start().await;
    let queue = server.queue_with("q", QueueOptions { lease: Duration::from_secs(8), ..QueueOptions::default() }).await;
    let (one, other) = (start(&queue, WorkerOptions::default()), start(&queue, WorkerOptions::default()));
    let hang = queue.push(act(Act::Hang, "hang")).await.unwrap().id;
    eventually("running", || async { one.log.of("hang").len() + other.log.of("hang").len() == 1 }).await;
    let _: () = server.command(&["DEBUG", "SLEEP", "11"]).await;
    push(&queue, act(Act::Succeed, "after")).await;
    eventually("after", || async { one.log.of("after").len() + other.log.of("after").len() == 1 }).await;
    queue.cancel(&hang).await.unwrap();
    eventually("ended", || async { queue.stats().await.unwrap().cancelled == 1 }).await;
    assert_eq!(one.log.of("hang").len() + other.log.of("hang").len(), 1, "it was taken from a living worker");
    assert_eq!(queue.stats().await.unwrap().rescued_total, 0);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_worker_waits_while_redis_is_full_and_loses_nothing() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions { concurrency: 2, ..WorkerOptions::default() });
    let hang = queue.push(act(Act::Hang, "hang")).await.unwrap().id;
    queue.push(act(Act::Succeed, "later").run_in(Duration::from_millis(1_500))).await.unwrap();
    eventually("running", || async { worker.log.of("hang").len() == 1 }).await;
    let _: () = server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = queue.push(act(Act::Succeed, "refused")).await.unwrap_err();
    assert!(refused.is_transient(), "{refused:?}");
    queue.cancel(&hang).await.unwrap();
    eventually("ended", || async { queue.stats().await.unwrap().cancelled == 1 }).await;
    let _: () = server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually("later", || async { worker.log.of("later").len() == 1 }).await;
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.completed, stats.rescued_total), (1, 0));
    worker.stop().await;
}

/// What fills Redis may be the queue itself: then only workers make room.
#[tokio::test]
async fn workers_that_start_or_lose_their_connections_while_redis_is_full_empty_the_queue() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let options = WorkerOptions { concurrency: 2, ..WorkerOptions::default() };
    queue.push_all((0..200).map(|_| act(Act::RetryAfter(1), "a")).collect()).await.unwrap();
    let _: () = server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let worker = start(&queue, options);
    eventually("some ran", || async { worker.log.of("a").len() >= 20 }).await;
    let _: i64 = server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    eventually("all ran", || async { queue.stats().await.unwrap().completed == 200 }).await;
    worker.stop().await;
    assert!(queue.workers().await.unwrap().is_empty(), "it could sign off");
}

#[tokio::test]
async fn an_operator_sets_up_a_full_queue_and_is_heard_by_its_workers() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    eventually("registered", || async { queue.workers().await.unwrap().len() == 1 }).await;
    let _: () = server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    // A handle that has not noted the queue's name yet, as that of a tool that has just started.
    let operator = server.queue("q").await;
    operator.pause().await.unwrap();
    assert!(operator.stats().await.unwrap().is_paused);
    operator.limit_rate(1.0, 1).await.unwrap();
    operator.unlimit_rate().await.unwrap();
    operator.cap_groups(Some(1)).await.unwrap();
    operator.cap_groups(None).await.unwrap();
    operator.resume().await.unwrap();
    let number = operator.workers().await.unwrap()[0].number;
    let is_quiet = async || operator.workers().await.unwrap()[0].is_quiet;
    operator.quiet_worker(number).await.unwrap();
    eventually("quiet", || async { is_quiet().await }).await;
    operator.wake_worker(number).await.unwrap();
    eventually("loud", || async { !is_quiet().await }).await;
    assert!(operator.ping_worker(number, PATIENCE).await.unwrap().is_some(), "no answer");
    operator.stop_worker(number).await.unwrap();
    tokio::time::timeout(PATIENCE, worker.task).await.expect("the worker does not end").unwrap();
    let _: () = server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    operator.pause().await.unwrap();
    assert_eq!(server.command::<Vec<String>>(&["SMEMBERS", "aq:queues"]).await, ["q"]);
}

#[tokio::test]
async fn the_end_of_a_job_that_comes_after_its_lease_was_over_changes_nothing() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port).await;
    let options = QueueOptions { lease: Duration::from_secs(1), ..QueueOptions::default() };
    let late = start(&behind(&proxy, options).await, WorkerOptions::default());
    // Longer, so that what comes late takes nothing back.
    let queue = server.queue("q").await;
    let id = queue.push(act(Act::Hang, "hang")).await.unwrap().id;
    eventually("running", || async { late.log.of("hang").len() == 1 }).await;
    let owner = || async { queue.job(&id).await.unwrap().unwrap().worker };
    let first = owner().await;
    proxy.set(Wire::Stalled);
    let other = start(&queue, WorkerOptions::default());
    eventually("taken over", || async { other.log.of("hang").len() == 1 }).await;
    let second = owner().await;
    assert!(second.is_some() && second != first);
    // The late worker learns that it lost the job, its handler ends with an error, and that end goes nowhere.
    proxy.set(Wire::Whole);
    eventually("the late worker is back under another number", || async {
        let workers = queue.workers().await.unwrap();
        workers.len() == 2 && workers.iter().all(|worker| Some(worker.number) != first)
    })
    .await;
    let after = queue.push(act(Act::Succeed, "after")).await.unwrap().id;
    eventually("after", || async { queue.job(&after).await.unwrap().unwrap().state == State::Completed }).await;
    let job = queue.job(&id).await.unwrap().unwrap();
    assert_eq!((job.state, job.worker), (State::Running, second));
    assert!(job.error.is_none(), "{job:?}");
    queue.cancel(&id).await.unwrap();
    eventually("cancelled", || async { queue.job(&id).await.unwrap().unwrap().state == State::Cancelled }).await;
    late.stop().await;
    other.stop().await;
}

async fn a_worker_whose_connections_do_not_answer_ends_when_told_to() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port).await;
    let worker = start(&behind(&proxy, QueueOptions::default()).await, WorkerOptions::default());
    let queue = server.queue("q").await;
    queue.push(act(Act::Succeed, "first")).await.unwrap();
    eventually("first", || async { worker.log.of("first").len() == 1 }).await;
    eventually("settled", || async { queue.stats().await.unwrap().completed == 1 }).await;
    proxy.set(Wire::Deaf);
    worker.context.stop().unwrap();
    tokio::time::timeout(PATIENCE, worker.task).await.expect("the worker does not end").unwrap();
}

async fn a_worker_that_cannot_tell_how_its_last_job_ended_ends_all_the_same_and_the_job_runs_again() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port).await;
    let options = QueueOptions { lease: Duration::from_secs(1), ..QueueOptions::default() };
    let hasty = WorkerOptions { shutdown_grace: Duration::from_secs(1), ..WorkerOptions::default() };
    let worker = start(&behind(&proxy, options.clone()).await, hasty);
    let queue = server.queue_with("q", options).await;
    let id = queue.push(act(Act::Hang, "hang")).await.unwrap().id;
    eventually("running", || async { worker.log.of("hang").len() == 1 }).await;
    let first = queue.job(&id).await.unwrap().unwrap().worker;
    proxy.set(Wire::Deaf);
    // The handler ends for lack of a lease, and that end can be told to nobody.
    let other = start(&queue, WorkerOptions::default());
    eventually("taken over", || async { other.log.of("hang").len() == 1 }).await;
    worker.context.stop().unwrap();
    tokio::time::timeout(PATIENCE, worker.task).await.expect("the worker does not end").unwrap();
    assert_ne!(queue.job(&id).await.unwrap().unwrap().worker, first);
    queue.cancel(&id).await.unwrap();
    other.stop().await;
}

#[tokio::test]
async fn workers_from_before_and_after_redis_lost_its_data_do_not_take_each_other_for_themselves() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port).await;
    let before = start(&behind(&proxy, QueueOptions::default()).await, WorkerOptions::default());
    let queue = server.queue("q").await;
    eventually("registered", || async { queue.workers().await.unwrap().len() == 1 }).await;
    proxy.set(Wire::Stalled);
    let _: () = server.command(&["FLUSHALL"]).await;
    let after = start(&queue, WorkerOptions::default());
    eventually("registered anew", || async { queue.workers().await.unwrap().len() == 1 }).await;
    proxy.set(Wire::Whole);
    eventually("both are known", || async { queue.workers().await.unwrap().len() == 2 }).await;
    for n in 0..50 {
        queue.push(act(Act::Succeed, &format!("job {n}"))).await.unwrap();
    }
    eventually("all ran", || async { queue.stats().await.unwrap().completed == 50 }).await;
    for n in 0..50 {
        let label = format!("job {n}");
        assert_eq!(before.log.of(&label).len() + after.log.of(&label).len(), 1, "{label}");
    }
    before.stop().await;
    after.stop().await;
}

#[tokio::test]
async fn a_worker_that_was_never_connected_ends_when_told_to() {
    let server = Server::start().await;
    for wire in [Wire::Cut, Wire::Stalled] {
        let proxy = Proxy::start(server.port).await;
        let queue = behind(&proxy, QueueOptions::default()).await;
        proxy.set(wire);
        let worker = start(&queue, WorkerOptions::default());
        eventually("running", || async { worker.context.is_running() }).await;
        worker.context.stop().unwrap();
        tokio::time::timeout(PATIENCE, worker.task).await.expect("the worker does not end").unwrap();
    }
}

/// While Redis is away each sign of life fails; those that were asked for meanwhile must not come all at once when it is back, nor
/// each tear down the connection that the one before it has made.
async fn signs_of_life_do_not_pile_up_while_redis_is_deaf() {
    let server = Server::start().await;
    let queue = server.queue_with("q", QueueOptions { lease: Duration::from_secs(1), ..QueueOptions::default() }).await;
    let worker = start(&queue, WorkerOptions::default());
    let hang = queue.push(act(Act::Hang, "hang")).await.unwrap().id;
    eventually("running", || async { worker.log.of("hang").len() == 1 }).await;
    let number = queue.job(&hang).await.unwrap().unwrap().worker;
    let figure = async |section: &str, field: &str| -> u64 {
        let info: String = server.command(&["INFO", section]).await;
        let line = info.lines().find_map(|line| line.strip_prefix(field)).unwrap().to_owned();
        line.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    let connections = figure("stats", "total_connections_received:").await;
    let calls = figure("commandstats", "cmdstat_evalsha:calls=").await;
    let begun = Instant::now();
    // Eight leases long: 24 beats were due.
    let _: () = server.command(&["DEBUG", "SLEEP", "8"]).await;
    push(&queue, act(Act::Succeed, "after")).await;
    eventually("after", || async { worker.log.of("after").len() == 1 }).await;
    let (connections_after, calls_after) = (
        figure("stats", "total_connections_received:").await - connections,
        figure("commandstats", "cmdstat_evalsha:calls=").await - calls,
    );
    // Those of the time since are due, three a second.
    let due = 3 * begun.elapsed().as_secs().saturating_sub(8);
    assert!(calls_after < 24 + due, "{calls_after} calls");
    // The worker's three, tried anew a few times, and those of this test.
    assert!(connections_after < 24, "{connections_after} connections");
    let job = queue.job(&hang).await.unwrap().unwrap();
    assert_eq!((job.state, job.worker), (State::Running, number), "its worker kept it");
    assert_eq!((worker.log.of("hang").len(), queue.stats().await.unwrap().rescued_total), (1, 0));
    queue.cancel(&hang).await.unwrap();
    eventually("cancelled", || async { queue.stats().await.unwrap().cancelled == 1 }).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_whose_steps_are_refused_tries_less_and_less_often_and_goes_on_by_itself() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    // A heartbeat that takes a sample would be refused as well; the next one that does comes five seconds behind the first.
    eventually("a first sample", || async { server.command::<bool>(&["EXISTS", "aq:{q}:samples"]).await }).await;
    // A key of the wrong type: claims, signs of life and all else work, only steps do not.
    let _: () = server.command(&["SET", "aq:{q}:sched", "broken"]).await;
    let begun = Instant::now();
    queue.push(act(Act::Succeed, "first")).await.unwrap();
    eventually("refused", || async {
        let info: String = server.command(&["INFO", "errorstats"]).await;
        info.lines()
            .find_map(|line| line.strip_prefix("errorstat_WRONGTYPE:count="))
            .is_some_and(|count| count.trim().parse::<u32>().unwrap() >= 8)
    })
    .await;
    // Seven waits between eight tries: none, then 50 ms doubling up to 1 s, each shortened by up to half.
    assert!(begun.elapsed() >= Duration::from_millis(1_275), "{:?}", begun.elapsed());
    let _: i64 = server.command(&["DEL", "aq:{q}:sched"]).await;
    queue.push(act(Act::Succeed, "second")).await.unwrap();
    eventually("both are over", || async { queue.stats().await.unwrap().completed == 2 }).await;
    assert_eq!((worker.log.of("first"), worker.log.of("second")), (vec![1], vec![1]));
    worker.stop().await;
}
