//! What is told of an image beside its variants: placeholder, dominant colour, perceptual hash. All come from one small rendering.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::PipelineError;
use crate::Rgb;
use crate::buffers::Buffers;
use crate::colour::{rgb_of, unpremultiply};
use crate::raster::{Layout, Raster};

mod phash;

pub(crate) struct Summary {
    /// A thumbhash, base64.
    pub(crate) placeholder: String,
    pub(crate) dominant_colour: Rgb,
    pub(crate) perceptual_hash: u64,
}

/// Summarises a raster of at most 100 pixels a side.
pub(crate) fn summarise(buffers: &mut Buffers, raster: &Raster) -> Result<Summary, PipelineError> {
    let rgba = to_rgba(buffers, raster)?;
    let (width, height, quarter) = halved(&rgba, raster.width, raster.height);
    let hash = thumbhash::rgba_to_thumb_hash(width, height, &quarter);
    Ok(Summary {
        placeholder: STANDARD.encode(hash),
        dominant_colour: dominant_colour(&rgba),
        perceptual_hash: phash::perceptual_hash(&rgba, raster.width, raster.height),
    })
}

fn to_rgba(buffers: &mut Buffers, raster: &Raster) -> Result<Vec<u8>, PipelineError> {
    if raster.layout == Layout::Rgba {
        let mut rgba = raster.samples(0).to_vec();
        unpremultiply(&mut rgba);
        return Ok(rgba);
    }
    let rgb = rgb_of(buffers, raster)?;
    let rgba = rgb.samples(0).as_chunks::<3>().0.iter().flat_map(|[r, g, b]| [*r, *g, *b, 255]).collect();
    rgb.recycle(buffers);
    Ok(rgba)
}

/// The image at half its sides, each pixel the mean of up to four. A thumbhash keeps seven cosines an axis at the most, which 32 pixels hold
/// as well as 64; it visits every pixel for each of them, and was 1.5 % of the time of a thumbnail.
fn halved(rgba: &[u8], width: usize, height: usize) -> (usize, usize, Vec<u8>) {
    let (columns, rows) = (width.div_ceil(2), height.div_ceil(2));
    let (pixels, _) = rgba.as_chunks::<4>();
    let mut half = Vec::with_capacity(columns * rows * 4);
    for y in 0..rows {
        for x in 0..columns {
            let mut sums = [0_u32; 4];
            let mut count = 0;
            for row in pixels.chunks_exact(width).skip(2 * y).take(2) {
                for [r, g, b, a] in row.iter().skip(2 * x).take(2) {
                    // What is transparent has no colour to give.
                    let weight = u32::from(*a);
                    for (sum, value) in sums.iter_mut().zip([*r, *g, *b, 1]) {
                        *sum += u32::from(value) * weight;
                    }
                    count += 1;
                }
            }
            let [r, g, b, weight] = sums;
            let mean = |sum: u32| ((sum + weight / 2) / weight.max(1)) as u8;
            half.extend([mean(r), mean(g), mean(b), ((weight + count / 2) / count) as u8]);
        }
    }
    (columns, rows, half)
}

/// The mean of the colours in the fullest cell of a 4 x 4 x 4 grid: a colour that is really there, where the mean of a red and a green
/// half would be brown. Transparent pixels count as little as they show; a wholly transparent image is white.
fn dominant_colour(rgba: &[u8]) -> Rgb {
    let mut cells = [[0_u64; 4]; 64];
    for [r, g, b, a] in rgba.as_chunks::<4>().0 {
        let cell = &mut cells[usize::from(r >> 6) * 16 + usize::from(g >> 6) * 4 + usize::from(b >> 6)];
        for (sum, value) in cell.iter_mut().zip([*r, *g, *b, 1]) {
            *sum += u64::from(value) * u64::from(*a);
        }
    }
    let mut fullest = cells[0];
    for cell in cells {
        if cell[3] > fullest[3] {
            fullest = cell;
        }
    }
    match fullest[3] {
        0 => Rgb::WHITE,
        weight => {
            let mean = |sum: u64| ((sum + weight / 2) / weight) as u8;
            Rgb(mean(fullest[0]), mean(fullest[1]), mean(fullest[2]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_averages_what_shows_at_any_size() {
        let opaque = [10, 20, 30, 255, 20, 30, 40, 255, 90, 90, 90, 255];
        assert_eq!(halved(&opaque, 3, 1), (2, 1, vec![15, 25, 35, 255, 90, 90, 90, 255]));
        let transparent = [200, 0, 0, 0, 40, 50, 60, 100];
        assert_eq!(halved(&transparent, 1, 2), (1, 1, vec![40, 50, 60, 50]));
        assert_eq!(halved(&[9, 9, 9, 0], 1, 1), (1, 1, vec![0; 4]));
    }

    #[test]
    fn the_dominant_colour_is_one_that_occurs() {
        let mut rgba = [255, 0, 0, 255].repeat(60);
        rgba.extend([0, 255, 0, 255].repeat(40));
        assert_eq!(dominant_colour(&rgba), Rgb(255, 0, 0));
        assert_eq!(dominant_colour(&[1, 2, 3, 0]), Rgb::WHITE);
    }
}
