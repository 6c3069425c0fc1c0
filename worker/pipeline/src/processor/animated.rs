//! Animated variants: every frame of the input, resized, into one WebP a variant.

use super::{Encoded, Job, Processor};
use crate::colour::unpremultiply;
use crate::control::{Control, Stage, Watch};
use crate::decode::{frames, may_salvage};
use crate::encode::AnimatedVariant;
use crate::geometry::place;
use crate::header::{Attribution, Probed};
use crate::plan::Rendition;
use crate::raster::Raster;
use crate::watermark::Mark;
use crate::{Format, PipelineError};

/// A variant in the making.
struct Making {
    rendition: Rendition,
    variant: AnimatedVariant,
    /// The watermark, where the variant has one: scaled once for all frames.
    mark: Option<Mark>,
    frames: u32,
    last: Option<Raster>,
}

impl Processor {
    /// Adds the variants `wanted` to `encoded`. Frames are decoded once and rendered for each variant; one is held at a time. True where damage
    /// ended the animation early, and the settings allow to use the frames before it.
    pub(super) fn animate(
        &mut self,
        job: &mut Job<'_>,
        (bytes, probed): (&[u8], &Probed<'_>),
        wanted: &[usize],
        encoded: &mut Vec<(usize, Encoded)>,
        control: &mut Control<'_>,
    ) -> Result<bool, PipelineError> {
        let total = self.settings.variants.len();
        let mut making =
            wanted.iter().map(|index| self.start(job, *index, probed.loops)).collect::<Result<Vec<_>, _>>()?;
        let mut control = |stage| control(stage);
        let watch = Watch::new(&mut control);
        let mut frames =
            watch.verdict(frames::open(&mut self.buffers, bytes, probed, &self.settings.limits, &watch))?;
        let mut is_salvaged = false;
        loop {
            watch.ask(Stage::Decoding)?;
            let (raster, delay_ms) = match watch.verdict(frames.next(&mut self.buffers)) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(
                    PipelineError::Corrupt { format: Format::Gif, .. }
                    | PipelineError::Truncated { format: Format::Gif },
                ) if may_salvage(&self.settings) && making.iter().all(|making| making.frames > 0) => {
                    is_salvaged = true;
                    break;
                }
                Err(error) => return Err(error),
            };
            watch.ask(Stage::Rendering { done: encoded.len(), total })?;
            job.source = Some(raster);
            for making in &mut making {
                let mut frame = self.place_source(job, &making.rendition, false)?;
                if let Some(mark) = &making.mark {
                    mark.draw_on(&mut frame);
                }
                unpremultiply(frame.samples_mut(0));
                making.variant.add(&frame, delay_ms)?;
                making.frames += 1;
                if let Some(previous) = making.last.replace(frame) {
                    previous.recycle(&mut self.buffers);
                }
            }
            if let Some(source) = job.source.take() {
                source.recycle(&mut self.buffers);
            }
        }
        let exif = job.attribution.as_ref().map(Attribution::to_exif);
        for (index, Making { rendition, variant, mark, frames, last }) in wanted.iter().zip(making) {
            let last = last.ok_or_else(|| PipelineError::corrupt(Format::WebP, "it has no frames"))?;
            let bytes = variant.finish(exif.as_deref(), &last)?;
            last.recycle(&mut self.buffers);
            if let Some(mark) = mark {
                mark.recycle(&mut self.buffers);
            }
            let spec = &self.settings.variants[*index];
            let (name, format) = (spec.name.clone(), spec.format);
            encoded.push((
                *index,
                Encoded { name, format, width: rendition.width, height: rendition.height, frames, bytes },
            ));
            watch.ask(Stage::Encoded { done: encoded.len(), total })?;
        }
        Ok(is_salvaged)
    }

    fn start(&mut self, job: &Job<'_>, index: usize, loops: u16) -> Result<Making, PipelineError> {
        let spec = &self.settings.variants[index];
        let (crop, width, height) = place(spec.target, job.shown.0, job.shown.1);
        let rendition = Rendition { crop, width, height, parent: None, variants: vec![index] };
        let size = (width as usize, height as usize);
        let variant = AnimatedVariant::new(size, loops, spec)?;
        let mark = match spec.watermark {
            true => Some(self.stamp.mark(&mut self.resizer, &mut self.buffers, size, &self.settings)?),
            false => None,
        };
        Ok(Making { rendition, variant, mark, frames: 0, last: None })
    }
}
