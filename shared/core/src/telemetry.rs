//! Logs and metrics of one process.

use crate::config::{LogConfig, LogFormat};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// Buckets of every duration histogram, in seconds: from a queue's pick-up (a millisecond) to a job's limit (a minute).
const SECONDS_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets of how long sockets live, in seconds: from one that leaves at once to a page that stays open for a day.
const SOCKET_SECONDS: (&str, &[f64]) =
    ("oneiro_ws_connection_seconds", &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0]);
/// Buckets of sizes, in bytes: 16 KiB to 256 MiB by fours.
const BYTES_BUCKETS: &[f64] =
    &[16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0, 268_435_456.0];

/// Starts logging to standard error as configured. Call once per process; a second call changes nothing.
pub fn init_logs(config: &LogConfig) {
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let started = match config.format {
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi)).try_init()
        }
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .with_writer(std::io::stderr);
            registry.with(layer).try_init()
        }
    };
    // A test process may have a subscriber already; it goes on with that one.
    drop(started);
}

/// Histograms gather samples until they are drained, which nobody does where nothing scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the process-wide metrics recorder; [`PrometheusHandle::render`] gives what `/metrics` answers. Call within a tokio runtime.
///
/// # Errors
/// Where a recorder is already installed.
pub fn init_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), BYTES_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(SOCKET_SECONDS.0.to_owned()), SOCKET_SECONDS.1)?
        .install_recorder()?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}
