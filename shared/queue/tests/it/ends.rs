//! Many ends told at once: those whose leases stand as they were given, and those that lost theirs.

use std::{sync::Arc, time::Duration};

use apalis_core::{
    error::BoxDynError,
    task::data::Data,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{FredStorage, JobId, Queue, QueueOptions, Retention, State, WorkerOptions};
use tokio::{sync::Semaphore, task::JoinHandle};

use crate::{
    redis::{Server, eventually},
    worker::{Act, Play, act},
};

/// More than are told one by one.
const JOBS: usize = 64;

async fn wait_at(_: Play, gate: Data<Arc<Semaphore>>) -> Result<(), BoxDynError> {
    gate.acquire().await?.forget();
    Ok(())
}

/// Jobs that all run, claimed in one call, until the gate lets them end.
struct Running {
    ids: Vec<JobId>,
    gate: Arc<Semaphore>,
    context: WorkerContext,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(queue: &Queue) -> Self {
        let jobs = (0..JOBS).map(|n| act(Act::Succeed, &n.to_string())).collect();
        let ids = queue.push_all(jobs).await.unwrap().into_iter().map(|pushed| pushed.id).collect();
        let (gate, context) = (Arc::new(Semaphore::new(0)), WorkerContext::new("waiter"));
        let options = WorkerOptions { concurrency: JOBS, ..WorkerOptions::default() };
        let storage = FredStorage::<Play>::new(queue.clone(), options);
        let worker = WorkerBuilder::new(&context).backend(storage).data(gate.clone()).build(wait_at);
        let task = tokio::spawn(async move { worker.run().await.unwrap() });
        eventually("all run", || async { queue.stats().await.unwrap().running == JOBS as u64 }).await;
        Self { ids, gate, context, task }
    }

    async fn stop(self) {
        self.context.stop().unwrap();
        self.task.await.unwrap();
    }
}

pub(crate) async fn calls_of(server: &Server, command: &str) -> u64 {
    let stats: String = server.command(&["INFO", "commandstats"]).await;
    let calls =
        stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls="))?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

async fn queue(server: &Server, kept: Retention) -> Queue {
    server.queue_with("q", QueueOptions { retention_completed: kept, ..QueueOptions::default() }).await
}

#[tokio::test]
async fn ends_that_follow_each_other_are_told_as_one() {
    let server = Server::start().await;
    for kept in [Retention::NONE, Retention::new(Duration::from_secs(60), 1_000)] {
        let queue = queue(&server, kept).await;
        let running = Running::start(&queue).await;
        let before = [calls_of(&server, "zremrangebyscore").await, calls_of(&server, "zmscore").await];
        running.gate.add_permits(JOBS);
        eventually("all ended", || async { queue.stats().await.unwrap().running == 0 }).await;
        let after = [calls_of(&server, "zremrangebyscore").await, calls_of(&server, "zmscore").await];
        assert!(after[0] > before[0] && after[1] == before[1], "{before:?}, {after:?}");
        for id in &running.ids {
            let state = queue.job(id).await.unwrap().map(|job| job.state);
            assert_eq!(state, (kept != Retention::NONE).then_some(State::Completed));
        }
        running.stop().await;
    }
    let stats = queue(&server, Retention::NONE).await.stats().await.unwrap();
    assert_eq!(stats.completed_total, 2 * JOBS as u64);
}

#[tokio::test]
async fn an_end_whose_lease_was_lost_is_left_out_of_those_around_it() {
    let server = Server::start().await;
    let queue = queue(&server, Retention::NONE).await;
    let running = Running::start(&queue).await;
    // As after this worker's silence: another worker has one of the jobs, and another one was cancelled meanwhile.
    let meddle = "local ids = redis.call('ZRANGE', KEYS[1], 0, -1)
        redis.call('ZREM', KEYS[1], ids[41])
        return redis.call('ZADD', KEYS[1], 'XX', 'CH', 77, ids[21])";
    assert_eq!(server.command::<i64>(&["EVAL", meddle, "1", "aq:{q}:lease"]).await, 1);
    running.gate.add_permits(JOBS);
    eventually("the others ended", || async { queue.stats().await.unwrap().completed_total == JOBS as u64 - 2 }).await;
    let left: i64 = server.command(&["ZCOUNT", "aq:{q}:lease", "77", "77"]).await;
    assert_eq!(left, 1, "it is the other worker's to end");
    for (at, id) in running.ids.iter().enumerate() {
        assert_eq!(queue.job(id).await.unwrap().is_some(), at == 20 || at == 40, "{at}");
    }
    running.stop().await;
}
