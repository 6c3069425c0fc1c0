//! Files that nobody should have sent: every one gets its stable code, and none a panic, an abort or much memory.

use std::ops::ControlFlow;

use image::ImageFormat;
use oneiro_pipeline::{Damaged, Processor, Settings, Stage, Stop, probe};
use turbojpeg::Subsamp;

use crate::support::{edge, encode, jpeg, one, process, scene};

fn code(bytes: &[u8]) -> &'static str {
    let settings = Settings::default();
    process(&settings, bytes).expect_err("hostile input is refused").code()
}

#[test]
fn what_is_no_image_is_called_that() {
    assert_eq!(code(b""), "empty_file");
    assert_eq!(code(b"\0"), "unsupported_format");
    assert_eq!(code(b"<!doctype html><script>alert(1)</script>"), "unsupported_format");
    assert_eq!(code(b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>"), "unsupported_format");
    assert_eq!(code(b"%PDF-1.7\n1 0 obj"), "unsupported_format");
    assert_eq!(code(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), "unsupported_format");
    let avif = if cfg!(feature = "avif") { "truncated_image" } else { "unsupported_format" };
    assert_eq!(code(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"), avif);
    assert_eq!(code(b"II*\0\x08\0\0\0"), "unsupported_format");
    assert_eq!(code(b"8BPS\0\x01\0\0\0\0\0\0\0\x03"), "unsupported_format");
    assert_eq!(code(b"PK\x03\x04 an archive"), "unsupported_format");
    let mut noise = 1_u32;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    })
    .take(1 << 20)
    .collect();
    assert_eq!(code(&bytes), "unsupported_format");
    assert!(
        process(&Settings::default(), b"%PDF-1.7")
            .expect_err("a PDF")
            .to_string()
            .contains("PDF files are not supported")
    );
}

#[test]
fn a_file_over_the_limit_is_refused_unread() {
    let mut settings = Settings::default();
    settings.limits.max_file_bytes = 100;
    assert_eq!(process(&settings, &[0xff; 101]).expect_err("too large").code(), "file_too_large");
}

/// A PNG that claims the given size and has next to no pixels.
fn png_claiming(width: u32, height: u32) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    png.extend(width.to_be_bytes());
    png.extend(height.to_be_bytes());
    png.extend(b"\x08\x06\0\0\0\0\0\0\0\0\0\0\x08IDATx\x9c\x03\0\0\0\0\x01\0\0\0\0\0\0\0\0IEND\xaeB`\x82");
    png
}

#[test]
fn bombs_are_refused_by_their_headers() {
    assert_eq!(code(&png_claiming(40_000, 40_000)), "side_too_long");
    assert_eq!(code(&png_claiming(16_000, 16_000)), "too_many_pixels");
    assert_eq!(code(&png_claiming(u32::MAX, u32::MAX)), "side_too_long");
    assert_eq!(code(&png_claiming(0, 5)), "corrupt_image");
    let mut photo = jpeg(&scene(64, 64), 80, Subsamp::Sub2x2, false);
    let frame = photo.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
    photo[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    assert_eq!(code(&photo), "side_too_long");
    photo[frame + 5..frame + 9].copy_from_slice(&[0x3f, 0xff, 0x3f, 0xff]);
    assert_eq!(code(&photo), "too_many_pixels");
}

#[test]
fn a_gif_of_a_hundred_thousand_frames_is_refused() {
    let mut gif = b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0".to_vec();
    for _ in 0..100_000 {
        gif.extend(b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0");
    }
    gif.push(b';');
    assert_eq!(code(&gif), "too_many_frames");
}

#[test]
fn two_frame_headers_are_refused() {
    // What is checked and what is decoded must be the same header.
    let small = jpeg(&scene(64, 64), 80, Subsamp::Sub2x2, false);
    let frame = small.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
    let mut doubled = small[..frame + 19].to_vec();
    doubled.extend(&small[frame..]);
    assert_eq!(code(&doubled), "corrupt_image");
}

#[test]
fn too_many_scans_are_refused() {
    let mut photo = jpeg(&scene(64, 64), 80, Subsamp::Sub2x2, true);
    let mut settings = Settings::default();
    settings.limits.max_scans = 3;
    assert_eq!(process(&settings, &photo).expect_err("ten scans").code(), "too_many_scans");
    // The last scan over and over: each costs a pass over all coefficients.
    let last = photo.windows(2).rposition(|pair| pair == [0xff, 0xda]).expect("a scan");
    let scan = photo[last..photo.len() - 2].to_vec();
    photo.truncate(photo.len() - 2);
    (0..2000).for_each(|_| photo.extend(&scan));
    photo.extend([0xff, 0xd9]);
    assert_eq!(code(&photo), "too_many_scans");
}

#[test]
fn scans_are_counted_up_to_the_end_of_the_image_and_no_further() {
    let photo = jpeg(&scene(64, 64), 80, Subsamp::Sub2x2, true);
    let expected = process(&one(edge(64)), &photo).expect("a sound photo").variants;
    let (image, end) = photo.split_at(photo.len() - 2);
    let last = image.windows(2).rposition(|pair| pair == [0xff, 0xda]).expect("a scan");
    let scans = image[last..].repeat(2000);
    let followed = [&photo, [0xff, 0xda].repeat(500).as_slice(), &scans].concat();
    assert_eq!(process(&one(edge(64)), &followed).expect("a photo with a tail").variants, expected);
    // What looks like the end inside a segment is none, be the segment a comment or a table, nor is stuffing.
    for between in [&[0xff, 0xfe, 0, 4, 0xff, 0xd9][..], &[0xff, 0xff, 0xec, 0, 4, 0xff, 0xd9], &[0xff, 0, 0xd9]] {
        assert_eq!(code(&[image, between, &scans, end].concat()), "too_many_scans");
    }
}

#[test]
fn a_cut_photo_with_a_preview_is_said_to_be_cut() {
    let preview = jpeg(&scene(64, 48), 80, Subsamp::Sub2x2, false);
    let photo = jpeg(&scene(640, 480), 90, Subsamp::Sub2x2, false);
    let exif = [b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0".as_slice(), &preview].concat();
    let photo = crate::support::with_segment(&photo, 0xe1, &exif);
    process(&one(edge(64)), &photo).expect("a sound photo");
    assert_eq!(code(&photo[..photo.len() / 2]), "truncated_image");
}

#[test]
fn garbage_between_segments_is_salvaged_only_on_request() {
    let photo = jpeg(&scene(640, 480), 90, Subsamp::Sub2x2, false);
    let mut settings = one(edge(320));
    let expected = process(&settings, &photo).expect("a sound photo").variants;
    let tables = photo.windows(2).position(|pair| pair == [0xff, 0xdb]).expect("tables");
    let odd = [&photo[..tables], &[0], &photo[tables..]].concat();
    assert_eq!(process(&settings, &odd).expect_err("a warning").code(), "corrupt_image");
    settings.damaged = Damaged::Salvage;
    let processed = process(&settings, &odd).expect("its pixels are whole");
    assert!(processed.is_salvaged);
    assert_eq!(processed.variants, expected);
    let cut = process(&settings, &odd[..odd.len() / 2]).expect("one half");
    assert!(cut.is_salvaged && cut.variants != expected);
}

#[test]
fn limits_at_their_ends_are_heeded_or_refused() {
    let photo = jpeg(&scene(64, 64), 80, Subsamp::Sub2x2, true);
    let mut settings = one(edge(64));
    settings.limits.max_scans = u32::MAX;
    process(&settings, &photo).expect("no limit to speak of");
    settings.limits.max_listed_frames = 0;
    assert_eq!(settings.validate().expect_err("no frame at all").code(), "invalid_settings");
}

#[test]
fn a_file_cut_anywhere_is_refused_and_said_to_be_cut() {
    let picture = scene(160, 120);
    let files = [
        jpeg(&picture, 85, Subsamp::Sub2x2, false),
        jpeg(&picture, 85, Subsamp::None, true),
        encode(&picture.clone().into(), ImageFormat::Png),
        encode(&picture.clone().into(), ImageFormat::WebP),
        encode(&picture.clone().into(), ImageFormat::Gif),
        encode(&picture.into(), ImageFormat::Bmp),
    ];
    let settings = one(edge(64));
    for file in files {
        for part in 1..16 {
            let cut = &file[..file.len() * part / 16];
            let error = process(&settings, cut).expect_err("a part of a file");
            assert!(matches!(error.code(), "truncated_image" | "corrupt_image"), "{error}");
            assert!(error.is_permanent());
        }
    }
}

#[test]
fn salvage_uses_what_decodes() {
    let picture = scene(800, 600);
    let mut settings = one(edge(200));
    settings.damaged = Damaged::Salvage;
    let files = [ImageFormat::Png, ImageFormat::Gif, ImageFormat::Bmp]
        .map(|format| (format, encode(&picture.clone().into(), format)));
    let photo = (ImageFormat::Jpeg, jpeg(&picture, 90, Subsamp::Sub2x2, false));
    for (format, file) in files.into_iter().chain([photo]) {
        let processed = process(&settings, &file[..file.len() / 2]).expect("one half");
        assert!(processed.is_salvaged);
        let got = crate::support::decode(&processed.variants[0].bytes).to_rgb8();
        let expected = image::imageops::resize(&picture, 200, 150, image::imageops::FilterType::Lanczos3);
        let top = |image: &image::RgbImage| image::imageops::crop_imm(image, 0, 0, 200, 40).to_image();
        // BMP starts at the bottom, and GIF has 256 colours.
        let bound = match format {
            ImageFormat::Gif => 24.0,
            ImageFormat::Bmp => 0.0,
            _ => 30.0,
        };
        assert!(crate::support::psnr(&top(&got), &top(&expected)) > bound, "{format:?}");
        assert!(!process(&settings, &file).expect("the whole").is_salvaged);
        assert!(process(&settings, &file[..40]).is_err());
    }
}

#[test]
fn metadata_over_its_limit_is_refused() {
    let photo = jpeg(&scene(64, 64), 80, Subsamp::Sub2x2, false);
    let mut settings = Settings::default();
    settings.limits.max_exif_bytes = 1000;
    settings.limits.max_icc_bytes = 1000;
    let exif = [b"Exif\0\0".as_slice(), &[0; 2000]].concat();
    assert_eq!(
        process(&settings, &crate::support::with_segment(&photo, 0xe1, &exif)).expect_err("EXIF").code(),
        "metadata_too_large"
    );
    let icc = [b"ICC_PROFILE\0\x01\x01".as_slice(), &[0; 2000]].concat();
    assert_eq!(
        process(&settings, &crate::support::with_segment(&photo, 0xe2, &icc)).expect_err("ICC").code(),
        "metadata_too_large"
    );
}

#[test]
fn work_stops_where_the_caller_says() {
    let photo = jpeg(&scene(640, 480), 80, Subsamp::Sub2x2, false);
    let mut processor = Processor::new(Settings::default());
    let mut stages = Vec::new();
    processor
        .process(&photo, &mut |stage| {
            stages.push(stage);
            ControlFlow::Continue(())
        })
        .expect("a sound photo");
    assert_eq!((stages[0], stages[1]), (Stage::Probed, Stage::Decoded));
    assert!(stages.contains(&Stage::Encoded { done: 3, total: 3 }));
    for stop in stages {
        let stopped = processor.process(&photo, &mut |stage| {
            if stage == stop { ControlFlow::Break(Stop::Cancelled) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(stopped.expect_err("stopped").code(), "cancelled");
    }
    processor.process(&photo, &mut |_| ControlFlow::Continue(())).expect("as good as new");
}

#[test]
fn a_decode_that_takes_too_long_is_stopped_while_it_runs() {
    let picture = image::DynamicImage::from(noise(400, 300));
    for format in [ImageFormat::Png, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Bmp] {
        for damaged in [Damaged::Refuse, Damaged::Salvage] {
            let mut settings = one(edge(40));
            settings.damaged = damaged;
            let mut asked = 0;
            let stopped = Processor::new(settings).process(&encode(&picture, format), &mut |stage| {
                asked += usize::from(stage == Stage::Decoding);
                if asked == 4 { ControlFlow::Break(Stop::TimedOut) } else { ControlFlow::Continue(()) }
            });
            let error = stopped.expect_err("four times 16 KiB are not the whole file");
            assert_eq!((error.code(), error.is_permanent(), asked), ("decode_timeout", true, 4), "{format:?}");
        }
    }
}

/// A picture that no format can pack.
fn noise(width: u32, height: u32) -> image::RgbImage {
    let mut state = 1_u32;
    image::RgbImage::from_fn(width, height, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [a, b, c, _] = state.to_be_bytes();
        image::Rgb([a, b, c])
    })
}

#[test]
fn probing_never_needs_the_pixels() {
    let photo = jpeg(&scene(640, 480), 80, Subsamp::Sub2x2, false);
    let scan = photo.windows(2).position(|pair| pair == [0xff, 0xda]).expect("a scan");
    let header = probe(&photo[..scan + 20], &Settings::default().limits).expect("a whole header");
    assert_eq!((header.width, header.height, header.scans, header.is_progressive), (640, 480, 1, false));
}

/// A sound PNG of 8 x 8 pixels with what `decorate` adds to its header.
fn decorated_png(decorate: impl FnOnce(&mut png::Info<'_>)) -> Vec<u8> {
    let mut file = Vec::new();
    let mut info = png::Info::with_size(8, 8);
    (info.color_type, info.bit_depth) = (png::ColorType::Rgb, png::BitDepth::Eight);
    decorate(&mut info);
    let mut writer = png::Encoder::with_info(&mut file, info).expect("an encoder").write_header().expect("a header");
    writer.write_image_data(&[90; 8 * 8 * 3]).expect("pixels");
    writer.finish().expect("an end");
    file
}

#[test]
fn compressed_metadata_that_unpacks_to_much_is_left_packed() {
    const HUGE: usize = 20 << 20;
    let bomb = decorated_png(|info| {
        info.compressed_latin1_text.push(png::text_metadata::ZTXtChunk::new("Comment", "a".repeat(HUGE)));
    });
    assert!(bomb.len() < 1 << 20);
    let processed = process(&one(edge(8)), &bomb).expect("sound pixels");
    assert_eq!((processed.header.width, processed.variants[0].width), (8, 8));
}

#[test]
fn a_packed_profile_is_held_against_the_limit_as_it_is_unpacked() {
    const MIB: usize = 1 << 20;
    let file = |bytes: usize| decorated_png(|info| info.icc_profile = Some(vec![0; bytes].into()));
    for bytes in [1000, 3 * MIB, 4 * MIB] {
        process(&one(edge(8)), &file(bytes)).expect("within the limit");
    }
    for bytes in [4 * MIB + 1, 8 * MIB, 12 * MIB - 1000, 20 * MIB] {
        assert_eq!(code(&file(bytes)), "metadata_too_large", "{bytes}");
    }
}

#[test]
fn a_part_of_a_frame_is_salvaged_or_refused_by_its_code() {
    let mut settings = one(edge(200));
    // Of the animations, so little is less than one frame.
    for (file, parts) in [
        (&include_bytes!("seeds/lossy.webp")[..], 1..16),
        (include_bytes!("seeds/moving.webp"), 1..4),
        (include_bytes!("seeds/moving.gif"), 1..2),
    ] {
        for part in parts {
            for damaged in [Damaged::Refuse, Damaged::Salvage] {
                settings.damaged = damaged;
                match process(&settings, &file[..file.len() * part / 16]) {
                    Ok(processed) => assert!(processed.is_salvaged && damaged == Damaged::Salvage),
                    Err(error) => assert!(matches!(error.code(), "truncated_image" | "corrupt_image"), "{error}"),
                }
            }
        }
    }
}

#[test]
fn names_of_other_things_do_not_make_them_images() {
    // Nothing looks at a name: what these files are called does not matter, only what they are.
    for (file, format) in [
        (
            &b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><svg>&a;</svg>"[..],
            Some("SVG"),
        ),
        (b"<html><img src=x onerror=alert(1)>", None),
        (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n\xff\xd8\xff\xe0\0\x10JFIF", Some("PDF")),
        (b"MZ\x90\0\xff\xd8\xff\xe0", None),
        (b"#!/bin/sh\n\x89PNG\r\n\x1a\n", None),
    ] {
        let error = process(&Settings::default(), file).expect_err("no image");
        assert_eq!(error.code(), "unsupported_format");
        assert!(format.is_none_or(|format| error.to_string().starts_with(format)), "{error}");
    }
}

#[test]
fn a_polyglot_is_what_its_first_bytes_say() {
    let mut photo = jpeg(&scene(64, 48), 80, Subsamp::Sub2x2, false);
    photo.extend(b"<svg onload=alert(1)></svg>PK\x03\x04");
    let processed = process(&one(edge(32)), &photo).expect("a photo with a tail");
    assert!(!processed.variants[0].bytes.windows(4).any(|window| window == b"<svg"));
    // A script in a comment, and an archive that starts in one.
    let comment = b"*/=alert(1)/*<?php system($_GET[0]); ?>PK\x03\x04";
    let photo = crate::support::with_segment(&jpeg(&scene(64, 48), 80, Subsamp::Sub2x2, false), 0xfe, comment);
    for output in [oneiro_pipeline::Output::Jpeg, oneiro_pipeline::Output::WebP, oneiro_pipeline::Output::Png] {
        let variant = process(&one(edge(32).with_format(output)), &photo).expect("a photo").variants.remove(0);
        assert!(!variant.bytes.windows(5).any(|window| window == b"<?php" || window == b"alert"));
    }
    // GIF and JavaScript at once: `GIF89a/*` is a picture 10,799 pixels wide.
    let head = b"GIF89a/*\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
    let script = [head.as_slice(), b"*/=alert(1)"].concat();
    let processed = process(&one(edge(32)), &script).expect("a picture with a tail");
    assert_eq!(processed.header.width, u32::from(u16::from_le_bytes(*b"/*")));
    assert!(!processed.variants[0].bytes.windows(5).any(|window| window == b"alert"));
}
