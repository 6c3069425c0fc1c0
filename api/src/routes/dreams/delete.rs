//! `DELETE /api/dreams/{id}/` and `DELETE /api/dreams/{id}/images/{image_id}/`: mark, push a job, answer 202; the socket tells the rest.

use super::{State, delete_or_leave, own_dream, to_its_end};
use crate::{ApiError, state::Bearer};
use oneiro_core::dreams::{Change, Dream, DreamStatus, ImageId};
use poem::{
    IntoResponse, Response, handler,
    http::StatusCode,
    web::{Data, Json, Path},
};

#[handler]
pub(crate) async fn delete(state: Data<&State>, bearer: Bearer, Path(id): Path<String>) -> Result<Response, ApiError> {
    state.count_call(&bearer.0).await?;
    let dream = own_dream(&state, &bearer.0, &id).await?;
    begin(&state, dream, None).await
}

#[handler]
pub(crate) async fn delete_image(
    state: Data<&State>,
    bearer: Bearer,
    Path((id, image_id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    state.count_call(&bearer.0).await?;
    let dream = own_dream(&state, &bearer.0, &id).await?;
    let image = ImageId::parse(&image_id)
        .filter(|&id| dream.image(id).is_some())
        .ok_or_else(|| ApiError::not_found("image"))?;
    begin(&state, dream, Some(image)).await
}

async fn begin(state: &State, dream: Dream, image: Option<ImageId>) -> Result<Response, ApiError> {
    let state = State::clone(state);
    let dream = to_its_end(async move {
        let wanted = image.map(|id| vec![id]);
        let (dream, ()) = state
            .dreams
            .change(dream.id, |dream| {
                // Asking again while it is under way pushes the same job again, which adds nothing.
                if dream.begin_delete(wanted.clone()) { Change::Announce(()) } else { Change::Keep(()) }
            })
            .await?;
        if dream.status == DreamStatus::DeleteProcessing {
            delete_or_leave(&state, &dream).await;
        }
        Ok(dream)
    })
    .await?;
    let body = serde_json::json!({ "id": dream.id, "status": dream.status, "version": dream.version });
    Ok(Json(body).with_status(StatusCode::ACCEPTED).into_response())
}
