//! `GET /api/dreams/?limit&cursor`: one's own dreams, newest first.

use super::State;
use crate::{ApiError, state::Bearer, upload::FieldErrors};
use oneiro_core::dreams::{DreamId, DreamView};
use poem::{
    handler,
    web::{Data, Json, Query},
};
use serde::{Deserialize, Serialize};

const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;

#[derive(Deserialize)]
pub(crate) struct Page {
    limit: Option<String>,
    cursor: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct Dreams {
    results: Vec<DreamView>,
    /// The next page's `cursor`, `null` at the end.
    next: Option<String>,
}

#[handler]
pub(crate) async fn list(
    state: Data<&State>,
    bearer: Bearer,
    Query(page): Query<Page>,
) -> Result<Json<Dreams>, ApiError> {
    let limit = match page.limit.as_deref().map(str::parse::<usize>) {
        None => DEFAULT_LIMIT,
        Some(Ok(limit)) if (1..=MAX_LIMIT).contains(&limit) => limit,
        Some(_) => return FieldErrors::one("limit", &format!("must be a whole number from 1 to {MAX_LIMIT}")),
    };
    let before = match page.cursor.as_deref().filter(|cursor| !cursor.is_empty()) {
        None => None,
        Some(cursor) => match DreamId::parse(cursor) {
            Some(id) => Some(id),
            None => return FieldErrors::one("cursor", "is not one that this list gave"),
        },
    };
    let page = state.dreams.list(&bearer.0.user_id, limit, before).await?;
    let results = page.dreams.iter().map(|dream| state.dreams.view(dream)).collect();
    Ok(Json(Dreams { results, next: page.next.map(|id| id.to_string()) }))
}
