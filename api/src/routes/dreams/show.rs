//! `GET /api/dreams/{id}/`.

use super::{State, own_dream};
use crate::{ApiError, state::Bearer};
use oneiro_core::dreams::DreamView;
use poem::{
    handler,
    web::{Data, Json, Path},
};

#[handler]
pub(crate) async fn show(
    state: Data<&State>,
    bearer: Bearer,
    Path(id): Path<String>,
) -> Result<Json<DreamView>, ApiError> {
    let dream = own_dream(&state, &bearer.0, &id).await?;
    Ok(Json(state.dreams.view(&dream)))
}
