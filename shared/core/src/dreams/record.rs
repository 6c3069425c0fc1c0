//! The dream's record and the moves it allows. Pure: no clock, no Redis; [`super::DreamStore`] makes each move durable.

mod deletion;

pub use deletion::{Deletion, DeletionState};

use super::{DreamId, ImageId};
use crate::auth::{Claims, UserId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The state that clients see, in the seeds' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DreamStatus {
    /// At least one image is waiting for its outcome.
    Processing,
    /// Every image has its outcome, and at least one (or none was asked for) succeeded.
    Completed,
    /// Every image has its outcome, and none succeeded.
    Failed,
    /// A delete job waits or runs.
    DeleteProcessing,
    /// What was to be deleted is gone.
    DeleteCompleted,
    /// The delete job gave up; asking again starts another.
    DeleteFailed,
}

/// A dream as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dream {
    /// Its id.
    pub id: DreamId,
    /// Who may see and change it.
    pub owner: UserId,
    /// Title as sent, without surrounding blanks.
    pub title: String,
    /// The text; images stand at offsets of its UTF-16 code units.
    pub content: String,
    /// Free labels.
    pub categories: Vec<String>,
    /// Labels of what it is about.
    pub theme_tags: Vec<String>,
    /// Labels of who appears.
    pub character_tags: Vec<String>,
    /// Labels of where it takes place.
    pub location_tags: Vec<String>,
    /// Naive local time, as the seeds' REST answers carry it.
    pub created_at: String,
    /// The state that was told last.
    pub status: DreamStatus,
    /// Unix seconds of the last change of state.
    pub status_at: f64,
    /// Rises with each event; clients drop what is older than what they have.
    pub version: u64,
    /// In the order of their numbers.
    pub images: Vec<Image>,
    /// What is being deleted, where something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
}

/// One photograph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Random part of its object keys: ids can be counted, URLs must not be guessable.
    pub secret: String,
    /// Offset into the content in UTF-16 code units, as the client gave it.
    pub position: u64,
    /// What was uploaded.
    pub original: Original,
    /// Where it stands.
    pub state: ImageState,
    /// Rises with each retry, so that a late outcome of an earlier run is recognised.
    #[serde(default)]
    pub generation: u32,
    /// Id of the job that works on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

/// The stored original. It is never served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// Object key.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Media type by its first bytes, not by its name.
    pub content_type: String,
}

/// Where an image stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ImageState {
    /// A job waits or runs.
    Pending,
    /// It has its variants.
    Completed(ImageResult),
    /// It has none, and why.
    Failed(ImageFailure),
}

/// What the pipeline made of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageResult {
    /// Width in pixels as displayed, of the original.
    pub width: u32,
    /// Height in pixels as displayed, of the original.
    pub height: u32,
    /// Thumbhash in Base64.
    pub placeholder: String,
    /// `#rrggbb`.
    pub dominant_color: String,
    /// Perceptual hash, 16 hexadecimal digits.
    pub perceptual_hash: String,
    /// Name of the variant whose URL is the image's.
    pub default_variant: String,
    /// By name.
    pub variants: BTreeMap<String, VariantRecord>,
}

/// One stored variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantRecord {
    /// Object key.
    pub key: String,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Size in bytes.
    pub bytes: u64,
    /// `jpeg`, `webp`, `png` or `avif`.
    pub format: String,
}

/// Why an image has no variants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFailure {
    /// Stable word.
    pub code: String,
    /// A sentence for people.
    pub detail: String,
}

/// The text fields of a new dream, already checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields of Dream")]
pub struct NewText {
    pub title: String,
    pub content: String,
    pub categories: Vec<String>,
    pub theme_tags: Vec<String>,
    pub character_tags: Vec<String>,
    pub location_tags: Vec<String>,
}

/// Changes of the text fields; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the fields of Dream")]
pub struct TextPatch {
    pub title: Option<String>,
    pub content: Option<String>,
    pub categories: Option<Vec<String>>,
    pub theme_tags: Option<Vec<String>>,
    pub character_tags: Option<Vec<String>>,
    pub location_tags: Option<Vec<String>>,
}

/// A stored original that becomes an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of Image")]
pub struct NewImage {
    pub id: ImageId,
    pub secret: String,
    pub position: u64,
    pub original: Original,
}

impl From<NewImage> for Image {
    fn from(new: NewImage) -> Self {
        let NewImage { id, secret, position, original } = new;
        Self { id, secret, position, original, state: ImageState::Pending, generation: 1, job: None }
    }
}

impl Image {
    /// Where its variants live: `media/{id}-{secret}`.
    pub fn media_prefix(&self) -> String {
        format!("media/{}-{}", self.id, self.secret)
    }

    /// Whether a job still has to decide about it.
    pub fn is_pending(&self) -> bool {
        self.state == ImageState::Pending
    }
}

impl Dream {
    /// A new record in its first state: `processing`, or `completed` where it has no images.
    pub fn new(id: DreamId, owner: UserId, text: NewText, images: Vec<NewImage>, created_at: String, now: f64) -> Self {
        let NewText { title, content, categories, theme_tags, character_tags, location_tags } = text;
        let images = images.into_iter().map(Image::from).collect();
        let status = DreamStatus::Processing;
        let mut dream = Self {
            id,
            owner,
            title,
            content,
            categories,
            theme_tags,
            character_tags,
            location_tags,
            created_at,
            status,
            status_at: now,
            version: 1,
            images,
            deletion: None,
        };
        dream.status = dream.derived_status();
        dream
    }

    /// Whether both are of one upload, however far this one got since: what is random in the keys of its images is nobody else's, and without
    /// images its text and time tell.
    pub fn is_of_upload(&self, other: &Self) -> bool {
        fn secrets(dream: &Dream) -> impl Iterator<Item = &String> {
            dream.images.iter().map(|image| &image.secret)
        }
        fn text(dream: &Dream) -> [&String; 3] {
            [&dream.title, &dream.content, &dream.created_at]
        }
        self.owner == other.owner
            && secrets(self).eq(secrets(other))
            && (!other.images.is_empty() || text(self) == text(other))
    }

    /// Whether a bearer of these claims may see and change it: its owner only.
    pub fn is_visible_to(&self, claims: &Claims) -> bool {
        self.owner == claims.user_id
    }

    /// Whether no job has anything to decide any more. After a deletion that failed, images may still wait for their outcome.
    pub fn is_settled(&self) -> bool {
        let is_under_way = matches!(self.status, DreamStatus::Processing | DreamStatus::DeleteProcessing);
        let is_stranded = self.has_failed_deletion() && self.images.iter().any(Image::is_pending);
        !is_under_way && !is_stranded && !self.owes_its_state()
    }

    /// Finds an image.
    pub fn image(&self, id: ImageId) -> Option<&Image> {
        self.images.iter().find(|image| image.id == id)
    }

    /// The state that the record's content amounts to.
    pub fn derived_status(&self) -> DreamStatus {
        if let Some(deletion) = &self.deletion {
            return match deletion.state {
                DeletionState::Processing => DreamStatus::DeleteProcessing,
                DeletionState::Completed => DreamStatus::DeleteCompleted,
                DeletionState::Failed => DreamStatus::DeleteFailed,
            };
        }
        let succeeded = self.images.iter().any(|image| matches!(image.state, ImageState::Completed(_)));
        if self.images.iter().any(Image::is_pending) {
            DreamStatus::Processing
        } else if succeeded || self.images.is_empty() {
            DreamStatus::Completed
        } else {
            DreamStatus::Failed
        }
    }

    /// Records an image's outcome. `None` where it does not count any more: the image is gone or about to go, was retried since, or
    /// succeeded before. Otherwise whether clients have to be told. The last outcome lets go of a deletion that failed, and waits for one
    /// that is under way.
    ///
    /// A failed image may still turn into a completed one (an operator retried its job); a completed one stays.
    pub fn settle(&mut self, id: ImageId, generation: u32, state: ImageState) -> Option<bool> {
        if self.is_leaving(id) {
            return None;
        }
        let image = self.images.iter_mut().find(|image| image.id == id && image.generation == generation)?;
        if matches!(image.state, ImageState::Completed(_)) || image.state == state {
            return None;
        }
        image.state = state;
        let is_last = !self.images.iter().any(Image::is_pending);
        if is_last && self.has_failed_deletion() {
            self.deletion = None;
        } else if is_last && let Some(deletion) = &mut self.deletion {
            deletion.has_untold = true;
        }
        Some(is_last && self.deletion.is_none())
    }

    /// Sets every failed image back to pending and returns their ids.
    pub fn retry_failed(&mut self) -> Vec<ImageId> {
        let failed = self.images.iter_mut().filter(|image| matches!(image.state, ImageState::Failed(_)));
        let retried: Vec<ImageId> = failed
            .map(|image| {
                image.state = ImageState::Pending;
                image.generation += 1;
                image.job = None;
                image.id
            })
            .collect();
        if !retried.is_empty() {
            self.leave_deletion();
        }
        retried
    }

    /// Applies changed text fields.
    pub fn patch(&mut self, patch: TextPatch) {
        fn set<T>(field: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *field = value;
            }
        }
        set(&mut self.title, patch.title);
        set(&mut self.content, patch.content);
        set(&mut self.categories, patch.categories);
        set(&mut self.theme_tags, patch.theme_tags);
        set(&mut self.character_tags, patch.character_tags);
        set(&mut self.location_tags, patch.location_tags);
    }
}

#[cfg(test)]
mod tests;
