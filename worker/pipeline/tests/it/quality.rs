//! Every variant against a slow reference: full decode, then Lanczos3, then the same encoder. What the fast path loses beyond the
//! reference's own loss is bounded, on photographs, text, line art and gradients.

use image::{ImageFormat, Rgb, RgbImage};
use oneiro_pipeline::{Chroma, Output, Processor, Settings, Target, VariantSpec};
use proptest::prelude::*;
use turbojpeg::Subsamp;

use crate::support::{decode, encode, fixture, jpeg, one, process, psnr, reference, scene, ssim};

/// SSIM that the fast path may lose against the reference encoded alike, on photographs.
const MAX_LOSS: f64 = 0.002;
/// The same for drawn pictures, whose hard edges lose more when they are resampled twice.
const MAX_LOSS_DRAWN: f64 = 0.003;

/// Photographs, each as the kind of file that it would arrive as, and pictures that show faults which photographs hide.
fn pictures() -> Vec<(&'static str, Vec<u8>)> {
    let astronaut = decode(&fixture("astronaut.png")).to_rgb8();
    let chelsea = decode(&fixture("chelsea.png")).to_rgb8();
    let text = decode(&fixture("text.png")).to_rgb8();
    let lines = RgbImage::from_fn(903, 701, |x, y| {
        let on = x % 24 < 2 || y % 31 < 2 || (x + y) % 57 < 3 || (x as i32 - y as i32).rem_euclid(89) < 2;
        if on { Rgb([10, 10, 120]) } else { Rgb([250, 250, 245]) }
    });
    let gradient = RgbImage::from_fn(1201, 799, |x, y| Rgb([(x / 5) as u8, (y / 4) as u8, 255 - (x / 6) as u8]));
    vec![
        ("phone, 4:2:0, turned", fixture("phone.jpg")),
        ("hubble, jpeg", fixture("hubble.jpg")),
        ("rocket, jpeg of odd height", fixture("rocket.jpg")),
        ("astronaut, png", fixture("astronaut.png")),
        ("astronaut, 4:4:4", jpeg(&astronaut, 92, Subsamp::None, false)),
        ("astronaut, progressive", jpeg(&astronaut, 92, Subsamp::Sub2x2, true)),
        ("chelsea, 4:2:2, odd", jpeg(&chelsea, 92, Subsamp::Sub2x1, false)),
        ("chelsea, 4:4:0, odd", jpeg(&chelsea, 92, Subsamp::Sub1x2, false)),
        ("chelsea, grey", jpeg(&chelsea, 92, Subsamp::Gray, false)),
        ("text", jpeg(&text, 92, Subsamp::Sub2x2, false)),
        ("line art", jpeg(&lines, 92, Subsamp::Sub2x2, false)),
        ("line art, png", encode(&lines.into(), ImageFormat::Png)),
        ("gradient", jpeg(&gradient, 92, Subsamp::Sub2x2, false)),
    ]
}

/// The default cascade at sizes for pictures of a few hundred pixels, which take every scale of the decoder.
fn sizes() -> Settings {
    let mut settings = Settings::default();
    settings.variants =
        [640, 300, 111, 40].map(|edge| VariantSpec::new(format!("e{edge}"), Target::LongEdge(edge))).to_vec();
    settings
}

#[test]
fn variants_are_as_good_as_a_full_decode_with_lanczos3() {
    for (name, bytes) in pictures() {
        let processed = process(&sizes(), &bytes).expect(name);
        for (variant, edge) in processed.variants.iter().zip([640, 300, 111, 40]) {
            let ideal = reference(&bytes, edge);
            let ours = decode(&variant.bytes).to_rgb8();
            assert_eq!(ours.dimensions(), ideal.dimensions(), "{name} at {edge}");
            let encoded = decode(&jpeg(&ideal, 82, Subsamp::Sub2x2, false)).to_rgb8();
            let (got, bound) = (ssim(&ours, &ideal), ssim(&encoded, &ideal));
            let (got_db, bound_db) = (psnr(&ours, &ideal), psnr(&encoded, &ideal));
            // The smallest are resampled four times over: a little of their sharpness goes.
            let is_drawn = ["text", "line", "gradient"].iter().any(|kind| name.starts_with(kind));
            let base = if is_drawn { MAX_LOSS_DRAWN } else { MAX_LOSS };
            let (allowed, allowed_db) = if edge <= 111 { (4.0 * base, 3.0) } else { (base, 1.0) };
            assert!(got >= bound - allowed, "{name} at {edge}: SSIM {got:.4}, reference {bound:.4}");
            assert!(got_db >= bound_db - allowed_db, "{name} at {edge}: {got_db:.2} dB, reference {bound_db:.2} dB");
        }
    }
}

#[test]
fn webp_from_planes_is_as_good_as_from_rgb() {
    let bytes = fixture("phone.jpg");
    let spec = VariantSpec::new("v", Target::LongEdge(640)).with_format(Output::WebP).with_quality(90);
    let ours = decode(&process(&one(spec.clone()), &bytes).expect("a photo").variants[0].bytes).to_rgb8();
    let ideal = reference(&bytes, 640);
    let png = encode(&ideal.clone().into(), ImageFormat::Png);
    let from_rgb = decode(&process(&one(spec), &png).expect("an image").variants[0].bytes).to_rgb8();
    let (got, bound) = (ssim(&ours, &ideal), ssim(&from_rgb, &ideal));
    assert!(got >= bound - MAX_LOSS, "{got:.4} against {bound:.4}");
}

#[test]
fn full_colour_resolution_is_kept_where_asked() {
    let stripes = RgbImage::from_fn(200, 200, |x, _| if x % 4 < 2 { Rgb([220, 30, 30]) } else { Rgb([30, 30, 220]) });
    let png = encode(&stripes.clone().into(), ImageFormat::Png);
    let mut spec = VariantSpec::new("v", Target::LongEdge(200)).with_quality(95);
    spec.chroma = Chroma::Full;
    for bytes in [png, jpeg(&stripes, 97, Subsamp::None, false)] {
        let full = decode(&process(&one(spec.clone()), &bytes).expect("sound").variants[0].bytes).to_rgb8();
        assert!(psnr(&full, &stripes) > 32.0, "{:.1}", psnr(&full, &stripes));
    }
}

#[test]
fn the_same_bytes_come_out_whatever_came_before() {
    let (photo, other) = (fixture("phone.jpg"), fixture("hubble.jpg"));
    let mut settings = sizes();
    settings.variants.push(VariantSpec::new("w", Target::LongEdge(301)).with_format(Output::WebP));
    let mut used = Processor::new(settings.clone());
    let mut run = |bytes: &[u8]| used.process(bytes, &mut |_| std::ops::ControlFlow::Continue(())).expect("a photo");
    run(&other);
    let first = run(&photo);
    run(&other);
    assert_eq!(first, run(&photo));
    assert_eq!(first, process(&settings, &photo).expect("a photo"));
}

#[test]
fn look_alikes_have_near_hashes_and_others_do_not() {
    let hash = |bytes: &[u8]| process(&sizes(), bytes).expect("sound").perceptual_hash;
    let astronaut = decode(&fixture("astronaut.png")).to_rgb8();
    let base = hash(&fixture("astronaut.png"));
    let small = image::imageops::resize(&astronaut, 200, 200, image::imageops::FilterType::Triangle);
    let recompressed = hash(&jpeg(&small, 40, Subsamp::Sub2x2, false));
    assert!((base ^ recompressed).count_ones() <= 8);
    for name in ["chelsea.png", "rocket.jpg", "hubble.jpg"] {
        assert!((base ^ hash(&fixture(name))).count_ones() >= 16, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_size_sampling_and_orientation_keeps_shape_and_picture(
        width in 1_u32..130, height in 1_u32..130, edge in 1_u32..140, orientation in 1_u8..=8, sampling in 0_usize..6, is_webp: bool,
    ) {
        let samplings = [Subsamp::None, Subsamp::Sub2x2, Subsamp::Sub2x1, Subsamp::Sub1x2, Subsamp::Sub4x1, Subsamp::Gray];
        let photo = crate::support::with_exif(&jpeg(&scene(width, height), 95, samplings[sampling], false), orientation);
        let format = if is_webp { Output::WebP } else { Output::Jpeg };
        let spec = VariantSpec::new("v", Target::LongEdge(edge)).with_quality(95).with_format(format);
        let variant = process(&one(spec), &photo).expect("a sound photo").variants.remove(0);
        let (shown_w, shown_h) = if orientation >= 5 { (height, width) } else { (width, height) };
        prop_assert!(variant.width <= shown_w && variant.height <= shown_h);
        prop_assert!(variant.width.max(variant.height) == edge.min(shown_w.max(shown_h)));
        let exact = f64::from(variant.width.max(variant.height)) / f64::from(shown_w.max(shown_h));
        prop_assert!((f64::from(variant.width) - f64::from(shown_w) * exact).abs() <= 1.0);
        prop_assert!((f64::from(variant.height) - f64::from(shown_h) * exact).abs() <= 1.0);
        let decoded = decode(&variant.bytes).to_rgb8();
        prop_assert_eq!(decoded.dimensions(), (variant.width, variant.height));
        // The mean colour must survive anything: a padded or misaligned plane would pull it.
        let mean = |image: &RgbImage| -> [f64; 3] {
            let sums = image.pixels().fold([0.0; 3], |sums: [f64; 3], p| std::array::from_fn(|c| sums[c] + f64::from(p[c])));
            sums.map(|sum| sum / f64::from(image.width() * image.height()))
        };
        let whole = decode(&photo).to_rgb8();
        let smallest = f64::from(variant.width.min(variant.height));
        for (a, b) in mean(&decoded).into_iter().zip(mean(&whole)) {
            prop_assert!((a - b).abs() <= 5.0 + 40.0 / smallest, "{} against {}", a, b);
        }
    }
}
