//! Colour: ICC profiles to sRGB, and between Y'CbCr and RGB.

use std::sync::Arc;

use moxcms::{ColorProfile, DataColorSpace, Layout as MoxLayout, Transform8BitExecutor, TransformOptions};

use crate::PipelineError;
use crate::buffers::Buffers;
use crate::raster::{Layout, Raster};

mod matrix;

#[cfg(feature = "avif")]
pub(crate) use matrix::ycc_of;
pub(crate) use matrix::{div_255, flatten, halve_colour, rgb_of, to_rgb, unpremultiply};

/// Largest difference of a sample at which a profile counts as sRGB. The many profiles called sRGB differ by rounding.
const SRGB_TOLERANCE: u8 = 2;

/// A conversion of 8-bit samples to sRGB.
#[derive(Clone)]
pub(crate) struct ToSrgb {
    executor: Arc<Transform8BitExecutor>,
    from: DataColorSpace,
}

/// Finds conversions and keeps the last: one camera's photos all carry the same profile, and preparing one takes a millisecond.
#[derive(Default)]
pub(crate) struct Profiles {
    last: Option<(Vec<u8>, Layout, Option<ToSrgb>)>,
}

impl Profiles {
    /// The conversion that pixels of `layout` with this profile need. `None`: they are sRGB already, or the profile is broken or of
    /// another colour space, in which case they are shown as sRGB, as browsers do.
    pub(crate) fn conversion(&mut self, icc: &[u8], layout: Layout) -> Option<ToSrgb> {
        if let Some((known, for_layout, conversion)) = &self.last
            && *for_layout == layout
            && known == icc
        {
            return conversion.clone();
        }
        let conversion = prepare(icc, layout);
        self.last = Some((icc.to_vec(), layout, conversion.clone()));
        conversion
    }
}

fn prepare(icc: &[u8], layout: Layout) -> Option<ToSrgb> {
    let profile = ColorProfile::new_from_slice(icc).ok()?;
    let (expected, mox_from, mox_to) = match layout {
        Layout::Grey => (DataColorSpace::Gray, MoxLayout::Gray, MoxLayout::Rgb),
        Layout::Ycc { .. } | Layout::Rgb => (DataColorSpace::Rgb, MoxLayout::Rgb, MoxLayout::Rgb),
        Layout::Rgba => (DataColorSpace::Rgb, MoxLayout::Rgba, MoxLayout::Rgba),
        Layout::Cmyk => (DataColorSpace::Cmyk, MoxLayout::Rgba, MoxLayout::Rgb),
    };
    if profile.color_space != expected {
        return None;
    }
    let srgb = ColorProfile::new_srgb();
    let executor = profile.create_transform_8bit(mox_from, &srgb, mox_to, TransformOptions::default()).ok()?;
    let is_srgb = match layout {
        Layout::Grey => leaves_alone(&executor, 1),
        Layout::Ycc { .. } | Layout::Rgb => leaves_alone(&executor, 3),
        Layout::Rgba => leaves_alone(&executor, 4),
        Layout::Cmyk => false,
    };
    (!is_srgb).then_some(ToSrgb { executor, from: expected })
}

/// True where the conversion moves no colour of a grid by more than the tolerance.
fn leaves_alone(executor: &Arc<Transform8BitExecutor>, channels: usize) -> bool {
    const STEPS: usize = 9;
    let level = |step: usize| (step % STEPS * 255 / (STEPS - 1)) as u8;
    let grid = STEPS.pow(3);
    let source: Vec<u8> = (0..grid)
        .flat_map(|index| {
            [level(index), level(index / STEPS), level(index / STEPS / STEPS), 255].into_iter().take(channels)
        })
        .collect();
    let out_channels = channels.max(3);
    let mut converted = vec![0; grid * out_channels];
    if executor.transform(&source, &mut converted).is_err() {
        return true;
    }
    let near = |a: &u8, b: &u8| a.abs_diff(*b) <= SRGB_TOLERANCE;
    source.chunks_exact(channels).zip(converted.chunks_exact(out_channels)).all(|(before, after)| {
        if channels == 1 {
            after.iter().all(|sample| near(sample, &before[0]))
        } else {
            before.iter().zip(after).all(|(a, b)| near(a, b))
        }
    })
}

impl ToSrgb {
    /// Converts a raster. Grey and CMYK come out as RGB.
    pub(crate) fn apply(&self, buffers: &mut Buffers, mut raster: Raster) -> Result<Raster, PipelineError> {
        let failed = |error: moxcms::CmsError| PipelineError::encode("converting colours", error);
        match raster.layout {
            Layout::Rgba => {
                // Profiles are defined on colours as they are, not as they were multiplied.
                unpremultiply(raster.samples_mut(0));
                let mut out = Raster::allocate(buffers, Layout::Rgba, raster.width, raster.height)?;
                self.executor.transform(raster.samples(0), out.samples_mut(0)).map_err(failed)?;
                premultiply(out.samples_mut(0));
                raster.recycle(buffers);
                Ok(out)
            }
            Layout::Ycc { .. } => {
                let rgb = to_rgb(buffers, raster)?;
                self.apply(buffers, rgb)
            }
            Layout::Grey | Layout::Rgb | Layout::Cmyk => {
                debug_assert!(self.from != DataColorSpace::Gray || raster.layout == Layout::Grey);
                // Adobe stores ink inverted, profiles count it upright.
                if raster.layout == Layout::Cmyk {
                    raster.samples_mut(0).iter_mut().for_each(|sample| *sample = 255 - *sample);
                }
                let mut out = Raster::allocate(buffers, Layout::Rgb, raster.width, raster.height)?;
                self.executor.transform(raster.samples(0), out.samples_mut(0)).map_err(failed)?;
                raster.recycle(buffers);
                Ok(out)
            }
        }
    }
}

/// Multiplies colour with alpha, in place.
pub(crate) fn premultiply(rgba: &mut [u8]) {
    for pixel in rgba.as_chunks_mut::<4>().0 {
        let alpha = u16::from(pixel[3]);
        for sample in &mut pixel[..3] {
            *sample = div_255(u16::from(*sample) * alpha);
        }
    }
}
