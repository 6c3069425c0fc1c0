//! From a [`Raster`] in displayed orientation and sRGB to a file's bytes.

use std::borrow::Cow;

use crate::PipelineError;
use crate::buffers::Buffers;
#[cfg(feature = "avif")]
use crate::colour::ycc_of;
use crate::colour::{flatten, halve_colour, rgb_of, unpremultiply};
use crate::header::Attribution;
use crate::raster::{Layout, Raster};
use crate::settings::{Chroma, Output, Rgb, VariantSpec};

#[cfg(feature = "avif")]
mod avif;
mod jpeg;
mod libwebp;
mod metadata;
mod png;
mod webp;

pub(crate) use webp::{AnimatedVariant, is_supported as has_webp};

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
            #[cfg(feature = "avif")]
            Output::Avif => {
                let alpha = if raster.layout == Layout::Rgba { Some(unmultiplied(buffers, raster)?) } else { None };
                let prepared = for_avif(buffers, alpha.as_ref().unwrap_or(raster), spec.chroma)?;
                let bytes = avif::encode(prepared.as_ref().unwrap_or(raster), alpha.as_ref(), spec, exif.as_deref())?;
                if let Some(alpha) = alpha {
                    alpha.recycle(buffers);
                }
                (bytes, prepared)
            }
            #[cfg(not(feature = "avif"))]
            Output::Avif => return Err(PipelineError::InvalidSettings("built without AVIF".to_owned())),
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

/// AVIF takes grey, and planes at the wanted resolution of colour.
#[cfg(feature = "avif")]
fn for_avif(buffers: &mut Buffers, raster: &Raster, chroma: Chroma) -> Result<Option<Raster>, PipelineError> {
    let planes = match raster.layout {
        Layout::Rgb | Layout::Rgba => Some(ycc_of(buffers, raster)?),
        _ => None,
    };
    if planes.as_ref().unwrap_or(raster).layout != Layout::YCC444 || chroma == Chroma::Full {
        return Ok(planes);
    }
    let halved = halve_colour(buffers, planes.as_ref().unwrap_or(raster))?;
    if let Some(planes) = planes {
        planes.recycle(buffers);
    }
    Ok(Some(halved))
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
