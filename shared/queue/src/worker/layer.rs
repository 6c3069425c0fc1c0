//! The backend's own layer around every handler: it turns what the handler did into the job's end.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use apalis::layers::catch_panic::PanicError;
use apalis_core::{
    error::{AbortError, BoxDynError, DeferredError, RetryAfterError},
    task::Task,
    worker::lifecycle::TaskLifecycleError,
};
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use tower::{Layer, Service};

use super::{
    context::JobContext,
    shared::{End, Shared},
};
use crate::{Queue, QueueError, RetryPolicy, options::millis, queue::id_value, scripts};

/// Wait of a job whose handler asked to be called later without saying when, or that could not be begun.
const DEFERRED: Duration = Duration::from_secs(1);

/// Wraps handlers in [`Settle`].
#[derive(Clone)]
pub struct SettleLayer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) policy: RetryPolicy,
}

impl std::fmt::Debug for SettleLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SettleLayer").finish_non_exhaustive()
    }
}

impl<S> Layer<S> for SettleLayer {
    type Service = Settle<S>;

    fn layer(&self, service: S) -> Settle<S> {
        Settle { service, layer: self.clone() }
    }
}

/// Runs a handler under its job's timeout, cancel and lease, catches its panic, and reports its end to the store.
#[derive(Debug, Clone)]
pub struct Settle<S> {
    service: S,
    layer: SettleLayer,
}

/// Why a run was ended from outside.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("job was cancelled")]
    Cancelled,
    #[error("worker stopped before the job ended")]
    Stopped,
    #[error("lease was lost, the job runs elsewhere")]
    Lost,
    #[error("timed out after {0:?}")]
    TimedOut(Duration),
    #[error("panicked: {0}")]
    Panicked(String),
    #[error("could not be begun: {0}")]
    NotBegun(String),
}

/// Sees to it that a job whose run is dropped (its worker's future was) goes back to the queue.
struct Held {
    shared: Arc<Shared>,
    context: JobContext,
    is_settled: bool,
}

impl Held {
    fn settle(mut self, end: End) {
        self.is_settled = true;
        self.shared.finish(&self.context, end);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_settled {
            self.shared.finish(&self.context, End::Returned { delay_ms: 0 });
        }
    }
}

impl<S, Args> Service<Task<Args>> for Settle<S>
where
    S: Service<Task<Args>>,
    S::Future: Send + 'static,
    S::Response: Serialize + Send + 'static,
    S::Error: Into<BoxDynError>,
{
    type Response = S::Response;
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<S::Response, BoxDynError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.service.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, task: Task<Args>) -> Self::Future {
        let Some(context) = task.data().get::<JobContext>().cloned() else {
            // Only this crate's backend makes tasks for its layer; a task without context would have no lease to settle.
            return futures::future::ready(Err("the task was not fetched by its own backend".into())).boxed();
        };
        let held = Held { shared: Arc::clone(&self.layer.shared), context: context.clone(), is_settled: false };
        let policy = self.layer.policy;
        // What apalis makes a run of may panic at once, outside of the run: it does where it finds the job's run before this one still
        // there, detached by an executor (`parallelize`) that does not abort what is dropped. That must not end the worker.
        let called = std::panic::catch_unwind(AssertUnwindSafe(|| self.service.call(task)));
        let run = match called {
            Ok(run) => run.map(|outcome| outcome.map_err(Into::into)),
            Err(panic) => {
                let error = Interrupted::NotBegun(panic_text(panic.as_ref()));
                tracing::warn!(%error, job.id = %context.id(), "a job goes back to be tried later");
                held.settle(End::Returned { delay_ms: millis(DEFERRED) });
                return futures::future::ready(Err(error.into())).boxed();
            }
        };
        async move {
            context.start();
            if context.kills() > 0 && !mark_start(&held.shared, &context).await {
                // Not at once: what keeps Redis from noting it may last.
                held.settle(End::Returned { delay_ms: millis(DEFERRED) });
                return Err(Interrupted::Lost.into());
            }
            let outcome = supervise(run, &context, held.shared.options.cancel_grace).await;
            let end = end_of(&outcome, &context, policy, &held.shared);
            held.settle(end);
            outcome
        }
        .boxed()
    }
}

/// A job whose earlier worker died says that it really starts now, before it can take this worker down too. One that cannot
/// say so does not start: its next death would not be counted.
async fn mark_start(shared: &Shared, context: &JobContext) -> bool {
    let source = &shared.sources[context.source()];
    let number = source.number.load(std::sync::atomic::Ordering::Relaxed);
    let args = vec![id_value(context.id()), context.token().to_string().into(), number.into()];
    match source.queue.run::<i64>(&scripts::MARK, args).await {
        Ok(noted) => noted == 1,
        Err(error) => {
            tracing::debug!(%error, job.id = %context.id(), "failed to note the start of a job that was run before");
            false
        }
    }
}

async fn supervise<T>(
    run: impl Future<Output = Result<T, BoxDynError>>,
    context: &JobContext,
    cancel_grace: Duration,
) -> Result<T, BoxDynError> {
    let mut run = Box::pin(AssertUnwindSafe(run).catch_unwind());
    let mut limit = context.timeout().map(|limit| (limit, Box::pin(tokio::time::sleep(limit))));
    let timeout = async {
        match &mut limit {
            Some((limit, sleep)) => {
                sleep.await;
                *limit
            }
            None => std::future::pending().await,
        }
    };
    let interrupted = async {
        context.cancelled().await;
        if context.is_cancel() {
            tokio::time::sleep(cancel_grace).await;
        }
        if context.is_stop() {
            Interrupted::Stopped
        } else if context.is_lost() {
            Interrupted::Lost
        } else {
            Interrupted::Cancelled
        }
    };
    tokio::select! {
        biased;
        outcome = &mut run => match outcome {
            Ok(outcome) => outcome,
            Err(panic) => Err(Box::new(Interrupted::Panicked(panic_text(panic.as_ref())))),
        },
        reason = interrupted => Err(Box::new(reason)),
        limit = timeout => Err(Box::new(Interrupted::TimedOut(limit))),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

fn end_of<T: Serialize>(
    outcome: &Result<T, BoxDynError>,
    context: &JobContext,
    policy: RetryPolicy,
    shared: &Shared,
) -> End {
    let error = match outcome {
        Ok(value) => return completed(value, &shared.sources[context.source()].queue),
        Err(error) => error,
    };
    let message = message_of(error.as_ref());
    if context.is_cancel() || matches!(error.downcast_ref(), Some(Interrupted::Cancelled)) || is_exit(error) {
        return End::Cancelled { message };
    }
    if context.is_stop() || context.is_lost() {
        return End::Returned { delay_ms: 0 };
    }
    if let Some(later) = error.downcast_ref::<RetryAfterError>() {
        return End::Failed { delay_ms: millis(later.get_duration()), message };
    }
    if error.downcast_ref::<DeferredError>().is_some() {
        return End::Returned { delay_ms: millis(DEFERRED) };
    }
    if let Some(abort) = error.downcast_ref::<AbortError>() {
        // apalis's catch-panic layer says that a panic is an abort. Here a panic is a failure like any other, layer or not: most are met
        // once in a while, and those that are met each time run out of attempts.
        let Some(panic) =
            std::error::Error::source(abort).and_then(<dyn std::error::Error>::downcast_ref::<PanicError>)
        else {
            return End::Dead { message };
        };
        let message = cut(Interrupted::Panicked(panic.0.clone()).to_string());
        return End::Failed { delay_ms: millis(policy.backoff(context.attempt())), message };
    }
    End::Failed { delay_ms: millis(policy.backoff(context.attempt())), message }
}

/// Whether apalis ended the run because the task's own context was cancelled.
fn is_exit(error: &BoxDynError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(error) = source {
        if error.downcast_ref::<TaskLifecycleError>().is_some() {
            return true;
        }
        source = error.source();
    }
    false
}

fn completed<T: Serialize>(value: &T, queue: &Queue) -> End {
    if queue.options().result_ttl.is_zero() {
        return End::Completed { result: None };
    }
    match serde_json::to_vec(value) {
        Ok(json) => End::Completed { result: (json != b"null").then_some(json) },
        Err(error) => {
            let error = QueueError::from(error);
            tracing::warn!(%error, "failed to write a job's result as JSON, it is not kept");
            End::Completed { result: None }
        }
    }
}

/// The error with its sources, as long as the store keeps it.
fn message_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        // apalis's wrappers repeat their source in their own text.
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = error.source();
    }
    cut(message)
}

/// What the store keeps of a message.
fn cut(mut message: String) -> String {
    const MOST_BYTES: usize = 4_000;
    let mut end = message.len().min(MOST_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    message
}
