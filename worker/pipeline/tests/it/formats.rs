//! Every format in and out, orientation, and what must not survive.

use image::{DynamicImage, ImageFormat, Rgba, RgbaImage, imageops};
use oneiro_pipeline::{Format, Output, Settings, Target, VariantSpec, probe, sniff};
use turbojpeg::Subsamp;

use crate::support::{decode, edge, encode, jpeg, one, process, psnr, scene, with_exif};

#[test]
fn a_photo_gives_the_three_default_variants() {
    let photo = jpeg(&scene(3000, 2001), 90, Subsamp::Sub2x2, false);
    let processed = process(&Settings::default(), &photo).expect("a sound photo");
    let sizes: Vec<_> =
        processed.variants.iter().map(|variant| (variant.name.as_str(), variant.width, variant.height)).collect();
    assert_eq!(sizes, [("large", 2048, 1366), ("medium", 1024, 683), ("small", 320, 213)]);
    for variant in &processed.variants {
        assert_eq!(sniff(&variant.bytes), Some(Format::Jpeg));
        let decoded = decode(&variant.bytes);
        assert_eq!((decoded.width(), decoded.height()), (variant.width, variant.height));
    }
    assert_eq!((processed.header.width, processed.header.height), (3000, 2001));
    assert!(processed.placeholder.len() >= 20 && processed.dominant_color.len() == 7);
}

#[test]
fn small_images_are_not_enlarged() {
    let processed =
        process(&Settings::default(), &encode(&scene(400, 300).into(), ImageFormat::Png)).expect("a sound image");
    let sizes: Vec<_> = processed.variants.iter().map(|variant| (variant.width, variant.height)).collect();
    assert_eq!(sizes, [(400, 300), (400, 300), (320, 240)]);
}

#[test]
fn every_input_format_comes_out_in_every_output_format() {
    let picture = scene(333, 222);
    let rgb = DynamicImage::from(picture.clone());
    let inputs = [
        ("jpeg", jpeg(&picture, 95, Subsamp::Sub2x2, false), Format::Jpeg),
        ("png", encode(&rgb, ImageFormat::Png), Format::Png),
        ("webp", encode(&rgb, ImageFormat::WebP), Format::WebP),
        ("gif", encode(&rgb, ImageFormat::Gif), Format::Gif),
        ("bmp", encode(&rgb, ImageFormat::Bmp), Format::Bmp),
    ];
    for (name, bytes, format) in inputs {
        for output in [Output::Jpeg, Output::WebP, Output::Png] {
            let processed = process(&one(edge(200).with_format(output)), &bytes).expect(name);
            assert_eq!(processed.header.format, format);
            let variant = &processed.variants[0];
            assert_eq!((variant.width, variant.height, variant.format), (200, 133, output), "{name}");
            let expected = imageops::resize(&picture, 200, 133, imageops::FilterType::Lanczos3);
            // A palette of 256 colours costs GIF its share.
            let bound = if format == Format::Gif { 25.0 } else { 33.0 };
            let got = psnr(&decode(&variant.bytes).to_rgb8(), &expected);
            assert!(got > bound, "{name} to {output:?}: {got:.1} dB");
        }
    }
}

#[test]
fn all_orientations_show_the_picture_upright_and_metadata_is_gone() {
    // Odd sides, so that subsampled colour has to be aligned to the right edge.
    let upright = scene(301, 203);
    for orientation in 1..=8_u8 {
        // The stored image is the one that the orientation turns into the upright one.
        let stored = match orientation {
            2 => imageops::flip_horizontal(&upright),
            3 => imageops::rotate180(&upright),
            4 => imageops::flip_vertical(&upright),
            5 => imageops::flip_horizontal(&imageops::rotate90(&upright)),
            6 => imageops::rotate270(&upright),
            7 => imageops::flip_horizontal(&imageops::rotate270(&upright)),
            8 => imageops::rotate90(&upright),
            _ => upright.clone(),
        };
        for subsamp in [Subsamp::None, Subsamp::Sub2x2, Subsamp::Sub2x1, Subsamp::Sub1x2, Subsamp::Sub4x1] {
            let photo = with_exif(&jpeg(&stored, 98, subsamp, false), orientation);
            for pixels in [301, 151] {
                let processed = process(&one(edge(pixels)), &photo).expect("a sound photo");
                assert_eq!(processed.header.orientation, orientation);
                assert_eq!((processed.header.width, processed.header.height), (301, 203));
                let variant = &processed.variants[0];
                let expected =
                    imageops::resize(&upright, variant.width, variant.height, imageops::FilterType::Lanczos3);
                let got = psnr(&decode(&variant.bytes).to_rgb8(), &expected);
                assert!(got > 33.0, "orientation {orientation}, {subsamp:?}, {pixels} px: {got:.1} dB");
                assert!(exif::Reader::new().read_from_container(&mut std::io::Cursor::new(&variant.bytes)).is_err());
                assert_eq!(probe(&variant.bytes, &Settings::default().limits).expect("own output").orientation, 1);
            }
        }
    }
}

#[test]
fn transparency_survives_where_it_can_and_is_flattened_where_not() {
    let image =
        RgbaImage::from_fn(300, 300, |x, _| if x < 150 { Rgba([200, 0, 0, 255]) } else { Rgba([0, 255, 0, 0]) });
    let png = encode(&image.into(), ImageFormat::Png);
    for output in [Output::WebP, Output::Png] {
        let variant = process(&one(edge(100).with_format(output)), &png).expect("a sound image").variants.remove(0);
        let rgba = decode(&variant.bytes).to_rgba8();
        assert_eq!(rgba.get_pixel(90, 50)[3], 0);
        let opaque = rgba.get_pixel(10, 50);
        assert!(opaque[0] > 190 && opaque[1] < 12 && opaque[3] == 255, "{opaque:?}");
        // Resizing colour that was not premultiplied would bleed the invisible green into the edge.
        assert!((45..55).all(|x| rgba.get_pixel(x, 50)[1] < 30 || rgba.get_pixel(x, 50)[3] < 30));
    }
    let mut settings = one(edge(100));
    settings.background = oneiro_pipeline::Rgb(0, 0, 255);
    let rgb = decode(&process(&settings, &png).expect("a sound image").variants[0].bytes).to_rgb8();
    assert!(rgb.get_pixel(90, 50)[2] > 245 && rgb.get_pixel(90, 50)[0] < 10);
}

#[test]
fn cover_cuts_to_the_box_at_the_focal_point() {
    let photo = encode(&scene(800, 400).into(), ImageFormat::Png);
    let settings: Settings = serde_json::from_str(
        r#"{"variants": [
            {"name": "left", "width": 100, "height": 100, "fit": "cover", "gravity": "west", "format": "png"},
            {"name": "focal", "width": 100, "height": 100, "fit": "cover", "focal": [1.0, 0.5], "format": "png"}
        ]}"#,
    )
    .expect("readable settings");
    let processed = process(&settings, &photo).expect("a sound image");
    for (variant, left) in processed.variants.iter().zip([0, 400]) {
        let part = imageops::crop_imm(&scene(800, 400), left, 0, 400, 400).to_image();
        let expected = imageops::resize(&part, 100, 100, imageops::FilterType::Lanczos3);
        assert!(psnr(&decode(&variant.bytes).to_rgb8(), &expected) > 40.0, "{}", variant.name);
    }
}

#[test]
fn attribution_is_kept_only_on_request() {
    let body = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x98\x82\x02\0\x08\0\0\0\x1a\0\0\0\0\0\0\0(c) Ada\0";
    let photo = crate::support::with_segment(&jpeg(&scene(64, 48), 90, Subsamp::Sub2x2, false), 0xe1, body);
    for output in [Output::Jpeg, Output::WebP, Output::Png] {
        for keep in [false, true] {
            let mut settings = one(VariantSpec::new("v", Target::LongEdge(32)).with_format(output));
            settings.keep_copyright = keep;
            let bytes = process(&settings, &photo).expect("a sound photo").variants.remove(0).bytes;
            let read = exif::Reader::new().read_from_container(&mut std::io::Cursor::new(&bytes));
            assert_eq!(read.is_ok(), keep, "{output:?}");
            if let Ok(exif) = read {
                let field = exif.get_field(exif::Tag::Copyright, exif::In::PRIMARY).expect("a copyright");
                assert_eq!(field.display_value().to_string(), "\"(c) Ada\"");
                assert_eq!(exif.fields().count(), 1);
            }
            assert_eq!((decode(&bytes).width(), decode(&bytes).height()), (32, 24));
        }
    }
}

#[test]
fn the_settings_of_jpeg_are_obeyed() {
    let photo = jpeg(&scene(400, 300), 95, Subsamp::Sub2x2, false);
    let made = |progressive, optimize| {
        let mut spec = edge(300);
        (spec.progressive, spec.optimize) = (progressive, optimize);
        process(&one(spec), &photo).expect("a photo").variants.remove(0).bytes
    };
    let header = |bytes: &[u8]| probe(bytes, &Settings::default().limits).expect("own output");
    let (plain, progressive, optimized) = (made(false, false), made(true, false), made(false, true));
    assert!(
        !header(&plain).is_progressive && header(&progressive).is_progressive && !header(&optimized).is_progressive
    );
    assert!(optimized.len() < plain.len());
    // The same coefficients, written otherwise.
    assert_eq!(decode(&plain), decode(&optimized));
    assert_eq!(decode(&plain), decode(&progressive));
}

#[test]
fn an_animated_png_gives_its_first_frame() {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 20, 10);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_animated(2, 0).expect("frames");
    let mut writer = encoder.write_header().expect("a header");
    writer.write_image_data(&[200, 0, 0].repeat(200)).expect("a frame");
    writer.write_image_data(&[0, 0, 200].repeat(200)).expect("a frame");
    writer.finish().expect("an end");
    let processed = process(&one(edge(20).with_format(Output::Png)), &file).expect("an image");
    assert_eq!(processed.header.frames, 2);
    assert_eq!(decode(&processed.variants[0].bytes).to_rgb8().get_pixel(9, 5).0, [200, 0, 0]);
}

#[test]
fn placeholder_and_dominant_colour_are_the_pictures() {
    use base64::Engine;
    let picture =
        image::RgbImage::from_fn(
            300,
            200,
            |x, _| if x < 220 { image::Rgb([200, 30, 40]) } else { image::Rgb([20, 30, 220]) },
        );
    let processed = process(&one(edge(100)), &encode(&picture.into(), ImageFormat::Png)).expect("an image");
    let hash = base64::engine::general_purpose::STANDARD.decode(&processed.placeholder).expect("base64");
    let (r, _, b, a) = thumbhash::thumb_hash_to_average_rgba(&hash).expect("a thumbhash");
    // 220 of 300 columns are red.
    assert!((0.45..0.72).contains(&r) && (0.2..0.5).contains(&b) && a > 0.99, "{r} {b} {a}");
    let dominant: oneiro_pipeline::Rgb = processed.dominant_color.clone().try_into().expect("#rrggbb");
    assert!(
        dominant.0.abs_diff(200) < 12 && dominant.1.abs_diff(30) < 12 && dominant.2.abs_diff(40) < 12,
        "{dominant}"
    );
}
