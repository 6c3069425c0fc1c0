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

/// Keeps the intermediate buffer between calls.
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
        match channels {
            1 => self.render::<U8>(source, destination, column, row),
            3 => self.render::<U8x3>(source, destination, column, row),
            _ => self.render::<U8x4>(source, destination, column, row),
        }
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
