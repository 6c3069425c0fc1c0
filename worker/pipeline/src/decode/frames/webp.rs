//! WebP's frames, put together here (RFC 9649, section 2.7.1): the decoder's own clearing of what a frame leaves behind writes beside its
//! place where the next frame has no alpha.

use image::codecs::webp::WebPDecoder;

use super::super::still::{classify, read};
use crate::buffers::Buffers;
use crate::control::Watch;
use crate::header::{AnimationFrame, animation_frames};
use crate::raster::{Layout, Raster};
use crate::{Format, PipelineError};

pub(super) struct Composer<'a> {
    frames: Box<dyn Iterator<Item = AnimationFrame<'a>> + 'a>,
    watch: &'a Watch<'a>,
    /// What the next frame is drawn on, premultiplied.
    canvas: Raster,
}

impl<'a> Composer<'a> {
    pub(super) fn new(
        buffers: &mut Buffers,
        bytes: &'a [u8],
        size: (u32, u32),
        watch: &'a Watch<'a>,
    ) -> Result<Self, PipelineError> {
        let mut canvas = Raster::allocate(buffers, Layout::Rgba, size.0 as usize, size.1 as usize)?;
        // The file's background colour is a hint that browsers do not heed.
        canvas.samples_mut(0).fill(0);
        Ok(Self { frames: Box::new(animation_frames(bytes)), watch, canvas })
    }

    /// The next frame, and for how many milliseconds the file shows it.
    pub(super) fn next(&mut self, buffers: &mut Buffers) -> Result<Option<(Raster, u32)>, PipelineError> {
        let Some(frame) = self.frames.next() else { return Ok(None) };
        let file = frame.to_still();
        let decoder = WebPDecoder::new(self.watch.reader(&file)).map_err(|error| classify(Format::WebP, error))?;
        let (picture, _) = read(buffers, Format::WebP, frame.size, decoder, false)?;
        let at = (frame.at.0 as usize, frame.at.1 as usize);
        if picture.layout == Layout::Rgba && frame.is_blended {
            self.canvas.cover(&picture, at, 255);
        } else {
            let rows = picture.samples(0).chunks_exact(picture.width * picture.layout.channels());
            for (below, row) in area(&mut self.canvas, at, picture.width).zip(rows) {
                match picture.layout {
                    Layout::Rgba => below.copy_from_slice(row),
                    _ => {
                        for (below, [r, g, b]) in below.as_chunks_mut().0.iter_mut().zip(row.as_chunks().0) {
                            *below = [*r, *g, *b, 255];
                        }
                    }
                }
            }
        }
        let mut shown = Raster::allocate(buffers, Layout::Rgba, self.canvas.width, self.canvas.height)?;
        shown.samples_mut(0).copy_from_slice(self.canvas.samples(0));
        if frame.is_disposed {
            area(&mut self.canvas, at, picture.width).take(picture.height).for_each(|row| row.fill(0));
        }
        picture.recycle(buffers);
        Ok(Some((shown, frame.delay_ms)))
    }
}

/// The rows of the canvas from a place on, as wide as the picture there.
fn area(canvas: &mut Raster, at: (usize, usize), width: usize) -> impl Iterator<Item = &mut [u8]> {
    let stride = 4 * canvas.width;
    let rows = canvas.samples_mut(0).chunks_exact_mut(stride).skip(at.1);
    rows.map(move |row| &mut row[4 * at.0..][..4 * width])
}
