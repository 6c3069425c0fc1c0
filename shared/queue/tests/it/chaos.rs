//! The exactness campaign: producers, worker processes, and faults; afterwards every pushed id is accounted for.
//!
//! Workers are processes of this same test binary, so that they can be killed, stopped and continued for real. What ran is
//! written to files by the handlers, not by the store, so the store cannot vouch for itself. `scripts/chaos` runs it for
//! longer and with a given seed.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use apalis_core::{
    error::{AbortError, BoxDynError},
    task::data::Data,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{
    FredStorage, Job, JobContext, JobFilter, JobId, NewJob, Priority, Queue, QueueOptions, QueueStats, Retention,
    RetryPolicy, State, WorkerOptions,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::{
    network::behind,
    proxy::{Proxy, Wire},
    redis::{PATIENCE, Server, eventually},
};

const ENV: &str = "APALIS_FRED_CHAOS";

/// A job that fails a given number of times and then succeeds, or aborts.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Trial {
    failures: u32,
    aborts: bool,
    ms: u64,
}

impl Job for Trial {
    const KIND: &'static str = "trial";

    fn retry_policy() -> RetryPolicy {
        RetryPolicy { max_attempts: 1_000, base: Duration::from_millis(5), cap: Duration::from_millis(100) }
    }
}

fn options() -> QueueOptions {
    QueueOptions {
        lease: Duration::from_secs(1),
        // Nothing may be forgotten before it is checked, and no fault of ours may count as poison.
        retention_completed: Retention::new(Duration::from_secs(86_400), 10_000_000),
        retention_dead: Retention::new(Duration::from_secs(86_400), 10_000_000),
        poison_after: 255,
        ..QueueOptions::default()
    }
}

fn setting(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "how a test talks to its own child is no setting of the product")]
    std::env::var(name).ok()
}

type Journal = Arc<File>;

async fn run_trial(trial: Trial, context: JobContext, journal: Data<Journal>) -> Result<(), BoxDynError> {
    let note = |what: &str| {
        let line = format!("{} {what} {} {}\n", context.id(), context.attempt(), std::process::id());
        (&**journal).write_all(line.as_bytes())
    };
    note("start")?;
    tokio::time::sleep(Duration::from_millis(trial.ms)).await;
    if trial.aborts {
        note("abort")?;
        return Err(AbortError::new("as told").into());
    }
    if context.attempt() <= trial.failures {
        note("fail")?;
        return Err("as told".into());
    }
    note("ok")?;
    Ok(())
}

/// The worker process; as a test of its own it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_worker_process() {
    let Some(setting) = setting(ENV) else { return };
    let (url, journal) = setting.split_once(' ').unwrap();
    let client = fred::prelude::Builder::from_config(fred::prelude::Config::from_url(url).unwrap())
        .set_policy(fred::prelude::ReconnectPolicy::new_constant(0, 50))
        .build()
        .unwrap();
    fred::prelude::ClientLike::init(&client).await.unwrap();
    let queue = Queue::with_options(client, "q".parse().unwrap(), options());
    let journal: Journal = Arc::new(OpenOptions::new().create(true).append(true).open(journal).unwrap());
    let prefetch = if std::process::id().is_multiple_of(2) { 0 } else { 20 };
    let worker_options = WorkerOptions {
        concurrency: 10,
        prefetch,
        shutdown_grace: Duration::from_millis(200),
        ..WorkerOptions::default()
    };
    let context = WorkerContext::new(&format!("chaos-{}", std::process::id()));
    let storage = FredStorage::<Trial>::new(queue, worker_options);
    let worker = WorkerBuilder::new(&context).backend(storage).data(journal).build(run_trial);
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    tokio::spawn(async move {
        term.recv().await;
        context.stop().unwrap();
    });
    worker.run().await.unwrap();
}

struct Herd {
    children: Vec<Child>,
    dir: PathBuf,
    url: String,
    spawned: usize,
}

impl Herd {
    fn spawn(&mut self) {
        let journal = self.dir.join(format!("journal-{}", self.spawned));
        self.spawned += 1;
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "chaos::chaos_worker_process", "--nocapture"])
            .env(ENV, format!("{} {}", self.url, journal.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    fn signal(&self, which: usize, signal: &str) {
        Command::new("kill").args([signal, &self.children[which].id().to_string()]).status().unwrap();
    }

    async fn replace(&mut self, which: usize, signal: &str) {
        self.signal(which, signal);
        let mut child = self.children.swap_remove(which);
        eventually("worker process ended", || {
            let is_over = child.try_wait().unwrap().is_some();
            async move { is_over }
        })
        .await;
        self.spawn();
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        for child in &mut self.children {
            // A stopped process still takes a kill; one that is gone needs none.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn trial(random: &mut StdRng) -> (Trial, NewJob) {
    let trial = Trial {
        failures: if random.random_bool(0.2) { random.random_range(1..4) } else { 0 },
        aborts: random.random_bool(0.02),
        ms: if random.random_bool(0.1) { random.random_range(100..800) } else { random.random_range(0..20) },
    };
    let mut job = NewJob::new(&trial).unwrap();
    if random.random_bool(0.2) {
        job = job.run_in(Duration::from_millis(random.random_range(0..1500)));
    }
    if random.random_bool(0.3) {
        job = job.group(format!("g{}", random.random_range(0..7)));
    }
    if random.random_bool(0.3) {
        job = job.priority(if random.random() { Priority::High } else { Priority::Low });
    }
    if random.random_bool(0.1) {
        let key = job.id().to_string();
        job = job.unique(key, apalis_fred::Unique::UntilDone);
    }
    (trial, job)
}

async fn produce(queue: Queue, seed: u64, until: Instant) -> BTreeMap<JobId, Trial> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut pushed = BTreeMap::new();
    while Instant::now() < until {
        let trials: Vec<(Trial, NewJob)> = (0..random.random_range(1..20)).map(|_| trial(&mut random)).collect();
        let jobs: Vec<NewJob> = trials.iter().map(|(_, job)| job.clone()).collect();
        // The same jobs again until they are surely stored: under the same ids, so once.
        while let Err(error) = queue.push_all(jobs.clone()).await {
            assert!(error.is_transient(), "{error:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        pushed.extend(trials.into_iter().map(|(trial, job)| (job.id(), trial)));
        tokio::time::sleep(Duration::from_millis(random.random_range(5..60))).await;
    }
    pushed
}

/// What the handlers wrote, by job.
fn read_journals(dir: &Path) -> BTreeMap<JobId, Vec<String>> {
    let mut ran: BTreeMap<JobId, Vec<String>> = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("journal-") {
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let (id, rest) = line.split_once(' ').unwrap();
                ran.entry(id.parse().unwrap()).or_default().push(rest.to_owned());
            }
        }
    }
    ran
}

/// Waits until every job has ended, however many are left over, as long as some of them end.
async fn drained(queue: &Queue) -> QueueStats {
    let (mut ended, mut at) = (0, Instant::now());
    loop {
        if let Ok(stats) = queue.stats().await {
            if stats.available + stats.scheduled + stats.running + stats.retryable == 0 {
                return stats;
            }
            if stats.completed + stats.dead > ended {
                (ended, at) = (stats.completed + stats.dead, Instant::now());
            }
            if at.elapsed() > PATIENCE {
                panic!("no job ended for {PATIENCE:?}: {stats:?}\n{}", stuck(queue).await);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Why some of the jobs do not run, and which workers there are.
async fn stuck(queue: &Queue) -> String {
    let mut told = format!("{:#?}\n", queue.workers().await);
    for state in [State::Available, State::Scheduled, State::Running, State::Retryable] {
        let filter = JobFilter { limit: 3, ..JobFilter::in_state(state) };
        for job in queue.jobs(&filter).await.unwrap().jobs {
            told += &format!("{state:?}: {:#?}\n{job:#?}\n", queue.explain(&job.id).await);
        }
    }
    told
}

#[expect(clippy::print_stdout, reason = "a long campaign tells what it did")]
async fn campaign(seed: u64, length: Duration) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Server::durable().await;
    let dir = tempfile::TempDir::new().unwrap();
    // Networks of their own, so that each side fails alone.
    let (workers, pushers) = (Proxy::start(server.port).await, Proxy::start(server.port).await);
    let mut herd = Herd { children: Vec::new(), dir: dir.path().to_owned(), url: workers.url(), spawned: 0 };
    for _ in 0..3 {
        herd.spawn();
    }
    let queue = server.queue_with("q", options()).await;
    let until = Instant::now() + length;
    let pushing = behind(&pushers, options()).await;
    let producers: Vec<_> = (0..2).map(|n| tokio::spawn(produce(pushing.clone(), seed + n, until))).collect();
    let mut faults: BTreeMap<&str, u32> = BTreeMap::new();
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(random.random_range(300..1500))).await;
        let which = random.random_range(0..herd.children.len());
        let fault = match random.random_range(0..13) {
            0..3 => {
                herd.replace(which, "-KILL").await;
                "kill -9 of a worker"
            }
            3..5 => {
                herd.replace(which, "-TERM").await;
                "SIGTERM of a worker"
            }
            5..7 => {
                herd.signal(which, "-STOP");
                tokio::time::sleep(Duration::from_millis(random.random_range(100..3000))).await;
                herd.signal(which, "-CONT");
                "SIGSTOP and SIGCONT of a worker"
            }
            7..9 => {
                let _: i64 = server.command(&["CLIENT", "KILL", "TYPE", "normal"]).await;
                "cut of all connections"
            }
            9..12 => {
                let (wire, fault) = match random.random_range(0..3) {
                    0 => (Wire::Cut, "cut network"),
                    1 => (Wire::Stalled, "stalled network"),
                    _ => (Wire::Deaf, "network that swallows answers"),
                };
                let network = if random.random_bool(0.7) { &workers } else { &pushers };
                network.set(wire);
                tokio::time::sleep(Duration::from_millis(random.random_range(100..4000))).await;
                network.set(Wire::Whole);
                fault
            }
            _ => {
                server.kill();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
                server.launch().await;
                "kill -9 and restart of redis"
            }
        };
        *faults.entry(fault).or_default() += 1;
    }
    let mut pushed = BTreeMap::new();
    for producer in producers {
        pushed.extend(producer.await.unwrap());
    }
    let stats = drained(&queue).await;
    assert_eq!(stats.completed + stats.dead, pushed.len() as u64, "{stats:?}");
    let ran = read_journals(dir.path());
    let mut doubles = 0;
    for (id, trial) in &pushed {
        let history = ran.get(id).cloned().unwrap_or_default();
        let job = queue.job(id).await.unwrap();
        let tell = || format!("seed {seed}, job {id}: {trial:?}\nhistory: {history:#?}\nrecord: {job:?}");
        let job = job.as_ref().unwrap_or_else(|| panic!("lost: {}", tell()));
        let count = |what: &str| history.iter().filter(|line| line.starts_with(what)).count();
        let (ends, state) = if trial.aborts { (count("abort"), State::Dead) } else { (count("ok"), State::Completed) };
        assert_eq!(job.state, state, "wrong end: {}", tell());
        assert!(ends >= 1, "never ran to its end: {}", tell());
        // A second end needs a lease that was lost: its worker died, stood still, or was cut off for too long.
        assert!(ends - 1 <= job.kills as usize, "ran twice without cause: {}", tell());
        assert!(job.attempts >= trial.failures.min(job.attempts.max(1)), "attempts went missing: {}", tell());
        doubles += ends - 1;
    }
    println!(
        "seed {seed}: {} jobs, {doubles} ended twice, {} rescued, faults {faults:?}",
        pushed.len(),
        stats.rescued_total
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pushed_job_is_accounted_for_through_kills_stops_cuts_and_restarts() {
    if setting(ENV).is_some() {
        return;
    }
    let number = |name: &str| setting(name).and_then(|text| text.parse::<f64>().ok());
    let minutes = number("APALIS_FRED_CHAOS_MINUTES").unwrap_or(0.2);
    let seed =
        number("APALIS_FRED_CHAOS_SEED").map_or_else(|| rand::rng().random_range(0..1_000_000), |seed| seed as u64);
    campaign(seed, Duration::from_secs_f64(minutes * 60.0)).await;
}
