//! The handlers, one file a kind. Delivery is at least once, so each handler may run twice, also at the same time, without harm.

mod delete_images;
mod process_image;

pub(crate) use delete_images::{delete_images, go_on};
pub(crate) use process_image::process_image;

use apalis_core::error::{AbortError, DeferredError, RetryAfterError};
use std::time::Duration;

/// Waits before the second, third ... run where storage or Redis failed: with the default of 8 runs, 16 minutes and more, so that an outage
/// of a quarter of an hour fails no image.
const OUTAGE_WAITS: [u64; 7] = [2, 10, 40, 120, 240, 300, 300];

/// How a run of a job failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Trying again may help.
    #[error("{0}")]
    Transient(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something that all jobs need does not work: trying again helps once it does.
    #[error("{0}")]
    Unavailable(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The run did not come to it. It is not counted.
    #[error("{0}")]
    Deferred(String),
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
    pub(crate) fn unavailable(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Unavailable(format!("{what}: {}", crate::shared::report(&error)), Box::new(error))
    }

    /// As apalis wants it: [`AbortError`] for what must not run again. `attempt` counts runs from 1.
    pub(crate) fn into_error(self, attempt: u32) -> apalis_core::error::BoxDynError {
        match self {
            permanent @ Self::Permanent { .. } => Box::new(AbortError::new(permanent)),
            unavailable @ Self::Unavailable(..) => Box::new(RetryAfterError::new(unavailable, outage_wait(attempt))),
            deferred @ Self::Deferred(_) => Box::new(DeferredError::new(deferred)),
            other => Box::new(other),
        }
    }
}

/// The wait after a run, and up to a quarter more: an outage fails all jobs at once, and they should not all come back at once.
fn outage_wait(attempt: u32) -> Duration {
    let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX).min(OUTAGE_WAITS.len() - 1);
    Duration::from_secs(OUTAGE_WAITS[index]).mul_f64(rand::random_range(1.0..1.25))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_of_a_quarter_of_an_hour_is_outlived_by_the_default_number_of_runs() {
        let waits: Duration = (1..8).map(outage_wait).sum();
        assert!(waits > Duration::from_secs(15 * 60), "{waits:?}");
    }

    #[test]
    fn what_failed_decides_how_it_is_tried_again() {
        let cause = || std::io::Error::other("the disk is full");
        let unavailable = Failure::unavailable("cannot store a variant", cause()).into_error(4);
        let later = unavailable.downcast_ref::<RetryAfterError>().expect("a wait of its own").get_duration();
        assert!((120.0..=150.0).contains(&later.as_secs_f64()), "{later:?}");
        assert!(Failure::Deferred("no memory".to_owned()).into_error(1).is::<DeferredError>());
        let refused = Failure::Permanent { code: "corrupt_image".to_owned(), detail: "It is.".to_owned() };
        assert!(refused.into_error(1).is::<AbortError>());
        assert!(Failure::Transient("a panic".to_owned(), Box::new(cause())).into_error(1).is::<Failure>());
    }
}
