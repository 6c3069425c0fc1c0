//! Putting a small EXIF block into a finished file.

use crate::raster::{Layout, Raster};

/// Adds an APP1 segment right after the start marker (EXIF 2.32, section 4.5.4).
pub(super) fn add_to_jpeg(jpeg: Vec<u8>, exif: Option<&[u8]>) -> Vec<u8> {
    let Some(exif) = exif else { return jpeg };
    let length = 2 + 6 + exif.len();
    // The attribution is at most 4 KiB and some, far from the 64 KiB a segment can hold.
    let mut out = Vec::with_capacity(jpeg.len() + 2 + length);
    out.extend(&jpeg[..2]);
    out.extend([0xff, 0xe1]);
    out.extend((length as u16).to_be_bytes());
    out.extend(b"Exif\0\0");
    out.extend(exif);
    out.extend(&jpeg[2..]);
    out
}

/// Appends an EXIF chunk, with the extended header that it needs (RFC 9649, section 2.7).
pub(super) fn add_to_webp(webp: Vec<u8>, raster: &Raster, exif: Option<&[u8]>) -> Vec<u8> {
    const HAS_ALPHA: u8 = 0x10;
    const HAS_EXIF: u8 = 0x08;
    let Some(exif) = exif else { return webp };
    let mut body = b"WEBP".to_vec();
    let images = if webp.get(12..16) == Some(b"VP8X") {
        body.extend(&webp[12..30]);
        body[12] |= HAS_EXIF;
        &webp[30..]
    } else {
        body.extend(b"VP8X\x0a\0\0\0");
        body.extend([HAS_EXIF | if raster.layout == Layout::Rgba { HAS_ALPHA } else { 0 }, 0, 0, 0]);
        body.extend(&((raster.width - 1) as u32).to_le_bytes()[..3]);
        body.extend(&((raster.height - 1) as u32).to_le_bytes()[..3]);
        &webp[12..]
    };
    body.extend(images);
    body.extend(b"EXIF");
    body.extend((exif.len() as u32).to_le_bytes());
    body.extend(exif);
    body.resize(body.len().next_multiple_of(2), 0);
    let mut out = b"RIFF".to_vec();
    out.extend((body.len() as u32).to_le_bytes());
    out.extend(body);
    out
}
