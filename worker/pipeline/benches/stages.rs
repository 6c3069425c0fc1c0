//! Time of each stage on a 12-megapixel photo: `cargo bench -p oneiro-pipeline`.
//!
//! The stages are timed from outside, between the calls of the control callback, so that what is measured is what a job runs.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use criterion::Criterion;
use oneiro_pipeline::{Limits, Output, Processor, Settings, Stage, Target, VariantSpec, probe};
use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

/// A photo-like picture: smooth shapes and grain, about 2 bits a pixel at quality 90.
fn photo(width: usize, height: usize, is_progressive: bool) -> Vec<u8> {
    let mut noise = 1_u32;
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        for x in 0..width {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let grain = (noise >> 28) as i32 - 8;
            let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
            let wave = ((u * 40.0).sin() * (v * 31.0).cos() * 50.0) as i32;
            pixels
                .extend([u, v, 1.0 - u].map(|level| ((level * 150.0) as i32 + 50 + wave + grain).clamp(0, 255) as u8));
        }
    }
    let mut compressor = Compressor::new().expect("a compressor");
    compressor.set_quality(90).expect("quality");
    compressor.set_subsamp(Subsamp::Sub2x2).expect("sampling");
    compressor.set_progressive(is_progressive).expect("scans");
    let image = Image { pixels: &pixels[..], width, pitch: 3 * width, height, format: PixelFormat::RGB };
    compressor.compress_to_vec(image).expect("compressible")
}

fn settings(edges: &[u32], format: Output) -> Settings {
    let mut settings = Settings::default();
    settings.variants = edges
        .iter()
        .map(|edge| VariantSpec::new(format!("e{edge}"), Target::LongEdge(*edge)).with_format(format))
        .collect();
    settings
}

/// Time spent until the callback saw a stage that `ends` accepts, counted from the call before it.
fn time_of(processor: &mut Processor, photo: &[u8], ends: impl Fn(Stage) -> bool) -> Duration {
    let (mut last, mut spent) = (Instant::now(), Duration::ZERO);
    processor
        .process(photo, &mut |stage| {
            let now = Instant::now();
            if ends(stage) {
                spent += now - last;
            }
            last = now;
            ControlFlow::Continue(())
        })
        .expect("a sound photo");
    spent
}

fn stages(criterion: &mut Criterion) {
    let photo = photo(4000, 3000, false);
    criterion.bench_function("probe", |bencher| bencher.iter(|| probe(black_box(&photo), &Limits::default()).is_ok()));
    let mut group = criterion.benchmark_group("12 Mpx to 2048, 1024, 320");
    group.sample_size(10);
    for (format, name) in [(Output::Jpeg, "jpeg"), (Output::WebP, "webp")] {
        let mut processor = Processor::new(settings(&[2048, 1024, 320], format));
        let mut stage = |name: String, ends: fn(Stage) -> bool| {
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|count| (0..count).map(|_| time_of(&mut processor, &photo, ends)).sum());
            });
        };
        stage(format!("decode for {name}"), |stage| stage == Stage::Decoded);
        stage(format!("resize and turn for {name}"), |stage| matches!(stage, Stage::Encoding { .. }));
        stage(format!("encode {name}"), |stage| matches!(stage, Stage::Encoded { .. }));
    }
}

fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("whole");
    group.sample_size(10);
    let (baseline, progressive) = (photo(4000, 3000, false), photo(4000, 3000, true));
    for (name, input, edges, format) in [
        ("three jpeg", &baseline, &[2048, 1024, 320][..], Output::Jpeg),
        ("three webp", &baseline, &[2048, 1024, 320], Output::WebP),
        ("one 320 jpeg", &baseline, &[320], Output::Jpeg),
        ("three jpeg of a progressive file", &progressive, &[2048, 1024, 320], Output::Jpeg),
    ] {
        let mut processor = Processor::new(settings(edges, format));
        group.bench_function(name, |bencher| {
            bencher.iter(|| processor.process(black_box(input), &mut |_| ControlFlow::Continue(())).is_ok());
        });
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    stages(&mut criterion);
    whole(&mut criterion);
    criterion.final_summary();
}
