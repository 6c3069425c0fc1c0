//! PNG: every colour type as 8-bit grey, RGB or premultiplied RGBA.

use std::borrow::Cow;

use fdeflate::{BoundedDecompressionError, decompress_to_vec_bounded};
use moxcms::{ColorProfile, DataColorSpace};
use png::{ColorType, Decoder, DecodingError, Limits, Transformations};

use super::{Decoded, classify_io, may_salvage};
use crate::buffers::Buffers;
use crate::colour::premultiply;
use crate::control::WatchedReader;
use crate::header::{Probed, srgb_with};
use crate::raster::{Layout, Raster};
use crate::settings::Settings;
use crate::{Format, PipelineError};

/// What the decoder may hold besides pixels: rows and chunk bodies. A row of 16,384 pixels has 128 KiB.
const WORKING_BYTES: usize = 8 << 20;

pub(super) fn decode<'a>(
    buffers: &mut Buffers,
    reader: WatchedReader<'_, '_>,
    probed: &Probed<'a>,
    settings: &Settings,
) -> Result<Decoded<'a>, PipelineError> {
    let mut icc = profile(probed, &settings.limits)?;
    let limits = Limits { bytes: settings.limits.max_icc_bytes as usize + WORKING_BYTES };
    let mut decoder = Decoder::new_with_limits(reader, limits);
    decoder.set_transformations(Transformations::normalize_to_color8());
    // Text can be a bomb of its own and is never kept.
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.ignore_checksums(may_salvage(settings));
    let mut reader = decoder.read_info().map_err(classify)?;
    let (width, height) = reader.info().size();
    let (colour, _) = reader.output_color_type();
    let layout = match colour {
        ColorType::Grayscale => Layout::Grey,
        ColorType::Rgb => Layout::Rgb,
        _ => Layout::Rgba,
    };
    let mut raster = Raster::allocate(buffers, layout, width as usize, height as usize)?;
    let packed =
        if colour == ColorType::GrayscaleAlpha { raster.samples(0).len() / 2 } else { raster.samples(0).len() };
    let pixels = &mut raster.samples_mut(0)[..packed];
    if may_salvage(settings) {
        pixels.fill(0);
    }
    let outcome = reader.next_frame(pixels);
    let is_salvaged = match outcome {
        Ok(_) => false,
        Err(_) if may_salvage(settings) && pixels.iter().any(|&sample| sample != 0) => true,
        Err(error) => {
            raster.recycle(buffers);
            return Err(classify(error));
        }
    };
    if colour == ColorType::GrayscaleAlpha {
        spread_grey(raster.samples_mut(0));
        icc = icc.map(|icc| spread_grey_profile(&icc).unwrap_or(icc));
    }
    if layout == Layout::Rgba {
        premultiply(raster.samples_mut(0));
    }
    Ok(Decoded { raster, icc, is_salvaged })
}

/// The profile, unpacked as far as it is allowed to be large. One that cannot be unpacked is none, as in browsers.
fn profile<'a>(probed: &Probed<'a>, limits: &crate::Limits) -> Result<Option<Cow<'a, [u8]>>, PipelineError> {
    let Some(packed) = probed.packed_icc.filter(|_| probed.header.has_icc && probed.icc.is_none()) else {
        return Ok(probed.icc.clone());
    };
    let max_bytes = limits.max_icc_bytes;
    match decompress_to_vec_bounded(packed, usize::try_from(max_bytes).unwrap_or(usize::MAX)) {
        Ok(profile) => Ok(Some(Cow::Owned(profile))),
        Err(BoundedDecompressionError::OutputTooLarge { .. }) => {
            Err(PipelineError::MetadataTooLarge { kind: "ICC", max_bytes })
        }
        Err(_) => Ok(None),
    }
}

/// Two bytes a pixel, packed at the front, to four, in place: from the end, so that nothing is overwritten before it is read.
fn spread_grey(samples: &mut [u8]) {
    for pixel in (0..samples.len() / 4).rev() {
        let (grey, alpha) = (samples[2 * pixel], samples[2 * pixel + 1]);
        samples[4 * pixel..4 * pixel + 4].copy_from_slice(&[grey, grey, grey, alpha]);
    }
}

/// The profile of grey samples as one of three equal channels.
fn spread_grey_profile(icc: &[u8]) -> Option<Cow<'static, [u8]>> {
    let grey = ColorProfile::new_from_slice(icc).ok()?;
    let curve = grey.gray_trc.filter(|_| grey.color_space == DataColorSpace::Gray)?;
    srgb_with(curve).map(Cow::Owned)
}

fn classify(error: DecodingError) -> PipelineError {
    match error {
        DecodingError::IoError(error) => classify_io(Format::Png, error),
        other => PipelineError::undecodable(Format::Png, other),
    }
}
