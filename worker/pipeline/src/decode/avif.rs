//! AVIF: AV1 pictures as 8-bit planes of full range in JPEG's colours, so that everything after treats them like a photograph's.

use re_rav1d::dav1d::{Decoder, Error, Picture, PixelLayout, PlanarImageComponent, Settings, pixel};

use super::Decoded;
use crate::buffers::Buffers;
use crate::colour::{premultiply, rgb_of};
use crate::header::Probed;
use crate::raster::{Layout, Raster};
use crate::{Format, PipelineError};

/// How often the decoder is asked for the one picture: it may want to hear of more data first.
const TRIES: usize = 16;

pub(super) fn decode<'a>(buffers: &mut Buffers, probed: &Probed<'a>) -> Result<Decoded<'a>, PipelineError> {
    let items = probed.avif.as_ref().ok_or_else(|| PipelineError::corrupt(Format::Avif, "it has no picture"))?;
    let size = (probed.header.coded_width(), probed.header.coded_height());
    let picture = decode_av1(&items.colour, size)?;
    let (matrix, is_full) =
        items.nclx.unwrap_or((matrix_code(&picture), picture.color_range() == pixel::YUVRange::Full));
    let mut raster = to_raster(buffers, &picture, matrix, is_full)?;
    if let Some(alpha) = &items.alpha {
        raster = add_alpha(buffers, raster, &decode_av1(alpha, size)?, items.is_premultiplied)?;
    }
    Ok(Decoded { raster, icc: probed.icc.clone(), is_salvaged: false })
}

/// Decodes the one picture of an item, which must have the size that was checked against the limits.
fn decode_av1(bytes: &[u8], (width, height): (u32, u32)) -> Result<Picture, PipelineError> {
    let failed = |error: Error| PipelineError::undecodable(Format::Avif, error);
    let mut settings = Settings::new();
    settings.set_n_threads(1);
    settings.set_max_frame_delay(1);
    // Of a picture in layers the best one, not the first.
    settings.set_all_layers(false);
    settings.set_frame_size_limit(width.saturating_mul(height));
    let mut decoder = Decoder::with_settings(&settings)
        .map_err(|error| PipelineError::encode("setting up the AV1 decoder", error))?;
    let again = |outcome: Result<(), Error>| match outcome {
        Err(error) if !error.is_again() => Err(failed(error)),
        _ => Ok(()),
    };
    again(decoder.send_data(bytes.to_vec(), None, None, None))?;
    for _ in 0..TRIES {
        match decoder.get_picture() {
            Ok(picture) if (picture.width(), picture.height()) == (width, height) => return Ok(picture),
            Ok(_) => return Err(PipelineError::corrupt(Format::Avif, "its header can be read in two ways")),
            Err(error) if error.is_again() => again(decoder.send_pending_data())?,
            Err(error) => return Err(failed(error)),
        }
    }
    Err(PipelineError::Truncated { format: Format::Avif })
}

/// The matrix by its number in ISO 23091-2, of those that are told apart here.
fn matrix_code(picture: &Picture) -> u16 {
    use pixel::MatrixCoefficients as Matrix;
    match picture.matrix_coefficients() {
        Matrix::Identity => 0,
        Matrix::BT709 => 1,
        Matrix::BT470BG | Matrix::ST170M | Matrix::Unspecified => 6,
        Matrix::BT2020NonConstantLuminance => 9,
        _ => u16::MAX,
    }
}

/// Weights of red and blue in luma (ISO 23091-2, table 4).
fn weights(matrix: u16) -> Option<(f32, f32)> {
    match matrix {
        1 => Some((0.2126, 0.0722)),
        // Unspecified counts as BT.601, as in libavif.
        2 | 5 | 6 => Some((0.299, 0.114)),
        9 => Some((0.2627, 0.0593)),
        _ => None,
    }
}

fn to_raster(buffers: &mut Buffers, picture: &Picture, matrix: u16, is_full: bool) -> Result<Raster, PipelineError> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let (h, v) = match picture.pixel_layout() {
        PixelLayout::I400 => {
            let mut raster = Raster::allocate(buffers, Layout::Grey, width, height)?;
            copy_plane(picture, 0, &luma_table(picture, is_full), raster.samples_mut(0), (width, 1), (width, height));
            return Ok(raster);
        }
        PixelLayout::I444 if matrix == 0 => return from_gbr(buffers, picture, is_full),
        PixelLayout::I420 => (2, 2),
        PixelLayout::I422 => (2, 1),
        PixelLayout::I444 => (1, 1),
    };
    let weights = weights(matrix)
        .ok_or(PipelineError::UnsupportedFeature { format: Format::Avif, feature: "an unusual matrix of colours" })?;
    let mut raster = Raster::allocate(buffers, Layout::Ycc { h, v }, width, height)?;
    let (columns, rows) = (width.div_ceil(usize::from(h)), height.div_ceil(usize::from(v)));
    for index in 0..3 {
        let (table, size) = match index {
            0 => (luma_table(picture, is_full), (width, height)),
            _ => (colour_table(picture, is_full), (columns, rows)),
        };
        let stride = raster.planes()[index].stride;
        copy_plane(picture, index, &table, raster.samples_mut(index), (stride, 1), size);
    }
    raster.fill_padding();
    to_bt601(&mut raster, weights, (usize::from(h), usize::from(v)));
    Ok(raster)
}

/// Green, blue and red as the three planes.
fn from_gbr(buffers: &mut Buffers, picture: &Picture, is_full: bool) -> Result<Raster, PipelineError> {
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let mut raster = Raster::allocate(buffers, Layout::Rgb, width, height)?;
    let table = luma_table(picture, is_full);
    for (index, channel) in [(0, 1), (1, 2), (2, 0)] {
        copy_plane(picture, index, &table, &mut raster.samples_mut(0)[channel..], (width, 3), (width, height));
    }
    Ok(raster)
}

fn add_alpha(
    buffers: &mut Buffers,
    raster: Raster,
    alpha: &Picture,
    is_premultiplied: bool,
) -> Result<Raster, PipelineError> {
    let rgb = rgb_of(buffers, &raster)?;
    raster.recycle(buffers);
    let (width, height) = (rgb.width, rgb.height);
    let mut out = Raster::allocate(buffers, Layout::Rgba, width, height)?;
    let (to, _) = out.samples_mut(0).as_chunks_mut::<4>();
    let (from, _) = rgb.samples(0).as_chunks::<3>();
    to.iter_mut().zip(from).for_each(|(to, [r, g, b])| *to = [*r, *g, *b, 255]);
    rgb.recycle(buffers);
    let table = luma_table(alpha, alpha.color_range() == pixel::YUVRange::Full);
    copy_plane(alpha, 0, &table, &mut out.samples_mut(0)[3..], (width, 4), (width, height));
    if !is_premultiplied {
        premultiply(out.samples_mut(0));
    }
    Ok(out)
}

/// Writes a plane's samples through `table`. `layout`: pixels of a row of `out`, and bytes from one to the next.
fn copy_plane(
    picture: &Picture,
    index: usize,
    table: &[u8],
    out: &mut [u8],
    layout: (usize, usize),
    (width, height): (usize, usize),
) {
    let component = PlanarImageComponent::from(index);
    let (plane, stride) = (picture.plane(component), picture.stride(component) as usize);
    let is_wide = picture.bit_depth() > 8;
    let (row_pixels, step) = layout;
    for (from, to) in plane.chunks(stride).zip(out.chunks_mut(row_pixels * step)).take(height) {
        let to = to.iter_mut().step_by(step).take(width);
        let look_up = |value: usize| table[value.min(table.len() - 1)];
        if is_wide {
            let values = from.as_chunks::<2>().0.iter().map(|pair| usize::from(u16::from_ne_bytes(*pair)));
            to.zip(values).for_each(|(to, value)| *to = look_up(value));
        } else {
            to.zip(from).for_each(|(to, value)| *to = look_up(usize::from(*value)));
        }
    }
}

/// What each value of luma is in 8 bits of full range.
fn luma_table(picture: &Picture, is_full: bool) -> Vec<u8> {
    table(
        picture,
        |value| if is_full { value * 255.0 } else { (value * 255.0 * full_scale(picture) - 16.0) * 255.0 / 219.0 },
    )
}

/// The same for colour, whose zero is in the middle.
fn colour_table(picture: &Picture, is_full: bool) -> Vec<u8> {
    table(picture, |value| {
        if is_full { value * 255.0 } else { 128.0 + (value * 255.0 * full_scale(picture) - 128.0) * 255.0 / 224.0 }
    })
}

/// Limited range counts in steps of 1/256 and not 1/255 of all: 235 of 8 bits is 940 of 10.
fn full_scale(picture: &Picture) -> f32 {
    let most = ((1_u32 << picture.bit_depth()) - 1) as f32;
    most / 255.0 / (1_u32 << (picture.bit_depth() - 8)) as f32
}

fn table(picture: &Picture, convert: impl Fn(f32) -> f32) -> Vec<u8> {
    let most = (1_usize << picture.bit_depth().clamp(8, 12)) - 1;
    (0..=most).map(|value| convert(value as f32 / most as f32).round().clamp(0.0, 255.0) as u8).collect()
}

/// From luma of other weights to JPEG's, in place: colour depends on colour alone, so it stays at its own resolution.
fn to_bt601(raster: &mut Raster, (kr, kb): (f32, f32), (h, v): (usize, usize)) {
    const KR: f32 = 0.299;
    const KB: f32 = 0.114;
    if (kr, kb) == (KR, KB) {
        return;
    }
    let kg = 1.0 - kr - kb;
    // Red, green and blue less luma, for a unit of each colour difference.
    let of_cb = [0.0, -2.0 * kb * (1.0 - kb) / kg, 2.0 * (1.0 - kb)];
    let of_cr = [2.0 * (1.0 - kr), -2.0 * kr * (1.0 - kr) / kg, 0.0];
    let luma = |[r, g, b]: [f32; 3]| KR * r + (1.0 - KR - KB) * g + KB * b;
    let (y_cb, y_cr) = (luma(of_cb), luma(of_cr));
    let colour = |of: [f32; 3], y: f32| ((of[2] - y) / (2.0 * (1.0 - KB)), (of[0] - y) / (2.0 * (1.0 - KR)));
    let ((cb_cb, cr_cb), (cb_cr, cr_cr)) = (colour(of_cb, y_cb), colour(of_cr, y_cr));
    let (luma_stride, colour_stride) = (raster.planes()[0].stride, raster.planes()[1].stride);
    let (cb, cr) = (raster.samples(1).to_vec(), raster.samples(2).to_vec());
    let centred = |sample: u8| f32::from(sample) - 128.0;
    let byte = |value: f32| value.round().clamp(0.0, 255.0) as u8;
    for (row, line) in raster.samples_mut(0).chunks_exact_mut(luma_stride).enumerate() {
        for (x, sample) in line.iter_mut().enumerate() {
            let at = row / v * colour_stride + x / h;
            *sample = byte(f32::from(*sample) + y_cb * centred(cb[at]) + y_cr * centred(cr[at]));
        }
    }
    for (index, (of_cb, of_cr)) in [(1, (cb_cb, cb_cr)), (2, (cr_cb, cr_cr))] {
        for (to, (cb, cr)) in raster.samples_mut(index).iter_mut().zip(cb.iter().zip(&cr)) {
            *to = byte(128.0 + of_cb * centred(*cb) + of_cr * centred(*cr));
        }
    }
}
