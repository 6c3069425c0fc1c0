//! JPEG markers up to the first scan (ITU-T T.81, annex B), and the number of scans of a progressive file.

use std::borrow::Cow;
use std::iter;
use std::ops::Range;

use super::{Probed, check_block};
use crate::{Format, Limits, PipelineError};

const EXIF_PREFIX: &[u8] = b"Exif\0\0";
const ICC_PREFIX: &[u8] = b"ICC_PROFILE\0";
const SOS: u8 = 0xda;
const EOI: u8 = 0xd9;

pub(super) fn probe<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Probed<'a>, PipelineError> {
    let mut frame: Option<Probed<'a>> = None;
    let mut exif: Option<&'a [u8]> = None;
    let mut icc = IccParts::default();
    let mut at = 2;
    let in_first_scan = loop {
        let (marker, body, next) = segment(bytes, at)?;
        match marker {
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                if frame.is_some() {
                    return Err(PipelineError::corrupt(Format::Jpeg, "it has two frame headers"));
                }
                frame = Some(frame_header(marker, body)?);
            }
            0xe1 if exif.is_none() && body.starts_with(EXIF_PREFIX) => exif = Some(&body[EXIF_PREFIX.len()..]),
            0xe2 if body.starts_with(ICC_PREFIX) => icc.add(&body[ICC_PREFIX.len()..], limits)?,
            SOS => break body.first().copied().unwrap_or(0),
            EOI => return Err(PipelineError::corrupt(Format::Jpeg, "it has no scan")),
            _ => {}
        }
        at = next;
    };
    let mut probed =
        frame.ok_or_else(|| PipelineError::corrupt(Format::Jpeg, "its scan comes before the frame header"))?;
    if let Some(exif) = exif {
        check_block("EXIF", exif.len(), limits.max_exif_bytes)?;
        probed.set_exif(Cow::Borrowed(exif));
    }
    probed.icc = icc.finish();
    probed.header.has_icc = probed.icc.is_some();
    // A file of several scans, progressive or one for each component, is held whole as 16-bit coefficients until the last is read.
    if probed.header.is_progressive || in_first_scan < probed.header.components {
        probed.header.scans = count_scans(bytes, at, limits.max_scans);
        let pixels = u64::from(probed.header.width) * u64::from(probed.header.height);
        probed.header.decoder_bytes = 2 * (pixels * u64::from(probed.header.bytes_of_four)).div_ceil(4);
    }
    Ok(probed)
}

/// Reads the marker at or after `at`: its code, its body, and where the next one starts.
fn segment(bytes: &[u8], mut at: usize) -> Result<(u8, &[u8], usize), PipelineError> {
    let cut = || PipelineError::Truncated { format: Format::Jpeg };
    // Decoders skip garbage between segments, and any number of fill bytes before a marker's code.
    at += bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)).ok_or_else(cut)?;
    at += bytes[at..].iter().position(|&byte| byte != 0xff).ok_or_else(cut)?;
    let marker = bytes[at];
    at += 1;
    if is_alone(marker) {
        return Ok((marker, &[], at));
    }
    let length =
        usize::from(u16::from_be_bytes([*bytes.get(at).ok_or_else(cut)?, *bytes.get(at + 1).ok_or_else(cut)?]));
    if length < 2 {
        return Err(PipelineError::corrupt(Format::Jpeg, "a segment is shorter than its own length field"));
    }
    let body = bytes.get(at + 2..at + length).ok_or_else(cut)?;
    Ok((marker, body, at + length))
}

fn frame_header<'a>(marker: u8, body: &[u8]) -> Result<Probed<'a>, PipelineError> {
    let [precision, h0, h1, w0, w1, components, ref sampling @ ..] = *body else {
        return Err(PipelineError::corrupt(Format::Jpeg, "its frame header is too short"));
    };
    let feature = match (marker, precision) {
        (0xc3 | 0xc7 | 0xcb | 0xcf, _) => Some("lossless coding"),
        (0xc5 | 0xc6 | 0xcd | 0xce, _) => Some("hierarchical coding"),
        (_, 12) => Some("12 bits a sample"),
        _ => None,
    };
    if let Some(feature) = feature {
        return Err(PipelineError::UnsupportedFeature { format: Format::Jpeg, feature });
    }
    if precision != 8 || !matches!(components, 1 | 3 | 4) {
        return Err(PipelineError::corrupt(
            Format::Jpeg,
            "its frame header names an impossible number of bits or components",
        ));
    }
    let mut probed =
        Probed::new(Format::Jpeg, u32::from(u16::from_be_bytes([w0, w1])), u32::from(u16::from_be_bytes([h0, h1])));
    probed.header.is_progressive = matches!(marker, 0xc2 | 0xca);
    probed.header.components = components;
    probed.header.bytes_of_four = bytes_of_four(sampling, components);
    Ok(probed)
}

/// Samples of four pixels, from the components' sampling factors (T.81, section A.1.1).
fn bytes_of_four(sampling: &[u8], components: u8) -> u8 {
    let mut factors = sampling.chunks_exact(3).map(|component| component[1]);
    match (components, factors.next(), factors.next(), factors.next()) {
        (1, ..) => 4,
        (3, Some(0x22 | 0x41 | 0x14), Some(0x11), Some(0x11)) => 6,
        (3, Some(0x21 | 0x12), Some(0x11), Some(0x11)) => 8,
        // Three components of unusual sampling, and all of four, are decoded to whole pixels.
        (3, ..) => 12,
        _ => 16,
    }
}

/// Counts start-of-scan markers up to the end of the image, stopping once there are more than allowed. In entropy-coded data 0xff is always
/// followed by 0x00 or a restart marker (T.81, section B.1.1.5), so a marker can be found without decoding. Segments are stepped over by
/// their length, as libjpeg does, whatever they hold: what looks like a marker in one is none.
fn count_scans(bytes: &[u8], mut at: usize, max_scans: u32) -> u32 {
    let mut scans = 0;
    let next = |at: usize, is_wanted: fn(u8) -> bool| {
        bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| is_wanted(byte))).map(|found| at + found)
    };
    while let Some(code) = next(at, |byte| byte == 0xff).and_then(|fill| next(fill, |byte| byte != 0xff)) {
        at = code + 1;
        match bytes[code] {
            EOI => break,
            SOS => {
                scans += 1;
                if scans > max_scans {
                    break;
                }
            }
            // Stuffing, restart markers, and what has no body or is none.
            0x00..0xc0 | 0xd0..=0xd8 => continue,
            _ => {}
        }
        let Some([high, low, ..]) = bytes.get(at..) else { break };
        at += usize::from(u16::from_be_bytes([*high, *low])).max(2);
    }
    scans.max(1)
}

/// True where the file has an end-of-image marker after its first scan: what tells a damaged file from one that was cut off. A preview
/// in its metadata has an end of its own.
pub(crate) fn has_end(bytes: &[u8]) -> bool {
    let scan = headers(bytes).last().map_or(0, |last| last.end);
    bytes[scan..].windows(2).rev().any(|pair| pair == [0xff, EOI])
}

/// The file with nothing but segments before its first scan: decoders skip what stands between them, and warn of it.
pub(crate) fn without_garbage(bytes: &[u8]) -> Vec<u8> {
    let mut clean = bytes[..2].to_vec();
    let mut scan = 2;
    for Range { start, end } in headers(bytes) {
        clean.extend(&bytes[start..end]);
        scan = end;
    }
    clean.extend(&bytes[scan..]);
    clean
}

/// Where the segments up to the first scan's header are, markers included.
fn headers(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = Some(2);
    iter::from_fn(move || {
        let (marker, body, end) = segment(bytes, at?).ok()?;
        at = (marker != SOS).then_some(end);
        // The marker's two bytes, and the length's where it has a body.
        let start = if is_alone(marker) { end - 2 } else { end - body.len() - 4 };
        Some(start..end)
    })
}

/// True for markers that no segment follows.
fn is_alone(marker: u8) -> bool {
    matches!(marker, 0x00 | 0x01 | 0xd0..=0xd9)
}

/// An ICC profile in parts of at most 64 KiB, numbered from 1 (ICC.1:2022, annex B.4).
#[derive(Default)]
struct IccParts<'a> {
    parts: Vec<(u8, &'a [u8])>,
    size: usize,
    total: u8,
    is_broken: bool,
}

impl<'a> IccParts<'a> {
    fn add(&mut self, body: &'a [u8], limits: &Limits) -> Result<(), PipelineError> {
        let [number, total, data @ ..] = body else {
            self.is_broken = true;
            return Ok(());
        };
        self.size += data.len();
        check_block("ICC", self.size, limits.max_icc_bytes)?;
        self.is_broken |= self.total != 0 && self.total != *total;
        self.total = *total;
        self.parts.push((*number, data));
        Ok(())
    }

    /// The whole profile, or nothing where a part is missing or doubled: colours are then taken as sRGB, as browsers do.
    fn finish(mut self) -> Option<Cow<'a, [u8]>> {
        self.parts.sort_by_key(|(number, _)| *number);
        let is_whole = self.parts.len() == usize::from(self.total)
            && self.parts.iter().zip(1..).all(|((number, _), expected)| *number == expected);
        match &self.parts[..] {
            _ if self.is_broken || !is_whole => None,
            [] => None,
            [(_, only)] => Some(Cow::Borrowed(only)),
            parts => Some(Cow::Owned(parts.iter().flat_map(|(_, data)| data.iter().copied()).collect())),
        }
    }
}
