//! Transposing planes of single bytes, sixteen by sixteen: some ten times as fast as byte by byte, and every phone photo that was taken
//! upright needs it. Written so that the compiler makes one instruction of each interleaving, on any processor that has one.

/// Pixels a side of what one step transposes.
const TILE: usize = 16;

type Row = [u8; TILE];

/// Writes `size` pixels of `src`, `src_stride` bytes a row, transposed into `dst`, `dst_stride` bytes a row. Where it is `mirrored`, the
/// last row of the source becomes the first column.
pub(crate) fn transpose(
    src: &[u8],
    src_stride: usize,
    size: (usize, usize),
    dst: &mut [u8],
    dst_stride: usize,
    mirrored: bool,
) {
    let (width, height) = size;
    let row = |x: usize| if mirrored { height - 1 - x } else { x };
    let (tiled_x, tiled_y) = (height / TILE * TILE, width / TILE * TILE);
    // Sixteen rows of the source are read from end to end, which memory is best at. The lines of the destination stay in the cache until
    // the next sixteen rows.
    for x in (0..tiled_x).step_by(TILE) {
        for y in (0..tiled_y).step_by(TILE) {
            let mut tile = [[0; TILE]; TILE];
            for (index, to) in tile.iter_mut().enumerate() {
                to.copy_from_slice(&src[row(x + index) * src_stride + y..][..TILE]);
            }
            for (index, from) in transpose_tile(tile).iter().enumerate() {
                dst[(y + index) * dst_stride + x..][..TILE].copy_from_slice(from);
            }
        }
    }
    // What is left at the right and at the bottom, less than a tile wide.
    for y in 0..width {
        let start = if y < tiled_y { tiled_x } else { 0 };
        for x in start..height {
            dst[y * dst_stride + x] = src[row(x) * src_stride + y];
        }
    }
}

/// Interleaves each row with the one eight below it, four times over: a perfect shuffle of 256 bytes by four bits of their address.
#[inline]
fn transpose_tile(mut rows: [Row; TILE]) -> [Row; TILE] {
    for _ in 0..TILE.ilog2() {
        let before = rows;
        for index in 0..TILE / 2 {
            let (upper, lower) = (before[index], before[index + TILE / 2]);
            (rows[2 * index], rows[2 * index + 1]) = (interleave_starts(upper, lower), interleave_ends(upper, lower));
        }
    }
    rows
}

/// The first eight bytes of each, by turns. Spelled out, as a loop would stay one.
#[inline]
fn interleave_starts(a: Row, b: Row) -> Row {
    [a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3], a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]]
}

/// The last eight bytes of each, by turns.
#[inline]
fn interleave_ends(a: Row, b: Row) -> Row {
    [a[8], b[8], a[9], b[9], a[10], b[10], a[11], b[11], a[12], b[12], a[13], b[13], a[14], b[14], a[15], b[15]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_and_rest_agree_with_the_definition_at_any_size() {
        for (width, height) in [(1, 1), (7, 9), (16, 16), (32, 16), (17, 31), (65, 130), (100, 64), (129, 71)] {
            let (src_stride, dst_stride) = (width + 3, height + 2);
            let src: Vec<u8> = (0..src_stride * height).map(|at| (at * 31 % 251) as u8).collect();
            for mirrored in [false, true] {
                let mut dst = vec![0; dst_stride * width];
                transpose(&src, src_stride, (width, height), &mut dst, dst_stride, mirrored);
                for y in 0..width {
                    for x in 0..height {
                        let row = if mirrored { height - 1 - x } else { x };
                        assert_eq!(
                            dst[y * dst_stride + x],
                            src[row * src_stride + y],
                            "{width} x {height}, {mirrored:?}"
                        );
                    }
                }
            }
        }
    }
}
