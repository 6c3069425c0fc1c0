//! Broken on purpose: small sound files with bytes changed, removed, doubled and swapped. Whatever comes in, the answer is a result
//! within the limits or a permanent error with a code; never a panic. Deterministic, so that a failure can be run again.

use image::{DynamicImage, ImageFormat};
use oneiro_pipeline::{Damaged, Limits, Output, Processor, Settings, Target, VariantSpec, probe, sniff};
use turbojpeg::Subsamp;

use crate::support::{encode, jpeg, scene, with_exif};

/// Mutants tried of each file.
const ROUNDS: u64 = 250;

/// SplitMix64 (Steele et al., OOPSLA 2014): enough to choose bytes, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((value ^ (value >> 31)) % below.max(1) as u64) as usize
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let picture = scene(61, 43);
    let rgb = DynamicImage::from(picture.clone());
    let rgba = DynamicImage::from(rgb.to_rgba8());
    vec![
        with_exif(&jpeg(&picture, 80, Subsamp::Sub2x2, false), 6),
        jpeg(&picture, 80, Subsamp::None, true),
        jpeg(&picture, 80, Subsamp::Sub1x2, true),
        jpeg(&picture, 80, Subsamp::Gray, false),
        encode(&rgb, ImageFormat::Png),
        encode(&rgba, ImageFormat::Png),
        encode(&DynamicImage::from(rgb.to_luma16()), ImageFormat::Png),
        encode(&rgb, ImageFormat::Gif),
        encode(&rgb, ImageFormat::WebP),
        encode(&rgba, ImageFormat::Bmp),
        include_bytes!("seeds/lossy.webp").to_vec(),
        include_bytes!("seeds/moving.webp").to_vec(),
        include_bytes!("seeds/moving.gif").to_vec(),
    ]
}

fn mutate(random: &mut Random, file: &[u8]) -> Vec<u8> {
    let mut mutant = file.to_vec();
    for _ in 0..=random.next(4) {
        let at = random.next(mutant.len());
        // Headers decide most: half of the changes go there.
        let at = if random.next(2) == 0 { at % 128.min(mutant.len().max(1)) } else { at };
        if mutant.len() < 8 {
            break;
        }
        let length = 1 + random.next(16.min(mutant.len() - at));
        match random.next(6) {
            0 => mutant[at] ^= 1 << random.next(8),
            1 => mutant[at] = [0, 1, 0x7f, 0x80, 0xff][random.next(5)],
            2 => mutant.truncate(at),
            3 => drop(mutant.drain(at..(at + length).min(mutant.len()))),
            4 => {
                let piece = mutant[at..(at + length).min(mutant.len())].to_vec();
                mutant.splice(at..at, piece);
            }
            _ => {
                let from = random.next(mutant.len());
                mutant.swap(at, from);
            }
        }
    }
    mutant
}

#[test]
fn no_mutant_gets_through_or_brings_anything_down() {
    let limits = Limits::default();
    let mut settings = Settings::default();
    settings.limits.max_pixels = 1 << 20;
    let mut moving = VariantSpec::new("moving", Target::LongEdge(20)).with_format(Output::WebP);
    moving.animated = true;
    settings.variants = vec![VariantSpec::new("still", Target::LongEdge(30)), moving];
    let mut salvaging = settings.clone();
    salvaging.damaged = Damaged::Salvage;
    let mut processors = [Processor::new(settings), Processor::new(salvaging)];
    let mut survivors = 0;
    for (index, file) in corpus().iter().enumerate() {
        for round in 0..ROUNDS {
            let mut random = Random((index as u64) << 32 | round);
            let mutant = mutate(&mut random, file);
            let _ = (sniff(&mutant), probe(&mutant, &limits).is_ok());
            for processor in &mut processors {
                match processor.process(&mutant, &mut |_| std::ops::ControlFlow::Continue(())) {
                    Ok(processed) => {
                        survivors += 1;
                        assert!(processed.variants.iter().all(|variant| variant.width <= 30 && variant.height <= 30));
                    }
                    Err(error) => assert!(error.is_permanent(), "{error}: file {index}, round {round}"),
                }
            }
        }
    }
    assert!(survivors > 100, "mutants that harmless changes leave sound: {survivors}");
}
