//! apalis's optional traits.

use std::time::Duration;

use apalis_core::{
    backend::{
        Expose, FetchById, Filter, ListAllTasks, ListQueues, ListTasks, ListWorkers, Metrics, RegisterWorker,
        Reschedule, ResumeAbandoned, ResumeById, TaskSink, Update, Vacuum, WaitForCompletion, factory::BackendFactory,
        finalize::Durable,
    },
    task::{builder::TaskBuilder, status::Status, task_id::TaskId},
};
use apalis_fred::{FredStorage, State, WorkerOptions};
use futures::TryStreamExt;

use crate::{
    redis::{Server, eventually},
    worker::{Act, Play, act, start},
};

fn offers_all_that_a_board_asks_for<T: Expose<Play, Durable> + RegisterWorker>(_: &T) {}

#[tokio::test]
async fn tasks_are_pushed_fetched_updated_rescheduled_resumed_and_listed_through_apalis() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let mut storage: FredStorage<Play> = queue.clone().create().unwrap();
    storage.register_worker("its own name".to_owned()).await.unwrap();
    offers_all_that_a_board_asks_for(&storage);
    let play = |label: &str| Play { act: Act::Succeed, label: label.to_owned() };
    storage.push(play("one")).await.unwrap();
    storage.push_bulk((0..1_500).map(|n| play(&n.to_string())).collect()).await.unwrap();
    let id = TaskId::from_ulid(ulid::Ulid::generate());
    let task = TaskBuilder::new(play("later"))
        .task_id(id.clone())
        .run_in_hours(1)
        .priority(2)
        .max_attempts(9)
        .idempotency_key("k")
        .build();
    storage.push_task(task).await.unwrap();
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.available, stats.scheduled), (1_501, 1));

    let mut task = storage.fetch_by_id(&id).await.unwrap().unwrap();
    assert_eq!((task.max_attempts(), task.idempotency_key(), task.status()), (Some(9), Some("k"), Status::Pending));
    assert!(storage.fetch_by_id(&TaskId::from_ulid(ulid::Ulid::generate())).await.unwrap().is_none());
    task.args = serde_json::to_vec(&play("changed")).unwrap();
    storage.update(task.clone()).await.unwrap();
    assert!(queue.job(&id.to_string().parse().unwrap()).await.unwrap().unwrap().payload.contains("changed"));
    storage.reschedule(task, Duration::from_secs(7200)).await.unwrap();
    assert!(storage.resume_by_id(id.clone()).await.unwrap());
    assert_eq!(queue.job(&id.to_string().parse().unwrap()).await.unwrap().unwrap().state, State::Available);
    assert_eq!(storage.resume_abandoned().await.unwrap(), 0);

    let filter = Filter { status: Some(Status::Pending), page: 2, page_size: Some(10) };
    assert_eq!(storage.list_tasks(&filter).await.unwrap().len(), 10);
    assert_eq!(storage.list_all_tasks(&filter).await.unwrap().len(), 10);
    let worker = start(&queue, WorkerOptions { concurrency: 100, ..WorkerOptions::default() });
    eventually("all ran", || async { queue.stats().await.unwrap().completed == 1_502 }).await;
    eventually("listed", || async { storage.list_workers().await.unwrap().len() == 1 }).await;
    assert_eq!(storage.list_all_workers().await.unwrap()[0].queue, "q");
    let queues = ListQueues::list_queues(&storage).await.unwrap();
    assert_eq!((queues.len(), queues[0].name.as_str(), queues[0].activity.iter().sum::<usize>()), (1, "q", 1_502));
    assert!(storage.global().await.unwrap().iter().any(|s| s.title == "DONE_JOBS" && s.value == "1502"));
    assert!(!storage.fetch_by_queue().await.unwrap().is_empty());
    worker.stop().await;
    assert_eq!(storage.vacuum_before(Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(storage.vacuum().await.unwrap(), 1_502);
}

#[tokio::test]
async fn pages_of_all_queues_show_each_job_once() {
    let server = Server::start().await;
    let mut pushed = std::collections::BTreeSet::new();
    for (name, count) in [("a", 7), ("b", 0), ("c", 5), ("d", 11)] {
        let jobs = (0..count).map(|_| act(Act::Succeed, name)).collect();
        let ids = server.queue(name).await.push_all(jobs).await.unwrap();
        pushed.extend(ids.into_iter().map(|pushed| pushed.id.to_string()));
    }
    let storage = FredStorage::<Play>::new(server.queue("a").await, WorkerOptions::default());
    let mut seen = Vec::new();
    for page in 1..=7 {
        let filter = Filter { status: Some(Status::Pending), page, page_size: Some(4) };
        let tasks = storage.list_all_tasks(&filter).await.unwrap();
        assert_eq!(tasks.len(), [4, 4, 4, 4, 4, 3, 0][page as usize - 1], "page {page}");
        seen.extend(tasks.iter().map(|task| task.task_id().unwrap().to_string()));
    }
    assert_eq!(seen.len(), pushed.len());
    assert_eq!(seen.into_iter().collect::<std::collections::BTreeSet<_>>(), pushed);
}

#[tokio::test]
async fn waiting_for_jobs_ends_with_their_results_by_notification() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let mut storage = FredStorage::<Play>::new(queue.clone(), WorkerOptions::default());
    let jobs = vec![act(Act::Return("yes".into()), "a"), act(Act::Abort, "b"), act(Act::Succeed, "c")];
    let ids: Vec<_> = queue.push_all(jobs).await.unwrap().into_iter().map(|p| TaskId::from_ulid(p.id.ulid())).collect();
    let waiting: <FredStorage<Play> as WaitForCompletion<Option<String>>>::ResultStream = storage.wait_for(ids.clone());
    let checked: Vec<apalis_core::backend::TaskResult<Option<String>>> =
        storage.check_status(ids.clone()).await.unwrap();
    assert!(checked.is_empty());
    let worker = start(&queue, WorkerOptions::default());
    let mut results: Vec<_> = waiting.try_collect().await.unwrap();
    results.sort_by_key(|result| ids.iter().position(|id| *id == result.task_id));
    assert_eq!(results[0].result, Ok(Some("yes".to_owned())));
    assert_eq!((results[1].status.clone(), results[1].result.is_err()), (Status::Killed, true));
    assert_eq!(results[2].result, Ok(None));
    worker.stop().await;
}
