//! Finds dreams that wait for an outcome although no job works on it, and gets them going again.
//!
//! A record and its jobs are several writes; whatever crashed in between (an API after the record and before the jobs, a job that took its
//! worker down too often to be run again, an operator's cancel) left the dream on the list of unsettled ones, where it does not move.

use crate::{Shared, shared::report};
use apalis_fred::{JobId, State};
use oneiro_core::dreams::{Change, DeletionState, Dream, DreamId, DreamStatus, Image, ImageFailure, ImageState};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Dreams looked at in one round; the next round takes the next ones.
const ROUND: i64 = 200;
/// Uploads may take as long as `http.request_timeout_seconds`; what has no record by then never gets one.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// Sweeps until `stop`. Of all worker processes one does each round.
pub(crate) async fn run(shared: Arc<Shared>, interval: Duration, idle: Duration, stop: CancellationToken) {
    loop {
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(interval) => {} }
        match shared.dreams.take_turn("sweep", interval.mul_f64(0.8)).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                tracing::debug!(error = report(&error), "the sweep waits for Redis");
                continue;
            }
        }
        if let Err(error) = round(&shared, idle).await {
            tracing::warn!(error = report(error.as_ref()), "a sweep was cut short");
        }
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

async fn round(shared: &Shared, idle: Duration) -> Result<(), AnyError> {
    let stuck = shared.dreams.unsettled(idle, ROUND).await?;
    if stuck.is_empty() {
        return Ok(());
    }
    let abandoned = shared.dreams.unsettled(ABANDONED_AFTER, ROUND).await?;
    for id in stuck {
        match shared.dreams.load(id).await? {
            Some(dream) if dream.is_settled() => shared.dreams.forget_unsettled(id).await?,
            Some(dream) => revive(shared, dream).await?,
            None if abandoned.contains(&id) => remove_abandoned(shared, id).await?,
            // Being uploaded.
            None => {}
        }
    }
    Ok(())
}

/// Pushes what has no live job; settles what has a job that will not run again.
async fn revive(shared: &Shared, dream: Dream) -> Result<(), AnyError> {
    shared.dreams.touch(dream.id).await?;
    if dream.status == DreamStatus::DeleteProcessing {
        // The key of the job is the dream and its version, so pushing adds nothing while one lives.
        if dream.deletion.as_ref().is_some_and(|deletion| deletion.state == DeletionState::Processing) {
            shared.queues.delete(&dream).await?;
        }
        return Ok(());
    }
    // Its upload may have been cut off before this, and what runs to its end should be seen.
    shared.dreams.enlist(&dream).await?;
    let mut lost = Vec::new();
    for image in dream.images.iter().filter(|image| image.is_pending()) {
        match fate(shared, image).await? {
            Fate::Live => {}
            Fate::Lost => lost.push(image),
            Fate::Over(failure) => settle(shared, &dream, image, failure).await?,
        }
    }
    if !lost.is_empty() {
        tracing::warn!(dream.id = dream.id.get(), images = lost.len(), "a dream without live jobs is enqueued again");
        metrics::counter!("oneiro_sweep_reenqueued_total").increment(lost.len() as u64);
        let jobs = shared.queues.process(&dream, &lost).await?;
        let noted: Vec<_> =
            lost.iter().zip(jobs).map(|(image, job)| (image.id, image.generation, job.to_string())).collect();
        shared
            .dreams
            .change(dream.id, |dream| {
                for (id, generation, job) in &noted {
                    if let Some(image) = dream.images.iter_mut().find(|i| i.id == *id && i.generation == *generation) {
                        image.job = Some(job.clone());
                    }
                }
                Change::Save(())
            })
            .await?;
    }
    Ok(())
}

enum Fate {
    /// Its job waits or runs.
    Live,
    /// It has no job.
    Lost,
    /// Its job ended without settling it.
    Over(ImageFailure),
}

async fn fate(shared: &Shared, image: &Image) -> Result<Fate, AnyError> {
    let Some(id) = image.job.as_deref().and_then(|id| id.parse::<JobId>().ok()) else { return Ok(Fate::Lost) };
    let over = |code: &str, detail: &str| Fate::Over(ImageFailure { code: code.to_owned(), detail: detail.to_owned() });
    Ok(match shared.queues.images.job(&id).await?.map(|job| job.state) {
        Some(State::Dead) => over("processing_failed", "the image could not be processed; its job was given up"),
        Some(State::Cancelled) => over("cancelled", "processing was cancelled by an operator"),
        // Completed without an outcome in the record, or already forgotten: run it again.
        Some(State::Completed) | None => Fate::Lost,
        Some(_) => Fate::Live,
    })
}

async fn settle(shared: &Shared, dream: &Dream, image: &Image, failure: ImageFailure) -> Result<(), AnyError> {
    let state = ImageState::Failed(failure);
    shared
        .dreams
        .change(dream.id, |dream| match dream.settle(image.id, image.generation, state.clone()) {
            None => Change::Keep(()),
            Some(false) => Change::Save(()),
            Some(true) => Change::Announce(()),
        })
        .await?;
    Ok(())
}

/// An upload that was cut off before its record was written: nobody was told that it exists.
async fn remove_abandoned(shared: &Shared, id: DreamId) -> Result<(), AnyError> {
    let removed = shared.storage.delete_prefix(&format!("originals/{id}")).await?;
    tracing::info!(dream.id = id.get(), removed, "originals of an upload that never finished were removed");
    shared.dreams.forget_unsettled(id).await?;
    Ok(())
}
