//! Pixel buffers kept from one image to the next. A 12-megapixel photo decodes to 18 MB of planes: asking the system for that
//! memory anew costs about 5 ms of page faults an image.

use crate::PipelineError;

/// Most bytes kept between images; the rest goes back to the system. Enough for a photo of 12 megapixels in full colour and its variants.
const KEEP_BYTES: usize = 64 << 20;
/// Most buffers kept.
const KEEP_BUFFERS: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Buffers {
    free: Vec<Vec<u8>>,
}

impl Buffers {
    /// A buffer of at least `len` bytes. What is in it is left from earlier use: the caller writes all that it will read.
    pub(crate) fn take(&mut self, len: usize) -> Result<Vec<u8>, PipelineError> {
        let fits = self
            .free
            .iter()
            .enumerate()
            .filter(|(_, buffer)| buffer.len() >= len)
            .min_by_key(|(_, buffer)| buffer.len());
        if let Some((index, _)) = fits {
            return Ok(self.free.swap_remove(index));
        }
        // None is large enough: replace the largest, so that growing images do not pile up outgrown buffers.
        let largest = self.free.iter().enumerate().max_by_key(|(_, buffer)| buffer.len()).map(|(index, _)| index);
        if let Some(index) = largest {
            self.free.swap_remove(index);
        }
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(len).map_err(|_| PipelineError::OutOfMemory { bytes: len as u64 })?;
        buffer.resize(len, 0);
        Ok(buffer)
    }

    /// Gives a buffer back for later use.
    pub(crate) fn put(&mut self, buffer: Vec<u8>) {
        self.free.push(buffer);
        while self.free.len() > KEEP_BUFFERS || self.free.iter().map(Vec::len).sum::<usize>() > KEEP_BYTES {
            let Some((index, _)) = self.free.iter().enumerate().max_by_key(|(_, buffer)| buffer.len()) else { break };
            self.free.swap_remove(index);
        }
    }
}
