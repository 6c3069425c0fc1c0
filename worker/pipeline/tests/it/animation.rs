//! Animated input: the first frame by default, all of them where a variant asks, within limits.

use std::ops::ControlFlow;

use image::codecs::gif::{GifEncoder, Repeat};
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, Delay, Frame, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use oneiro_pipeline::{Damaged, Output, Processor, Settings, Stage, Stop, Target, VariantSpec};

use crate::bombs::{canvas, chunk, u24, webp};
use crate::support::{decode, edge, encode, one, process};

const COLOURS: [[u8; 3]; 4] = [[220, 40, 40], [40, 220, 40], [40, 40, 220], [220, 220, 40]];

/// A GIF of one colour a frame, each shown for 120 ms.
fn gif(frames: usize) -> Vec<u8> {
    repeated_gif(frames, Some(Repeat::Finite(3)))
}

fn repeated_gif(frames: usize, repeat: Option<Repeat>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = GifEncoder::new(&mut out);
    if let Some(repeat) = repeat {
        encoder.set_repeat(repeat).expect("a repeat");
    }
    for index in 0..frames {
        let [r, g, b] = COLOURS[index % COLOURS.len()];
        let image = RgbaImage::from_pixel(90, 60, Rgba([r, g, b, 255]));
        encoder.encode_frame(Frame::from_parts(image, 0, 0, Delay::from_numer_denom_ms(120, 1))).expect("a frame");
    }
    drop(encoder);
    out
}

fn settings() -> Settings {
    let mut moving = VariantSpec::new("moving", Target::LongEdge(45)).with_format(Output::WebP);
    moving.animated = true;
    let mut settings = Settings::default();
    settings.variants = vec![moving, VariantSpec::new("still", Target::LongEdge(45))];
    settings
}

#[test]
fn an_animated_variant_has_all_frames_and_a_still_the_first() {
    let processed = process(&settings(), &gif(4)).expect("an animation");
    assert_eq!(processed.header.frames, 4);
    let [moving, still] = &processed.variants[..] else { panic!("two variants") };
    assert_eq!((moving.name.as_str(), moving.frames, moving.width, moving.height), ("moving", 4, 45, 30));
    assert_eq!((still.name.as_str(), still.frames), ("still", 1));
    let decoder = WebPDecoder::new(std::io::Cursor::new(&moving.bytes)).expect("a WebP");
    let frames = decoder.into_frames().collect_frames().expect("frames");
    assert_eq!(frames.len(), 4);
    for (frame, colour) in frames.iter().zip(COLOURS) {
        assert_eq!(frame.delay().numer_denom_ms(), (120, 1));
        let pixel = frame.buffer().get_pixel(20, 15).0;
        assert!(pixel[..3].iter().zip(colour).all(|(a, b)| a.abs_diff(b) < 12), "{pixel:?} for {colour:?}");
    }
    let first = decode(&still.bytes).to_rgb8();
    assert!(first.get_pixel(20, 15)[0] > 200 && first.get_pixel(20, 15)[1] < 60);
    // What came out goes in again.
    assert_eq!(process(&settings(), &moving.bytes).expect("an animation").variants[0].frames, 4);
}

#[test]
fn a_still_input_gives_a_still_even_where_animation_is_asked() {
    let processed = process(&settings(), &gif(1)).expect("a GIF");
    assert_eq!(processed.variants[0].frames, 1);
}

#[test]
fn the_frames_before_a_cut_are_salvaged_only_on_request() {
    let whole = gif(4);
    let frame = whole.windows(2).rposition(|mark| mark == [0x21, 0xf9]).expect("the last frame's start");
    // In the middle of the last frame's pixels.
    let cut = &whole[..frame + (whole.len() - frame) * 3 / 4];
    let mut settings = settings();
    assert!(process(&settings, cut).expect_err("a cut file").is_permanent());
    settings.damaged = Damaged::Salvage;
    let processed = process(&settings, cut).expect("what there is");
    assert!(processed.is_salvaged);
    assert_eq!(processed.variants[0].frames, 3);
    assert!(!process(&settings, &whole).expect("a whole file").is_salvaged);
}

#[test]
fn animations_have_limits_of_their_own() {
    let mut few = settings();
    few.limits.max_frames = 3;
    assert_eq!(process(&few, &gif(4)).expect_err("four frames").code(), "too_many_frames");
    let mut small = settings();
    small.limits.max_animation_pixels = 90 * 60 * 3;
    assert_eq!(process(&small, &gif(4)).expect_err("four frames").code(), "animation_too_large");
    // A still of the same file is nobody's problem.
    few.variants.remove(0);
    assert_eq!(process(&few, &gif(4)).expect("its first frame").variants.len(), 1);
}

#[test]
fn it_plays_as_often_as_the_input() {
    let times = |file: &[u8]| {
        let made = process(&settings(), file).expect("an animation").variants.remove(0).bytes;
        let chunk = made.windows(4).position(|name| name == b"ANIM").expect("its parameters");
        (u16::from_le_bytes([made[chunk + 12], made[chunk + 13]]), made)
    };
    // A GIF counts the repeats after the first time.
    for (repeat, expected) in [
        (None, 1),
        (Some(Repeat::Infinite), 0),
        (Some(Repeat::Finite(3)), 4),
        (Some(Repeat::Finite(u16::MAX)), u16::MAX),
    ] {
        let (played, made) = times(&repeated_gif(2, repeat));
        assert_eq!(played, expected, "{repeat:?}");
        assert_eq!(times(&made).0, expected, "{repeat:?} once more");
    }
}

#[test]
fn frames_are_a_part_of_the_decode_that_can_be_late() {
    let (mut is_decoded, mut frames) = (false, 0);
    let stopped = Processor::new(settings()).process(&gif(4), &mut |stage| {
        is_decoded |= stage == Stage::Decoded;
        frames += usize::from(is_decoded && stage == Stage::Decoding);
        if frames == 3 { ControlFlow::Break(Stop::TimedOut) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(stopped.expect_err("late").code(), "decode_timeout");
}

/// A picture's chunk without the file around it.
fn picture(file: &[u8]) -> Vec<u8> {
    assert!(matches!(&file[12..16], b"VP8 " | b"VP8L"), "a plain file");
    file[12..].to_vec()
}

/// A WebP of 80 x 32 transparent pixels in which a picture of 16 x 16 jumps to the right; its place is cleared behind it.
fn jumping(picture: &[u8]) -> Vec<u8> {
    let mut chunks = vec![canvas(80, 32, 0x12), chunk(b"ANIM", &[0; 6])];
    for frame in 0..5 {
        // Places are counted in steps of two pixels.
        let place = [u24(frame * 16 / 2), u24(4), u24(15), u24(15), u24(100)].concat();
        chunks.push(chunk(b"ANMF", &[&place[..], &[1], picture].concat()));
    }
    webp(&chunks)
}

#[test]
fn a_webp_frame_leaves_nothing_behind_that_it_says_is_to_go() {
    let mut moving = edge(80).with_format(Output::WebP);
    (moving.animated, moving.lossless) = (true, true);
    let red = RgbImage::from_pixel(16, 16, Rgb([220, 30, 30]));
    let lossless = encode(&red.clone().into(), ImageFormat::WebP);
    let lossy = process(&one(edge(16).with_format(Output::WebP)), &encode(&red.into(), ImageFormat::Png));
    let lossy = lossy.expect("a picture").variants.remove(0).bytes;
    assert_eq!((&lossless[12..16], &lossy[12..16]), (&b"VP8L"[..], &b"VP8 "[..]));
    for picture in [picture(&lossless), picture(&lossy)] {
        let mut file = jumping(&picture);
        // What came out goes in again.
        for round in 0..2 {
            file = process(&one(moving.clone()), &file).expect("an animation").variants.remove(0).bytes;
            // Every frame is opaque, so libwebp says that there is no alpha; the reader here takes its word for the gaps, too.
            let mut shown = file.clone();
            shown[20] |= 0x10;
            let mut decoder = WebPDecoder::new(std::io::Cursor::new(shown)).expect("a WebP");
            decoder.set_background_color(Rgba([0; 4])).expect("an animation");
            let frames = decoder.into_frames().collect_frames().expect("frames");
            assert_eq!(frames.len(), 5);
            for (number, frame) in frames.iter().enumerate() {
                for (x, y, pixel) in frame.buffer().enumerate_pixels() {
                    let is_inside = x as usize / 16 == number && (8..24).contains(&y);
                    assert_eq!(pixel[3], if is_inside { 255 } else { 0 }, "{round}, {number}: {x}, {y}");
                    assert!(!is_inside || pixel[0] > 200 && pixel[1] < 50, "{round}, {number}: {pixel:?}");
                }
            }
        }
    }
}
