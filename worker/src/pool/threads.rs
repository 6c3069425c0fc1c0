//! Threads that work on pixels. One [`Processor`] a thread keeps its buffers from one image to the next, and gives them
//! back when no image comes.

use super::{Admitted, PoolError};
use bytes::Bytes;
use oneiro_pipeline::{Processed, Processor, Settings, Stage, Stop};
use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{Mutex, mpsc, oneshot},
    time::timeout,
};

/// A thread or child that has had no image for so long gives its buffers back.
pub(super) const REST_AFTER: Duration = Duration::from_secs(2);

struct Order {
    bytes: Bytes,
    is_unwanted: Arc<AtomicBool>,
    /// Given back when the thread is done with the image, also where nobody waits for it any more.
    admitted: Admitted,
    answer: oneshot::Sender<Result<Processed, PoolError>>,
}

pub(super) struct Threads {
    orders: mpsc::Sender<Order>,
}

impl Threads {
    pub(super) fn start(settings: &Settings, count: usize, decode: Duration) -> std::io::Result<Self> {
        // As many are admitted as there are threads, so an order waits for no more than the thread to come back for it.
        let (orders, inbox) = mpsc::channel(count);
        let inbox = Arc::new(Mutex::new(inbox));
        let runtime = Handle::current();
        for number in 0..count {
            let (inbox, settings, runtime) = (inbox.clone(), settings.clone(), runtime.clone());
            thread::Builder::new()
                .name(format!("pixels-{number}"))
                .spawn(move || work(&runtime, &inbox, &settings, decode))?;
        }
        Ok(Self { orders })
    }

    pub(super) async fn process(&self, bytes: Bytes, admitted: Admitted) -> Result<Processed, PoolError> {
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

fn work(runtime: &Handle, inbox: &Mutex<mpsc::Receiver<Order>>, settings: &Settings, decode: Duration) {
    let mut processor = Processor::new(settings.clone());
    loop {
        // The lock is held for the wait only: the next thread waits for its order while this one works.
        let next = async { inbox.lock().await.recv().await };
        let order = match runtime.block_on(async { timeout(REST_AFTER, next).await }) {
            Ok(order) => order,
            Err(_) => {
                processor.rest();
                inbox.blocking_lock().blocking_recv()
            }
        };
        let Some(order) = order else { return };
        let result = carry_out(&mut processor, &order.bytes, &order.is_unwanted, decode);
        let Order { admitted, answer, .. } = order;
        drop(admitted);
        // The caller may be gone: cancelled, timed out, or stopping.
        drop(answer.send(result));
    }
}

fn carry_out(
    processor: &mut Processor,
    bytes: &[u8],
    is_unwanted: &AtomicBool,
    decode: Duration,
) -> Result<Processed, PoolError> {
    let mut late = deadline(decode);
    let mut control = |stage: Stage| {
        if is_unwanted.load(Ordering::Relaxed) { ControlFlow::Break(Stop::Cancelled) } else { late(stage) }
    };
    match catch_unwind(AssertUnwindSafe(|| processor.process(bytes, &mut control))) {
        Ok(result) => result.map_err(PoolError::from),
        Err(_) => {
            *processor = Processor::new(processor.settings().clone());
            Err(PoolError::Panicked)
        }
    }
}

/// Stops an image that is not decoded after `limit`, counted from now. For an animation the time that its frames take to be read counts, and
/// that of making variants of them between does not.
pub(super) fn deadline(limit: Duration) -> impl FnMut(Stage) -> ControlFlow<Stop> {
    let (mut asked, mut spent) = (Instant::now(), Duration::ZERO);
    let mut is_decoding = true;
    move |stage| {
        let now = Instant::now();
        if is_decoding {
            spent += now - asked;
        }
        asked = now;
        // Asked once more when the decode is done, which is the only time a JPEG's is seen.
        let is_late = is_decoding && spent > limit;
        is_decoding = matches!(stage, Stage::Probed | Stage::Decoding);
        if is_late { ControlFlow::Break(Stop::TimedOut) } else { ControlFlow::Continue(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ONE_PIXEL;

    fn code(is_unwanted: bool, decode: Duration) -> Option<&'static str> {
        let mut processor = Processor::new(Settings::default());
        match carry_out(&mut processor, ONE_PIXEL, &AtomicBool::new(is_unwanted), decode) {
            Ok(_) => None,
            Err(PoolError::Pipeline(error)) => Some(error.code()),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn an_unwanted_image_and_a_late_one_stop() {
        assert_eq!(code(false, Duration::MAX), None);
        assert_eq!(code(true, Duration::MAX), Some("cancelled"));
        assert_eq!(code(false, Duration::ZERO), Some("decode_timeout"));
    }

    #[test]
    fn the_decode_limit_ends_with_the_decode() {
        let mut late = deadline(Duration::ZERO);
        assert!(late(Stage::Decoded).is_break());
        assert!(late(Stage::Encoding { done: 0, total: 1 }).is_continue());
    }

    #[tokio::test]
    async fn the_frames_of_an_animation_count_and_the_variants_between_do_not() {
        const LIMIT: Duration = Duration::from_secs(1);
        let mut late = deadline(LIMIT);
        assert!(late(Stage::Decoded).is_continue());
        tokio::time::sleep(LIMIT * 2).await;
        assert!(late(Stage::Decoding).is_continue());
        tokio::time::sleep(LIMIT * 2).await;
        assert!(late(Stage::Rendering { done: 1, total: 2 }).is_break());
    }
}
