//! PNG chunks (PNG specification, third edition, sections 5 and 11).

use std::borrow::Cow;

use super::{Probed, check_block, named};
use crate::{Format, Limits, PipelineError};

pub(super) fn probe<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Probed<'a>, PipelineError> {
    let cut = || PipelineError::Truncated { format: Format::Png };
    let (kind, body, mut at) = chunk(bytes, 8).ok_or_else(cut)?;
    let (b"IHDR", &[w0, w1, w2, w3, h0, h1, h2, h3, depth, colour, _, _, interlace]) = (kind, body) else {
        return Err(PipelineError::corrupt(Format::Png, "it does not start with a header chunk"));
    };
    let mut probed =
        Probed::new(Format::Png, u32::from_be_bytes([w0, w1, w2, w3]), u32::from_be_bytes([h0, h1, h2, h3]));
    let is_possible = match colour {
        0 => matches!(depth, 1 | 2 | 4 | 8 | 16),
        3 => matches!(depth, 1 | 2 | 4 | 8),
        2 | 4 | 6 => matches!(depth, 8 | 16),
        _ => false,
    };
    if !is_possible {
        return Err(PipelineError::corrupt(Format::Png, "its header names an impossible colour type"));
    }
    probed.header.has_alpha = matches!(colour, 4 | 6);
    probed.header.components = if colour == 0 { 1 } else { 3 };
    probed.header.is_progressive = interlace == 1;
    let mut has_pixels = false;
    let (mut code_points, mut gamma, mut chromaticities, mut is_srgb) = (None, None, None, false);
    // A chunk that is cut off ends the walk: whether that matters is for the decoder to say.
    while let Some((kind, body, next)) = chunk(bytes, at) {
        match kind {
            b"IDAT" => has_pixels = true,
            b"tRNS" => probed.header.has_alpha = true,
            b"iCCP" if !has_pixels => {
                check_block("ICC", body.len(), limits.max_icc_bytes)?;
                probed.header.has_icc = true;
                probed.packed_icc = packed_profile(body);
            }
            // Full range without a matrix; the decoder refuses other matrices.
            b"cICP" if !has_pixels && matches!(body, [_, _, 0, 1]) => code_points = Some((body[0], body[1])),
            b"gAMA" if !has_pixels => gamma = body.try_into().ok().map(u32::from_be_bytes),
            b"cHRM" if !has_pixels => chromaticities = eight(body),
            b"sRGB" if !has_pixels => is_srgb = true,
            b"acTL" if !has_pixels && body.len() >= 4 => {
                probed.header.frames =
                    u32::from_be_bytes([body[0], body[1], body[2], body[3]]).clamp(1, limits.max_listed_frames);
            }
            b"eXIf" if probed.exif.is_none() => {
                check_block("EXIF", body.len(), limits.max_exif_bytes)?;
                probed.set_exif(Cow::Borrowed(body));
            }
            b"IEND" => break,
            _ => {}
        }
        at = next;
    }
    if probed.header.has_alpha {
        probed.header.components = 4;
    }
    // In this order of precedence (section 4.3); the profile in `iCCP` is packed, and the decoder's to read. Chromaticities without a gamma
    // do not say what the samples mean: browsers do not heed them either.
    let is_grey = colour == 0 && !probed.header.has_alpha;
    let named = match (code_points, gamma) {
        (Some((primaries, transfer)), _) => {
            let profile = named::profile(Format::Png, primaries.into(), transfer.into())?;
            // A grey picture has no primaries, and its curve is near enough that of sRGB.
            probed.header.has_icc &= is_grey;
            profile.filter(|_| !is_grey)
        }
        (None, Some(gamma)) if !is_srgb && !probed.header.has_icc => named::described(gamma, chromaticities, is_grey),
        _ => None,
    };
    if let Some(profile) = named {
        probed.icc = Some(Cow::Owned(profile));
        probed.header.has_icc = true;
    }
    // The pixels may start in a chunk that is itself cut off.
    if !has_pixels && bytes.get(at + 4..at + 8) != Some(b"IDAT") {
        return Err(cut());
    }
    Ok(probed)
}

/// What follows the name and the method of packing, of which there is one.
fn packed_profile(body: &[u8]) -> Option<&[u8]> {
    let name = body.iter().take(80).position(|&byte| byte == 0).filter(|length| *length > 0)?;
    body[name + 1..].strip_prefix(&[0])
}

/// The eight numbers of `cHRM`.
fn eight(body: &[u8]) -> Option<[u32; 8]> {
    let (numbers, rest) = body.as_chunks::<4>();
    let numbers: [[u8; 4]; 8] = numbers.try_into().ok()?;
    rest.is_empty().then(|| numbers.map(u32::from_be_bytes))
}

/// Name, body and end of the chunk at `at`.
fn chunk(bytes: &[u8], at: usize) -> Option<(&[u8; 4], &[u8], usize)> {
    let length = u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize;
    let kind = bytes.get(at + 4..at + 8)?.try_into().ok()?;
    let end = at.checked_add(8)?.checked_add(length)?;
    Some((kind, bytes.get(at + 8..end)?, end.checked_add(4)?))
}
