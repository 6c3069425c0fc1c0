//! One worker on several queues.

use std::{sync::Arc, time::Duration};

use apalis_core::{
    error::BoxDynError,
    task::data::Data,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{FredStorage, JobContext, Queue, QueueOptions, State, WorkerOptions};
use tokio::{sync::Semaphore, task::JoinHandle};

use crate::{
    network::queue_behind,
    proxy::{Proxy, Wire},
    redis::{Server, eventually},
    worker::{Act, Log, Play, act},
};

/// Notes the queue of each job that runs, once the gate is open.
async fn note(play: Play, context: JobContext, log: Data<Log>, gate: Data<Gate>) -> Result<(), BoxDynError> {
    drop(gate.0.0.acquire().await?);
    let queue = context.queue().ok_or("its worker is gone")?.name().to_string();
    log.0.0.lock().push((queue, context.attempt()));
    if matches!(play.act, Act::Hang) {
        context.cancelled().await;
    }
    Ok(())
}

#[derive(Clone)]
struct Gate(Arc<Semaphore>);

struct Worker {
    log: Log,
    gate: Gate,
    context: WorkerContext,
    task: JoinHandle<()>,
}

impl Worker {
    fn start(queues: &[(&Queue, u32)], options: WorkerOptions) -> Self {
        let mut storage = FredStorage::<Play>::new(queues[0].0.clone(), options).weight(queues[0].1);
        for (queue, weight) in &queues[1..] {
            storage = storage.also((*queue).clone(), *weight);
        }
        let (log, context) = (Log::default(), WorkerContext::new("weighted"));
        let gate = Gate(Arc::new(Semaphore::new(0)));
        let worker = WorkerBuilder::new(&context).backend(storage).data(log.clone()).data(gate.clone()).build(note);
        let task = tokio::spawn(async move { worker.run().await.unwrap() });
        Self { log, gate, context, task }
    }

    /// Lets jobs run from here on.
    fn open(&self) {
        self.gate.0.add_permits(1_000);
    }

    fn ran(&self) -> usize {
        self.log.0.lock().len()
    }

    /// How many of the first `n` runs were of this queue.
    fn of_first(&self, n: usize, queue: &str) -> usize {
        self.log.0.lock().iter().take(n).filter(|(name, _)| name == queue).count()
    }

    async fn stop(self) {
        self.context.stop().unwrap();
        self.task.await.unwrap();
    }
}

async fn fill(queue: &Queue, n: usize) {
    queue.push_all((0..n).map(|_| act(Act::Succeed, "a")).collect()).await.unwrap();
}

#[tokio::test]
async fn jobs_of_several_queues_run_in_proportion_to_their_weights_and_all_of_them_run() {
    let server = Server::start().await;
    let (a, b, c) = (server.queue("a").await, server.queue("b").await, server.queue("c").await);
    for queue in [&a, &b, &c] {
        fill(queue, 800).await;
    }
    let options = WorkerOptions { concurrency: 8, ..WorkerOptions::default() };
    let worker = Worker::start(&[(&a, 5), (&b, 2), (&c, 1)], options);
    // Each queue has a connection of its own; counting begins when all are there.
    for queue in [&a, &b, &c] {
        eventually("registered", || async { !queue.workers().await.unwrap().is_empty() }).await;
    }
    worker.open();
    eventually("all ran", || async { worker.ran() == 2400 }).await;
    // While all three have work: 5 : 2 : 1 of 800, within what starting one after the other costs.
    let (of_a, of_b, of_c) = (worker.of_first(800, "a"), worker.of_first(800, "b"), worker.of_first(800, "c"));
    assert!(
        (420..=580).contains(&of_a) && (130..=270).contains(&of_b) && (60..=140).contains(&of_c),
        "{of_a} {of_b} {of_c}"
    );
    worker.stop().await;
    for queue in [&a, &b, &c] {
        assert_eq!(queue.stats().await.unwrap().completed, 800);
        assert!(queue.workers().await.unwrap().is_empty(), "it signed off from each");
    }
}

#[tokio::test]
async fn the_lightest_queue_is_not_starved_by_the_heaviest() {
    let server = Server::start().await;
    let (heavy, light) = (server.queue("heavy").await, server.queue("light").await);
    fill(&heavy, 1500).await;
    fill(&light, 10).await;
    let worker = Worker::start(&[(&heavy, 100), (&light, 1)], WorkerOptions::default());
    eventually("registered", || async { !light.workers().await.unwrap().is_empty() }).await;
    worker.open();
    eventually("all ran", || async { worker.ran() == 1510 }).await;
    // One in 101 at least: the tenth of them long before the heavy queue is empty.
    assert!(worker.of_first(1200, "light") == 10, "{}", worker.of_first(1200, "light"));
    worker.stop().await;
}

#[tokio::test]
async fn a_paused_queue_leaves_its_share_to_the_others_and_gets_it_back() {
    let server = Server::start().await;
    let (heavy, light) = (server.queue("heavy").await, server.queue("light").await);
    heavy.pause().await.unwrap();
    fill(&heavy, 50).await;
    fill(&light, 200).await;
    let worker = Worker::start(&[(&heavy, 100), (&light, 1)], WorkerOptions::default());
    worker.open();
    eventually("the light ones ran", || async { worker.ran() == 200 }).await;
    assert_eq!(worker.of_first(200, "heavy"), 0);
    heavy.resume().await.unwrap();
    eventually("the heavy ones ran", || async { worker.ran() == 250 }).await;
    worker.stop().await;
}

#[tokio::test]
async fn an_idle_worker_is_woken_by_each_of_its_queues_and_one_concurrency_bounds_them_all() {
    let server = Server::start().await;
    let (a, b) = (server.queue("a").await, server.queue("b").await);
    let options = WorkerOptions { concurrency: 3, cancel_grace: Duration::ZERO, ..WorkerOptions::default() };
    let worker = Worker::start(&[(&a, 1), (&b, 1)], options);
    worker.open();
    for (ran, queue) in [&b, &a, &b].into_iter().enumerate() {
        let id = queue.push(act(Act::Succeed, "a")).await.unwrap().id;
        assert_eq!(queue.wait(id).await.unwrap().state, Some(State::Completed));
        assert_eq!(worker.ran(), ran + 1);
    }
    let mut hanging = Vec::new();
    for queue in [&a, &b] {
        for job in queue.push_all((0..5).map(|_| act(Act::Hang, "hang")).collect()).await.unwrap() {
            hanging.push((queue, job.id));
        }
    }
    let running = || async { (a.stats().await.unwrap().running + b.stats().await.unwrap().running) as usize };
    eventually("all slots are taken", || async { running().await == 3 }).await;
    eventually("told as full by both", || async {
        let (a, b) = (a.workers().await.unwrap(), b.workers().await.unwrap());
        a[0].is_full && b[0].is_full && a[0].running + b[0].running == 3
    })
    .await;
    for (queue, id) in hanging {
        queue.cancel(&id).await.unwrap();
    }
    eventually("all over", || async { running().await == 0 }).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_that_was_pushed_to_two_queues_runs_in_one_after_the_other() {
    let server = Server::start().await;
    let (one, two) = (server.queue("one").await, server.queue("two").await);
    let worker = Worker::start(
        &[(&one, 1), (&two, 1)],
        WorkerOptions { cancel_grace: Duration::ZERO, ..WorkerOptions::default() },
    );
    worker.open();
    let job = act(Act::Hang, "both");
    one.push(job.clone()).await.unwrap();
    eventually("one runs", || async { worker.ran() == 1 }).await;
    // To apalis it is the same job: it has to wait until the first has ended.
    two.push(job.clone()).await.unwrap();
    eventually("claimed and put off", || async { two.stats().await.unwrap().scheduled == 1 }).await;
    assert_eq!((worker.ran(), one.stats().await.unwrap().running), (1, 1));
    one.cancel(&job.id()).await.unwrap();
    eventually("the other runs", || async { worker.ran() == 2 }).await;
    assert_eq!(two.job(&job.id()).await.unwrap().unwrap().attempts, 0, "waiting spent no attempt");
    two.cancel(&job.id()).await.unwrap();
    for queue in [&one, &two] {
        eventually("over", || async { queue.stats().await.unwrap().completed == 1 }).await;
    }
    assert_eq!(worker.ran(), 2);
    worker.stop().await;
}

/// Each queue's wait is given up after 10 s; nothing else would ever tell the worker.
pub(crate) async fn waits_whose_answers_never_come_are_given_up_in_each_of_a_worker_s_queues() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.port).await;
    let behind = |name: &'static str| queue_behind(&proxy, name, QueueOptions::default());
    let worker = Worker::start(&[(&behind("one").await, 1), (&behind("two").await, 1)], WorkerOptions::default());
    worker.open();
    let queues = [server.queue("one").await, server.queue("two").await];
    for queue in &queues {
        queue.push(act(Act::Succeed, "before")).await.unwrap();
        eventually("settled", || async { queue.stats().await.unwrap().completed == 1 }).await;
    }
    // Before, the worker may still await what it was answered last, and not wait for work at all. Its heart waits for orders, too.
    eventually("both wait", || async {
        let info: String = server.command(&["INFO", "clients"]).await;
        info.lines().any(|line| line == "blocked_clients:4")
    })
    .await;
    proxy.set(Wire::Deaf);
    for queue in &queues {
        queue.push(act(Act::Succeed, "after")).await.unwrap();
        // A wait that ends by itself between the two lines above takes no token, and its answer gets lost all the same.
        let token = format!("aq:{{{}}}:wk:play", queue.name());
        let told = eventually("told", || async { server.command::<i64>(&["EXISTS", &token]).await == 0 });
        let _ = tokio::time::timeout(Duration::from_secs(5), told).await;
    }
    // What was connected before carries nothing ever after.
    proxy.set(Wire::Whole);
    for queue in &queues {
        eventually("ran", || async { queue.stats().await.unwrap().completed == 2 }).await;
    }
    worker.stop().await;
}
