//! Why a job does not run, case by case. What a newer version and an unknown key say is tested with them.

use std::time::Duration;

use apalis_fred::{JobId, Queue, WorkerOptions};

use crate::{
    redis::{Server, eventually},
    worker::{Act, act, start},
};

async fn why(queue: &Queue, id: JobId) -> String {
    queue.explain(&id).await.unwrap().unwrap().reasons.join("; ")
}

#[tokio::test]
async fn a_running_job_says_who_runs_it_since_when_and_that_it_is_to_be_cancelled() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions { cancel_grace: Duration::from_secs(600), ..WorkerOptions::default() });
    let id = queue.push(act(Act::Hang, "a")).await.unwrap().id;
    eventually("told", || async { why(&queue, id).await.contains("runs attempt 1 since ") }).await;
    let (number, pid) = (queue.workers().await.unwrap()[0].number, std::process::id());
    assert!(why(&queue, id).await.starts_with(&format!("worker player (number {number}, pid {pid})")));
    // As a cancel does, but for telling the worker: what is asked for and not done yet.
    let client = server.client().await;
    let command = fred::types::CustomCommand::new_static("SADD", fred::types::ClusterHash::FirstKey, false);
    let args: Vec<fred::types::Value> =
        vec!["aq:{q}:cancels".into(), fred::types::Value::Bytes(id.ulid().to_bytes().to_vec().into())];
    let _: i64 = fred::interfaces::ClientLike::custom(&client, command, args).await.unwrap();
    assert!(why(&queue, id).await.contains("its cancel was asked for"));
    queue.cancel(&id).await.unwrap();
    eventually("cancelled", || async { why(&queue, id).await.contains("it was cancelled") }).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_waiting_job_says_that_it_is_limited_capped_paused_or_behind_others() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    queue.cap_groups(Some(1)).await.unwrap();
    let options = WorkerOptions { concurrency: 2, cancel_grace: Duration::ZERO, ..WorkerOptions::default() };
    let worker = start(&queue, options);
    let first = queue.push(act(Act::Hang, "a").group("g")).await.unwrap().id;
    let capped = queue.push(act(Act::Hang, "a").group("g")).await.unwrap().id;
    eventually("capped", || async {
        why(&queue, capped).await.contains("its group g runs as many jobs as a group may (1)")
    })
    .await;
    queue.limit_rate(0.001, 1).await.unwrap();
    let spends = queue.push(act(Act::Succeed, "b")).await.unwrap().id;
    queue.wait(spends).await.unwrap();
    let limited = queue.push(act(Act::Succeed, "b")).await.unwrap().id;
    let reasons = why(&queue, limited).await;
    assert!(reasons.contains("the queue starts at most 0.001 jobs a second, the next in 16 min"), "{reasons}");
    assert!(reasons.contains("it waits its turn among 1 other available jobs"), "{reasons}");
    queue.pause().await.unwrap();
    let later = queue.push(act(Act::Succeed, "b").run_in(Duration::from_secs(3600))).await.unwrap().id;
    let reasons = why(&queue, later).await;
    assert!(reasons.contains("it is scheduled and due in") && reasons.contains("the queue is paused"), "{reasons}");
    let other = queue.push(apalis_fred::NewJob::raw("unheard_of", b"{}".to_vec()).unwrap()).await.unwrap().id;
    assert!(why(&queue, other).await.contains("no living worker serves kind unheard_of"));
    for id in [first, capped] {
        queue.cancel(&id).await.unwrap();
    }
    worker.stop().await;
}
