//! JPEG by libjpeg-turbo.

use turbojpeg::{Compressor, Image, OutputBuf, PixelFormat, Subsamp, YuvPlanesImage};

use crate::PipelineError;
use crate::raster::{Layout, Raster};
use crate::settings::{Chroma, VariantSpec};

/// A compressor, made on first use and kept.
pub(super) struct JpegEncoder {
    inner: Option<Compressor>,
}

impl JpegEncoder {
    pub(super) fn new() -> Self {
        Self { inner: None }
    }

    /// Encodes grey, RGB, or 4:4:4 or 4:2:0 planes.
    pub(super) fn encode(&mut self, raster: &Raster, spec: &VariantSpec) -> Result<Vec<u8>, PipelineError> {
        let mut compressor = match self.inner.take() {
            Some(kept) => kept,
            None => Compressor::new().map_err(failed)?,
        };
        compressor.set_quality(i32::from(spec.quality)).map_err(failed)?;
        compressor.set_progressive(spec.progressive).map_err(failed)?;
        compressor.set_optimize(spec.optimize).map_err(failed)?;
        let mut out = OutputBuf::new_owned();
        let (width, height) = (raster.width, raster.height);
        match raster.layout {
            Layout::Ycc { h, .. } => {
                let (luma, colour) = (raster.planes()[0], raster.planes()[1]);
                let planes = YuvPlanesImage {
                    y_plane: raster.samples(0),
                    u_plane: raster.samples(1),
                    v_plane: raster.samples(2),
                    width,
                    height,
                    y_stride: luma.stride,
                    u_stride: colour.stride,
                    v_stride: colour.stride,
                    subsamp: if h == 1 { Subsamp::None } else { Subsamp::Sub2x2 },
                };
                compressor.compress_yuv_planes(&planes, &mut out).map_err(failed)?;
            }
            layout => {
                let format = if layout == Layout::Grey { PixelFormat::GRAY } else { PixelFormat::RGB };
                compressor
                    .set_subsamp(match (layout, spec.chroma) {
                        (Layout::Grey, _) => Subsamp::Gray,
                        (_, Chroma::Full) => Subsamp::None,
                        (_, Chroma::Quarter) => Subsamp::Sub2x2,
                    })
                    .map_err(failed)?;
                let image = Image { pixels: raster.samples(0), width, pitch: width * format.size(), height, format };
                compressor.compress(image, &mut out).map_err(failed)?;
            }
        }
        // After an error the compressor is not put back: the next image starts from a clean one.
        self.inner = Some(compressor);
        Ok(out.to_vec())
    }
}

fn failed(error: turbojpeg::Error) -> PipelineError {
    PipelineError::encode("encoding JPEG", error)
}
