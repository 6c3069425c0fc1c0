//! `/api/dreams/`: the paths of the seeds.

pub(super) mod add_images;
pub(super) mod create;
pub(super) mod delete;
pub(super) mod list;
pub(super) mod patch;
pub(super) mod retry;
pub(super) mod show;

use crate::{ApiError, AppState, error::report};
use oneiro_core::{
    auth::Claims,
    dreams::{Dream, DreamId, Image, ImageId},
};
use std::{future::Future, sync::Arc};

/// The caller's own dream. One that is not there, is gone, or is somebody else's cannot be told apart.
async fn own_dream(state: &AppState, claims: &Claims, id: &str) -> Result<Dream, ApiError> {
    let id = DreamId::parse(id).ok_or_else(|| ApiError::not_found("dream"))?;
    let dream = state.dreams.load(id).await?;
    dream.filter(|dream| dream.is_visible_to(claims) && !dream.is_deleted()).ok_or_else(|| ApiError::not_found("dream"))
}

/// Pushes the jobs of these pending images and notes their ids in the record, where the sweep looks them up.
async fn enqueue(state: &AppState, dream: &Dream, ids: &[ImageId]) -> Result<(), ApiError> {
    let images: Vec<&Image> = dream.images.iter().filter(|image| ids.contains(&image.id)).collect();
    let jobs = state.queues.process(dream, &images).await?;
    let jobs: Vec<(ImageId, u32, String)> =
        images.iter().zip(jobs).map(|(image, job)| (image.id, image.generation, job.to_string())).collect();
    if let Err(error) = state.dreams.note_jobs(dream.id, &jobs).await {
        // The jobs are stored; without the note the sweep pushes them once more, which adds nothing.
        tracing::warn!(dream.id = dream.id.get(), error = report(&error), "the ids of a dream's jobs were not noted");
    }
    Ok(())
}

/// The same where the record says `processing` already: what cannot be pushed now, the sweep pushes within seconds, so the call succeeded.
async fn enqueue_or_leave(state: &AppState, dream: &Dream, ids: &[ImageId]) {
    if let Err(error) = enqueue(state, dream, ids).await {
        tracing::warn!(dream.id = dream.id.get(), %error, "the sweep has to push a dream's jobs");
    }
}

/// Pushes the job of a deletion that the record names already: what cannot be pushed now, the sweep pushes within seconds.
async fn delete_or_leave(state: &AppState, dream: &Dream) {
    let pushed = async {
        let job = state.queues.delete(dream).await?;
        Ok::<(), ApiError>(state.dreams.note_delete_job(dream.id, &job.to_string()).await?)
    };
    if let Err(error) = pushed.await {
        tracing::warn!(dream.id = dream.id.get(), %error, "the sweep has to push a deletion's job");
    }
}

/// Runs a storing handler to its end even where the client hangs up in the middle, so that nothing is left half done.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    let span = tracing::Span::current();
    match tokio::spawn(tracing::Instrument::instrument(work, span)).await {
        Ok(outcome) => outcome,
        Err(error) => {
            tracing::error!(%error, "a handler panicked");
            Err(ApiError::internal())
        }
    }
}

/// What the routes pass around.
type State = Arc<AppState>;
