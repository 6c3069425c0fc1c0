//! Colour spaces: profiles are honoured, CMYK becomes RGB, grey stays grey.

use image::{ImageFormat, Rgb, RgbImage};
use moxcms::ColorProfile;
use oneiro_pipeline::{Output, Target, VariantSpec};
use turbojpeg::{Colorspace, Compressor, Image, PixelFormat, Subsamp};

use crate::support::{decode, edge, encode, jpeg, one, process, psnr, scene, with_segment};

/// A JPEG with a profile, in one ICC segment.
fn with_profile(jpeg: &[u8], icc: &[u8]) -> Vec<u8> {
    with_segment(jpeg, 0xe2, &[b"ICC_PROFILE\0\x01\x01".as_slice(), icc].concat())
}

fn patch(colour: [u8; 3]) -> RgbImage {
    RgbImage::from_pixel(64, 64, Rgb(colour))
}

fn middle(bytes: &[u8]) -> [u8; 3] {
    let image = decode(bytes).to_rgb8();
    image.get_pixel(image.width() / 2, image.height() / 2).0
}

#[test]
fn wide_gamut_colours_are_converted() {
    let icc = ColorProfile::new_display_p3().encode().expect("a profile");
    // The most saturated green and orange of Display P3 that sRGB can show, and what they are in sRGB.
    for (p3, srgb) in [([117, 251, 76], [0, 255, 0]), ([234, 51, 35], [255, 0, 0]), ([128, 128, 128], [128, 128, 128])]
    {
        let photo = with_profile(&jpeg(&patch(p3), 98, Subsamp::None, false), &icc);
        for output in [Output::Jpeg, Output::WebP, Output::Png] {
            let got = middle(&process(&one(edge(32).with_format(output)), &photo).expect("a photo").variants[0].bytes);
            assert!(
                got.iter().zip(srgb).all(|(a, b): (&u8, u8)| a.abs_diff(b) <= 6),
                "{output:?}: {got:?} for {srgb:?}"
            );
        }
    }
}

#[test]
fn a_profile_that_is_srgb_or_nonsense_changes_nothing() {
    let plain = jpeg(&scene(200, 150), 90, Subsamp::Sub2x2, false);
    let expected = process(&one(edge(100)), &plain).expect("a photo").variants;
    let srgb = ColorProfile::new_srgb().encode().expect("a profile");
    for icc in [srgb.as_slice(), b"nonsense", &[0; 200]] {
        assert_eq!(process(&one(edge(100)), &with_profile(&plain, icc)).expect("a photo").variants, expected);
    }
}

#[test]
fn png_and_webp_profiles_are_honoured_and_not_passed_on() {
    let icc = ColorProfile::new_display_p3().encode().expect("a profile");
    let mut file = Vec::new();
    let mut info = png::Info::with_size(8, 8);
    (info.color_type, info.bit_depth) = (png::ColorType::Rgb, png::BitDepth::Eight);
    info.icc_profile = Some(icc.into());
    let mut writer = png::Encoder::with_info(&mut file, info).expect("an encoder").write_header().expect("a header");
    writer.write_image_data(&[117, 251, 76].repeat(64)).expect("pixels");
    writer.finish().expect("an end");
    let variant = process(&one(edge(8).with_format(Output::Png)), &file).expect("an image").variants.remove(0);
    assert!(middle(&variant.bytes)[0] <= 6, "{:?}", middle(&variant.bytes));
    assert!(!variant.bytes.windows(4).any(|name| name == b"iCCP"));
}

#[test]
fn png_colours_that_are_named_are_converted() {
    use png::ColorType::{Grayscale, GrayscaleAlpha, Rgb, Rgba};
    // Written chunk by chunk: the encoder leaves out some, and corrects others.
    let file = |colour, pixel: &[u8], chunks: &[(&[u8; 4], &[u8])], icc: Option<&[u8]>| {
        let mut info = png::Info::with_size(8, 8);
        (info.color_type, info.bit_depth) = (colour, png::BitDepth::Eight);
        info.icc_profile = icc.map(|icc| icc.to_vec().into());
        let mut file = Vec::new();
        let mut writer =
            png::Encoder::with_info(&mut file, info).expect("an encoder").write_header().expect("a header");
        for (name, body) in chunks {
            writer.write_chunk(png::chunk::ChunkType(**name), body).expect("a chunk");
        }
        writer.write_image_data(&pixel.repeat(64)).expect("pixels");
        writer.finish().expect("an end");
        file
    };
    let made = |bytes: &[u8]| process(&one(edge(8).with_format(Output::Png)), bytes);
    let is_near = |bytes: &[u8], expected: [u8; 3]| {
        let got = middle(&made(bytes).expect("an image").variants[0].bytes);
        assert!(got.iter().zip(expected).all(|(got, wanted)| got.abs_diff(wanted) <= 6), "{got:?} for {expected:?}");
    };
    let p3: (&[u8; 4], &[u8]) = (b"cICP", &[12, 13, 0, 1]);
    is_near(&file(Rgb, &[117, 251, 76], &[p3], None), [0, 255, 0]);
    is_near(&file(Rgba, &[117, 251, 76, 255], &[p3], None), [0, 255, 0]);
    // Half the light is 188 in sRGB.
    let gamma = |value: u32| value.to_be_bytes();
    let (light, usual) = (gamma(100_000), gamma(45_455));
    let light: (&[u8; 4], &[u8]) = (b"gAMA", &light);
    for (colour, pixel) in [(Rgb, &[128; 3][..]), (Grayscale, &[128]), (GrayscaleAlpha, &[128, 255])] {
        is_near(&file(colour, pixel, &[light], None), [188; 3]);
    }
    is_near(&file(Rgb, &[128; 3], &[(b"cICP", &[1, 8, 0, 1])], None), [188; 3]);
    let grey = ColorProfile::new_gray_with_gamma(1.0).encode().expect("a profile");
    for (colour, pixel) in [(Grayscale, &[128][..]), (GrayscaleAlpha, &[128, 255])] {
        is_near(&file(colour, pixel, &[], Some(&grey)), [188; 3]);
    }
    // That of sRGB, nonsense, narrow range, and what outranks a gamma.
    let srgb = ColorProfile::new_srgb().encode().expect("a profile");
    is_near(&file(Rgb, &[128; 3], &[(b"gAMA", &usual)], None), [128; 3]);
    is_near(&file(Rgb, &[128; 3], &[(b"gAMA", &[0; 4])], None), [128; 3]);
    is_near(&file(Rgb, &[128; 3], &[(b"cICP", &[1, 8, 0, 0])], None), [128; 3]);
    is_near(&file(Rgb, &[128; 3], &[light, (b"sRGB", &[0])], None), [128; 3]);
    is_near(&file(Rgb, &[128; 3], &[light], Some(&srgb)), [128; 3]);
    is_near(&file(Rgb, &[128; 3], &[light, (b"cICP", &[1, 13, 0, 1])], None), [128; 3]);
    // Named colours outrank a profile, also where they are sRGB's; grey has no primaries, and keeps its profile.
    let wide = ColorProfile::new_display_p3().encode().expect("a profile");
    let named: (&[u8; 4], &[u8]) = (b"cICP", &[1, 13, 0, 1]);
    is_near(&file(Rgb, &[117, 251, 76], &[named], Some(&wide)), [117, 251, 76]);
    is_near(&file(Grayscale, &[128], &[named], Some(&grey)), [188; 3]);
    // Chromaticities: those of Display P3, beside a gamma only; nonsense and what is outranked.
    let numbers = |all: [u32; 8]| all.map(u32::to_be_bytes).concat();
    let wide = numbers([31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000]);
    let wide: (&[u8; 4], &[u8]) = (b"cHRM", &wide);
    let usual: (&[u8; 4], &[u8]) = (b"gAMA", &usual);
    let green = [117, 251, 76];
    is_near(&file(Rgb, &green, &[wide, usual], None), [0, 255, 0]);
    is_near(&file(Rgb, &[128; 3], &[light, wide], None), [188; 3]);
    is_near(&file(Grayscale, &[128], &[light, wide], None), [188; 3]);
    is_near(&file(Rgb, &green, &[wide], None), green);
    is_near(&file(Rgb, &green, &[wide, usual, (b"sRGB", &[0])], None), green);
    is_near(&file(Rgb, &green, &[wide, usual], Some(&srgb)), green);
    let standard = [31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000];
    let on_a_line = [31_270, 32_900, 10_000, 10_000, 20_000, 20_000, 30_000, 30_000];
    let white_outside = [10, 90_000, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000];
    for impossible in [[0; 8], [u32::MAX; 8], standard, on_a_line, white_outside] {
        is_near(&file(Rgb, &green, &[(b"cHRM", &numbers(impossible)), usual], None), green);
    }
    is_near(&file(Rgb, &green, &[(b"cHRM", &wide.1[..31]), usual], None), green);
    for transfer in [16, 18] {
        let bright = file(Rgb, &[128; 3], &[(b"cICP", &[9, transfer, 0, 1])], None);
        assert_eq!(made(&bright).expect_err("too bright").code(), "unsupported_feature");
    }
}

#[test]
fn a_profile_in_a_bitmap_is_honoured() {
    let icc = ColorProfile::new_display_p3().encode().expect("a profile");
    // The header of the fifth version, its colour space at 56, where the profile is and its size at 112; pixels as blue, green and red.
    let file = |space: &[u8; 4], at: u32, size: u32| {
        let mut header = [0; 124];
        let fields: [(usize, u32); 6] = [(0, 124), (4, 8), (8, 8), (112, at), (116, size), (12, 1 | 24 << 16)];
        for (at, value) in fields {
            header[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        header[56..60].copy_from_slice(space);
        let pixels = [76, 251, 117].repeat(64);
        let length = (14 + header.len() + pixels.len() + icc.len()) as u32;
        let place = 14 + header.len() as u32;
        [b"BM", &length.to_le_bytes()[..], &[0; 4], &place.to_le_bytes(), &header, &pixels, &icc].concat()
    };
    let made = |bytes: &[u8]| process(&one(edge(8).with_format(Output::Png)), bytes);
    let shown = |bytes: &[u8]| middle(&made(bytes).expect("an image").variants[0].bytes);
    let (at, size) = (124 + 192, icc.len() as u32);
    let converted = shown(&file(b"DEBM", at, size));
    assert!(converted[0] <= 6 && converted[1] >= 249 && converted[2] <= 6, "{converted:?}");
    // In a file elsewhere, cut off, beyond all numbers, and none.
    for other in
        [file(b"KNIL", at, size), file(b"DEBM", at, size + 1), file(b"DEBM", u32::MAX, u32::MAX), file(b"DEBM", at, 0)]
    {
        assert_eq!(shown(&other), [117, 251, 76]);
    }
    let mut settings = one(edge(8));
    settings.limits.max_icc_bytes = 100;
    assert_eq!(process(&settings, &file(b"DEBM", at, size)).expect_err("too much").code(), "metadata_too_large");
}

#[test]
fn cmyk_and_ycck_become_rgb() {
    for colorspace in [Colorspace::CMYK, Colorspace::YCCK] {
        // As Adobe stores it, 255 is no ink: this is full cyan.
        let pixels = [0, 255, 255, 255].repeat(64 * 48);
        let mut compressor = Compressor::new().expect("a compressor");
        compressor.set_colorspace(colorspace).expect("a colour space");
        let image = Image { pixels: &pixels[..], width: 64, pitch: 256, height: 48, format: PixelFormat::CMYK };
        let photo = compressor.compress_to_vec(image).expect("compressible");
        let processed = process(&one(edge(32)), &photo).expect("a photo");
        let [r, g, b] = middle(&processed.variants[0].bytes);
        assert!(r < 8 && g > 247 && b > 247, "{colorspace:?}: {r} {g} {b}");
    }
}

#[test]
fn rgb_stored_as_such_keeps_its_colours() {
    let picture = scene(120, 90);
    let mut compressor = Compressor::new().expect("a compressor");
    compressor.set_quality(97).expect("quality");
    compressor.set_colorspace(Colorspace::RGB).expect("a colour space");
    let image = Image { pixels: &picture.as_raw()[..], width: 120, pitch: 360, height: 90, format: PixelFormat::RGB };
    let photo = compressor.compress_to_vec(image).expect("compressible");
    let got = decode(&process(&one(edge(120).with_format(Output::Png)), &photo).expect("a photo").variants[0].bytes)
        .to_rgb8();
    assert!(psnr(&got, &picture) > 38.0, "{}", psnr(&got, &picture));
}

#[test]
fn grey_stays_grey_in_one_channel() {
    let photo = jpeg(&scene(200, 150), 90, Subsamp::Gray, false);
    let variant = process(&one(edge(100)), &photo).expect("a photo").variants.remove(0);
    assert_eq!(decode(&variant.bytes).color(), image::ColorType::L8);
    let webp =
        process(&one(VariantSpec::new("v", Target::LongEdge(100)).with_format(Output::WebP)), &photo).expect("a photo");
    let rgb = decode(&webp.variants[0].bytes).to_rgb8();
    assert!(rgb.pixels().all(|p| p[0].abs_diff(p[1]) <= 2 && p[1].abs_diff(p[2]) <= 2));
}

#[test]
fn png_of_16_bits_and_of_palettes_is_read() {
    let deep = image::DynamicImage::from(scene(90, 60)).to_rgb16();
    let file = encode(&image::DynamicImage::from(deep), ImageFormat::Png);
    let got =
        decode(&process(&one(edge(90).with_format(Output::Png)), &file).expect("an image").variants[0].bytes).to_rgb8();
    assert!(psnr(&got, &scene(90, 60)) > 45.0);
    let mut file = Vec::new();
    let mut info = png::Info::with_size(4, 2);
    (info.color_type, info.bit_depth) = (png::ColorType::Indexed, png::BitDepth::Two);
    info.palette = Some(vec![255, 0, 0, 0, 255, 0, 0, 0, 255].into());
    info.trns = Some(vec![255, 255, 0].into());
    let mut writer = png::Encoder::with_info(&mut file, info).expect("an encoder").write_header().expect("a header");
    writer.write_image_data(&[0b0000_0101, 0b1010_1010]).expect("pixels");
    writer.finish().expect("an end");
    let got =
        decode(&process(&one(edge(4).with_format(Output::Png)), &file).expect("an image").variants[0].bytes).to_rgba8();
    assert_eq!((got.get_pixel(0, 0).0, got.get_pixel(3, 0).0), ([255, 0, 0, 255], [0, 255, 0, 255]));
    assert_eq!(got.get_pixel(1, 1)[3], 0);
}
