use super::*;

fn image(id: u64) -> NewImage {
    let original = Original { key: format!("originals/1/{id}"), bytes: 1, content_type: "image/jpeg".into() };
    NewImage { id: ImageId::new(id).unwrap(), secret: "s".into(), position: 0, original }
}

fn dream(images: u64) -> Dream {
    let text = NewText { title: "t".into(), content: "c".into(), ..NewText::default() };
    Dream::new(
        DreamId::new(1).unwrap(),
        UserId::from(7),
        text,
        (1..=images).map(image).collect(),
        "2025-04-08T10:00:00".into(),
        0.0,
    )
}

fn done() -> ImageState {
    ImageState::Completed(ImageResult {
        width: 1,
        height: 1,
        placeholder: String::new(),
        dominant_color: "#000000".into(),
        perceptual_hash: String::new(),
        default_variant: "m".into(),
        variants: BTreeMap::new(),
    })
}

fn failed() -> ImageState {
    ImageState::Failed(ImageFailure { code: "corrupt_image".into(), detail: "it is corrupt".into() })
}

fn id(n: u64) -> ImageId {
    ImageId::new(n).unwrap()
}

#[test]
fn a_dream_without_images_is_completed_from_the_start() {
    assert_eq!(dream(0).status, DreamStatus::Completed);
    assert_eq!(dream(1).status, DreamStatus::Processing);
}

#[test]
fn only_the_last_outcome_is_told_and_some_successes_make_it_completed() {
    let mut dream = dream(3);
    assert_eq!(dream.settle(id(1), 1, failed()), Some(false));
    assert_eq!(dream.settle(id(2), 1, done()), Some(false));
    assert_eq!(dream.derived_status(), DreamStatus::Processing);
    assert_eq!(dream.settle(id(3), 1, failed()), Some(true));
    assert_eq!(dream.derived_status(), DreamStatus::Completed);
}

#[test]
fn it_fails_only_when_nothing_succeeded() {
    let mut dream = dream(2);
    dream.settle(id(1), 1, failed());
    dream.settle(id(2), 1, failed());
    assert_eq!(dream.derived_status(), DreamStatus::Failed);
}

#[test]
fn a_duplicate_or_outdated_outcome_changes_nothing() {
    let mut dream = dream(1);
    assert_eq!(dream.settle(id(1), 1, done()), Some(true));
    assert_eq!(dream.settle(id(1), 1, failed()), None, "a late failure after a success");
    assert_eq!(dream.settle(id(9), 1, done()), None, "an unknown image");
    let mut dream = self::dream(1);
    dream.settle(id(1), 1, failed());
    assert_eq!(dream.retry_failed(), [id(1)]);
    assert_eq!(dream.settle(id(1), 1, failed()), None, "an outcome of the run before the retry");
    assert_eq!(dream.settle(id(1), 2, done()), Some(true));
}

#[test]
fn deleting_wins_over_outcomes_and_leaves_a_tombstone() {
    let mut dream = dream(2);
    assert!(dream.begin_delete(None));
    assert!(!dream.begin_delete(None), "once is enough");
    assert_eq!(dream.derived_status(), DreamStatus::DeleteProcessing);
    assert_eq!(dream.settle(id(1), 1, done()), None);
    dream.fail_delete();
    assert_eq!(dream.derived_status(), DreamStatus::DeleteFailed);
    assert!(dream.begin_delete(None), "asking again starts another");
    dream.finish_delete();
    assert!(dream.is_deleted() && dream.images.is_empty() && dream.title.is_empty());
}

#[test]
fn a_partial_deletion_takes_its_images_and_nothing_else() {
    let mut dream = dream(3);
    dream.begin_delete(Some(vec![id(2)]));
    dream.begin_delete(Some(vec![id(3)]));
    assert_eq!(dream.deletion.as_ref().unwrap().images, Some(vec![id(2), id(3)]));
    assert_eq!(dream.settle(id(1), 1, done()), Some(false), "told after the deletion");
    dream.finish_delete();
    assert_eq!(dream.images.iter().map(|i| i.id).collect::<Vec<_>>(), [id(1)]);
    dream.deletion = None;
    assert_eq!(dream.derived_status(), DreamStatus::Completed);
}

#[test]
fn the_record_survives_serialisation() {
    let mut dream = dream(2);
    dream.settle(id(1), 1, done());
    dream.settle(id(2), 1, failed());
    dream.begin_delete(Some(vec![id(2)]));
    let json = serde_json::to_vec(&dream).unwrap();
    assert_eq!(serde_json::from_slice::<Dream>(&json).unwrap(), dream);
}

#[test]
fn a_dream_goes_on_after_a_deletion_that_failed() {
    let mut dream = dream(1);
    dream.settle(id(1), 1, failed());
    dream.begin_delete(None);
    dream.fail_delete();
    assert_eq!(dream.retry_failed(), [id(1)]);
    assert_eq!(dream.derived_status(), DreamStatus::Processing);
    assert_eq!(dream.settle(id(1), 2, done()), Some(true), "and its outcome is told");
}

#[test]
fn between_a_partial_deletion_and_its_sequel_nothing_is_settled() {
    let mut dream = dream(2);
    dream.settle(id(1), 1, done());
    dream.settle(id(2), 1, done());
    dream.begin_delete(Some(vec![id(2)]));
    dream.finish_delete();
    dream.status = dream.derived_status();
    assert!(!dream.is_settled());
    dream.leave_deletion();
    dream.status = dream.derived_status();
    assert!(dream.is_settled() && dream.status == DreamStatus::Completed);
}

#[test]
fn an_image_about_to_go_takes_no_outcome() {
    let mut dream = dream(2);
    dream.begin_delete(Some(vec![id(2)]));
    assert!(dream.is_leaving(id(2)) && dream.is_leaving(id(9)) && !dream.is_leaving(id(1)));
    assert_eq!(dream.settle(id(2), 1, done()), None, "its variants would outlive it");
    assert_eq!(dream.settle(id(1), 1, done()), Some(false));
    dream.fail_delete();
    assert!(!dream.is_leaving(id(2)), "it stays, then");
}

#[test]
fn images_that_wait_behind_a_failed_deletion_are_not_forgotten() {
    for images in [None, Some(vec![id(2)])] {
        let mut dream = dream(2);
        dream.begin_delete(images);
        dream.settle(id(1), 1, done());
        dream.fail_delete();
        dream.status = dream.derived_status();
        assert_eq!(dream.status, DreamStatus::DeleteFailed);
        assert!(!dream.is_settled(), "the sweep has to look at it");
        dream.settle(id(1), 1, done());
        assert_eq!(dream.settle(id(2), 1, done()), Some(true), "the last outcome is told");
        dream.status = dream.derived_status();
        assert!(dream.is_settled() && dream.status == DreamStatus::Completed);
    }
}

#[test]
fn an_outcome_that_a_deletion_hid_is_yet_to_be_told_when_it_is_given_up() {
    let mut dream = dream(2);
    dream.settle(id(1), 1, done());
    dream.begin_delete(Some(vec![id(1)]));
    assert_eq!(dream.settle(id(2), 1, done()), Some(false), "told after the deletion");
    // Asked for again, it hides it still.
    dream.begin_delete(Some(vec![id(1)]));
    dream.fail_delete();
    dream.status = dream.derived_status();
    assert!(dream.has_untold_outcome() && !dream.is_settled(), "the sweep has to look at it");
    let mut taken_up: Dream = serde_json::from_slice(&serde_json::to_vec(&dream).unwrap()).unwrap();
    dream.leave_deletion();
    dream.status = dream.derived_status();
    assert!(dream.is_settled() && dream.status == DreamStatus::Completed);
    assert!(taken_up.resume_delete() && !taken_up.has_untold_outcome());
    taken_up.finish_delete();
    assert!(taken_up.is_between(), "its sequel tells");
}

#[test]
fn uploads_are_told_apart_though_they_bear_one_id() {
    let (one, mut other) = (dream(2), dream(2));
    assert!(one.is_of_upload(&other));
    other.images[1].secret = "another".to_owned();
    assert!(!one.is_of_upload(&other));
    let (bare, mut text) = (dream(0), dream(0));
    assert!(bare.is_of_upload(&text) && !bare.is_of_upload(&one) && !one.is_of_upload(&bare));
    text.content = "another".to_owned();
    assert!(!bare.is_of_upload(&text));
}

#[test]
fn a_deletion_that_was_given_up_can_be_taken_up_again() {
    let mut dream = dream(1);
    assert!(!dream.resume_delete(), "there is none");
    dream.begin_delete(None);
    assert!(!dream.resume_delete(), "it runs");
    dream.fail_delete();
    assert!(dream.resume_delete());
    assert_eq!(dream.derived_status(), DreamStatus::DeleteProcessing);
}
