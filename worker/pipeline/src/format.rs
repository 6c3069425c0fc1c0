//! Recognising a file by its first bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A file format, known by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// JPEG (ISO 10918-1).
    Jpeg,
    /// PNG and APNG.
    Png,
    /// WebP, still or animated.
    WebP,
    /// GIF, still or animated.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// AVIF. Decoded with the feature `avif`, without it recognised.
    Avif,
    /// TIFF, and the raw camera formats built on it. Recognised; not decoded.
    Tiff,
    /// HEIC/HEIF. Recognised; not decoded, because no decoder with a permissive licence exists.
    Heic,
    /// JPEG XL. Recognised; not decoded.
    Jxl,
    /// JPEG 2000. Recognised; not decoded.
    Jpeg2000,
    /// Windows icon. Recognised; not decoded.
    Ico,
    /// SVG. Never decoded: it is a program.
    Svg,
    /// PDF. Never decoded.
    Pdf,
    /// Photoshop. Never decoded.
    Psd,
}

impl Format {
    /// True for the formats that [`Processor`](crate::Processor) decodes.
    #[must_use]
    pub fn is_decodable(self) -> bool {
        matches!(self, Self::Jpeg | Self::Png | Self::WebP | Self::Gif | Self::Bmp)
            || (cfg!(feature = "avif") && self == Self::Avif)
    }

    /// Media type, such as `image/jpeg`.
    #[must_use]
    pub fn mime(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::WebP => "image/webp",
            Self::Gif => "image/gif",
            Self::Bmp => "image/bmp",
            Self::Avif => "image/avif",
            Self::Tiff => "image/tiff",
            Self::Heic => "image/heic",
            Self::Jxl => "image/jxl",
            Self::Jpeg2000 => "image/jp2",
            Self::Ico => "image/vnd.microsoft.icon",
            Self::Svg => "image/svg+xml",
            Self::Pdf => "application/pdf",
            Self::Psd => "image/vnd.adobe.photoshop",
        }
    }

    /// Usual file name extension without the dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Gif => "gif",
            Self::Bmp => "bmp",
            Self::Avif => "avif",
            Self::Tiff => "tiff",
            Self::Heic => "heic",
            Self::Jxl => "jxl",
            Self::Jpeg2000 => "jp2",
            Self::Ico => "ico",
            Self::Svg => "svg",
            Self::Pdf => "pdf",
            Self::Psd => "psd",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Avif => "AVIF",
            Self::Tiff => "TIFF",
            Self::Heic => "HEIC",
            Self::Jxl => "JPEG XL",
            Self::Jpeg2000 => "JPEG 2000",
            Self::Ico => "ICO",
            Self::Svg => "SVG",
            Self::Pdf => "PDF",
            Self::Psd => "PSD",
        })
    }
}

/// How many leading bytes [`sniff`] may look at. More do not change its answer.
const SNIFF_BYTES: usize = 1024;

/// Tells the format of a file from its first bytes, never from its name.
///
/// 32 bytes are enough for every format but SVG, which may start with up to 1 KiB of XML prologue. `None`: nothing known. A match
/// says what decoder to try, not that the file is sound.
#[must_use]
pub fn sniff(head: &[u8]) -> Option<Format> {
    let head = &head[..head.len().min(SNIFF_BYTES)];
    match head {
        [0xff, 0xd8, 0xff, ..] => Some(Format::Jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Format::Png),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Format::Gif),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Format::WebP),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Format::Tiff),
        [b'%', b'P', b'D', b'F', b'-', ..] => Some(Format::Pdf),
        [b'8', b'B', b'P', b'S', 0, 1 | 2, ..] => Some(Format::Psd),
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => Some(Format::Jxl),
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => Some(Format::Jpeg2000),
        [0, 0, 1, 0, count, 0, ..] if *count > 0 => Some(Format::Ico),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => sniff_isobmff(head),
        [b'B', b'M', ..] if is_bmp(head) => Some(Format::Bmp),
        _ if is_svg(head) => Some(Format::Svg),
        _ => None,
    }
}

/// ISO base media: the major brand decides, or, where it is generic, the compatible brands (ISO 14496-12, section 4.3).
fn sniff_isobmff(head: &[u8]) -> Option<Format> {
    let size = u32::from_be_bytes(head[..4].try_into().ok()?) as usize;
    let end = size.clamp(12, head.len().max(12)).min(head.len());
    let brands = head.get(8..12).into_iter().chain(head.get(16..end).into_iter().flat_map(|rest| rest.chunks_exact(4)));
    let mut heic = false;
    for brand in brands {
        match brand {
            b"avif" | b"avis" => return Some(Format::Avif),
            b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"hevm" | b"hevs" | b"mif1" | b"msf1" => {
                heic = true;
            }
            _ => {}
        }
    }
    heic.then_some(Format::Heic)
}

/// `BM` alone is two letters of many texts: the size of the second header must be one that exists.
fn is_bmp(head: &[u8]) -> bool {
    matches!(head.get(14..18), Some(size) if matches!(u32::from_le_bytes([size[0], size[1], size[2], size[3]]), 12 | 16 | 40 | 52 | 56 | 64 | 108 | 124))
}

fn is_svg(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let prologue = text.starts_with(b"<?xml") || text.starts_with(b"<!--") || text.starts_with(b"<!DOCTYPE svg");
    text.starts_with(b"<svg") || (prologue && text.windows(4).any(|window| window == b"<svg"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides_and_not_the_start_of_a_text() {
        assert_eq!(sniff(b"\xff\xd8\xff\xe0"), Some(Format::Jpeg));
        assert_eq!(sniff(b"BM is how this letter starts, dear"), None);
        assert_eq!(sniff(b"<html><body>"), None);
        assert_eq!(sniff(b"\xef\xbb\xbf  <?xml version=\"1.0\"?><svg>"), Some(Format::Svg));
        assert_eq!(sniff(b""), None);
    }

    #[test]
    fn generic_brand_is_resolved_by_the_compatible_ones() {
        assert_eq!(sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf"), Some(Format::Avif));
        assert_eq!(sniff(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), Some(Format::Heic));
        assert_eq!(sniff(b"\0\0\0\x18ftypisom\0\0\0\0isomiso2"), None);
        assert_eq!(sniff(b"\0\0\0\0ftyp"), None);
    }
}
