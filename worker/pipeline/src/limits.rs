use serde::{Deserialize, Serialize};

/// What an input may ask for. All but the scan limits are checked from the header, before a pixel is decoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {
    /// Size of the file in bytes. Default 50 MB.
    pub max_file_bytes: u64,
    /// Width times height of one frame. Default 64,000,000.
    pub max_pixels: u64,
    /// Width or height in pixels. Default 16,384. A format's own limit (JPEG: 65,535; WebP: 16,383) holds besides.
    pub max_side_px: u32,
    /// Frames of an animation that a variant wants animated. Default 200. Stills take the first frame of any animation of up to
    /// [`max_listed_frames`](Self::max_listed_frames).
    pub max_frames: u32,
    /// Frames that a file may list at all, even where only the first is used. Default 10,000.
    pub max_listed_frames: u32,
    /// Pixels of all frames, each counted as the whole canvas at the least, where a variant is animated. Default 50,000,000.
    pub max_animation_pixels: u64,
    /// ICC profile in bytes, unpacked. Default 4 MiB.
    pub max_icc_bytes: u64,
    /// EXIF block in bytes. Default 1 MiB.
    pub max_exif_bytes: u64,
    /// Scans of a JPEG that is progressive or keeps its components apart. Default 100.
    pub max_scans: u32,
    /// Scans times pixels of such a JPEG: every scan touches every coefficient, so this bounds the decoder's time. Default
    /// 1,000,000,000, at most about 10 s on one core; a photo of 64 megapixels usually has 10 scans.
    pub max_scan_pixels: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_file_bytes: 50_000_000,
            max_pixels: 64_000_000,
            max_side_px: 16_384,
            max_frames: 200,
            max_listed_frames: 10_000,
            max_animation_pixels: 50_000_000,
            max_icc_bytes: 4 << 20,
            max_exif_bytes: 1 << 20,
            max_scans: 100,
            max_scan_pixels: 1_000_000_000,
        }
    }
}
