//! `POST /api/dreams/`: stores the originals, writes the record, pushes the jobs, and only then answers.

use super::{State, delete_or_leave, enqueue, to_its_end};
use crate::{
    ApiError,
    error::report,
    state::Bearer,
    upload::{Received, parse_text, receive},
};
use oneiro_core::{
    auth::Claims,
    clock,
    dreams::{Change, Dream, DreamId, DreamView, ImageId, StoreError},
};
use poem::{
    Body, IntoResponse, Request, Response, handler,
    http::StatusCode,
    web::{Data, Json},
};

#[handler]
pub(crate) async fn create(
    state: Data<&State>,
    bearer: Bearer,
    request: &Request,
    body: Body,
) -> Result<Response, ApiError> {
    let Bearer(claims) = bearer;
    let _place = state.admit_upload(&claims)?;
    state.count_call(&claims).await?;
    let id = state.dreams.begin().await?;
    let form = tokio::time::timeout(state.config.http.request_timeout(), receive(&state, request, body, id, true));
    let received = form.await.map_err(|_| ApiError::timeout())??;
    let state = State::clone(&state);
    let view = to_its_end(async move { store(&state, claims, id, received).await }).await?;
    Ok(Json(view).with_status(StatusCode::CREATED).into_response())
}

async fn store(state: &State, claims: Claims, id: DreamId, mut received: Received) -> Result<DreamView, ApiError> {
    let (text, images) = parse_text(&received, &state.config.uploads)?;
    let dream = Dream::new(id, claims.user_id, text, images, clock::naive_local(), clock::unix_seconds());
    let view = state.dreams.view(&dream);
    let ids: Vec<ImageId> = dream.images.iter().map(|image| image.id).collect();
    let stored = async {
        state.dreams.enlist(&dream).await?;
        state.dreams.create(&dream).await?;
        if !ids.is_empty() {
            enqueue(state, &dream, &ids).await?;
        } else if let Err(error) = state.dreams.forget_unsettled(id).await {
            tracing::debug!(
                dream.id = id.get(),
                error = report(&error),
                "a dream without images stays on the sweep's list"
            );
        }
        Ok::<(), ApiError>(())
    };
    if let Err(error) = stored.await {
        withdraw(state, &dream, received).await;
        return Err(error);
    }
    received.keep();
    metrics::counter!("oneiro_dreams_created_total").increment(1);
    metrics::counter!("oneiro_images_accepted_total").increment(ids.len() as u64);
    tracing::info!(dream.id = id.get(), images = ids.len(), "dream accepted");
    Ok(view)
}

/// The caller is about to hear that nothing was kept, so nothing should be: a record that was written is marked for deletion, and a job is
/// pushed for it, or the sweep carries it out; originals without a record are removed. Where Redis does not even take the mark, it is
/// unknown what was written: then the sweep, when Redis is back, either removes the originals or finishes the dream, which is on its
/// owner's list.
async fn withdraw(state: &State, dream: &Dream, mut received: Received) {
    let marked = state.dreams.change(dream.id, |there| {
        // Where Redis lost its last moments, an id is given twice, and the record may be somebody else's.
        let is_ours = there.is_of_upload(dream);
        if is_ours && there.begin_delete(None) { Change::Announce(true) } else { Change::Keep(is_ours) }
    });
    match marked.await {
        Ok((marked, true)) => {
            received.keep();
            delete_or_leave(state, &marked).await;
        }
        Ok((_, false)) | Err(StoreError::NotFound(_)) => drop(received),
        Err(error) => {
            received.keep();
            tracing::warn!(dream.id = dream.id.get(), error = report(&error), "a refused dream could not be withdrawn");
        }
    }
}
