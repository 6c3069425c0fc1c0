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
    let (frames, largest) = walk(rest, colour_table_bytes(flags), limits)?;
    if frames == 0 {
        return Err(PipelineError::Truncated { format: Format::Gif });
    }
    probed.header.frames = frames;
    // A frame is decoded whole, also where it reaches beyond the canvas.
    probed.header.decoder_bytes = 4 * largest.saturating_sub(canvas);
    Ok(probed)
}

fn colour_table_bytes(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Number of images, and pixels of the largest. Stops at the trailer, at the end of the bytes, or at an unknown block.
fn walk(bytes: &[u8], skip: usize, limits: &Limits) -> Result<(u32, u64), PipelineError> {
    let (mut frames, mut largest) = (0, 0);
    let mut at = skip;
    loop {
        match bytes.get(at) {
            Some(0x21) => at = skip_sub_blocks(bytes, at + 2),
            Some(0x2c) => {
                let Some(&[_, _, _, _, w0, w1, h0, h1, flags]) = bytes.get(at + 1..at + 10) else { break };
                frames += 1;
                if frames > limits.max_listed_frames {
                    return Err(PipelineError::TooManyFrames { max_frames: limits.max_listed_frames });
                }
                let [width, height] = [[w0, w1], [h0, h1]].map(|side| u32::from(u16::from_le_bytes(side)));
                // Some encoders write empty frames to change nothing but the time.
                if width > 0 && height > 0 {
                    largest = largest.max(check_size(Format::Gif, width, height, limits)?);
                }
                at = skip_sub_blocks(bytes, at + 10 + colour_table_bytes(flags) + 1);
            }
            _ => break,
        }
    }
    Ok((frames, largest))
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
