//! Lanczos3 on planes of 8-bit samples with 1, 3 or 4 interleaved channels, by SIMD code chosen at run time.
//!
//! A part of the image pipeline, kept apart because it is slow to compile and never changes. It knows nothing of images but planes.

mod kernel;
mod transpose;

use transpose::transpose;

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

    /// Its parts that are made one after the other, where one pixel of it has `row_bytes` in between.
    fn bands(self, row_bytes: usize) -> impl Iterator<Item = Self> {
        let count = self.to_len.div_ceil((BAND_BYTES / row_bytes.max(1)).max(MIN_BAND_ROWS) as u32).max(1);
        (0..count).map(move |band| {
            let (at, until) = (self.to_len * band / count, self.to_len * (band + 1) / count);
            self.part(at, until - at)
        })
    }

    /// Whether the kernel has anything to do, or pixels are only copied.
    fn is_resampled(self) -> bool {
        f64::from(self.to_len) != self.from_len || self.from.fract() != 0.0
    }

    /// The first pixel of a source of `size` that the kernel looks at, and the one behind the last.
    fn reach(self, size: u32) -> (u32, u32) {
        let scale = self.from_len / f64::from(self.to_len);
        // One more at either side than the kernel needs: what is cut off must never be the reason why it is renormalised.
        let radius = kernel::SUPPORT * scale.max(1.0) + 1.0;
        let first = (self.from + 0.5 * scale - radius).floor().max(0.0) as u32;
        let end = (self.from + self.from_len - 0.5 * scale + radius).ceil() as u32;
        (first, end.min(size))
    }
}

/// How a picture is turned on its way: rows become columns, in this order or the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// The first row of the source becomes the first column.
    Forwards,
    /// The first row of the source becomes the last of this many columns.
    Backwards(u32),
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

/// Keeps the intermediate buffers, of some 2 MB each, between calls.
#[derive(Debug)]
pub struct Resampler {
    resizer: Resizer,
    filter: FilterType,
    /// A band of single bytes, with the height of the destination.
    rows: Vec<u8>,
    /// The same, its columns as rows.
    columns: Vec<u8>,
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
        let filter = filter.map_or(FilterType::Lanczos3, FilterType::Custom);
        Self { resizer: Resizer::new(), filter, rows: Vec::new(), columns: Vec::new() }
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
        if channels == 1 && column.is_resampled() {
            return self.resample_bytes(source, destination, column, row, None);
        }
        let Destination { samples, stride, rows } = destination;
        let row_bytes = (column.from_len.ceil() as usize * channels).max(1);
        for row in row.bands(row_bytes) {
            let destination = Destination { samples: &mut *samples, stride, rows };
            match channels {
                1 => render::<U8>(&mut self.resizer, self.filter, source, destination, column, row),
                3 => render::<U8x3>(&mut self.resizer, self.filter, source, destination, column, row),
                _ => render::<U8x4>(&mut self.resizer, self.filter, source, destination, column, row),
            }?;
        }
        Ok(())
    }

    /// Renders the rectangle `column` x `row` of a plane of single bytes, and turns it: `column` and `row` are along the axes of the source,
    /// and what is across in the source is down in the destination. The samples are those of [`resample`](Self::resample).
    ///
    /// # Errors
    /// Where a plane is too short or a rectangle is not inside it.
    pub fn resample_turned(
        &mut self,
        source: Source<'_>,
        destination: Destination<'_>,
        column: Segment,
        row: Segment,
        turn: Turn,
    ) -> Result<(), ResampleError> {
        self.resample_bytes(source, destination, column, row, Some(turn))
    }

    /// Both passes of the kernel are made down the columns, with the band between them transposed: the library convolves down columns at four
    /// times the rate of across rows, and a plane that is to be turned is turned on the way.
    fn resample_bytes(
        &mut self,
        source: Source<'_>,
        destination: Destination<'_>,
        column: Segment,
        row: Segment,
        turn: Option<Turn>,
    ) -> Result<(), ResampleError> {
        let Destination { samples, stride, rows } = destination;
        if turn.is_none() {
            if samples.len() < stride as usize * rows as usize {
                return Err(ImageBufferError::InvalidBufferSize.into());
            }
            if column.to + column.to_len > stride || row.to + row.to_len > rows {
                return Err(CropBoxError::SizeIsOutOfImageBoundaries.into());
            }
        }
        let (first, end) = column.reach(source.width);
        let across = end.saturating_sub(first).max(1);
        let (filter, resizer) = (self.filter, &mut self.resizer);
        for band in row.bands(across as usize) {
            let len = band.to_len;
            let bytes = across as usize * len as usize;
            fit(&mut self.rows, bytes);
            fit(&mut self.columns, bytes);

            let all = Segment { to: 0, to_len: across, from: f64::from(first), from_len: f64::from(across) };
            let between = Destination { samples: &mut self.rows[..bytes], stride: across, rows: len };
            render::<U8>(resizer, filter, source, between, all, Segment { to: 0, ..band })?;

            let size = (across as usize, len as usize);
            let is_backwards = matches!(turn, Some(Turn::Backwards(_)));
            transpose(&self.rows, size.0, size, &mut self.columns, size.1, is_backwards);

            let turned =
                Source { samples: &self.columns[..bytes], stride: len, rows: across, width: len, height: across };
            let along = Segment { from: column.from - f64::from(first), ..column };
            let place = match turn {
                Some(Turn::Forwards) => band.to,
                Some(Turn::Backwards(columns)) => {
                    columns.checked_sub(band.to + len).ok_or(CropBoxError::PositionIsOutOfImageBoundaries)?
                }
                None => 0,
            };
            let all = Segment { to: place, to_len: len, from: 0.0, from_len: f64::from(len) };
            if turn.is_some() {
                let destination = Destination { samples: &mut *samples, stride, rows };
                render::<U8>(resizer, filter, turned, destination, all, along)?;
                continue;
            }
            let bytes = column.to_len as usize * size.1;
            fit(&mut self.rows, bytes);
            let between = Destination { samples: &mut self.rows[..bytes], stride: len, rows: column.to_len };
            render::<U8>(resizer, filter, turned, between, all, Segment { to: 0, ..along })?;
            let start = band.to as usize * stride as usize + column.to as usize;
            let size = (size.1, column.to_len as usize);
            transpose(&self.rows, size.0, size, &mut samples[start..], stride as usize, false);
        }
        Ok(())
    }
}

/// Makes `buffer` at least `len` bytes long, without copying what it holds.
fn fit(buffer: &mut Vec<u8>, len: usize) {
    if buffer.len() < len {
        buffer.clear();
        buffer.resize(len, 0);
    }
}

/// Typed by hand: the library's own choice of pixel type would compile all thirteen of them.
fn render<P: PixelTrait>(
    resizer: &mut Resizer,
    filter: FilterType,
    source: Source<'_>,
    destination: Destination<'_>,
    column: Segment,
    row: Segment,
) -> Result<(), ResampleError> {
    let src = TypedImageRef::<P>::from_buffer(source.stride, source.rows, source.samples)?;
    let src = TypedCroppedImage::new(src, 0, 0, source.width, source.height)?;
    let dst = TypedImage::<P>::from_buffer(destination.stride, destination.rows, destination.samples)?;
    let mut dst = TypedCroppedImageMut::new(dst, column.to, row.to, column.to_len, row.to_len)?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).use_alpha(false).crop(
        column.from,
        row.from,
        column.from_len,
        row.from_len,
    );
    Ok(resizer.resize_typed(&src, &mut dst, &options)?)
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

    /// A plane of noise, and crops of it that begin and end within pixels.
    fn noise(width: u32, height: u32) -> Vec<u8> {
        (0..width * height).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    fn crops() -> impl Iterator<Item = ((u32, u32), Segment, Segment)> {
        let whole = |len: u32, to_len: u32| Segment { to: 0, to_len, from: 0.0, from_len: f64::from(len) };
        let part = |to, to_len, from, from_len| Segment { to, to_len, from, from_len };
        [
            ((1001, 700), whole(1001, 497), whole(700, 333)),
            ((64, 64), whole(64, 32), whole(64, 32)),
            ((300, 200), whole(300, 300), whole(200, 77)),
            ((300, 200), whole(300, 77), whole(200, 200)),
            ((500, 400), part(3, 101, 33.3, 401.9), part(7, 90, 0.75, 399.25)),
            ((500, 400), part(0, 1, 499.0, 1.0), part(1, 1, 12.5, 380.0)),
            ((5000, 1200), whole(5000, 640), whole(1200, 601)),
        ]
        .into_iter()
    }

    #[test]
    fn two_passes_down_give_what_the_library_gives_by_itself() {
        for ((width, height), column, row) in crops() {
            let samples = noise(width, height);
            let source = Source { samples: &samples, stride: width, rows: height, width, height };
            let (stride, rows) = (column.to + column.to_len + 2, row.to + row.to_len + 1);
            let mut resampler = Resampler::new();
            let mut ours = vec![1; (stride * rows) as usize];
            let destination = Destination { samples: &mut ours, stride, rows };
            resampler.resample(1, source, destination, column, row).unwrap();
            let mut direct = vec![1; (stride * rows) as usize];
            // In the same bands, as each has its own coefficients.
            let (first, end) = column.reach(width);
            for row in row.bands((end - first) as usize) {
                let destination = Destination { samples: &mut direct, stride, rows };
                render::<U8>(&mut resampler.resizer, resampler.filter, source, destination, column, row).unwrap();
            }
            assert!(ours == direct, "{width} x {height}, {column:?}, {row:?}");
        }
    }

    #[test]
    fn a_turned_plane_is_the_plane_turned_afterwards() {
        for ((width, height), column, row) in crops() {
            let samples = noise(width, height);
            let source = Source { samples: &samples, stride: width, rows: height, width, height };
            let (across, down) = ((column.to + column.to_len) as usize, (row.to + row.to_len) as usize);
            let mut resampler = Resampler::new();
            let mut upright = vec![1; across * down];
            let destination = Destination { samples: &mut upright, stride: across as u32, rows: down as u32 };
            resampler.resample(1, source, destination, column, row).unwrap();
            for turn in [Turn::Forwards, Turn::Backwards(down as u32)] {
                let mut expected = vec![1; across * down];
                transpose(&upright, across, (across, down), &mut expected, down, turn != Turn::Forwards);
                let mut turned = vec![1; across * down];
                let destination = Destination { samples: &mut turned, stride: down as u32, rows: across as u32 };
                resampler.resample_turned(source, destination, column, row, turn).unwrap();
                assert!(turned == expected, "{width} x {height}, {column:?}, {row:?}, {turn:?}");
            }
        }
    }

    #[test]
    fn rectangles_outside_a_plane_are_refused() {
        let samples = noise(40, 30);
        let source = Source { samples: &samples, stride: 40, rows: 30, width: 40, height: 30 };
        let segment = |to, from, from_len| Segment { to, to_len: 8, from, from_len };
        let fine = (segment(0, 0.0, 40.0), segment(0, 0.0, 30.0));
        let mut out = vec![0; 100];
        let mut resampler = Resampler::new();
        let mut refuses = |column, row, stride, rows, turn| {
            let destination = Destination { samples: &mut out, stride, rows };
            match turn {
                None => resampler.resample(1, source, destination, column, row).is_err(),
                Some(turn) => resampler.resample_turned(source, destination, column, row, turn).is_err(),
            }
        };
        for turn in [None, Some(Turn::Forwards), Some(Turn::Backwards(10))] {
            assert!(!refuses(fine.0, fine.1, 10, 10, turn), "{turn:?}");
            assert!(refuses(fine.0, fine.1, 11, 10, turn), "{turn:?}: beyond the buffer");
            assert!(refuses(segment(3, 0.0, 40.0), fine.1, 10, 10, turn), "{turn:?}: beyond one side");
            assert!(refuses(fine.0, segment(3, 0.0, 30.0), 10, 10, turn), "{turn:?}: beyond the other");
            assert!(refuses(segment(0, 20.0, 40.0), fine.1, 10, 10, turn), "{turn:?}: beyond the source");
            assert!(refuses(fine.0, segment(0, 20.0, 30.0), 10, 10, turn), "{turn:?}: beyond the source's rows");
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
