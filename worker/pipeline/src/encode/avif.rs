//! AVIF by rav1e, one thread an image.

use avif_serialize::Aviffy;
use avif_serialize::constants::{
    ColorPrimaries as BoxPrimaries, MatrixCoefficients as BoxMatrix, TransferCharacteristics as BoxTransfer,
};
use rav1e::prelude::{
    ChromaSampling, ColorDescription, ColorPrimaries, Config, EncoderConfig, EncoderStatus, MatrixCoefficients,
    PixelRange, SpeedSettings, TransferCharacteristics,
};

use crate::PipelineError;
use crate::raster::{Layout, Raster};
use crate::settings::VariantSpec;

/// Encodes grey, or 4:4:4 or 4:2:0 planes, with the alpha of `alpha`: unmultiplied RGBA of the same size.
pub(super) fn encode(
    raster: &Raster,
    alpha: Option<&Raster>,
    spec: &VariantSpec,
    exif: Option<&[u8]>,
) -> Result<Vec<u8>, PipelineError> {
    let (width, height) = (raster.width, raster.height);
    let sampling = match raster.layout {
        Layout::Grey => ChromaSampling::Cs400,
        Layout::Ycc { h: 1, .. } => ChromaSampling::Cs444,
        _ => ChromaSampling::Cs420,
    };
    let planes: Vec<(&[u8], usize)> =
        raster.planes().iter().enumerate().map(|(index, plane)| (raster.samples(index), plane.stride)).collect();
    let colour = av1(&planes, (width, height), sampling, spec)?;
    let alpha = match alpha {
        Some(rgba) => {
            let samples: Vec<u8> = rgba.samples(0).as_chunks::<4>().0.iter().map(|pixel| pixel[3]).collect();
            Some(av1(&[(&samples, width)], (width, height), ChromaSampling::Cs400, spec)?)
        }
        None => None,
    };
    let mut container = Aviffy::new();
    container
        .set_color_primaries(BoxPrimaries::Bt709)
        .set_transfer_characteristics(BoxTransfer::Srgb)
        .set_matrix_coefficients(BoxMatrix::Bt601)
        .set_full_color_range(true)
        .set_monochrome(sampling == ChromaSampling::Cs400)
        .set_chroma_subsampling(match sampling {
            ChromaSampling::Cs444 => (false, false),
            _ => (true, true),
        })
        .set_seq_profile(u8::from(sampling == ChromaSampling::Cs444));
    if let Some(exif) = exif {
        container.set_exif(exif.to_vec());
    }
    Ok(container.to_vec(&colour, alpha.as_deref(), width as u32, height as u32, 8))
}

fn av1(
    planes: &[(&[u8], usize)],
    (width, height): (usize, usize),
    chroma_sampling: ChromaSampling,
    spec: &VariantSpec,
) -> Result<Vec<u8>, PipelineError> {
    let failed = |error: EncoderStatus| PipelineError::encode("encoding AVIF", error);
    let encoder = EncoderConfig {
        width,
        height,
        bit_depth: 8,
        chroma_sampling,
        pixel_range: PixelRange::Full,
        color_description: Some(ColorDescription {
            color_primaries: ColorPrimaries::BT709,
            transfer_characteristics: TransferCharacteristics::SRGB,
            matrix_coefficients: MatrixCoefficients::BT601,
        }),
        still_picture: true,
        quantizer: quantizer(spec.quality),
        min_quantizer: quantizer(spec.quality) as u8,
        speed_settings: SpeedSettings::from_preset(10 - spec.effort),
        ..EncoderConfig::default()
    };
    let config = Config::new().with_encoder_config(encoder).with_threads(1);
    let mut context =
        config.new_context::<u8>().map_err(|error| PipelineError::encode("setting up the AV1 encoder", error))?;
    let mut frame = context.new_frame();
    for (plane, (samples, stride)) in frame.planes.iter_mut().zip(planes) {
        plane.copy_from_raw_u8(samples, *stride, 1);
    }
    context.send_frame(frame).map_err(failed)?;
    context.flush();
    let mut bytes = Vec::new();
    loop {
        match context.receive_packet() {
            Ok(packet) => bytes.extend(packet.data),
            Err(EncoderStatus::Encoded) => {}
            Err(EncoderStatus::LimitReached) => return Ok(bytes),
            Err(error) => return Err(failed(error)),
        }
    }
}

/// AV1's quantizer, 0 (best) to 255. The root makes a quality look about as it does in JPEG: 82 is 108, 50 is 180.
fn quantizer(quality: u8) -> usize {
    (255.0 * (1.0 - f32::from(quality) / 100.0).max(0.0).sqrt()).round() as usize
}
