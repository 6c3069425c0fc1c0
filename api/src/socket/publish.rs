//! Publishing by HTTP, `POST /api/v1/publish`. Where an event goes and how it is stored is decided in `oneiro_core::publish`, for the command line too.

use super::{SocketContext, http};
use crate::ApiError;
use oneiro_core::{
    auth::{Scope, UserId},
    publish::{NewEvent, inbox_retention, user_channel},
};
use oneiro_events::{EventError, Position};
use poem::{Body, IntoResponse, Request, Response, error::ReadBodyError, handler, http::StatusCode, web::Data};
use serde_json::Value;
use std::sync::Arc;

/// Largest request body: a batch of a few hundred events of a few kilobytes.
const MAX_BODY_BYTES: usize = 1024 * 1024;
const MAX_BATCH: usize = 500;

impl SocketContext {
    /// Stores an event in a user's inbox and delivers it.
    pub(crate) async fn store_for_user(&self, user: &UserId, event: &Value) -> Result<Position, EventError> {
        let retention = inbox_retention(&self.settings);
        self.broker.publish_with(&user_channel(user), event.to_string().as_bytes(), retention).await
    }
}

/// One event, or an array of them. All are checked before the first is published.
#[handler]
pub(crate) async fn publish_events(
    request: &Request,
    body: Body,
    ctx: Data<&Arc<SocketContext>>,
) -> Result<Response, ApiError> {
    http::bearer_with(request, &ctx, Scope::Publish)?;
    let bytes = match body.into_bytes_limit(MAX_BODY_BYTES).await {
        Ok(bytes) => bytes,
        Err(ReadBodyError::PayloadTooLarge) => return Err(ApiError::too_large(None, MAX_BODY_BYTES as u64)),
        Err(error) => return Err(ApiError::malformed(error.to_string())),
    };
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::malformed(format!("the body is not JSON: {error}")))?;
    let is_batch = value.is_array();
    let items = match value {
        Value::Array(items) => items,
        one => vec![one],
    };
    if items.is_empty() || items.len() > MAX_BATCH {
        return Err(ApiError::malformed(format!("a batch has 1 to {MAX_BATCH} events")));
    }
    let mut events = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let named = |field: &str| if is_batch { format!("{index}.{field}") } else { field.to_owned() };
        let event: NewEvent =
            serde_json::from_value(item).map_err(|error| http::wrong(&named("event"), &error.to_string()))?;
        events.push(event.accept().map_err(|wrong| {
            ApiError::invalid_fields(wrong.into_iter().map(|(field, why)| (named(&field), why)).collect())
        })?);
    }
    let mut stored = Vec::with_capacity(events.len());
    for event in &events {
        stored.push(event.publish(&ctx.broker, &ctx.settings).await.map_err(|error| http::failed(&error))?);
    }
    let answer = if is_batch { serde_json::json!(stored) } else { serde_json::json!(stored.first()) };
    Ok(poem::web::Json(answer).with_status(StatusCode::CREATED).into_response())
}
