//! From the decoded input to encoded stills.

use super::{Encoded, Job, Processor};
use crate::PipelineError;
use crate::colour::to_rgb;
use crate::control::{Control, Stage, ask};
use crate::encode::Common;
use crate::geometry::Rect;
use crate::orient::UPRIGHT;
use crate::plan::Rendition;
use crate::raster::{Layout, Raster};
use crate::resize::resize;
use crate::settings::{Chroma, Output, VariantSpec};
use crate::summary::{Summary, summarise};

impl Processor {
    /// Renders and encodes all still variants, and the summary.
    pub(super) fn render_all(
        &mut self,
        job: &mut Job<'_>,
        encoded: &mut Vec<(usize, Encoded)>,
        control: &mut Control<'_>,
    ) -> Result<Summary, PipelineError> {
        let total = self.settings.variants.len();
        let mut rendered: Vec<Option<Raster>> = Vec::with_capacity(job.plan.len());
        for (index, rendition) in job.plan.iter().enumerate() {
            ask(control, Stage::Rendering { done: encoded.len(), total })?;
            let raster = self.render(job, index, &rendered)?;
            rendered.push(Some(raster));
            self.release(job.plan, &mut rendered, index);
            let Some(raster) = &rendered[index] else { continue };
            for &variant in &rendition.variants {
                ask(control, Stage::Encoding { done: encoded.len(), total })?;
                let spec = &self.settings.variants[variant];
                let stamped = match spec.watermark {
                    true => Some(self.stamp.draw(&mut self.resizer, &mut self.buffers, raster, &self.settings)?),
                    false => None,
                };
                let common = Common { background: self.settings.background, attribution: job.attribution.as_ref() };
                let bytes =
                    self.encoders.encode(&mut self.buffers, stamped.as_ref().unwrap_or(raster), spec, common)?;
                if let Some(stamped) = stamped {
                    stamped.recycle(&mut self.buffers);
                }
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
        Ok(summary)
    }

    /// Gives back the renditions that nothing later is made from, once `current` is rendered.
    fn release(&mut self, plan: &[Rendition], rendered: &mut [Option<Raster>], current: usize) {
        for (index, slot) in rendered.iter_mut().enumerate().take(current) {
            if !plan[current + 1..].iter().any(|rendition| rendition.parent == Some(index))
                && let Some(raster) = slot.take()
            {
                raster.recycle(&mut self.buffers);
            }
        }
    }

    fn render(
        &mut self,
        job: &mut Job<'_>,
        index: usize,
        rendered: &[Option<Raster>],
    ) -> Result<Raster, PipelineError> {
        let rendition = &job.plan[index];
        let parent = rendition.parent.and_then(|parent| Some((&job.plan[parent], rendered[parent].as_ref()?)));
        match parent {
            Some((parent, raster)) => {
                let scale = (raster.width as f64 / parent.crop.width, raster.height as f64 / parent.crop.height);
                let crop = rendition.crop.relative_to((parent.crop.left, parent.crop.top), scale);
                let layout = self.target_layout(raster.layout, false);
                let size = (rendition.width as usize, rendition.height as usize);
                resize(&mut self.resizer, &mut self.buffers, raster, crop, layout, size, UPRIGHT)
            }
            None => {
                let is_last = job.plan[index + 1..].iter().all(|rendition| rendition.parent.is_some());
                self.render_source(job, rendition, is_last)
            }
        }
    }

    /// Renders from the decoded input, without alpha where no pixel needs it.
    fn render_source(
        &mut self,
        job: &mut Job<'_>,
        rendition: &Rendition,
        is_last: bool,
    ) -> Result<Raster, PipelineError> {
        let raster = self.place_source(job, rendition, is_last)?;
        if raster.layout == Layout::Rgba && raster.samples(0).as_chunks::<4>().0.iter().all(|pixel| pixel[3] == 255) {
            return to_rgb(&mut self.buffers, raster);
        }
        Ok(raster)
    }

    /// Renders from the decoded input: resize and turn, then convert colour, each on as few pixels as can be.
    /// Where it `is_last`, the input's buffer serves what follows already.
    pub(super) fn place_source(
        &mut self,
        job: &mut Job<'_>,
        rendition: &Rendition,
        is_last: bool,
    ) -> Result<Raster, PipelineError> {
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
        let turned = resize(&mut self.resizer, &mut self.buffers, source, crop, layout, size, job.orientation)?;
        if is_last && let Some(source) = job.source.take() {
            source.recycle(&mut self.buffers);
        }
        let converted = match &job.to_srgb {
            Some(to_srgb) => to_srgb.apply(&mut self.buffers, turned)?,
            None if turned.layout == Layout::Cmyk => to_rgb(&mut self.buffers, turned)?,
            None => turned,
        };
        Ok(converted)
    }

    /// What planes are resized to: 4:2:0, unless somebody will see more.
    fn target_layout(&self, layout: Layout, is_converted: bool) -> Layout {
        let sees_more = |spec: &VariantSpec| match spec.format {
            Output::Jpeg | Output::Avif => spec.watermark || spec.chroma == Chroma::Full,
            Output::WebP => spec.watermark || spec.lossless,
            Output::Png => true,
        };
        match layout {
            Layout::Ycc { .. } => {
                let is_full = is_converted || self.settings.variants.iter().any(sees_more);
                if is_full { Layout::YCC444 } else { Layout::YCC420 }
            }
            other => other,
        }
    }
}
