//! From bytes to a [`Raster`].

use std::borrow::Cow;
use std::io;

use crate::buffers::Buffers;
use crate::control::{Control, Watch};
use crate::header::Probed;
use crate::raster::Raster;
use crate::settings::{Damaged, Settings};
use crate::{Format, PipelineError};

#[cfg(feature = "avif")]
mod avif;
pub(crate) mod frames;
mod jpeg;
mod png;
mod still;

pub(crate) use jpeg::decoded_divisor;

/// Decoders that are worth keeping between images, and what a decode may use.
pub(crate) struct Decoders {
    jpeg: jpeg::JpegDecoder,
}

/// A decoded image, as stored: orientation and colour profile are not applied.
pub(crate) struct Decoded<'a> {
    pub(crate) raster: Raster,
    pub(crate) icc: Option<Cow<'a, [u8]>>,
    /// True where the file was damaged and [`Damaged::Salvage`] took what there was.
    pub(crate) is_salvaged: bool,
}

impl Decoders {
    pub(crate) fn new() -> Self {
        Self { jpeg: jpeg::JpegDecoder::new() }
    }

    /// Decodes the first frame. `scale`: pixels of the largest rendition for a pixel of the input (at most 1): a decoder that can may
    /// give fewer pixels than are stored, as long as they suffice.
    pub(crate) fn decode<'a>(
        &mut self,
        buffers: &mut Buffers,
        bytes: &'a [u8],
        probed: &Probed<'a>,
        scale: f64,
        settings: &Settings,
        control: &mut Control<'_>,
    ) -> Result<Decoded<'a>, PipelineError> {
        if probed.header.format == Format::Jpeg {
            return self.jpeg.decode(buffers, bytes, probed, scale, settings);
        }
        #[cfg(feature = "avif")]
        if probed.header.format == Format::Avif {
            return avif::decode(buffers, probed);
        }
        let mut control = |stage| control(stage);
        let watch = Watch::new(&mut control);
        let decoded = match probed.header.format {
            Format::Png => png::decode(buffers, watch.reader(bytes), probed, settings),
            _ => still::decode(buffers, watch.reader(bytes), probed, settings),
        };
        watch.verdict(decoded)
    }
}

/// True where a damaged file's remains may be used.
pub(crate) fn may_salvage(settings: &Settings) -> bool {
    settings.damaged == Damaged::Salvage
}

/// What a reader's error says about a file that is wholly in memory: it ends too early, or it is wrong.
fn classify_io(format: Format, error: io::Error) -> PipelineError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        PipelineError::Truncated { format }
    } else {
        PipelineError::undecodable(format, error)
    }
}
