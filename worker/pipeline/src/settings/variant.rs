use serde::{Deserialize, Serialize};

use crate::geometry::place;

/// One image to produce.
///
/// In a settings file a variant is flat: `name`, then either `long_edge` or `width` and `height` (with `fit` and `gravity` or
/// `focal`), then what concerns the output.
///
/// ```
/// let settings: oneiro_pipeline::Settings = serde_json::from_str(
///     r#"{"variants": [
///         {"name": "page", "long_edge": 1600, "format": "webp", "quality": 80},
///         {"name": "card", "width": 400, "height": 300, "fit": "cover", "gravity": "north"}
///     ]}"#,
/// )?;
/// settings.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Flat", into = "Flat")]
#[non_exhaustive]
pub struct VariantSpec {
    /// Part of URLs and object keys: 1 to 32 of `a-z 0-9 _ -`.
    pub name: String,
    /// How large the variant is. An image is never enlarged.
    pub target: Target,
    /// Format of the output. Default JPEG.
    pub format: Output,
    /// 1 (smallest) to 100. Default 82. PNG and lossless WebP ignore it.
    pub quality: u8,
    /// JPEG only: several scans, so that a slow reader sees the whole picture early. Default false: encoding costs 4 times as much.
    pub progressive: bool,
    /// JPEG only: Huffman tables made for the image. Default false: 1.5 % fewer bytes for twice the encoding time.
    pub optimize: bool,
    /// JPEG and AVIF: resolution of colour. Default 4:2:0. WebP is always 4:2:0 unless lossless.
    pub chroma: Chroma,
    /// WebP only: keep every pixel exactly. Default false.
    pub lossless: bool,
    /// WebP and AVIF: 0 (fast) to 6 (small). Default 4.
    pub effort: u8,
    /// WebP only: an animated input gives an animated variant. Default false: the first frame.
    pub animated: bool,
    /// Draw the watermark, where one is configured. Default false.
    pub watermark: bool,
}

impl VariantSpec {
    /// Width and height, in pixels, of the variant of an image of this size as displayed.
    #[must_use]
    pub fn size(&self, width: u32, height: u32) -> (u32, u32) {
        let (_, width, height) = place(self.target, width, height);
        (width, height)
    }

    /// A JPEG variant of quality 82.
    #[must_use]
    pub fn new(name: impl Into<String>, target: Target) -> Self {
        Self {
            name: name.into(),
            target,
            format: Output::Jpeg,
            quality: DEFAULT_QUALITY,
            progressive: false,
            optimize: false,
            chroma: Chroma::Quarter,
            lossless: false,
            effort: DEFAULT_EFFORT,
            animated: false,
            watermark: false,
        }
    }

    /// The same variant in another format.
    #[must_use]
    pub fn with_format(mut self, format: Output) -> Self {
        self.format = format;
        self
    }

    /// The same variant with another quality.
    #[must_use]
    pub fn with_quality(mut self, quality: u8) -> Self {
        self.quality = quality;
        self
    }

    pub(crate) fn collect_problems(&self, problems: &mut Vec<String>) {
        let name = &self.name;
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        if name.is_empty() || name.len() > 32 || !name.bytes().all(is_plain) {
            problems.push(format!("variant name {name:?} must be 1 to 32 of a-z, 0-9, _ and -"));
        }
        match self.target {
            Target::LongEdge(0) => problems.push(format!("variant {name:?}: long_edge must be at least 1")),
            Target::LongEdge(edge) if edge > MAX_TARGET_PX => {
                problems.push(format!("variant {name:?}: long_edge is over {MAX_TARGET_PX}"));
            }
            Target::Box { width, height, .. }
                if width == 0 || height == 0 || width > MAX_TARGET_PX || height > MAX_TARGET_PX =>
            {
                problems.push(format!("variant {name:?}: width and height must be 1 to {MAX_TARGET_PX}"));
            }
            Target::Box { fit: Fit::Cover(Gravity::Focal { x, y }), .. }
                if !((0.0..=1.0).contains(&x) && (0.0..=1.0).contains(&y)) =>
            {
                problems.push(format!("variant {name:?}: focal must be two numbers from 0 to 1"));
            }
            _ => {}
        }
        if !(1..=100).contains(&self.quality) {
            problems.push(format!("variant {name:?}: quality must be 1 to 100"));
        }
        if self.format == Output::Avif && !cfg!(feature = "avif") {
            problems.push(format!("variant {name:?}: this program was built without AVIF"));
        }
        if self.format == Output::WebP && !crate::encode::has_webp() {
            problems.push(format!("variant {name:?}: WebP needs a processor with SSE 4.1, and this one has none"));
        }
        if self.effort > 6 {
            problems.push(format!("variant {name:?}: effort must be 0 to 6"));
        }
        if self.animated && self.format != Output::WebP {
            problems.push(format!("variant {name:?}: only webp can be animated"));
        }
        if self.lossless && self.format != Output::WebP {
            problems.push(format!("variant {name:?}: lossless is for webp"));
        }
    }
}

/// Quality of a variant that does not say.
const DEFAULT_QUALITY: u8 = 82;
/// libwebp's own default method.
const DEFAULT_EFFORT: u8 = 4;
/// Longest side of a variant: what WebP can hold.
const MAX_TARGET_PX: u32 = 16_383;

/// Size of a variant, in displayed orientation.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Target {
    /// The longer side has at most this many pixels.
    LongEdge(u32),
    /// The image is fitted to a box.
    Box {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// How it is fitted.
        fit: Fit,
    },
}

/// How an image is fitted to a box.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Fit {
    /// Whole image, neither side longer than the box.
    Inside,
    /// The box is filled; what sticks out is cut off. A smaller image is cut to the box's shape, not enlarged.
    Cover(Gravity),
}

/// Which part is kept when an image is cut.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Gravity {
    /// The middle.
    #[default]
    #[serde(alias = "center")]
    Centre,
    /// The top.
    North,
    /// The top right corner.
    NorthEast,
    /// The right.
    East,
    /// The bottom right corner.
    SouthEast,
    /// The bottom.
    South,
    /// The bottom left corner.
    SouthWest,
    /// The left.
    West,
    /// The top left corner.
    NorthWest,
    /// This point, as fractions of width and height (0 to 1, from the top left), comes as near to the middle as the edges allow.
    #[serde(skip)]
    Focal {
        /// Fraction of the width.
        x: f32,
        /// Fraction of the height.
        y: f32,
    },
}

/// Format of a variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Output {
    /// JPEG, no alpha.
    #[default]
    #[serde(alias = "jpg")]
    Jpeg,
    /// WebP, with alpha where the input has it.
    WebP,
    /// PNG, with alpha where the input has it.
    Png,
    /// AVIF, with alpha where the input has it. Needs the feature `avif`; slow: about a second for a megapixel.
    Avif,
}

impl Output {
    /// Media type, such as `image/jpeg`.
    #[must_use]
    pub fn mime(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::WebP => "image/webp",
            Self::Png => "image/png",
            Self::Avif => "image/avif",
        }
    }

    /// Usual file name extension without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::WebP => "webp",
            Self::Png => "png",
            Self::Avif => "avif",
        }
    }
}

/// Resolution of the colour planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Chroma {
    /// 4:2:0, half of each side: what photographs need.
    #[default]
    #[serde(rename = "420", alias = "4:2:0")]
    Quarter,
    /// 4:4:4, full: for text and line art.
    #[serde(rename = "444", alias = "4:4:4")]
    Full,
}

/// A variant as it stands in a settings file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Flat {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    long_edge: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    width: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    height: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fit: Option<FlatFit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gravity: Option<Gravity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    focal: Option<[f32; 2]>,
    #[serde(default)]
    format: Output,
    #[serde(default = "default_quality")]
    quality: u8,
    #[serde(default)]
    progressive: bool,
    #[serde(default)]
    optimize: bool,
    #[serde(default)]
    chroma: Chroma,
    #[serde(default)]
    lossless: bool,
    #[serde(default = "default_effort")]
    effort: u8,
    #[serde(default)]
    animated: bool,
    #[serde(default)]
    watermark: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FlatFit {
    Inside,
    Cover,
}

fn default_quality() -> u8 {
    DEFAULT_QUALITY
}

fn default_effort() -> u8 {
    DEFAULT_EFFORT
}

impl TryFrom<Flat> for VariantSpec {
    type Error = String;

    fn try_from(flat: Flat) -> Result<Self, String> {
        let name = flat.name;
        let gravity = match (flat.gravity, flat.focal) {
            (Some(_), Some(_)) => return Err(format!("variant {name:?}: gravity and focal exclude each other")),
            (gravity, None) => gravity,
            (None, Some([x, y])) => Some(Gravity::Focal { x, y }),
        };
        let target = match (flat.long_edge, flat.width, flat.height) {
            (Some(edge), None, None) if flat.fit.is_none() && gravity.is_none() => Target::LongEdge(edge),
            (None, Some(width), Some(height)) => {
                let fit = match (flat.fit, gravity) {
                    (Some(FlatFit::Cover), gravity) => Fit::Cover(gravity.unwrap_or_default()),
                    (_, None) => Fit::Inside,
                    (_, Some(_)) => return Err(format!("variant {name:?}: gravity and focal need fit = \"cover\"")),
                };
                Target::Box { width, height, fit }
            }
            _ => return Err(format!("variant {name:?}: give long_edge alone, or width and height")),
        };
        Ok(Self {
            name,
            target,
            format: flat.format,
            quality: flat.quality,
            progressive: flat.progressive,
            optimize: flat.optimize,
            chroma: flat.chroma,
            lossless: flat.lossless,
            effort: flat.effort,
            animated: flat.animated,
            watermark: flat.watermark,
        })
    }
}

impl From<VariantSpec> for Flat {
    fn from(spec: VariantSpec) -> Self {
        let (mut long_edge, mut size, mut fit, mut gravity, mut focal) = (None, None, None, None, None);
        match spec.target {
            Target::LongEdge(edge) => long_edge = Some(edge),
            Target::Box { width, height, fit: kind } => {
                size = Some((width, height));
                fit = Some(FlatFit::Inside);
                if let Fit::Cover(anchor) = kind {
                    fit = Some(FlatFit::Cover);
                    match anchor {
                        Gravity::Focal { x, y } => focal = Some([x, y]),
                        named => gravity = Some(named),
                    }
                }
            }
        }
        Self {
            name: spec.name,
            long_edge,
            width: size.map(|(width, _)| width),
            height: size.map(|(_, height)| height),
            fit,
            gravity,
            focal,
            format: spec.format,
            quality: spec.quality,
            progressive: spec.progressive,
            optimize: spec.optimize,
            chroma: spec.chroma,
            lossless: spec.lossless,
            effort: spec.effort,
            animated: spec.animated,
            watermark: spec.watermark,
        }
    }
}
