//! `POST /api/dreams/{id}/images/`: more images for a dream, in the form of its creation.

use super::{State, enqueue_or_leave, own_dream, to_its_end};
use crate::{
    ApiError,
    state::Bearer,
    upload::{FieldErrors, Received, place_images, receive, utf16_length},
};
use oneiro_core::dreams::{Change, Dream, DreamView, Image, ImageId};
use poem::{
    Body, IntoResponse, Request, Response, handler,
    http::StatusCode,
    web::{Data, Json, Path},
};

#[handler]
pub(crate) async fn add_images(
    state: Data<&State>,
    bearer: Bearer,
    Path(id): Path<String>,
    request: &Request,
    body: Body,
) -> Result<Response, ApiError> {
    let Bearer(claims) = bearer;
    let _place = state.admit_upload(&claims)?;
    state.count_call(&claims).await?;
    let dream = own_dream(&state, &claims, &id).await?;
    state.dreams.begin_addition(dream.id).await?;
    let form =
        tokio::time::timeout(state.config.http.request_timeout(), receive(&state, request, body, dream.id, false));
    let received = form.await.map_err(|_| ApiError::timeout())??;
    let state = State::clone(&state);
    let view = to_its_end(async move { store(&state, &dream, received).await }).await?;
    Ok(Json(view).with_status(StatusCode::CREATED).into_response())
}

async fn store(state: &State, dream: &Dream, mut received: Received) -> Result<DreamView, ApiError> {
    let mut errors = FieldErrors::default();
    if received.files.is_empty() {
        errors.add("imageFile_0", "is missing: send at least one image");
    }
    let most = state.config.uploads.max_images;
    let images = place_images(&received, utf16_length(&dream.content), &mut errors);
    errors.into_result()?;
    let ids: Vec<ImageId> = images.iter().map(|image| image.id).collect();
    let change = state.dreams.change(dream.id, |dream| {
        if dream.is_being_deleted() {
            return Change::Keep(Err(ApiError::not_found("dream")));
        }
        // Part of a commit that was repeated after a lost answer: the images are there already.
        if ids.iter().any(|&id| dream.image(id).is_some()) {
            return Change::Keep(Ok(()));
        }
        if dream.images.len() + images.len() > most {
            let problem = format!("is one image too many: a dream has at most {most}");
            return Change::Keep(FieldErrors::one("imageFile_0", &problem));
        }
        dream.leave_deletion();
        dream.images.extend(images.iter().cloned().map(Image::from));
        Change::Announce(Ok(()))
    });
    let (dream, outcome) = change.await.inspect_err(|_| {
        // It is unknown whether the record names the images by now, so their originals stay.
        received.keep();
    })?;
    outcome?;
    received.keep();
    enqueue_or_leave(state, &dream, &ids).await;
    metrics::counter!("oneiro_images_accepted_total").increment(ids.len() as u64);
    Ok(state.dreams.view(&dream))
}
