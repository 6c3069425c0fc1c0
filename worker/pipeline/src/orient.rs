//! Turning and mirroring pixels as EXIF orientation asks (EXIF 2.32, table 6).

use crate::PipelineError;
use crate::buffers::Buffers;
use crate::geometry::flips;
use crate::raster::Raster;

/// Pixels a side of the blocks in which an image is transposed, so that source and destination lines both stay in the first-level cache.
const BLOCK: usize = 32;

/// The orientation of an image that is stored as it is displayed.
pub(crate) const UPRIGHT: u8 = 1;

/// The displayed image of a stored one. Takes any layout whose colour planes are subsampled alike on both axes.
pub(crate) fn orient(buffers: &mut Buffers, source: Raster, orientation: u8) -> Result<Raster, PipelineError> {
    if orientation <= UPRIGHT {
        return Ok(source);
    }
    let (width, height) = if orientation >= 5 { (source.height, source.width) } else { (source.width, source.height) };
    let mut turned = Raster::allocate(buffers, source.layout, width, height)?;
    for index in 0..source.planes().len() {
        let (from, to) = (source.planes()[index], turned.planes()[index]);
        let size = (source.width.div_ceil(from.sub.0), source.height.div_ceil(from.sub.1));
        let (src, dst) = (source.samples(index), turned.samples_mut(index));
        match from.channels {
            1 => turn::<1>(src, from.stride, size, dst, to.stride, orientation),
            3 => turn::<3>(src, from.stride, size, dst, to.stride, orientation),
            _ => turn::<4>(src, from.stride, size, dst, to.stride, orientation),
        }
    }
    turned.fill_padding();
    source.recycle(buffers);
    Ok(turned)
}

/// Turns `size` pixels of `N` bytes.
fn turn<const N: usize>(
    src: &[u8],
    src_stride: usize,
    size: (usize, usize),
    dst: &mut [u8],
    dst_stride: usize,
    orientation: u8,
) {
    let (width, height) = size;
    let (src, _) = src.as_chunks::<N>();
    let (dst, _) = dst.as_chunks_mut::<N>();
    let (flips_x, flips_y) = flips(orientation);
    if orientation < 5 {
        for y in 0..height {
            let from = if flips_y { height - 1 - y } else { y };
            let row = &src[from * src_stride..from * src_stride + width];
            let out = &mut dst[y * dst_stride..y * dst_stride + width];
            if flips_x {
                for (to, from) in out.iter_mut().zip(row.iter().rev()) {
                    *to = *from;
                }
            } else {
                out.copy_from_slice(row);
            }
        }
        return;
    }
    // Destination column x is stored row x, counted from the other end where that axis is mirrored; likewise rows.
    for block_y in (0..width).step_by(BLOCK) {
        let rows = block_y..(block_y + BLOCK).min(width);
        for block_x in (0..height).step_by(BLOCK) {
            let columns = block_x..(block_x + BLOCK).min(height);
            for y in rows.clone() {
                let src_x = if flips_x { width - 1 - y } else { y };
                let out = &mut dst[y * dst_stride..][columns.clone()];
                for (to, x) in out.iter_mut().zip(columns.clone()) {
                    let src_y = if flips_y { height - 1 - x } else { x };
                    *to = src[src_y * src_stride + src_x];
                }
            }
        }
    }
}
