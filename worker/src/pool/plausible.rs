//! What is believed of a child: whoever got hold of it through a codec may answer anything, and an answer becomes object keys, a record that
//! browsers read, and memory.

use super::wire::Answer;
use oneiro_pipeline::{Encoded, Format, Header, Output, Processed, Settings, VariantSpec};

/// Most bytes of a pixel in any file that the pipeline writes, noise in the worst of them included.
const BYTES_A_PIXEL: u64 = 16;
/// Most bytes of a file beside its frames and what EXIF is kept.
const FILE_BYTES: u64 = 64 << 10;
/// Most bytes that a frame takes beside its pixels.
const BYTES_A_FRAME: u64 = 256;
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
                variant.name == wanted.name
                    && variant.format == wanted.format
                    && self.allows_size(wanted, variant, *size)
            })
            && processed.placeholder.len() <= MAX_PLACEHOLDER_CHARS
            && processed.placeholder.bytes().all(is_base64)
            && colour.is_some_and(|digits| digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// The variant's own size, as many frames as it may have, and no more bytes than these have pixels for.
    fn allows_size(&self, wanted: &VariantSpec, variant: &Encoded, size: u64) -> bool {
        let is_animation = wanted.animated && matches!(self.header.format, Format::Gif | Format::WebP);
        let most_frames = if is_animation { self.header.frames.max(1) } else { 1 };
        let frames = u64::from(variant.frames);
        let pixels = u64::from(variant.width) * u64::from(variant.height) * frames;
        let most_bytes = pixels.saturating_mul(BYTES_A_PIXEL) + frames * BYTES_A_FRAME + FILE_BYTES;
        (variant.width, variant.height) == wanted.size(self.header.width, self.header.height)
            && (1..=most_frames).contains(&variant.frames)
            && size <= most_bytes + self.settings.limits.max_exif_bytes
    }
}

/// True where the file begins as one of its format does: what is stored is served under that type.
pub(super) fn begins_as(format: Output, bytes: &[u8]) -> bool {
    oneiro_pipeline::sniff(bytes).is_some_and(|found| found.mime() == format.mime())
}
