//! PNG output.

use std::borrow::Cow;

use png::{BitDepth, ColorType, Compression, Encoder, EncodingError, Info};

use crate::PipelineError;
use crate::raster::{Layout, Raster};

/// Encodes grey, RGB or unmultiplied RGBA.
pub(super) fn encode(raster: &Raster, exif: Option<Cow<'_, [u8]>>) -> Result<Vec<u8>, PipelineError> {
    let mut info = Info::with_size(raster.width as u32, raster.height as u32);
    info.bit_depth = BitDepth::Eight;
    info.color_type = match raster.layout {
        Layout::Grey => ColorType::Grayscale,
        Layout::Rgba => ColorType::Rgba,
        _ => ColorType::Rgb,
    };
    info.exif_metadata = exif;
    let mut out = Vec::new();
    let mut encoder = Encoder::with_info(&mut out, info).map_err(failed)?;
    encoder.set_compression(Compression::Balanced);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(raster.samples(0)).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(out)
}

fn failed(error: EncodingError) -> PipelineError {
    PipelineError::encode("encoding PNG", error)
}
