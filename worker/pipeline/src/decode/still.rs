//! WebP, GIF and BMP: the first frame, as RGB or premultiplied RGBA.

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ColorType, ImageDecoder, ImageError};

use super::{Decoded, classify_io, may_salvage};
use crate::buffers::Buffers;
use crate::colour::premultiply;
use crate::control::WatchedReader;
use crate::header::Probed;
use crate::raster::{Layout, Raster};
use crate::settings::Settings;
use crate::{Format, Limits, PipelineError};

pub(super) fn decode<'a>(
    buffers: &mut Buffers,
    reader: WatchedReader<'_, '_>,
    probed: &Probed<'a>,
    settings: &Settings,
) -> Result<Decoded<'a>, PipelineError> {
    let header = &probed.header;
    let (format, size) = (header.format, (header.coded_width(), header.coded_height()));
    let (raster, is_salvaged) = match format {
        Format::WebP => WebPDecoder::new(reader)
            .map_err(|error| classify(format, error))
            .and_then(|decoder| read(buffers, format, size, decoder, may_salvage(settings))),
        Format::Gif => GifDecoder::new(reader)
            .and_then(|mut decoder| decoder.set_limits(frame_limits(&settings.limits)).map(|()| decoder))
            .map_err(|error| classify(format, error))
            .and_then(|decoder| read(buffers, format, size, decoder, may_salvage(settings))),
        _ => BmpDecoder::new(reader)
            .map_err(|error| classify(format, error))
            .and_then(|decoder| read(buffers, format, size, decoder, may_salvage(settings))),
    }?;
    Ok(Decoded { raster, icc: probed.icc.clone(), is_salvaged })
}

/// A second line behind the header's own reading of the frames' sizes, should the decoder read a file in another way: what it may allocate.
pub(super) fn frame_limits(limits: &Limits) -> image::Limits {
    let mut allocation = image::Limits::no_limits();
    allocation.max_alloc = Some(limits.max_pixels.saturating_mul(12));
    allocation
}

/// The pixels of a picture of the size that its header has, and whether they are only what could be decoded of a damaged file.
pub(super) fn read(
    buffers: &mut Buffers,
    format: Format,
    size: (u32, u32),
    decoder: impl ImageDecoder,
    may_salvage: bool,
) -> Result<(Raster, bool), PipelineError> {
    let (width, height) = decoder.dimensions();
    if (width, height) != size {
        return Err(PipelineError::corrupt(format, "its header can be read in two ways"));
    }
    let layout = match decoder.color_type() {
        ColorType::L8 => Layout::Grey,
        ColorType::Rgb8 => Layout::Rgb,
        ColorType::Rgba8 => Layout::Rgba,
        _ => {
            return Err(PipelineError::UnsupportedFeature { format, feature: "an unusual sample type" });
        }
    };
    let mut raster = Raster::allocate(buffers, layout, width as usize, height as usize)?;
    // A decoder that writes as it reads leaves what came before the damage. One that writes at the end (WebP) leaves nothing.
    raster.samples_mut(0).fill(0);
    let is_salvaged = match decoder.read_image(raster.samples_mut(0)) {
        Ok(()) => false,
        Err(_) if may_salvage && raster.samples(0).iter().any(|&sample| sample != 0) => true,
        Err(error) => {
            raster.recycle(buffers);
            return Err(classify(format, error));
        }
    };
    if layout == Layout::Rgba {
        premultiply(raster.samples_mut(0));
    }
    Ok((raster, is_salvaged))
}

pub(super) fn classify(format: Format, error: ImageError) -> PipelineError {
    match error {
        ImageError::IoError(error) => classify_io(format, error),
        other => PipelineError::undecodable(format, other),
    }
}
