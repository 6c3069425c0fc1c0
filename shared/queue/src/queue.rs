//! The handle that producers and operators use.

mod admin;
mod adopt;
mod explain;
mod forecast;
mod inspect;
mod list;
mod outcome;
mod push;
mod state;
mod stats;
mod workers;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use fred::{
    clients::{Client, WithOptions},
    error::ErrorKind,
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, FromValue, Value, config::Options, scripts::Script},
};

pub use admin::{CancelOutcome, QueueLimits};
pub use explain::Explanation;
pub use forecast::Forecast;
pub use inspect::{JobError, JobRecord, Progress};
pub use list::{JobFilter, JobPage};
pub use outcome::Outcome;
pub(crate) use outcome::Waiting;
pub(crate) use push::id_value;
pub use state::State;
pub use stats::QueueStats;
pub use workers::{RunningJob, WorkerRecord};

use crate::{QueueError, QueueName, QueueOptions, keys, scripts, worker::renew};

/// A handle to one queue. Cheap to clone; the client stays the caller's.
///
/// # Examples
/// ```no_run
/// use apalis_fred::{NewJob, Queue};
/// use fred::prelude::*;
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Builder::from_config(Config::from_url("redis://127.0.0.1")?).build()?;
/// client.init().await?;
/// let queue = Queue::new(client, "mail".parse()?);
/// let pushed = queue.push(NewJob::raw("send_mail", b"{}".to_vec())?).await?;
/// println!("{} is stored", pushed.id);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    calls: WithOptions<Client>,
    name: QueueName,
    prefix: String,
    options: QueueOptions,
    is_registered: AtomicBool,
    /// Whether somebody looks already if the connection is alive.
    is_doubted: AtomicBool,
    /// Made when somebody first waits for a job's end.
    events: tokio::sync::OnceCell<outcome::Events>,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("name", &self.inner.name)
            .field("options", &self.inner.options)
            .finish_non_exhaustive()
    }
}

impl Queue {
    /// A handle with default options. `client` must have been initialised; it is not closed by the handle.
    #[must_use]
    pub fn new(client: Client, name: QueueName) -> Self {
        Self::with_options(client, name, QueueOptions::default())
    }

    /// A handle with given options.
    #[must_use]
    pub fn with_options(client: Client, name: QueueName, options: QueueOptions) -> Self {
        let calls = client.with_options(&Options {
            max_attempts: scripts::writes(&client),
            timeout: Some(options.command_timeout),
            ..Options::default()
        });
        let prefix = keys::queue_prefix(&options.key_prefix, &name);
        Self {
            inner: Arc::new(Inner {
                client,
                calls,
                name,
                prefix,
                options,
                is_registered: AtomicBool::new(false),
                is_doubted: AtomicBool::new(false),
                events: tokio::sync::OnceCell::new(),
            }),
        }
    }

    /// The queue's name.
    #[must_use]
    pub fn name(&self) -> &QueueName {
        &self.inner.name
    }

    /// The handle's options.
    #[must_use]
    pub fn options(&self) -> &QueueOptions {
        &self.inner.options
    }

    pub(crate) fn client(&self) -> &Client {
        &self.inner.client
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.inner.prefix
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.inner.prefix)
    }

    pub(crate) async fn run<R: FromValue>(
        &self,
        script: &std::sync::LazyLock<Script>,
        args: Vec<Value>,
    ) -> Result<R, QueueError> {
        let reply = scripts::run(&self.inner.calls, script, &self.inner.prefix, args).await;
        if let Err(error) = &reply {
            self.doubt_connection(error);
        }
        reply
    }

    /// After a call without an answer in time: a connection that does not answer a second call either is replaced, because the
    /// client keeps one that was forgotten on the way (half-open) for as long as callers go on writing to it.
    fn doubt_connection(&self, error: &QueueError) {
        let is_silent = matches!(error, QueueError::Unavailable(error) if *error.kind() == ErrorKind::Timeout);
        if !is_silent || self.inner.is_doubted.swap(true, Ordering::AcqRel) {
            return;
        }
        let queue = self.clone();
        tokio::spawn(async move {
            // Keyed, so that in a cluster it asks the node that the queue lives on.
            let probe: Result<i64, QueueError> = queue.command("EXISTS", vec![queue.key("cfg").into()]).await;
            if let Err(QueueError::Unavailable(error)) = probe {
                renew(&queue.inner.client, &error).await;
            }
            queue.inner.is_doubted.store(false, Ordering::Release);
        });
    }

    /// A plain command whose first argument is a key.
    pub(crate) async fn command<R: FromValue>(&self, name: &'static str, args: Vec<Value>) -> Result<R, QueueError> {
        Ok(self.inner.calls.custom(CustomCommand::new_static(name, ClusterHash::FirstKey, false), args).await?)
    }

    /// Makes the queue known to [`list_queues`], once per handle.
    pub(crate) async fn register(&self) -> Result<(), QueueError> {
        if self.inner.is_registered.load(Ordering::Relaxed) { Ok(()) } else { self.register_anew().await }
    }

    /// The same whenever it is called: Redis may have lost what it was told before.
    pub(crate) async fn register_anew(&self) -> Result<(), QueueError> {
        let registry = keys::registry(&self.inner.options.key_prefix);
        let _: i64 = self.command("SADD", vec![registry.into(), self.inner.name.as_str().into()]).await?;
        self.inner.is_registered.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// The names of all queues below `key_prefix` to which a job was ever pushed or which a worker ever served, sorted.
///
/// # Errors
/// [`QueueError::Unavailable`] when Redis cannot be reached.
pub async fn list_queues(client: &Client, key_prefix: &str) -> Result<Vec<QueueName>, QueueError> {
    let names: Vec<String> = client
        .custom(CustomCommand::new_static("SMEMBERS", ClusterHash::FirstKey, false), vec![keys::registry(key_prefix)])
        .await?;
    let mut names: Vec<QueueName> = names.iter().filter_map(|name| QueueName::try_from(name.as_str()).ok()).collect();
    names.sort();
    Ok(names)
}
