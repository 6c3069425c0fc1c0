//! Writes the seeds for the fuzz targets: `corpus DIR` makes `DIR/headers`, `DIR/jpeg`, `DIR/png`, `DIR/webp`, `DIR/gif` and `DIR/bmp`, and with
//! the feature `avif` `DIR/avif`.
//! All are small pictures made here, so that nothing foreign is stored.

#[cfg(feature = "avif")]
#[path = "../tests/it/deep_avif.rs"]
mod deep_avif;

use std::fs;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use image::codecs::gif::GifEncoder;
use image::{DynamicImage, Frame, ImageFormat, RgbImage};
use oneiro_pipeline::{Output, Processor, Settings, Target, VariantSpec};
use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match std::env::args().nth(1).ok_or_else(|| "usage: corpus DIR".into()).and_then(|dir| write_all(Path::new(&dir))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a command's failure")]
            {
                eprintln!("corpus: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn write_all(dir: &Path) -> Result<(), Failure> {
    let picture = RgbImage::from_fn(37, 23, |x, y| image::Rgb([(x * 6) as u8, (y * 11) as u8, (x * y) as u8]));
    let rgb = DynamicImage::from(picture.clone());
    let mut files: Vec<(&str, String, Vec<u8>)> = Vec::new();
    for (name, subsamp, is_progressive) in [
        ("444", Subsamp::None, false),
        ("420", Subsamp::Sub2x2, false),
        ("422", Subsamp::Sub2x1, false),
        ("440", Subsamp::Sub1x2, false),
        ("411", Subsamp::Sub4x1, false),
        ("grey", Subsamp::Gray, false),
        ("progressive", Subsamp::Sub2x2, true),
    ] {
        files.push(("jpeg", format!("{name}.jpg"), jpeg(&picture, subsamp, is_progressive)?));
    }
    let kinds = [
        ("rgb", rgb.clone()),
        ("rgba", rgb.to_rgba8().into()),
        ("grey", rgb.to_luma8().into()),
        ("grey-alpha", rgb.to_luma_alpha8().into()),
        ("deep", rgb.to_rgb16().into()),
    ];
    for (name, image) in &kinds {
        files.push(("png", format!("{name}.png"), encode(image, ImageFormat::Png)?));
    }
    for (name, image) in &kinds[..2] {
        files.push(("bmp", format!("{name}.bmp"), encode(image, ImageFormat::Bmp)?));
        files.push(("webp", format!("lossless-{name}.webp"), encode(image, ImageFormat::WebP)?));
    }
    files.push(("gif", "still.gif".to_owned(), encode(&rgb, ImageFormat::Gif)?));
    let moving = moving_gif(&rgb)?;
    for (name, bytes) in own_webps(&moving)? {
        files.push(("webp", name, bytes));
    }
    files.push(("gif", "moving.gif".to_owned(), moving));
    #[cfg(feature = "avif")]
    {
        for (name, image) in &kinds[..3] {
            files.push(("avif", format!("{name}.avif"), own_avif(&encode(image, ImageFormat::Png)?)?));
        }
        for deep in deep_avif::all() {
            let name = format!("{}-{:?}-{}.avif", deep.bits, deep.sampling, deep.is_full_range);
            files.push(("avif", name, deep_avif::avif(&picture, deep, 1)));
        }
        files.push((
            "avif",
            "frames.avif".to_owned(),
            deep_avif::avif(&picture, deep_avif::all().next().ok_or("a depth")?, 3),
        ));
        for seed in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/seeds/avif"))? {
            let seed = seed?;
            files.push(("avif", seed.file_name().to_string_lossy().into_owned(), fs::read(seed.path())?));
        }
    }
    for (folder, name, bytes) in &files {
        for folder in [folder, "headers"] {
            let folder: PathBuf = dir.join(folder);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

fn jpeg(picture: &RgbImage, subsamp: Subsamp, is_progressive: bool) -> Result<Vec<u8>, Failure> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let mut compressor = Compressor::new()?;
    compressor.set_subsamp(subsamp)?;
    compressor.set_progressive(is_progressive)?;
    let pixels = &picture.as_raw()[..];
    Ok(compressor.compress_to_vec(Image { pixels, width, pitch: 3 * width, height, format: PixelFormat::RGB })?)
}

fn encode(image: &DynamicImage, format: ImageFormat) -> Result<Vec<u8>, Failure> {
    let mut out = Cursor::new(Vec::new());
    image.write_to(&mut out, format)?;
    Ok(out.into_inner())
}

fn moving_gif(rgb: &DynamicImage) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    let mut encoder = GifEncoder::new(&mut out);
    for image in [rgb.clone(), rgb.fliph(), rgb.flipv()] {
        encoder.encode_frame(Frame::new(image.to_rgba8()))?;
    }
    drop(encoder);
    Ok(out)
}

/// An AVIF, by the pipeline itself.
#[cfg(feature = "avif")]
fn own_avif(png: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut settings = Settings::default();
    settings.variants = vec![VariantSpec::new("avif", Target::LongEdge(37)).with_format(Output::Avif)];
    let processed = Processor::new(settings).process(png, &mut |_| ControlFlow::Continue(()))?;
    processed.variants.into_iter().next().map(|variant| variant.bytes).ok_or_else(|| "no variant".into())
}

/// A lossy and an animated WebP, by the pipeline itself.
fn own_webps(moving: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let still = VariantSpec::new("lossy", Target::LongEdge(37)).with_format(Output::WebP);
    let mut animated = still.clone();
    (animated.name, animated.animated) = ("moving".to_owned(), true);
    let mut settings = Settings::default();
    settings.variants = vec![still, animated];
    let processed = Processor::new(settings).process(moving, &mut |_| ControlFlow::Continue(()))?;
    Ok(processed.variants.into_iter().map(|variant| (format!("{}.webp", variant.name), variant.bytes)).collect())
}
