//! `POST /api/dreams/{id}/images/retry/`: the failed images of one's own dream once more.

use super::{State, enqueue_or_leave, own_dream, to_its_end};
use crate::{ApiError, state::Bearer};
use oneiro_core::dreams::{Change, DreamView};
use poem::{
    IntoResponse, Response, handler,
    http::StatusCode,
    web::{Data, Json, Path},
};

#[handler]
pub(crate) async fn retry(state: Data<&State>, bearer: Bearer, Path(id): Path<String>) -> Result<Response, ApiError> {
    state.count_call(&bearer.0).await?;
    let dream = own_dream(&state, &bearer.0, &id).await?;
    let state = State::clone(&state);
    let view: DreamView = to_its_end(async move {
        let (dream, failed) = state
            .dreams
            .change(dream.id, |dream| {
                if dream.is_being_deleted() {
                    return Change::Keep(Vec::new());
                }
                match dream.retry_failed() {
                    failed if failed.is_empty() => Change::Keep(failed),
                    failed => Change::Announce(failed),
                }
            })
            .await?;
        if failed.is_empty() {
            return Err(ApiError::conflict("no image of this dream has failed"));
        }
        enqueue_or_leave(&state, &dream, &failed).await;
        Ok(state.dreams.view(&dream))
    })
    .await?;
    Ok(Json(view).with_status(StatusCode::ACCEPTED).into_response())
}
