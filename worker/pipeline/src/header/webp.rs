//! WebP chunks (RFC 9649, section 2).

use std::borrow::Cow;

use super::{Probed, check_block};
use crate::{Format, Limits, PipelineError};

pub(super) fn probe<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Probed<'a>, PipelineError> {
    let cut = || PipelineError::Truncated { format: Format::WebP };
    let first = chunk(bytes, 12).ok_or_else(cut)?;
    let mut probed = match first.kind {
        b"VP8 " => lossy(first.body)?,
        b"VP8L" => lossless(first.body)?,
        b"VP8X" => return extended(bytes, &first, limits),
        _ => return Err(PipelineError::corrupt(Format::WebP, "it starts with an unknown chunk")),
    };
    probed.header.components = if probed.header.has_alpha { 4 } else { 3 };
    Ok(probed)
}

fn extended<'a>(bytes: &'a [u8], first: &Chunk<'a>, limits: &Limits) -> Result<Probed<'a>, PipelineError> {
    let &[flags, _, _, _, w0, w1, w2, h0, h1, h2, ..] = first.body else {
        return Err(PipelineError::corrupt(Format::WebP, "its header chunk is too short"));
    };
    let mut probed =
        Probed::new(Format::WebP, u32::from_le_bytes([w0, w1, w2, 0]) + 1, u32::from_le_bytes([h0, h1, h2, 0]) + 1);
    probed.header.has_alpha = flags & 0x10 != 0;
    probed.header.components = if probed.header.has_alpha { 4 } else { 3 };
    let is_animated = flags & 0x02 != 0;
    let mut images = 0_u32;
    let mut at = first.end;
    while let Some(chunk) = chunk(bytes, at) {
        match chunk.kind {
            b"ANMF" | b"VP8 " | b"VP8L" => images += 1,
            b"ICCP" if probed.icc.is_none() => {
                check_block("ICC", chunk.body.len(), limits.max_icc_bytes)?;
                probed.icc = Some(Cow::Borrowed(chunk.body));
            }
            b"EXIF" if probed.exif.is_none() => {
                check_block("EXIF", chunk.body.len(), limits.max_exif_bytes)?;
                probed.set_exif(Cow::Borrowed(chunk.body));
            }
            _ => {}
        }
        if images > limits.max_listed_frames {
            return Err(PipelineError::TooManyFrames { max_frames: limits.max_listed_frames });
        }
        at = chunk.end;
    }
    if images == 0 {
        return Err(PipelineError::Truncated { format: Format::WebP });
    }
    probed.header.has_icc = probed.icc.is_some();
    probed.header.frames = if is_animated { images } else { 1 };
    Ok(probed)
}

/// VP8 key frame header (RFC 6386, section 9.1).
fn lossy<'a>(body: &[u8]) -> Result<Probed<'a>, PipelineError> {
    match *body {
        [tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..] if tag & 1 == 0 => Ok(Probed::new(
            Format::WebP,
            u32::from(u16::from_le_bytes([w0, w1]) & 0x3fff),
            u32::from(u16::from_le_bytes([h0, h1]) & 0x3fff),
        )),
        _ => Err(PipelineError::corrupt(Format::WebP, "its lossy header is not one of a key frame")),
    }
}

/// VP8L header (RFC 9649, section 3.4).
fn lossless<'a>(body: &[u8]) -> Result<Probed<'a>, PipelineError> {
    let [0x2f, b0, b1, b2, b3, ..] = *body else {
        return Err(PipelineError::corrupt(Format::WebP, "its lossless header has the wrong signature"));
    };
    let bits = u32::from_le_bytes([b0, b1, b2, b3]);
    let mut probed = Probed::new(Format::WebP, (bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1);
    probed.header.has_alpha = bits & (1 << 28) != 0;
    Ok(probed)
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
