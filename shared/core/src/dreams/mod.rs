//! Dreams: a text with photographs, and the state of its images.
//!
//! A dream's record is the document of its channel `dream_images_{id}` (see `oneiro_events`): every change of state replaces the
//! document and publishes the event in one atomic step, so that record and events cannot disagree and an event is published once.

mod label;
mod record;
mod store;
mod view;

pub use label::{DreamId, ImageId};
pub use record::{
    Deletion, DeletionState, Dream, DreamStatus, Image, ImageFailure, ImageResult, ImageState, NewImage, NewText,
    Original, TextPatch, VariantRecord,
};
pub use store::{Change, DreamPage, DreamStore, StoreError};
pub use view::{DreamView, ImageUpdate, ImageView, ImagesStatus, UpdateError};
