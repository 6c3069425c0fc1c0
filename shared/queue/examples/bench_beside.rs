//! This store and stock apalis-redis, as `scripts/bench-queue` runs them beside their peers: programs of a few words that push
//! or work until they are ended, and leave the measuring to the script.
//!
//! `bench_beside STORE work`, `bench_beside STORE push|tick|hold N`, with the server's address in `BENCH_REDIS` and the file for
//! what handlers note in `BENCH_SEEN`.
//!
//! | store | is |
//! |---|---|
//! | `ours` | this store, 200 jobs at once, 800 held ready |
//! | `stock` | apalis-redis as its documentation shows it |
//! | `floor` | none: a list with LPUSH and BLPOP, for what the machine and Redis take of a pick-up; it only knows `work` and `tick` |
//! | `stock-bare` | apalis-redis without locks and events, in batches of 500, 200 jobs at once, asking every 10 ms |
//!
//! | word | pushes |
//! |---|---|
//! | `push` | jobs of 100 bytes that do nothing, in bulk |
//! | `tick` | 50 a second, one by one, with the time of the push |
//! | `hold` | jobs that take 100 ms and note their number at the end |

use std::{
    fs::{File, OpenOptions},
    io::Write,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use apalis_core::{
    backend::{TaskSink, ext::BackendExt},
    error::BoxDynError,
    task::data::Data,
    worker::builder::WorkerBuilder,
};
use apalis_fred::{FredStorage, Job, NewJob, Queue, QueueOptions, Retention, WorkerOptions};
use apalis_redis::{Config as StockConfig, RedisStorage};
use fred::prelude::*;
use futures::stream;
use serde::{Deserialize, Serialize};
use tower::limit::ConcurrencyLimitLayer;

/// 100 bytes as JSON. Its first letter says what the handler does.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct Nop(String);

impl Job for Nop {
    const KIND: &'static str = "nop";
}

type Seen = Arc<File>;

async fn nop(job: Nop, seen: Data<Seen>) -> Result<(), BoxDynError> {
    let word = job.0.split(' ').next().unwrap_or_default();
    if let Some(pushed) = word.strip_prefix('t') {
        let line = format!("{}\n", now_ns().saturating_sub(pushed.parse()?));
        (&**seen).write_all(line.as_bytes())?;
    } else if let Some(number) = word.strip_prefix('s') {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (&**seen).write_all(format!("{number}\n").as_bytes())?;
    }
    Ok(())
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn job(start: &str) -> Nop {
    Nop(format!("{start:x<98}"))
}

fn batch(word: &str, n: usize) -> Vec<Nop> {
    (0..n).map(|k| if word == "hold" { job(&format!("s{k} ")) } else { job("x") }).collect()
}

#[expect(clippy::disallowed_methods, reason = "the script's words to its own example are no settings of the product")]
fn told(name: &str) -> Result<String, BoxDynError> {
    std::env::var(name).map_err(|_| format!("{name} is not set").into())
}

/// When the `k`th of 50 a second is due.
async fn tick(begun: Instant, k: usize) {
    let due = begun + Duration::from_millis(20) * u32::try_from(k).unwrap_or(u32::MAX);
    tokio::time::sleep_until(due.into()).await;
}

async fn ours() -> Result<Queue, BoxDynError> {
    let client = bare_client().await?;
    let options =
        QueueOptions { retention_completed: Retention::NONE, result_ttl: Duration::ZERO, ..QueueOptions::default() };
    Ok(Queue::with_options(client, "bench".parse()?, options))
}

async fn stock(store: &str) -> Result<RedisStorage<Nop>, BoxDynError> {
    let mut config = StockConfig::default().queue("bench");
    if store == "stock-bare" {
        config = config.lock_tasks(false).emit_events(false).batch_size(500);
    }
    Ok(RedisStorage::new(apalis_redis::connect(told("BENCH_REDIS")?).await?).with_config(config))
}

async fn work(store: &str) -> Result<(), BoxDynError> {
    let seen: Seen = Arc::new(OpenOptions::new().create(true).append(true).open(told("BENCH_SEEN")?)?);
    let name = format!("bench-{}", std::process::id());
    match store {
        "ours" => {
            let options = WorkerOptions { concurrency: 200, prefetch: 800, ..WorkerOptions::default() };
            let worker = WorkerBuilder::new(name)
                .backend(FredStorage::<Nop>::new(ours().await?, options))
                .layer(ConcurrencyLimitLayer::new(200))
                .data(seen);
            worker.build(nop).run().await?;
        }
        "stock" => WorkerBuilder::new(name).backend(stock(store).await?).data(seen).build(nop).run().await?,
        _ => {
            let worker = WorkerBuilder::new(name)
                .backend(stock(store).await?.poll_with_interval(Duration::from_millis(10)))
                .layer(ConcurrencyLimitLayer::new(200))
                .data(seen);
            worker.build(nop).run().await?;
        }
    }
    Ok(())
}

async fn bare_client() -> Result<Client, BoxDynError> {
    let client = Builder::from_config(Config::from_url(&told("BENCH_REDIS")?)?)
        .with_connection_config(|connection| connection.tcp.nodelay = Some(true))
        .build()?;
    client.init().await?;
    Ok(client)
}

/// Where the floor's pushes go.
const LIST: &str = "bench:floor";

async fn wait_at_list() -> Result<(), BoxDynError> {
    let mut seen = OpenOptions::new().create(true).append(true).open(told("BENCH_SEEN")?)?;
    let client = bare_client().await?;
    loop {
        let popped: Option<(String, u64)> = client.blpop(LIST, 5.0).await?;
        if let Some((_, pushed)) = popped {
            seen.write_all(format!("{}\n", now_ns().saturating_sub(pushed)).as_bytes())?;
        }
    }
}

async fn push_to_list(n: usize) -> Result<Duration, BoxDynError> {
    let client = bare_client().await?;
    let begun = Instant::now();
    for k in 0..n {
        tick(begun, k).await;
        client.lpush::<(), _, _>(LIST, now_ns().to_string()).await?;
    }
    Ok(begun.elapsed())
}

async fn push(store: &str, word: &str, n: usize) -> Result<Duration, BoxDynError> {
    /// As many as one step of the stock store takes safely; its own bulk size is not bounded.
    const STOCK_BATCH: usize = 500;
    if store == "ours" {
        let queue = ours().await?;
        let jobs = batch(word, if word == "tick" { 0 } else { n });
        let jobs = jobs.iter().map(NewJob::new).collect::<Result<Vec<_>, _>>()?;
        let begun = Instant::now();
        queue.push_all(jobs).await?;
        if word == "tick" {
            for k in 0..n {
                tick(begun, k).await;
                queue.push(NewJob::new(&job(&format!("t{} ", now_ns())))?).await?;
            }
        }
        return Ok(begun.elapsed());
    }
    let mut storage = stock(store).await?;
    let jobs = batch(word, if word == "tick" { 0 } else { n });
    let begun = Instant::now();
    for some in jobs.chunks(STOCK_BATCH) {
        storage.push_stream(&mut stream::iter(some.to_vec())).await?;
    }
    if word == "tick" {
        for k in 0..n {
            tick(begun, k).await;
            storage.push(job(&format!("t{} ", now_ns()))).await?;
        }
    }
    Ok(begun.elapsed())
}

/// What waits or pushes one by one does so in a task, as handlers of servers do: what `main` itself awaits has a thread of its own, and
/// each wake-up of it costs a change of threads. Bulk pushes gain by that thread.
#[tokio::main]
#[expect(clippy::print_stdout, reason = "the script reads the seconds that a push took")]
async fn main() -> Result<(), BoxDynError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor", "work"] => tokio::spawn(wait_at_list()).await??,
        ["floor", "tick", n] => println!("{}", tokio::spawn(push_to_list(n.parse()?)).await??.as_secs_f64()),
        [store @ ("ours" | "stock" | "stock-bare"), "work"] => {
            let store = store.to_owned();
            tokio::spawn(async move { work(&store).await }).await??;
        }
        [store @ ("ours" | "stock" | "stock-bare"), "tick", n] => {
            let (store, n) = (store.to_owned(), n.parse()?);
            println!("{}", tokio::spawn(async move { push(&store, "tick", n).await }).await??.as_secs_f64());
        }
        [store @ ("ours" | "stock" | "stock-bare"), word @ ("push" | "hold"), n] => {
            println!("{}", push(store, word, n.parse()?).await?.as_secs_f64());
        }
        _ => return Err("usage: bench_beside ours|stock|stock-bare work|push N|tick N|hold N".into()),
    }
    Ok(())
}
