//! The prefix codes of a lossless WebP picture (RFC 9649, section 3), for the memory that a decoder builds tables of them in.
//!
//! A picture of a few pixels may announce 65,536 groups of five codes each, gigabytes of tables in a decoder that believes it. How many there
//! are stands behind the transforms and the entropy image, which are pictures themselves, so these are decoded here; they have at most
//! a quarter of the picture's pixels between them. The picture itself is not.

use crate::{Format, PipelineError};

/// Most bytes that tables may take. The usual encoder makes at most 2,600 groups, some 65 MB of tables at the very worst.
const MAX_TABLE_BYTES: u64 = 256 << 20;
/// What a group takes beside its tables, in a list that grows by doubling.
const GROUP_BYTES: u64 = 1 << 10;
/// Symbols of a group's five codes: green and lengths (the colour cache comes on top), red, blue, alpha, distances.
const ALPHABETS: [usize; 5] = [256 + 24, 256, 256, 256, 40];
/// In which order the lengths of the code for code lengths are stored.
const LENGTHS_ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// Columns to the left and rows up that the first 120 distances stand for.
#[rustfmt::skip]
const NEAR: [(i8, i8); 120] = [
    (0, 1), (1, 0), (1, 1), (-1, 1), (0, 2), (2, 0), (1, 2), (-1, 2), (2, 1), (-2, 1),
    (2, 2), (-2, 2), (0, 3), (3, 0), (1, 3), (-1, 3), (3, 1), (-3, 1), (2, 3), (-2, 3),
    (3, 2), (-3, 2), (0, 4), (4, 0), (1, 4), (-1, 4), (4, 1), (-4, 1), (3, 3), (-3, 3),
    (2, 4), (-2, 4), (4, 2), (-4, 2), (0, 5), (3, 4), (-3, 4), (4, 3), (-4, 3), (5, 0),
    (1, 5), (-1, 5), (5, 1), (-5, 1), (2, 5), (-2, 5), (5, 2), (-5, 2), (4, 4), (-4, 4),
    (3, 5), (-3, 5), (5, 3), (-5, 3), (0, 6), (6, 0), (1, 6), (-1, 6), (6, 1), (-6, 1),
    (2, 6), (-2, 6), (6, 2), (-6, 2), (4, 5), (-4, 5), (5, 4), (-5, 4), (3, 6), (-3, 6),
    (6, 3), (-6, 3), (0, 7), (7, 0), (1, 7), (-1, 7), (5, 5), (-5, 5), (7, 1), (-7, 1),
    (4, 6), (-4, 6), (6, 4), (-6, 4), (2, 7), (-2, 7), (7, 2), (-7, 2), (3, 7), (-3, 7),
    (7, 3), (-7, 3), (5, 6), (-5, 6), (6, 5), (-6, 5), (8, 0), (4, 7), (-4, 7), (7, 4),
    (-7, 4), (8, 1), (8, 2), (6, 6), (-6, 6), (8, 3), (5, 7), (-5, 7), (7, 5), (-7, 5),
    (8, 4), (6, 7), (-6, 7), (7, 6), (-7, 6), (8, 5), (7, 7), (-7, 7), (8, 6), (8, 7),
];

/// Bytes of the tables of a lossless picture, from what follows its header.
///
/// # Errors
/// `too_complex` over [`MAX_TABLE_BYTES`], `truncated_image`, `corrupt_image`.
pub(super) fn table_bytes(stream: &[u8], width: u32, height: u32) -> Result<u64, PipelineError> {
    let mut reader = Reader { bits: Bits { bytes: stream, window: 0, held: 0 }, lengths: Vec::new() };
    reader.table_bytes(width as usize, height as usize).map_err(|flaw| match flaw {
        Flaw::Cut => PipelineError::Truncated { format: Format::WebP },
        Flaw::Damaged => PipelineError::corrupt(Format::WebP, "its lossless stream is not one"),
        Flaw::TooLarge => PipelineError::TooComplex { format: Format::WebP },
    })
}

/// What is wrong with a stream.
enum Flaw {
    Cut,
    Damaged,
    TooLarge,
}

/// Bits from the lowest of each byte.
struct Bits<'a> {
    bytes: &'a [u8],
    window: u64,
    held: u32,
}

impl Bits<'_> {
    /// The next `count` bits, at most 32.
    fn take(&mut self, count: u32) -> Result<usize, Flaw> {
        while self.held < count {
            let (byte, rest) = self.bytes.split_first().ok_or(Flaw::Cut)?;
            self.bytes = rest;
            self.window |= u64::from(*byte) << self.held;
            self.held += 8;
        }
        let value = self.window & ((1 << count) - 1);
        self.window >>= count;
        self.held -= count;
        Ok(value as usize)
    }

    fn flag(&mut self) -> Result<bool, Flaw> {
        Ok(self.take(1)? == 1)
    }

    /// A length or distance, from its prefix symbol (section 3.6.2.2).
    fn extended(&mut self, symbol: usize) -> Result<usize, Flaw> {
        if symbol < 4 {
            return Ok(symbol + 1);
        }
        let extra = (symbol - 2) >> 1;
        Ok(((2 + (symbol & 1)) << extra) + self.take(extra as u32)? + 1)
    }
}

/// A canonical prefix code: symbols in the order of their codes, and how many of them have each length.
struct Code {
    counts: [u16; 16],
    symbols: Vec<u16>,
}

impl Code {
    fn new(lengths: &[u8]) -> Result<Self, Flaw> {
        let mut counts = [0_u16; 16];
        lengths.iter().filter(|length| **length != 0).for_each(|length| counts[usize::from(*length)] += 1);
        let mut next = [0_u16; 16];
        for length in 1..16 {
            next[length] = next[length - 1] + counts[length - 1];
        }
        let total = next[15] + counts[15];
        let mut symbols = vec![0; usize::from(total)];
        for (symbol, length) in lengths.iter().enumerate().filter(|(_, length)| **length != 0) {
            let at = &mut next[usize::from(*length)];
            symbols[usize::from(*at)] = symbol as u16;
            *at += 1;
        }
        // A code of one symbol takes no bits, whatever length it claims; any other has to use all of its codes.
        let used: u32 = (1..16).map(|length| u32::from(counts[length]) << (15 - length)).sum();
        if total == 1 || (total > 1 && used == 1 << 15) { Ok(Self { counts, symbols }) } else { Err(Flaw::Damaged) }
    }

    fn read(&self, bits: &mut Bits<'_>) -> Result<usize, Flaw> {
        if let [only] = self.symbols[..] {
            return Ok(usize::from(only));
        }
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in self.counts.iter().skip(1).map(|count| usize::from(*count)) {
            code |= bits.take(1)?;
            if code < first + count {
                return Ok(usize::from(self.symbols[index + code - first]));
            }
            (index, first, code) = (index + count, (first + count) << 1, code << 1);
        }
        Err(Flaw::Damaged)
    }

    /// What the decoder's table takes: an entry for each code of up to 10 bits, and nodes of a tree for those that are longer.
    fn bytes(&self) -> u64 {
        let Some(longest) = self.counts.iter().rposition(|count| *count != 0).filter(|_| self.symbols.len() > 1) else {
            return 0;
        };
        let long: u64 = self.counts[11..].iter().map(|count| u64::from(*count)).sum();
        (4 << longest.min(10)) + 32 * long
    }
}

/// The colours used last, by their hash (section 3.6.2.3).
struct Cache {
    bits: u32,
    colours: Vec<u32>,
}

impl Cache {
    fn insert(&mut self, colour: u32) {
        self.colours[(0x1e35_a7bd_u32.wrapping_mul(colour) >> (32 - self.bits)) as usize] = colour;
    }
}

struct Reader<'a> {
    bits: Bits<'a>,
    /// Code lengths of the code that is read, kept for the next.
    lengths: Vec<u8>,
}

impl Reader<'_> {
    fn table_bytes(&mut self, width: usize, height: usize) -> Result<u64, Flaw> {
        let width = self.skip_transforms(width, height)?;
        let cache = self.cache()?;
        let mut groups = 1;
        if self.bits.flag()? {
            let bits = self.bits.take(3)? + 2;
            let entropy = self.picture(blocks(width, bits), blocks(height, bits))?;
            // A group's number is in red and green.
            groups = entropy.iter().map(|pixel| (pixel >> 8 & 0xffff) + 1).max().unwrap_or(1);
        }
        let mut total = 0;
        for _ in 0..groups {
            total += GROUP_BYTES + self.group(cache.as_ref())?.iter().map(Code::bytes).sum::<u64>();
            if total > MAX_TABLE_BYTES {
                return Err(Flaw::TooLarge);
            }
        }
        Ok(total)
    }

    /// Reads over the transforms. Returns the width that the picture is stored in: palettes pack pixels.
    fn skip_transforms(&mut self, mut width: usize, height: usize) -> Result<usize, Flaw> {
        let mut seen = [false; 4];
        while self.bits.flag()? {
            let kind = self.bits.take(2)?;
            if std::mem::replace(&mut seen[kind], true) {
                return Err(Flaw::Damaged);
            }
            match kind {
                // Prediction and colour, by blocks.
                0 | 1 => {
                    let bits = self.bits.take(3)? + 2;
                    self.picture(blocks(width, bits), blocks(height, bits))?;
                }
                2 => {}
                _ => {
                    let colours = self.bits.take(8)? + 1;
                    self.picture(colours, 1)?;
                    width = match colours {
                        ..=2 => blocks(width, 3),
                        3..=4 => blocks(width, 2),
                        5..=16 => blocks(width, 1),
                        _ => width,
                    };
                }
            }
        }
        Ok(width)
    }

    fn cache(&mut self) -> Result<Option<Cache>, Flaw> {
        if !self.bits.flag()? {
            return Ok(None);
        }
        match self.bits.take(4)? {
            bits @ 1..=11 => Ok(Some(Cache { bits: bits as u32, colours: vec![0; 1 << bits] })),
            _ => Err(Flaw::Damaged),
        }
    }

    fn group(&mut self, cache: Option<&Cache>) -> Result<[Code; 5], Flaw> {
        let green = ALPHABETS[0] + cache.map_or(0, |cache| cache.colours.len());
        Ok([
            self.code(green)?,
            self.code(ALPHABETS[1])?,
            self.code(ALPHABETS[2])?,
            self.code(ALPHABETS[3])?,
            self.code(ALPHABETS[4])?,
        ])
    }

    /// A prefix code (section 3.7.2.1).
    fn code(&mut self, alphabet: usize) -> Result<Code, Flaw> {
        if self.bits.flag()? {
            let has_two = self.bits.flag()?;
            let wide = if self.bits.flag()? { 8 } else { 1 };
            let mut symbols = vec![self.bits.take(wide)? as u16];
            if has_two {
                symbols.push(self.bits.take(8)? as u16);
            }
            if symbols.iter().any(|symbol| usize::from(*symbol) >= alphabet) {
                return Err(Flaw::Damaged);
            }
            let mut counts = [0; 16];
            counts[1] = symbols.len() as u16;
            return Ok(Code { counts, symbols });
        }
        let mut of_lengths = [0; 19];
        for place in LENGTHS_ORDER.iter().take(4 + self.bits.take(4)?) {
            of_lengths[*place] = self.bits.take(3)? as u8;
        }
        let of_lengths = Code::new(&of_lengths)?;
        let mut left = alphabet;
        if self.bits.flag()? {
            let wide = 2 + 2 * self.bits.take(3)? as u32;
            left = 2 + self.bits.take(wide)?;
            if left > alphabet {
                return Err(Flaw::Damaged);
            }
        }
        self.lengths.clear();
        let mut previous = 8;
        while self.lengths.len() < alphabet && left > 0 {
            left -= 1;
            let (length, times) = match of_lengths.read(&mut self.bits)? {
                16 => (previous, 3 + self.bits.take(2)?),
                17 => (0, 3 + self.bits.take(3)?),
                18 => (0, 11 + self.bits.take(7)?),
                length => (length as u8, 1),
            };
            if self.lengths.len() + times > alphabet {
                return Err(Flaw::Damaged);
            }
            if length != 0 {
                previous = length;
            }
            self.lengths.extend(std::iter::repeat_n(length, times));
        }
        Code::new(&self.lengths)
    }

    /// A picture of the header: of one group of codes, without transforms. Pixels are alpha, red, green and blue from the highest byte.
    fn picture(&mut self, width: usize, height: usize) -> Result<Vec<u32>, Flaw> {
        let mut cache = self.cache()?;
        let [green, red, blue, alpha, distances] = self.group(cache.as_ref())?;
        let total = width * height;
        let mut pixels: Vec<u32> = Vec::new();
        pixels.try_reserve_exact(total).map_err(|_| Flaw::TooLarge)?;
        while pixels.len() < total {
            match green.read(&mut self.bits)? {
                literal @ 0..256 => {
                    let (red, blue) = (red.read(&mut self.bits)?, blue.read(&mut self.bits)?);
                    let colour = (alpha.read(&mut self.bits)? << 24 | red << 16 | literal << 8 | blue) as u32;
                    pixels.push(colour);
                    if let Some(cache) = &mut cache {
                        cache.insert(colour);
                    }
                }
                symbol @ 256..280 => {
                    let length = self.bits.extended(symbol - 256)?;
                    let symbol = distances.read(&mut self.bits)?;
                    let distance = distance(self.bits.extended(symbol)?, width);
                    if distance > pixels.len() || length > total - pixels.len() {
                        return Err(Flaw::Damaged);
                    }
                    for _ in 0..length {
                        let colour = pixels[pixels.len() - distance];
                        pixels.push(colour);
                        if let Some(cache) = &mut cache {
                            cache.insert(colour);
                        }
                    }
                }
                cached => {
                    let cache = cache.as_ref().ok_or(Flaw::Damaged)?;
                    pixels.push(*cache.colours.get(cached - 280).ok_or(Flaw::Damaged)?);
                }
            }
        }
        Ok(pixels)
    }
}

/// Blocks of `1 << bits` pixels that cover a side.
fn blocks(side: usize, bits: usize) -> usize {
    (side + (1 << bits) - 1) >> bits
}

/// Pixels back, from the code for near ones or the number itself (section 3.6.2.2).
fn distance(code: usize, width: usize) -> usize {
    match NEAR.get(code - 1) {
        Some((columns, rows)) => (isize::from(*columns) + isize::from(*rows) * width as isize).max(1) as usize,
        None => code - NEAR.len(),
    }
}
