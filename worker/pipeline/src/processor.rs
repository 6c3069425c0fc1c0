//! The main path: probe, decode, then for each size render, turn, convert and encode.

mod animated;
mod render;

use plane_resample::Resampler;
use serde::{Deserialize, Serialize};

use crate::buffers::Buffers;
use crate::colour::{Profiles, ToSrgb};
use crate::control::{Control, Stage, ask};
use crate::decode::{Decoded, Decoders, frames};
use crate::encode::Encoders;
use crate::header::{Attribution, Header, probe_all};
use crate::plan::{Rendition, plan};
use crate::raster::{Layout, Raster};
use crate::settings::{Output, Settings};
use crate::watermark::Stamp;
use crate::{Format, PipelineError};

/// What was made of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Processed {
    /// What the input's header said.
    pub header: Header,
    /// One entry for each variant of the settings, in their order.
    pub variants: Vec<Encoded>,
    /// A thumbhash in base64, about 28 characters: a blurred preview that a page can show at once.
    pub placeholder: String,
    /// The most frequent colour, `#rrggbb`.
    pub dominant_color: String,
    /// Images that look alike have hashes that differ in few bits (Hamming distance at most about 10).
    pub perceptual_hash: u64,
    /// True where the input was damaged and the settings allowed to use what could be decoded.
    pub is_salvaged: bool,
}

/// One encoded variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Encoded {
    /// Name of the variant.
    pub name: String,
    /// Format of the bytes.
    pub format: Output,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Frames: 1 unless the variant is animated.
    pub frames: u32,
    /// The file. Left out of the serialised form, which is for telling another process: send it beside.
    #[serde(skip)]
    pub bytes: Vec<u8>,
}

/// Turns images into variants, one at a time. Keeps its buffers and codecs between images: make one per thread and reuse it.
///
/// At most about 70 MB of buffers are kept, until [`Processor::rest`]. Should a call panic, which is a bug, drop the processor and make a new one.
/// Results depend on nothing but bytes and settings: the same input gives the same output, in any order of images.
pub struct Processor {
    settings: Settings,
    buffers: Buffers,
    resizer: Resampler,
    decoders: Decoders,
    encoders: Encoders,
    profiles: Profiles,
    stamp: Stamp,
}

impl Processor {
    /// A processor for these settings, which should have passed [`Settings::validate`].
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            buffers: Buffers::default(),
            resizer: Resampler::default(),
            decoders: Decoders::new(),
            encoders: Encoders::new(),
            profiles: Profiles::default(),
            stamp: Stamp::default(),
        }
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Gives back all memory that is kept between images. For a thread that has nothing to do: the next image takes some 5 ms longer.
    pub fn rest(&mut self) {
        self.buffers = Buffers::default();
        self.resizer = Resampler::default();
        self.decoders = Decoders::new();
        self.encoders = Encoders::new();
    }

    /// Makes all variants of an image. `control` is asked between the stages, between frames and while input is read, every few tens of
    /// milliseconds, and may stop the work. What runs in one go: decoding a JPEG or a lossy WebP, and encoding one variant.
    ///
    /// # Errors
    /// Everything that [`probe`](crate::probe) reports, `corrupt_image` or `truncated_image` for pixels that cannot be decoded,
    /// `cancelled`, `decode_timeout`, `out_of_memory`, `encode_failed`. After an error the processor is as good as new.
    pub fn process(&mut self, bytes: &[u8], control: &mut Control<'_>) -> Result<Processed, PipelineError> {
        let probed = probe_all(bytes, &self.settings.limits)?;
        let header = probed.header.clone();
        let is_animation = header.frames > 1 && matches!(header.format, Format::Gif | Format::WebP);
        let animated: Vec<usize> = (0..self.settings.variants.len())
            .filter(|index| is_animation && self.settings.variants[*index].animated)
            .collect();
        if !animated.is_empty() {
            frames::check(&probed, &self.settings.limits)?;
        }
        ask(control, Stage::Probed)?;
        let plan = plan(&self.settings, header.width, header.height, |index| !animated.contains(&index));
        let scale =
            plan.iter().filter(|rendition| rendition.parent.is_none()).map(Rendition::scale).fold(0.0, f64::max);
        let Decoded { raster, icc, mut is_salvaged } =
            self.decoders.decode(&mut self.buffers, bytes, &probed, scale, &self.settings, control)?;
        let attribution = probed.exif.as_deref().filter(|_| self.settings.keep_copyright).and_then(Attribution::read);
        let mut job = Job {
            to_srgb: icc.as_deref().and_then(|icc| self.profiles.conversion(icc, raster.layout)),
            source: Some(raster),
            stored: (header.coded_width(), header.coded_height()),
            shown: (header.width, header.height),
            orientation: header.orientation,
            attribution,
            plan: &plan,
        };
        ask(control, Stage::Decoded)?;
        let mut encoded = Vec::with_capacity(self.settings.variants.len());
        let summary = self.render_all(&mut job, &mut encoded, control)?;
        if !animated.is_empty() {
            // Frames are composed with alpha, whatever the still had.
            job.to_srgb = icc.as_deref().and_then(|icc| self.profiles.conversion(icc, Layout::Rgba));
            is_salvaged |= self.animate(&mut job, (bytes, &probed), &animated, &mut encoded, control)?;
        }
        encoded.sort_by_key(|(variant, _)| *variant);
        let variants = encoded.into_iter().map(|(_, encoded)| encoded).collect();
        Ok(Processed {
            header,
            variants,
            placeholder: summary.placeholder,
            dominant_color: summary.dominant_colour.to_string(),
            perceptual_hash: summary.perceptual_hash,
            is_salvaged,
        })
    }
}

/// One image on its way.
struct Job<'a> {
    /// The decoded input, until nothing more is made from it.
    source: Option<Raster>,
    /// Size as stored, in pixels of the file.
    stored: (u32, u32),
    /// Size as displayed.
    shown: (u32, u32),
    orientation: u8,
    to_srgb: Option<ToSrgb>,
    attribution: Option<Attribution>,
    plan: &'a [Rendition],
}

/// A processor moves to the thread that uses it.
const fn assert_send<T: Send>() {}
const _: () = assert_send::<Processor>();
