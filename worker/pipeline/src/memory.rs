//! How much memory an image will need, for admission: a worker lets a job wait rather than run out.

use crate::decode::decoded_divisor;
use crate::plan::{Rendition, plan};
use crate::settings::Output;
use crate::{Format, Header, Settings};

/// What a job needs beside pixels: codec tables, resizer coefficients, small images, the C library's own rounding.
const FIXED_BYTES: u64 = 6 << 20;

/// Upper estimate, in bytes, of what [`Processor::process`](crate::Processor::process) allocates for an image with this header, beside the
/// input itself. A test holds it against measured peaks: it is at most about twice the truth.
#[must_use]
pub fn estimate_memory(header: &Header, settings: &Settings) -> u64 {
    let (width, height) = (u64::from(header.width), u64::from(header.height));
    let pixels = width * height;
    let is_animation = header.frames > 1 && settings.variants.iter().any(|variant| variant.animated);
    let renditions = plan(settings, header.width, header.height, |_| true);
    let scale =
        renditions.iter().filter(|rendition| rendition.parent.is_none()).map(Rendition::scale).fold(0.0, f64::max);
    let bytes_of = |pixels: u64| (pixels * u64::from(header.bytes_of_four)).div_ceil(4);

    let divisor =
        if header.format == Format::Jpeg { decoded_divisor(scale, header.width.max(header.height)) as u64 } else { 1 };
    let decoded = (width.div_ceil(divisor) + 1) * (height.div_ceil(divisor) + 1);
    let decoder = match header.format {
        Format::Gif | Format::WebP => 8 * pixels,
        // Pictures of 16 bits a sample, the filters' copies, and the alpha's picture.
        Format::Avif => 16 * pixels,
        _ => 0,
    };
    // The resizer's intermediate has the input's width and the output's height, or the other way round when the image is turned; it is made in
    // bands of 2 MB, or of 64 rows. Planes of single bytes have it twice, the second time with columns for rows.
    let largest = |side: fn(&Rendition) -> u32| u64::from(renditions.iter().map(side).max().unwrap_or(0));
    let (out_w, out_h) = (largest(|rendition| rendition.width), largest(|rendition| rendition.height));
    let channels =
        if header.format == Format::Jpeg && header.components == 3 { 1 } else { u64::from(header.components) };
    let copies_between = if channels == 1 { 2 } else { 1 };
    let between = (width.div_ceil(divisor) * out_h).max(height.div_ceil(divisor) * out_w);
    let resizer = (copies_between * channels * between).min(4 << 20);
    let rendition =
        renditions.iter().map(|rendition| u64::from(rendition.width) * u64::from(rendition.height)).max().unwrap_or(0);
    // Bytes a pixel of a rendition: itself and its turned copy; as RGB and converted, where the profile or the output asks for it.
    let needs_rgb = header.has_icc
        || settings
            .variants
            .iter()
            .any(|variant| variant.format == Output::Png || variant.watermark || variant.lossless);
    let copies =
        if needs_rgb && header.components == 3 { 9 } else { 0 } + 2 * u64::from(header.bytes_of_four).div_ceil(4);
    let encoder = settings.variants.iter().map(|variant| match variant.format {
        Output::WebP if variant.lossless => 32,
        Output::WebP => 6,
        Output::Png => 4 + u64::from(header.components),
        Output::Jpeg => 2,
        // Reference frames, motion search and rate control of a video encoder.
        Output::Avif => 48,
    });
    let animation = if is_animation { 12 * pixels + 40 * rendition } else { 0 };
    FIXED_BYTES
        + header.decoder_bytes
        + bytes_of(decoded)
        + decoder
        + resizer
        + rendition * (copies + encoder.max().unwrap_or(0))
        + animation
}
