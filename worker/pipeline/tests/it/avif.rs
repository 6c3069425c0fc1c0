//! AVIF in, of another encoder than ours (the seeds, drawn by the formula of [`drawn`]), and out.

use image::{ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use oneiro_pipeline::{Chroma, Format, Output, Settings, Target, VariantSpec, probe};
use rav1e::prelude::ChromaSampling;
use turbojpeg::Subsamp;

use crate::deep_avif;
use crate::support::{decode, edge, encode, fixture, jpeg, one, process, psnr, reference, scene, ssim};

const SEEDS: [(&str, &[u8]); 15] = [
    ("s420", include_bytes!("seeds/avif/s420.avif")),
    ("s422", include_bytes!("seeds/avif/s422.avif")),
    ("s444", include_bytes!("seeds/avif/s444.avif")),
    ("s400", include_bytes!("seeds/avif/s400.avif")),
    ("limited", include_bytes!("seeds/avif/limited.avif")),
    ("alpha", include_bytes!("seeds/avif/alpha.avif")),
    ("o2", include_bytes!("seeds/avif/o2.avif")),
    ("o3", include_bytes!("seeds/avif/o3.avif")),
    ("o4", include_bytes!("seeds/avif/o4.avif")),
    ("o5", include_bytes!("seeds/avif/o5.avif")),
    ("o6", include_bytes!("seeds/avif/o6.avif")),
    ("o7", include_bytes!("seeds/avif/o7.avif")),
    ("o8", include_bytes!("seeds/avif/o8.avif")),
    // In layers, of which the last one alone is the picture: those before it are grey.
    ("layers2", include_bytes!("seeds/avif/layers2.avif")),
    ("layers4", include_bytes!("seeds/avif/layers4.avif")),
];

fn seed(name: &str) -> &'static [u8] {
    SEEDS.iter().find(|(found, _)| *found == name).expect("a seed").1
}

/// What every seed shows.
fn drawn() -> RgbImage {
    RgbImage::from_fn(45, 27, |x, y| Rgb([(x * 5) as u8, (y * 9) as u8, (255 - x * 3) as u8]))
}

fn as_png() -> Settings {
    one(edge(45).with_format(Output::Png))
}

#[test]
fn pictures_of_another_encoder_are_read() {
    for (name, bytes) in SEEDS {
        let processed = process(&as_png(), bytes).expect(name);
        assert_eq!(
            (processed.header.format, processed.header.width, processed.header.height),
            (Format::Avif, 45, 27),
            "{name}"
        );
        let got = decode(&processed.variants[0].bytes);
        match name {
            "s400" => {
                let luma = |p: &Rgb<u8>| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
                for (grey, rgb) in got.to_luma8().pixels().zip(drawn().pixels()) {
                    assert!((f32::from(grey[0]) - luma(rgb)).abs() < 12.0, "{grey:?} for {rgb:?}");
                }
            }
            "alpha" => {
                let rgba = got.to_rgba8();
                assert!(rgba.get_pixel(20, 0)[3] < 12 && rgba.get_pixel(20, 26)[3] > 240);
                assert!(rgba.get_pixel(44, 26)[0].abs_diff(220) < 16, "{:?}", rgba.get_pixel(44, 26));
            }
            _ => assert!(psnr(&got.to_rgb8(), &drawn()) > 30.0, "{name}: {}", psnr(&got.to_rgb8(), &drawn())),
        }
    }
}

#[test]
fn pictures_of_ten_and_twelve_bits_come_out_in_eight() {
    let luma =
        |pixel: &Rgb<u8>| 0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2]);
    for deep in deep_avif::all() {
        let shown = |picture: &RgbImage| {
            let processed = process(&as_png(), &deep_avif::avif(picture, deep, 1)).expect("a picture");
            assert_eq!((processed.header.width, processed.header.height), picture.dimensions(), "{deep:?}");
            decode(&processed.variants[0].bytes)
        };
        // Flat pictures tell a wrong range or depth to the step, black and white its ends.
        for colour in [[0; 3], [255; 3], [200, 100, 50], [20, 60, 220]] {
            let flat = RgbImage::from_pixel(16, 16, Rgb(colour));
            let got = shown(&flat);
            if deep.sampling == ChromaSampling::Cs400 {
                let grey = got.to_luma8().get_pixel(8, 8)[0];
                assert!((f32::from(grey) - luma(&Rgb(colour))).abs() < 1.6, "{deep:?}: {grey} for {colour:?}");
            } else {
                let rgb = got.to_rgb8().get_pixel(8, 8).0;
                let is_near = rgb.iter().zip(colour).all(|(got, sent)| got.abs_diff(sent) <= 3);
                assert!(is_near, "{deep:?}: {rgb:?} for {colour:?}");
            }
        }
        let got = shown(&drawn());
        if deep.sampling == ChromaSampling::Cs400 {
            for (grey, rgb) in got.to_luma8().pixels().zip(drawn().pixels()) {
                assert!((f32::from(grey[0]) - luma(rgb)).abs() < 8.0, "{deep:?}: {grey:?} for {rgb:?}");
            }
        } else {
            assert!(psnr(&got.to_rgb8(), &drawn()) > 32.0, "{deep:?}: {}", psnr(&got.to_rgb8(), &drawn()));
        }
    }
}

#[test]
fn frames_behind_the_one_that_is_shown_are_few() {
    let deep = deep_avif::all().next().expect("a depth");
    let of = |times| process(&as_png(), &deep_avif::avif(&drawn(), deep, times));
    assert!(of(4).is_ok(), "one a layer");
    assert_eq!(of(5).expect_err("more than layers").code(), "corrupt_image");
}

#[test]
fn orientation_is_that_of_the_container() {
    for orientation in 2..=8_u8 {
        let header = probe(seed(&format!("o{orientation}")), &Settings::default().limits).expect("an image");
        assert_eq!((header.orientation, header.width, header.height), (orientation, 45, 27));
    }
}

#[test]
fn copyright_is_kept_only_on_request() {
    let mut settings = as_png();
    for keep in [false, true] {
        settings.keep_copyright = keep;
        for format in [Output::Png, Output::Jpeg] {
            settings.variants[0].format = format;
            let bytes = process(&settings, seed("o6")).expect("an image").variants.remove(0).bytes;
            assert_eq!(bytes.windows(7).any(|window| window == b"(c) Ada"), keep, "{format:?}");
        }
    }
}

#[test]
fn every_format_comes_out_as_avif_and_goes_in_again() {
    let picture = scene(160, 107);
    let mut settings = one(VariantSpec::new("v", Target::LongEdge(96)).with_format(Output::Avif).with_quality(92));
    settings.variants[0].effort = 1;
    for chroma in [Chroma::Quarter, Chroma::Full] {
        settings.variants[0].chroma = chroma;
        for file in [
            jpeg(&picture, 96, Subsamp::Sub2x2, false),
            encode(&picture.clone().into(), ImageFormat::Png),
            encode(&picture.clone().into(), ImageFormat::WebP),
        ] {
            let variant = process(&settings, &file).expect("a picture").variants.remove(0);
            assert_eq!((variant.width, variant.height, variant.format.mime()), (96, 64, "image/avif"));
            let expected = image::imageops::resize(&picture, 96, 64, image::imageops::FilterType::Lanczos3);
            let again = process(&one(edge(96).with_format(Output::Png)), &variant.bytes).expect("our own");
            let got = psnr(&decode(&again.variants[0].bytes).to_rgb8(), &expected);
            assert!(got > 30.0, "{chroma:?}: {got:.1} dB");
        }
    }
}

#[test]
fn grey_alpha_and_tiny_pictures_come_out() {
    let avif = |edge_px| {
        let mut settings =
            one(VariantSpec::new("v", Target::LongEdge(edge_px)).with_format(Output::Avif).with_quality(90));
        settings.variants[0].effort = 0;
        settings
    };
    let back = |bytes: &[u8]| decode(&process(&as_png(), bytes).expect("our own").variants[0].bytes);
    let grey = process(&avif(40), &jpeg(&scene(80, 60), 95, Subsamp::Gray, false)).expect("a photo");
    assert_eq!(back(&grey.variants[0].bytes).color(), image::ColorType::L8);
    let half = RgbaImage::from_fn(64, 40, |x, _| Rgba([200, 30, 60, if x < 32 { 255 } else { 0 }]));
    let rgba = process(&avif(64), &encode(&half.into(), ImageFormat::Png)).expect("an image");
    let shown = back(&rgba.variants[0].bytes).to_rgba8();
    assert!(
        shown.get_pixel(5, 5)[3] > 250 && shown.get_pixel(40, 5)[3] < 5 && shown.get_pixel(5, 5)[0].abs_diff(200) < 10
    );
    for (width, height) in [(1, 1), (3, 2), (17, 1)] {
        let variant = process(&avif(64), &encode(&scene(width, height).into(), ImageFormat::Png))
            .expect("small")
            .variants
            .remove(0);
        assert_eq!((variant.width, variant.height), (width, height));
        assert_eq!(back(&variant.bytes).width(), width);
    }
}

#[test]
fn a_photograph_keeps_its_structure() {
    let photo = fixture("phone.jpg");
    let mut settings = one(VariantSpec::new("v", Target::LongEdge(256)).with_format(Output::Avif));
    settings.variants[0].effort = 2;
    let variant = process(&settings, &photo).expect("a photo").variants.remove(0);
    let ideal = reference(&photo, 256);
    let again = process(&one(edge(256).with_format(Output::Png)), &variant.bytes).expect("our own");
    let got = ssim(&decode(&again.variants[0].bytes).to_rgb8(), &ideal);
    assert!(got > 0.93, "{got:.4}");
}

#[test]
fn hostile_files_are_refused() {
    let settings = as_png();
    for (name, bytes) in SEEDS {
        for part in 1..16 {
            let error = process(&settings, &bytes[..bytes.len() * part / 16]).expect_err(name);
            assert!(
                matches!(error.code(), "truncated_image" | "corrupt_image" | "unsupported_format"),
                "{name}: {error}"
            );
        }
    }
    let mut large = seed("s420").to_vec();
    let size = large.windows(4).position(|name| name == b"ispe").expect("a size") + 8;
    for (side, code) in
        [(40_000_u32, "side_too_long"), (16_000, "too_many_pixels"), (44, "corrupt_image"), (0, "corrupt_image")]
    {
        large[size..size + 4].copy_from_slice(&side.to_be_bytes());
        large[size + 4..size + 8].copy_from_slice(&side.to_be_bytes());
        assert_eq!(process(&settings, &large).expect_err("another size").code(), code);
    }
    // Nothing in any byte of the boxes may bring the reader down.
    for (_, bytes) in SEEDS {
        let boxes = bytes.windows(4).position(|name| name == b"mdat").expect("pictures");
        for at in 0..boxes {
            for value in [0, 1, 0x7f, 0xff] {
                let mut mutant = bytes.to_vec();
                mutant[at] = value;
                if let Err(error) = probe(&mutant, &settings.limits) {
                    assert!(error.is_permanent(), "{error}");
                }
            }
        }
    }
}
