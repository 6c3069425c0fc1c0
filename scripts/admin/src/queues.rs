//! `oneiro queues` and `oneiro workers`.

use crate::{
    cli::{AdoptArgs, Limit, LimitArgs, QueuesArgs, QueuesCommand, WorkersArgs, WorkersCommand},
    show,
};
use anyhow::{Context, bail};
use apalis_fred::{Health, Queue, QueueLimits, QueueName, list_queues};
use fred::clients::Client;
use oneiro_core::{config::Config, jobs::Queues, redis};
use std::time::{Duration, SystemTime};

/// How long a ping waits for its answer.
const PING_PATIENCE: Duration = Duration::from_secs(5);

/// [`open_on`] a connection of their own.
pub(crate) async fn open(config: &Config) -> anyhow::Result<Vec<Queue>> {
    open_on(&redis::connect(&config.redis).await?, config).await
}

/// Every queue that was ever used, the configured ones first.
pub(crate) async fn open_on(client: &Client, config: &Config) -> anyhow::Result<Vec<Queue>> {
    let options = Queues::options(&config.queues);
    let mut names: Vec<QueueName> =
        Queues::new(client.clone(), &config.queues).all().iter().map(|queue| queue.name().clone()).collect();
    for name in list_queues(client, &options.key_prefix).await? {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names.into_iter().map(|name| Queue::with_options(client.clone(), name, options.clone())).collect())
}

/// One queue by name; a name that was never used is an error, not an empty queue.
pub(crate) async fn open_named(name: &str, config: &Config) -> anyhow::Result<Queue> {
    named(name, open(config).await?)
}

/// As [`open_named`], of these.
pub(crate) fn named(name: &str, queues: Vec<Queue>) -> anyhow::Result<Queue> {
    let names = queues.iter().map(|queue| queue.name().to_string()).collect::<Vec<_>>().join(", ");
    queues
        .into_iter()
        .find(|queue| queue.name().as_str() == name)
        .with_context(|| format!("there is no queue `{name}`; there are {names}"))
}

pub(crate) async fn queues(args: QueuesArgs, config: &Config, json: bool) -> anyhow::Result<()> {
    match args.command {
        Some(QueuesCommand::Pause { name }) => {
            open_named(&name, config).await?.pause().await?;
            show::text(&format!("queue {name} is paused; `oneiro queues resume {name}` lets it go on"));
            return Ok(());
        }
        Some(QueuesCommand::Resume { name }) => {
            open_named(&name, config).await?.resume().await?;
            show::text(&format!("queue {name} goes on"));
            return Ok(());
        }
        Some(QueuesCommand::Forecast { within }) => {
            let target = within.map_or_else(|| config.queues.target_wait(), Duration::from_secs);
            return forecast(target, config, json).await;
        }
        Some(QueuesCommand::Limit(args)) => return limit(args, config).await,
        Some(QueuesCommand::Adopt(args)) => return adopt(args, config, json).await,
        None => {}
    }
    let mut all = Vec::new();
    for queue in open(config).await? {
        let (stats, limits) = tokio::try_join!(queue.stats(), queue.limits())?;
        all.push((queue.name().to_string(), stats, limits));
    }
    if json {
        let all: Vec<serde_json::Value> = all
            .iter()
            .map(|(name, stats, limits)| {
                let mut value = show::tagged("name", name, stats)?;
                value["limits"] = serde_json::to_value(limits)?;
                Ok(value)
            })
            .collect::<serde_json::Result<_>>()?;
        return show::json(&all);
    }
    let rows = all
        .into_iter()
        .map(|(name, s, limits)| {
            let counts = [s.scheduled, s.available, s.running, s.retryable, s.completed, s.cancelled, s.dead];
            let mut row = vec![name];
            row.extend(counts.iter().map(u64::to_string));
            row.push(s.oldest_available_age.map(show::span).unwrap_or_default());
            row.push(s.workers.to_string());
            row.push(if s.is_paused { "paused".to_owned() } else { "open".to_owned() });
            row.push(in_words(limits));
            row
        })
        .collect();
    let headers = [
        "queue",
        "scheduled",
        "available",
        "running",
        "retryable",
        "completed",
        "cancelled",
        "dead",
        "oldest available",
        "workers",
        "is",
        "limits",
    ];
    show::table(&headers, rows, "no queues");
    Ok(())
}

/// What `oneiro queues limit` set; empty for nothing.
fn in_words(limits: QueueLimits) -> String {
    let rate = limits.per_second.map(|rate| format!("{rate}/s, {} at once", limits.burst));
    let cap = limits.group_cap.map(|cap| format!("{cap} of a group"));
    [rate, cap].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

async fn forecast(target: Duration, config: &Config, json: bool) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for queue in open(config).await? {
        let forecast = queue.forecast().await?;
        all.push((queue.name().to_string(), forecast.wanted_workers(target), forecast));
    }
    if json {
        let all: Vec<serde_json::Value> = all
            .iter()
            .map(|(name, wanted, forecast)| {
                let mut value = show::tagged("name", name, forecast)?;
                value["wanted_workers"] = (*wanted).into();
                Ok(value)
            })
            .collect::<serde_json::Result<_>>()?;
        return show::json(&all);
    }
    let rows = all
        .into_iter()
        .map(|(name, wanted, f)| {
            let unknown = || "not known yet".to_owned();
            vec![
                name,
                f.backlog.to_string(),
                format!("{:.2}", f.arrivals_per_second),
                format!("{:.2}", f.completions_per_second),
                f.mean_run_time.map_or_else(unknown, show::span),
                match f.drain_in {
                    Some(Duration::ZERO) => "is empty".to_owned(),
                    Some(time) => format!("in {}", show::span(time)),
                    None => "not at this rate".to_owned(),
                },
                f.workers.to_string(),
                wanted.map_or_else(unknown, |count| count.to_string()),
            ]
        })
        .collect();
    let wanted = format!("workers for {}", show::span(target));
    let headers = ["queue", "waiting", "arrive/s", "end/s", "a run takes", "empty", "workers", &wanted];
    show::table(&headers, rows, "no queues");
    Ok(())
}

async fn limit(args: LimitArgs, config: &Config) -> anyhow::Result<()> {
    let queue = open_named(&args.name, config).await?;
    match args.rate {
        Some(Limit::To(rate)) => {
            queue.limit_rate(rate, args.burst).await?;
            show::text(&format!("queue {} starts at most {rate} jobs a second, {} at once", args.name, args.burst));
        }
        Some(Limit::Off) => {
            queue.unlimit_rate().await?;
            show::text(&format!("queue {} starts jobs as fast as workers take them", args.name));
        }
        None => {}
    }
    match args.group_cap {
        Some(Limit::To(cap)) => {
            queue.cap_groups(Some(cap)).await?;
            show::text(&format!("queue {} runs at most {cap} jobs of one group at once", args.name));
        }
        Some(Limit::Off) => {
            queue.cap_groups(None).await?;
            show::text(&format!("queue {} does not bound a group's running jobs", args.name));
        }
        None => {}
    }
    Ok(())
}

async fn adopt(args: AdoptArgs, config: &Config, json: bool) -> anyhow::Result<()> {
    let client = redis::connect(&config.redis).await?;
    let queue = Queue::with_options(client, args.into, Queues::options(&config.queues));
    let bar = show::counter("jobs adopted", json);
    let mut adopted = 0;
    loop {
        let part = queue.adopt_stock_part(&args.stock, args.kind.as_str()).await?;
        if part == 0 {
            break;
        }
        adopted += part;
        bar.inc(part as u64);
    }
    bar.finish_and_clear();
    if json {
        return show::json(&serde_json::json!({ "adopted": adopted }));
    }
    show::text(&match adopted {
        0 => format!("stock queue {} has no waiting jobs (or is not in this Redis)", args.stock),
        _ => format!(
            "{adopted} jobs of stock queue {} are in queue {} now, as kind {}",
            args.stock,
            queue.name(),
            args.kind
        ),
    });
    Ok(())
}

pub(crate) async fn workers(args: WorkersArgs, config: &Config, json: bool) -> anyhow::Result<()> {
    if let Some(command) = args.command {
        return tell(command, config).await;
    }
    let mut all = Vec::new();
    for queue in open(config).await? {
        all.extend(queue.workers().await?.into_iter().map(|worker| (queue.name().to_string(), worker)));
    }
    if json {
        let all: Vec<serde_json::Value> = all
            .iter()
            .map(|(queue, worker)| show::tagged("queue", queue, worker))
            .collect::<serde_json::Result<_>>()?;
        return show::json(&all);
    }
    let rows = all
        .into_iter()
        .map(|(queue, w)| {
            let time = |ms: u64| show::ago(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
            let is = match w.health {
                _ if w.is_late => "late".to_owned(),
                Health::Stuck { since_ms } => format!("stuck, {}", time(since_ms)),
                _ if w.is_quiet => "quiet".to_owned(),
                Health::Consuming => "working".to_owned(),
                Health::Quiet => "quiet".to_owned(),
                Health::Idle => "idle".to_owned(),
            };
            vec![
                queue,
                w.number.to_string(),
                w.name,
                w.host,
                w.pid.to_string(),
                w.kind,
                format!("{}/{}", w.running, w.concurrency),
                time(w.started_at_ms),
                time(w.beat_at_ms),
                is,
            ]
        })
        .collect();
    let headers = ["queue", "number", "name", "host", "pid", "kind", "running", "started", "last sign of life", "is"];
    show::table(&headers, rows, "no workers; start one with `worker`, or `scripts/up`");
    Ok(())
}

async fn tell(command: WorkersCommand, config: &Config) -> anyhow::Result<()> {
    let (WorkersCommand::Quiet(args)
    | WorkersCommand::Wake(args)
    | WorkersCommand::Stop(args)
    | WorkersCommand::Ping(args)) = &command;
    let queue = open_named(&args.queue, config).await?;
    let number = args.number;
    if !queue.workers().await?.iter().any(|worker| worker.number == number) {
        bail!("queue {} has no worker {number}; `oneiro workers` lists them", args.queue);
    }
    match command {
        WorkersCommand::Quiet(_) => {
            queue.quiet_worker(number).await?;
            show::text("told to take no new jobs");
        }
        WorkersCommand::Wake(_) => {
            queue.wake_worker(number).await?;
            show::text("told to take jobs again");
        }
        WorkersCommand::Stop(_) => {
            queue.stop_worker(number).await?;
            show::text("told to finish and stop");
        }
        WorkersCommand::Ping(_) => match queue.ping_worker(number, PING_PATIENCE).await? {
            Some(time) => show::text(&format!("answered after {}", show::span(time))),
            None => bail!("no answer within {}", show::span(PING_PATIENCE)),
        },
    }
    Ok(())
}
