//! Sniffing and header parsing of anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneiro_pipeline::{Limits, Settings, estimate_memory, probe, sniff};

fuzz_target!(|data: &[u8]| {
    let _ = sniff(data);
    if let Ok(header) = probe(data, &Limits::default()) {
        let _ = estimate_memory(&header, &Settings::default());
    }
});
