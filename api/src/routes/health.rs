//! What load balancers and monitoring ask.

use crate::{ApiError, AppState, error::report};
use poem::{
    IntoResponse, Response, handler,
    http::{StatusCode, header},
    web::{Data, Json},
};
use std::{sync::Arc, time::Duration};

/// A probe that waits longer has its own time-out.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The process runs.
#[handler]
pub(super) fn alive() -> Json<serde_json::Value> {
    Json(serde_json::json!({"status": "ok"}))
}

/// The process can do its work: Redis answers, the storage takes objects, and it is not about to end.
#[handler]
pub(super) async fn ready(state: Data<&Arc<AppState>>) -> Response {
    let redis = async {
        match (&state.redis, &state.sockets) {
            (Some(redis), _) => oneiro_core::redis::answers(redis, PROBE_LIMIT).await,
            (None, Some(sockets)) => sockets.redis_answers(PROBE_LIMIT).await,
            (None, None) => true,
        }
    };
    let storage = state.storage_answers(PROBE_LIMIT);
    let (redis, storage) = tokio::join!(redis, storage);
    let sockets = state.sockets.as_ref().is_none_or(|sockets| sockets.is_healthy());
    let draining = state.is_draining();
    let word = |ok: bool| if ok { "ok" } else { "unavailable" };
    let body = serde_json::json!({ "redis": word(redis), "storage": word(storage), "events": word(sockets), "draining": draining });
    let status =
        if redis && storage && sockets && !draining { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Json(body).with_status(status).into_response()
}

/// Prometheus's text format. The queues' gauges are read from Redis now, where the process has to do with jobs; without it the scrape brings what
/// this process knows.
#[handler]
pub(super) async fn metrics(state: Data<&Arc<AppState>>) -> Result<Response, ApiError> {
    let handle = state.metrics.as_ref().ok_or_else(|| ApiError::not_found("page"))?;
    if state.redis.is_some() {
        match tokio::time::timeout(PROBE_LIMIT, state.queues.observe()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = report(&error), "the queues cannot be measured"),
            Err(_) => tracing::warn!("the queues cannot be measured: redis is slow"),
        }
    }
    Ok(handle.render().with_header(header::CONTENT_TYPE, "text/plain; version=0.0.4").into_response())
}
