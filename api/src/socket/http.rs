//! What the tier's HTTP routes share.

use super::SocketContext;
use crate::ApiError;
use oneiro_core::auth::{AuthError, Claims, Scope};
use oneiro_events::EventError;
use poem::{
    Request,
    http::{StatusCode, header},
};
use std::collections::BTreeMap;

/// The verified bearer of a request.
pub(crate) fn bearer(request: &Request, ctx: &SocketContext) -> Result<Claims, ApiError> {
    let header = request.header(header::AUTHORIZATION).ok_or_else(|| ApiError::unauthorized(&AuthError::Missing))?;
    ctx.verifier.verify(header).map_err(|error| ApiError::unauthorized(&error))
}

/// The same, who must have a scope.
pub(crate) fn bearer_with(request: &Request, ctx: &SocketContext, scope: Scope) -> Result<Claims, ApiError> {
    let claims = bearer(request, ctx)?;
    if claims.has_scope(scope) {
        Ok(claims)
    } else {
        Err(forbidden(&format!("the token lacks the scope `{}`", scope.word())))
    }
}

pub(crate) fn forbidden(detail: &str) -> ApiError {
    ApiError::from_poem(&poem::Error::from_string(detail, StatusCode::FORBIDDEN))
}

/// A query parameter.
pub(crate) fn parameter(request: &Request, name: &str) -> Option<String> {
    let query = request.uri().query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// `limit`, from 1 to `most`; larger ones are cut.
pub(crate) fn limit(request: &Request, default: u64, most: u64) -> Result<u64, ApiError> {
    match parameter(request, "limit") {
        None => Ok(default),
        Some(text) => match text.parse::<u64>() {
            Ok(limit) if limit > 0 => Ok(limit.min(most)),
            _ => Err(wrong("limit", "must be a whole number from 1")),
        },
    }
}

/// 400 for one field.
pub(crate) fn wrong(field: &str, why: &str) -> ApiError {
    ApiError::invalid_fields(BTreeMap::from([(field.to_owned(), why.to_owned())]))
}

pub(crate) fn failed(error: &EventError) -> ApiError {
    tracing::warn!(error = crate::error::report(error), "an event route cannot be served");
    ApiError::unavailable("the service cannot reach its store", None)
}
