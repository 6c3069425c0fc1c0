//! Conversions that need no profile. The arithmetic is fixed point, so that results are the same on every machine, and the loops are
//! written for the compiler to vectorise.

use crate::buffers::Buffers;
use crate::raster::{Layout, Raster};
use crate::{PipelineError, Rgb};

/// `value / 255`, rounded to nearest, for products of two bytes.
pub(crate) fn div_255(value: u16) -> u8 {
    // Exact for 0..=65025: Blinn, "Three Wrongs Make a Right", IEEE CG&A 1995.
    let biased = u32::from(value) + 128;
    ((biased + (biased >> 8)) >> 8) as u8
}

/// Divides colour by alpha, in place. Fully transparent pixels become black.
pub(crate) fn unpremultiply(rgba: &mut [u8]) {
    for pixel in rgba.as_chunks_mut::<4>().0 {
        let alpha = u32::from(pixel[3]);
        match alpha {
            255 => {}
            0 => *pixel = [0; 4],
            _ => {
                for sample in &mut pixel[..3] {
                    *sample = ((u32::from(*sample) * 255 + alpha / 2) / alpha).min(255) as u8;
                }
            }
        }
    }
}

/// Any layout as RGB. Transparent pixels must have been flattened before.
pub(crate) fn to_rgb(buffers: &mut Buffers, raster: Raster) -> Result<Raster, PipelineError> {
    if raster.layout == Layout::Rgb {
        return Ok(raster);
    }
    let rgb = rgb_of(buffers, &raster)?;
    raster.recycle(buffers);
    Ok(rgb)
}

/// A copy as RGB; alpha is dropped.
pub(crate) fn rgb_of(buffers: &mut Buffers, raster: &Raster) -> Result<Raster, PipelineError> {
    let mut out = Raster::allocate(buffers, Layout::Rgb, raster.width, raster.height)?;
    let (pixels, _) = out.samples_mut(0).as_chunks_mut::<3>();
    match raster.layout {
        Layout::Rgb => out.samples_mut(0).copy_from_slice(raster.samples(0)),
        Layout::Grey => pixels.iter_mut().zip(raster.samples(0)).for_each(|(to, from)| *to = [*from; 3]),
        Layout::Rgba => {
            let (from, _) = raster.samples(0).as_chunks::<4>();
            pixels.iter_mut().zip(from).for_each(|(to, [r, g, b, _])| *to = [*r, *g, *b]);
        }
        Layout::Cmyk => {
            // No profile: ink subtracts light evenly. Samples are inverted, so the product of two is light.
            let (from, _) = raster.samples(0).as_chunks::<4>();
            for (to, [c, m, y, k]) in pixels.iter_mut().zip(from) {
                *to = [c, m, y].map(|ink| div_255(u16::from(*ink) * u16::from(*k)));
            }
        }
        Layout::Ycc { h, v } => {
            let (width, h, v) = (raster.width, usize::from(h), usize::from(v));
            let (luma, colour) = (raster.planes()[0].stride, raster.planes()[1].stride);
            for (row, out) in pixels.chunks_exact_mut(width).enumerate() {
                let y = &raster.samples(0)[row * luma..][..width];
                let cb = &raster.samples(1)[row / v * colour..][..colour];
                let cr = &raster.samples(2)[row / v * colour..][..colour];
                if h == 1 {
                    for (((to, y), cb), cr) in out.iter_mut().zip(y).zip(cb).zip(cr) {
                        *to = ycc_pixel(*y, *cb, *cr);
                    }
                } else {
                    for (x, (to, y)) in out.iter_mut().zip(y).enumerate() {
                        *to = ycc_pixel(*y, cb[x / h], cr[x / h]);
                    }
                }
            }
        }
    }
    Ok(out)
}

/// JFIF 1.02, section 7, in 16-bit fixed point.
fn ycc_pixel(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let (y, cb, cr) = ((i32::from(y) << 16) + (1 << 15), i32::from(cb) - 128, i32::from(cr) - 128);
    let clamp = |value: i32| (value >> 16).clamp(0, 255) as u8;
    [clamp(y + 91_881 * cr), clamp(y - 22_554 * cb - 46_802 * cr), clamp(y + 116_130 * cb)]
}

/// RGB or unmultiplied RGBA as 4:4:4 planes (JFIF 1.02, section 7); alpha is dropped.
#[cfg(feature = "avif")]
pub(crate) fn ycc_of(buffers: &mut Buffers, raster: &Raster) -> Result<Raster, PipelineError> {
    let mut out = Raster::allocate(buffers, Layout::YCC444, raster.width, raster.height)?;
    // Weights of red, green and blue in 16-bit fixed point; each row sums to 65,536 or 0.
    const ROWS: [[i32; 3]; 3] = [[19_595, 38_470, 7_471], [-11_059, -21_709, 32_768], [32_768, -27_439, -5_329]];
    for (index, [r, g, b]) in ROWS.into_iter().enumerate() {
        let base = if index == 0 { 1 << 15 } else { (128 << 16) + (1 << 15) };
        let pixels = raster.samples(0).chunks_exact(raster.layout.channels());
        for (to, pixel) in out.samples_mut(index).iter_mut().zip(pixels) {
            let sum = r * i32::from(pixel[0]) + g * i32::from(pixel[1]) + b * i32::from(pixel[2]);
            *to = ((base + sum) >> 16).clamp(0, 255) as u8;
        }
    }
    Ok(out)
}

/// An RGBA raster on a background, as RGB.
pub(crate) fn flatten(buffers: &mut Buffers, raster: &Raster, background: Rgb) -> Result<Raster, PipelineError> {
    let mut out = Raster::allocate(buffers, Layout::Rgb, raster.width, raster.height)?;
    let (from, _) = raster.samples(0).as_chunks::<4>();
    let (to, _) = out.samples_mut(0).as_chunks_mut::<3>();
    let below = [background.0, background.1, background.2];
    for (to, from) in to.iter_mut().zip(from) {
        let rest = u16::from(255 - from[3]);
        for channel in 0..3 {
            to[channel] = from[channel].saturating_add(div_255(u16::from(below[channel]) * rest));
        }
    }
    Ok(out)
}

/// A 4:4:4 raster as 4:2:0: each colour sample is the mean of the four it replaces.
pub(crate) fn halve_colour(buffers: &mut Buffers, raster: &Raster) -> Result<Raster, PipelineError> {
    let (width, height) = (raster.width, raster.height);
    let mut out = Raster::allocate(buffers, Layout::YCC420, width, height)?;
    let (from, to) = (raster.planes()[0], out.planes()[0]);
    for (src, dst) in raster.samples(0).chunks_exact(from.stride).zip(out.samples_mut(0).chunks_exact_mut(to.stride)) {
        dst[..width].copy_from_slice(&src[..width]);
    }
    for index in 1..3 {
        let (from, to) = (raster.planes()[index], out.planes()[index]);
        let src = raster.samples(index);
        for (row, dst) in out.samples_mut(index).chunks_exact_mut(to.stride).enumerate() {
            let above = &src[2 * row * from.stride..][..width];
            let below = &src[(2 * row + 1).min(height - 1) * from.stride..][..width];
            for (x, sample) in dst.iter_mut().enumerate() {
                let (left, right) = (2 * x, (2 * x + 1).min(width - 1));
                let sum =
                    [above[left], above[right], below[left], below[right]].into_iter().map(u16::from).sum::<u16>();
                *sample = ((sum + 2) / 4) as u8;
            }
        }
    }
    out.fill_padding();
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_by_255_is_exact_for_all_products() {
        for a in 0..=255_u16 {
            for b in 0..=255_u16 {
                assert_eq!(f64::from(div_255(a * b)), (f64::from(a * b) / 255.0).round());
            }
        }
    }

    #[test]
    fn neutral_colour_is_grey() {
        for level in 0..=255 {
            assert_eq!(ycc_pixel(level, 128, 128), [level; 3]);
        }
    }
}
