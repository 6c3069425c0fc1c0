//! AVIF files that the pipeline itself does not write: more than eight bits a sample, limited range, several frames. Made here from a picture by
//! its formulas, so that no foreign file is stored; the fuzz corpus takes them from here too.

use avif_serialize::Aviffy;
use avif_serialize::constants::MatrixCoefficients as BoxMatrix;
use image::RgbImage;
use rav1e::prelude::{
    ChromaSampling, ColorDescription, ColorPrimaries, Config, EncoderConfig, EncoderStatus, MatrixCoefficients,
    PixelRange, SpeedSettings, TransferCharacteristics,
};

/// How a picture's samples are stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deep {
    /// 10 or 12.
    pub(crate) bits: u8,
    pub(crate) sampling: ChromaSampling,
    pub(crate) is_full_range: bool,
}

/// Both depths in all samplings and ranges.
pub(crate) fn all() -> impl Iterator<Item = Deep> {
    let samplings = [ChromaSampling::Cs400, ChromaSampling::Cs420, ChromaSampling::Cs422, ChromaSampling::Cs444];
    [10, 12].into_iter().flat_map(move |bits| {
        samplings
            .into_iter()
            .flat_map(move |sampling| [true, false].map(|is_full_range| Deep { bits, sampling, is_full_range }))
    })
}

/// The picture as an AVIF whose AV1 data stands `times` in it, one after the other.
pub(crate) fn avif(picture: &RgbImage, deep: Deep, times: usize) -> Vec<u8> {
    let (across, down) = subsampling(deep.sampling);
    let profile = match (deep.bits, deep.sampling) {
        (12, _) | (_, ChromaSampling::Cs422) => 2,
        (_, ChromaSampling::Cs444) => 1,
        _ => 0,
    };
    Aviffy::new()
        .set_matrix_coefficients(BoxMatrix::Bt601)
        .set_full_color_range(deep.is_full_range)
        .set_monochrome(deep.sampling == ChromaSampling::Cs400)
        .set_chroma_subsampling((across == 2, down == 2))
        .set_seq_profile(profile)
        .to_vec(&av1(picture, deep).repeat(times), None, picture.width(), picture.height(), deep.bits)
}

/// Pixels for a sample of colour.
fn subsampling(sampling: ChromaSampling) -> (u32, u32) {
    match sampling {
        ChromaSampling::Cs400 | ChromaSampling::Cs420 => (2, 2),
        ChromaSampling::Cs422 => (2, 1),
        ChromaSampling::Cs444 => (1, 1),
    }
}

fn av1(picture: &RgbImage, deep: Deep) -> Vec<u8> {
    let encoder = EncoderConfig {
        width: picture.width() as usize,
        height: picture.height() as usize,
        bit_depth: usize::from(deep.bits),
        chroma_sampling: deep.sampling,
        pixel_range: if deep.is_full_range { PixelRange::Full } else { PixelRange::Limited },
        color_description: Some(ColorDescription {
            color_primaries: ColorPrimaries::BT709,
            transfer_characteristics: TransferCharacteristics::SRGB,
            matrix_coefficients: MatrixCoefficients::BT601,
        }),
        still_picture: true,
        quantizer: 24,
        min_quantizer: 24,
        speed_settings: SpeedSettings::from_preset(10),
        ..EncoderConfig::default()
    };
    let mut context =
        Config::new().with_encoder_config(encoder).with_threads(1).new_context::<u16>().expect("an encoder");
    let mut frame = context.new_frame();
    let (across, down) = subsampling(deep.sampling);
    let count = if deep.sampling == ChromaSampling::Cs400 { 1 } else { 3 };
    for (index, plane) in frame.planes.iter_mut().take(count).enumerate() {
        let (across, down) = if index == 0 { (1, 1) } else { (across, down) };
        let samples = samples(picture, deep, index, across, down);
        plane.copy_from_raw_u8(&samples, 2 * picture.width().div_ceil(across) as usize, 2);
    }
    context.send_frame(frame).expect("a frame");
    context.flush();
    let mut bytes = Vec::new();
    loop {
        match context.receive_packet() {
            Ok(packet) => bytes.extend(packet.data),
            Err(EncoderStatus::Encoded) => {}
            Err(EncoderStatus::LimitReached) => return bytes,
            Err(error) => panic!("rav1e: {error}"),
        }
    }
}

/// Plane `index` of Y, Cb, Cr in BT.601, little-endian, each sample the mean of `across` x `down` pixels.
fn samples(picture: &RgbImage, deep: Deep, index: usize, across: u32, down: u32) -> Vec<u8> {
    let (width, height) = picture.dimensions();
    let value = |x: u32, y: u32| {
        let [r, g, b] =
            picture.get_pixel(x.min(width - 1), y.min(height - 1)).0.map(|sample| f64::from(sample) / 255.0);
        let luma = 0.299 * r + 0.587 * g + 0.114 * b;
        [luma, (b - luma) / 1.772, (r - luma) / 1.402][index]
    };
    let most = f64::from((1_u32 << deep.bits) - 1);
    let step = f64::from(1_u32 << (deep.bits - 8));
    let stored = |value: f64| match (deep.is_full_range, index) {
        (true, 0) => value * most,
        (true, _) => value * most + 128.0 * step,
        (false, 0) => (16.0 + 219.0 * value) * step,
        (false, _) => (128.0 + 224.0 * value) * step,
    };
    let mut bytes = Vec::new();
    for y in (0..height).step_by(down as usize) {
        for x in (0..width).step_by(across as usize) {
            let pixels = (0..down).flat_map(|below| (0..across).map(move |beside| (x + beside, y + below)));
            let mean = pixels.map(|(x, y)| value(x, y)).sum::<f64>() / f64::from(across * down);
            bytes.extend((stored(mean).round().clamp(0.0, most) as u16).to_le_bytes());
        }
    }
    bytes
}
