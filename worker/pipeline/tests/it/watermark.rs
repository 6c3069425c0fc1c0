//! The watermark is drawn where it should be, and nowhere else.

use std::io::Cursor;

use image::codecs::gif::GifEncoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, Delay, Frame, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use oneiro_pipeline::{Gravity, Output, Settings, Target, VariantSpec, Watermark};
use turbojpeg::Subsamp;

use crate::support::{decode, encode, jpeg, process};

fn settings(gravity: Gravity) -> Settings {
    let mark = RgbaImage::from_fn(40, 20, |x, _| if x < 20 { Rgba([255, 0, 0, 255]) } else { Rgba([0, 0, 0, 0]) });
    let mut watermark = Watermark::new(encode(&mark.into(), ImageFormat::Png));
    (watermark.gravity, watermark.opacity, watermark.width, watermark.margin) = (gravity, 1.0, 0.2, 0.0);
    let mut settings = Settings::default();
    settings.variants = [Output::Jpeg, Output::WebP, Output::Png]
        .map(|format| VariantSpec::new(format.extension(), Target::LongEdge(200)).with_format(format).with_quality(95))
        .to_vec();
    settings.variants.iter_mut().for_each(|variant| variant.watermark = true);
    settings.watermark = Some(watermark);
    settings
}

#[test]
fn it_lands_in_its_corner_at_its_size() {
    let photo = jpeg(&RgbImage::from_pixel(400, 300, Rgb([40, 160, 40])), 95, Subsamp::Sub2x2, false);
    for variant in process(&settings(Gravity::SouthEast), &photo).expect("a photo").variants {
        let image = decode(&variant.bytes).to_rgb8();
        assert_eq!(image.dimensions(), (200, 150));
        let is_red = |x, y| image.get_pixel(x, y)[0] > 200 && image.get_pixel(x, y)[1] < 50;
        assert!(is_red(165, 140) && !is_red(195, 140) && !is_red(155, 140) && !is_red(165, 120), "{}", variant.name);
    }
}

#[test]
fn every_frame_of_an_animation_has_it() {
    let mut gif = Vec::new();
    let mut encoder = GifEncoder::new(&mut gif);
    for colour in [Rgba([40, 160, 40, 255]), Rgba([40, 40, 160, 255])] {
        let image = RgbaImage::from_pixel(400, 300, colour);
        encoder.encode_frame(Frame::from_parts(image, 0, 0, Delay::from_numer_denom_ms(100, 1))).expect("a frame");
    }
    drop(encoder);
    let mut settings = settings(Gravity::SouthEast);
    settings.variants.retain(|variant| variant.format == Output::WebP);
    settings.variants[0].animated = true;
    let moving = process(&settings, &gif).expect("an animation").variants.remove(0).bytes;
    let frames = WebPDecoder::new(Cursor::new(&moving)).expect("a WebP").into_frames().collect_frames();
    let frames = frames.expect("frames");
    assert_eq!(frames.len(), 2);
    for frame in frames {
        let is_red = |x, y| frame.buffer().get_pixel(x, y)[0] > 200 && frame.buffer().get_pixel(x, y)[1] < 60;
        assert!(is_red(165, 140) && !is_red(195, 140) && !is_red(155, 140) && !is_red(165, 120));
    }
}

#[test]
fn settings_without_its_bytes_are_refused_clearly() {
    let photo = jpeg(&RgbImage::from_pixel(40, 30, Rgb([40, 160, 40])), 95, Subsamp::Sub2x2, false);
    let mut settings = settings(Gravity::Centre);
    assert_ne!(settings.fingerprint(), self::settings(Gravity::North).fingerprint());
    settings.watermark.as_mut().expect("a watermark").image = None;
    assert_eq!(process(&settings, &photo).expect_err("no bytes").code(), "invalid_settings");
    settings.watermark = None;
    assert!(settings.validate().is_err());
}
