//! What clients see of a dream: the REST body and the `image_update` event, field by field as the wire contract has them.

use super::{Dream, DreamId, DreamStatus, ImageId, ImageState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The `image_update` event. Seeds' clients read the first six fields; the rest is additive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageUpdate {
    /// Always `image_update`.
    pub r#type: String,
    /// As a number; sockets turn it into a string where a client asked for that.
    pub dream_id: DreamId,
    /// The state.
    pub status: DreamStatus,
    /// The completed images, in the order of their numbers; empty unless `status` is `completed`.
    pub images: Vec<ImageView>,
    /// Unix seconds of the change.
    pub timestamp: f64,
    /// For people; `null` where there is nothing to say.
    pub message: Option<String>,
    /// Rises with each event of the dream.
    pub version: u64,
    /// The images that failed.
    pub errors: Vec<UpdateError>,
}

/// Why one image failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateError {
    /// Which.
    pub image_id: ImageId,
    /// Stable word.
    pub code: String,
    /// A sentence.
    pub detail: String,
}

/// A completed image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageView {
    /// Its id.
    pub id: ImageId,
    /// Of the default variant.
    pub url: String,
    /// Offset into the content in UTF-16 code units.
    pub position: u64,
    /// Pixels, as displayed, of the original.
    pub width: u32,
    /// Pixels, as displayed, of the original.
    pub height: u32,
    /// Thumbhash in Base64.
    pub placeholder: String,
    /// `#rrggbb`.
    pub dominant_color: String,
    /// By name.
    pub variants: BTreeMap<String, VariantView>,
}

/// One variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VariantView {
    /// Where it is.
    pub url: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Size in bytes.
    pub bytes: u64,
    /// `jpeg`, `webp`, `png` or `avif`.
    pub format: String,
}

/// `images_status` of the REST body.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImagesStatus {
    /// The state.
    pub status: DreamStatus,
    /// Relative path of the socket.
    pub websocket_url: String,
    /// As in the event.
    pub images: Vec<ImageView>,
    /// Additive: the images that failed.
    pub errors: Vec<UpdateError>,
    /// Additive: as in the event.
    pub message: Option<String>,
    /// Additive: as in the event.
    pub version: u64,
}

/// The REST body of a dream.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the fields of Dream")]
pub struct DreamView {
    pub id: DreamId,
    pub title: String,
    pub content: String,
    pub categories: Vec<String>,
    pub theme_tags: Vec<String>,
    pub character_tags: Vec<String>,
    pub location_tags: Vec<String>,
    /// The images that are completed by now.
    pub images: Vec<ImageView>,
    pub images_status: ImagesStatus,
    pub created_at: String,
}

impl Dream {
    /// The event that tells the record's present state; `url` turns an object key into a URL.
    pub fn update(&self, url: &dyn Fn(&str) -> String) -> ImageUpdate {
        let errors = self.errors();
        ImageUpdate {
            r#type: "image_update".to_owned(),
            dream_id: self.id,
            status: self.status,
            images: if self.status == DreamStatus::Completed { self.completed_images(url) } else { Vec::new() },
            timestamp: self.status_at,
            message: self.message(errors.len()),
            version: self.version,
            errors,
        }
    }

    /// The REST body.
    pub fn view(&self, url: &dyn Fn(&str) -> String) -> DreamView {
        let update = self.update(url);
        DreamView {
            id: self.id,
            title: self.title.clone(),
            content: self.content.clone(),
            categories: self.categories.clone(),
            theme_tags: self.theme_tags.clone(),
            character_tags: self.character_tags.clone(),
            location_tags: self.location_tags.clone(),
            images: self.completed_images(url),
            images_status: ImagesStatus {
                status: self.status,
                websocket_url: format!("/ws/dream-images/{}/", self.id),
                images: update.images,
                errors: update.errors,
                message: update.message,
                version: self.version,
            },
            created_at: self.created_at.clone(),
        }
    }

    fn completed_images(&self, url: &dyn Fn(&str) -> String) -> Vec<ImageView> {
        let completed = self.images.iter().filter_map(|image| match &image.state {
            ImageState::Completed(result) => Some((image, result)),
            ImageState::Pending | ImageState::Failed(_) => None,
        });
        completed
            .map(|(image, result)| {
                let variants: BTreeMap<String, VariantView> = result
                    .variants
                    .iter()
                    .map(|(name, v)| {
                        let view = VariantView {
                            url: url(&v.key),
                            width: v.width,
                            height: v.height,
                            bytes: v.bytes,
                            format: v.format.clone(),
                        };
                        (name.clone(), view)
                    })
                    .collect();
                let default = variants.get(&result.default_variant).or_else(|| variants.values().next());
                ImageView {
                    id: image.id,
                    url: default.map(|variant| variant.url.clone()).unwrap_or_default(),
                    position: image.position,
                    width: result.width,
                    height: result.height,
                    placeholder: result.placeholder.clone(),
                    dominant_color: result.dominant_color.clone(),
                    variants,
                }
            })
            .collect()
    }

    fn errors(&self) -> Vec<UpdateError> {
        let failed = self.images.iter().filter_map(|image| match &image.state {
            ImageState::Failed(failure) => Some((image.id, failure)),
            ImageState::Pending | ImageState::Completed(_) => None,
        });
        failed.map(|(image_id, f)| UpdateError { image_id, code: f.code.clone(), detail: f.detail.clone() }).collect()
    }

    fn message(&self, failures: usize) -> Option<String> {
        let total = self.images.len();
        match self.status {
            DreamStatus::Failed if total == 1 => self.errors().first().map(|error| error.detail.clone()),
            DreamStatus::Failed => Some(format!("none of the {total} images could be processed")),
            DreamStatus::Completed if failures > 0 => {
                Some(format!("{failures} of {total} images could not be processed"))
            }
            DreamStatus::DeleteFailed => Some("the images could not be deleted; please try again".to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{auth::UserId, dreams::NewText};

    #[test]
    fn a_new_dream_has_the_seeds_fields_and_forms() {
        let text = NewText { title: "t".into(), ..NewText::default() };
        let mut dream = Dream::new(
            DreamId::new(123).unwrap(),
            UserId::from(1),
            text,
            vec![],
            "2025-04-08T10:00:00".into(),
            1_649_154_789.123,
        );
        dream.status = DreamStatus::Processing;
        let view = serde_json::to_value(dream.view(&|key| key.to_owned())).unwrap();
        assert_eq!(view["images_status"]["status"], "processing");
        assert_eq!(view["images_status"]["websocket_url"], "/ws/dream-images/123/");
        assert_eq!(view["id"], 123);
        assert_eq!(view["created_at"], "2025-04-08T10:00:00");
        let event = serde_json::to_string(&dream.update(&|key| key.to_owned())).unwrap();
        assert!(
            event.starts_with(r#"{"type":"image_update","dream_id":123,"status":"processing","images":[],"timestamp":1649154789.123,"message":null"#),
            "{event}"
        );
    }
}
