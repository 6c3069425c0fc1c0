//! How a dream, or some of its images, goes.

use super::{Dream, ImageId};
use serde::{Deserialize, Serialize};

/// What is being deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// These images, or the whole dream where `None`.
    pub images: Option<Vec<ImageId>>,
    /// How far it is.
    pub state: DeletionState,
    /// Id of the job that carries it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The last image came to its outcome while the deletion was under way: should it be given up, that outcome is yet to be told.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_untold: bool,
}

/// How far a deletion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeletionState {
    /// A job waits or runs.
    Processing,
    /// Done.
    Completed,
    /// Given up.
    Failed,
}

impl Dream {
    /// Whether the whole dream is gone: its record is only a tombstone.
    pub fn is_deleted(&self) -> bool {
        matches!(&self.deletion, Some(Deletion { images: None, state: DeletionState::Completed, .. }))
    }

    /// Whether the whole dream is gone or about to go.
    pub fn is_being_deleted(&self) -> bool {
        matches!(
            &self.deletion,
            Some(Deletion { images: None, state: DeletionState::Processing | DeletionState::Completed, .. })
        )
    }

    /// Whether an image is gone, or about to go with a deletion that waits or runs: nothing is made of it any more.
    pub fn is_leaving(&self, id: ImageId) -> bool {
        let goes = matches!(
            &self.deletion,
            Some(Deletion { images, state: DeletionState::Processing | DeletionState::Completed, .. })
                if images.as_ref().is_none_or(|ids| ids.contains(&id))
        );
        goes || self.image(id).is_none()
    }

    /// Whether a deletion was given up.
    pub fn has_failed_deletion(&self) -> bool {
        matches!(&self.deletion, Some(Deletion { state: DeletionState::Failed, .. }))
    }

    /// Whether images were deleted and the state of what is left is yet to be told.
    pub fn is_between(&self) -> bool {
        matches!(&self.deletion, Some(Deletion { images: Some(_), state: DeletionState::Completed, .. }))
    }

    /// Whether a deletion was given up and hides an outcome of the images that nobody was told.
    pub(super) fn has_untold_outcome(&self) -> bool {
        matches!(&self.deletion, Some(Deletion { state: DeletionState::Failed, has_untold: true, .. }))
    }

    /// Whether a deletion is over, done or given up, and the state in which the dream goes on was told to nobody.
    pub fn owes_its_state(&self) -> bool {
        self.is_between() || self.has_untold_outcome()
    }

    /// Lets go of a deletion that failed, or whose sequel is yet to be told, because the dream goes on.
    pub fn leave_deletion(&mut self) {
        if self.is_between() || self.has_failed_deletion() {
            self.deletion = None;
        }
    }

    /// Marks the dream, or some of its images, for deletion. `false` where the whole dream is already going.
    pub fn begin_delete(&mut self, images: Option<Vec<ImageId>>) -> bool {
        if self.is_being_deleted() {
            return false;
        }
        let has_untold = self.deletion.as_ref().is_some_and(|deletion| deletion.has_untold);
        let images = match (images, self.deletion.take()) {
            (None, _) => None,
            // A partial deletion under way takes the new images along; one that failed before is asked for again with them.
            (
                Some(mut wanted),
                Some(Deletion {
                    images: Some(earlier), state: DeletionState::Processing | DeletionState::Failed, ..
                }),
            ) => {
                wanted.extend(earlier);
                Some(wanted)
            }
            (Some(wanted), _) => Some(wanted),
        };
        let images = images.map(|mut ids| {
            ids.sort_unstable();
            ids.dedup();
            ids
        });
        self.deletion = Some(Deletion { images, state: DeletionState::Processing, job: None, has_untold });
        true
    }

    /// Takes up a deletion that was given up. `false` where there is none.
    pub fn resume_delete(&mut self) -> bool {
        match &mut self.deletion {
            Some(deletion) if deletion.state == DeletionState::Failed => {
                deletion.state = DeletionState::Processing;
                true
            }
            _ => false,
        }
    }

    /// Records that the objects are gone. The dream itself becomes a tombstone without text; a partial deletion drops its images.
    pub fn finish_delete(&mut self) {
        let Some(deletion) = &mut self.deletion else { return };
        deletion.state = DeletionState::Completed;
        match deletion.images.clone() {
            Some(ids) => self.images.retain(|image| !ids.contains(&image.id)),
            None => {
                self.images.clear();
                self.title.clear();
                self.content.clear();
                for labels in
                    [&mut self.categories, &mut self.theme_tags, &mut self.character_tags, &mut self.location_tags]
                {
                    labels.clear();
                }
            }
        }
    }

    /// Records that the delete job gave up.
    pub fn fail_delete(&mut self) {
        if let Some(deletion) = &mut self.deletion {
            deletion.state = DeletionState::Failed;
        }
    }
}
