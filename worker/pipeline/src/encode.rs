//! From a [`Raster`] in displayed orientation and sRGB to a file's bytes.

use std::borrow::Cow;

use crate::PipelineError;
use crate::buffers::Buffers;
use crate::colour::{flatten, halve_colour, rgb_of, unpremultiply};
use crate::header::Attribution;
use crate::raster::{Layout, Raster};
use crate::settings::{Chroma, Output, Rgb, VariantSpec};

mod jpeg;
mod libwebp;
mod metadata;
mod png;
mod webp;

pub(crate) use webp::AnimatedVariant;

/// Encoders that are worth keeping between images.
pub(crate) struct Encoders {
    jpeg: jpeg::JpegEncoder,
}

/// What concerns every variant of an image.
#[derive(Clone, Copy)]
pub(crate) struct Common<'a> {
    pub(crate) background: Rgb,
    pub(crate) attribution: Option<&'a Attribution>,
}

impl Encoders {
    pub(crate) fn new() -> Self {
        Self { jpeg: jpeg::JpegEncoder::new() }
    }

    /// Encodes a raster as `spec` asks. Nothing of the input's metadata is written but the attribution, where given.
    pub(crate) fn encode(
        &mut self,
        buffers: &mut Buffers,
        raster: &Raster,
        spec: &VariantSpec,
        common: Common<'_>,
    ) -> Result<Vec<u8>, PipelineError> {
        let exif = common.attribution.map(Attribution::to_exif);
        let (bytes, temporary) = match spec.format {
            Output::Jpeg => {
                let prepared = for_jpeg(buffers, raster, spec.chroma, common.background)?;
                let source = prepared.as_ref().unwrap_or(raster);
                let bytes = self.jpeg.encode(source, spec)?;
                (metadata::add_to_jpeg(bytes, exif.as_deref()), prepared)
            }
            Output::WebP => {
                let prepared = for_webp(buffers, raster, spec.lossless)?;
                let source = prepared.as_ref().unwrap_or(raster);
                let bytes = webp::encode(source, spec)?;
                (metadata::add_to_webp(bytes, raster, exif.as_deref()), prepared)
            }
            Output::Png => {
                let prepared = for_png(buffers, raster)?;
                let source = prepared.as_ref().unwrap_or(raster);
                (png::encode(source, exif.map(Cow::Owned))?, prepared)
            }
        };
        if let Some(temporary) = temporary {
            temporary.recycle(buffers);
        }
        Ok(bytes)
    }
}

/// JPEG takes grey, RGB, and planes at the wanted resolution of colour. `None`: as it is.
fn for_jpeg(
    buffers: &mut Buffers,
    raster: &Raster,
    chroma: Chroma,
    background: Rgb,
) -> Result<Option<Raster>, PipelineError> {
    match raster.layout {
        Layout::Rgba => flatten(buffers, raster, background).map(Some),
        Layout::YCC444 if chroma == Chroma::Quarter => halve_colour(buffers, raster).map(Some),
        _ => Ok(None),
    }
}

/// Lossy WebP takes grey, RGB, unmultiplied RGBA and 4:2:0 planes; lossless no planes.
fn for_webp(buffers: &mut Buffers, raster: &Raster, is_lossless: bool) -> Result<Option<Raster>, PipelineError> {
    match raster.layout {
        Layout::Rgba => unmultiplied(buffers, raster).map(Some),
        Layout::Ycc { .. } | Layout::Grey if is_lossless => rgb_of(buffers, raster).map(Some),
        Layout::YCC444 => halve_colour(buffers, raster).map(Some),
        _ => Ok(None),
    }
}

fn for_png(buffers: &mut Buffers, raster: &Raster) -> Result<Option<Raster>, PipelineError> {
    match raster.layout {
        Layout::Rgba => unmultiplied(buffers, raster).map(Some),
        Layout::Ycc { .. } => rgb_of(buffers, raster).map(Some),
        _ => Ok(None),
    }
}

/// A copy whose colour is not premultiplied, as files store it.
fn unmultiplied(buffers: &mut Buffers, raster: &Raster) -> Result<Raster, PipelineError> {
    let mut copy = Raster::allocate(buffers, Layout::Rgba, raster.width, raster.height)?;
    copy.samples_mut(0).copy_from_slice(raster.samples(0));
    unpremultiply(copy.samples_mut(0));
    Ok(copy)
}
