//! What is rendered from what: variants of equal size share one rendering, and each is made from the smallest larger one.

use crate::geometry::{Rect, place};
use crate::settings::{Settings, Target};

/// One rendering of the image, in displayed orientation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rendition {
    /// The part shown, in pixels of the displayed input.
    pub(crate) crop: Rect,
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// The rendition it is made from; `None` is the decoded input.
    pub(crate) parent: Option<usize>,
    /// Indexes of the variants that are encoded from it. Empty for the one that the placeholder is made from.
    pub(crate) variants: Vec<usize>,
}

impl Rendition {
    /// Pixels of this rendition for a pixel of the input; the larger of both axes.
    pub(crate) fn scale(&self) -> f64 {
        (f64::from(self.width) / self.crop.width).max(f64::from(self.height) / self.crop.height)
    }
}

/// A rendition is made from another only where that is at least this many times larger: resampling twice by small factors blurs.
const MIN_CASCADE: f64 = 1.5;
/// Long edge of the rendition that placeholder, dominant colour and perceptual hash are made from.
pub(crate) const SUMMARY_PX: u32 = 64;

/// Renditions for the variants that `wanted` accepts, and one more for the summary: the last. Parents come before children.
pub(crate) fn plan(settings: &Settings, width: u32, height: u32, wanted: impl Fn(usize) -> bool) -> Vec<Rendition> {
    let mut renditions: Vec<Rendition> = Vec::new();
    for (index, variant) in settings.variants.iter().enumerate().filter(|(index, _)| wanted(*index)) {
        let (crop, w, h) = place(variant.target, width, height);
        match renditions.iter_mut().find(|other| other.crop == crop && (other.width, other.height) == (w, h)) {
            Some(same) => same.variants.push(index),
            None => renditions.push(Rendition { crop, width: w, height: h, parent: None, variants: vec![index] }),
        }
    }
    // Largest first. The sort is stable, so that equal sizes keep the order of the settings and results stay the same.
    renditions.sort_by(|a, b| b.scale().total_cmp(&a.scale()));
    let (crop, w, h) = place(Target::LongEdge(SUMMARY_PX), width, height);
    renditions.push(Rendition { crop, width: w, height: h, parent: None, variants: Vec::new() });
    for index in 0..renditions.len() {
        let (before, rest) = renditions.split_at_mut(index);
        let child = &mut rest[0];
        child.parent = before
            .iter()
            .rposition(|parent| parent.crop.covers(&child.crop) && parent.scale() >= child.scale() * MIN_CASCADE);
    }
    renditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Fit, Gravity, Output, VariantSpec};

    #[test]
    fn the_default_variants_form_a_cascade() {
        let plan = plan(&Settings::default(), 4000, 3000, |_| true);
        let parents: Vec<_> = plan.iter().map(|rendition| rendition.parent).collect();
        assert_eq!(parents, [None, Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn equal_sizes_share_and_crops_do_not_feed_whole_images() {
        let mut settings = Settings::default();
        settings.variants.push(VariantSpec::new("webp", Target::LongEdge(320)).with_format(Output::WebP));
        let square = Target::Box { width: 1500, height: 1500, fit: Fit::Cover(Gravity::Centre) };
        settings.variants.push(VariantSpec::new("square", square));
        let plan = plan(&settings, 4000, 3000, |_| true);
        assert_eq!(plan.len(), 5);
        let shared = plan.iter().find(|rendition| rendition.variants == [2, 3]).expect("both of 320 px");
        assert_eq!(plan[shared.parent.expect("a cascade")].width, 1024);
        assert_eq!(plan.iter().find(|rendition| rendition.variants == [4]).expect("the square").parent, None);
    }
}
