//! Bytes in, encoded image variants out.
//!
//! The crate takes an untrusted image file and produces the variants that the [`Settings`] ask for, with a placeholder, a
//! dominant colour and a perceptual hash. It does no I/O, is not async, reads no clock and keeps no global state, so it can be fuzzed
//! and measured alone. Limits are checked from the header before a pixel is decoded, and every failure carries a stable code.
//!
//! # Example
//! ```
//! use std::ops::ControlFlow;
//! use oneiro_pipeline::{Processor, Settings};
//!
//! let gif = b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
//! let mut processor = Processor::new(Settings::default());
//! let processed = processor.process(gif, &mut |_stage| ControlFlow::Continue(()))?;
//! assert_eq!(processed.variants.len(), 3);
//! # Ok::<(), oneiro_pipeline::PipelineError>(())
//! ```

mod buffers;
mod colour;
mod control;
mod decode;
mod encode;
mod error;
mod format;
mod geometry;
mod header;
mod limits;
mod memory;
mod orient;
mod plan;
mod processor;
mod raster;
mod resize;
mod settings;
mod summary;
mod watermark;

pub use control::{Control, Stage, Stop};
pub use error::PipelineError;
pub use format::{Format, sniff};
pub use header::{Header, probe};
pub use limits::Limits;
pub use memory::estimate_memory;
pub use processor::{Encoded, Processed, Processor};
pub use settings::{Chroma, Damaged, Fit, Gravity, Output, Rgb, Settings, Target, VariantSpec, Watermark};

/// Version of what the pipeline makes of an input, part of [`Settings::fingerprint`]. Raised whenever the same input and settings
/// would give other bytes.
pub const PIPELINE_VERSION: u32 = 2;
