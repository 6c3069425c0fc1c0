//! WebP chunks (RFC 9649, section 2).

use std::borrow::Cow;
use std::iter;

use super::{Probed, check_block, check_size};
use crate::{Format, Limits, PipelineError};

mod lossless;

const OTHER_SIZE: &str = "a picture in it has another size than it says";

pub(super) fn probe<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Probed<'a>, PipelineError> {
    let cut = || PipelineError::Truncated { format: Format::WebP };
    let first = chunk(bytes, 12).ok_or_else(cut)?;
    if first.kind == b"VP8X" {
        return extended(bytes, &first, limits);
    }
    let Picture { width, height, has_alpha, stream } = picture(&first)
        .unwrap_or_else(|| Err(PipelineError::corrupt(Format::WebP, "it starts with an unknown chunk")))?;
    check_size(Format::WebP, width, height, limits)?;
    let mut probed = Probed::new(Format::WebP, width, height);
    (probed.header.has_alpha, probed.header.components) = (has_alpha, if has_alpha { 4 } else { 3 });
    probed.header.decoder_bytes = tables(stream, width, height)?;
    Ok(probed)
}

fn extended<'a>(bytes: &'a [u8], first: &Chunk<'a>, limits: &Limits) -> Result<Probed<'a>, PipelineError> {
    let &[flags, _, _, _, w0, w1, w2, h0, h1, h2, ..] = first.body else {
        return Err(PipelineError::corrupt(Format::WebP, "its header chunk is too short"));
    };
    let canvas = (u24([w0, w1, w2]) + 1, u24([h0, h1, h2]) + 1);
    let pixels = check_size(Format::WebP, canvas.0, canvas.1, limits)?;
    let mut probed = Probed::new(Format::WebP, canvas.0, canvas.1);
    probed.header.has_alpha = flags & 0x10 != 0;
    probed.header.components = if probed.header.has_alpha { 4 } else { 3 };
    let is_animated = flags & 0x02 != 0;
    let mut images = Images::default();
    let mut at = first.end;
    while let Some(chunk) = chunk(bytes, at) {
        match chunk.kind {
            b"ANMF" => images.add_frame(&chunk, canvas)?,
            b"ANIM" => {
                if let [_, _, _, _, low, high, ..] = *chunk.body {
                    probed.loops = u16::from_le_bytes([low, high]);
                }
            }
            b"ICCP" if probed.icc.is_none() => {
                check_block("ICC", chunk.body.len(), limits.max_icc_bytes)?;
                probed.icc = Some(Cow::Borrowed(chunk.body));
            }
            b"EXIF" if probed.exif.is_none() => {
                check_block("EXIF", chunk.body.len(), limits.max_exif_bytes)?;
                probed.set_exif(Cow::Borrowed(chunk.body));
            }
            _ => images.count += u32::from(images.add_part(&chunk, canvas)?),
        }
        if images.count > limits.max_listed_frames {
            return Err(PipelineError::TooManyFrames { max_frames: limits.max_listed_frames });
        }
        at = chunk.end;
    }
    if images.count == 0 {
        return Err(PipelineError::Truncated { format: Format::WebP });
    }
    probed.header.has_icc = probed.icc.is_some();
    probed.header.frames = if is_animated { images.count } else { 1 };
    probed.animation_pixels = pixels * u64::from(images.count);
    // Of an animation beyond the limits, at most the first frame is ever decoded.
    let is_played = images.count <= limits.max_frames && probed.animation_pixels <= limits.max_animation_pixels;
    for (image, stream, (width, height)) in images.lossless {
        if image <= 1 || !is_animated || is_played {
            probed.header.decoder_bytes = probed.header.decoder_bytes.max(tables(Some(stream), width, height)?);
        }
    }
    Ok(probed)
}

/// The pictures of a file, as far as they matter to what decoding them takes.
#[derive(Default)]
struct Images<'a> {
    count: u32,
    /// Lossless streams: the number of the image from 1, the stream after its header, and its size.
    lossless: Vec<(u32, &'a [u8], (u32, u32))>,
}

impl<'a> Images<'a> {
    /// A frame of an animation: within the canvas, and of the size that its picture has.
    fn add_frame(&mut self, frame: &Chunk<'a>, canvas: (u32, u32)) -> Result<(), PipelineError> {
        let AnimationFrame { at: (left, top), size, parts, .. } =
            AnimationFrame::read(frame.body).ok_or(PipelineError::Truncated { format: Format::WebP })?;
        if left + size.0 > canvas.0 || top + size.1 > canvas.1 {
            return Err(PipelineError::corrupt(Format::WebP, "a frame reaches beyond the canvas"));
        }
        let mut at = 0;
        while let Some(part) = chunk(parts, at) {
            self.add_part(&part, size)?;
            at = part.end;
        }
        self.count += 1;
        Ok(())
    }

    /// A picture, or the alpha of one. Returns whether it is a picture.
    fn add_part(&mut self, part: &Chunk<'a>, size: (u32, u32)) -> Result<bool, PipelineError> {
        let number = self.count + 1;
        // The lowest two bits tell how alpha is packed: 1 is lossless coding without its header.
        if let (b"ALPH", [flags, stream @ ..]) = (part.kind, part.body)
            && flags & 3 == 1
        {
            self.lossless.push((number, stream, size));
        }
        let Some(picture) = picture(part) else { return Ok(false) };
        let picture = picture?;
        if (picture.width, picture.height) != size {
            return Err(PipelineError::corrupt(Format::WebP, OTHER_SIZE));
        }
        self.lossless.extend(picture.stream.map(|stream| (number, stream, size)));
        Ok(true)
    }
}

/// A frame of an animation (RFC 9649, section 2.7.1.1).
pub(crate) struct AnimationFrame<'a> {
    /// Columns and rows of the canvas before it.
    pub(crate) at: (u32, u32),
    pub(crate) size: (u32, u32),
    pub(crate) delay_ms: u32,
    /// True where what is below shows through transparent pixels, false where they replace it.
    pub(crate) is_blended: bool,
    /// True where its place is cleared before the next frame.
    pub(crate) is_disposed: bool,
    /// The chunks of its picture.
    pub(crate) parts: &'a [u8],
}

impl<'a> AnimationFrame<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        let &[x0, x1, x2, y0, y1, y2, w0, w1, w2, h0, h1, h2, d0, d1, d2, flags, ref parts @ ..] = body else {
            return None;
        };
        Some(Self {
            at: (2 * u24([x0, x1, x2]), 2 * u24([y0, y1, y2])),
            size: (u24([w0, w1, w2]) + 1, u24([h0, h1, h2]) + 1),
            delay_ms: u24([d0, d1, d2]),
            is_blended: flags & 2 == 0,
            is_disposed: flags & 1 != 0,
            parts,
        })
    }

    /// Its picture as a file of its own.
    pub(crate) fn to_still(&self) -> Vec<u8> {
        let has_alpha = matches!(self.parts.first_chunk(), Some(b"ALPH" | b"VP8L"));
        let [width, height] = [self.size.0 - 1, self.size.1 - 1].map(u32::to_le_bytes);
        let header = [if has_alpha { 0x10 } else { 0 }, 0, 0, 0];
        let header = [&b"WEBPVP8X\x0a\0\0\0"[..], &header, &width[..3], &height[..3]].concat();
        let length = ((header.len() + self.parts.len()) as u32).to_le_bytes();
        [&b"RIFF"[..], &length, &header, self.parts].concat()
    }
}

/// The frames of an animation whose header was read.
pub(crate) fn animation_frames(bytes: &[u8]) -> impl Iterator<Item = AnimationFrame<'_>> {
    let chunks = iter::successors(chunk(bytes, 12), |last| chunk(bytes, last.end));
    chunks.filter(|chunk| chunk.kind == b"ANMF").filter_map(|chunk| AnimationFrame::read(chunk.body))
}

fn tables(stream: Option<&[u8]>, width: u32, height: u32) -> Result<u64, PipelineError> {
    stream.map_or(Ok(0), |stream| lossless::table_bytes(stream, width, height))
}

/// What a picture's own header says.
struct Picture<'a> {
    width: u32,
    height: u32,
    has_alpha: bool,
    /// What follows the header of a lossless picture.
    stream: Option<&'a [u8]>,
}

/// The header of a picture, where the chunk is one.
fn picture<'a>(chunk: &Chunk<'a>) -> Option<Result<Picture<'a>, PipelineError>> {
    match chunk.kind {
        b"VP8 " => Some(lossy_header(chunk.body)),
        b"VP8L" => Some(lossless_header(chunk.body)),
        _ => None,
    }
}

/// VP8 key frame header (RFC 6386, section 9.1).
fn lossy_header(body: &[u8]) -> Result<Picture<'_>, PipelineError> {
    match *body {
        [tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] if tag & 1 == 0 => Ok(Picture {
            width: u32::from(u16::from_le_bytes([w0, w1]) & 0x3fff),
            height: u32::from(u16::from_le_bytes([h0, h1]) & 0x3fff),
            has_alpha: false,
            stream: None,
        }),
        _ => Err(PipelineError::corrupt(Format::WebP, "its lossy header is not one of a key frame")),
    }
}

/// VP8L header (RFC 9649, section 3.4).
fn lossless_header(body: &[u8]) -> Result<Picture<'_>, PipelineError> {
    let [0x2f, b0, b1, b2, b3, ref stream @ ..] = *body else {
        return Err(PipelineError::corrupt(Format::WebP, "its lossless header has the wrong signature"));
    };
    let bits = u32::from_le_bytes([b0, b1, b2, b3]);
    Ok(Picture {
        width: (bits & 0x3fff) + 1,
        height: ((bits >> 14) & 0x3fff) + 1,
        has_alpha: bits & (1 << 28) != 0,
        stream: Some(stream),
    })
}

fn u24([low, middle, high]: [u8; 3]) -> u32 {
    u32::from_le_bytes([low, middle, high, 0])
}

struct Chunk<'a> {
    kind: &'a [u8; 4],
    body: &'a [u8],
    end: usize,
}

/// The chunk at `at`. A body that runs past the end of the file is given as far as it goes: the decoder tells whether that matters.
fn chunk(bytes: &[u8], at: usize) -> Option<Chunk<'_>> {
    let kind = bytes.get(at..at + 4)?.try_into().ok()?;
    let length = u32::from_le_bytes(bytes.get(at + 4..at + 8)?.try_into().ok()?) as usize;
    let end = at.checked_add(8)?.checked_add(length)?.checked_add(length & 1)?;
    let body = bytes.get(at + 8..(at + 8).saturating_add(length).min(bytes.len()))?;
    Some(Chunk { kind, body, end })
}
