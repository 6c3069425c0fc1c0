//! Where images are worked on, never on an async thread: in threads of this process, or in processes of their own.
//!
//! Two bounds admit an image: a place that is free, and its memory within the budget: a quarter of that is for originals, which are there from
//! before their download until the image is done, the rest for what is made of them, estimated. Apart, so that images that wait for the second
//! never hold what the first of them needs. What is larger than its part of the budget has that part to itself rather than never run.

mod child;
mod children;
mod plausible;
mod ready;
mod threads;
mod wire;

pub(crate) use child::main as child_main;

use bytes::Bytes;
use children::Children;
use oneiro_pipeline::{PipelineError, Processed, Settings, estimate_memory, probe};
use plausible::Known;
use std::{path::PathBuf, sync::Arc, time::Duration};
use threads::Threads;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const MEGABYTE: u64 = 1 << 20;
/// The part of the budget that is for originals: one in so many. A photo of 3 MB decodes to some 30.
const ORIGINALS_PART: u32 = 4;

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
    /// Megabytes of all images together, 2 or more: a quarter for originals, the rest for decoded pixels. An image waits until it fits.
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
    originals: Budget,
    pixels: Budget,
    wait: Duration,
    settings: Settings,
}

/// Megabytes that are handed out and come back.
struct Budget {
    free: Arc<Semaphore>,
    megabytes: u32,
}

impl Budget {
    fn new(megabytes: u32) -> Self {
        Self { free: Arc::new(Semaphore::new(megabytes as usize)), megabytes }
    }

    /// Waits for so many bytes, or for the whole budget where they are more.
    async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, PoolError> {
        let wanted = u32::try_from(bytes.div_ceil(MEGABYTE).max(1)).unwrap_or(u32::MAX).min(self.megabytes);
        self.free.clone().acquire_many_owned(wanted).await.map_err(|_| PoolError::Closed)
    }
}

/// Room for an original that is about to be read; see [`Pool::reserve`]. Dropped, the room is free again.
pub struct Reserved {
    _room: OwnedSemaphorePermit,
    bytes: u64,
    /// How long it was waited for: the place and the pixels have the rest of [`Limits::wait`].
    waited: Duration,
}

impl Reserved {
    /// How long its image has waited.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Its image has waited elsewhere for so long.
    pub fn add_wait(&mut self, waited: Duration) {
        self.waited += waited;
    }
}

/// What an image holds while it is worked on. The place is taken first: an image that still waits for one keeps no pixels from others.
struct Admitted {
    _original: Reserved,
    _seat: OwnedSemaphorePermit,
    _pixels: OwnedSemaphorePermit,
}

enum Places {
    Threads(Threads),
    Children(Box<Children>),
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
        Self::new(Places::Children(Box::new(children)), places, settings, limits)
    }

    fn new(places: Places, count: usize, settings: Settings, limits: Limits) -> Self {
        let budget_mb = u32::try_from(limits.budget_mb).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4);
        let originals_mb = (budget_mb / ORIGINALS_PART).max(1);
        Self {
            places,
            seats: Arc::new(Semaphore::new(count)),
            originals: Budget::new(originals_mb),
            pixels: Budget::new(budget_mb.saturating_sub(originals_mb).max(1)),
            wait: limits.wait,
            settings,
        }
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

    /// Waits for room for an original of so many bytes, so that images that are read at the same time stay within the budget.
    ///
    /// # Errors
    /// [`PoolError::Busy`] after [`Limits::wait`].
    ///
    /// # Cancel safety
    /// Nothing is kept where it is dropped.
    pub async fn reserve(&self, bytes: u64) -> Result<Reserved, PoolError> {
        let (room, waited) = in_time(self.wait, self.originals.take(bytes)).await?;
        Ok(Reserved { _room: room, bytes, waited })
    }

    /// [`Pool::process_reserved`] for an image that is in memory anyway.
    ///
    /// # Errors
    /// [`PoolError`].
    pub async fn process(&self, bytes: Bytes) -> Result<Processed, PoolError> {
        let reserved = self.reserve(bytes.len() as u64).await?;
        self.process_reserved(bytes, reserved).await
    }

    /// Makes the variants of one image. The bytes that come out do not depend on where it was worked on.
    ///
    /// # Errors
    /// [`PoolError`].
    ///
    /// # Cancel safety
    /// Dropped, the work stops: in a thread at its next stage, in a process at once. Its result is thrown away.
    pub async fn process_reserved(&self, bytes: Bytes, reserved: Reserved) -> Result<Processed, PoolError> {
        // Own code, but over hostile bytes: what it costs, or a bug in it, is not to hold up the async threads.
        let probed = tokio::task::spawn_blocking({
            let (bytes, limits) = (bytes.clone(), self.settings.limits.clone());
            move || probe(&bytes, &limits)
        });
        let header = probed.await.map_err(|_| PoolError::Panicked)??;
        // A converter gives more than the original had.
        let unreserved = (bytes.len() as u64).saturating_sub(reserved.bytes);
        let wanted = estimate_memory(&header, &self.settings) + unreserved;
        let left = self.wait.saturating_sub(reserved.waited);
        let (admitted, _) = in_time(left, self.admit(wanted, reserved)).await?;
        match &self.places {
            Places::Threads(threads) => threads.process(bytes, admitted).await,
            Places::Children(children) => {
                children.process(&bytes, &Known { settings: &self.settings, header: &header }).await
            }
        }
    }

    async fn admit(&self, bytes: u64, original: Reserved) -> Result<Admitted, PoolError> {
        let seat = self.seats.clone().acquire_owned().await.map_err(|_| PoolError::Closed)?;
        Ok(Admitted { _original: original, _seat: seat, _pixels: self.pixels.take(bytes).await? })
    }
}

/// What is waited for and how long it took, or [`PoolError::Busy`].
async fn in_time<T>(
    most: Duration,
    wanted: impl Future<Output = Result<T, PoolError>>,
) -> Result<(T, Duration), PoolError> {
    let began = std::time::Instant::now();
    let got = tokio::time::timeout(most, wanted).await.map_err(|_| PoolError::Busy)??;
    let waited = began.elapsed();
    metrics::histogram!("oneiro_memory_wait_seconds").record(waited.as_secs_f64());
    Ok((got, waited))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ONE_PIXEL;

    #[tokio::test]
    async fn an_image_waits_so_long_for_its_place_and_its_memory() {
        let limits = Limits { budget_mb: 100, decode: Duration::from_secs(60), wait: Duration::from_millis(20) };
        let pool = Pool::threads(Settings::default(), 1, limits).unwrap();
        for bound in [&pool.seats, &pool.originals.free, &pool.pixels.free] {
            let all = u32::try_from(bound.available_permits()).unwrap();
            let held = bound.clone().acquire_many_owned(all).await.unwrap();
            assert!(matches!(pool.process(Bytes::from_static(ONE_PIXEL)).await, Err(PoolError::Busy)));
            drop(held);
        }
        // Long enough for a busy machine: what is tested is that nothing is held any more.
        let pool = Pool { wait: Duration::from_secs(60), ..pool };
        pool.process(Bytes::from_static(ONE_PIXEL)).await.unwrap();
    }

    #[tokio::test]
    async fn originals_wait_for_room_before_they_are_read_and_never_for_each_other() {
        let limits = Limits { budget_mb: 40, decode: Duration::from_secs(60), wait: Duration::from_millis(20) };
        let pool = Pool::threads(Settings::default(), 2, limits).unwrap();
        let (six, four) = (pool.reserve(6 * MEGABYTE).await.unwrap(), pool.reserve(4 * MEGABYTE).await.unwrap());
        assert!(matches!(pool.reserve(1).await, Err(PoolError::Busy)), "a quarter of the budget is given away");
        drop(four);
        assert!(matches!(pool.reserve(5 * MEGABYTE).await, Err(PoolError::Busy)));
        drop(six);
        drop(pool.reserve(1000 * MEGABYTE).await.expect("alone, though larger than all"));

        let pool = Arc::new(Pool { wait: Duration::from_secs(60), ..pool });
        let images: Vec<_> = (0..16)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move {
                    let reserved = pool.reserve(5 * MEGABYTE).await?;
                    pool.process_reserved(Bytes::from_static(ONE_PIXEL), reserved).await
                })
            })
            .collect();
        for image in images {
            assert_eq!(image.await.unwrap().unwrap().header.width, 1);
        }
        assert_eq!(pool.originals.free.available_permits(), 10);
        assert_eq!(pool.pixels.free.available_permits(), 30);
    }
}
