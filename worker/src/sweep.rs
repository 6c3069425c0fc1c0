//! Finds dreams that wait for an outcome although no job works on it, and gets them going again.
//!
//! A record and its jobs are several writes; whatever crashed in between (an API after the record and before the jobs, a job that took its
//! worker down too often to be run again, an operator's cancel) left the dream on the list of unsettled ones, where it does not move.

use crate::{Shared, jobs::go_on, shared::report};
use apalis_fred::{JobId, Queue, State};
use futures::{StreamExt, TryStreamExt, stream};
use oneiro_core::dreams::{Change, Dream, DreamId, Image, ImageFailure, ImageState};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Entries of a list that are asked for at once; each is put off by the look, so that the next ones come next.
const ROUND: i64 = 200;
/// Stuck dreams that are looked at side by side.
const LOOKS_AT_ONCE: usize = 8;
/// Uploads may take as long as `http.request_timeout_seconds`, half of this at most; what no record names by then never gets one.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);
/// No run of a job is so long that it still stores variants of an image which was deleted in its midst.
const STORED_WITHIN: Duration = Duration::from_secs(3600);

/// Sweeps until `stop`: helps stuck dreams, which takes Redis only, and beside it removes what nobody needs from the storage, which may not answer.
pub(crate) async fn run(shared: Arc<Shared>, interval: Duration, idle: Duration, stop: CancellationToken) {
    // A backlog has a dream on the list for each that waits for its turn: they are looked at for a third of the time, no more.
    let helping = rounds(&shared, "sweep", interval, &stop, || help(&shared, idle, interval / 3));
    let tidying = rounds(&shared, "tidy", interval, &stop, || tidy(&shared));
    tokio::join!(helping, tidying);
}

/// Of all worker processes one does each round.
async fn rounds<R: Future<Output = Result<(), AnyError>>>(
    shared: &Shared,
    name: &str,
    interval: Duration,
    stop: &CancellationToken,
    round: impl Fn() -> R,
) {
    loop {
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(interval) => {} }
        match shared.dreams.take_turn(name, interval.mul_f64(0.8)).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                tracing::debug!(error = report(&error), "the sweep waits for Redis");
                continue;
            }
        }
        // Whatever it is at can be done again, and an object store that does not answer is not to keep the process from ending.
        tokio::select! {
            () = stop.cancelled() => return,
            swept = round() => if let Err(error) = swept {
                tracing::warn!(error = report(error.as_ref()), "a sweep was cut short");
            }
        }
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// One dream's trouble is logged and put off; it does not keep the others waiting.
async fn help(shared: &Shared, idle: Duration, most: Duration) -> Result<(), AnyError> {
    let begun = Instant::now();
    loop {
        let stuck = shared.dreams.unsettled(idle, ROUND).await?;
        let is_last = (stuck.len() as i64) < ROUND;
        let looks = stream::iter(stuck).map(Ok::<_, AnyError>);
        looks
            .try_for_each_concurrent(LOOKS_AT_ONCE, async |id| {
                if let Err(error) = look_at(shared, id).await {
                    warn(id, error.as_ref(), "a stuck dream could not be helped");
                    shared.dreams.touch(id).await?;
                }
                Ok(())
            })
            .await?;
        if is_last || begun.elapsed() >= most {
            return Ok(());
        }
    }
}

/// Where one entry fails the storage does, or it is put off: either way the others of its list come next time.
async fn tidy(shared: &Shared) -> Result<(), AnyError> {
    for id in shared.dreams.abandoned_uploads(ABANDONED_AFTER, ROUND).await? {
        if let Err(error) = remove_abandoned(shared, id).await {
            warn(id, error.as_ref(), "an abandoned upload could not be removed");
            shared.dreams.begin_addition(id).await?;
            break;
        }
    }
    for (id, folder) in shared.dreams.removed(STORED_WITHIN, ROUND).await? {
        if let Err(error) = remove_again(shared, id, &folder).await {
            warn(id, error.as_ref(), "what may be left of a deleted image could not be removed");
            shared.dreams.note_removed(id, &folder).await?;
            break;
        }
    }
    Ok(())
}

fn warn(id: DreamId, error: &(dyn std::error::Error + 'static), what: &str) {
    tracing::warn!(dream.id = id.get(), error = report(error), "{what}");
}

/// Variants that a job stored while, or after, its image was deleted.
async fn remove_again(shared: &Shared, id: DreamId, folder: &str) -> Result<(), AnyError> {
    let dream = shared.dreams.load(id).await?;
    // A deletion that was given up leaves the image and its variants; one that still goes on notes them again.
    let is_there = dream.iter().flat_map(|dream| &dream.images).any(|image| image.media_prefix() == folder);
    if !is_there {
        let removed = shared.in_time(shared.storage.delete_prefix(folder)).await?;
        if removed > 0 {
            tracing::info!(dream.id = id.get(), removed, "variants that outlived their image were removed");
        }
    }
    Ok(shared.dreams.forget_removed(id, folder).await?)
}

async fn look_at(shared: &Shared, id: DreamId) -> Result<(), AnyError> {
    match shared.dreams.load(id).await? {
        Some(dream) if !dream.is_settled() => revive(shared, dream).await,
        // Settled, or never written.
        _ => Ok(shared.dreams.forget_unsettled(id).await?),
    }
}

/// Pushes what has no live job; settles what has a job that will not run again.
async fn revive(shared: &Shared, dream: Dream) -> Result<(), AnyError> {
    shared.dreams.touch(dream.id).await?;
    // A deletion that failed has no job that works on it; the images behind it may have none either.
    if dream.deletion.is_some() && !dream.has_failed_deletion() {
        return revive_deletion(shared, &dream).await;
    }
    go_on(shared, &dream).await?;
    let mut lost = Vec::new();
    for image in dream.images.iter().filter(|image| image.is_pending()) {
        match fate(&shared.queues.images, image.job.as_deref()).await? {
            Fate::Live => {}
            Fate::Lost => lost.push(image),
            Fate::Dead => {
                settle(
                    shared,
                    &dream,
                    image,
                    "processing_failed",
                    "the image could not be processed; its job was given up",
                )
                .await?;
            }
            Fate::Cancelled => {
                settle(shared, &dream, image, "cancelled", "processing was cancelled by an operator").await?;
            }
        }
    }
    if !lost.is_empty() {
        tracing::warn!(dream.id = dream.id.get(), images = lost.len(), "a dream without live jobs is enqueued again");
        metrics::counter!("oneiro_sweep_reenqueued_total").increment(lost.len() as u64);
        let jobs = shared.queues.process(&dream, &lost).await?;
        let jobs =
            lost.iter().zip(jobs).map(|(image, job)| (image.id, image.generation, job.to_string())).collect::<Vec<_>>();
        shared.dreams.note_jobs(dream.id, &jobs).await?;
    }
    Ok(())
}

/// A deletion whose job is gone gets another; one whose job gave up, or was cancelled, has failed.
async fn revive_deletion(shared: &Shared, dream: &Dream) -> Result<(), AnyError> {
    let job = dream.deletion.as_ref().and_then(|deletion| deletion.job.as_deref());
    match fate(&shared.queues.deletes, job).await? {
        Fate::Live => {}
        Fate::Lost => {
            let job = shared.queues.delete(dream).await?;
            shared.dreams.note_delete_job(dream.id, &job.to_string()).await?;
        }
        Fate::Dead | Fate::Cancelled if dream.is_between() => {
            // What was asked for is deleted; only the sequel was not told.
            go_on(shared, dream).await?;
        }
        Fate::Dead | Fate::Cancelled => {
            let (dream, ()) = shared
                .dreams
                .change(dream.id, |now| {
                    // Somebody may have asked again since, with another job.
                    if now.deletion != dream.deletion {
                        return Change::Keep(());
                    }
                    now.fail_delete();
                    Change::Announce(())
                })
                .await?;
            go_on(shared, &dream).await?;
        }
    }
    Ok(())
}

/// What became of a job.
enum Fate {
    /// It waits or runs.
    Live,
    /// There is none, or it ended as if all were well.
    Lost,
    /// It was given up.
    Dead,
    /// An operator cancelled it.
    Cancelled,
}

async fn fate(queue: &Queue, job: Option<&str>) -> Result<Fate, AnyError> {
    let Some(id) = job.and_then(|id| id.parse::<JobId>().ok()) else { return Ok(Fate::Lost) };
    Ok(match queue.job(&id).await?.map(|job| job.state) {
        Some(State::Dead) => Fate::Dead,
        Some(State::Cancelled) => Fate::Cancelled,
        Some(State::Completed) | None => Fate::Lost,
        Some(_) => Fate::Live,
    })
}

async fn settle(shared: &Shared, dream: &Dream, image: &Image, code: &str, detail: &str) -> Result<(), AnyError> {
    let state = ImageState::Failed(ImageFailure { code: code.to_owned(), detail: detail.to_owned() });
    shared
        .dreams
        .change(dream.id, |dream| {
            // Its last run may have told why it failed since the record was read, which says more.
            let is_waiting = dream.image(image.id).is_some_and(Image::is_pending);
            match is_waiting.then(|| dream.settle(image.id, image.generation, state.clone())).flatten() {
                None => Change::Keep(()),
                Some(false) => Change::Save(()),
                Some(true) => Change::Announce(()),
            }
        })
        .await?;
    Ok(())
}

/// An upload that was cut off before a record named its originals: nobody was told that they exist.
async fn remove_abandoned(shared: &Shared, id: DreamId) -> Result<(), AnyError> {
    let folder = format!("originals/{id}");
    let removed = match shared.dreams.load(id).await? {
        None => shared.in_time(shared.storage.delete_prefix(&folder)).await?,
        Some(dream) => {
            let is_named = |key: &str| dream.images.iter().any(|image| image.original.key == key);
            shared.in_time(shared.storage.delete_older(&folder, ABANDONED_AFTER, is_named)).await?
        }
    };
    if removed > 0 {
        tracing::info!(dream.id = id.get(), removed, "originals of an upload that never finished were removed");
    }
    Ok(shared.dreams.end_upload(id).await?)
}
