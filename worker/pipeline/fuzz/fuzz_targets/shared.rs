use std::cell::RefCell;
use std::ops::ControlFlow;

use oneiro_pipeline::{Damaged, Format, Output, Processor, Settings, Target, VariantSpec, sniff};

/// Largest image that is decoded: a fuzzer finds more in many small ones.
const MAX_PIXELS: u64 = 1 << 18;

fn settings(damaged: Damaged) -> Settings {
    let mut settings = Settings::default();
    settings.limits.max_pixels = MAX_PIXELS;
    settings.limits.max_animation_pixels = 4 * MAX_PIXELS;
    settings.damaged = damaged;
    let mut moving = VariantSpec::new("moving", Target::LongEdge(20)).with_format(Output::WebP);
    moving.animated = true;
    settings.variants = vec![VariantSpec::new("still", Target::LongEdge(48)), moving];
    settings
}

thread_local! {
    static PROCESSORS: RefCell<[Processor; 2]> =
        RefCell::new([Damaged::Refuse, Damaged::Salvage].map(|damaged| Processor::new(settings(damaged))));
}

/// Processes input of one format; others are another target's business.
pub fn run(format: Format, data: &[u8]) {
    if sniff(data) != Some(format) {
        return;
    }
    PROCESSORS.with_borrow_mut(|processors| {
        for processor in processors {
            if let Err(error) = processor.process(data, &mut |_| ControlFlow::Continue(())) {
                assert!(error.is_permanent(), "{error}");
            }
        }
    });
}
