//! The frames of a GIF or WebP animation, each composed to the whole canvas.

use std::io::Cursor;

use image::codecs::gif::GifDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::LoopCount;
use image::{AnimationDecoder, Frame, Frames, ImageDecoder, ImageResult};

use super::still::{classify, frame_limits};
use crate::buffers::Buffers;
use crate::colour::premultiply;
use crate::header::Probed;
use crate::limits::Limits;
use crate::raster::{Layout, Raster};
use crate::{Format, PipelineError};

/// Browsers show frames that claim 10 ms or less for this long, and files rely on it.
const DEFAULT_DELAY_MS: u32 = 100;
/// Longest time a frame is shown: a minute. Keeps the sum of all within the 24 bits that WebP has for one frame, too.
const MAX_DELAY_MS: u32 = 60_000;

/// An animation being read.
pub(crate) struct Animation<'a> {
    frames: Frames<'a>,
    format: Format,
    size: (u32, u32),
    left: u32,
    /// How often it plays; 0 is for ever.
    pub(crate) loops: u16,
}

/// Opens an animation, if it is within the limits for animations.
pub(crate) fn open<'a>(bytes: &'a [u8], probed: &Probed<'_>, limits: &Limits) -> Result<Animation<'a>, PipelineError> {
    let header = &probed.header;
    if header.frames > limits.max_frames {
        return Err(PipelineError::TooManyFrames { max_frames: limits.max_frames });
    }
    let pixels = u64::from(header.frames) * u64::from(header.width) * u64::from(header.height);
    if pixels > limits.max_animation_pixels {
        return Err(PipelineError::AnimationTooLarge { pixels, max_pixels: limits.max_animation_pixels });
    }
    let reader = Cursor::new(bytes);
    let (frames, loops) = match header.format {
        Format::Gif => GifDecoder::new(reader)
            .and_then(|mut decoder| decoder.set_limits(frame_limits(limits)).map(|()| unroll(decoder))),
        _ => WebPDecoder::new(reader).map(unroll),
    }
    .map_err(|error| classify(header, error))?;
    let size = (header.coded_width(), header.coded_height());
    Ok(Animation { frames, format: header.format, size, left: header.frames, loops })
}

fn unroll<'a>(decoder: impl AnimationDecoder<'a>) -> (Frames<'a>, u16) {
    let loops = match decoder.loop_count() {
        LoopCount::Infinite => 0,
        LoopCount::Finite(count) => u16::try_from(count.get()).unwrap_or(0),
    };
    (decoder.into_frames(), loops)
}

impl Animation<'_> {
    /// The next frame, premultiplied, and how long it is shown in milliseconds.
    pub(crate) fn next(&mut self, buffers: &mut Buffers) -> Result<Option<(Raster, i32)>, PipelineError> {
        // The header counted the frames that the limits were checked against: no more are taken.
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let Some(frame) = self.frames.next() else { return Ok(None) };
        self.take(buffers, frame).map(Some)
    }

    fn take(&self, buffers: &mut Buffers, frame: ImageResult<Frame>) -> Result<(Raster, i32), PipelineError> {
        let frame = frame.map_err(|error| PipelineError::undecodable(self.format, error))?;
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let delay_ms = match numerator / denominator.max(1) {
            0..=10 => DEFAULT_DELAY_MS,
            delay => delay.min(MAX_DELAY_MS),
        };
        let pixels = frame.into_buffer();
        if pixels.dimensions() != self.size {
            return Err(PipelineError::corrupt(self.format, "a frame has another size than the canvas"));
        }
        let mut raster = Raster::allocate(buffers, Layout::Rgba, self.size.0 as usize, self.size.1 as usize)?;
        raster.samples_mut(0).copy_from_slice(pixels.as_raw());
        premultiply(raster.samples_mut(0));
        Ok((raster, delay_ms as i32))
    }
}
