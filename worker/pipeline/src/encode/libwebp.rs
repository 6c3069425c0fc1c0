//! The one place that calls C without a safe wrapper: libwebp's encoder.

#![expect(
    unsafe_code,
    reason = "no maintained safe wrapper of a current libwebp takes planes; every pointer below lives inside one call"
)]

use std::{fmt, mem, slice};

mod animation;

pub(super) use animation::Animation;

use libwebp_sys::{
    WebPConfig, WebPEncCSP, WebPEncode, WebPEncodingError, WebPMemoryWrite, WebPMemoryWriter, WebPMemoryWriterClear,
    WebPMemoryWriterInit, WebPPicture, WebPPictureAlloc, WebPPictureFree, WebPPictureImportRGB, WebPPictureImportRGBA,
    WebPValidateConfig,
};

/// How to encode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// 0 to 100.
    pub(super) quality: f32,
    /// 0 (fast) to 6 (small).
    pub(super) method: i32,
    pub(super) is_lossless: bool,
}

/// Writes a plane: its index (Y, U, V), its memory, and the bytes of a row there.
pub(super) type FillPlane<'a> = dyn Fn(usize, &mut [u8], usize) + 'a;

/// Where the pixels come from.
pub(super) enum Pixels<'a> {
    /// Tightly packed R G B.
    Rgb(&'a [u8]),
    /// Tightly packed R G B A, not premultiplied.
    Rgba(&'a [u8]),
    /// 4:2:0 planes in WebP's range, written on demand into libwebp's own memory.
    Planes(&'a FillPlane<'a>),
}

/// libwebp refused or failed.
#[derive(Debug)]
pub(super) enum WebpError {
    /// The settings or the size are out of range.
    Setup(&'static str),
    /// There is no memory.
    Memory,
    /// The encoder's own code.
    Encoder(WebPEncodingError),
}

impl fmt::Display for WebpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(step) => write!(f, "libwebp refused {step}"),
            Self::Memory => write!(f, "libwebp has no memory"),
            Self::Encoder(code) => write!(f, "libwebp failed with {code:?}"),
        }
    }
}

impl std::error::Error for WebpError {}

impl From<WebPEncodingError> for WebpError {
    fn from(code: WebPEncodingError) -> Self {
        match code {
            WebPEncodingError::VP8_ENC_ERROR_OUT_OF_MEMORY
            | WebPEncodingError::VP8_ENC_ERROR_BITSTREAM_OUT_OF_MEMORY => Self::Memory,
            code => Self::Encoder(code),
        }
    }
}

/// Encodes one image.
///
/// # Errors
/// Where a side is 0 or over 16,383, the pixels are too few for the size, or libwebp fails.
pub(super) fn encode(width: usize, height: usize, pixels: &Pixels<'_>, options: Options) -> Result<Vec<u8>, WebpError> {
    let config = config(options)?;
    let mut picture = Picture::new(width, height, pixels, options.is_lossless)?;
    let mut writer = Writer::new();
    picture.0.writer = Some(WebPMemoryWrite);
    picture.0.custom_ptr = (&raw mut writer.0).cast();
    // SAFETY: config is validated; the picture owns allocated planes; the writer outlives the call and is used by nobody else.
    let is_done = unsafe { WebPEncode(&config, &mut picture.0) } != 0;
    if is_done { Ok(writer.bytes().to_vec()) } else { Err(picture.0.error_code.into()) }
}

fn config(options: Options) -> Result<WebPConfig, WebpError> {
    let mut config = WebPConfig::new().map_err(|()| WebpError::Setup("its own version"))?;
    config.quality = options.quality;
    config.method = options.method;
    config.lossless = i32::from(options.is_lossless);
    // One image keeps to one core: the worker runs as many images as there are cores.
    config.thread_level = 0;
    // SAFETY: config is initialised.
    if unsafe { WebPValidateConfig(&config) } == 0 { Err(WebpError::Setup("the settings")) } else { Ok(config) }
}

/// A picture and the memory that libwebp holds for it. Lossless files and animations are made from `argb`, others from planes.
struct Picture(WebPPicture);

impl Picture {
    fn new(width: usize, height: usize, pixels: &Pixels<'_>, is_argb: bool) -> Result<Self, WebpError> {
        const MAX_SIDE: usize = 16_383;
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err(WebpError::Setup("the size"));
        }
        let mut picture = Self(WebPPicture::new().map_err(|()| WebpError::Setup("its own version"))?);
        picture.0.width = width as i32;
        picture.0.height = height as i32;
        picture.0.use_argb = i32::from(is_argb);
        picture.0.colorspace = WebPEncCSP::WEBP_YUV420;
        match pixels {
            Pixels::Rgb(rgb) => {
                check_length(rgb, width * height * 3)?;
                // SAFETY: the slice holds height rows of 3 * width bytes, as just checked.
                let result = unsafe { WebPPictureImportRGB(&mut picture.0, rgb.as_ptr(), (width * 3) as i32) };
                picture.check(result)?;
            }
            Pixels::Rgba(rgba) => {
                check_length(rgba, width * height * 4)?;
                // SAFETY: the slice holds height rows of 4 * width bytes, as just checked.
                let result = unsafe { WebPPictureImportRGBA(&mut picture.0, rgba.as_ptr(), (width * 4) as i32) };
                picture.check(result)?;
            }
            Pixels::Planes(fill) => picture.allocate_planes(fill)?,
        }
        Ok(picture)
    }

    /// What a call that filled the picture has to say.
    fn check(&self, result: i32) -> Result<(), WebpError> {
        if result == 0 { Err(self.0.error_code.into()) } else { Ok(()) }
    }

    fn allocate_planes(&mut self, fill: &FillPlane<'_>) -> Result<(), WebpError> {
        // SAFETY: the picture is initialised, with a size in range and no memory of its own yet.
        let result = unsafe { WebPPictureAlloc(&mut self.0) };
        self.check(result)?;
        let picture = &mut self.0;
        let (height, half) = (picture.height as usize, (picture.height as usize).div_ceil(2));
        let planes = [
            (picture.y, picture.y_stride, height),
            (picture.u, picture.uv_stride, half),
            (picture.v, picture.uv_stride, half),
        ];
        for (index, (pointer, stride, rows)) in planes.into_iter().enumerate() {
            let length = stride as usize * rows;
            // SAFETY: WebPPictureAlloc gave each plane its rows times its stride; the bytes are written before they are lent out.
            let plane = unsafe {
                pointer.write_bytes(0, length);
                slice::from_raw_parts_mut(pointer, length)
            };
            fill(index, plane, stride as usize);
        }
        Ok(())
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        // SAFETY: the picture was initialised; freeing one without memory does nothing.
        unsafe { WebPPictureFree(&mut self.0) };
    }
}

/// libwebp's growing output buffer.
struct Writer(WebPMemoryWriter);

impl Writer {
    fn new() -> Self {
        // SAFETY: the struct is plain data, for which zero is valid, and the call sets it up as empty.
        unsafe {
            let mut writer: WebPMemoryWriter = mem::zeroed();
            WebPMemoryWriterInit(&mut writer);
            Self(writer)
        }
    }

    fn bytes(&self) -> &[u8] {
        if self.0.mem.is_null() {
            return &[];
        }
        // SAFETY: libwebp wrote size bytes at mem, and nothing changes them while self is borrowed.
        unsafe { slice::from_raw_parts(self.0.mem, self.0.size) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // SAFETY: the writer was initialised by new.
        unsafe { WebPMemoryWriterClear(&mut self.0) };
    }
}

fn check_length(pixels: &[u8], needed: usize) -> Result<(), WebpError> {
    if pixels.len() < needed { Err(WebpError::Setup("too few pixels")) } else { Ok(()) }
}
