//! GIF blocks (GIF89a specification): logical screen, then a walk over the blocks that only counts images.

use super::Probed;
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
    let frames = count_frames(rest, colour_table_bytes(flags), limits.max_listed_frames);
    match frames {
        0 => Err(PipelineError::Truncated { format: Format::Gif }),
        frames if frames > limits.max_listed_frames => {
            Err(PipelineError::TooManyFrames { max_frames: limits.max_listed_frames })
        }
        frames => {
            probed.header.frames = frames;
            Ok(probed)
        }
    }
}

fn colour_table_bytes(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Number of images, at most one more than `max`. Stops at the trailer, at the end of the bytes, or at an unknown block.
fn count_frames(bytes: &[u8], skip: usize, max: u32) -> u32 {
    let mut frames = 0;
    let mut at = skip;
    while frames <= max {
        match bytes.get(at) {
            Some(0x21) => at = skip_sub_blocks(bytes, at + 2),
            Some(0x2c) => {
                let Some(&flags) = bytes.get(at + 9) else { break };
                frames += 1;
                at = skip_sub_blocks(bytes, at + 10 + colour_table_bytes(flags) + 1);
            }
            _ => break,
        }
    }
    frames
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
