//! AVIF: the boxes that say where the AV1 pictures are and how they are shown (ISO 14496-12, ISO 23008-12, AVIF 1.1). Read with own code,
//! bounded by the file's size, so that limits hold before the AV1 decoder sees a byte.

use std::borrow::Cow;

use super::{Probed, av1, check_block, exif, named};
use crate::{Format, Limits, PipelineError};

/// What the AV1 decoder needs, and what it will not tell.
#[derive(Debug)]
pub(crate) struct Items<'a> {
    pub(crate) colour: Cow<'a, [u8]>,
    pub(crate) alpha: Option<Cow<'a, [u8]>>,
    pub(crate) is_premultiplied: bool,
    /// Matrix (ISO 23091-2) and whether samples have the full range, where the container tells.
    pub(crate) nclx: Option<(u16, bool)>,
}

/// References to an item that are looked at: each costs a walk over tables, and no writer makes more than a few.
const MAX_REFERENCES: usize = 16;
/// Frames in a picture's data: a still has one, or one a layer, of which AV1 allows four. What is beyond is hidden, and takes as long to decode.
const MAX_CODED_FRAMES: usize = 4;
const DAMAGED: &str = "its boxes contradict each other";
const ALPHA: &[u8] = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha";

pub(super) fn probe<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Probed<'a>, PipelineError> {
    let meta = boxes(bytes).find(|(kind, _)| kind == b"meta").map(|(_, body)| body);
    let Some(meta) = meta else { return Err(PipelineError::Truncated { format: Format::Avif }) };
    let file = File { bytes, meta: meta.get(4..).ok_or_else(damaged)? };
    let primary = file.child(b"pitm").and_then(|body| match body.first()? {
        0 => be16(body, 4).map(u32::from),
        _ => be32(body, 4),
    });
    let primary = primary.ok_or_else(damaged)?;
    match file.item_type(primary) {
        Some(b"av01") => {}
        Some(b"grid" | b"iovl" | b"iden") => {
            return Err(PipelineError::UnsupportedFeature {
                format: Format::Avif,
                feature: "an image put together of tiles",
            });
        }
        _ => return Err(damaged()),
    }
    let size = file.property(primary, b"ispe").ok_or_else(damaged)?;
    let (Some(width), Some(height)) = (be32(size, 4), be32(size, 8)) else { return Err(damaged()) };
    let mut probed = Probed::new(Format::Avif, width, height);
    if let Some(exif) = file.referring(primary, b"cdsc").find(|id| file.item_type(*id) == Some(b"Exif")) {
        let block = file.data(exif)?;
        check_block("EXIF", block.len(), limits.max_exif_bytes)?;
        // Orientation is told by the properties; EXIF's is to be ignored (MIAF, section 7.3.6.7).
        probed.exif = exif::tiff_of_item(block);
    }
    let mut nclx = None;
    for colour in file.properties(primary).filter(|(kind, _)| kind == b"colr").map(|(_, body)| body) {
        match colour.get(..4) {
            Some(b"prof" | b"rICC") => {
                check_block("ICC", colour.len() - 4, limits.max_icc_bytes)?;
                probed.icc = Some(Cow::Borrowed(&colour[4..]));
            }
            Some(b"nclx") => {
                let (Some(primaries), Some(transfer), Some(matrix)) =
                    (be16(colour, 4), be16(colour, 6), be16(colour, 8))
                else {
                    return Err(damaged());
                };
                nclx = Some((matrix, colour.get(10).is_some_and(|flags| flags & 0x80 != 0)));
                if probed.icc.is_none() {
                    probed.icc = named::profile(Format::Avif, primaries, transfer)?.map(Cow::Owned);
                }
            }
            _ => {}
        }
    }
    probed.header.has_icc = probed.icc.is_some();
    probed.header.orientation = file.orientation(primary);
    if probed.header.orientation >= 5 {
        std::mem::swap(&mut probed.header.width, &mut probed.header.height);
    }
    let is_alpha = |id: &u32| {
        file.property(*id, b"auxC").is_some_and(|body| body.get(4..).is_some_and(|urn| urn.starts_with(ALPHA)))
    };
    let alpha = file.referring(primary, b"auxl").find(is_alpha);
    (probed.header.has_alpha, probed.header.components) = (alpha.is_some(), if alpha.is_some() { 4 } else { 3 });
    let (colour, alpha_data) = (file.data(primary)?, alpha.map(|id| file.data(id)).transpose()?);
    let frames = av1::frames(&colour).max(alpha_data.as_deref().map_or(0, av1::frames));
    if frames > MAX_CODED_FRAMES {
        return Err(PipelineError::corrupt(Format::Avif, "it hides frames behind the one it shows"));
    }
    // Each frame before the one that is shown is kept, as what it may refer to: up to three samples of two bytes a pixel.
    let pixels = u64::from(probed.header.width) * u64::from(probed.header.height);
    probed.header.decoder_bytes = frames.saturating_sub(1) as u64 * 6 * pixels;
    probed.avif = Some(Items {
        colour,
        alpha: alpha_data,
        is_premultiplied: alpha.is_some_and(|id| file.referring(id, b"prem").any(|item| item == primary)),
        nclx,
    });
    Ok(probed)
}

fn damaged() -> PipelineError {
    PipelineError::corrupt(Format::Avif, DAMAGED)
}

/// Boxes one after the other; the walk ends at one that is cut off.
fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let kind: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
        let (head, size) = match be32(bytes, 0)? {
            0 => (8, bytes.len()),
            1 => (16, usize::try_from(u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?)).ok()?),
            size => (8, size as usize),
        };
        let body = bytes.get(head..size)?;
        bytes = &bytes[size..];
        Some((kind, body))
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Takes big-endian numbers of 0 to 8 bytes from the front.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn take(&mut self, bytes: usize) -> Option<u64> {
        let (head, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(head.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }
}

struct File<'a> {
    bytes: &'a [u8],
    /// Boxes of the `meta` box.
    meta: &'a [u8],
}

impl<'a> File<'a> {
    fn child(&self, kind: &[u8; 4]) -> Option<&'a [u8]> {
        boxes(self.meta).find(|(found, _)| found == kind).map(|(_, body)| body)
    }

    fn item_type(&self, id: u32) -> Option<&'a [u8; 4]> {
        let table = self.child(b"iinf")?;
        let entries = table.get(if *table.first()? == 0 { 6 } else { 8 }..)?;
        boxes(entries).filter(|(kind, _)| kind == b"infe").find_map(|(_, entry)| {
            let (found, kind) = match entry.first()? {
                2 => (u32::from(be16(entry, 4)?), entry.get(8..12)?),
                3 => (be32(entry, 4)?, entry.get(10..14)?),
                _ => return None,
            };
            if found == id { kind.try_into().ok() } else { None }
        })
    }

    /// Properties of an item in their order (HEIF, section 9.3).
    fn properties(&self, id: u32) -> impl Iterator<Item = ([u8; 4], &'a [u8])> {
        let parts = self.child(b"iprp").unwrap_or_default();
        let of = move |kind: &[u8; 4]| {
            boxes(parts).find(|(found, _)| found == kind).map(|(_, body)| body).unwrap_or_default()
        };
        let (container, associations) = (of(b"ipco"), of(b"ipma"));
        let indexes = property_indexes(associations, id).unwrap_or_default();
        indexes.into_iter().filter_map(move |index| boxes(container).nth(index.checked_sub(1)?))
    }

    fn property(&self, id: u32, kind: &[u8; 4]) -> Option<&'a [u8]> {
        self.properties(id).find(|(found, _)| found == kind).map(|(_, body)| body)
    }

    /// `irot` turns by quarters to the left, then `imir` mirrors: 0 top and bottom, 1 left and right. As an EXIF orientation.
    fn orientation(&self, id: u32) -> u8 {
        let first = |kind| self.property(id, kind).and_then(|body| body.first().copied());
        let turns = first(b"irot").unwrap_or(0) & 3;
        let table = match first(b"imir").map(|axis| axis & 1) {
            None => [1, 8, 3, 6],
            Some(0) => [4, 5, 2, 7],
            Some(_) => [2, 7, 4, 5],
        };
        table[usize::from(turns)]
    }

    /// Items that refer to `id` in the given way, the first [`MAX_REFERENCES`].
    fn referring(&self, id: u32, kind: &'a [u8; 4]) -> impl Iterator<Item = u32> {
        let table = self.child(b"iref").unwrap_or_default();
        let wide = if table.first() == Some(&1) { 4 } else { 2 };
        let of_kind = boxes(table.get(4..).unwrap_or_default()).filter(move |(found, _)| found == kind);
        let referring = of_kind.filter_map(move |(_, body)| {
            let mut numbers = Numbers(body);
            let (from, count) = (numbers.take(wide)?, numbers.take(2)?);
            // Ends with the box, whatever number it claims.
            (0..count).map_while(|_| numbers.take(wide)).any(|to| to == u64::from(id)).then_some(from as u32)
        });
        referring.take(MAX_REFERENCES)
    }

    /// An item's bytes (ISO 14496-12, section 8.11.3): of the file, or of the `idat` box.
    fn data(&self, id: u32) -> Result<Cow<'a, [u8]>, PipelineError> {
        let (method, extents) = self.child(b"iloc").and_then(|table| extents(table, id)).ok_or_else(damaged)?;
        let from = match method {
            0 => self.bytes,
            1 => self.child(b"idat").ok_or_else(damaged)?,
            _ => return Err(damaged()),
        };
        let part = |(offset, length): (u64, u64)| {
            let start = usize::try_from(offset).map_err(|_| damaged())?;
            let end = if length == 0 {
                from.len()
            } else {
                usize::try_from(offset.saturating_add(length)).map_err(|_| damaged())?
            };
            from.get(start..end).ok_or(PipelineError::Truncated { format: Format::Avif })
        };
        match &extents[..] {
            [only] => part(*only).map(Cow::Borrowed),
            many => {
                // Parts may overlap, but all together are no more than the file.
                let mut whole = Vec::new();
                for extent in many {
                    whole.extend_from_slice(part(*extent)?);
                    if whole.len() > self.bytes.len() {
                        return Err(damaged());
                    }
                }
                Ok(Cow::Owned(whole))
            }
        }
    }
}

fn property_indexes(table: &[u8], id: u32) -> Option<Vec<usize>> {
    let (version, flags) = (*table.first()?, *table.get(3)?);
    let mut numbers = Numbers(table.get(4..)?);
    for _ in 0..numbers.take(4)? {
        let found = numbers.take(if version == 0 { 2 } else { 4 })?;
        let count = numbers.take(1)?;
        let wide = if flags & 1 == 1 { 2 } else { 1 };
        let mut indexes = Vec::new();
        for _ in 0..count {
            // The highest bit says that the property is essential.
            indexes.push(numbers.take(wide)? as usize & if wide == 2 { 0x7fff } else { 0x7f });
        }
        if found == u64::from(id) {
            return Some(indexes);
        }
    }
    None
}

/// Where an item is: the method, and offset and length of its parts.
fn extents(table: &[u8], id: u32) -> Option<(u64, Vec<(u64, u64)>)> {
    let version = *table.first()?;
    let mut numbers = Numbers(table.get(4..)?);
    let sizes = numbers.take(2)?;
    let size = |shift: u64| (sizes >> shift & 15) as usize;
    let (offset_size, length_size, base_size) = (size(12), size(8), size(4));
    let index_size = if version == 0 { 0 } else { size(0) };
    if [offset_size, length_size, base_size, index_size].iter().any(|size| *size > 8) {
        return None;
    }
    let id_size = if version < 2 { 2 } else { 4 };
    for _ in 0..numbers.take(id_size)? {
        let found = numbers.take(id_size)?;
        let method = if version == 0 { 0 } else { numbers.take(2)? & 15 };
        let reference = numbers.take(2)?;
        let base = numbers.take(base_size)?;
        let count = numbers.take(2)?;
        if found != u64::from(id) {
            // Not read one by one: numbers of no bytes would make a small table a long walk.
            numbers.skip(count as usize * (index_size + offset_size + length_size))?;
            continue;
        }
        let mut parts = Vec::new();
        for _ in 0..count {
            numbers.take(index_size)?;
            let (offset, length) = (numbers.take(offset_size)?, numbers.take(length_size)?);
            parts.push((base.checked_add(offset)?, length));
        }
        return (reference == 0 && !parts.is_empty()).then_some((method, parts));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_more_numbers_than_they_have_bytes_end_with_their_bytes() {
        // Had every number that is claimed been looked at, each of these would take minutes.
        let item = |id: u16| [id.to_be_bytes(), [0, 0], [0xff, 0xff]].concat();
        let locations = [vec![0; 6], vec![0xff, 0xff], (1..0xffff).flat_map(item).collect()].concat();
        assert!(extents(&locations, 0xffff).is_none());
        let reference = b"\0\0\0\x0ccdsc\0\x02\xff\xff";
        let table = [[0; 4].as_slice(), &reference.repeat(100_000)].concat();
        let size = (table.len() as u32 + 8).to_be_bytes();
        let meta = [size.as_slice(), b"iref", &table].concat();
        let file = File { bytes: &[], meta: &meta };
        assert_eq!(file.referring(1, b"cdsc").count(), 0);
    }

    #[test]
    fn no_more_than_a_few_references_are_looked_at() {
        let reference = b"\0\0\0\x0ecdsc\0\x02\0\x01\0\x01";
        let table = [[0; 4].as_slice(), &reference.repeat(1000)].concat();
        let size = (table.len() as u32 + 8).to_be_bytes();
        let meta = [size.as_slice(), b"iref", &table].concat();
        let file = File { bytes: &[], meta: &meta };
        assert_eq!(file.referring(1, b"cdsc").collect::<Vec<_>>(), [2; MAX_REFERENCES]);
    }
}
