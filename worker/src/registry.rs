//! Which handler runs which kind of job: one line a kind.

use crate::{
    Shared,
    jobs::{delete_images, process_image},
};
use apalis::prelude::{Monitor, WorkerBuilder, WorkerBuilderExt};
use apalis_fred::{Canary, FredStorage, WorkerOptions};
use oneiro_core::jobs::{DeleteImages, ProcessImage};
use std::{sync::Arc, time::Duration};

/// Deletions wait for the object store only, so several run at once.
const DELETES_AT_ONCE: usize = 8;

/// How much a worker process does at once.
pub(crate) struct Plan {
    /// Name that its workers carry.
    pub(crate) name: String,
    /// Image jobs in flight: more than there are threads for pixels, so that transfers overlap with work.
    pub(crate) images_at_once: usize,
    /// Time for running jobs after the stop signal.
    pub(crate) grace: Duration,
    /// Looks at all workers of this process.
    pub(crate) canary: Canary,
}

/// Adds a worker to the monitor: the job's type, its queue, how many at once, its handler.
macro_rules! serve {
    ($monitor:expr, $plan:expr, $shared:expr, $kind:ty, $queue:ident, $at_once:expr, $handler:path) => {{
        let (shared, at_once): (Arc<Shared>, usize) = ($shared.clone(), $at_once);
        let name = format!("{}-{}", $plan.name, stringify!($queue));
        let options = WorkerOptions {
            concurrency: at_once,
            shutdown_grace: $plan.grace,
            canary: $plan.canary.clone(),
            ..WorkerOptions::default()
        };
        $monitor.register(move |_| {
            WorkerBuilder::new(name.as_str())
                .backend(FredStorage::<$kind>::new(shared.queues.$queue.clone(), options.clone()))
                .concurrency(at_once)
                .data(shared.clone())
                .build($handler)
        })
    }};
}

/// Every kind of job that this program knows.
pub(crate) fn register(monitor: Monitor, plan: &Plan, shared: &Arc<Shared>) -> Monitor {
    let monitor = serve!(monitor, plan, shared, ProcessImage, images, plan.images_at_once, process_image);
    serve!(monitor, plan, shared, DeleteImages, deletes, DELETES_AT_ONCE, delete_images)
}
