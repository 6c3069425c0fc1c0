//! Animated input: the first frame by default, all of them where a variant asks, within limits.

use image::codecs::gif::{GifEncoder, Repeat};
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, Delay, Frame, Rgba, RgbaImage};
use oneiro_pipeline::{Damaged, Output, Settings, Target, VariantSpec};

use crate::support::{decode, process};

const COLOURS: [[u8; 3]; 4] = [[220, 40, 40], [40, 220, 40], [40, 40, 220], [220, 220, 40]];

/// A GIF of one colour a frame, each shown for 120 ms.
fn gif(frames: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = GifEncoder::new(&mut out);
    encoder.set_repeat(Repeat::Finite(3)).expect("a repeat");
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
