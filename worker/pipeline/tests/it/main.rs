//! The pipeline from outside: real photographs, every format, hostile files, and quality against a slow reference.

mod animation;
#[cfg(feature = "avif")]
mod avif;
mod bombs;
mod colour;
#[cfg(feature = "avif")]
mod deep_avif;
mod formats;
mod hostile;
#[cfg(target_os = "linux")]
mod memory;
mod mutation;
mod quality;
mod support;
mod watermark;
