//! Lanczos3 on planes of 8-bit samples with 1, 3 or 4 interleaved channels, by SIMD code chosen at run time.
//!
//! A part of the image pipeline, kept apart because it is slow to compile and never changes. It knows nothing of images but planes.

mod kernel;

use fast_image_resize::images::{TypedCroppedImage, TypedCroppedImageMut, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3, U8x4};
use fast_image_resize::{
    CropBoxError, Filter, FilterType, ImageBufferError, PixelTrait, ResizeAlg, ResizeError, ResizeOptions, Resizer,
};

/// A plane to read: row-major, rows from the top.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Samples, channels interleaved.
    pub samples: &'a [u8],
    /// Pixels of a stored row.
    pub stride: u32,
    /// Stored rows.
    pub rows: u32,
    /// Pixels across that may be read; the rest of a row is padding.
    pub width: u32,
    /// Rows that may be read.
    pub height: u32,
}

/// A plane to write.
#[derive(Debug)]
pub struct Destination<'a> {
    /// Samples, channels interleaved.
    pub samples: &'a mut [u8],
    /// Pixels of a stored row.
    pub stride: u32,
    /// Stored rows.
    pub rows: u32,
}

/// A run of pixels along one axis of the destination, and the stretch of the source that it shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// First pixel of the destination.
    pub to: u32,
    /// Pixels of the destination, at least 1.
    pub to_len: u32,
    /// Start in the source, in pixels.
    pub from: f64,
    /// Length in the source, in pixels, above 0.
    pub from_len: f64,
}

impl Segment {
    /// Its pixels `at..at + len`. They show what they show in the whole, but for the last bits of a sum.
    fn part(self, at: u32, len: u32) -> Self {
        if len == self.to_len {
            return self;
        }
        let scale = self.from_len / f64::from(self.to_len);
        let (start, end) = (self.from + f64::from(at) * scale, self.from + self.from_len);
        let mut from_len = if at + len == self.to_len { end - start } else { f64::from(len) * scale };
        // A sum that is rounded up would reach beyond the plane.
        while start + from_len > end {
            from_len = from_len.next_down();
        }
        Self { to: self.to + at, to_len: len, from: start, from_len }
    }
}

/// What was asked for lies outside a plane: a bug of the caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResampleError {
    /// A plane is shorter than its size says.
    #[error("a plane is shorter than its size")]
    Buffer(#[from] ImageBufferError),
    /// A rectangle is not inside its plane.
    #[error("a rectangle lies outside its plane")]
    Rectangle(#[from] CropBoxError),
    /// The resizer refused.
    #[error("the resizer refused")]
    Resize(#[from] ResizeError),
}

/// Most bytes of the picture in between, which has the source's width and the destination's height: larger ones are made in bands, so that
/// a photo of 12 megapixels needs 4 MB less.
const BAND_BYTES: usize = 2 << 20;
/// Fewest rows of a band: each costs the coefficients of a row anew.
const MIN_BAND_ROWS: usize = 64;

/// Keeps the intermediate buffer, of some 2 MB, between calls.
#[derive(Debug)]
pub struct Resampler {
    resizer: Resizer,
    filter: FilterType,
}

impl Default for Resampler {
    fn default() -> Self {
        Self::new()
    }
}

impl Resampler {
    /// A resampler without buffers yet.
    #[must_use]
    pub fn new() -> Self {
        let filter = Filter::new("Lanczos3", kernel::lanczos3, kernel::SUPPORT);
        // The library's own kernel is the same to nine digits, and the one to use should it ever refuse a support of 3.
        Self { resizer: Resizer::new(), filter: filter.map_or(FilterType::Lanczos3, FilterType::Custom) }
    }

    /// Renders the rectangle `column` x `row` of a plane with `channels` channels (1, 3 or 4). The kernel sees the source's pixels beside
    /// the rectangle; at the source's edges it is renormalised. Rounding is to nearest. Alpha must be premultiplied.
    ///
    /// # Errors
    /// Where a plane is too short or a rectangle is not inside it.
    pub fn resample(
        &mut self,
        channels: usize,
        source: Source<'_>,
        destination: Destination<'_>,
        column: Segment,
        row: Segment,
    ) -> Result<(), ResampleError> {
        let Destination { samples, stride, rows } = destination;
        let row_bytes = (column.from_len.ceil() as usize * channels).max(1);
        let rows_a_band = (BAND_BYTES / row_bytes).max(MIN_BAND_ROWS) as u32;
        let bands = row.to_len.div_ceil(rows_a_band).max(1);
        for band in 0..bands {
            let (at, until) = (row.to_len * band / bands, row.to_len * (band + 1) / bands);
            let row = row.part(at, until - at);
            let destination = Destination { samples: &mut *samples, stride, rows };
            match channels {
                1 => self.render::<U8>(source, destination, column, row),
                3 => self.render::<U8x3>(source, destination, column, row),
                _ => self.render::<U8x4>(source, destination, column, row),
            }?;
        }
        Ok(())
    }

    /// Typed by hand: the library's own choice of pixel type would compile all thirteen of them.
    fn render<P: PixelTrait>(
        &mut self,
        source: Source<'_>,
        destination: Destination<'_>,
        column: Segment,
        row: Segment,
    ) -> Result<(), ResampleError> {
        let src = TypedImageRef::<P>::from_buffer(source.stride, source.rows, source.samples)?;
        let src = TypedCroppedImage::new(src, 0, 0, source.width, source.height)?;
        let dst = TypedImage::<P>::from_buffer(destination.stride, destination.rows, destination.samples)?;
        let mut dst = TypedCroppedImageMut::new(dst, column.to, row.to, column.to_len, row.to_len)?;
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(self.filter)).use_alpha(false).crop(
            column.from,
            row.from,
            column.from_len,
            row.from_len,
        );
        Ok(self.resizer.resize_typed(&src, &mut dst, &options)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_cover_a_segment_and_stay_inside_it() {
        for (to_len, from, from_len) in
            [(1536, 0.0, 3000.0), (1000, 0.3, 2999.7), (777, 1.0 / 3.0, 1234.5), (7, 0.0, 7.0)]
        {
            let whole = Segment { to: 5, to_len, from, from_len };
            let bands = 7;
            let parts: Vec<Segment> = (0..bands)
                .map(|band| {
                    let (at, until) = (to_len * band / bands, to_len * (band + 1) / bands);
                    whole.part(at, until - at)
                })
                .collect();
            assert_eq!(parts.iter().map(|part| part.to_len).sum::<u32>(), to_len);
            assert_eq!(parts[0].to, 5);
            for pair in parts.windows(2) {
                assert_eq!(pair[0].to + pair[0].to_len, pair[1].to);
                assert!((pair[0].from + pair[0].from_len - pair[1].from).abs() < 1e-9);
            }
            assert!(parts.iter().all(|part| part.from >= from && part.from + part.from_len <= from + from_len));
        }
    }

    #[test]
    fn a_plane_made_in_bands_is_the_plane_made_at_once() {
        // Wide enough for three bands; the reference is rendered in columns narrow enough for one.
        let (width, height, to_width, to_height) = (12_000_u32, 1001_u32, 240_u32, 497_u32);
        let samples: Vec<u8> = (0..width * height).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut resampler = Resampler::new();
        let mut render = |column: Segment| {
            let mut out = vec![0; (to_width * to_height) as usize];
            let source = Source { samples: &samples, stride: width, rows: height, width, height };
            let destination = Destination { samples: &mut out, stride: to_width, rows: to_height };
            let row = Segment { to: 0, to_len: to_height, from: 0.0, from_len: f64::from(height) };
            resampler.resample(1, source, destination, column, row).unwrap();
            out
        };
        let whole = render(Segment { to: 0, to_len: to_width, from: 0.0, from_len: f64::from(width) });
        for left in (0..to_width).step_by(60) {
            let part = render(Segment { to: left, to_len: 60, from: f64::from(left) * 50.0, from_len: 3000.0 });
            for row in 0..to_height {
                let at = (row * to_width + left) as usize;
                assert_eq!(whole[at..at + 60], part[at..at + 60], "row {row}, column {left}");
            }
        }
    }

    /// The library counts on the first and the last pixel to reach furthest. With a kernel that is exactly zero at 1 and 2 the first of these
    /// two pixels reached one further than the second, and read beyond the row.
    #[test]
    fn rectangles_between_pixels_stay_inside_their_rows() {
        let mut resampler = Resampler::new();
        for (width, from) in [(17_u32, 0.75), (18, 1.75), (19, 2.75)] {
            let height = 9;
            let samples = vec![200_u8; (width * height) as usize];
            let source = Source { samples: &samples, stride: width, rows: height, width, height };
            let mut out = vec![0; 8];
            let destination = Destination { samples: &mut out, stride: 2, rows: 4 };
            let column = Segment { to: 0, to_len: 2, from, from_len: 12.6 };
            let row = Segment { to: 0, to_len: 4, from: 0.0, from_len: f64::from(height) };
            resampler.resample(1, source, destination, column, row).unwrap();
            assert_eq!(out, [200; 8]);
        }
    }
}
