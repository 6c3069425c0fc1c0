//! Sealed payloads.

use apalis_core::{
    backend::{FetchById, Update},
    task::task_id::TaskId,
};
use apalis_fred::{FredStorage, KeyRing, NewJob, Queue, QueueError, QueueOptions, State, WorkerOptions};

use crate::{
    redis::{Server, eventually},
    worker::{Act, Play, act, start},
};

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];

async fn queue(server: &Server, keys: Option<KeyRing>) -> Queue {
    server.queue_with("q", QueueOptions { keys, ..QueueOptions::default() }).await
}

fn ring(id: &str, key: &[u8; 32]) -> Option<KeyRing> {
    Some(KeyRing::new(id, key).unwrap())
}

#[tokio::test]
async fn nothing_of_a_sealed_payload_can_be_read_in_redis_and_its_worker_reads_it() {
    let server = Server::with(&["--save", "", "--appendonly", "yes"]).await;
    let queue = queue(&server, ring("old", &OLD)).await;
    let ids = queue.push_all((0..20).map(|_| act(Act::Succeed, "very-secret")).collect()).await.unwrap();
    let later = act(Act::Succeed, "very-secret")
        .run_in(std::time::Duration::from_secs(3600))
        .unique("u", apalis_fred::Unique::UntilDone);
    let later = queue.push(later).await.unwrap().id;
    for id in [ids[0].id, later] {
        let job = queue.job(&id).await.unwrap().unwrap();
        assert_eq!(job.sealed_with.as_deref(), Some("old"));
        assert!(job.payload.contains("very-secret"), "a handle with the key reads it: {job:?}");
    }
    let stored: Vec<fred::types::Value> = server.command(&["HVALS", "aq:{q}:jobs"]).await;
    assert_eq!(stored.len(), 21);
    for record in &stored {
        let raw = record.as_bytes().unwrap();
        assert!(!raw.windows(11).any(|part| part == b"very-secret") && !raw.windows(7).any(|part| part == b"Succeed"));
    }
    let worker = start(&queue, WorkerOptions::default());
    eventually("all ran", || async { worker.log.of("very-secret").len() == 20 }).await;
    worker.stop().await;
    let blind = server.queue("q").await.job(&later).await.unwrap().unwrap();
    assert_eq!((blind.payload.as_str(), blind.sealed_with.as_deref()), ("", Some("old")));
}

#[tokio::test]
async fn after_a_rotation_old_jobs_still_open_and_new_ones_have_the_new_key() {
    let server = Server::start().await;
    let before = queue(&server, ring("old", &OLD)).await;
    let old = before.push(act(Act::Succeed, "old")).await.unwrap().id;
    let after = queue(&server, Some(KeyRing::new("new", &NEW).unwrap().knows("old", &OLD).unwrap())).await;
    let new = after.push(act(Act::Succeed, "new")).await.unwrap().id;
    let plain = server.queue("q").await.push(act(Act::Succeed, "plain")).await.unwrap().id;
    let key = async |id| after.job(&id).await.unwrap().unwrap().sealed_with;
    assert_eq!(
        (key(old).await.as_deref(), key(new).await.as_deref(), key(plain).await),
        (Some("old"), Some("new"), None)
    );
    let worker = start(&after, WorkerOptions::default());
    for id in [old, new, plain] {
        assert_eq!(after.wait(id).await.unwrap().state, Some(State::Completed));
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_job_whose_key_a_worker_does_not_have_is_handed_back_unspent() {
    let server = Server::start().await;
    let sealed = queue(&server, ring("new", &NEW)).await;
    let id = sealed.push(act(Act::Succeed, "a").max_attempts(1)).await.unwrap().id;
    let (blind, old) = (server.queue("q").await, queue(&server, ring("old", &OLD)).await);
    for lacking in [&blind, &old] {
        let worker = start(lacking, WorkerOptions::default());
        eventually("handed back", || async {
            let handed_back = lacking.job(&id).await.unwrap().unwrap().state == State::Scheduled;
            let why = lacking.explain(&id).await.unwrap().unwrap().reasons.join("; ");
            handed_back && why.contains("its payload is sealed and no worker of kind play has key new")
        })
        .await;
        assert!(worker.log.of("a").is_empty());
        worker.stop().await;
    }
    let job = sealed.job(&id).await.unwrap().unwrap();
    assert_eq!((job.attempts, job.error), (0, None));
    let worker = start(&sealed, WorkerOptions::default());
    assert_eq!(sealed.wait(id).await.unwrap().state, Some(State::Completed));
    worker.stop().await;
}

#[tokio::test]
async fn a_payload_that_was_changed_moved_or_sealed_with_another_key_of_that_name_does_not_run() {
    let server = Server::start().await;
    let queue = queue(&server, ring("k", &NEW)).await;
    let jobs = queue.push_all((0..3).map(|_| act(Act::Succeed, "a").max_attempts(1)).collect()).await.unwrap();
    // The first gets the second's payload, in the second one byte is another, the third was sealed with another key.
    let tamper = r"
        local ids = redis.call('LRANGE', KEYS[2], 0, 1)
        local first, second = redis.call('HGET', KEYS[1], ids[1]), redis.call('HGET', KEYS[1], ids[2])
        redis.call('HSET', KEYS[1], ids[1], second)
        return redis.call('HSET', KEYS[1], ids[2], string.sub(first, 1, -7) .. 'x' .. string.sub(first, -5))";
    let _: i64 = server.command(&["EVAL", tamper, "2", "aq:{q}:jobs", "aq:{q}:q:n:play:"]).await;
    let impostor = server.queue_with("q", QueueOptions { keys: ring("k", &OLD), ..QueueOptions::default() }).await;
    let third = serde_json::to_vec(&"a").unwrap();
    assert!(impostor.update_payload(&jobs[2].id, third.into()).await.unwrap());
    let worker = start(&queue, WorkerOptions::default());
    for job in &jobs {
        let outcome = queue.wait(job.id).await.unwrap();
        assert_eq!(outcome.state, Some(State::Dead));
        assert!(outcome.error.unwrap().message.contains("do not open with key k"));
    }
    assert!(worker.log.of("a").is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn what_is_said_of_sealed_arguments_that_cannot_be_read_quotes_none_of_them() {
    let server = Server::start().await;
    let queue = queue(&server, ring("k", &NEW)).await;
    let unreadable = || NewJob::raw("play", br#"{"act":"very-secret","label":"a"}"#.to_vec()).unwrap().max_attempts(1);
    let worker = start(&queue, WorkerOptions::default());
    let sealed = queue.push(unreadable()).await.unwrap().id;
    let message = queue.wait(sealed).await.unwrap().error.unwrap().message;
    assert!(message.contains("sealed arguments: Data error at line 1") && !message.contains("secret"), "{message}");
    let plain = server.queue("q").await.push(unreadable()).await.unwrap().id;
    let message = queue.wait(plain).await.unwrap().error.unwrap().message;
    assert!(message.contains("very-secret"), "{message}");
    worker.stop().await;
}

#[tokio::test]
async fn a_handle_without_the_key_can_neither_replace_a_sealed_payload_nor_fetch_the_job_to_do_so() {
    let server = Server::start().await;
    let sealed = queue(&server, ring("new", &NEW)).await;
    let id = sealed.push(act(Act::Succeed, "a").run_in(std::time::Duration::from_secs(3600))).await.unwrap().id;
    let task = TaskId::from_ulid(id.ulid());
    let refused = |error| matches!(error, QueueError::Sealed { key } if key == "new");
    for lacking in [server.queue("q").await, queue(&server, ring("old", &OLD)).await] {
        assert!(refused(lacking.update_payload(&id, "null".into()).await.unwrap_err()));
        let mut storage = FredStorage::<Play>::new(lacking.clone(), WorkerOptions::default());
        assert!(refused(storage.fetch_by_id(&task).await.unwrap_err()));
        assert!(!lacking.job(&id).await.unwrap().unwrap().is_open);
    }
    let job = sealed.job(&id).await.unwrap().unwrap();
    assert!(job.is_open && job.payload.contains("Succeed"), "{job:?}");
    let mut storage = FredStorage::<Play>::new(sealed.clone(), WorkerOptions::default());
    let mut fetched = storage.fetch_by_id(&task).await.unwrap().unwrap();
    fetched.args = b"\"other\"".to_vec();
    storage.update(fetched).await.unwrap();
    let job = sealed.job(&id).await.unwrap().unwrap();
    assert_eq!((job.payload.as_str(), job.sealed_with.as_deref()), ("\"other\"", Some("new")));
}
