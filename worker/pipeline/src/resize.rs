//! Resampling with Lanczos3, plane by plane.

use plane_resample::{Destination, Resampler, Segment, Source, Turn};

use crate::PipelineError;
use crate::buffers::Buffers;
use crate::geometry::{Rect, flips};
use crate::orient::orient;
use crate::raster::{Layout, Raster};

/// Renders the part `crop` of `source`, in its pixels, as `size` pixels, and turns it as `orientation` asks; `size` is that of the picture as it is
/// stored. The layout stays, but for colour planes, which come out as `layout` has them. Planes of single bytes that change their axes are
/// turned while they are resized, which costs less than the resizing alone.
///
/// Edges are continued by the kernel's renormalisation; rounding is to nearest; alpha must be premultiplied.
pub(crate) fn resize(
    resampler: &mut Resampler,
    buffers: &mut Buffers,
    source: &Raster,
    crop: Rect,
    layout: Layout,
    size: (usize, usize),
    orientation: u8,
) -> Result<Raster, PipelineError> {
    let mirrored = flips(orientation);
    if orientation < 5 || layout.channels() > 1 {
        let resized = render(resampler, buffers, source, crop, layout, (size, mirrored, false))?;
        return orient(buffers, resized, orientation);
    }
    let mut turned = render(resampler, buffers, source, crop, layout, (size, mirrored, true))?;
    if mirrored.0 {
        turned.flip();
    }
    Ok(turned)
}

/// `mirrored` says which axes run backwards in the picture as it is displayed: where a side is odd, the colour sample that covers a single pixel
/// must then be the first and not the last. Where it `turns`, rows become columns, from right to left where rows are `mirrored`; columns become
/// rows from the top.
fn render(
    resampler: &mut Resampler,
    buffers: &mut Buffers,
    source: &Raster,
    crop: Rect,
    layout: Layout,
    (size, mirrored, turns): ((usize, usize), (bool, bool), bool),
) -> Result<Raster, PipelineError> {
    let (width, height) = if turns { (size.1, size.0) } else { size };
    let mut out = Raster::allocate(buffers, layout, width, height)?;
    for index in 0..out.planes().len() {
        let (from, to) = (source.planes()[index], out.planes()[index]);
        // What lies beyond the image in a padded plane is no picture: keep it out of the kernel's reach.
        let view = ((source.extent.0 / from.sub.0 as f64).ceil(), (source.extent.1 / from.sub.1 as f64).ceil());
        let columns = segments(crop.left, crop.width, view.0, from.sub.0, size.0, to.sub.0, mirrored.0);
        let rows = segments(crop.top, crop.height, view.1, from.sub.1, size.1, to.sub.1, mirrored.1);
        for row in rows.into_iter().flatten() {
            for column in columns.into_iter().flatten() {
                let src = Source {
                    samples: source.samples(index),
                    stride: from.stride as u32,
                    rows: from.rows as u32,
                    width: view.0 as u32,
                    height: view.1 as u32,
                };
                let dst =
                    Destination { samples: out.samples_mut(index), stride: to.stride as u32, rows: to.rows as u32 };
                let rendered = match turns {
                    false => resampler.resample(from.channels, src, dst, column, row),
                    true if mirrored.1 => {
                        let columns = size.1.div_ceil(to.sub.1) as u32;
                        resampler.resample_turned(src, dst, column, row, Turn::Backwards(columns))
                    }
                    true => resampler.resample_turned(src, dst, column, row, Turn::Forwards),
                };
                rendered.map_err(|error| PipelineError::encode("resizing", error))?;
            }
        }
    }
    out.fill_padding();
    Ok(out)
}

/// Splits an axis into the samples that cover whole output pixels and, where the pixels do not fill the last sample (the first, if
/// mirrored), that one. Stretching the source over all samples alike would shift colour against luma by up to a pixel.
fn segments(
    start: f64,
    len: f64,
    view: f64,
    from_sub: usize,
    size: usize,
    to_sub: usize,
    is_mirrored: bool,
) -> [Option<Segment>; 2] {
    let (start, len) = (start / from_sub as f64, len / from_sub as f64);
    let end = (start + len).min(view);
    let count = size.div_ceil(to_sub);
    let partial = size % to_sub;
    let segment = |to: usize, to_len: usize, from: f64, until: f64| Segment {
        to: to as u32,
        to_len: to_len as u32,
        from,
        from_len: until.min(end) - from,
    };
    if partial == 0 || count == 1 {
        return [Some(segment(0, count, start, end)), None];
    }
    let single = len * partial as f64 / size as f64;
    if is_mirrored {
        [Some(segment(0, 1, start, start + single)), Some(segment(1, count - 1, start + single, end))]
    } else {
        [Some(segment(0, count - 1, start, end - single)), Some(segment(count - 1, 1, end - single, end))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_odd_side_gives_its_last_colour_sample_half_the_source() {
        let [whole, single] = segments(0.0, 100.0, 50.0, 2, 25, 2, false);
        assert_eq!(whole, Some(Segment { to: 0, to_len: 12, from: 0.0, from_len: 48.0 }));
        assert_eq!(single, Some(Segment { to: 12, to_len: 1, from: 48.0, from_len: 2.0 }));
        let [single, whole] = segments(0.0, 100.0, 50.0, 2, 25, 2, true);
        assert_eq!(single, Some(Segment { to: 0, to_len: 1, from: 0.0, from_len: 2.0 }));
        assert_eq!(whole, Some(Segment { to: 1, to_len: 12, from: 2.0, from_len: 48.0 }));
    }
}
