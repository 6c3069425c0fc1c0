//! Threads that work on pixels, so that no async thread ever does. One [`Processor`] a thread keeps its buffers between images.
//!
//! Two bounds admit an image: a thread that is free, and its estimated memory within the budget. An image that is larger than the
//! whole budget runs alone rather than never.

use bytes::Bytes;
use oneiro_pipeline::{PipelineError, Processed, Processor, Settings, Stage, estimate_memory, probe};
use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

const MEGABYTE: u64 = 1 << 20;

/// Why an image came to nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The pipeline says why.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A codec panicked; the thread goes on with fresh buffers.
    #[error("a codec panicked on this image")]
    Panicked,
    /// The pool is shut down.
    #[error("the worker is stopping")]
    Closed,
}

struct Order {
    bytes: Bytes,
    is_unwanted: Arc<AtomicBool>,
    /// Given back when the thread is done with the image, also where nobody waits for it any more.
    admitted: OwnedSemaphorePermit,
    answer: oneshot::Sender<Result<Processed, PoolError>>,
}

/// The threads. Dropping the pool lets them finish what they have and end.
pub struct Pool {
    orders: mpsc::Sender<Order>,
    memory: Arc<Semaphore>,
    budget_mb: u32,
    settings: Settings,
}

impl Pool {
    /// Starts `threads` threads (1 or more) with a budget of `budget_mb` megabytes for decoded pixels (1 or more).
    ///
    /// # Errors
    /// Where the system does not give a thread.
    pub fn start(settings: Settings, threads: usize, budget_mb: u64) -> std::io::Result<Self> {
        // One order waits per thread; more wait in their own futures, with their memory not yet admitted.
        let (orders, inbox) = mpsc::channel(threads);
        let inbox = Arc::new(Mutex::new(inbox));
        for number in 0..threads {
            let (inbox, settings) = (inbox.clone(), settings.clone());
            thread::Builder::new().name(format!("pixels-{number}")).spawn(move || work(&inbox, &settings))?;
        }
        let budget_mb = u32::try_from(budget_mb).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4);
        Ok(Self { orders, memory: Arc::new(Semaphore::new(budget_mb as usize)), budget_mb, settings })
    }

    /// The settings that every image is processed with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes the variants of one image.
    ///
    /// # Errors
    /// [`PoolError`].
    ///
    /// # Cancel safety
    /// Dropped, the work stops at its next stage and its result is thrown away.
    pub async fn process(&self, bytes: Bytes) -> Result<Processed, PoolError> {
        let header = probe(&bytes, &self.settings.limits)?;
        let megabytes = (estimate_memory(&header, &self.settings) + bytes.len() as u64).div_ceil(MEGABYTE).max(1);
        let wanted = u32::try_from(megabytes).unwrap_or(u32::MAX).min(self.budget_mb);
        let waited = std::time::Instant::now();
        let admitted = self.memory.clone().acquire_many_owned(wanted).await.map_err(|_| PoolError::Closed)?;
        metrics::histogram!("oneiro_memory_wait_seconds").record(waited.elapsed().as_secs_f64());
        let is_unwanted = Arc::new(AtomicBool::new(false));
        let guard = Unwanted(is_unwanted.clone());
        let (answer, result) = oneshot::channel();
        self.orders.send(Order { bytes, is_unwanted, admitted, answer }).await.map_err(|_| PoolError::Closed)?;
        let result = result.await.map_err(|_| PoolError::Closed)?;
        drop(guard);
        result
    }
}

/// Marks an order as unwanted when its future is dropped.
struct Unwanted(Arc<AtomicBool>);

impl Drop for Unwanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn work(inbox: &Mutex<mpsc::Receiver<Order>>, settings: &Settings) {
    let mut processor = Processor::new(settings.clone());
    loop {
        // The guard lives for this statement only: the next thread waits for its order while this one works.
        let Some(order) = inbox.blocking_lock().blocking_recv() else { return };
        let mut control = |_: Stage| {
            if order.is_unwanted.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| processor.process(&order.bytes, &mut control)));
        let result = match outcome {
            Ok(result) => result.map_err(PoolError::from),
            Err(_) => {
                processor = Processor::new(settings.clone());
                Err(PoolError::Panicked)
            }
        };
        let Order { admitted, answer, .. } = order;
        drop(admitted);
        // The caller may be gone: cancelled, timed out, or stopping.
        drop(answer.send(result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bad_input_is_an_error_and_the_pool_goes_on() {
        let pool = Pool::start(Settings::default(), 1, 64).unwrap();
        for bad in [&b""[..], b"not an image", b"\xff\xd8\xff\xe0\0\x10JFIF\0"] {
            assert!(matches!(pool.process(Bytes::from_static(bad)).await, Err(PoolError::Pipeline(_))));
        }
    }
}
