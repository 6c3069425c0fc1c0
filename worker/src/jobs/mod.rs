//! The handlers, one file a kind. Delivery is at least once, so each handler may run twice, also at the same time, without harm.

mod delete_images;
mod process_image;

pub(crate) use delete_images::delete_images;
pub(crate) use process_image::process_image;

use apalis_core::error::AbortError;

/// How a run of a job failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Trying again may help.
    #[error("{0}")]
    Transient(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// It will fail again just like this.
    #[error("{code}: {detail}")]
    Permanent {
        /// Stable word.
        code: String,
        /// A sentence.
        detail: String,
    },
    /// Somebody stopped it: the queue knows who and what follows.
    #[error("the run was stopped")]
    Stopped,
}

impl Failure {
    pub(crate) fn transient(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Transient(format!("{what}: {}", crate::shared::report(&error)), Box::new(error))
    }

    /// As apalis wants it: [`AbortError`] for what must not run again.
    pub(crate) fn into_error(self) -> apalis_core::error::BoxDynError {
        match self {
            permanent @ Self::Permanent { .. } => Box::new(AbortError::new(permanent)),
            other => Box::new(other),
        }
    }
}
