//! Bytes that are no picture, or not one to be decoded.

use rand::{RngCore, SeedableRng, rngs::StdRng};

/// `length` bytes that mean nothing; the same for the same length.
pub fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(length as u64).fill_bytes(&mut bytes);
    bytes
}

/// A PNG whose header claims `side` x `side` pixels and whose data is one empty block: a bomb for whoever trusts headers.
pub fn png_bomb(side: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::new();
    header.extend(side.to_be_bytes());
    header.extend(side.to_be_bytes());
    // 8 bits, RGB, the only compression and filter methods, not interlaced.
    header.extend([8, 2, 0, 0, 0]);
    chunk(&mut bytes, *b"IHDR", &header);
    // An empty zlib stream (RFC 1950 header, one stored block of no bytes, Adler-32 of nothing).
    chunk(&mut bytes, *b"IDAT", &[0x78, 0x01, 0x01, 0, 0, 0xff, 0xff, 0, 0, 0, 1]);
    chunk(&mut bytes, *b"IEND", &[]);
    bytes
}

/// A JPEG header that claims 65,500 x 65,500 pixels.
pub fn jpeg_bomb() -> Vec<u8> {
    let mut bytes = vec![0xff, 0xd8];
    // SOF0: length 17, 8 bits, height, width, three components of 1x1 with table 0.
    bytes.extend([0xff, 0xc0, 0, 17, 8, 0xff, 0xdc, 0xff, 0xdc, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
    bytes.extend([0xff, 0xd9]);
    bytes
}

fn chunk(bytes: &mut Vec<u8>, name: [u8; 4], data: &[u8]) {
    let length = u32::try_from(data.len()).expect("chunks of a few bytes");
    bytes.extend(length.to_be_bytes());
    let from = bytes.len();
    bytes.extend(name);
    bytes.extend(data);
    bytes.extend(crc32(&bytes[from..]).to_be_bytes());
}

/// CRC-32 as PNG uses it (RFC 2083, appendix 15), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 })
    })
}
