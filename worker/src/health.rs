//! `/healthz`, `/readyz` and `/metrics` of a worker, where `worker.metrics_addr` says so.

use anyhow::Context;
use apalis_fred::Canary;
use metrics_exporter_prometheus::PrometheusHandle;
use poem::{
    EndpointExt, Route, Server, get, handler,
    http::StatusCode,
    listener::{Listener, TcpListener},
    web::Data,
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// A probe that waits longer has its own time-out.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

pub(crate) struct Health {
    pub(crate) redis: fred::clients::Client,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) stop: CancellationToken,
    /// Knows whether this process's workers do what they should.
    pub(crate) canary: Canary,
}

/// Binds at once, so that a taken port is told before the first job; then serves in the background.
pub(crate) async fn serve(addr: &str, health: Health) -> anyhow::Result<()> {
    let acceptor = TcpListener::bind(addr.to_owned())
        .into_acceptor()
        .await
        .with_context(|| format!("cannot listen on {addr} (worker.metrics_addr, WORKER_METRICS_ADDR)"))?;
    let health = Arc::new(health);
    let app =
        Route::new().at("/healthz", get(alive)).at("/readyz", get(ready)).at("/metrics", get(metrics)).data(health);
    tokio::spawn(async move {
        if let Err(error) = Server::new_with_acceptor(acceptor).run(app).await {
            tracing::error!(%error, "the worker's health endpoint ended");
        }
    });
    tracing::info!(addr, "health and metrics are served");
    Ok(())
}

#[handler]
fn alive() -> &'static str {
    "ok"
}

#[handler]
async fn ready(health: Data<&Arc<Health>>) -> (StatusCode, &'static str) {
    if health.stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else if let Some(stuck) = health.canary.stuck() {
        tracing::warn!(queue.name = %stuck.queue, job.kind = stuck.kind, "not ready: the worker is stuck");
        (StatusCode::SERVICE_UNAVAILABLE, "jobs are not worked on")
    } else if oneiro_core::redis::answers(&health.redis, PROBE_LIMIT).await {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "redis does not answer")
    }
}

#[handler]
fn metrics(health: Data<&Arc<Health>>) -> String {
    health.metrics.render()
}
