//! Windows bitmap header.

use super::Probed;
use crate::{Format, PipelineError};

pub(super) fn probe<'a>(bytes: &[u8]) -> Result<Probed<'a>, PipelineError> {
    let cut = || PipelineError::Truncated { format: Format::Bmp };
    let u16_at = |at: usize| bytes.get(at..at + 2).map(|raw| u16::from_le_bytes([raw[0], raw[1]])).ok_or_else(cut);
    let i32_at = |at: usize| {
        bytes.get(at..at + 4).map(|raw| i32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]])).ok_or_else(cut)
    };
    let (width, height, bits) = match i32_at(14)? {
        // The oldest header has sides of 16 bits.
        12 => (u32::from(u16_at(18)?), u32::from(u16_at(20)?), u16_at(24)?),
        // A negative height means rows from the top.
        _ => (u32::try_from(i32_at(18)?).unwrap_or(0), i32_at(22)?.unsigned_abs(), u16_at(28)?),
    };
    if !matches!(bits, 1 | 2 | 4 | 8 | 16 | 24 | 32) {
        return Err(PipelineError::corrupt(Format::Bmp, "its header names an impossible number of bits"));
    }
    let mut probed = Probed::new(Format::Bmp, width, height);
    probed.header.has_alpha = bits == 32;
    probed.header.components = if bits == 32 { 4 } else { 3 };
    Ok(probed)
}
