//! Windows bitmap header.

use std::borrow::Cow;

use super::{Probed, check_block};
use crate::{Format, Limits, PipelineError};

/// Bytes of the file's own header, behind which that of the bitmap stands.
const FILE_HEADER: usize = 14;

pub(super) fn probe<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Probed<'a>, PipelineError> {
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
    if let Some(profile) = profile(bytes) {
        check_block("ICC", profile.len(), limits.max_icc_bytes)?;
        probed.icc = Some(Cow::Borrowed(profile));
        probed.header.has_icc = true;
    }
    Ok(probed)
}

/// The profile that a header of the fifth version (124 bytes, `BITMAPV5HEADER`) says to be in the file. One that is cut off is none; one that
/// is in another file of its maker's, which the header may name as well, is not ours to have.
fn profile(bytes: &[u8]) -> Option<&[u8]> {
    let header = bytes.get(FILE_HEADER..FILE_HEADER + 124)?;
    let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    const EMBEDDED: u32 = u32::from_be_bytes(*b"MBED");
    if u32_at(0) != 124 || u32_at(56) != EMBEDDED {
        return None;
    }
    let (from, size) = (u32_at(112) as usize, u32_at(116) as usize);
    let from = FILE_HEADER.checked_add(from)?;
    bytes.get(from..from.checked_add(size)?).filter(|profile| !profile.is_empty())
}
