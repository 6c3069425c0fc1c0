//! JPEG by libjpeg-turbo: photographs as the planes they are stored in, at the smallest of the scales 1, 1/2, 1/4, 1/8 that suffices.
//! Those four have SIMD code; the others that the library offers are slower than decoding more pixels.

use std::borrow::Cow;

use turbojpeg::{Colorspace, DecompressHeader, Decompressor, Image, PixelFormat, ScalingFactor, Subsamp, YuvImage};

use super::{Decoded, may_salvage};
use crate::buffers::Buffers;
use crate::header::{Probed, jpeg_has_end, jpeg_without_garbage};
use crate::raster::{Layout, Raster};
use crate::settings::Settings;
use crate::{Format, PipelineError};

/// Decoded pixels for each pixel of the result, at the least: below, the block structure of the scaled DCT shows against a full decode.
const OVERSAMPLING: f64 = 2.0;
/// The same where the result itself is large: nobody compares single pixels of it, and a 24-megapixel photo is decoded in 3/4 of the
/// time. SSIM of its 2048 px variant against a full decode falls by less than .001.
const OVERSAMPLING_LARGE: f64 = 1.4;
/// Long edge from which a result is large.
const LARGE_PX: f64 = 1500.0;
/// The value that a buffer is filled with before a salvage, so that an untouched one is told from a decoded one: mid grey.
const UNTOUCHED: u8 = 128;

/// A decompressor, made on first use and kept: setting one up allocates its tables anew.
pub(super) struct JpegDecoder {
    inner: Option<Decompressor>,
}

impl JpegDecoder {
    pub(super) fn new() -> Self {
        Self { inner: None }
    }

    pub(super) fn decode<'a>(
        &mut self,
        buffers: &mut Buffers,
        bytes: &'a [u8],
        probed: &Probed<'a>,
        scale: f64,
        settings: &Settings,
    ) -> Result<Decoded<'a>, PipelineError> {
        let failed = |error| failed(error, probed);
        let setup = |error| PipelineError::encode("setting up the JPEG decoder", error);
        // A decompressor that met an error is dropped: the next image starts from a clean one.
        let mut decompressor = match self.inner.take() {
            Some(kept) => kept,
            None => Decompressor::new().map_err(setup)?,
        };
        let (bytes, stored) = match decompressor.read_header(bytes) {
            Ok(stored) => (Cow::Borrowed(bytes), stored),
            Err(_) if may_salvage(settings) => {
                // A warning ends the reading of a header, before there is anything to salvage.
                let clean = jpeg_without_garbage(bytes);
                decompressor = Decompressor::new().map_err(setup)?;
                let stored = decompressor.read_header(&clean).map_err(failed)?;
                (Cow::Owned(clean), stored)
            }
            Err(error) => return Err(failed(error)),
        };
        // The library's limit is a signed number.
        decompressor.set_scan_limit(settings.limits.max_scans.min(i32::MAX as u32)).map_err(setup)?;
        let expected = (probed.header.coded_width() as usize, probed.header.coded_height() as usize);
        if (stored.width, stored.height) != expected {
            // What was checked against the limits is not what would be decoded.
            return Err(PipelineError::corrupt(Format::Jpeg, "its header can be read in two ways"));
        }
        let long_edge = probed.header.width.max(probed.header.height);
        let factor = ScalingFactor::new(1, decoded_divisor(scale, long_edge));
        decompressor.set_scaling_factor(factor).map_err(failed)?;
        let mut raster = allocate(buffers, &stored, factor)?;
        if may_salvage(settings) {
            raster.all_samples_mut().fill(UNTOUCHED);
        }
        let outcome = decode_into(&mut decompressor, &bytes, &stored, &mut raster);
        let is_salvaged = match outcome {
            Ok(()) => {
                self.inner = Some(decompressor);
                matches!(bytes, Cow::Owned(_))
            }
            Err(error) if is_out_of_memory(&error) => {
                raster.recycle(buffers);
                return Err(failed(error));
            }
            // The library reports damage after it decoded what it could.
            Err(error) => {
                if !may_salvage(settings) || raster.all_samples_mut().iter().all(|&sample| sample == UNTOUCHED) {
                    let is_whole = jpeg_has_end(&bytes);
                    raster.recycle(buffers);
                    return Err(if is_whole {
                        failed(error)
                    } else {
                        PipelineError::Truncated { format: Format::Jpeg }
                    });
                }
                true
            }
        };
        Ok(Decoded { raster, icc: probed.icc.clone(), is_salvaged })
    }
}

fn failed(error: turbojpeg::Error, probed: &Probed<'_>) -> PipelineError {
    if is_out_of_memory(&error) {
        return PipelineError::OutOfMemory { bytes: probed.header.decoder_bytes };
    }
    PipelineError::undecodable(Format::Jpeg, error)
}

/// True where the library could not allocate: it says so in words only, one of its two layers these and the other those.
fn is_out_of_memory(error: &turbojpeg::Error) -> bool {
    match error {
        turbojpeg::Error::TurboJpegError(text) => {
            text.contains("Insufficient memory") || text.contains("Memory allocation failure")
        }
        other => matches!(other, turbojpeg::Error::Null),
    }
}

/// By what the sides are divided in decoding, where the largest rendition has `scale` pixels for one of the input, whose longer side
/// has `long_edge` pixels.
pub(crate) fn decoded_divisor(scale: f64, long_edge: u32) -> usize {
    let oversampling = if scale * f64::from(long_edge) >= LARGE_PX { OVERSAMPLING_LARGE } else { OVERSAMPLING };
    [8, 4, 2].into_iter().find(|divisor| scale * oversampling * *divisor as f64 <= 1.0).unwrap_or(1)
}

/// A raster for the image as the library will write it.
fn allocate(buffers: &mut Buffers, stored: &DecompressHeader, factor: ScalingFactor) -> Result<Raster, PipelineError> {
    let layout = match (stored.colorspace, stored.subsamp) {
        (Colorspace::CMYK | Colorspace::YCCK, _) => Layout::Cmyk,
        (Colorspace::Gray, _) => Layout::Grey,
        // RGB stored as such, and sampling that has no name, go by way of the library's own conversion.
        (Colorspace::RGB, _) | (_, Subsamp::Unknown) => Layout::Rgb,
        (Colorspace::YCbCr, subsamp) => Layout::Ycc { h: subsamp.width() as u8, v: subsamp.height() as u8 },
    };
    let scaled = stored.scaled(factor);
    let mut raster = Raster::allocate(buffers, layout, scaled.width, scaled.height)?;
    let exact = |side: usize| (side * factor.num()) as f64 / factor.denom() as f64;
    raster.extent = (exact(stored.width), exact(stored.height));
    Ok(raster)
}

fn decode_into(
    decompressor: &mut Decompressor,
    bytes: &[u8],
    stored: &DecompressHeader,
    raster: &mut Raster,
) -> turbojpeg::Result<()> {
    let (width, height) = (raster.width, raster.height);
    let format = match raster.layout {
        Layout::Ycc { .. } => {
            let subsamp = stored.subsamp;
            return decompressor.decompress_to_yuv(
                bytes,
                YuvImage { pixels: raster.all_samples_mut(), width, align: 1, height, subsamp },
            );
        }
        Layout::Grey => PixelFormat::GRAY,
        Layout::Cmyk => PixelFormat::CMYK,
        _ => PixelFormat::RGB,
    };
    decompressor.decompress(
        bytes,
        Image { pixels: raster.all_samples_mut(), width, pitch: width * format.size(), height, format },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_scale_that_oversamples_is_chosen() {
        assert_eq!(decoded_divisor(2048.0 / 4000.0, 4000), 1);
        assert_eq!(decoded_divisor(2048.0 / 6000.0, 6000), 2);
        assert_eq!(decoded_divisor(1024.0 / 4096.0, 4096), 2);
        assert_eq!(decoded_divisor(1024.0 / 4000.0, 4000), 1);
        assert_eq!(decoded_divisor(320.0 / 4000.0, 4000), 4);
        assert_eq!(decoded_divisor(100.0 / 4000.0, 4000), 8);
        assert_eq!(decoded_divisor(1.0, 100), 1);
    }
}
