use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Gravity;

/// A picture drawn over the variants that ask for it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Watermark {
    /// Where the picture is, in any format that is decoded, best a PNG with alpha. The pipeline does no I/O: whoever reads the settings
    /// reads this file into [`image`](Self::image).
    pub file: PathBuf,
    /// The file's bytes.
    #[serde(skip)]
    pub image: Option<Arc<[u8]>>,
    /// Where it is drawn. Default `south-east`.
    #[serde(default = "default_gravity")]
    pub gravity: Gravity,
    /// 0 (invisible) to 1. Default 0.5.
    #[serde(default = "default_opacity")]
    pub opacity: f32,
    /// Its width as a fraction of the variant's, above 0 to 1. Default 0.2. It is never enlarged beyond its own pixels.
    #[serde(default = "default_width")]
    pub width: f32,
    /// Distance from the edges as a fraction of the variant's shorter side, 0 to 0.5. Default 0.03.
    #[serde(default = "default_margin")]
    pub margin: f32,
}

fn default_gravity() -> Gravity {
    Gravity::SouthEast
}

fn default_opacity() -> f32 {
    0.5
}

fn default_width() -> f32 {
    0.2
}

fn default_margin() -> f32 {
    0.03
}

impl Watermark {
    /// A watermark with default placement.
    #[must_use]
    pub fn new(image: impl Into<Arc<[u8]>>) -> Self {
        Self {
            file: PathBuf::new(),
            image: Some(image.into()),
            gravity: default_gravity(),
            opacity: default_opacity(),
            width: default_width(),
            margin: default_margin(),
        }
    }

    pub(super) fn collect_problems(&self, problems: &mut Vec<String>) {
        if !(0.0..=1.0).contains(&self.opacity) {
            problems.push("watermark: opacity must be 0 to 1".to_owned());
        }
        if !(self.width > 0.0 && self.width <= 1.0) {
            problems.push("watermark: width must be above 0 and at most 1".to_owned());
        }
        if !(0.0..=0.5).contains(&self.margin) {
            problems.push("watermark: margin must be 0 to 0.5".to_owned());
        }
    }
}

/// The bytes as their length and hash: this text is part of the fingerprint, and of logs.
impl fmt::Debug for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = self.image.as_ref().map(|image| (image.len(), super::fnv1a(image)));
        let Self { gravity, opacity, width, margin, .. } = self;
        write!(f, "Watermark({image:?}, {gravity:?}, {opacity}, {width}, {margin})")
    }
}
