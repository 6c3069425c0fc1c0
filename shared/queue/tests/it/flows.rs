//! apalis-workflow and apalis-cron on this store.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use apalis_core::{
    backend::TaskSink,
    error::BoxDynError,
    task::{data::Data, task_fn::task_fn},
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_cron::{CronScheduler, Schedule, Tick, timezone::Utc};
use apalis_fred::{FredStorage, JobFilter, NewJob, Queue, WorkerOptions};
use apalis_workflow::{GraphFlow, SteppedFlow, WorkflowSink};
use parking_lot::Mutex;

use crate::redis::{Server, eventually};

type Seen = Arc<Mutex<Vec<u32>>>;

#[tokio::test]
async fn a_chain_passes_each_result_on_to_the_next_step() {
    let server = Server::start().await;
    let queue = server.queue("flows").await;
    let seen = Seen::default();
    let flow = SteppedFlow::new("chain")
        .and_then(async |input: u32| input + 1)
        .delay_for(Duration::from_millis(20))
        .and_then(async |input: u32| Ok::<_, BoxDynError>(input.to_string()))
        .and_then(async |input: String, seen: Data<Seen>| {
            seen.lock().push(input.parse().unwrap());
        });
    let mut storage = FredStorage::<u32>::of_kind(queue, "chain", WorkerOptions::default()).unwrap();
    storage.push(41).await.unwrap();
    let context = WorkerContext::new("flow");
    let worker = WorkerBuilder::new(&context).backend(storage).data(Arc::clone(&seen)).build(flow);
    let task = tokio::spawn(async move { worker.run().await.unwrap() });
    eventually("all steps ran", || async { *seen.lock() == [42] }).await;
    context.stop().unwrap();
    task.await.unwrap();
}

#[tokio::test]
async fn a_graph_fans_out_and_its_collector_gets_all_results() {
    let server = Server::start().await;
    let queue = server.queue("flows").await;
    let seen = Seen::default();
    let graph = GraphFlow::new("chord");
    let source = graph.add_node("source", task_fn(|n: u32| async move { n }));
    let plus = graph.add_node("plus", task_fn(|n: u32| async move { n + 1 })).depends_on(&source);
    let double = graph.add_node("double", task_fn(|n: u32| async move { n * 2 })).depends_on(&source);
    let square = graph.add_node("square", task_fn(|n: u32| async move { n * n })).depends_on(&source);
    let _collect = graph
        .add_node(
            "collect",
            task_fn(|all: (u32, u32, u32), seen: Data<Seen>| async move {
                seen.lock().push(all.0 + all.1 + all.2);
                0u32
            }),
        )
        .depends_on((&plus, &double, &square));
    let mut storage = FredStorage::<Vec<u8>>::of_kind(queue, "chord", WorkerOptions::default()).unwrap();
    storage.push_start(5).await.unwrap();
    let context = WorkerContext::new("flow");
    let worker = WorkerBuilder::new(&context).backend(storage).data(Arc::clone(&seen)).build(graph);
    let task = tokio::spawn(async move { worker.run().await.unwrap() });
    eventually("collected", || async { *seen.lock() == [6 + 10 + 25] }).await;
    context.stop().unwrap();
    task.await.unwrap();
}

/// Every full second.
struct Seconds(u64);

impl Schedule<Utc> for Seconds {
    fn next_tick(&mut self, _: &Utc) -> Option<Tick<Utc>> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        self.0 = (self.0 + 1).max(now + 1);
        Some(Tick::new(self.0))
    }
}

async fn fire(tick: Tick<Utc>, queue: Data<Queue>) -> Result<(), BoxDynError> {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(tick.get_timestamp());
    queue.push(NewJob::raw("report", tick.get_timestamp().to_string())?.tick("report", at)).await?;
    Ok(())
}

#[tokio::test]
async fn a_schedule_on_three_workers_fires_once_a_tick() {
    let server = Server::start().await;
    let queue = server.queue("cron").await;
    let workers: Vec<_> = (0..3)
        .map(|n| {
            let context = WorkerContext::new(&format!("cron-{n}"));
            let scheduler = CronScheduler::new(Seconds(0));
            let worker = WorkerBuilder::new(&context).backend(scheduler).data(queue.clone()).build(fire);
            (context, tokio::spawn(async move { worker.run().await.unwrap() }))
        })
        .collect();
    eventually("three ticks", || async { queue.stats().await.unwrap().available >= 3 }).await;
    for (context, task) in workers {
        context.stop().unwrap();
        task.await.unwrap();
    }
    let jobs = queue.jobs(&JobFilter::default()).await.unwrap().jobs;
    let ticks: BTreeSet<String> = jobs.iter().map(|job| job.payload.clone()).collect();
    assert_eq!(ticks.len(), jobs.len(), "{ticks:?}");
}
