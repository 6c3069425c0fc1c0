//! The handle: pushing, looking, changing.

use std::time::Duration;

use apalis_fred::{CancelOutcome, FullReason, NewJob, Priority, QueueError, QueueOptions, State, Unique, list_queues};

use crate::redis::Server;

fn job(kind: &str) -> NewJob {
    NewJob::raw(kind, b"{\"n\":1}".to_vec()).unwrap()
}

#[tokio::test]
async fn a_pushed_job_is_available_and_says_what_it_is() {
    let server = Server::start().await;
    let queue = server.queue("mail").await;
    let new = job("send")
        .priority(Priority::High)
        .group("ada")
        .max_attempts(7)
        .timeout(Duration::from_secs(9))
        .meta("traceparent", "00-1");
    let pushed = queue.push(new).await.unwrap();
    assert!(!pushed.is_duplicate);
    let found = queue.job(&pushed.id).await.unwrap().unwrap();
    assert_eq!(found.state, State::Available);
    assert_eq!((found.kind.as_str(), found.group.as_str(), found.max_attempts), ("send", "ada", 7));
    assert_eq!((found.priority, found.timeout, found.attempts), (Priority::High, Some(Duration::from_secs(9)), 0));
    assert_eq!(found.meta["traceparent"], "00-1");
    assert_eq!(found.payload, "{\"n\":1}");
    assert_eq!(queue.stats().await.unwrap().available, 1);
    assert_eq!(list_queues(&server.client().await, "aq:").await.unwrap(), vec!["mail".parse().unwrap()]);
}

#[tokio::test]
async fn a_unique_key_admits_one_job_and_tells_its_id() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let first = queue.push(job("a").unique("k", Unique::UntilDone)).await.unwrap();
    let second = queue.push(job("a").unique("k", Unique::UntilDone)).await.unwrap();
    assert_eq!((second.id, second.is_duplicate), (first.id, true));
    // In one batch, too, and beside plain jobs whose answers must not be mixed up.
    let batch = queue
        .push_all(vec![job("a"), job("a").unique("k", Unique::UntilDone), job("a").unique("other", Unique::UntilDone)])
        .await
        .unwrap();
    assert_eq!(batch.iter().map(|p| p.is_duplicate).collect::<Vec<_>>(), vec![false, true, false]);
    assert_eq!(batch[1].id, first.id);
    // Its end frees the key.
    assert_eq!(queue.cancel(&first.id).await.unwrap(), CancelOutcome::Cancelled);
    assert!(!queue.push(job("a").unique("k", Unique::UntilDone)).await.unwrap().is_duplicate);
    // A window outlives its job.
    let windowed = queue.push(job("a").unique("w", Unique::For(Duration::from_secs(600)))).await.unwrap();
    assert!(queue.delete(&windowed.id).await.unwrap());
    assert!(queue.push(job("a").unique("w", Unique::For(Duration::from_secs(600)))).await.unwrap().is_duplicate);
}

#[tokio::test]
async fn the_same_job_pushed_again_is_stored_once() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let new = job("a").run_in(Duration::from_secs(60));
    let first = queue.push(new.clone()).await.unwrap();
    assert_eq!(queue.push(new).await.unwrap(), first);
    assert_eq!(queue.stats().await.unwrap().scheduled, 1);
}

#[tokio::test]
async fn cancel_retry_delete_and_reschedule_move_a_job_and_leave_no_ghost_behind() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let id = queue.push(job("a")).await.unwrap().id;
    let state = || async { queue.job(&id).await.unwrap().map(|job| job.state) };
    assert_eq!(queue.cancel(&id).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(queue.cancel(&id).await.unwrap(), CancelOutcome::AlreadyOver);
    assert_eq!(state().await, Some(State::Cancelled));
    assert!(queue.retry(&id).await.unwrap());
    assert!(!queue.retry(&id).await.unwrap(), "an available job needs no retry");
    assert_eq!(state().await, Some(State::Available));
    assert!(queue.reschedule(&id, Duration::from_secs(100)).await.unwrap());
    assert_eq!(state().await, Some(State::Scheduled));
    assert!(queue.retry(&id).await.unwrap());
    // One entry in the list, however often it came and went.
    assert_eq!(server.command::<i64>(&["LLEN", "aq:{q}:q:n:a:"]).await, 1);
    assert!(queue.delete(&id).await.unwrap());
    assert_eq!(state().await, None);
    assert_eq!(queue.cancel(&id).await.unwrap(), CancelOutcome::NotFound);
    assert_eq!(queue.stats().await.unwrap().available, 0);
}

#[tokio::test]
async fn a_full_queue_says_so() {
    let server = Server::start().await;
    let queue = server.queue_with("q", QueueOptions { max_depth: Some(3), ..QueueOptions::default() }).await;
    queue.push_all(vec![job("a"), job("a"), job("a")]).await.unwrap();
    let error = queue.push(job("a")).await.unwrap_err();
    assert!(matches!(error, QueueError::Full { reason: FullReason::Depth { waiting: 3, most: 3 }, .. }), "{error:?}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn a_push_that_cannot_be_stored_is_an_error() {
    let mut server = Server::start().await;
    let options = QueueOptions { command_timeout: Duration::from_millis(500), ..QueueOptions::default() };
    let queue = server.queue_with("q", options).await;
    server.queue("q").await.push(job("a")).await.unwrap();
    server.kill();
    let error = queue.push(job("a")).await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn redis_without_memory_refuses_pushes_and_says_that_it_may_pass() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    queue.push(job("a")).await.unwrap();
    let _: () = server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = queue.push(job("a")).await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error:?}");
    let _: () = server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    queue.push(job("a")).await.unwrap();
}
