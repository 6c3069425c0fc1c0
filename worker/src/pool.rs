//! Where images are worked on, never on an async thread: in threads of this process, or in processes of their own.
//!
//! Two bounds admit an image: a place that is free, and its estimated memory within the budget. An image that is larger than the
//! whole budget runs alone rather than never.

mod child;
mod children;
mod threads;
mod wire;

pub(crate) use child::main as child_main;

use bytes::Bytes;
use children::Children;
use oneiro_pipeline::{PipelineError, Processed, Settings, estimate_memory, probe};
use std::{path::PathBuf, sync::Arc, time::Duration};
use threads::Threads;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const MEGABYTE: u64 = 1 << 20;

/// Why an image came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The pipeline says why.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The pipeline in a process of its own says why.
    #[error("{detail}")]
    Refused {
        /// [`PipelineError::code`].
        code: String,
        /// The error as a sentence without its full stop.
        detail: String,
        /// [`PipelineError::is_permanent`].
        is_permanent: bool,
    },
    /// A codec panicked; the place goes on with fresh buffers.
    #[error("a codec panicked on this image")]
    Panicked,
    /// The image's process died of it, or lost its mind.
    #[error("the image makes its decoder crash ({0})")]
    Crashed(String),
    /// The image's process was killed by somebody else: an operator, or the system when memory ran out.
    #[error("the process that decodes the image was killed")]
    Killed,
    /// The image's process was ended because it took too long.
    #[error("decoding the image takes longer than allowed")]
    TimedOut,
    /// The image's process needed more memory than it may have.
    #[error("decoding the image takes more memory than allowed")]
    MemoryLimit,
    /// No process could be started.
    #[error("cannot start a process to decode in")]
    Start(#[source] std::io::Error),
    /// Other images held the places, or the memory, for longer than [`Limits::wait`].
    #[error("other images take all places or all memory")]
    Busy,
    /// The pool is shut down.
    #[error("the worker is stopping")]
    Closed,
}

/// What an image may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Megabytes of decoded pixels of all images together, 1 or more: an image waits until its estimate fits.
    pub budget_mb: u64,
    /// Time until an image is decoded. In a thread it is looked at whenever the decoder reads on, which libjpeg-turbo does not until it is
    /// done; a process is killed.
    pub decode: Duration,
    /// Time that an image waits for a place and its memory, after which it is [`PoolError::Busy`].
    pub wait: Duration,
}

/// Limits of a process that images are decoded in.
#[derive(Debug, Clone)]
pub struct Isolation {
    /// The worker's own program, started with the argument `pipeline-child`.
    pub program: PathBuf,
    /// Address space in megabytes: program, buffers kept between images, and one image.
    pub memory_mb: u64,
    /// CPU seconds for one image, encoding included, 1 or more.
    pub cpu_seconds: u64,
}

/// The places where images are worked on. Dropping the pool lets threads finish what they have, and kills processes.
pub struct Pool {
    places: Places,
    seats: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    budget_mb: u32,
    wait: Duration,
    settings: Settings,
}

/// What an image holds while it is worked on. The place is taken first: an image that still waits for one keeps no memory from others.
struct Admitted {
    _seat: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
}

enum Places {
    Threads(Threads),
    Children(Children),
}

impl Pool {
    /// A pool of `places` threads (1 or more). Called within an async runtime that has a clock.
    ///
    /// # Errors
    /// Where the system does not give a thread.
    ///
    /// # Panics
    /// Outside of an async runtime.
    pub fn threads(settings: Settings, places: usize, limits: Limits) -> std::io::Result<Self> {
        let threads = Threads::start(&settings, places, limits.decode)?;
        Ok(Self::new(Places::Threads(threads), places, settings, limits))
    }

    /// A pool of at most `places` processes (1 or more), each started when it is first needed, and replaced when it is lost.
    pub fn processes(settings: Settings, places: usize, limits: Limits, isolation: Isolation) -> Self {
        let children = Children::new(&settings, limits.decode, isolation);
        Self::new(Places::Children(children), places, settings, limits)
    }

    fn new(places: Places, count: usize, settings: Settings, limits: Limits) -> Self {
        let budget_mb = u32::try_from(limits.budget_mb).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4);
        let (seats, memory) = (Arc::new(Semaphore::new(count)), Arc::new(Semaphore::new(budget_mb as usize)));
        Self { places, seats, memory, budget_mb, wait: limits.wait, settings }
    }

    /// The settings that every image is processed with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Starts a process and sees that it can set itself up, where images are decoded in processes.
    ///
    /// # Errors
    /// [`PoolError::Start`], with what the process said.
    pub async fn check(&self) -> Result<(), PoolError> {
        match &self.places {
            Places::Threads(_) => Ok(()),
            Places::Children(children) => children.check().await,
        }
    }

    /// Makes the variants of one image. The bytes that come out do not depend on where it was worked on.
    ///
    /// # Errors
    /// [`PoolError`].
    ///
    /// # Cancel safety
    /// Dropped, the work stops: in a thread at its next stage, in a process at once. Its result is thrown away.
    pub async fn process(&self, bytes: Bytes) -> Result<Processed, PoolError> {
        // Own code, but over hostile bytes: what it costs, or a bug in it, is not to hold up the async threads.
        let probed = tokio::task::spawn_blocking({
            let (bytes, limits) = (bytes.clone(), self.settings.limits.clone());
            move || probe(&bytes, &limits)
        });
        let header = probed.await.map_err(|_| PoolError::Panicked)??;
        let megabytes = (estimate_memory(&header, &self.settings) + bytes.len() as u64).div_ceil(MEGABYTE).max(1);
        let wanted = u32::try_from(megabytes).unwrap_or(u32::MAX).min(self.budget_mb);
        let waited = std::time::Instant::now();
        let admitted = tokio::time::timeout(self.wait, self.admit(wanted)).await.map_err(|_| PoolError::Busy)??;
        metrics::histogram!("oneiro_memory_wait_seconds").record(waited.elapsed().as_secs_f64());
        match &self.places {
            Places::Threads(threads) => threads.process(bytes, admitted).await,
            Places::Children(children) => children.process(&bytes).await,
        }
    }

    async fn admit(&self, megabytes: u32) -> Result<Admitted, PoolError> {
        let seat = self.seats.clone().acquire_owned().await.map_err(|_| PoolError::Closed)?;
        let memory = self.memory.clone().acquire_many_owned(megabytes).await.map_err(|_| PoolError::Closed)?;
        Ok(Admitted { _seat: seat, _memory: memory })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ONE_PIXEL;

    #[tokio::test]
    async fn an_image_waits_so_long_for_its_place_and_its_memory() {
        let limits = Limits { budget_mb: 100, decode: Duration::from_secs(60), wait: Duration::from_millis(20) };
        let pool = Pool::threads(Settings::default(), 1, limits).unwrap();
        for bound in [&pool.seats, &pool.memory] {
            let all = u32::try_from(bound.available_permits()).unwrap();
            let held = bound.clone().acquire_many_owned(all).await.unwrap();
            assert!(matches!(pool.process(Bytes::from_static(ONE_PIXEL)).await, Err(PoolError::Busy)));
            drop(held);
        }
        // Long enough for a busy machine: what is tested is that nothing is held any more.
        let pool = Pool { wait: Duration::from_secs(60), ..pool };
        pool.process(Bytes::from_static(ONE_PIXEL)).await.unwrap();
    }
}
