//! `delete_images`: removes the objects that a dream's record marks, then tells.

use super::Failure;
use crate::Shared;
use apalis_core::{error::BoxDynError, task::data::Data};
use apalis_fred::JobContext;
use oneiro_core::{
    dreams::{Change, Deletion, DeletionState, Dream, Image, ImageId, StoreError},
    jobs::DeleteImages,
};
use std::sync::Arc;

/// Removes originals and variants and tells `delete_completed`; the last attempt that fails tells `delete_failed`.
pub(crate) async fn delete_images(
    args: DeleteImages,
    shared: Data<Arc<Shared>>,
    job: JobContext,
) -> Result<(), BoxDynError> {
    let mut extent = None;
    let outcome = run(&args, &shared, &mut extent).await;
    if let Err(error) = &outcome {
        tracing::warn!(job.id = %job.id(), dream.id = args.dream_id.get(), attempt = job.attempt(), %error, "deletion failed");
        if job.is_last_attempt() {
            give_up(&shared, &args, extent.as_ref()).await.map_err(|failure| failure.into_error(job.attempt()))?;
        }
    } else {
        tracing::info!(job.id = %job.id(), dream.id = args.dream_id.get(), "deletion done");
    }
    outcome.map_err(|failure| failure.into_error(job.attempt()))
}

/// What is deleted, and how far that is: a job changes only a deletion that is still as the job read it.
type Extent = Option<(Option<Vec<ImageId>>, DeletionState)>;

fn extent_of(dream: &Dream) -> Extent {
    dream.deletion.as_ref().map(|deletion| (deletion.images.clone(), deletion.state))
}

async fn run(args: &DeleteImages, shared: &Shared, extent: &mut Option<Extent>) -> Result<(), Failure> {
    let dream = shared
        .dreams
        .load(args.dream_id)
        .await
        .map_err(|error| Failure::unavailable("cannot read the dream's record", error))?;
    let Some(mut dream) = dream else { return Ok(()) };
    if dream.has_failed_deletion() {
        // An operator runs the job again that gave up.
        let Some(taken_up) = take_up(shared, args).await? else { return Ok(()) };
        dream = taken_up;
    }
    *extent = Some(extent_of(&dream));
    match &dream.deletion {
        Some(Deletion { images, state: DeletionState::Processing, .. }) => {
            for image in dream.images.iter().filter(|image| images.as_ref().is_none_or(|ids| ids.contains(&image.id))) {
                remove(shared, &dream, image).await?;
            }
            if images.is_none() {
                // Originals of uploads that never made it into the record.
                let prefix = format!("originals/{}", dream.id);
                shared
                    .in_time(shared.storage.delete_prefix(&prefix))
                    .await
                    .map_err(|error| Failure::unavailable("cannot remove originals", error))?;
            }
            finish(shared, &dream).await
        }
        // An earlier run was killed between the two steps of a partial deletion.
        Some(_) => go_on(shared, &dream).await.map_err(untold),
        None => Ok(()),
    }
}

/// Tells `delete_processing` again. `None` where the dream is gone by now.
async fn take_up(shared: &Shared, args: &DeleteImages) -> Result<Option<Dream>, Failure> {
    let changed = shared.dreams.change(args.dream_id, |dream| match dream.resume_delete() {
        true => Change::Announce(()),
        false => Change::Keep(()),
    });
    match changed.await {
        Ok((dream, ())) => Ok(Some(dream)),
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(error) => Err(Failure::unavailable("cannot take up a deletion that failed", error)),
    }
}

async fn remove(shared: &Shared, dream: &Dream, image: &Image) -> Result<(), Failure> {
    let folder = image.media_prefix();
    if image.is_pending() {
        // A run of its job may be storing variants, and come to its end before it sees that they are not wanted.
        let noted = shared.dreams.note_removed(dream.id, &folder).await;
        noted.map_err(|error| Failure::unavailable("cannot note what is removed", error))?;
    }
    let variants = shared.in_time(shared.storage.delete_prefix(&folder)).await;
    variants.map_err(|error| Failure::unavailable("cannot remove variants", error))?;
    let original = shared.in_time(shared.storage.delete(&image.original.key)).await;
    original.map_err(|error| Failure::unavailable("cannot remove an original", error))
}

/// Tells `delete_completed`. Images that were added to the deletion since we read the record are left to the job that their request pushed.
async fn finish(shared: &Shared, read: &Dream) -> Result<(), Failure> {
    let changed = shared.dreams.change(read.id, |dream| {
        if extent_of(dream) != extent_of(read) {
            return Change::Keep(());
        }
        dream.finish_delete();
        Change::Announce(())
    });
    match changed.await {
        // Finished by this run, or by one before it that was killed behind it.
        Ok((dream, ())) => go_on(shared, &dream).await.map_err(untold),
        Err(StoreError::NotFound(_)) => Ok(()),
        Err(error) => Err(Failure::unavailable("cannot write the deletion's outcome", error)),
    }
}

fn untold(error: StoreError) -> Failure {
    Failure::unavailable("cannot write the dream's state after a deletion", error)
}

/// Behind a deletion of images, or one that was given up, tells the state in which the dream goes on, where that is owed.
pub(crate) async fn go_on(shared: &Shared, dream: &Dream) -> Result<(), StoreError> {
    if !dream.owes_its_state() {
        return Ok(());
    }
    let changed = shared.dreams.change(dream.id, |dream| {
        // Somebody may have told it since, or begun another deletion.
        if !dream.owes_its_state() {
            return Change::Keep(());
        }
        dream.leave_deletion();
        Change::Announce(())
    });
    match changed.await {
        Ok(_) | Err(StoreError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Tells `delete_failed`, unless more was asked to be deleted since the job read what: then another job works on that.
async fn give_up(shared: &Shared, args: &DeleteImages, read: Option<&Extent>) -> Result<(), Failure> {
    let changed = shared.dreams.change(args.dream_id, |dream| {
        let is_ours = read.is_none_or(|read| extent_of(dream) == *read);
        if is_ours && matches!(&dream.deletion, Some(Deletion { state: DeletionState::Processing, .. })) {
            dream.fail_delete();
            Change::Announce(())
        } else {
            Change::Keep(())
        }
    });
    match changed.await {
        Ok((dream, ())) => go_on(shared, &dream).await,
        Err(StoreError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(|error| Failure::unavailable("cannot tell that the deletion failed", error))
}
