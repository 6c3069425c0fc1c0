//! The backend that apalis workers are built on.

use std::{
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use apalis_codec::json::JsonCodec;
use apalis_core::{
    backend::{Backend, BackendConfig, WireFormatBackend, finalize::Durable},
    task::Task,
    worker::context::WorkerContext,
};
use futures::{Sink, future::BoxFuture};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use ulid::Ulid;

use super::{
    fetch::{self, Check},
    heartbeat,
    layer::SettleLayer,
    options::WorkerOptions,
    shared::Shared,
    sink::new_job,
};
use crate::{Job, NewJob, Queue, QueueError, QueueName, RetryPolicy};

/// Tasks that the sink gathers before it stores them: one atomic step.
const SINK_BATCH: usize = 1_000;
/// Heaviest weight of a queue: a slot is given away by counting, and 1 in 1,000 is as good as last.
const MOST_WEIGHT: u32 = 1_000;

/// An apalis backend for jobs of one kind in one queue or [several](Self::also), and a sink that pushes such jobs.
///
/// A clone shares nothing with its original but the queue: each that is given to a worker becomes a worker of its own, with a
/// number, leases and a heartbeat, when it is first polled.
///
/// # Examples
/// ```no_run
/// use apalis_core::worker::builder::WorkerBuilder;
/// use apalis_fred::{FredStorage, Job, JobContext, Queue, WorkerOptions};
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Mail { to: String }
/// impl Job for Mail { const KIND: &'static str = "mail"; }
///
/// async fn send(mail: Mail, context: JobContext) -> Result<(), apalis_core::error::BoxDynError> {
///     println!("attempt {} to write to {}", context.attempt(), mail.to);
///     Ok(())
/// }
/// # async fn example(queue: Queue) -> Result<(), Box<dyn std::error::Error>> {
/// let storage = FredStorage::<Mail>::new(queue, WorkerOptions::default());
/// WorkerBuilder::new("mailer").backend(storage).build(send).run().await?;
/// # Ok(()) }
/// ```
pub struct FredStorage<A> {
    /// At least one, with their weights.
    queues: Vec<(Queue, u32)>,
    options: WorkerOptions,
    kind: String,
    version: u32,
    policy: RetryPolicy,
    check: Option<Check>,
    codec: JsonCodec<Vec<u8>>,
    shared: Option<Arc<Shared>>,
    is_started: bool,
    gathered: Vec<NewJob>,
    pushing: Mutex<Option<BoxFuture<'static, Result<(), QueueError>>>>,
    marker: PhantomData<fn() -> A>,
}

impl<A> std::fmt::Debug for FredStorage<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FredStorage").field("queues", &self.queues).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<A> Clone for FredStorage<A> {
    fn clone(&self) -> Self {
        Self {
            queues: self.queues.clone(),
            options: self.options.clone(),
            kind: self.kind.clone(),
            version: self.version,
            policy: self.policy,
            check: self.check,
            codec: JsonCodec::default(),
            shared: None,
            is_started: false,
            gathered: Vec::new(),
            pushing: Mutex::new(None),
            marker: PhantomData,
        }
    }
}

impl<A> Drop for FredStorage<A> {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.close();
        }
    }
}

fn can_read<A: DeserializeOwned>(payload: &[u8]) -> Result<(), serde_json::Error> {
    serde_json::from_slice::<A>(payload).map(drop)
}

impl<J: Job> FredStorage<J> {
    /// A backend for jobs of kind `J` up to its version, with its retry policy. Jobs pushed through it get that version.
    #[must_use]
    pub fn new(queue: Queue, options: WorkerOptions) -> Self {
        let mut storage = Self::bare(queue, J::KIND.to_owned(), options);
        storage.version = J::VERSION;
        storage.policy = J::retry_policy();
        storage.check = Some(can_read::<J>);
        storage
    }
}

impl<A> FredStorage<A> {
    /// A backend for jobs of a kind named at run time, of version 1 and with the default retry policy; for workflows, whose steps carry
    /// arguments of different types.
    ///
    /// # Errors
    /// [`QueueError::InvalidName`] when `kind` is not 1 to 64 of `A-Z a-z 0-9 _ . -`.
    pub fn of_kind(queue: Queue, kind: &str, options: WorkerOptions) -> Result<Self, QueueError> {
        // A kind follows the same rules as a queue's name.
        QueueName::try_from(kind)?;
        Ok(Self::bare(queue, kind.to_owned(), options))
    }

    /// Another retry policy than the kind's.
    #[must_use]
    pub fn retry_policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Serves another queue, too. The queues share the worker's concurrency: while all have work, jobs are started in proportion to
    /// the weights (1 to 1,000; other values are brought into that range), so none is starved; what an empty or paused queue
    /// leaves goes to the others. The first queue has weight 1 unless [`weight`](Self::weight) says otherwise. Pushing through
    /// this backend, and apalis's traits for looking into it, go to the first queue.
    ///
    /// Each queue costs a worker three connections.
    ///
    /// # Examples
    /// ```no_run
    /// # use apalis_fred::{FredStorage, Job, Queue, WorkerOptions};
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Mail { to: String }
    /// # impl Job for Mail { const KIND: &'static str = "mail"; }
    /// # fn example(urgent: Queue, usual: Queue, bulk: Queue) {
    /// // Of 8 jobs 5 are urgent, 2 usual and 1 bulk, as long as there are such.
    /// let storage = FredStorage::<Mail>::new(urgent, WorkerOptions::default()).weight(5).also(usual, 2).also(bulk, 1);
    /// # }
    /// ```
    #[must_use]
    pub fn also(mut self, queue: Queue, weight: u32) -> Self {
        self.queues.push((queue, weight.clamp(1, MOST_WEIGHT)));
        self
    }

    /// The weight of the first queue; see [`also`](Self::also).
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.queues[0].1 = weight.clamp(1, MOST_WEIGHT);
        self
    }

    /// The queue it serves; the first, where it serves several.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queues[0].0
    }

    fn bare(queue: Queue, kind: String, options: WorkerOptions) -> Self {
        Self {
            queues: vec![(queue, 1)],
            options,
            kind,
            version: 1,
            policy: RetryPolicy::default(),
            check: None,
            codec: JsonCodec::default(),
            shared: None,
            is_started: false,
            gathered: Vec::new(),
            pushing: Mutex::new(None),
            marker: PhantomData,
        }
    }

    fn shared(&mut self, worker: &WorkerContext) -> Arc<Shared> {
        let made = self.shared.get_or_insert_with(|| {
            let kind = (self.kind.clone(), self.version);
            let made = Arc::new(Shared::new(&self.queues, self.options.clone(), kind, worker.clone()));
            self.options.canary.watch(&made);
            made
        });
        Arc::clone(made)
    }

    /// Starts the fetch task and the heartbeat; on the first poll, because only then is there surely a runtime.
    fn started(&mut self, worker: &WorkerContext) -> Arc<Shared> {
        let shared = self.shared(worker);
        if !self.is_started {
            self.is_started = true;
            if let Err(error) = heartbeat::spawn(&shared) {
                tracing::error!(%error, "failed to start the heartbeat thread, this worker's jobs will be taken from it");
            }
            tokio::spawn(fetch::run(Arc::clone(&shared), self.check));
        }
        shared
    }

    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), QueueError>> {
        loop {
            if let Some(pushing) = self.pushing.get_mut() {
                let outcome = std::task::ready!(pushing.as_mut().poll(cx));
                *self.pushing.get_mut() = None;
                outcome?;
            }
            if self.gathered.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let jobs = std::mem::take(&mut self.gathered);
            let queue = self.queue().clone();
            *self.pushing.get_mut() = Some(Box::pin(async move { queue.push_all(jobs).await.map(drop) }));
        }
    }
}

impl<A> Backend for FredStorage<A> {
    type Task = Task<Vec<u8>>;
    type Error = QueueError;

    fn poll_ready(&mut self, _: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), QueueError>> {
        self.started(worker);
        Poll::Ready(Ok(()))
    }

    /// Never an error: trouble with Redis is waited out, so it cannot end a worker.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, QueueError>>> {
        let shared = self.started(worker);
        if let Some(task) = shared.pop() {
            return Poll::Ready(Some(Ok(task)));
        }
        shared.waker.register(cx.waker());
        // Filled between the look and the registration: that wake-up went nowhere.
        shared.pop().map_or(Poll::Pending, |task| Poll::Ready(Some(Ok(task))))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), QueueError>> {
        let Some(shared) = self.shared.as_ref().filter(|_| self.is_started) else { return Poll::Ready(Ok(())) };
        shared.close();
        shared.close_waker.register(cx.waker());
        if shared.is_closed.load(Ordering::Acquire) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl<A> BackendConfig for FredStorage<A> {
    type Args = A;
    type Id = Ulid;
    type Kind = Durable;
    type Config = WorkerOptions;
    type Layer = SettleLayer;

    fn config(&self) -> &WorkerOptions {
        &self.options
    }

    fn middleware(&mut self, worker: &mut WorkerContext) -> SettleLayer {
        let policy = self.policy;
        SettleLayer { shared: self.shared(worker), policy }
    }
}

impl<A> WireFormatBackend for FredStorage<A> {
    type Codec = JsonCodec<Vec<u8>>;
    type Compact = Vec<u8>;

    fn codec(&self) -> &Self::Codec {
        &self.codec
    }
}

impl<A> Sink<Task<Vec<u8>>> for FredStorage<A> {
    type Error = QueueError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), QueueError>> {
        let this = self.get_mut();
        if this.gathered.len() < SINK_BATCH { Poll::Ready(Ok(())) } else { this.poll_push(cx) }
    }

    fn start_send(self: Pin<&mut Self>, task: Task<Vec<u8>>) -> Result<(), QueueError> {
        let this = self.get_mut();
        let job = new_job(task, &this.kind, this.policy)?.version(this.version);
        this.gathered.push(job);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), QueueError>> {
        self.get_mut().poll_push(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), QueueError>> {
        self.get_mut().poll_push(cx)
    }
}
