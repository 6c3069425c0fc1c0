//! WebP output: choosing libwebp's settings and filling its planes.

use super::libwebp::{self, Animation, Options, Pixels, WebpError};
use crate::PipelineError;
use crate::raster::{Layout, Raster};
use crate::settings::VariantSpec;

/// libwebp's effort for lossless files: quality means effort there, and this is its documented default.
const LOSSLESS_QUALITY: f32 = 75.0;

/// Whether this processor has what libwebp is compiled for: SSE 4.1, which x86-64 processors have since about 2008.
pub(crate) fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("sse4.1");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

/// Encodes grey, RGB, unmultiplied RGBA or 4:2:0 planes.
pub(super) fn encode(raster: &Raster, spec: &VariantSpec) -> Result<Vec<u8>, PipelineError> {
    let pixels = match raster.layout {
        Layout::Rgba => Pixels::Rgba(raster.samples(0)),
        Layout::Rgb => Pixels::Rgb(raster.samples(0)),
        _ => Pixels::Planes(&|index, rows, stride| fill_plane(raster, index, rows, stride)),
    };
    libwebp::encode(raster.width, raster.height, &pixels, options(spec))
        .map_err(|error| failed(error, (raster.width, raster.height)))
}

/// An animated variant in the making.
pub(crate) struct AnimatedVariant {
    animation: Animation,
    end_ms: i32,
}

impl AnimatedVariant {
    /// A variant of `size` pixels that plays `loops` times; 0 is for ever.
    pub(crate) fn new(size: (usize, usize), loops: u16, spec: &VariantSpec) -> Result<Self, PipelineError> {
        let animation = Animation::new(size, loops, options(spec)).map_err(|error| failed(error, size))?;
        Ok(Self { animation, end_ms: 0 })
    }

    /// Adds a frame of unmultiplied RGBA, shown for `delay_ms`.
    pub(crate) fn add(&mut self, frame: &Raster, delay_ms: i32) -> Result<(), PipelineError> {
        let size = (frame.width, frame.height);
        self.animation.add(frame.samples(0), self.end_ms).map_err(|error| failed(error, size))?;
        self.end_ms = self.end_ms.saturating_add(delay_ms);
        Ok(())
    }

    /// The file, with an EXIF block where one is given.
    pub(crate) fn finish(self, exif: Option<&[u8]>, last: &Raster) -> Result<Vec<u8>, PipelineError> {
        let file = self.animation.finish(self.end_ms).map_err(|error| failed(error, (last.width, last.height)))?;
        Ok(super::metadata::add_to_webp(file, last, exif))
    }
}

fn failed(error: WebpError, (width, height): (usize, usize)) -> PipelineError {
    match error {
        // What it failed to get is not told: a picture of four bytes a pixel is the least of it.
        WebpError::Memory => PipelineError::OutOfMemory { bytes: 4 * (width * height) as u64 },
        error => PipelineError::encode("encoding WebP", error),
    }
}

/// libwebp's settings for a variant.
fn options(spec: &VariantSpec) -> Options {
    let quality = if spec.lossless { LOSSLESS_QUALITY } else { f32::from(spec.quality) };
    Options { quality, method: i32::from(spec.effort), is_lossless: spec.lossless }
}

/// Writes plane `index` in the range that WebP stores (16 to 235 for luma, 16 to 240 for colour: BT.601) from JPEG's full range.
fn fill_plane(raster: &Raster, index: usize, out: &mut [u8], stride: usize) {
    if raster.layout == Layout::Grey && index > 0 {
        out.fill(128);
        return;
    }
    let plane = raster.planes()[index];
    let (width, height) = (raster.width.div_ceil(plane.sub.0), raster.height.div_ceil(plane.sub.1));
    let rows = raster.samples(index).chunks_exact(plane.stride).take(height);
    for (to, from) in out.chunks_mut(stride).zip(rows) {
        let to = &mut to[..width];
        if index == 0 {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = limit_luma(*from));
        } else {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = limit_colour(*from));
        }
    }
}

/// `16 + y * 219 / 255`, rounded.
fn limit_luma(sample: u8) -> u8 {
    let scaled = u16::from(sample) * 219 + 128;
    16 + ((scaled + (scaled >> 8)) >> 8) as u8
}

/// `128 + (c - 128) * 224 / 255`, rounded: the constant part, 15.56, is 15 and 143 of 255.
fn limit_colour(sample: u8) -> u8 {
    let scaled = u16::from(sample) * 224 + 143 + 128;
    15 + ((scaled + (scaled >> 8)) >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_conversion_is_rounded_to_nearest() {
        for sample in 0..=255_u8 {
            let value = f64::from(sample);
            assert_eq!(f64::from(limit_luma(sample)), (16.0 + value * 219.0 / 255.0).round(), "luma {sample}");
            assert_eq!(
                f64::from(limit_colour(sample)),
                (128.0 + (value - 128.0) * 224.0 / 255.0).round(),
                "colour {sample}"
            );
        }
    }
}
