//! Jobs, page by page.

use std::{collections::BTreeSet, time::Duration};

use apalis_fred::{JobFilter, JobId, NewJob, Queue, QueueError, State, WorkerOptions};

use crate::{
    ends::calls_of,
    redis::{Server, eventually},
    worker::{Act, act, start},
};

/// All jobs of a state, each once, and how many pages they took.
async fn list(queue: &Queue, state: State, limit: usize) -> (BTreeSet<JobId>, usize) {
    let mut filter = JobFilter { limit, ..JobFilter::in_state(state) };
    let (mut seen, mut pages) = (BTreeSet::new(), 0);
    loop {
        let page = queue.jobs(&filter).await.unwrap();
        assert!(page.jobs.len() <= limit);
        pages += 1;
        for job in page.jobs {
            assert!(seen.insert(job.id), "{} came twice", job.id);
        }
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            return (seen, pages);
        }
    }
}

fn ids(pushed: Vec<apalis_fred::Pushed>) -> BTreeSet<JobId> {
    pushed.into_iter().map(|pushed| pushed.id).collect()
}

fn job(kind: &str) -> NewJob {
    NewJob::raw(kind, b"{}".to_vec()).unwrap()
}

#[tokio::test]
async fn jobs_are_listed_by_state_kind_and_group_and_page_by_page() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let jobs = (0..250).map(|n| job(if n % 2 == 0 { "even" } else { "odd" }).group(format!("g{}", n % 5))).collect();
    let pushed = ids(queue.push_all(jobs).await.unwrap());
    assert_eq!(list(&queue, State::Available, 7).await, (pushed, 250usize.div_ceil(7)));
    let later = (0..450).map(|_| job("even").run_in(Duration::from_secs(600))).collect();
    let later = ids(queue.push_all(later).await.unwrap());
    assert_eq!(list(&queue, State::Scheduled, 100).await.0, later);
    let odd = JobFilter { kind: Some("odd".into()), group: Some("g1".into()), limit: 1000, ..JobFilter::default() };
    assert_eq!(queue.jobs(&odd).await.unwrap().jobs.len(), 25);
}

#[tokio::test]
async fn jobs_of_thousands_of_groups_are_listed_in_few_calls() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let n = 3_000;
    let jobs = (0..n).map(|n| job("a").group(format!("tenant-{n}"))).chain((0..n).map(|_| job("b"))).collect();
    let pushed = ids(queue.push_all(jobs).await.unwrap());
    let before = [calls_of(&server, "evalsha").await, calls_of(&server, "lrange").await];
    assert_eq!(list(&queue, State::Available, 1_000).await.0, pushed);
    let calls = calls_of(&server, "evalsha").await - before[0];
    // 200 ids or groups a call, once to find them and once to read them, and some begun again at a page's end.
    assert!(calls <= 90, "{calls} calls for {} jobs", pushed.len());
    // One for each group, and one for each part of the rotation: not the whole of it for each group.
    let reads = calls_of(&server, "lrange").await - before[1];
    assert!(reads <= 2 * n, "{reads} reads");
}

#[tokio::test]
async fn jobs_of_groups_at_their_cap_are_listed_with_the_others() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    queue.cap_groups(Some(1)).await.unwrap();
    let options = WorkerOptions { concurrency: 300, shutdown_grace: Duration::ZERO, ..WorkerOptions::default() };
    let groups = 250;
    let jobs = (0..groups * 3).map(|n| act(Act::Hang, "a").group(format!("g{}", n % groups))).collect();
    let mut waiting = ids(queue.push_all(jobs).await.unwrap());
    let worker = start(&queue, options);
    eventually("one of each runs", || async { worker.log.of("a").len() == groups }).await;
    for id in list(&queue, State::Running, 1_000).await.0 {
        assert!(waiting.remove(&id));
    }
    let parked: i64 = server.command(&["HLEN", "aq:{q}:parked"]).await;
    assert_eq!((parked, waiting.len()), (groups as i64, groups * 2));
    for limit in [7, 1_000] {
        assert_eq!(list(&queue, State::Available, limit).await.0, waiting);
    }
    worker.stop().await;
}

#[tokio::test]
async fn a_cursor_from_elsewhere_is_refused() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    queue.push(job("a")).await.unwrap();
    let numbers = format!("1.0.0.{}.0", u64::MAX);
    for cursor in ["", "x", "-1", "1.0.0", "0.0.0.0.0", "1.0.0.0.0.0", "1.0.0.0.-1", "1.0.x.0.0", &numbers] {
        for state in State::ALL {
            // A plain number is where the others go on.
            let filter = JobFilter { cursor: Some(cursor.to_owned()), ..JobFilter::in_state(state) };
            let refused = queue.jobs(&filter).await.unwrap_err();
            assert!(matches!(refused, QueueError::InvalidName { .. }), "{cursor}: {refused:?}");
        }
    }
    for (state, cursor) in [(State::Available, "9.1.18446744073709551615.4294967295.7"), (State::Dead, "4294967295")] {
        let filter = JobFilter { cursor: Some(cursor.to_owned()), ..JobFilter::in_state(state) };
        assert!(queue.jobs(&filter).await.unwrap().jobs.is_empty(), "behind the end");
    }
}
