//! The estimate that admission relies on, against the peak of a process that does nothing else.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::Command;

use image::{DynamicImage, ImageFormat};
use oneiro_pipeline::{Output, Processor, Settings, estimate_memory, probe};
use turbojpeg::Subsamp;

use crate::support::{encode, jpeg, process, scene};

/// Where the child finds its input, and what it makes: set only by the parent.
const INPUT: &str = "PIPELINE_TEST_INPUT";
const OUTPUT: &str = "PIPELINE_TEST_OUTPUT";

fn settings(output: &str) -> Settings {
    let mut settings = Settings::default();
    let format = if output == "webp" { Output::WebP } else { Output::Jpeg };
    settings.variants.iter_mut().for_each(|variant| variant.format = format);
    settings
}

/// Highest resident size of this process, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.split_whitespace().next().expect("a number").parse::<u64>().expect("a number") * 1024
}

/// What runs in the child process; in the suite itself it has nothing to do.
#[test]
#[expect(clippy::disallowed_methods, reason = "how a parent test talks to its own child process")]
fn child() {
    if let (Ok(input), Ok(output)) = (std::env::var(INPUT), std::env::var(OUTPUT)) {
        let bytes = std::fs::read(PathBuf::from(input)).expect("the parent's file");
        let before = peak();
        process(&settings(&output), &bytes).expect("a sound image");
        println!("used {}", peak() - before);
    }
}

fn measure(bytes: &[u8], output: &str, name: &str) -> u64 {
    let path = std::env::temp_dir().join(format!("oneiro-memory-{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).expect("a temporary file");
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "memory::child", "--nocapture"])
        .env(INPUT, &path)
        .env(OUTPUT, output)
        .output()
        .expect("a child");
    std::fs::remove_file(&path).expect("the temporary file");
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    let used = text.split("used ").nth(1).and_then(|rest| rest.split_whitespace().next());
    used.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{name}: no figure in {text}"))
}

#[test]
fn estimates_are_above_the_truth_and_not_far() {
    let picture = scene(3600, 2700);
    let rgba = DynamicImage::from(image::imageops::resize(&picture, 2400, 1800, image::imageops::FilterType::Nearest))
        .to_rgba8();
    let photo = jpeg(&picture, 88, Subsamp::Sub2x2, false);
    for (name, bytes, output) in [
        ("photo", photo.clone(), "jpeg"),
        ("photo-turned", crate::support::with_exif(&photo, 6), "jpeg"),
        ("photo-webp", photo, "webp"),
        ("full-colour", jpeg(&picture, 88, Subsamp::None, false), "jpeg"),
        ("progressive", jpeg(&picture, 88, Subsamp::Sub2x2, true), "jpeg"),
        ("png", encode(&DynamicImage::from(rgba), ImageFormat::Png), "jpeg"),
    ] {
        let settings = settings(output);
        let estimate = estimate_memory(&probe(&bytes, &settings.limits).expect("a sound image"), &settings);
        let used = measure(&bytes, output, name);
        assert!(used <= estimate, "{name}: {used} used, {estimate} estimated");
        assert!(estimate <= 2 * used + (16 << 20), "{name}: {used} used, {estimate} estimated");
    }
}

#[test]
fn a_processor_that_has_rested_makes_the_same() {
    let photo = jpeg(&scene(640, 480), 88, Subsamp::Sub2x2, false);
    let mut processor = Processor::new(settings("jpeg"));
    let made = |processor: &mut Processor| {
        processor.process(&photo, &mut |_| ControlFlow::Continue(())).expect("a sound photo").variants
    };
    let before = made(&mut processor);
    processor.rest();
    assert_eq!(made(&mut processor), before);
}
