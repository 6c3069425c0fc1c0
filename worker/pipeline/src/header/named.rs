//! Profiles for colours that a file names by number rather than describes: the code points of ISO 23091-2 in AVIF and PNG, and PNG's gamma.

use moxcms::{
    CicpColorPrimaries, CicpProfile, ColorProfile, MatrixCoefficients, ToneReprCurve, TransferCharacteristics,
};

use crate::{Format, PipelineError};

/// A profile for the primaries and the curve that are named, or nothing for those of sRGB. Pictures of more than standard brightness are
/// refused: shown without tone mapping they are grey.
pub(super) fn profile(format: Format, primaries: u16, transfer: u16) -> Result<Option<Vec<u8>>, PipelineError> {
    let transfer_characteristics = match transfer {
        16 | 18 => return Err(PipelineError::UnsupportedFeature { format, feature: "high dynamic range" }),
        8 => TransferCharacteristics::Linear,
        _ => TransferCharacteristics::Srgb,
    };
    let color_primaries = match primaries {
        9 => CicpColorPrimaries::Bt2020,
        12 => CicpColorPrimaries::Smpte432,
        _ if transfer == 8 => CicpColorPrimaries::Bt709,
        _ => return Ok(None),
    };
    let cicp = CicpProfile {
        color_primaries,
        transfer_characteristics,
        matrix_coefficients: MatrixCoefficients::Identity,
        full_range: true,
    };
    Ok(ColorProfile::new_from_cicp(cicp).encode().ok())
}

/// PNG's `gAMA` for an image without colours of its own: 100,000 times the power by which light became samples. Nothing for that of sRGB,
/// which is 45,455, and for what no display ever had.
pub(super) fn gamma_profile(value: u32, is_grey: bool) -> Option<Vec<u8>> {
    if !(10_000..=1_000_000).contains(&value) || value.abs_diff(45_455) < 500 {
        return None;
    }
    let gamma = 100_000.0 / value as f32;
    if is_grey {
        return ColorProfile::new_gray_with_gamma(gamma).encode().ok();
    }
    srgb_with(ToneReprCurve::Parametric(vec![gamma]))
}

/// A profile of sRGB's primaries and another curve.
pub(crate) fn srgb_with(curve: ToneReprCurve) -> Option<Vec<u8>> {
    let mut profile = ColorProfile::new_srgb();
    profile.cicp = None;
    let curve = Some(curve);
    (profile.red_trc, profile.green_trc, profile.blue_trc) = (curve.clone(), curve.clone(), curve);
    profile.encode().ok()
}
