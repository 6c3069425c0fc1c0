//! Profiles for colours that a file names by number rather than describes: the code points of ISO 23091-2 in AVIF and PNG, and PNG's gamma
//! and chromaticities.

use moxcms::{
    Chromaticity, CicpColorPrimaries, CicpProfile, ColorPrimaries, ColorProfile, MatrixCoefficients, ToneReprCurve,
    TransferCharacteristics, XyY,
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

/// PNG's `gAMA` and `cHRM` for an image without colours of its own. `gamma` is 100,000 times the power by which light became samples,
/// `chromaticities` are x and y, 100,000 times, of white, red, green and blue. Nothing where both are those of sRGB, and for a curve that no
/// display ever had; chromaticities that cannot be are as good as none.
pub(super) fn described(gamma: u32, chromaticities: Option<[u32; 8]>, is_grey: bool) -> Option<Vec<u8>> {
    if !(10_000..=1_000_000).contains(&gamma) {
        return None;
    }
    let curve = (gamma.abs_diff(45_455) >= 500).then(|| 100_000.0 / gamma as f32);
    if is_grey {
        return ColorProfile::new_gray_with_gamma(curve?).encode().ok();
    }
    let space = chromaticities.and_then(colour_space);
    if curve.is_none() && space.is_none() {
        return None;
    }
    let mut profile = ColorProfile::new_srgb();
    profile.cicp = None;
    if let Some((white, primaries)) = space {
        profile.update_rgb_colorimetry(white, primaries);
    }
    if let Some(gamma) = curve {
        set_curve(&mut profile, ToneReprCurve::Parametric(vec![gamma]));
    }
    profile.encode().ok()
}

/// White and primaries, where they span colours, and others than those of sRGB.
fn colour_space(numbers: [u32; 8]) -> Option<(XyY, ColorPrimaries)> {
    const SRGB: [u32; 8] = [31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000];
    if numbers.iter().zip(SRGB).all(|(number, usual)| number.abs_diff(usual) < 500) {
        return None;
    }
    let [white, red, green, blue] = [0, 2, 4, 6].map(|at| [numbers[at], numbers[at + 1]].map(|n| f64::from(n) / 1e5));
    // Twice the area of a triangle; sRGB's primaries have 0.22. White lies between the primaries where all parts have one sign.
    let area = |a: [f64; 2], b: [f64; 2], c: [f64; 2]| (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]);
    let whole = area(red, green, blue);
    let parts = [area(white, green, blue), area(red, white, blue), area(red, green, white)];
    let is_possible = [white, red, green, blue].iter().all(|[x, y]| *y > 0.0 && x + y <= 1.0);
    if !is_possible || whole.abs() < 0.01 || parts.iter().any(|part| part / whole < 0.01) {
        return None;
    }
    let point = |[x, y]: [f64; 2]| Chromaticity::new(x as f32, y as f32);
    let primaries = ColorPrimaries { red: point(red), green: point(green), blue: point(blue) };
    Some((XyY::new(white[0], white[1], 1.0), primaries))
}

/// A profile of sRGB's primaries and another curve.
pub(crate) fn srgb_with(curve: ToneReprCurve) -> Option<Vec<u8>> {
    let mut profile = ColorProfile::new_srgb();
    profile.cicp = None;
    set_curve(&mut profile, curve);
    profile.encode().ok()
}

fn set_curve(profile: &mut ColorProfile, curve: ToneReprCurve) {
    let curve = Some(curve);
    (profile.red_trc, profile.green_trc, profile.blue_trc) = (curve.clone(), curve.clone(), curve);
}
