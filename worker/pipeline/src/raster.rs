//! Pixels in memory, between decoder and encoder.

use crate::PipelineError;
use crate::buffers::Buffers;
use crate::colour::div_255;

/// How the samples of a [`Raster`] are arranged. All are 8 bit, row-major, rows from the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One plane of luma, full range.
    Grey,
    /// Three planes Y, Cb, Cr, full range (JFIF: BT.601 matrix). The colour planes have one sample for `h` x `v` pixels, centred on them.
    Ycc { h: u8, v: u8 },
    /// One plane, R G B.
    Rgb,
    /// One plane, R G B A, colour premultiplied with alpha.
    Rgba,
    /// One plane, C M Y K, as Adobe stores it: 255 is no ink.
    Cmyk,
}

impl Layout {
    /// 4:2:0, the layout of almost every photograph.
    pub(crate) const YCC420: Self = Self::Ycc { h: 2, v: 2 };
    /// 4:4:4.
    pub(crate) const YCC444: Self = Self::Ycc { h: 1, v: 1 };

    /// Channels of the first plane.
    pub(crate) fn channels(self) -> usize {
        match self {
            Self::Grey | Self::Ycc { .. } => 1,
            Self::Rgb => 3,
            Self::Rgba | Self::Cmyk => 4,
        }
    }
}

/// One plane of a raster inside its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plane {
    /// Offset of the first sample in the buffer.
    pub(crate) at: usize,
    /// Pixels of a stored row, padding included.
    pub(crate) stride: usize,
    /// Stored rows, padding included.
    pub(crate) rows: usize,
    /// Bytes of a pixel.
    pub(crate) channels: usize,
    /// Image pixels that one sample covers, across and down.
    pub(crate) sub: (usize, usize),
}

impl Plane {
    pub(crate) fn bytes(&self) -> usize {
        self.stride * self.rows * self.channels
    }
}

/// An image in memory.
#[derive(Debug)]
pub(crate) struct Raster {
    pub(crate) layout: Layout,
    /// Whole pixels across and down that hold the image, padding not counted.
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// How much of those pixels the image really covers. A JPEG decoded at 1/8 covers the last pixel only in part; taking the
    /// whole pixel as picture would shift everything by a fraction and lose 3 dB.
    pub(crate) extent: (f64, f64),
    planes: [Plane; 3],
    data: Vec<u8>,
}

impl Raster {
    /// A raster over a fresh or reused buffer; its samples are not yet set.
    pub(crate) fn allocate(
        buffers: &mut Buffers,
        layout: Layout,
        width: usize,
        height: usize,
    ) -> Result<Self, PipelineError> {
        let (planes, bytes) = lay_out(layout, width, height);
        let data = buffers.take(bytes)?;
        Ok(Self { layout, width, height, extent: (width as f64, height as f64), planes, data })
    }

    pub(crate) fn planes(&self) -> &[Plane] {
        match self.layout {
            Layout::Ycc { .. } => &self.planes,
            _ => &self.planes[..1],
        }
    }

    /// Samples of plane `index`, padding included.
    pub(crate) fn samples(&self, index: usize) -> &[u8] {
        let plane = &self.planes[index];
        &self.data[plane.at..plane.at + plane.bytes()]
    }

    pub(crate) fn samples_mut(&mut self, index: usize) -> &mut [u8] {
        let plane = self.planes[index];
        &mut self.data[plane.at..plane.at + plane.bytes()]
    }

    /// All samples of all planes, one plane after the other.
    pub(crate) fn all_samples_mut(&mut self) -> &mut [u8] {
        let bytes: usize = self.planes().iter().map(Plane::bytes).sum();
        &mut self.data[..bytes]
    }

    /// Draws another raster, with alpha, over this one from a place on: Porter and Duff's "over" on premultiplied colours. `opacity` is 0 to 255.
    pub(crate) fn cover(&mut self, stamp: &Self, at: (usize, usize), opacity: u16) {
        let channels = self.layout.channels();
        let stride = self.width * channels;
        let (width, height) = (stamp.width.min(self.width - at.0), stamp.height.min(self.height - at.1));
        let rows = self.samples_mut(0).chunks_exact_mut(stride).skip(at.1).take(height);
        for (row, over) in rows.zip(stamp.samples(0).chunks_exact(4 * stamp.width)) {
            let row = &mut row[at.0 * channels..][..width * channels];
            for (below, above) in row.chunks_exact_mut(channels).zip(over.as_chunks::<4>().0) {
                let faded = above.map(|sample| div_255(u16::from(sample) * opacity));
                let rest = 255 - u16::from(faded[3]);
                for (below, above) in below.iter_mut().zip(faded) {
                    *below = above.saturating_add(div_255(u16::from(*below) * rest));
                }
            }
        }
    }

    /// Gives the buffer back.
    pub(crate) fn recycle(self, buffers: &mut Buffers) {
        buffers.put(self.data);
    }

    /// Turns the image upside down.
    pub(crate) fn flip(&mut self) {
        for index in 0..self.planes().len() {
            let Plane { stride, channels, sub, .. } = self.planes[index];
            let height = self.height.div_ceil(sub.1);
            let (upper, lower) = self.samples_mut(index).split_at_mut(height / 2 * stride * channels);
            let rows = lower.chunks_exact_mut(stride * channels).take(height - height / 2).rev();
            upper.chunks_exact_mut(stride * channels).zip(rows).for_each(|(upper, lower)| upper.swap_with_slice(lower));
        }
        self.fill_padding();
    }

    /// Repeats the last column and row of each plane into its padding, so that an encoder that works in blocks of two sees no edge.
    pub(crate) fn fill_padding(&mut self) {
        for index in 0..self.planes().len() {
            let Plane { stride, rows, channels, sub, .. } = self.planes[index];
            let (width, height) = (self.width.div_ceil(sub.0), self.height.div_ceil(sub.1));
            let samples = self.samples_mut(index);
            if stride > width {
                for row in samples.chunks_exact_mut(stride * channels).take(height) {
                    let (inside, padding) = row.split_at_mut(width * channels);
                    for pixel in padding.chunks_exact_mut(channels) {
                        pixel.copy_from_slice(&inside[(width - 1) * channels..]);
                    }
                }
            }
            let row_bytes = stride * channels;
            for row in height..rows {
                samples.copy_within((height - 1) * row_bytes..height * row_bytes, row * row_bytes);
            }
        }
    }
}

/// Planes of a layout one after the other, and the bytes of all. Luma is padded to whole colour samples.
fn lay_out(layout: Layout, width: usize, height: usize) -> ([Plane; 3], usize) {
    let channels = layout.channels();
    let (h, v) = match layout {
        Layout::Ycc { h, v } => (usize::from(h), usize::from(v)),
        _ => (1, 1),
    };
    let (columns, rows) = (width.div_ceil(h), height.div_ceil(v));
    let first = Plane { at: 0, stride: columns * h, rows: rows * v, channels, sub: (1, 1) };
    let second = Plane { at: first.bytes(), stride: columns, rows, channels: 1, sub: (h, v) };
    let third = Plane { at: second.at + second.bytes(), ..second };
    let bytes = match layout {
        Layout::Ycc { .. } => third.at + third.bytes(),
        _ => first.bytes(),
    };
    ([first, second, third], bytes)
}
