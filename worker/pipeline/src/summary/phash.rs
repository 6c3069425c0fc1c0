//! A 64-bit hash that stays nearly the same when an image is resized, recompressed or slightly changed in tone.

/// Side of the square that the image is averaged into.
const SIDE: usize = 32;
/// Low frequencies kept of each axis.
const KEPT: usize = 8;

/// The signs of the lowest 8 x 8 cosine coefficients of the luma, against their median (Zauner, "Implementation and Benchmarking of
/// Perceptual Image Hash Functions", 2010, section 3.2.1). Images that look alike differ in at most about 10 bits. The constant
/// term, which only says how bright the image is, takes no part in the median.
///
/// `rgba` is not premultiplied; transparent parts count as white.
pub(super) fn perceptual_hash(rgba: &[u8], width: usize, height: usize) -> u64 {
    let square = average(rgba, width, height);
    let cosines = cosines();
    let rows: Vec<[f64; KEPT]> = square.iter().map(|row| transform(row, &cosines)).collect();
    let mut low = [[0.0; KEPT]; KEPT];
    for (x, column) in low.iter_mut().enumerate() {
        let values: [f64; SIDE] = std::array::from_fn(|y| rows[y][x]);
        *column = transform(&values, &cosines);
    }
    let coefficients: Vec<f64> = low.iter().flatten().copied().collect();
    let mut sorted = coefficients[1..].to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    coefficients.iter().enumerate().fold(0, |hash, (bit, value)| hash | (u64::from(*value > median) << bit))
}

/// Luma (BT.601) averaged over the cells of a square grid.
fn average(rgba: &[u8], width: usize, height: usize) -> Vec<[f64; SIDE]> {
    let luma = |x: usize, y: usize| {
        let at = 4 * (y * width + x);
        let [r, g, b, a] = [0, 1, 2, 3].map(|channel| f64::from(rgba[at + channel]));
        (0.299 * r + 0.587 * g + 0.114 * b) * a / 255.0 + 255.0 - a
    };
    let span = |cell: usize, length: usize| {
        let start = cell * length / SIDE;
        start..((cell + 1) * length / SIDE).max(start + 1)
    };
    let cell = |cx: usize, cy: usize| {
        let (columns, rows) = (span(cx, width), span(cy, height));
        let count = columns.len() * rows.len();
        rows.flat_map(|y| columns.clone().map(move |x| (x, y))).map(|(x, y)| luma(x, y)).sum::<f64>() / count as f64
    };
    (0..SIDE).map(|cy| std::array::from_fn(|cx| cell(cx, cy))).collect()
}

/// The first coefficients of a DCT-II.
fn transform(values: &[f64; SIDE], cosines: &[[f64; SIDE]; KEPT]) -> [f64; KEPT] {
    cosines.map(|wave| values.iter().zip(wave).map(|(value, cosine)| value * cosine).sum())
}

/// The waves of the lowest frequencies, made once for the forty transforms of a hash.
fn cosines() -> [[f64; SIDE]; KEPT] {
    std::array::from_fn(|frequency| {
        let step = std::f64::consts::PI * frequency as f64 / SIDE as f64;
        std::array::from_fn(|at| (step * (at as f64 + 0.5)).cos())
    })
}
