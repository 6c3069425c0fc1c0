//! What a worker and the process that it decodes in say to each other, over the child's standard input and output.
//!
//! | from | bytes |
//! |---|---|
//! | worker, once | `u32` length, JSON [`Setup`], then the watermark's file |
//! | worker, for each image | `u64` length, the image |
//! | child, once | [`READY`], when it is set up |
//! | child, for each image | [`DECODED`] once the pixels are decoded, of an animation the first frame's (not where that fails), then [`ANSWER`], `u32` length, JSON [`Answer`], then the variants' files |
//!
//! Integers are little endian. The child is believed nothing: whoever got hold of it through a codec may say anything, so lengths are
//! bounded and every word must be one of these.

use oneiro_pipeline::{PipelineError, Processed, Settings};
use serde::{Deserialize, Serialize};

/// The child has set itself up: what happens from here on is an image's doing.
pub(super) const READY: u8 = b'r';
/// The child has decoded the image.
pub(super) const DECODED: u8 = b'd';
/// The child is done with the image.
pub(super) const ANSWER: u8 = b'a';
/// Longest JSON of an answer: 32 variants take some 4 KiB.
pub(super) const MAX_ANSWER_BYTES: u32 = 64 << 10;
/// Most bytes of all variants of one image: 64 megapixels of an RGBA picture that cannot be packed, twice.
pub(super) const MAX_VARIANTS_BYTES: u64 = 512 << 20;

/// How the child is set up.
#[derive(Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) settings: Settings,
    pub(super) watermark_bytes: Option<u64>,
    pub(super) memory_bytes: u64,
    pub(super) cpu_seconds: u64,
    pub(super) decode_ms: u64,
}

/// What became of an image.
#[derive(Serialize, Deserialize)]
pub(super) enum Answer {
    /// The result, with the sizes of the variants' files, which follow.
    Processed { processed: Processed, sizes: Vec<u64> },
    /// The pipeline's error.
    Refused { code: String, detail: String, is_permanent: bool },
    /// A codec panicked. The child goes on.
    Panicked,
}

impl Answer {
    pub(super) fn refused(error: &PipelineError) -> Self {
        let (code, is_permanent) = match error {
            // What is short here is not the machine's memory but the child's allowance, and that stays the same.
            PipelineError::OutOfMemory { .. } => ("memory_limit", true),
            error => (error.code(), error.is_permanent()),
        };
        Self::Refused { code: code.to_owned(), detail: error.to_string(), is_permanent }
    }
}
