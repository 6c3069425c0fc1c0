//! The short script of the commonest push leaves in Redis exactly what the long one does.

use std::{collections::BTreeMap, time::Duration};

use apalis_fred::{JobId, NewJob, Priority, Queue, QueueOptions};
use fred::{prelude::*, types::Key};

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
