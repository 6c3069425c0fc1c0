//! How much memory an image will need, for admission: a worker lets a job wait rather than run out.

use crate::{Format, Header, Settings};

/// What a job needs beside pixels: codec tables, resizer coefficients, small images.
const FIXED_BYTES: u64 = 4 << 20;

/// Upper estimate, in bytes, of what [`Processor::process`](crate::Processor::process) allocates for an image with this header, beside the
/// input itself. Tests hold it against measured peaks.
#[must_use]
pub fn estimate_memory(header: &Header, settings: &Settings) -> u64 {
    let (width, height) = (header.width, header.height);
    let renditions = crate::plan::plan(settings, width, height, |_| true);
    let scale = renditions
        .iter()
        .filter(|rendition| rendition.parent.is_none())
        .map(crate::plan::Rendition::scale)
        .fold(0.0, f64::max);
    let pixels = u64::from(width) * u64::from(height);
    let decoded_pixels = match header.format {
        // Decoded at the smallest of four scales that is twice what is needed.
        Format::Jpeg => {
            let divisor = [8.0, 4.0, 2.0].into_iter().find(|divisor| scale * 2.0 * divisor <= 1.0).unwrap_or(1.0);
            (pixels as f64 / (divisor * divisor)) as u64 + u64::from(width) + u64::from(height)
        }
        _ => pixels,
    };
    let channels = u64::from(header.components);
    // A progressive JPEG is held whole as 16-bit coefficients before its first pixel; animation and GIF composition hold a canvas more.
    let decoder = match header.format {
        Format::Jpeg if header.is_progressive => 2 * channels * pixels,
        Format::Jpeg => 0,
        Format::Gif | Format::WebP => {
            4 * pixels + u64::from(settings.variants.iter().any(|variant| variant.animated)) * 8 * pixels
        }
        _ => 0,
    };
    let largest =
        renditions.iter().map(|rendition| u64::from(rendition.width) * u64::from(rendition.height)).max().unwrap_or(0);
    // The resizer's intermediate has the input's width and the output's height; then the rendition, its turned or converted copy,
    // the encoder's own planes, and the encoded bytes.
    let resizing = channels
        * ((decoded_pixels as f64).sqrt() as u64).max(u64::from(width.max(height)))
        * ((largest as f64).sqrt() as u64);
    FIXED_BYTES
        + channels * decoded_pixels
        + decoder
        + resizing.min(channels * decoded_pixels)
        + largest * (2 * channels + 4)
}
