//! Drawing the configured watermark over a variant.

use std::ops::ControlFlow;

use plane_resample::Resampler;

use crate::buffers::Buffers;
use crate::colour::rgb_of;
use crate::decode::Decoders;
use crate::geometry::{Rect, anchor_fractions};
use crate::header::probe_all;
use crate::orient::UPRIGHT;
use crate::raster::{Layout, Raster};
use crate::resize::resize;
use crate::settings::{Settings, Watermark};
use crate::{Format, PipelineError};

/// The watermark's pixels, decoded on first use.
#[derive(Default)]
pub(crate) struct Stamp {
    pixels: Option<Raster>,
}

impl Stamp {
    /// A copy of `raster` as RGB or RGBA with the watermark on it.
    pub(crate) fn draw(
        &mut self,
        resizer: &mut Resampler,
        buffers: &mut Buffers,
        raster: &Raster,
        settings: &Settings,
    ) -> Result<Raster, PipelineError> {
        let mark = self.mark(resizer, buffers, (raster.width, raster.height), settings)?;
        let mut canvas = match raster.layout {
            Layout::Rgba => copy(buffers, raster)?,
            _ => rgb_of(buffers, raster)?,
        };
        mark.draw_on(&mut canvas);
        mark.recycle(buffers);
        Ok(canvas)
    }

    /// The watermark for pictures of `width` x `height` pixels.
    pub(crate) fn mark(
        &mut self,
        resizer: &mut Resampler,
        buffers: &mut Buffers,
        (width, height): (usize, usize),
        settings: &Settings,
    ) -> Result<Mark, PipelineError> {
        let watermark = settings.watermark.as_ref();
        let watermark =
            watermark.ok_or_else(|| PipelineError::InvalidSettings("no watermark is configured".to_owned()))?;
        let pixels = match self.pixels.take() {
            Some(pixels) => pixels,
            None => load(buffers, watermark, settings)?,
        };
        let pixels = self.pixels.insert(pixels);
        let scaled_width = ((width as f32 * watermark.width).round() as usize).clamp(1, pixels.width);
        let scaled_height = (pixels.height * scaled_width).div_ceil(pixels.width).clamp(1, pixels.height);
        let whole = Rect::whole(pixels.width as u32, pixels.height as u32);
        let size = (scaled_width, scaled_height);
        let scaled = resize(resizer, buffers, pixels, whole, Layout::Rgba, size, UPRIGHT)?;
        let margin = (width.min(height) as f32 * watermark.margin).round() as usize;
        let (x, y) = anchor_fractions(watermark.gravity);
        let place = |room: usize, size: usize, fraction: f64| {
            let free = room.saturating_sub(size + 2 * margin);
            (margin + (free as f64 * fraction).round() as usize).min(room.saturating_sub(size))
        };
        let at = (place(width, scaled_width, x), place(height, scaled_height, y));
        Ok(Mark { pixels: scaled, at, opacity: (watermark.opacity * 255.0).round() as u16 })
    }
}

/// The watermark as it is drawn on pictures of one size.
pub(crate) struct Mark {
    pixels: Raster,
    at: (usize, usize),
    /// 0 to 255.
    opacity: u16,
}

impl Mark {
    /// Draws it on RGB or premultiplied RGBA.
    pub(crate) fn draw_on(&self, canvas: &mut Raster) {
        canvas.cover(&self.pixels, self.at, self.opacity);
    }

    /// Gives the buffer back.
    pub(crate) fn recycle(self, buffers: &mut Buffers) {
        self.pixels.recycle(buffers);
    }
}

fn load(buffers: &mut Buffers, watermark: &Watermark, settings: &Settings) -> Result<Raster, PipelineError> {
    let refused =
        |problem: String| PipelineError::InvalidSettings(format!("watermark {:?}: {problem}", watermark.file));
    let bytes = watermark.image.as_deref().ok_or_else(|| refused("its bytes were not loaded".to_owned()))?;
    let probed = probe_all(bytes, &settings.limits).map_err(|error| refused(error.to_string()))?;
    if probed.header.format == Format::Jpeg {
        return Err(refused("a picture without transparency hides what it covers; use PNG or WebP".to_owned()));
    }
    let decoded = Decoders::new()
        .decode(buffers, bytes, &probed, 1.0, settings, &mut |_| ControlFlow::Continue(()))
        .map_err(|error| refused(error.to_string()))?;
    let raster = decoded.raster;
    if raster.layout == Layout::Rgba {
        return Ok(raster);
    }
    let rgb = rgb_of(buffers, &raster)?;
    let mut rgba = Raster::allocate(buffers, Layout::Rgba, raster.width, raster.height)?;
    for (to, [r, g, b]) in rgba.samples_mut(0).as_chunks_mut::<4>().0.iter_mut().zip(rgb.samples(0).as_chunks::<3>().0)
    {
        *to = [*r, *g, *b, 255];
    }
    Ok(rgba)
}

fn copy(buffers: &mut Buffers, raster: &Raster) -> Result<Raster, PipelineError> {
    let mut out = Raster::allocate(buffers, raster.layout, raster.width, raster.height)?;
    out.samples_mut(0).copy_from_slice(raster.samples(0));
    Ok(out)
}
