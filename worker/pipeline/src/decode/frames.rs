//! The frames of a GIF or WebP animation, each composed to the whole canvas.

use image::codecs::gif::GifDecoder;
use image::{AnimationDecoder, Frame, Frames, ImageDecoder, ImageResult};

use super::still::{classify, frame_limits};
use crate::buffers::Buffers;
use crate::colour::premultiply;
use crate::control::Watch;
use crate::header::Probed;
use crate::limits::Limits;
use crate::raster::{Layout, Raster};
use crate::{Format, PipelineError};

mod webp;

/// Browsers show frames that claim 10 ms or less for this long, and files rely on it.
const DEFAULT_DELAY_MS: u32 = 100;
/// Longest time a frame is shown: a minute. Keeps the sum of all within the 24 bits that WebP has for one frame, too.
const MAX_DELAY_MS: u32 = 60_000;

/// An animation being read.
pub(crate) struct Animation<'a> {
    source: Source<'a>,
    size: (u32, u32),
    left: u32,
}

enum Source<'a> {
    Gif(Frames<'a>),
    WebP(Box<webp::Composer<'a>>),
}

/// Checks an animation against the limits for animations.
pub(crate) fn check(probed: &Probed<'_>, limits: &Limits) -> Result<(), PipelineError> {
    if probed.header.frames > limits.max_frames {
        return Err(PipelineError::TooManyFrames { max_frames: limits.max_frames });
    }
    let (pixels, max_pixels) = (probed.animation_pixels, limits.max_animation_pixels);
    if pixels > max_pixels { Err(PipelineError::AnimationTooLarge { pixels, max_pixels }) } else { Ok(()) }
}

/// Opens an animation that is within the limits.
pub(crate) fn open<'a>(
    buffers: &mut Buffers,
    bytes: &'a [u8],
    probed: &Probed<'_>,
    limits: &Limits,
    watch: &'a Watch<'a>,
) -> Result<Animation<'a>, PipelineError> {
    let header = &probed.header;
    let size = (header.coded_width(), header.coded_height());
    let source = match header.format {
        Format::Gif => GifDecoder::new(watch.reader(bytes))
            .and_then(|mut decoder| decoder.set_limits(frame_limits(limits)).map(|()| decoder.into_frames()))
            .map(Source::Gif)
            .map_err(|error| classify(Format::Gif, error))?,
        _ => Source::WebP(Box::new(webp::Composer::new(buffers, bytes, size, watch)?)),
    };
    Ok(Animation { source, size, left: header.frames })
}

impl Animation<'_> {
    /// The next frame, premultiplied, and how long it is shown in milliseconds.
    pub(crate) fn next(&mut self, buffers: &mut Buffers) -> Result<Option<(Raster, i32)>, PipelineError> {
        // The header counted the frames that the limits were checked against: no more are taken.
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let frame = match &mut self.source {
            Source::Gif(frames) => frames.next().map(|frame| take(buffers, frame, self.size)).transpose()?,
            Source::WebP(composer) => composer.next(buffers)?,
        };
        Ok(frame.map(|(raster, delay_ms)| (raster, shown_ms(delay_ms))))
    }
}

fn shown_ms(delay_ms: u32) -> i32 {
    match delay_ms {
        0..=10 => DEFAULT_DELAY_MS as i32,
        delay => delay.min(MAX_DELAY_MS) as i32,
    }
}

/// A frame that the decoder composed.
fn take(buffers: &mut Buffers, frame: ImageResult<Frame>, size: (u32, u32)) -> Result<(Raster, u32), PipelineError> {
    let frame = frame.map_err(|error| PipelineError::undecodable(Format::Gif, error))?;
    let (numerator, denominator) = frame.delay().numer_denom_ms();
    let pixels = frame.into_buffer();
    if pixels.dimensions() != size {
        return Err(PipelineError::corrupt(Format::Gif, "a frame has another size than the canvas"));
    }
    let mut raster = Raster::allocate(buffers, Layout::Rgba, size.0 as usize, size.1 as usize)?;
    raster.samples_mut(0).copy_from_slice(pixels.as_raw());
    premultiply(raster.samples_mut(0));
    Ok((raster, numerator / denominator.max(1)))
}
