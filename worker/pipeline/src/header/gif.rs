//! GIF blocks (GIF89a specification): logical screen, then a walk over the blocks that counts images and reads their sizes.

use super::{Probed, check_size};
use crate::{Format, Limits, PipelineError};

pub(super) fn probe<'a>(bytes: &[u8], limits: &Limits) -> Result<Probed<'a>, PipelineError> {
    let &[_, _, _, _, _, _, w0, w1, h0, h1, flags, _, _, ref rest @ ..] = bytes else {
        return Err(PipelineError::Truncated { format: Format::Gif });
    };
    let mut probed =
        Probed::new(Format::Gif, u32::from(u16::from_le_bytes([w0, w1])), u32::from(u16::from_le_bytes([h0, h1])));
    probed.header.components = 4;
    // Frames may leave parts of the canvas uncovered, so any GIF may be transparent.
    probed.header.has_alpha = true;
    let canvas = check_size(Format::Gif, probed.header.width, probed.header.height, limits)?;
    let found = walk(rest, colour_table_bytes(flags), canvas, limits)?;
    if found.frames == 0 {
        return Err(PipelineError::Truncated { format: Format::Gif });
    }
    probed.header.frames = found.frames;
    (probed.animation_pixels, probed.loops) = (found.pixels, found.loops);
    // A frame is decoded whole, also where it reaches beyond the canvas: as indices, and as RGBA.
    probed.header.decoder_bytes = 5 * found.largest.saturating_sub(canvas);
    Ok(probed)
}

fn colour_table_bytes(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// What the blocks of a file say.
struct Found {
    frames: u32,
    /// Pixels of the largest frame.
    largest: u64,
    /// Pixels of all frames, each at least as large as the canvas that it is composed on.
    pixels: u64,
    /// How often the animation plays; 0 is for ever.
    loops: u16,
}

/// Stops at the trailer, at the end of the bytes, or at an unknown block.
fn walk(bytes: &[u8], skip: usize, canvas: u64, limits: &Limits) -> Result<Found, PipelineError> {
    // A file that does not say how often it is repeated is played once.
    let mut found = Found { frames: 0, largest: 0, pixels: 0, loops: 1 };
    let mut at = skip;
    loop {
        match bytes.get(at) {
            Some(0x21) => {
                found.loops = loops(&bytes[at..]).unwrap_or(found.loops);
                at = skip_sub_blocks(bytes, at + 2);
            }
            Some(0x2c) => {
                let Some(&[_, _, _, _, w0, w1, h0, h1, flags]) = bytes.get(at + 1..at + 10) else { break };
                found.frames += 1;
                if found.frames > limits.max_listed_frames {
                    return Err(PipelineError::TooManyFrames { max_frames: limits.max_listed_frames });
                }
                let [width, height] = [[w0, w1], [h0, h1]].map(|side| u32::from(u16::from_le_bytes(side)));
                // Some encoders write empty frames to change nothing but the time.
                let pixels = if width > 0 && height > 0 { check_size(Format::Gif, width, height, limits)? } else { 0 };
                found.largest = found.largest.max(pixels);
                found.pixels += pixels.max(canvas);
                at = skip_sub_blocks(bytes, at + 10 + colour_table_bytes(flags) + 1);
            }
            _ => break,
        }
    }
    Ok(found)
}

/// What an extension says of how often the animation plays. It counts the repeats after the first time, WebP all times; 65,535 is as often
/// as either can say.
fn loops(extension: &[u8]) -> Option<u16> {
    let [b'N', b'E', b'T', b'S', b'C', b'A', b'P', b'E', b'2', b'.', b'0', 3, 1, low, high, ..] =
        *extension.strip_prefix(&[0x21, 0xff, 11])?
    else {
        return None;
    };
    match u16::from_le_bytes([low, high]) {
        0 => Some(0),
        repeats => Some(repeats.saturating_add(1)),
    }
}

fn skip_sub_blocks(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&length) = bytes.get(at) {
        at += 1 + usize::from(length);
        if length == 0 {
            break;
        }
    }
    at
}
