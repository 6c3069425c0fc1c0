//! Avif, from bytes to variants.
#![no_main]

mod shared;

use libfuzzer_sys::fuzz_target;
use oneiro_pipeline::Format;

fuzz_target!(|data: &[u8]| shared::run(Format::Avif, data));
