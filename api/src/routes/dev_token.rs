//! Sign-in for development, where `auth.dev_tokens` is on. In production it does not exist: a 404 like any unknown path.

use crate::{ApiError, AppState};
use oneiro_core::{
    auth::{self, UserId},
    clock,
};
use poem::{
    Body, handler,
    http::StatusCode,
    web::{Data, Json},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// A name and a number, and how long they may take to arrive.
const MAX_BODY_BYTES: usize = 4096;
const BODY_LIMIT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
pub(super) struct SignIn {
    user_id: UserId,
    username: Option<String>,
    /// Seconds; at most `http.dev_tokens_max_ttl_seconds`.
    ttl_seconds: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct Issued {
    token: String,
    /// Unix seconds.
    expires_at: u64,
}

/// 204 where sign-in exists.
#[handler]
pub(super) fn is_enabled(state: Data<&Arc<AppState>>) -> Result<StatusCode, ApiError> {
    enabled(&state).map(|()| StatusCode::NO_CONTENT)
}

/// A token for whoever the caller says they are.
#[handler]
pub(super) async fn issue(state: Data<&Arc<AppState>>, body: Body) -> Result<Json<Issued>, ApiError> {
    enabled(&state)?;
    let body = tokio::time::timeout(BODY_LIMIT, body.into_bytes_limit(MAX_BODY_BYTES)).await;
    let body = body.map_err(|_| ApiError::timeout())?.map_err(|error| ApiError::malformed(error.to_string()))?;
    let request: SignIn = serde_json::from_slice(&body).map_err(|error| ApiError::malformed(error.to_string()))?;
    let longest = state.config.http.dev_tokens_max_ttl_seconds;
    let ttl = Duration::from_secs(request.ttl_seconds.unwrap_or(longest).min(longest));
    let username = request.username.as_deref().map(str::trim).filter(|name| !name.is_empty());
    let token = auth::mint_for(&state.config.auth, &request.user_id, username, "", ttl).map_err(|error| {
        tracing::error!(%error, "cannot sign a development token");
        ApiError::internal()
    })?;
    Ok(Json(Issued { token, expires_at: clock::unix_millis() / 1000 + ttl.as_secs() }))
}

fn enabled(state: &AppState) -> Result<(), ApiError> {
    if state.config.auth.dev_tokens { Ok(()) } else { Err(ApiError::not_found("page")) }
}
