//! Pictures to upload, made here: scenes with the soft gradients, edges and grain that photographs have.

use anyhow::{Context, Result};
use image::{ExtendedColorType, ImageEncoder, Rgb, RgbImage, codecs};
use std::io::Cursor;
use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

/// A landscape of `width` x `height` pixels; the same for the same size and `seed`.
fn scene(width: u32, height: u32, seed: u32) -> RgbImage {
    let (w, h) = (f32_of(width), f32_of(height));
    let hue = f32_of(seed % 7) / 7.0;
    let mut state = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (f32_of(x) / w, f32_of(y) / h);
        // Two ridges of hills under a sky that brightens towards the horizon, and a sun.
        let near = 0.75 + 0.05 * (u * 9.0 + hue * 6.0).sin() + 0.02 * (u * 31.0).sin();
        let far = 0.55 + 0.08 * (u * 5.0 + hue * 4.0).cos();
        let sun = 1.0 - ((u - 0.3 - hue * 0.4).powi(2) + ((v - 0.25) * h / w).powi(2)).sqrt() * 14.0;
        let colour = if v > near {
            [0.13 + 0.1 * v, 0.30 + 0.2 * (u * 40.0).sin().abs() * (v - near), 0.10]
        } else if v > far {
            [0.25 + hue * 0.2, 0.35 + 0.3 * (v - far), 0.40]
        } else {
            [0.45 + 0.4 * v + sun.clamp(0.0, 0.5), 0.60 + 0.25 * v + sun.clamp(0.0, 0.4), 0.95 - 0.2 * hue]
        };
        // Grain (a linear congruential generator): flat surfaces would compress to nothing.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let grain = (f32_of(state >> 24) - 127.5) / 127.5 * 0.02;
        Rgb(colour.map(|channel| to_byte(channel + grain)))
    })
}

#[expect(clippy::cast_precision_loss, reason = "sizes and bytes are far below 2^24")]
fn f32_of(value: u32) -> f32 {
    value as f32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte's range before")]
fn to_byte(channel: f32) -> u8 {
    (channel.clamp(0.0, 1.0) * 255.0).round() as u8
}

/// A JPEG of this size at quality 90.
///
/// # Errors
/// When the size cannot be encoded.
pub fn jpeg(width: u32, height: u32, seed: u32) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90)
        .encode_image(&scene(width, height, seed))
        .context("failed to encode a JPEG")?;
    Ok(bytes)
}

/// A 12-megapixel JPEG (4000 x 3000, quality 90, colour at half of each side), as a telephone takes them.
///
/// # Errors
/// When it cannot be encoded.
pub fn twelve_megapixels(seed: u32) -> Result<Vec<u8>> {
    let scene = scene(4000, 3000, seed);
    let mut compressor = Compressor::new().context("failed to make a JPEG encoder")?;
    compressor.set_quality(90).context("failed to set the quality")?;
    compressor.set_subsamp(Subsamp::Sub2x2).context("failed to set the sampling")?;
    let image =
        Image { pixels: &scene.as_raw()[..], width: 4000, pitch: 12_000, height: 3000, format: PixelFormat::RGB };
    compressor.compress_to_vec(image).context("failed to encode a JPEG")
}

/// The same scene in another format.
///
/// # Errors
/// When the format does not take it.
pub fn encoded(width: u32, height: u32, seed: u32, format: image::ImageFormat) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    image::DynamicImage::ImageRgb8(scene(width, height, seed))
        .write_to(&mut bytes, format)
        .context("failed to encode a picture")?;
    Ok(bytes.into_inner())
}

/// A JPEG that says in its EXIF data how it is to be turned (1 to 8).
///
/// # Errors
/// When the size cannot be encoded.
pub fn jpeg_with_orientation(width: u32, height: u32, orientation: u8) -> Result<Vec<u8>> {
    // TIFF header, one entry in IFD 0: tag 0x0112, type SHORT, count 1 (EXIF 2.3, section 4.6.2).
    let mut exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes = Vec::new();
    let mut encoder = codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90);
    encoder.set_exif_metadata(exif).context("failed to set EXIF data")?;
    let scene = scene(width, height, 1);
    encoder.write_image(scene.as_raw(), width, height, ExtendedColorType::Rgb8).context("failed to encode a JPEG")?;
    Ok(bytes)
}

/// A photograph of `tests/fixtures/photos/`, whose README says what each shows.
///
/// # Errors
/// When there is none of this name.
pub fn fixture(name: &str) -> Result<Vec<u8>> {
    let path = crate::project_root().join("tests/fixtures/photos").join(name);
    std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))
}

/// Width and height of an encoded picture, decoded in full so that a broken one is found.
///
/// # Errors
/// When it does not decode.
pub fn size(bytes: &[u8]) -> Result<(u32, u32)> {
    let picture = image::load_from_memory(bytes).context("the picture does not decode")?;
    Ok((picture.width(), picture.height()))
}
