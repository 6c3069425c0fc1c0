use crate::Format;

/// Boxed cause of a codec failure.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an image could not be processed.
///
/// Everything but [`OutOfMemory`](Self::OutOfMemory), [`Cancelled`](Self::Cancelled), [`Encode`](Self::Encode) and
/// [`InvalidSettings`](Self::InvalidSettings) is a property of the input: running the job again cannot help, see
/// [`is_permanent`](Self::is_permanent).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The input has no bytes.
    #[error("the file is empty")]
    EmptyFile,
    /// The input is larger than [`Limits::max_file_bytes`](crate::Limits::max_file_bytes).
    #[error("the file has {size_bytes} bytes, more than the {max_bytes} allowed")]
    FileTooLarge {
        /// Size of the input.
        size_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// The content is not a known image format, or a known one that is never decoded.
    #[error("{}", describe_unsupported(*detected))]
    UnsupportedFormat {
        /// What the content was recognised as.
        detected: Option<Format>,
    },
    /// A supported format that uses a feature no decoder here has, such as 12-bit or lossless JPEG.
    #[error("the {format} file uses {feature}, which is not supported")]
    UnsupportedFeature {
        /// Format of the input.
        format: Format,
        /// The feature, in words.
        feature: &'static str,
    },
    /// The file breaks the rules of its format.
    #[error("the {format} file is damaged: {reason}")]
    Corrupt {
        /// Format of the input.
        format: Format,
        /// What was found to be wrong.
        reason: &'static str,
        /// The codec's own error, where it was the codec that found it.
        #[source]
        source: Option<Cause>,
    },
    /// The file ends before its pixels do.
    #[error("the {format} file is cut off before its end")]
    Truncated {
        /// Format of the input.
        format: Format,
    },
    /// Width times height is over [`Limits::max_pixels`](crate::Limits::max_pixels).
    #[error("the image has {width} x {height} pixels, more than the {max_pixels} allowed in all")]
    TooManyPixels {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The limit.
        max_pixels: u64,
    },
    /// A side is over [`Limits::max_side_px`](crate::Limits::max_side_px).
    #[error("the image is {width} x {height} pixels, longer than the {max_side_px} allowed on a side")]
    SideTooLong {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The limit.
        max_side_px: u32,
    },
    /// The animation has more frames than allowed.
    #[error("the animation has more than the {max_frames} frames allowed")]
    TooManyFrames {
        /// The limit that was passed.
        max_frames: u32,
    },
    /// All frames of the animation together have more pixels than
    /// [`Limits::max_animation_pixels`](crate::Limits::max_animation_pixels).
    #[error("the animation has {pixels} pixels in all its frames, more than the {max_pixels} allowed")]
    AnimationTooLarge {
        /// Pixels of all frames, each counted as the canvas at the least.
        pixels: u64,
        /// The limit.
        max_pixels: u64,
    },
    /// A JPEG has more scans than [`Limits::max_scans`](crate::Limits::max_scans), or scans times pixels is over
    /// [`Limits::max_scan_pixels`](crate::Limits::max_scan_pixels).
    #[error("the image has {scans} scans, more work than allowed")]
    TooManyScans {
        /// Scans counted.
        scans: u32,
    },
    /// The decoder's tables alone would take more memory than a picture of that kind is worth.
    #[error("the {format} file needs more memory for its coding tables than allowed")]
    TooComplex {
        /// Format of the input.
        format: Format,
    },
    /// An ICC profile or EXIF block is over its limit.
    #[error("the {kind} block is larger than the {max_bytes} bytes allowed")]
    MetadataTooLarge {
        /// `ICC` or `EXIF`.
        kind: &'static str,
        /// The limit.
        max_bytes: u64,
    },
    /// The control callback asked to stop.
    #[error("the work was cancelled")]
    Cancelled,
    /// The control callback said that it takes too long. Permanent: the same file takes as long again.
    #[error("decoding the image takes longer than allowed")]
    TimedOut,
    /// A buffer could not be allocated. Worth another try on a machine with free memory.
    #[error("out of memory: {bytes} bytes were needed")]
    OutOfMemory {
        /// Size of the allocation that failed; where a codec does not tell, what it needs beside the pixels.
        bytes: u64,
    },
    /// An encoder or the resizer failed: a bug here or in a codec, not in the input.
    #[error("failed to produce variant data: {reason}")]
    Encode {
        /// Which step failed.
        reason: &'static str,
        /// The codec's own error.
        #[source]
        source: Option<Cause>,
    },
    /// The settings contradict themselves, found by [`Settings::validate`](crate::Settings::validate).
    #[error("invalid image settings: {0}")]
    InvalidSettings(String),
}

impl PipelineError {
    /// Stable, machine-readable name of the failure. Codes are never renamed; new ones may be added.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::EmptyFile => "empty_file",
            Self::FileTooLarge { .. } => "file_too_large",
            Self::UnsupportedFormat { .. } => "unsupported_format",
            Self::UnsupportedFeature { .. } => "unsupported_feature",
            Self::Corrupt { .. } => "corrupt_image",
            Self::Truncated { .. } => "truncated_image",
            Self::TooManyPixels { .. } => "too_many_pixels",
            Self::SideTooLong { .. } => "side_too_long",
            Self::TooManyFrames { .. } => "too_many_frames",
            Self::AnimationTooLarge { .. } => "animation_too_large",
            Self::TooManyScans { .. } => "too_many_scans",
            Self::TooComplex { .. } => "too_complex",
            Self::MetadataTooLarge { .. } => "metadata_too_large",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "decode_timeout",
            Self::OutOfMemory { .. } => "out_of_memory",
            Self::Encode { .. } => "encode_failed",
            Self::InvalidSettings(_) => "invalid_settings",
        }
    }

    /// True where the same bytes can never succeed, so that the job should not be retried. Wrong settings are not the input's fault: a
    /// worker with right ones may come.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Cancelled | Self::OutOfMemory { .. } | Self::Encode { .. } | Self::InvalidSettings(_))
    }

    pub(crate) fn corrupt(format: Format, reason: &'static str) -> Self {
        Self::Corrupt { format, reason, source: None }
    }

    pub(crate) fn undecodable(format: Format, source: impl Into<Cause>) -> Self {
        Self::Corrupt { format, reason: "its pixels cannot be decoded", source: Some(source.into()) }
    }

    pub(crate) fn encode(reason: &'static str, source: impl Into<Cause>) -> Self {
        Self::Encode { reason, source: Some(source.into()) }
    }
}

fn describe_unsupported(detected: Option<Format>) -> String {
    match detected {
        Some(format) => format!("{format} files are not supported"),
        None => "the file is not an image of a known format".to_owned(),
    }
}
