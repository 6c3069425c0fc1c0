//! WebP, GIF and BMP: the first frame, as RGB or premultiplied RGBA.

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::webp::WebPDecoder;
use image::{ColorType, ImageDecoder, ImageError};

use super::{Decoded, classify_io};
use crate::buffers::Buffers;
use crate::colour::premultiply;
use crate::control::WatchedReader;
use crate::header::{Header, Probed};
use crate::raster::{Layout, Raster};
use crate::{Format, PipelineError};

pub(super) fn decode<'a>(
    buffers: &mut Buffers,
    reader: WatchedReader<'_, '_>,
    probed: &Probed<'a>,
) -> Result<Decoded<'a>, PipelineError> {
    let header = &probed.header;
    let raster = match header.format {
        Format::WebP => WebPDecoder::new(reader)
            .map_err(|error| classify(header, error))
            .and_then(|decoder| read(buffers, header, decoder)),
        Format::Gif => GifDecoder::new(reader)
            .map_err(|error| classify(header, error))
            .and_then(|decoder| read(buffers, header, decoder)),
        _ => BmpDecoder::new(reader)
            .map_err(|error| classify(header, error))
            .and_then(|decoder| read(buffers, header, decoder)),
    }?;
    Ok(Decoded { raster, icc: probed.icc.clone(), is_salvaged: false })
}

fn read(buffers: &mut Buffers, header: &Header, decoder: impl ImageDecoder) -> Result<Raster, PipelineError> {
    let (width, height) = decoder.dimensions();
    if (width, height) != (header.coded_width(), header.coded_height()) {
        return Err(PipelineError::corrupt(header.format, "its header can be read in two ways"));
    }
    let layout = match decoder.color_type() {
        ColorType::L8 => Layout::Grey,
        ColorType::Rgb8 => Layout::Rgb,
        ColorType::Rgba8 => Layout::Rgba,
        _ => {
            return Err(PipelineError::UnsupportedFeature { format: header.format, feature: "an unusual sample type" });
        }
    };
    let mut raster = Raster::allocate(buffers, layout, width as usize, height as usize)?;
    decoder.read_image(raster.samples_mut(0)).map_err(|error| classify(header, error))?;
    if layout == Layout::Rgba {
        premultiply(raster.samples_mut(0));
    }
    Ok(raster)
}

pub(super) fn classify(header: &Header, error: ImageError) -> PipelineError {
    match error {
        ImageError::IoError(error) => classify_io(header.format, error),
        other => PipelineError::undecodable(header.format, other),
    }
}
