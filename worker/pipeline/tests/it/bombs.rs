//! Small files that ask a decoder for gigabytes: each is refused before a decoder sees it, or estimated as what it costs.

use image::{DynamicImage, ImageFormat, RgbaImage};
use oneiro_pipeline::{Settings, estimate_memory, probe};
use turbojpeg::Subsamp;

use crate::support::{edge, encode, jpeg, one, process, scene};

fn refused(bytes: &[u8]) -> String {
    let error = process(&Settings::default(), bytes).expect_err("a bomb");
    assert!(error.is_permanent(), "{error}");
    error.code().to_owned()
}

/// A GIF of a canvas of 1 x 1 and frames of the given sizes, next to empty.
fn gif(frames: &[(u16, u16)]) -> Vec<u8> {
    let mut gif = b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0".to_vec();
    for (width, height) in frames {
        gif.extend(b",\0\0\0\0");
        gif.extend(width.to_le_bytes());
        gif.extend(height.to_le_bytes());
        gif.extend(b"\0\x02\x02D\x01\0");
    }
    gif.push(b';');
    gif
}

#[test]
fn a_gif_frame_is_held_against_the_limits_like_the_canvas() {
    assert_eq!(refused(&gif(&[(65_535, 65_535)])), "side_too_long");
    assert_eq!(refused(&gif(&[(16_000, 16_000)])), "too_many_pixels");
    // Later frames count, too: an animated variant decodes them.
    assert_eq!(refused(&gif(&[(1, 1), (65_535, 65_535)])), "side_too_long");
    process(&one(edge(8)), &gif(&[(1, 1), (1, 1)])).expect("the same in small");
}

#[test]
fn frames_beyond_the_canvas_count_towards_the_limit_of_an_animation() {
    let mut moving = edge(8).with_format(oneiro_pipeline::Output::WebP);
    moving.animated = true;
    let mut settings = one(moving);
    settings.limits.max_animation_pixels = 8 * 300 * 200;
    // Within the limit, what there is of them is looked at.
    assert_eq!(process(&settings, &gif(&[(300, 200); 8])).expect_err("too few pixels").code(), "corrupt_image");
    settings.limits.max_animation_pixels -= 1;
    assert_eq!(process(&settings, &gif(&[(300, 200); 8])).expect_err("eight frames").code(), "animation_too_large");
    // What covers a part of the canvas is composed on all of it.
    settings.limits.max_animation_pixels = 8;
    assert_eq!(process(&settings, &gif(&[(1, 1); 9])).expect_err("nine frames").code(), "animation_too_large");
}

#[test]
fn a_gif_frame_beyond_the_canvas_is_estimated_whole() {
    let settings = Settings::default();
    let estimate = |frames: &[(u16, u16)]| {
        estimate_memory(&probe(&gif(frames), &settings.limits).expect("within the limits"), &settings)
    };
    assert!(estimate(&[(5000, 5000)]) - estimate(&[(1, 1)]) >= 5 * (5000 * 5000 - 1));
}

pub(crate) fn chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut chunk = [kind.as_slice(), &(body.len() as u32).to_le_bytes(), body].concat();
    if body.len() % 2 == 1 {
        chunk.push(0);
    }
    chunk
}

pub(crate) fn webp(chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(b"RIFF", &[b"WEBP".to_vec(), chunks.concat()].concat())
}

pub(crate) fn u24(value: u32) -> [u8; 3] {
    let [low, middle, high, _] = value.to_le_bytes();
    [low, middle, high]
}

/// The header of an extended file of the given canvas.
pub(crate) fn canvas(width: u32, height: u32, flags: u8) -> Vec<u8> {
    chunk(b"VP8X", &[&[flags, 0, 0, 0], u24(width - 1).as_slice(), &u24(height - 1)].concat())
}

/// A lossy key frame of the given size, cut off after its header: its size alone makes a decoder reserve its planes.
fn key_frame(width: u16, height: u16) -> Vec<u8> {
    let header = [b"\x10\0\0\x9d\x01\x2a".as_slice(), &width.to_le_bytes(), &height.to_le_bytes(), &[0; 64]].concat();
    chunk(b"VP8 ", &header)
}

fn frame(width: u32, height: u32, picture: &[u8]) -> Vec<u8> {
    let place = [u24(0), u24(0), u24(width - 1), u24(height - 1), u24(100)].concat();
    chunk(b"ANMF", &[&place[..], &[0], picture].concat())
}

#[test]
fn a_webp_picture_has_the_size_of_its_canvas() {
    let hidden = key_frame(16_383, 16_383);
    let loops = chunk(b"ANIM", &[0; 6]);
    assert_eq!(refused(&webp(&[canvas(1, 1, 0), hidden.clone()])), "corrupt_image");
    assert_eq!(refused(&webp(&[canvas(1, 1, 2), loops.clone(), frame(1, 1, &hidden)])), "corrupt_image");
    assert_eq!(refused(&webp(&[canvas(1, 1, 2), loops.clone(), frame(16_383, 16_383, &hidden)])), "corrupt_image");
    let second = [canvas(1, 1, 2), loops, frame(1, 1, &key_frame(1, 1)), frame(1, 1, &hidden)];
    let error = probe(&webp(&second), &Settings::default().limits).expect_err("the second frame").to_string();
    assert!(error.contains("another size"), "{error}");
}

/// Writes bits from the lowest of each byte.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        for bit in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            let last = self.bytes.last_mut().expect("a byte was pushed");
            *last |= ((value >> bit & 1) as u8) << (self.used % 8);
            self.used += 1;
        }
    }

    /// A prefix code of one symbol.
    fn only(&mut self, symbol: u32) {
        self.put(0b101, 3);
        self.put(symbol, 8);
    }

    /// A prefix code of codes as long as can be: one each of 1 to `short` bits, and as many of 15 bits as are left.
    fn deep(&mut self, alphabet: usize, short: u32) {
        self.put(0, 1);
        self.put(15, 4);
        // The code for lengths: 0 to 15 in four bits each, in the order of the format.
        for length in [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
            self.put(if length < 16 { 4 } else { 0 }, 3);
        }
        self.put(0, 1);
        let lengths = (1..=short).chain(std::iter::repeat_n(15, 1 << (15 - short))).chain(std::iter::repeat(0));
        for length in lengths.take(alphabet) {
            self.put(u32::reverse_bits(length) >> 28, 4);
        }
    }
}

/// A lossless stream of 4 x 4 pixels with as many groups of codes, after its header.
fn groups(count: u32) -> Vec<u8> {
    let mut bits = Bits::default();
    // No transform, no colour cache, but an entropy image of one pixel, which names the last group.
    bits.put(0b100, 3);
    bits.put(0, 3);
    bits.put(0, 1);
    let last = count - 1;
    [last & 0xff, last >> 8, 0, 0, 0].into_iter().for_each(|symbol| bits.only(symbol));
    for _ in 0..count {
        bits.deep(280, 7);
        (0..3).for_each(|_| bits.deep(256, 8));
        bits.deep(40, 11);
    }
    bits.put(0, 32);
    bits.bytes
}

/// The same as a picture: the rest of its pixels are missing.
fn lossless(count: u32) -> Vec<u8> {
    chunk(b"VP8L", &[&[0x2f, 3, 0xc0, 0, 0], groups(count).as_slice()].concat())
}

#[test]
fn a_lossless_webp_of_gigabytes_of_tables_is_refused() {
    let alpha = |count| chunk(b"ALPH", &[&[1], groups(count).as_slice()].concat());
    let picture = lossless(10_000);
    assert_eq!(refused(&webp(std::slice::from_ref(&picture))), "too_complex");
    assert_eq!(refused(&webp(&[canvas(4, 4, 0x10), picture.clone()])), "too_complex");
    assert_eq!(refused(&webp(&[canvas(4, 4, 0x10), alpha(10_000), key_frame(4, 4)])), "too_complex");
    let loops = chunk(b"ANIM", &[0; 6]);
    let second = frame(4, 4, &picture);
    assert_eq!(refused(&webp(&[canvas(4, 4, 2), loops, frame(4, 4, &lossless(1)), second])), "too_complex");
}

#[test]
fn tables_of_a_lossless_webp_are_part_of_the_estimate() {
    let settings = Settings::default();
    let estimate = |count| {
        let header = probe(&webp(&[lossless(count)]), &settings.limits).expect("within the limit");
        estimate_memory(&header, &settings)
    };
    // Tables of 1024 entries for each of five codes, and a tree for what is longer than 10 bits.
    assert!(estimate(1001) - estimate(1) >= 1000 * 5 * 4096);
}

#[test]
fn what_encoders_make_is_not_too_complex() {
    let noisy = |width, height| {
        let mut state = 1_u32;
        DynamicImage::from(RgbaImage::from_fn(width, height, |x, y| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            image::Rgba([(x * 3) as u8, (y * 5) as u8, (state >> 24) as u8, (x ^ y) as u8])
        }))
    };
    let few = DynamicImage::from(image::RgbImage::from_fn(97, 61, |x, y| {
        image::Rgb([if x % 7 == 0 { 200 } else { 10 }, (y / 9 * 20) as u8, 90])
    }));
    for picture in [scene(700, 500).into(), noisy(513, 301), few, noisy(1, 1), scene(2, 300).into()] {
        let png = encode(&picture, ImageFormat::Png);
        for effort in [0, 4, 6] {
            let mut variant = edge(2000);
            (variant.format, variant.lossless, variant.effort) = (oneiro_pipeline::Output::WebP, true, effort);
            let made = process(&one(variant), &png).expect("a sound picture").variants.remove(0).bytes;
            // The pipeline's own encoder uses transforms, palettes, colour caches and entropy images; all of it is read again.
            process(&one(edge(50)), &made).expect("its own output");
        }
        process(&one(edge(50)), &encode(&picture, ImageFormat::WebP)).expect("another encoder's output");
    }
}

#[test]
fn a_jpeg_of_a_scan_for_each_component_is_estimated_as_one_that_is_held_whole() {
    let settings = Settings::default();
    let whole = jpeg(&scene(640, 480), 80, Subsamp::None, false);
    let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).expect("a scan");
    // Only the header is read: one component of three in the first scan, and two more scans to come.
    let header = |component: u8| [0xff, 0xda, 0, 8, 1, component, 0, 0, 63, 0];
    let apart =
        [&whole[..scan], &header(1), &[1; 40], &header(2), &[1; 40], &header(3), &[1; 40], &[0xff, 0xd9]].concat();
    let (together, apart) = (probe(&whole, &settings.limits), probe(&apart, &settings.limits));
    let (together, apart) = (together.expect("a sound header"), apart.expect("a sound header"));
    assert_eq!((together.scans, apart.scans), (1, 3));
    let extra = estimate_memory(&apart, &settings) - estimate_memory(&together, &settings);
    assert_eq!(extra, 2 * 640 * 480 * 3);
    let mut few = settings.limits.clone();
    few.max_scans = 2;
    let three = [&whole[..scan], &header(1), &header(2), &header(3), &[0xff, 0xd9]].concat();
    assert_eq!(probe(&three, &few).expect_err("three scans").code(), "too_many_scans");
}
