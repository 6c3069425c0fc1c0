//! `PATCH /api/dreams/{id}/`: title, content, categories, tags. Images stay where they are.

use super::{State, own_dream};
use crate::{ApiError, state::Bearer, upload::parse_patch};
use oneiro_core::dreams::{Change, DreamView};
use poem::{
    Body, handler,
    web::{Data, Json, Path},
};

/// Enough for the longest content, escaped.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

#[handler]
pub(crate) async fn patch(
    state: Data<&State>,
    bearer: Bearer,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<DreamView>, ApiError> {
    // Its body is held in memory while it comes.
    let _place = state.admit_upload(&bearer.0)?;
    state.count_call(&bearer.0).await?;
    let dream = own_dream(&state, &bearer.0, &id).await?;
    let body = tokio::time::timeout(state.config.http.request_timeout(), body.into_bytes_limit(MAX_BODY_BYTES)).await;
    let body = body.map_err(|_| ApiError::timeout())?.map_err(|error| match error {
        poem::error::ReadBodyError::PayloadTooLarge => ApiError::too_large(None, MAX_BODY_BYTES as u64),
        other => ApiError::malformed(other.to_string()),
    })?;
    let patch = parse_patch(&body, &state.config.uploads)?;
    drop(body);
    let (dream, found) = state
        .dreams
        .change(dream.id, |dream| {
            if dream.is_being_deleted() {
                return Change::Keep(false);
            }
            dream.patch(patch.clone());
            Change::Save(true)
        })
        .await?;
    if found { Ok(Json(state.dreams.view(&dream))) } else { Err(ApiError::not_found("dream")) }
}
