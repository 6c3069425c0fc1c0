//! What docs/LIFECYCLE.md says, held against what is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use apalis_fred::{Queue, QueueOptions, WorkerOptions};

use crate::{
    redis::{Server, eventually},
    worker::{Act, act, start},
};

const LIFECYCLE: &str = include_str!("../../../../docs/LIFECYCLE.md");
const PREFIX: &str = "aq:{q}:";

/// The rows of the table of keys: name up to its variable part, type.
fn documented_keys() -> BTreeMap<String, String> {
    let section = LIFECYCLE.split("## Keys").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut keys = BTreeMap::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let mut columns = row.trim_matches('|').split('|').map(str::trim);
        let (names, kind) = (columns.next().unwrap(), columns.next().unwrap());
        for name in names.split(',') {
            let name = name.trim().trim_matches('`');
            keys.insert(name.split('<').next().unwrap().to_owned(), kind.to_owned());
        }
    }
    assert!(keys.len() > 20, "{keys:?}");
    keys
}

/// Rows and types of all keys, asked for in a script because some names are no text.
const ROWS: &str = "local out = {} \
    for _, key in ipairs(redis.call('KEYS', '*')) do \
      if string.sub(key, 1, #ARGV[1]) == ARGV[1] then \
        out[#out + 1] = string.match(string.sub(key, #ARGV[1] + 1), '^[^:]*:?') \
        out[#out + 1] = redis.call('TYPE', key).ok \
      end \
    end \
    return out";

/// What is there and not in the table, or as another type; notes all that is there in `seen`.
async fn undocumented(server: &Server, seen: &mut BTreeSet<String>) -> Vec<String> {
    let documented = documented_keys();
    let rows: Vec<String> = server.command(&["EVAL", ROWS, "0", PREFIX]).await;
    let mut wrong = Vec::new();
    for pair in rows.chunks(2) {
        seen.insert(pair[0].clone());
        if documented.get(&pair[0]) != Some(&pair[1]) {
            wrong.push(format!("{}: {}", pair[0], pair[1]));
        }
    }
    wrong
}

async fn settled(queue: &Queue, completed: u64) {
    eventually("settled", || async { queue.stats().await.unwrap().completed == completed }).await;
}

#[tokio::test]
async fn every_key_is_in_the_table_with_its_type() {
    let server = Server::start().await;
    let queue = server.queue_with("q", QueueOptions { lease: Duration::from_secs(1), ..QueueOptions::default() }).await;
    let mut seen = BTreeSet::new();
    queue.cap_groups(Some(1)).await.unwrap();
    queue.limit_rate(1_000.0, 1_000).await.unwrap();
    let cancelled = queue.push(act(Act::Succeed, "gone")).await.unwrap().id;
    queue.cancel(&cancelled).await.unwrap();
    queue.push(act(Act::Succeed, "later").run_in(Duration::from_secs(3600))).await.unwrap();
    assert_eq!(undocumented(&server, &mut seen).await, Vec::<String>::new());
    let worker = start(&queue, WorkerOptions::default());
    queue.push(act(Act::Abort, "dead")).await.unwrap();
    queue.push(act(Act::RetryAfter(3_600_000), "retry")).await.unwrap();
    queue.push(act(Act::Return("x".into()), "result")).await.unwrap();
    let hang = act(Act::Hang, "hang").group("g").unique("key", apalis_fred::Unique::UntilDone);
    let hang = queue.push(hang).await.unwrap().id;
    queue.push(act(Act::Succeed, "parked").group("g")).await.unwrap();
    settled(&queue, 1).await;
    eventually("running", || async { worker.log.of("hang").len() == 1 }).await;
    assert_eq!(undocumented(&server, &mut seen).await, Vec::<String>::new());
    queue.cancel(&hang).await.unwrap();
    settled(&queue, 2).await;
    assert_eq!(undocumented(&server, &mut seen).await, Vec::<String>::new());
    worker.stop().await;
    for row in [
        "jobs",
        "q:",
        "r:",
        "sched",
        "retry",
        "lease",
        "done",
        "cancelled",
        "dead",
        "err",
        "prog",
        "res:",
        "u:",
        "w:",
        "cfg",
    ] {
        assert!(seen.contains(row), "the test never saw {row}: {seen:?}");
    }
}

/// The names in LIFECYCLE's last table are tests that exist.
#[test]
fn every_promise_names_tests_that_exist() {
    let section = LIFECYCLE.split("## Shown by").nth(1).unwrap().split("\n## ").next().unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut named = 0;
    for name in section.split('`').skip(1).step_by(2).filter(|name| name.contains("::")) {
        let (file, test) = name.split_once("::").unwrap();
        let text = std::fs::read_to_string(folder.join(format!("{file}.rs"))).unwrap();
        assert!(text.contains(&format!("fn {test}(")), "there is no test {name}");
        named += 1;
    }
    assert!(named > 20, "{named}");
}

#[tokio::test]
async fn jobs_of_a_group_run_in_the_order_of_their_pushes_and_returned_ones_before_all_others() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    for label in ["hang", "b", "c", "d"] {
        let what = if label == "hang" { Act::Hang } else { Act::Succeed };
        queue.push(act(what, label)).await.unwrap();
    }
    let options = WorkerOptions {
        concurrency: 1,
        shutdown_grace: Duration::ZERO,
        cancel_grace: Duration::ZERO,
        ..WorkerOptions::default()
    };
    let first = start(&queue, options.clone());
    eventually("running", || async { first.log.of("hang").len() == 1 }).await;
    first.stop().await;
    assert_eq!(queue.stats().await.unwrap().available, 4);
    let second = start(&queue, options);
    eventually("running", || async { second.log.of("hang").len() == 1 }).await;
    let page = queue.jobs(&apalis_fred::JobFilter::in_state(apalis_fred::State::Running)).await.unwrap();
    queue.cancel(&page.jobs[0].id).await.unwrap();
    eventually("all ran", || async { second.log.0.lock().len() == 4 }).await;
    let order: Vec<String> = second.log.0.lock().iter().map(|(label, _)| label.clone()).collect();
    assert_eq!(order, ["hang", "b", "c", "d"]);
    second.stop().await;
}
