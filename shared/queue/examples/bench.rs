//! Measures the store against the Redis at a given address, whose database it empties first.
//!
//! `cargo run --profile dist -p apalis-fred --example bench -- redis://127.0.0.1:7900 drain 200000 1 200 800`
//!
//! | mode | arguments | prints |
//! |---|---|---|
//! | `drain` | jobs, groups, concurrency, prefetch, workers | enqueue and drain rates, CPU per job |
//! | `single` | pushes | rate of one push at a time beside bare round trips |
//! | `pickup` | jobs | time from push to handler at 50 jobs a second |
//! | `bytes` | jobs | Redis memory a waiting job |
//! | `idle` | seconds | Redis commands and CPU of an idle worker |

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use apalis_core::{
    error::BoxDynError,
    task::data::Data,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{FredStorage, Job, NewJob, Queue, QueueOptions, Retention, WorkerOptions};
use fred::{
    prelude::*,
    types::{ClusterHash, CustomCommand},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tower::limit::ConcurrencyLimitLayer;

/// 100 bytes as JSON.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Nop(String);

impl Job for Nop {
    const KIND: &'static str = "nop";
}

async fn nop(_: Nop, ran: Data<Arc<AtomicUsize>>) -> Result<(), BoxDynError> {
    ran.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Carries the time of its push in ns.
#[derive(Serialize, Deserialize)]
struct Stamped(u64);

impl Job for Stamped {
    const KIND: &'static str = "stamped";
}

/// Between two jobs of which each is to find an idle worker.
const PACE: Duration = Duration::from_millis(20);

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

async fn stamp(job: Stamped, seen: Data<Arc<Mutex<Vec<u64>>>>) -> Result<(), BoxDynError> {
    seen.lock().push(now_ns().saturating_sub(job.0));
    Ok(())
}

fn jobs(n: usize, groups: usize) -> Result<Vec<NewJob>, BoxDynError> {
    let nop = Nop("x".repeat(98));
    (0..n)
        .map(|k| {
            let job = NewJob::new(&nop)?;
            Ok(if groups > 1 { job.group((k % groups).to_string()) } else { job })
        })
        .collect()
}

/// User and system time of this process.
fn cpu() -> Duration {
    /// Linux' clock ticks a second, fixed for user space.
    const TICKS: u64 = 100;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks: u64 = stat.split_whitespace().skip(13).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1_000 / TICKS)
}

async fn info(client: &Client, section: &str, field: &str) -> Result<u64, BoxDynError> {
    let text: String =
        client.custom(CustomCommand::new_static("INFO", ClusterHash::Random, false), vec![section]).await?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).ok_or("no such field")?;
    Ok(line.trim().parse::<f64>()? as u64)
}

/// Script calls and blocking pops since the server started: what workers send. Commands inside scripts are not round trips.
async fn calls(client: &Client) -> Result<u64, BoxDynError> {
    let text: String =
        client.custom(CustomCommand::new_static("INFO", ClusterHash::Random, false), vec!["commandstats"]).await?;
    let counts = ["evalsha", "eval", "blpop"].map(|name| {
        let line =
            text.lines().find_map(|line| line.strip_prefix("cmdstat_")?.strip_prefix(name)?.strip_prefix(":calls="));
        line.and_then(|rest| rest.split(',').next()?.parse::<u64>().ok()).unwrap_or(0)
    });
    Ok(counts.iter().sum())
}

fn argument(n: usize, default: usize) -> usize {
    std::env::args().nth(n).and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What the machine and Redis take of a pick-up: one task pushes to a list, another one waits at it, as often as in `pickup`.
async fn bare_pickup(client: &Client, n: usize) -> Result<Vec<u64>, BoxDynError> {
    let waiting = client.clone_new();
    waiting.init().await?;
    let reader = tokio::spawn(async move {
        let mut times = Vec::with_capacity(n);
        for _ in 0..n {
            let (_, pushed): (String, u64) = waiting.blpop("bare", 10.0).await?;
            times.push(now_ns().saturating_sub(pushed));
        }
        waiting.quit().await?;
        Ok::<_, Error>(times)
    });
    for _ in 0..n {
        tokio::time::sleep(PACE).await;
        client.lpush::<(), _, _>("bare", now_ns().to_string()).await?;
    }
    let mut times = reader.await??;
    times.sort_unstable();
    Ok(times)
}

/// That share of the sorted times is shorter, in ms.
fn at(times: &[u64], share: f64) -> f64 {
    times.get((times.len() as f64 * share) as usize).map_or(0.0, |ns| *ns as f64 / 1e6)
}

/// Both ends in tasks, as in a server: what `main` itself awaits has a thread of its own, and each wake-up of it costs a change of threads.
#[expect(clippy::print_stdout, reason = "printing figures is what it is for")]
async fn pickup(client: Client, queue: Queue, n: usize) -> Result<(), BoxDynError> {
    let seen = Arc::new(Mutex::new(Vec::<u64>::new()));
    let storage = FredStorage::<Stamped>::new(queue.clone(), WorkerOptions::default());
    let context = WorkerContext::new("bench");
    let worker = WorkerBuilder::new(&context).backend(storage).data(Arc::clone(&seen)).build(stamp);
    let task = tokio::spawn(async move { worker.run().await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..n {
        queue.push(NewJob::new(&Stamped(now_ns()))?).await?;
        tokio::time::sleep(PACE).await;
    }
    let mut times = seen.lock().clone();
    times.sort_unstable();
    context.stop()?;
    task.await??;
    let bare = bare_pickup(&client, n).await?;
    println!("pick-up p50 {:.2} ms, p99 {:.2} ms of {}", at(&times, 0.5), at(&times, 0.99), times.len());
    println!(
        "a bare LPUSH and BLPOP p50 {:.2} ms, p99 {:.2} ms: {:.1} times, {:.1} times",
        at(&bare, 0.5),
        at(&bare, 0.99),
        at(&times, 0.5) / at(&bare, 0.5),
        at(&times, 0.99) / at(&bare, 0.99)
    );
    Ok(())
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "printing figures is what it is for")]
async fn main() -> Result<(), BoxDynError> {
    let url = std::env::args().nth(1).ok_or("usage: bench URL MODE ...")?;
    let mode = std::env::args().nth(2).unwrap_or_else(|| "drain".to_owned());
    let client = Builder::from_config(Config::from_url(&url)?)
        .with_connection_config(|connection| connection.tcp.nodelay = Some(true))
        .build()?;
    client.init().await?;
    client.flushall::<()>(false).await?;
    let options =
        QueueOptions { retention_completed: Retention::NONE, result_ttl: Duration::ZERO, ..QueueOptions::default() };
    let queue = Queue::with_options(client.clone(), "bench".parse()?, options);
    match mode.as_str() {
        "drain" => {
            let (n, groups) = (argument(3, 200_000), argument(4, 1));
            let (concurrency, prefetch, workers) = (argument(5, 200), argument(6, 800), argument(7, 1));
            let batch = jobs(n, groups)?;
            let begun = Instant::now();
            queue.push_all(batch).await?;
            println!("enqueue {:.0} jobs/s", n as f64 / begun.elapsed().as_secs_f64());
            let ran = Arc::new(AtomicUsize::new(0));
            let (begun, cpu_before) = (Instant::now(), cpu());
            let mut running = Vec::new();
            for w in 0..workers {
                let storage = FredStorage::<Nop>::new(
                    queue.clone(),
                    WorkerOptions { concurrency, prefetch, ..WorkerOptions::default() },
                );
                let context = WorkerContext::new(&format!("bench-{w}"));
                let worker = WorkerBuilder::new(&context)
                    .backend(storage)
                    .layer(ConcurrencyLimitLayer::new(concurrency))
                    .data(Arc::clone(&ran))
                    .build(nop);
                running.push((context, tokio::spawn(async move { worker.run().await })));
            }
            while ran.load(Ordering::Relaxed) < n {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let took = begun.elapsed();
            let per_job = (cpu() - cpu_before).as_secs_f64() * 1e6 / n as f64;
            println!("drain {:.0} jobs/s, {per_job:.1} us of CPU a job in this process", n as f64 / took.as_secs_f64());
            for (context, task) in running {
                context.stop()?;
                task.await??;
            }
            let stats = queue.stats().await?;
            println!(
                "left: available {} running {}, ran {}",
                stats.available,
                stats.running,
                ran.load(Ordering::Relaxed)
            );
        }
        "single" => {
            let n = argument(3, 20_000);
            let batch = jobs(n, 1)?;
            let begun = Instant::now();
            for _ in 0..n {
                client.ping::<()>(None).await?;
            }
            let bare = n as f64 / begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            for job in batch {
                queue.push(job).await?;
            }
            let pushed = n as f64 / begun.elapsed().as_secs_f64();
            println!("single push {pushed:.0}/s, bare round trip {bare:.0}/s: {:.0} %", pushed * 100.0 / bare);
        }
        "pickup" => tokio::spawn(pickup(client, queue, argument(3, 500))).await??,
        "bytes" => {
            let n = argument(3, 100_000);
            queue.push_all(jobs(1, 1)?).await?;
            let before = info(&client, "memory", "used_memory").await?;
            queue.push_all(jobs(n, 1)?).await?;
            let each = (info(&client, "memory", "used_memory").await? - before) as f64 / n as f64;
            println!("{each:.0} bytes a waiting job");
        }
        "idle" => {
            let seconds = argument(3, 20);
            let storage = FredStorage::<Nop>::new(queue.clone(), WorkerOptions::default());
            let context = WorkerContext::new("bench");
            let ran = Arc::new(AtomicUsize::new(0));
            let worker = WorkerBuilder::new(&context).backend(storage).data(ran).build(nop);
            let task = tokio::spawn(async move { worker.run().await });
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (before, cpu_before) = (calls(&client).await?, cpu());
            tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
            let commands = calls(&client).await? - before;
            let share = (cpu() - cpu_before).as_secs_f64() * 100.0 / seconds as f64;
            println!("idle: {:.1} commands/s, {share:.2} % CPU", commands as f64 / seconds as f64);
            context.stop()?;
            task.await??;
        }
        other => return Err(format!("unknown mode {other}").into()),
    }
    Ok(())
}
