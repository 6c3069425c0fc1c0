//! The main path: probe, decode, then for each size render, turn, convert and encode.

use std::ops::ControlFlow;

use fast_image_resize::Resizer;

use crate::buffers::Buffers;
use crate::colour::{Profiles, ToSrgb};
use crate::decode::{Decoded, Decoders};
use crate::encode::{Common, Encoders};
use crate::geometry::{Rect, flips};
use crate::header::{Attribution, Header, probe_all};
use crate::orient::orient;
use crate::plan::{Rendition, plan};
use crate::raster::{Layout, Raster};
use crate::resize::resize;
use crate::settings::{Chroma, Output, Settings};
use crate::summary::{Summary, summarise};
use crate::{PIPELINE_VERSION, PipelineError};

/// Where in the work the control callback is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The header was read and is within the limits; decoding comes next.
    Probed,
    /// The pixels are decoded; the first variant comes next.
    Decoded,
    /// A size is about to be rendered.
    Rendering {
        /// Variants finished.
        done: usize,
        /// Variants in all.
        total: usize,
    },
    /// A variant was encoded.
    Encoded {
        /// Variants finished, this one included.
        done: usize,
        /// Variants in all.
        total: usize,
    },
}

/// What was made of an image.
#[derive(Debug, Clone, PartialEq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The file.
    pub bytes: Vec<u8>,
}

/// Turns images into variants, one at a time. Keeps its buffers and codecs between images: make one per thread and reuse it.
///
/// Results depend on nothing but bytes and settings: the same input gives the same output, in any order of images.
pub struct Processor {
    settings: Settings,
    buffers: Buffers,
    resizer: Resizer,
    decoders: Decoders,
    encoders: Encoders,
    profiles: Profiles,
}

/// Asks the callback whether to go on.
fn ask(control: &mut dyn FnMut(Stage) -> ControlFlow<()>, stage: Stage) -> Result<(), PipelineError> {
    match control(stage) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(PipelineError::Cancelled),
    }
}

impl Processor {
    /// A processor for these settings, which should have passed [`Settings::validate`].
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            buffers: Buffers::default(),
            resizer: Resizer::new(),
            decoders: Decoders::new(),
            encoders: Encoders::new(),
            profiles: Profiles::default(),
        }
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes all variants of an image. `control` is asked between the stages, every few tens of milliseconds, and may stop the work.
    ///
    /// # Errors
    /// Everything that [`probe`](crate::probe) reports, `corrupt_image` or `truncated_image` for pixels that cannot be decoded,
    /// `cancelled`, `out_of_memory`, `encode_failed`. After an error the processor is as good as new.
    pub fn process(
        &mut self,
        bytes: &[u8],
        control: &mut dyn FnMut(Stage) -> ControlFlow<()>,
    ) -> Result<Processed, PipelineError> {
        let probed = probe_all(bytes, &self.settings.limits)?;
        let header = probed.header.clone();
        ask(control, Stage::Probed)?;
        let plan = plan(&self.settings, header.width, header.height, |_| true);
        let scale =
            plan.iter().filter(|rendition| rendition.parent.is_none()).map(Rendition::scale).fold(0.0, f64::max);
        let Decoded { raster, icc, is_salvaged } =
            self.decoders.decode(&mut self.buffers, bytes, &probed, scale, &self.settings)?;
        let attribution = probed.exif.as_deref().filter(|_| self.settings.keep_copyright).and_then(Attribution::read);
        let mut job = Job {
            to_srgb: icc.and_then(|icc| self.profiles.conversion(&icc, raster.layout)),
            source: Some(raster),
            stored: (header.coded_width(), header.coded_height()),
            orientation: header.orientation,
            attribution,
            plan: &plan,
        };
        ask(control, Stage::Decoded)?;
        let (variants, summary) = self.render_all(&mut job, control)?;
        Ok(Processed {
            header,
            variants,
            placeholder: summary.placeholder,
            dominant_color: summary.dominant_colour.to_string(),
            perceptual_hash: summary.perceptual_hash,
            is_salvaged,
        })
    }

    fn render_all(
        &mut self,
        job: &mut Job<'_>,
        control: &mut dyn FnMut(Stage) -> ControlFlow<()>,
    ) -> Result<(Vec<Encoded>, Summary), PipelineError> {
        let total = self.settings.variants.len();
        let mut encoded: Vec<(usize, Encoded)> = Vec::with_capacity(total);
        let mut rendered: Vec<Option<Raster>> = Vec::with_capacity(job.plan.len());
        for (index, rendition) in job.plan.iter().enumerate() {
            ask(control, Stage::Rendering { done: encoded.len(), total })?;
            let raster = self.render(job, rendition, &rendered)?;
            rendered.push(Some(raster));
            self.release(job, &mut rendered, index);
            let Some(raster) = &rendered[index] else { continue };
            for &variant in &rendition.variants {
                let spec = &self.settings.variants[variant];
                let common = Common { background: self.settings.background, attribution: job.attribution.as_ref() };
                let bytes = self.encoders.encode(&mut self.buffers, raster, spec, common)?;
                let (name, format) = (spec.name.clone(), spec.format);
                let (width, height) = (rendition.width, rendition.height);
                encoded.push((variant, Encoded { name, format, width, height, frames: 1, bytes }));
                ask(control, Stage::Encoded { done: encoded.len(), total })?;
            }
        }
        let last = rendered.pop().flatten();
        let last =
            last.ok_or_else(|| PipelineError::Encode { reason: "the summary was not rendered", source: None })?;
        let summary = summarise(&mut self.buffers, &last)?;
        last.recycle(&mut self.buffers);
        encoded.sort_by_key(|(variant, _)| *variant);
        Ok((encoded.into_iter().map(|(_, encoded)| encoded).collect(), summary))
    }

    /// Gives back the buffers that nothing later is made from, once `current` is rendered.
    fn release(&mut self, job: &mut Job<'_>, rendered: &mut [Option<Raster>], current: usize) {
        let later = &job.plan[current + 1..];
        if later.iter().all(|rendition| rendition.parent.is_some())
            && let Some(source) = job.source.take()
        {
            source.recycle(&mut self.buffers);
        }
        for (index, slot) in rendered.iter_mut().enumerate().take(current) {
            if !later.iter().any(|rendition| rendition.parent == Some(index))
                && let Some(raster) = slot.take()
            {
                raster.recycle(&mut self.buffers);
            }
        }
    }

    fn render(
        &mut self,
        job: &Job<'_>,
        rendition: &Rendition,
        rendered: &[Option<Raster>],
    ) -> Result<Raster, PipelineError> {
        let parent = rendition.parent.and_then(|parent| Some((&job.plan[parent], rendered[parent].as_ref()?)));
        match parent {
            Some((parent, raster)) => {
                let scale = (raster.width as f64 / parent.crop.width, raster.height as f64 / parent.crop.height);
                let crop = rendition.crop.relative_to((parent.crop.left, parent.crop.top), scale);
                let layout = self.target_layout(raster.layout, false);
                let size = (rendition.width as usize, rendition.height as usize);
                resize(&mut self.resizer, &mut self.buffers, raster, crop, layout, size, (false, false))
            }
            None => self.render_source(job, rendition),
        }
    }

    /// Renders from the decoded input: resize, then turn, then convert colour, each on as few pixels as can be.
    fn render_source(&mut self, job: &Job<'_>, rendition: &Rendition) -> Result<Raster, PipelineError> {
        let source = job
            .source
            .as_ref()
            .ok_or_else(|| PipelineError::Encode { reason: "the input was released too early", source: None })?;
        let (width, height) = (f64::from(job.stored.0), f64::from(job.stored.1));
        let stored: Rect = rendition.crop.to_stored(job.orientation, width, height);
        let crop = stored.relative_to((0.0, 0.0), (source.extent.0 / width, source.extent.1 / height));
        let size = (rendition.width as usize, rendition.height as usize);
        let size = if job.orientation >= 5 { (size.1, size.0) } else { size };
        let layout = self.target_layout(source.layout, job.to_srgb.is_some());
        let resized = resize(&mut self.resizer, &mut self.buffers, source, crop, layout, size, flips(job.orientation))?;
        let turned = orient(&mut self.buffers, resized, job.orientation)?;
        let converted = match &job.to_srgb {
            Some(to_srgb) => to_srgb.apply(&mut self.buffers, turned)?,
            None if turned.layout == Layout::Cmyk => crate::colour::to_rgb(&mut self.buffers, turned)?,
            None => turned,
        };
        if converted.layout == Layout::Rgba
            && converted.samples(0).as_chunks::<4>().0.iter().all(|pixel| pixel[3] == 255)
        {
            return crate::colour::to_rgb(&mut self.buffers, converted);
        }
        Ok(converted)
    }

    /// What planes are resized to: 4:2:0, unless somebody will see more.
    fn target_layout(&self, layout: Layout, is_converted: bool) -> Layout {
        let sees_more = |output: Output, chroma: Chroma, is_lossless: bool| match output {
            Output::Jpeg => chroma == Chroma::Full,
            Output::WebP => is_lossless,
            Output::Png => true,
        };
        match layout {
            Layout::Ycc { .. } => {
                let is_full = is_converted
                    || self.settings.variants.iter().any(|spec| sees_more(spec.format, spec.chroma, spec.lossless));
                if is_full { Layout::YCC444 } else { Layout::YCC420 }
            }
            other => other,
        }
    }
}

/// One image on its way.
struct Job<'a> {
    /// The decoded input, until nothing more is made from it.
    source: Option<Raster>,
    /// Size as stored, in pixels of the file.
    stored: (u32, u32),
    orientation: u8,
    to_srgb: Option<ToSrgb>,
    attribution: Option<Attribution>,
    plan: &'a [Rendition],
}

const _: () = assert!(PIPELINE_VERSION > 0, "a fingerprint of version 0 would look like one that was never set");
