//! Making inputs and reading outputs, by other code than the pipeline's own where there is any.

use std::io::Cursor;
use std::ops::ControlFlow;

use image::{DynamicImage, ImageFormat, RgbImage};
use oneiro_pipeline::{PipelineError, Processed, Processor, Settings, Target, VariantSpec};

/// Processes with the given settings.
pub(crate) fn process(settings: &Settings, bytes: &[u8]) -> Result<Processed, PipelineError> {
    settings.validate().expect("test settings are valid");
    Processor::new(settings.clone()).process(bytes, &mut |_| ControlFlow::Continue(()))
}

/// Settings with a single variant.
pub(crate) fn one(variant: VariantSpec) -> Settings {
    let mut settings = Settings::default();
    settings.variants = vec![variant];
    settings
}

/// A variant of the given long edge and the best quality.
pub(crate) fn edge(pixels: u32) -> VariantSpec {
    VariantSpec::new("v", Target::LongEdge(pixels)).with_quality(95)
}

/// A picture with smooth colours, edges and fine detail, different in all four corners, so that any turn or mirroring shows.
pub(crate) fn scene(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
        let wave = ((u * 19.0).sin() * (v * 13.0).cos() * 40.0) as i32;
        let disc = if (u - 0.3).powi(2) + (v - 0.25).powi(2) < 0.02 { 90 } else { 0 };
        let channel = |value: f32| ((value * 180.0) as i32 + 30 + wave + disc).clamp(0, 255) as u8;
        image::Rgb([channel(u), channel(v), channel((1.0 - u) * (1.0 - v))])
    })
}

/// Any format of the `image` crate.
pub(crate) fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image.write_to(&mut out, format).expect("encodable");
    out.into_inner()
}

/// A JPEG with the given sampling of colour.
pub(crate) fn jpeg(image: &RgbImage, quality: i32, subsamp: turbojpeg::Subsamp, is_progressive: bool) -> Vec<u8> {
    let mut compressor = turbojpeg::Compressor::new().expect("a compressor");
    compressor.set_quality(quality).expect("quality");
    compressor.set_subsamp(subsamp).expect("sampling");
    compressor.set_progressive(is_progressive).expect("progressive");
    let (width, height) = (image.width() as usize, image.height() as usize);
    let source = turbojpeg::Image {
        pixels: &image.as_raw()[..],
        width,
        pitch: 3 * width,
        height,
        format: turbojpeg::PixelFormat::RGB,
    };
    compressor.compress_to_vec(source).expect("compressible")
}

/// The same JPEG with an EXIF block that names an orientation and a place.
pub(crate) fn with_exif(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02".to_vec();
    exif.extend([0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0]);
    // GPS directory at offset 38: one entry, GPSLatitudeRef = "N".
    exif.extend([0x88, 0x25, 0, 4, 0, 0, 0, 1, 0, 0, 0, 38]);
    exif.extend([0; 4]);
    exif.extend([0, 1, 0, 1, 0, 2, 0, 0, 0, 2, b'N', 0, 0, 0, 0, 0, 0, 0]);
    with_segment(jpeg, 0xe1, &exif)
}

/// The same JPEG with a segment after its start marker.
pub(crate) fn with_segment(jpeg: &[u8], marker: u8, body: &[u8]) -> Vec<u8> {
    let mut out = jpeg[..2].to_vec();
    out.extend([0xff, marker]);
    out.extend((body.len() as u16 + 2).to_be_bytes());
    out.extend(body);
    out.extend(&jpeg[2..]);
    out
}

/// Decodes a variant with the `image` crate.
pub(crate) fn decode(bytes: &[u8]) -> DynamicImage {
    image::load_from_memory(bytes).expect("variants decode")
}

/// Peak signal-to-noise ratio in dB over the samples of two images of one size.
pub(crate) fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let sum: f64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 / (sum / a.as_raw().len() as f64).max(1e-9)).log10()
}

/// Structural similarity of luma: the mean of the index over windows of 8 x 8 pixels, every 4 (Wang et al., IEEE TIP 2004).
pub(crate) fn ssim(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    const SIDE: usize = 8;
    let luma = |image: &RgbImage| -> Vec<f64> {
        image.pixels().map(|p| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2])).collect()
    };
    let (width, height) = (a.width() as usize, a.height() as usize);
    let (x, y) = (luma(a), luma(b));
    let (c1, c2) = ((0.01_f64 * 255.0).powi(2), (0.03_f64 * 255.0).powi(2));
    let mut total = (0.0, 0.0);
    for top in (0..=height.saturating_sub(SIDE)).step_by(4) {
        for left in (0..=width.saturating_sub(SIDE)).step_by(4) {
            let mut sums = [0.0; 5];
            for row in top..(top + SIDE).min(height) {
                for column in left..(left + SIDE).min(width) {
                    let (p, q) = (x[row * width + column], y[row * width + column]);
                    for (sum, value) in sums.iter_mut().zip([p, q, p * p, q * q, p * q]) {
                        *sum += value;
                    }
                }
            }
            let n = (SIDE * SIDE) as f64;
            let [mx, my, xx, yy, xy] = sums.map(|sum| sum / n);
            let (vx, vy, cov) = (xx - mx * mx, yy - my * my, xy - mx * my);
            total.0 += (2.0 * mx * my + c1) * (2.0 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2));
            total.1 += 1.0;
        }
    }
    total.0 / total.1
}

/// A photograph from the fixtures.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../../tests/fixtures/photos/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a fixture")
}

/// The slow, obviously right way: decode everything, convert its colours, turn it, resample with Lanczos3.
pub(crate) fn reference(bytes: &[u8], long_edge: u32) -> RgbImage {
    use image::ImageDecoder;
    let reader = image::ImageReader::new(Cursor::new(bytes)).with_guessed_format().expect("in memory");
    let mut decoder = reader.into_decoder().expect("a sound image");
    let orientation = decoder.orientation().expect("an orientation");
    let icc = decoder.icc_profile().expect("readable metadata");
    let mut whole = DynamicImage::from_decoder(decoder).expect("a sound image");
    if let Some(icc) = icc {
        let (from, to) =
            (moxcms::ColorProfile::new_from_slice(&icc).expect("a profile"), moxcms::ColorProfile::new_srgb());
        let rgb = moxcms::Layout::Rgb;
        let transform = from.create_transform_8bit(rgb, &to, rgb, Default::default()).expect("a conversion");
        let source = whole.to_rgb8();
        let mut converted = source.clone();
        transform.transform(&source, &mut converted).expect("pixels");
        whole = converted.into();
    }
    whole.apply_orientation(orientation);
    if whole.width().max(whole.height()) <= long_edge {
        return whole.to_rgb8();
    }
    whole.resize(long_edge, long_edge, image::imageops::FilterType::Lanczos3).to_rgb8()
}
