//! What to make of an image: variants, background, treatment of damage, limits.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Limits, PIPELINE_VERSION, PipelineError};

mod variant;
mod watermark;

pub use variant::{Chroma, Fit, Gravity, Output, Target, VariantSpec};
pub use watermark::Watermark;

/// Settings of a [`Processor`](crate::Processor). Read from TOML or JSON by serde; every key has a default.
///
/// Default variants: `large` 2048, `medium` 1024 and `small` 320 px on the long edge, JPEG quality 82.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// The variants, in the order in which they are returned. 1 to 32, names unique.
    pub variants: Vec<VariantSpec>,
    /// What shows through transparent pixels where the output has no alpha. Default white.
    pub background: Rgb,
    /// What to do with a file that is damaged or cut off. Default: refuse.
    pub damaged: Damaged,
    /// Keep the EXIF fields `Copyright` and `Artist`; everything else is always stripped. Default false.
    pub keep_copyright: bool,
    /// Drawn over the variants that say `watermark = true`. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Watermark>,
    /// What an input may ask for.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            variants: vec![
                VariantSpec::new("large", Target::LongEdge(2048)),
                VariantSpec::new("medium", Target::LongEdge(1024)),
                VariantSpec::new("small", Target::LongEdge(320)),
            ],
            background: Rgb::WHITE,
            damaged: Damaged::Refuse,
            keep_copyright: false,
            watermark: None,
            limits: Limits::default(),
        }
    }
}

/// Most variants that one set of settings may list.
const MAX_VARIANTS: usize = 32;

impl Settings {
    /// Checks what the types cannot express.
    ///
    /// # Errors
    /// [`PipelineError::InvalidSettings`] with all problems in one text, separated by `; `.
    pub fn validate(&self) -> Result<(), PipelineError> {
        let mut problems = Vec::new();
        if self.variants.is_empty() || self.variants.len() > MAX_VARIANTS {
            problems.push(format!("between 1 and {MAX_VARIANTS} variants are needed, {} given", self.variants.len()));
        }
        for (index, variant) in self.variants.iter().enumerate() {
            variant.collect_problems(&mut problems);
            if self.variants[..index].iter().any(|other| other.name == variant.name) {
                problems.push(format!("variant name {:?} is used twice", variant.name));
            }
        }
        match &self.watermark {
            Some(watermark) => watermark.collect_problems(&mut problems),
            None if self.variants.iter().any(|variant| variant.watermark) => {
                problems.push("a variant asks for a watermark, and none is configured".to_owned());
            }
            None => {}
        }
        let Limits { max_file_bytes, max_pixels, max_side_px, max_listed_frames, .. } = self.limits;
        if max_side_px == 0 || max_pixels == 0 || max_file_bytes == 0 || max_listed_frames == 0 {
            problems.push("limits of size and of frames listed must be at least 1".to_owned());
        }
        if problems.is_empty() { Ok(()) } else { Err(PipelineError::InvalidSettings(problems.join("; "))) }
    }

    /// Twelve hexadecimal digits that change with everything that can change the produced bytes: [`PIPELINE_VERSION`] and all
    /// settings but the limits. Meant to be part of an object's key, so that new settings never overwrite or mix with old variants.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut text = format!(
            "v{PIPELINE_VERSION};{};{:?};{};{:?}",
            self.background, self.damaged, self.keep_copyright, self.watermark
        );
        for variant in &self.variants {
            text.push_str(&format!(";{variant:?}"));
        }
        format!("{:012x}", fnv1a(text.as_bytes()) >> 16)
    }
}

/// FNV-1a, 64 bit: needs only to tell settings apart that one operator writes, not to resist forgery.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What to do with a file whose decoder reports damage, or that ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Damaged {
    /// Fail with `corrupt_image` or `truncated_image`.
    #[default]
    Refuse,
    /// Use what decodes, if anything does; missing parts are grey or black. [`Processed::is_salvaged`](crate::Processed::is_salvaged) tells.
    Salvage,
}

/// An opaque sRGB colour, written `#rrggbb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rgb(pub u8, pub u8, pub u8);

impl Rgb {
    /// `#ffffff`
    pub const WHITE: Self = Self(255, 255, 255);
}

impl fmt::Display for Rgb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

impl From<Rgb> for String {
    fn from(colour: Rgb) -> Self {
        colour.to_string()
    }
}

impl TryFrom<String> for Rgb {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text
            .strip_prefix('#')
            .filter(|digits| digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let value = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let value = value.ok_or_else(|| format!("{text:?} is not a colour of the form #rrggbb"))?;
        let [_, red, green, blue] = value.to_be_bytes();
        Ok(Self(red, green, blue))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_have_a_fixed_fingerprint_length() {
        let settings = Settings::default();
        settings.validate().expect("defaults are valid");
        assert_eq!(settings.fingerprint().len(), 12);
    }

    #[test]
    fn the_fingerprint_follows_what_changes_bytes_and_only_that() {
        let base = Settings::default();
        let mut limits = base.clone();
        limits.limits.max_pixels = 7;
        assert_eq!(base.fingerprint(), limits.fingerprint());
        let mut quality = base.clone();
        quality.variants[1].quality = 83;
        assert_ne!(base.fingerprint(), quality.fingerprint());
    }

    #[test]
    fn all_problems_are_reported_together() {
        let mut settings = Settings::default();
        settings.variants[0].quality = 0;
        settings.variants[1].name = "small".to_owned();
        settings.variants[2].target = Target::LongEdge(0);
        let text = settings.validate().expect_err("three problems").to_string();
        assert!(text.contains("quality") && text.contains("twice") && text.contains("long_edge"), "{text}");
    }
}
