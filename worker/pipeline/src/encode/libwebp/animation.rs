//! libwebp's encoder for animations.

use std::{mem, ptr, slice};

use libwebp_sys::{
    WEBP_MUX_ABI_VERSION, WebPAnimEncoder, WebPAnimEncoderAdd, WebPAnimEncoderAssemble, WebPAnimEncoderDelete,
    WebPAnimEncoderNewInternal, WebPAnimEncoderOptions, WebPAnimEncoderOptionsInitInternal, WebPConfig, WebPData,
    WebPFree,
};

use super::{Options, Picture, Pixels, WebpError, config};

/// Takes frames one by one and gives the file at the end.
pub(in crate::encode) struct Animation {
    /// Never null; owned.
    encoder: *mut WebPAnimEncoder,
    config: WebPConfig,
    size: (usize, usize),
}

impl Animation {
    /// An animation of `size` pixels that plays `loops` times; 0 is for ever.
    pub(in crate::encode) fn new(size: (usize, usize), loops: u16, options: Options) -> Result<Self, WebpError> {
        let config = config(options)?;
        let abi = WEBP_MUX_ABI_VERSION as i32;
        // SAFETY: the struct is plain data, for which zero is valid; the call fills it, and its result is checked.
        let mut setup: WebPAnimEncoderOptions = unsafe { mem::zeroed() };
        // SAFETY: the pointer is to a live struct of the ABI version that is named.
        if unsafe { WebPAnimEncoderOptionsInitInternal(&mut setup, abi) } == 0 {
            return Err(WebpError::Setup("its own version"));
        }
        setup.anim_params.loop_count = i32::from(loops);
        // SAFETY: setup is initialised, and is copied by the call.
        let encoder = unsafe { WebPAnimEncoderNewInternal(size.0 as i32, size.1 as i32, &setup, abi) };
        if encoder.is_null() { Err(WebpError::Setup("the size")) } else { Ok(Self { encoder, config, size }) }
    }

    /// Adds a whole frame of unmultiplied RGBA that is shown from `at_ms` on. Times must grow.
    pub(in crate::encode) fn add(&mut self, rgba: &[u8], at_ms: i32) -> Result<(), WebpError> {
        let mut picture = Picture::new(self.size.0, self.size.1, &Pixels::Rgba(rgba), true)?;
        // SAFETY: the encoder is live; the picture has pixels of the encoder's size and is copied by the call; config is validated.
        let is_added = unsafe { WebPAnimEncoderAdd(self.encoder, &mut picture.0, at_ms, &self.config) } != 0;
        if is_added { Ok(()) } else { Err(picture.0.error_code.into()) }
    }

    /// The file. `end_ms` is when the last frame ends.
    pub(in crate::encode) fn finish(self, end_ms: i32) -> Result<Vec<u8>, WebpError> {
        let mut data = WebPData { bytes: ptr::null(), size: 0 };
        // SAFETY: the encoder is live; a null frame with the end time is how the last frame is closed.
        let is_closed = unsafe { WebPAnimEncoderAdd(self.encoder, ptr::null_mut(), end_ms, ptr::null()) } != 0;
        // SAFETY: the encoder is live, and data is an empty, writable struct.
        if !is_closed || unsafe { WebPAnimEncoderAssemble(self.encoder, &mut data) } == 0 || data.bytes.is_null() {
            return Err(WebpError::Setup("to assemble the frames"));
        }
        // SAFETY: the call gave size bytes at bytes, which are ours to read and to free.
        unsafe {
            let bytes = slice::from_raw_parts(data.bytes, data.size).to_vec();
            WebPFree(data.bytes.cast_mut().cast());
            Ok(bytes)
        }
    }
}

impl Drop for Animation {
    fn drop(&mut self) {
        // SAFETY: the encoder is live and owned.
        unsafe { WebPAnimEncoderDelete(self.encoder) };
    }
}
