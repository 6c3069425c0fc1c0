//! Whether a job's end still has to be told to its dream.
//!
//! The worker's sweep settles what a cancelled or dead job leaves open, and knows by that job how. Where the job is gone it takes it
//! for lost and pushes it again: what an operator cancelled and then deleted would come back.

use apalis_fred::{Job, JobId, JobRecord, State};
use oneiro_core::{
    dreams::{Dream, DreamId},
    jobs::{DeleteImages, ProcessImage},
};
use oneiro_events::Broker;

const UNTOLD: &str = "its dream has not been told of its end yet; try again in half a minute";
const SEALED: &str =
    "its arguments, which name its dream, are sealed with a key that is not in queues.encryption_keys here";
const UNREADABLE: &str = "its dream's record cannot be read, and may wait for it";

/// Why a job that has ended must stay; `None` where nothing waits for it.
pub(super) async fn waits_for(broker: &Broker, job: &JobRecord) -> anyhow::Result<Option<&'static str>> {
    // A completed job counts as lost in any case, deleted or not.
    if !matches!(job.state, State::Cancelled | State::Dead) || !is_ours(job) {
        return Ok(None);
    }
    if !job.is_open {
        return Ok(Some(SEALED));
    }
    // Arguments that cannot be read name no dream: their job is dead for that, and may go.
    let Some(subject) = Subject::of(job) else { return Ok(None) };
    // The broker alone, not the store of dreams: that one opens the object store, whose credentials an operator may lack.
    let Some(document) = broker.document(&subject.dream().channel()).await? else { return Ok(None) };
    let Ok(dream) = serde_json::from_slice::<Dream>(&document.body) else { return Ok(Some(UNREADABLE)) };
    Ok(subject.is_open_in(&dream, job.id).then_some(UNTOLD))
}

fn is_ours(job: &JobRecord) -> bool {
    [ProcessImage::KIND, DeleteImages::KIND].contains(&job.kind.as_str())
}

/// What a job was about.
enum Subject {
    Image(ProcessImage),
    Deletion(DeleteImages),
}

impl Subject {
    fn of(job: &JobRecord) -> Option<Self> {
        match job.kind.as_str() {
            ProcessImage::KIND => serde_json::from_str(&job.payload).map(Self::Image).ok(),
            _ => serde_json::from_str(&job.payload).map(Self::Deletion).ok(),
        }
    }

    fn dream(&self) -> DreamId {
        match self {
            Self::Image(args) => args.dream_id,
            Self::Deletion(args) => args.dream_id,
        }
    }

    /// Whether the dream waits for it: an image pending at that run, or a deletion that is neither told nor given up.
    fn is_open_in(&self, dream: &Dream, id: JobId) -> bool {
        let noted = match self {
            Self::Image(args) => {
                let image = dream.image(args.image_id);
                image.filter(|image| image.is_pending() && image.generation == args.generation).map(|image| &image.job)
            }
            Self::Deletion(_) => {
                let deletion = dream.deletion.as_ref();
                deletion.filter(|_| !dream.is_deleted() && !dream.has_failed_deletion()).map(|deletion| &deletion.job)
            }
        };
        // The dream asks the job that it names, so another one is free to go; where it names none yet, it may be about to name this one.
        noted.is_some_and(|noted| noted.as_deref().is_none_or(|noted| noted == id.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dream(image_job: Option<&str>) -> Dream {
        let mut image = json!({
            "id": 5, "secret": "s", "position": 0, "generation": 2, "state": { "is": "pending" },
            "original": { "key": "originals/1/5", "bytes": 1, "content_type": "image/jpeg" },
        });
        if let Some(job) = image_job {
            image["job"] = job.into();
        }
        serde_json::from_value(json!({
            "id": 1, "owner": 7, "title": "t", "content": "c", "created_at": "2026-01-01T00:00:00Z",
            "status": "processing", "status_at": 0.0, "version": 1, "images": [image],
            "categories": [], "theme_tags": [], "character_tags": [], "location_tags": [],
        }))
        .unwrap()
    }

    fn image(generation: u32) -> Subject {
        let args = json!({ "dream_id": 1, "image_id": 5, "generation": generation });
        Subject::Image(serde_json::from_value(args).unwrap())
    }

    #[test]
    fn a_pending_image_waits_for_the_job_that_its_record_names() {
        let (id, other) = (JobId::generate(), JobId::generate());
        let dream = dream(Some(&id.to_string()));
        assert!(image(2).is_open_in(&dream, id));
        assert!(!image(2).is_open_in(&dream, other), "another job took its place");
        assert!(!image(1).is_open_in(&dream, id), "an earlier run");
    }

    #[test]
    fn a_pending_image_whose_job_is_not_noted_yet_waits() {
        assert!(image(2).is_open_in(&dream(None), JobId::generate()));
    }

    #[test]
    fn a_deletion_waits_until_it_is_told_or_given_up() {
        let id = JobId::generate();
        let subject = Subject::Deletion(serde_json::from_value(json!({ "dream_id": 1, "version": 1 })).unwrap());
        let mut dream = dream(None);
        assert!(!subject.is_open_in(&dream, id), "none was asked for");
        // The last: between the removal of some images and the word on the rest.
        let cases = [
            ("null", "processing", true),
            ("null", "failed", false),
            ("null", "completed", false),
            ("[]", "completed", true),
        ];
        for (images, state, waits) in cases {
            let deletion = format!(r#"{{"images": {images}, "state": "{state}", "job": "{id}"}}"#);
            dream.deletion = serde_json::from_str(&deletion).unwrap();
            assert_eq!(subject.is_open_in(&dream, id), waits, "{deletion}");
        }
    }
}
