//! Reading what a file says of itself, without decoding a pixel.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{Format, Limits, PipelineError, sniff};

#[cfg(feature = "avif")]
mod av1;
#[cfg(feature = "avif")]
mod avif;
mod bmp;
mod exif;
mod gif;
mod jpeg;
mod named;
mod png;
mod webp;

pub(crate) use exif::Attribution;
pub(crate) use jpeg::{has_end as jpeg_has_end, without_garbage as jpeg_without_garbage};
pub(crate) use named::srgb_with;
pub(crate) use webp::{AnimationFrame, animation_frames};

/// What the header of an image says, after the limits were checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Header {
    /// Format, by content.
    pub format: Format,
    /// Width in pixels as displayed, that is after the orientation is applied.
    pub width: u32,
    /// Height in pixels as displayed.
    pub height: u32,
    /// EXIF orientation, 1 to 8; 1 where the file says nothing or nonsense. 5 to 8 swap the sides.
    pub orientation: u8,
    /// Frames the file lists; 1 for a still.
    pub frames: u32,
    /// True where the file may have transparent pixels.
    pub has_alpha: bool,
    /// True for a progressive JPEG or an interlaced PNG.
    pub is_progressive: bool,
    /// Scans of a JPEG that needs several; 1 for everything else.
    pub scans: u32,
    /// Channels of a pixel: 1 grey, 3 colour, 4 CMYK or colour with alpha.
    pub components: u8,
    /// Bytes of four decoded pixels: 4 grey, 6 for 4:2:0, 8 for 4:2:2, 12 for RGB or 4:4:4, 16 for four channels.
    pub(crate) bytes_of_four: u8,
    /// True where the file carries an ICC profile.
    pub has_icc: bool,
    /// Bytes that the decoder allocates for what the size in pixels does not tell: frames beyond the canvas, coding tables.
    #[serde(default)]
    pub(crate) decoder_bytes: u64,
}

impl Header {
    /// Width as stored, before the orientation is applied.
    pub(crate) fn coded_width(&self) -> u32 {
        if self.orientation >= 5 { self.height } else { self.width }
    }

    /// Height as stored, before the orientation is applied.
    pub(crate) fn coded_height(&self) -> u32 {
        if self.orientation >= 5 { self.width } else { self.height }
    }
}

/// Everything found on the way through a header.
#[derive(Debug)]
pub(crate) struct Probed<'a> {
    pub(crate) header: Header,
    pub(crate) icc: Option<Cow<'a, [u8]>>,
    /// An ICC profile as PNG packs it.
    pub(crate) packed_icc: Option<&'a [u8]>,
    pub(crate) exif: Option<Cow<'a, [u8]>>,
    /// Pixels of all frames of an animation together.
    pub(crate) animation_pixels: u64,
    /// How often an animation plays; 0 is for ever.
    pub(crate) loops: u16,
    #[cfg(feature = "avif")]
    pub(crate) avif: Option<avif::Items<'a>>,
}

impl<'a> Probed<'a> {
    fn new(format: Format, width: u32, height: u32) -> Self {
        let header = Header {
            format,
            width,
            height,
            orientation: 1,
            frames: 1,
            has_alpha: false,
            is_progressive: false,
            scans: 1,
            components: 3,
            bytes_of_four: 12,
            has_icc: false,
            decoder_bytes: 0,
        };
        Self {
            header,
            icc: None,
            packed_icc: None,
            exif: None,
            animation_pixels: 0,
            loops: 0,
            #[cfg(feature = "avif")]
            avif: None,
        }
    }

    fn set_exif(&mut self, exif: Cow<'a, [u8]>) {
        self.header.orientation = exif::orientation(&exif);
        if self.header.orientation >= 5 {
            std::mem::swap(&mut self.header.width, &mut self.header.height);
        }
        self.exif = Some(exif);
    }
}

/// Reads the header of an image and checks it against the limits. No picture is decoded; the work is linear in the file's size and,
/// for a lossless WebP, in a quarter of its pixels.
///
/// # Errors
/// `empty_file`, `file_too_large`, `unsupported_format`, `unsupported_feature`, `corrupt_image`, `truncated_image`,
/// `too_many_pixels`, `side_too_long`, `too_many_frames`, `too_many_scans`, `too_complex`, `metadata_too_large`.
pub fn probe(bytes: &[u8], limits: &Limits) -> Result<Header, PipelineError> {
    probe_all(bytes, limits).map(|probed| probed.header)
}

pub(crate) fn probe_all<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Probed<'a>, PipelineError> {
    if bytes.is_empty() {
        return Err(PipelineError::EmptyFile);
    }
    let size_bytes = bytes.len() as u64;
    if size_bytes > limits.max_file_bytes {
        return Err(PipelineError::FileTooLarge { size_bytes, max_bytes: limits.max_file_bytes });
    }
    let detected = sniff(bytes);
    let mut probed = match detected {
        Some(Format::Jpeg) => jpeg::probe(bytes, limits)?,
        Some(Format::Png) => png::probe(bytes, limits)?,
        Some(Format::WebP) => webp::probe(bytes, limits)?,
        Some(Format::Gif) => gif::probe(bytes, limits)?,
        Some(Format::Bmp) => bmp::probe(bytes, limits)?,
        #[cfg(feature = "avif")]
        Some(Format::Avif) => avif::probe(bytes, limits)?,
        _ => return Err(PipelineError::UnsupportedFormat { detected }),
    };
    check_limits(&probed.header, limits)?;
    if probed.header.format != Format::Jpeg {
        probed.header.bytes_of_four = 4 * probed.header.components;
    }
    Ok(probed)
}

fn check_limits(header: &Header, limits: &Limits) -> Result<(), PipelineError> {
    let pixels = check_size(header.format, header.width, header.height, limits)?;
    if header.scans > limits.max_scans || pixels * u64::from(header.scans) > limits.max_scan_pixels {
        return Err(PipelineError::TooManyScans { scans: header.scans });
    }
    Ok(())
}

/// Checks a size against the limits and returns its pixels. A frame inside a file is held against them like the file itself.
fn check_size(format: Format, width: u32, height: u32, limits: &Limits) -> Result<u64, PipelineError> {
    if width == 0 || height == 0 {
        return Err(PipelineError::corrupt(format, "it has no pixels"));
    }
    if width > limits.max_side_px || height > limits.max_side_px {
        return Err(PipelineError::SideTooLong { width, height, max_side_px: limits.max_side_px });
    }
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.max_pixels {
        return Err(PipelineError::TooManyPixels { width, height, max_pixels: limits.max_pixels });
    }
    Ok(pixels)
}

/// Checks a metadata block against its limit.
fn check_block(kind: &'static str, size: usize, max_bytes: u64) -> Result<(), PipelineError> {
    if size as u64 > max_bytes { Err(PipelineError::MetadataTooLarge { kind, max_bytes }) } else { Ok(()) }
}
