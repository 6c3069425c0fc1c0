//! How many frames an AV1 picture makes its decoder decode (AV1 specification, section 5.3). A still is one, and one of several layers four at
//! the most; a file may hide any number more, each of a few bytes and of the largest size, before the one that is shown.

/// A frame by its header alone, followed by its tiles, and a frame with its tiles: the types of those units (section 6.2.2).
const FRAMES: [u8; 2] = [3, 6];

/// Frames in the units of `bytes`, as far as these can be told apart: a decoder gives up where this does.
pub(super) fn frames(bytes: &[u8]) -> usize {
    units(bytes).filter(|kind| FRAMES.contains(kind)).count()
}

/// The types of the units, one after the other.
fn units(mut bytes: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let header = *bytes.first()?;
        let (has_extension, has_size) = (header & 4 != 0, header & 2 != 0);
        let rest = bytes.get(if has_extension { 2 } else { 1 }..)?;
        let (size, body) = if has_size { leb128(rest)? } else { (rest.len(), rest) };
        bytes = body.get(size..).unwrap_or_default();
        Some(header >> 3 & 15)
    })
}

/// A number of up to eight bytes, seven bits each, the lowest first (section 4.10.5), and what follows it.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_with_and_without_sizes_and_extensions() {
        let delimiter: &[u8] = &[2 << 3 | 2, 0];
        let frame: &[u8] = &[6 << 3 | 2, 0x81, 0x00, 0xff];
        let layered: &[u8] = &[3 << 3 | 4 | 2, 0, 1, 0xff];
        let tiles: &[u8] = &[4 << 3 | 2, 1, 0xff];
        let unsized_last: &[u8] = &[6 << 3, 0xff, 0xff];
        let all = [delimiter, frame, layered, tiles, frame, unsized_last].concat();
        assert_eq!(units(&all).collect::<Vec<_>>(), [2, 6, 3, 4, 6, 6]);
        assert_eq!(frames(&all), 4);
        assert_eq!(frames(&[]), 0);
        // A size that reaches beyond the end, and one that does not end.
        assert_eq!(frames(&[6 << 3 | 2, 0x7f, 0]), 1);
        assert_eq!(frames(&[6 << 3 | 2, 0xff, 0xff, 0xff]), 0);
    }
}
