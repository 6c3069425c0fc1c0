//! Starting and stopping a worker process. The only file that knows apalis's runtime besides the registry.

use crate::{
    Converter, Pool, Shared,
    health::{self, Health},
    memory,
    pool::{self, Isolation, Limits},
    registry::{self, Plan},
    sweep,
};
use anyhow::Context;
use apalis::prelude::{Event, Monitor};
use apalis_fred::Canary;
use clap::{Parser, Subcommand};
use oneiro_core::{
    config::{Config, ConfigErrors, ExtraFormat, Isolate, Role},
    dreams::DreamStore,
    jobs::Queues,
    process, redis,
    storage::Storage,
    telemetry,
};
use oneiro_events::Broker;
use oneiro_pipeline::{Format, PipelineError, Processor, Settings};
use std::{
    ops::ControlFlow,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// In-flight image jobs for each pixel thread: while one is worked on, another is fetched or stored.
const IN_FLIGHT_PER_THREAD: usize = 2;
/// The smallest picture: a GIF.
pub(crate) const ONE_PIXEL: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
/// After the grace period the queue takes its jobs back; that needs a moment.
const HAND_BACK: Duration = Duration::from_secs(5);

/// A worker's command line; everything else is configuration.
#[derive(Debug, Parser)]
#[command(name = "worker", version, about = "Oneiro's worker: takes image jobs from Redis, makes variants, stores them, settles dreams.", after_help = AFTER_HELP)]
pub struct Args {
    /// A TOML file with settings that differ from the defaults (also: ONEIRO_CONFIG).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration, print what is in force (secrets hidden) and exit; 64 where it is wrong.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What the worker starts where worker.isolate = "process": decodes what comes in on standard input.
    #[command(hide = true)]
    PipelineChild,
}

const AFTER_HELP: &str = "Environment: REDIS_URL, STORAGE_URL, PUBLIC_MEDIA_URL, WORKER_METRICS_ADDR, RUST_LOG, LOG_FORMAT (text or json), and
ONEIRO_<SECTION>_<KEY> for every key of config/default.toml. Start as many workers as you have machines: they share the queues fairly.

Example: REDIS_URL=redis://127.0.0.1:6379 STORAGE_URL=file:///var/lib/oneiro worker

SIGTERM or Ctrl-C: takes no new job, finishes what runs within worker.shutdown_grace_seconds, hands the rest back to the queue unspent.
A second signal ends it at once; its jobs then run elsewhere within seconds. `oneiro workers stop` does the same from afar: the process ends
when one of its workers was told to stop. Exit status: 0 stopped, 1 failed, 64 wrong configuration.";

/// The whole of `main`.
pub fn run() -> ExitCode {
    memory::return_large_blocks();
    let args = Args::parse();
    if let Some(Command::PipelineChild) = args.command {
        return pool::child_main();
    }
    let loaded = Config::load(Role::Worker, args.config.as_deref()).and_then(|config| {
        let settings = pipeline_settings(&config)?;
        check_extra_formats(&config)?;
        Ok((config, settings))
    });
    // A codec in the middle of an image cannot be interrupted; its job has been handed back by the end of `work`.
    process::run(loaded, args.check_config, Duration::from_secs(1), work)
}

/// `[images]` in the pipeline's own form.
fn pipeline_settings(config: &Config) -> Result<Settings, ConfigErrors> {
    let wrong = |error: String| ConfigErrors::new(vec![format!("[images]: {error}")]);
    let table = config.images.pipeline.clone();
    let sets_limit = table.get("limits").and_then(|limits| limits.get("max_file_bytes")).is_some();
    let mut settings: Settings =
        toml::Value::Table(table).try_into().map_err(|error: toml::de::Error| wrong(error.message().to_owned()))?;
    if !sets_limit {
        settings.limits.max_file_bytes = config.uploads.max_file_bytes;
    } else if settings.limits.max_file_bytes < config.uploads.max_file_bytes {
        return Err(wrong(
            "limits.max_file_bytes: must not be below uploads.max_file_bytes, or accepted files would fail".to_owned(),
        ));
    }
    if let Some(watermark) = &mut settings.watermark {
        let bytes = std::fs::read(&watermark.file)
            .map_err(|error| wrong(format!("watermark.file: cannot read {}: {error}", watermark.file.display())))?;
        watermark.image = Some(bytes.into());
    }
    settings.validate().map_err(|error| wrong(error.to_string()))?;
    try_watermark(&settings).map_err(|error| wrong(error.to_string()))?;
    let default = &config.images.default_variant;
    if !settings.variants.iter().any(|variant| variant.name == *default) {
        return Err(wrong(format!("default_variant: there is no variant `{default}`")));
    }
    Ok(settings)
}

/// Draws the watermark once, on a picture of one pixel: a file that cannot be drawn would fail every image.
fn try_watermark(settings: &Settings) -> Result<(), PipelineError> {
    let mut trial = settings.clone();
    trial.variants.retain(|variant| variant.watermark);
    if trial.variants.is_empty() {
        return Ok(());
    }
    Processor::new(trial).process(ONE_PIXEL, &mut |_| ControlFlow::Continue(())).map(drop)
}

/// What uploads may be, the worker must be able to make something of.
fn check_extra_formats(config: &Config) -> Result<(), ConfigErrors> {
    if !config.worker.converter.is_empty() {
        return Ok(());
    }
    let is_decoded = |format: &ExtraFormat| *format == ExtraFormat::Avif && Format::Avif.is_decodable();
    match config.uploads.extra_formats.iter().find(|format| !is_decoded(format)) {
        None => Ok(()),
        Some(format) => Err(ConfigErrors::new(vec![format!(
            "uploads.extra_formats: {format:?} is not decoded by this worker, and worker.converter is not set"
        )])),
    }
}

/// How long a job waits for its turn; the rest of its time is for the image itself.
fn longest_wait(config: &Config) -> Duration {
    config.queues.job_timeout() / 3
}

/// The places that `[worker]` asks for.
fn pool(settings: Settings, places: usize, config: &Config) -> anyhow::Result<Pool> {
    let limits = Limits {
        budget_mb: config.worker.memory_budget_mb,
        decode: config.worker.decode_timeout(),
        wait: longest_wait(config),
    };
    match config.worker.isolate {
        Isolate::Off => Pool::threads(settings, places, limits).context("cannot start the pixel threads"),
        Isolate::Process => {
            let isolation = Isolation {
                program: own_program().context("cannot tell the path of the worker's own program")?,
                memory_mb: config.worker.isolated_memory_mb,
                cpu_seconds: config.queues.job_timeout_seconds,
            };
            Ok(Pool::processes(settings, places, limits, isolation))
        }
    }
}

/// This very program, also when its file has been replaced since.
fn own_program() -> std::io::Result<PathBuf> {
    let this = PathBuf::from("/proc/self/exe");
    if this.exists() { Ok(this) } else { std::env::current_exe() }
}

async fn work(config: Config, mut settings: Settings) -> anyhow::Result<()> {
    let metrics = telemetry::init_metrics().context("cannot install the metrics recorder")?;
    let storage = Storage::open(&config.storage).context("cannot open storage.url (STORAGE_URL)")?;
    let client = redis::connect(&config.redis).await?;
    let broker = Broker::new(client.clone(), config.broker_options());
    let threads = config.worker.effective_concurrency();
    let max_file_bytes = settings.limits.max_file_bytes;
    if !config.worker.converter.is_empty() {
        // Originals are read up to the limit above; what a converter makes of one has its own.
        settings.limits.max_file_bytes = max_file_bytes.max(config.worker.converter_max_bytes);
    }
    let shared = Arc::new(Shared {
        dreams: DreamStore::new(broker, client.clone(), storage.clone(), &config.redis.key_prefix, &config.dreams),
        storage,
        queues: Queues::new(client.clone(), &config.queues),
        pool: pool(settings, threads, &config)?,
        converter: Converter::new(
            &config.worker.converter,
            config.worker.converter_timeout(),
            longest_wait(&config),
            config.worker.converter_max_bytes,
            threads,
        ),
        default_variant: config.images.default_variant.clone(),
        max_file_bytes,
        storage_patience: config.queues.job_timeout() / 3,
    });
    shared
        .pool
        .check()
        .await
        .context("cannot decode in processes (worker.isolate): one that was started on trial ended")?;
    let stop = CancellationToken::new();
    let canary = Canary::default();
    if !config.worker.metrics_addr.is_empty() {
        let health = Health { redis: client.clone(), metrics, stop: stop.clone(), canary: canary.clone() };
        health::serve(&config.worker.metrics_addr, health).await?;
    }
    let sweeper = tokio::spawn(sweep::run(
        shared.clone(),
        config.worker.sweep_interval(),
        config.worker.sweep_after(),
        stop.clone(),
    ));
    let grace = config.worker.shutdown_grace();
    let plan = Plan {
        name: format!("worker-{}", std::process::id()),
        images_at_once: threads * IN_FLIGHT_PER_THREAD,
        grace,
        canary,
    };
    // A process that has lost one of its workers would look well and leave that queue alone: it ends, so that whoever started it knows.
    let ended = Ended::default();
    let monitor = registry::register(ended.watched(Monitor::new()), &plan, &shared).shutdown_timeout(grace + HAND_BACK);
    tracing::info!(worker.id = plan.name, threads, images_at_once = plan.images_at_once, "working");
    let signal = {
        let (stop, ended) = (stop.clone(), ended.clone());
        async move {
            tokio::select! {
                signal = process::stop_signal() => signal?,
                () = ended.token.cancelled() => {
                    tracing::info!("one of this process's workers ended: so does the process");
                    process::end_at_signal()?;
                }
            }
            tracing::info!(grace_seconds = grace.as_secs(), "stopping: no new job is taken");
            stop.cancel();
            Ok(())
        }
    };
    monitor.run_with_signal(signal).await.context("a queue's worker failed")?;
    stop.cancel();
    if let Err(error) = sweeper.await {
        tracing::warn!(%error, "the sweep did not end well");
    }
    if let Some(error) = ended.error.get() {
        anyhow::bail!("a queue's worker failed: {error}");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Whether one of the process's workers has ended: told to from outside (`oneiro workers stop`), or by an error.
#[derive(Debug, Clone, Default)]
struct Ended {
    token: CancellationToken,
    error: Arc<OnceLock<String>>,
}

impl Ended {
    fn watched(&self, monitor: Monitor) -> Monitor {
        let (told, failed) = (self.clone(), self.clone());
        monitor
            .on_event(move |_, event| {
                if matches!(event, Event::Stop) {
                    told.token.cancel();
                }
            })
            // Never in this process: what broke a worker may have broken more.
            .should_restart(move |worker, error| {
                failed.error.get_or_init(|| format!("{}: {error}", worker.name()));
                failed.token.cancel();
                false
            })
    }
}
