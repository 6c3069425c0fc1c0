//! The few EXIF fields that matter here (TIFF 6.0; EXIF 2.32, section 4.6.4): orientation, and on request copyright and artist.
//! Malformed blocks read as absent: metadata never makes an image fail.

const ORIENTATION: u16 = 0x0112;
const ARTIST: u16 = 0x013b;
const COPYRIGHT: u16 = 0x8298;
const ASCII: u16 = 2;
const SHORT: u16 = 3;
/// Longest text kept of a field: more is no attribution.
const MAX_TEXT_BYTES: usize = 2048;

/// Who made an image and who owns it, as raw EXIF ASCII.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attribution {
    artist: Option<Vec<u8>>,
    copyright: Option<Vec<u8>>,
}

impl Attribution {
    pub(crate) fn read(exif: &[u8]) -> Option<Self> {
        let tiff = Tiff::new(exif)?;
        let read = Self { artist: tiff.text(ARTIST), copyright: tiff.text(COPYRIGHT) };
        (read.artist.is_some() || read.copyright.is_some()).then_some(read)
    }

    /// A new EXIF block, little-endian TIFF without the `Exif\0\0` prefix, with nothing in it but these fields.
    pub(crate) fn to_exif(&self) -> Vec<u8> {
        let fields: Vec<(u16, &Vec<u8>)> = [(ARTIST, &self.artist), (COPYRIGHT, &self.copyright)]
            .into_iter()
            .filter_map(|(tag, text)| Some((tag, text.as_ref()?)))
            .collect();
        let mut out = b"II*\0\x08\0\0\0".to_vec();
        out.extend((fields.len() as u16).to_le_bytes());
        let mut data_at = 8 + 2 + 12 * fields.len() + 4;
        let mut data = Vec::new();
        for (tag, text) in fields {
            let count = text.len() + 1;
            out.extend(tag.to_le_bytes());
            out.extend(ASCII.to_le_bytes());
            out.extend((count as u32).to_le_bytes());
            let mut padded = text.clone();
            padded.push(0);
            if count <= 4 {
                padded.resize(4, 0);
                out.extend(padded);
            } else {
                out.extend((data_at as u32).to_le_bytes());
                data_at += count;
                data.extend(padded);
            }
        }
        out.extend([0; 4]);
        out.extend(data);
        out
    }
}

/// Orientation 1 to 8; 1 for anything else.
/// The TIFF structure of an AVIF's `Exif` item: it starts where a number in front says (ISO 23008-12, annex A.2.1).
#[cfg(feature = "avif")]
pub(super) fn tiff_of_item(item: std::borrow::Cow<'_, [u8]>) -> Option<std::borrow::Cow<'_, [u8]>> {
    use std::borrow::Cow;
    let offset = u32::from_be_bytes(item.get(..4)?.try_into().ok()?) as usize;
    let start = offset.checked_add(4).filter(|start| *start < item.len())?;
    Some(match item {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[start..]),
        Cow::Owned(bytes) => Cow::Owned(bytes[start..].to_vec()),
    })
}

pub(super) fn orientation(exif: &[u8]) -> u8 {
    let value = Tiff::new(exif).and_then(|tiff| {
        let (kind, _, at) = tiff.field(ORIENTATION)?;
        (kind == SHORT).then(|| tiff.u16(at)).flatten()
    });
    value.filter(|value| (1..=8).contains(value)).map_or(1, |value| value as u8)
}

/// A TIFF structure; only its first directory is read.
struct Tiff<'a> {
    bytes: &'a [u8],
    is_little: bool,
    directory: usize,
}

impl<'a> Tiff<'a> {
    fn new(exif: &'a [u8]) -> Option<Self> {
        let bytes = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
        let is_little = match bytes.get(..4)? {
            b"II*\0" => true,
            b"MM\0*" => false,
            _ => return None,
        };
        let mut tiff = Self { bytes, is_little, directory: 0 };
        tiff.directory = tiff.u32(4)? as usize;
        Some(tiff)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let raw: [u8; 2] = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.is_little { u16::from_le_bytes(raw) } else { u16::from_be_bytes(raw) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let raw: [u8; 4] = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.is_little { u32::from_le_bytes(raw) } else { u32::from_be_bytes(raw) })
    }

    /// Type, count and offset of the value slot of a field.
    fn field(&self, tag: u16) -> Option<(u16, u32, usize)> {
        let entries = usize::from(self.u16(self.directory)?);
        (0..entries).map_while(|index| self.directory.checked_add(2 + 12 * index)).find_map(|at| {
            (self.u16(at)? == tag).then_some(())?;
            Some((self.u16(at.checked_add(2)?)?, self.u32(at.checked_add(4)?)?, at.checked_add(8)?))
        })
    }

    fn text(&self, tag: u16) -> Option<Vec<u8>> {
        let (kind, count, slot) = self.field(tag)?;
        let count = count as usize;
        if kind != ASCII || count == 0 {
            return None;
        }
        let at = if count <= 4 { slot } else { self.u32(slot)? as usize };
        let raw = self.bytes.get(at..at.checked_add(count.min(MAX_TEXT_BYTES))?)?;
        // A copyright may hold two texts separated by NUL: photographer and editor. Trailing padding goes.
        let end = raw.iter().rposition(|&byte| byte != 0 && byte != b' ')? + 1;
        Some(raw[..end].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attribution_survives_a_round_trip_and_nothing_else_does() {
        let written = Attribution { artist: Some(b"Ada".to_vec()), copyright: Some(b"(c) 1843 Ada Lovelace".to_vec()) };
        assert_eq!(Attribution::read(&written.to_exif()), Some(written));
    }

    #[test]
    fn nonsense_reads_as_upright() {
        assert_eq!(orientation(b""), 1);
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), 1);
        assert_eq!(orientation(b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0"), 1);
        assert_eq!(orientation(b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"), 6);
    }
}
