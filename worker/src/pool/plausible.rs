//! What is believed of a child: whoever got hold of it through a codec may answer anything, and an answer becomes object keys, a record that
//! browsers read, and memory.

use super::wire::Answer;
use oneiro_pipeline::{Encoded, Header, Output, Processed, Settings};

/// Most bytes of a pixel in any file that the pipeline writes, noise in the worst of them included.
const BYTES_A_PIXEL: u64 = 16;
/// Most bytes of a file beside its pixels and what EXIF is kept.
const FRAME_BYTES: u64 = 64 << 10;
/// A thumbhash takes some 28 characters.
const MAX_PLACEHOLDER_CHARS: usize = 64;
const MAX_CODE_CHARS: usize = 40;
const MAX_DETAIL_BYTES: usize = 500;

/// What the worker itself knows of the image that a child works on.
pub(super) struct Known<'a> {
    pub(super) settings: &'a Settings,
    pub(super) header: &'a Header,
}

impl Known<'_> {
    /// True where the answer may be one to this image. The sizes are those that the files are about to have.
    pub(super) fn allows(&self, answer: &Answer) -> bool {
        match answer {
            Answer::Processed { processed, sizes } => self.allows_processed(processed, sizes),
            Answer::Refused { code, detail, .. } => {
                let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
                (1..=MAX_CODE_CHARS).contains(&code.len())
                    && code.bytes().all(is_word)
                    && detail.len() <= MAX_DETAIL_BYTES
                    && !detail.contains(char::is_control)
            }
            Answer::Panicked => true,
        }
    }

    fn allows_processed(&self, processed: &Processed, sizes: &[u64]) -> bool {
        let wanted = &self.settings.variants;
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
        let colour = processed.dominant_color.strip_prefix('#');
        processed.header == *self.header
            && processed.variants.len() == wanted.len()
            && sizes.len() == wanted.len()
            && processed.variants.iter().zip(sizes).zip(wanted).all(|((variant, size), wanted)| {
                variant.name == wanted.name && variant.format == wanted.format && self.allows_size(variant, *size)
            })
            && processed.placeholder.len() <= MAX_PLACEHOLDER_CHARS
            && processed.placeholder.bytes().all(is_base64)
            && colour.is_some_and(|digits| digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// Nothing is ever enlarged, and no picture takes more than it has pixels for.
    fn allows_size(&self, variant: &Encoded, size: u64) -> bool {
        let pixels = u64::from(variant.width) * u64::from(variant.height) * u64::from(variant.frames);
        (1..=self.header.width).contains(&variant.width)
            && (1..=self.header.height).contains(&variant.height)
            && (1..=self.header.frames.max(1)).contains(&variant.frames)
            && size <= pixels.saturating_mul(BYTES_A_PIXEL) + FRAME_BYTES + self.settings.limits.max_exif_bytes
    }
}

/// True where the file begins as one of its format does: what is stored is served under that type.
pub(super) fn begins_as(format: Output, bytes: &[u8]) -> bool {
    oneiro_pipeline::sniff(bytes).is_some_and(|found| found.mime() == format.mime())
}
