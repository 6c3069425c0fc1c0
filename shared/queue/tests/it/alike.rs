//! The short scripts of the commonest push and of a resting worker's claim leave in Redis exactly what the long ones do.

use std::{collections::BTreeMap, time::Duration};

use apalis_fred::{JobId, NewJob, Priority, Queue, QueueOptions};
use fred::{
    prelude::*,
    types::{CustomCommand, Key},
};

use crate::redis::Server;

/// Numbers below what is asked for, the same for the same seed (Marsaglia's xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Everything under a queue's prefix, but for times, which differ.
async fn dump(client: &Client, queue: &str) -> BTreeMap<String, String> {
    let prefix = format!("aq:{{{queue}}}:");
    let (_, keys): (String, Vec<String>) =
        client.scan_page("0", format!("{prefix}*"), Some(100_000), None).await.unwrap();
    let mut found = BTreeMap::new();
    for key in keys {
        let kind: String = client.r#type(&key).await.unwrap();
        let name = key.strip_prefix(&prefix).unwrap().to_owned();
        let content = match kind.as_str() {
            "string" => format!("{:?}", client.get::<Value, _>(&key).await.unwrap()),
            "list" => format!("{:?}", client.lrange::<Vec<Value>, _>(&key, 0, -1).await.unwrap()),
            "hash" => {
                let fields: BTreeMap<Key, Value> = client.hgetall(&key).await.unwrap();
                let timeless = fields.into_iter().map(|(field, value)| {
                    let is_time = field.as_bytes().starts_with(b"at:");
                    (field, if is_time { "a time".into() } else { value })
                });
                format!("{:?}", timeless.collect::<BTreeMap<_, _>>())
            }
            // Scores are times, and order what they do not.
            "set" | "zset" => {
                let mut members: Vec<Value> = match kind.as_str() {
                    "set" => client.smembers(&key).await.unwrap(),
                    _ => client.zrange(&key, 0, -1, None, false, None, false).await.unwrap(),
                };
                members.sort_by_key(|member| format!("{member:?}"));
                format!("{members:?}")
            }
            other => panic!("{key} is a {other}"),
        };
        found.insert(name, content);
    }
    found
}

async fn both<T: PartialEq + std::fmt::Debug, F: Future<Output = T>>(queues: [&Queue; 2], step: impl Fn(Queue) -> F) {
    let (short, long) = (step(queues[0].clone()).await, step(queues[1].clone()).await);
    assert_eq!(short, long);
}

#[tokio::test]
async fn a_push_by_either_script_leaves_the_same() {
    let server = Server::start().await;
    let client = server.client().await;
    for seed in 1..=24 {
        let mut dice = Dice(0x9e37_79b9 * seed);
        let names = [format!("short-{seed}"), format!("long-{seed}")];
        // A bound, however far away, takes the long way.
        let bounded = QueueOptions { max_depth: Some(1_000_000), ..QueueOptions::default() };
        let queues = [&server.queue(&names[0]).await, &server.queue_with(&names[1], bounded).await];
        let mut pushed: Vec<NewJob> = Vec::new();
        for _ in 0..60 {
            let known = if pushed.is_empty() { None } else { Some(dice.below(pushed.len() as u64) as usize) };
            let id: Option<JobId> = known.map(|known| pushed[known].id());
            match (dice.below(10), known, id) {
                (0, Some(known), _) => {
                    // Again, as when the answer was lost; the job may be gone by now.
                    let job = pushed[known].clone();
                    both(queues, |queue| {
                        let job = job.clone();
                        async move { queue.push(job).await.unwrap() }
                    })
                    .await;
                }
                (1, _, Some(id)) => both(queues, |queue| async move { queue.delete(&id).await.unwrap() }).await,
                (2, _, Some(id)) => both(queues, |queue| async move { queue.cancel(&id).await.unwrap() }).await,
                (3, _, Some(id)) => {
                    let wait = Duration::from_secs(3600);
                    both(queues, |queue| async move { queue.reschedule(&id, wait).await.unwrap() }).await;
                }
                _ => {
                    let priority = [Priority::High, Priority::Normal, Priority::Low][dice.below(3) as usize];
                    let (kind, group) = (format!("kind-{}", dice.below(3)), format!("group-{}", dice.below(4)));
                    let job = NewJob::raw(&kind, b"{}".to_vec()).unwrap().priority(priority).group(group);
                    both(queues, |queue| {
                        let job = job.clone();
                        async move { queue.push(job).await.unwrap() }
                    })
                    .await;
                    pushed.push(job);
                }
            }
        }
        let [short, long] = [dump(&client, &names[0]).await, dump(&client, &names[1]).await];
        assert!(short.len() > 5, "{short:?}");
        assert!(short.keys().eq(long.keys()), "seed {seed}: {:?} and {:?}", short.keys(), long.keys());
        for (key, content) in &short {
            assert_eq!(content, &long[key], "seed {seed}, {key}");
        }
    }
}

/// One of two queues with the same history, and a worker of it that is nothing but its calls.
struct Side<'a> {
    client: &'a Client,
    queue: Queue,
    prefix: String,
    /// Whether the worker tries the short script first, as one that waited does.
    is_short: bool,
}

const WORKER: &str = "1";
const KIND: &str = "kind-0";

impl Side<'_> {
    async fn call(&self, script: &str, args: Vec<Value>) -> Vec<Value> {
        let mut words: Vec<Value> = vec![script.into(), 1.into(), self.prefix.as_str().into()];
        words.extend(args);
        let reply: Value = self.client.custom(CustomCommand::new_static("EVAL", None, false), words).await.unwrap();
        reply.into_array()
    }

    /// Claims at most one job with this token: its id and record. Asks again where an answer leaves that open, as a worker does.
    async fn claim(&self, token: u64) -> Option<(Value, Value)> {
        if self.is_short {
            let args = [WORKER, &token.to_string(), &(token + 1).to_string(), KIND, "1"].map(Value::from);
            let mut reply = self.call(include_str!("../../src/lua/claim.lua"), args.into()).await;
            assert_eq!(reply[0], Value::Integer(0));
            if reply.len() == 3 {
                return Some((reply.remove(1), reply.remove(1)));
            }
            if reply.get(1).is_some_and(|told| *told != Value::Null) {
                // Nothing is there.
                return None;
            }
        }
        loop {
            let mut reply = self.step(token, 1, &[]).await;
            let (mut ids, mut records) = (reply.remove(3).into_array(), reply.remove(3).into_array());
            if let (Some(id), Some(record)) = (ids.pop(), records.pop()) {
                return Some((id, record));
            }
            // What it took from the lists was no job any more.
            if reply[3] != Value::Integer(1) {
                return None;
            }
        }
    }

    async fn step(&self, token: u64, want: u64, ends: &[(Value, u64, &str)]) -> Vec<Value> {
        let text = concat!(
            include_str!("../../src/lua/base.lua"),
            "\n",
            include_str!("../../src/lua/common.lua"),
            "\n",
            include_str!("../../src/lua/step.lua")
        );
        let minute = "60000";
        let (token, want) = (token.to_string(), want.to_string());
        let head = [WORKER, &token, &want, KIND, minute, "100", minute, minute, "100", "100", "0", "1", "0"];
        let mut args: Vec<Value> = head.map(Value::from).into();
        for (id, token, outcome) in ends {
            // One that is handed back waits again at once, in front of the others.
            let wait = if *outcome == "u" { "0" } else { minute };
            args.extend([id.clone(), token.to_string().into(), (*outcome).into(), wait.into(), "".into(), "".into()]);
        }
        self.call(text, args).await
    }
}

/// A worker that waits on one connection tells of ends on another: the wait may claim first, with the token that the step names.
#[tokio::test]
async fn a_step_that_wants_nothing_does_not_make_what_was_just_claimed_stale() {
    let server = Server::start().await;
    let client = server.client().await;
    let queue = server.queue("q").await;
    let side = Side { client: &client, queue: queue.clone(), prefix: "aq:{q}:".to_owned(), is_short: true };
    let _: i64 = client.hset("aq:{q}:w:1", ("f", 21)).await.unwrap();
    let jobs = (0..3).map(|_| NewJob::raw(KIND, b"{}".to_vec()).unwrap()).collect();
    queue.push_all(jobs).await.unwrap();
    let (first, _) = side.claim(21).await.unwrap();
    let (second, _) = side.claim(22).await.unwrap();
    let told = side.step(22, 0, &[(first, 21, "c")]).await;
    assert_eq!((&told[0], &told[5]), (&Value::Integer(0), &Value::Integer(1)));
    // Who wants jobs with it is told, and gets none.
    let told = side.step(22, 1, &[]).await;
    assert_eq!((&told[0], told[3].clone().into_array().len()), (&Value::Integer(2), 0));
    let told = side.step(23, 0, &[(second, 22, "c")]).await;
    assert_eq!((&told[0], told[2].clone().into_array().len()), (&Value::Integer(0), 0));
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.available, stats.running, stats.completed), (1, 0, 2));
    // One whose number is not known is told so, whatever it wants.
    client.del::<i64, _>("aq:{q}:w:1").await.unwrap();
    assert_eq!(side.step(24, 0, &[]).await[0], Value::Integer(1));
}

#[tokio::test]
async fn a_claim_by_either_script_takes_and_leaves_the_same() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut claimed_in_all = 0;
    for seed in 1..=24 {
        let mut dice = Dice(0x517c_c1b7 * seed);
        let names = [format!("short-{seed}"), format!("long-{seed}")];
        let queues = [&server.queue(&names[0]).await, &server.queue(&names[1]).await];
        let sides = [0, 1].map(|n| Side {
            client: &client,
            queue: queues[n].clone(),
            prefix: format!("aq:{{{}}}:", names[n]),
            is_short: n == 0,
        });
        let cap = [None, Some(1), Some(2)][dice.below(3) as usize];
        for side in &sides {
            side.queue.cap_groups(cap).await.unwrap();
            let _: i64 = client.hset(format!("{}w:{WORKER}", side.prefix), ("f", 0)).await.unwrap();
        }
        let (mut pushed, mut running): (Vec<JobId>, Vec<(Value, u64)>) = Default::default();
        for turn in 1..=80_u64 {
            // A token at which the long script begins at the top, as the short one always does.
            let token = turn * 21;
            match dice.below(10) {
                0..4 => {
                    let priority = [Priority::High, Priority::Normal, Priority::Low][dice.below(3) as usize];
                    // No group has no cap.
                    let group = ["", "a", "b", "c"][dice.below(4) as usize];
                    let kind = if dice.below(8) == 0 { "kind-1" } else { KIND };
                    let job = NewJob::raw(kind, b"{}".to_vec()).unwrap().priority(priority).group(group);
                    pushed.push(job.id());
                    both(queues, |queue| {
                        let job = job.clone();
                        async move { queue.push(job).await.unwrap() }
                    })
                    .await;
                }
                4 if !pushed.is_empty() => {
                    let id = pushed[dice.below(pushed.len() as u64) as usize];
                    let change = dice.below(3);
                    both(queues, |queue| async move {
                        match change {
                            0 => queue.delete(&id).await.map(|_| ()),
                            1 => queue.cancel(&id).await.map(|_| ()),
                            _ => queue.reschedule(&id, Duration::from_secs(3600)).await.map(|_| ()),
                        }
                        .map_err(|error| error.to_string())
                    })
                    .await;
                }
                5 if dice.below(3) == 0 => {
                    both(queues, |queue| async move { queue.pause().await.unwrap() }).await;
                    for side in &sides {
                        assert_eq!(side.claim(token).await, None, "a paused queue");
                    }
                    both(queues, |queue| async move { queue.resume().await.unwrap() }).await;
                }
                6 | 7 if !running.is_empty() => {
                    let (id, token_of) = running.swap_remove(dice.below(running.len() as u64) as usize);
                    let outcome = ["c", "r", "d", "u"][dice.below(4) as usize];
                    let ends = [(id, token_of, outcome)];
                    for side in &sides {
                        side.step(token, 0, &ends).await;
                    }
                }
                _ => {
                    let [short, long] = [sides[0].claim(token).await, sides[1].claim(token).await];
                    assert_eq!(short, long, "seed {seed}, turn {turn}");
                    if let Some((id, _)) = short {
                        running.push((id, token));
                        claimed_in_all += 1;
                    }
                }
            }
        }
        let [short, long] = [dump(&client, &names[0]).await, dump(&client, &names[1]).await];
        assert!(short.keys().eq(long.keys()), "seed {seed}: {:?} and {:?}", short.keys(), long.keys());
        for (key, content) in &short {
            assert_eq!(content, &long[key], "seed {seed}, {key}");
        }
    }
    assert!(claimed_in_all > 200, "{claimed_in_all}");
}
