//! apalis's optional traits: looking into the store and changing it through a backend.

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use apalis_core::{
    backend::{
        Backend, FetchById, Filter, ListAllTasks, ListQueues, ListTasks, ListWorkers, Metrics, QueueInfo,
        RegisterWorker, Reschedule, ResumeAbandoned, ResumeById, RunningWorker, StatType, Statistic, TaskResult,
        Update, Vacuum, WaitForCompletion, factory::BackendFactory,
    },
    task::{Task, builder::TaskBuilder, metadata::MetadataStore, status::Status, task_id::TaskId},
};
use fred::types::Value;
use futures::stream::BoxStream;
use serde::de::DeserializeOwned;

use super::{options::WorkerOptions, storage::FredStorage};
use crate::{
    Job, JobFilter, JobId, JobRecord, Outcome, Queue, QueueError, State, list_queues,
    options::{int, millis},
    queue::Waiting,
    scripts,
};

/// Jobs that paging through apalis's page numbers goes past at most; deeper listings need [`Queue::jobs`] with its cursor.
const DEEPEST: usize = 10_000;

/// A task's id as a job's; other kinds of id name no job of ours.
fn job_id(id: &TaskId) -> Option<JobId> {
    id.as_ulid().map(JobId::from).or_else(|| id.to_string().parse().ok())
}

fn task_of(job: &JobRecord) -> Task<Vec<u8>> {
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_secs());
    let status = match job.state {
        State::Scheduled | State::Available => Status::Pending,
        State::Running => Status::Running,
        State::Retryable => Status::Failed,
        State::Completed => Status::Done,
        State::Cancelled | State::Dead => Status::Killed,
    };
    let mut builder = TaskBuilder::new(job.payload.clone().into_bytes())
        .task_id(TaskId::from_ulid(job.id.ulid()))
        .attempt(job.attempts as usize)
        .max_attempts(job.max_attempts as usize)
        .status(status)
        .run_at_timestamp(seconds(job.due_at.unwrap_or(job.created_at)))
        .done_at(job.finished_at.map(seconds))
        .lock_by(job.worker.map(|number| number.to_string()))
        .with_metadata(job.meta.iter().map(|(key, value)| (key.clone(), value.clone())).collect::<MetadataStore>());
    if !job.unique.is_empty() {
        builder = builder.idempotency_key(&job.unique);
    }
    builder.build()
}

impl<A: Send + Sync> FetchById for FredStorage<A> {
    async fn fetch_by_id(&mut self, task_id: &TaskId) -> Result<Option<Task<Vec<u8>>>, QueueError> {
        let Some(id) = job_id(task_id) else { return Ok(None) };
        let Some(job) = self.queue().job(&id).await? else { return Ok(None) };
        // A task without its arguments would wipe them when it is given back to `update`.
        match &job.sealed_with {
            Some(key) if !job.is_open => Err(QueueError::Sealed { key: key.clone() }),
            _ => Ok(Some(task_of(&job))),
        }
    }
}

impl<A: Send + Sync> Update for FredStorage<A> {
    /// Gives the job of the task's id the task's payload.
    async fn update(&mut self, task: Task<Vec<u8>>) -> Result<(), QueueError> {
        let id = task.task_id().and_then(job_id).ok_or(QueueError::Corrupt { what: "a task without a job's id" })?;
        self.queue().update_payload(&id, task.args.into()).await.map(drop)
    }
}

impl<A: Send + Sync> Reschedule for FredStorage<A> {
    async fn reschedule(&mut self, task: Task<Vec<u8>>, wait: Duration) -> Result<(), QueueError> {
        let id = task.task_id().and_then(job_id).ok_or(QueueError::Corrupt { what: "a task without a job's id" })?;
        self.queue().reschedule(&id, wait).await.map(drop)
    }
}

impl<A: Send + Sync> Vacuum for FredStorage<A> {
    async fn vacuum(&mut self) -> Result<usize, QueueError> {
        self.queue().vacuum(Duration::ZERO).await
    }

    async fn vacuum_before(&mut self, duration: Duration) -> Result<usize, QueueError> {
        self.queue().vacuum(duration).await
    }
}

impl<A: Send + Sync> ResumeById for FredStorage<A> {
    async fn resume_by_id(&mut self, id: TaskId) -> Result<bool, QueueError> {
        let Some(id) = job_id(&id) else { return Ok(false) };
        self.queue().retry(&id).await
    }
}

impl<A: Send + Sync> ResumeAbandoned for FredStorage<A> {
    /// Recovers jobs of workers whose lease is over. Workers do this by themselves; it serves where none lives.
    async fn resume_abandoned(&mut self) -> Result<usize, QueueError> {
        self.queue().rescue().await
    }
}

impl<A: Send + Sync> RegisterWorker for FredStorage<A> {
    /// Makes the queue known to those who list queues. A worker registers itself when it is first polled, because its number, its lease and
    /// the heartbeat that keeps them belong together.
    async fn register_worker(&mut self, _: String) -> Result<(), QueueError> {
        self.queue().register().await
    }
}

/// A queue makes backends for every kind of job.
impl<J: Job> BackendFactory<J> for Queue {
    type Backend = FredStorage<J>;
    type Error = Infallible;

    fn create_with_config(&mut self, options: WorkerOptions) -> Result<FredStorage<J>, Infallible> {
        Ok(FredStorage::new(self.clone(), options))
    }
}

impl Queue {
    /// Removes completed, cancelled and dead jobs that ended at least this long ago, in small steps, and tells how many.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached; jobs removed until then stay removed.
    pub async fn vacuum(&self, older_than: Duration) -> Result<usize, QueueError> {
        const PART: i64 = 500;
        let mut removed = 0;
        loop {
            let n: usize = self.run(&scripts::VACUUM, vec![millis(older_than).into(), PART.into()]).await?;
            if n == 0 {
                return Ok(removed);
            }
            removed += n;
        }
    }

    /// Recovers jobs of workers that gave no sign of life for longer than their lease, and tells how many. Living workers do
    /// this all the time; a worker seen late for the first time is given its grace first.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`] when Redis cannot be reached.
    pub async fn rescue(&self) -> Result<usize, QueueError> {
        let options = self.options();
        let mut rescued = 0;
        loop {
            let args: Vec<Value> = vec![
                0.into(),
                options.lease_ms().into(),
                options.grace_ms().into(),
                options.poison_after.max(1).into(),
                "".into(),
                millis(options.retention_completed.age).into(),
                int(options.retention_completed.count).into(),
                millis(options.retention_dead.age).into(),
                int(options.retention_dead.count).into(),
                "".into(),
                300.into(),
                "".into(),
            ];
            let reply: Vec<i64> = self.run(&scripts::BEAT, args).await?;
            let recovered = reply.get(1).copied().unwrap_or(0);
            rescued += usize::try_from(recovered).unwrap_or(0);
            if recovered == 0 {
                return Ok(rescued);
            }
        }
    }
}

fn states(filter: &Filter) -> &'static [State] {
    match filter.status {
        None => &State::ALL,
        Some(Status::Pending | Status::Queued) => &[State::Available, State::Scheduled],
        Some(Status::Running) => &[State::Running],
        Some(Status::Done) => &[State::Completed],
        Some(Status::Failed) => &[State::Retryable],
        Some(_) => &[State::Dead, State::Cancelled],
    }
}

/// What a page leaves out and what it shows: jobs before it, and jobs on it.
fn place(filter: &Filter) -> (usize, usize) {
    let limit = filter.limit() as usize;
    (filter.page.saturating_sub(1) as usize * limit, limit)
}

/// A queue's jobs up to the end of the page.
async fn up_to(queue: &Queue, filter: &Filter) -> Result<Vec<JobRecord>, QueueError> {
    let (from, limit) = place(filter);
    let mut found = Vec::new();
    for state in states(filter) {
        let mut cursor = None;
        loop {
            let wanted = (from + limit).min(DEEPEST).saturating_sub(found.len()).min(1_000);
            if wanted == 0 {
                break;
            }
            let part = queue.jobs(&JobFilter { cursor, limit: wanted, ..JobFilter::in_state(*state) }).await?;
            found.extend(part.jobs);
            cursor = part.next;
            if cursor.is_none() {
                break;
            }
        }
    }
    Ok(found)
}

fn page(found: &[JobRecord], filter: &Filter) -> Vec<Task<Vec<u8>>> {
    let (from, limit) = place(filter);
    found.iter().skip(from).take(limit).map(task_of).collect()
}

impl<A: Send + Sync> ListTasks for FredStorage<A> {
    async fn list_tasks(&self, filter: &Filter) -> Result<Vec<Task<Vec<u8>>>, QueueError> {
        Ok(page(&up_to(self.queue(), filter).await?, filter))
    }
}

impl<A: Send + Sync> ListAllTasks for FredStorage<A> {
    /// Queue by queue.
    async fn list_all_tasks(&self, filter: &Filter) -> Result<Vec<Task<Vec<u8>>>, QueueError> {
        let mut found = Vec::new();
        for queue in self.queue().siblings().await? {
            found.extend(up_to(&queue, filter).await?);
        }
        Ok(page(&found, filter))
    }
}

impl Queue {
    /// All queues below the same prefix, as handles with the same options.
    async fn siblings(&self) -> Result<Vec<Self>, QueueError> {
        let names = list_queues(self.client(), &self.options().key_prefix).await?;
        Ok(names
            .into_iter()
            .map(|name| Self::with_options(self.client().clone(), name, self.options().clone()))
            .collect())
    }

    async fn running_workers(&self) -> Result<Vec<RunningWorker>, QueueError> {
        let workers = self.workers().await?;
        Ok(workers
            .into_iter()
            .map(|worker| RunningWorker {
                id: format!("{}:{}", worker.name, worker.number),
                queue: self.name().to_string(),
                backend: "apalis-fred".to_owned(),
                started_at: worker.started_at_ms / 1_000,
                last_heartbeat: worker.beat_at_ms / 1_000,
                layers: String::new(),
            })
            .collect())
    }

    /// Under the names that apalis's board has words for; it calls every other one "Total Jobs". [`Queue::stats`] tells more.
    async fn statistics(&self) -> Result<Vec<Statistic>, QueueError> {
        let stats = self.stats().await?;
        let mut rows = vec![
            ("RUNNING_JOBS", stats.running),
            ("PENDING_JOBS", stats.available + stats.scheduled),
            ("FAILED_JOBS", stats.retryable),
            ("KILLED_JOBS", stats.cancelled + stats.dead),
            ("DONE_JOBS", stats.completed),
        ];
        rows.push(("TOTAL_JOBS", rows.iter().map(|(_, count)| count).sum()));
        Ok(rows
            .into_iter()
            .zip(1..)
            .map(|((title, value), priority)| Statistic {
                title: title.to_owned(),
                stat_type: StatType::Number,
                value: value.to_string(),
                priority: Some(priority),
            })
            .collect())
    }
}

impl<A: Send + Sync> ListWorkers for FredStorage<A> {
    async fn list_workers(&self) -> Result<Vec<RunningWorker>, QueueError> {
        self.queue().running_workers().await
    }

    async fn list_all_workers(&self) -> Result<Vec<RunningWorker>, QueueError> {
        let mut workers = Vec::new();
        for queue in self.queue().siblings().await? {
            workers.extend(queue.running_workers().await?);
        }
        Ok(workers)
    }
}

impl<A: Send + Sync> ListQueues for FredStorage<A> {
    async fn list_queues(&self) -> Result<Vec<QueueInfo>, QueueError> {
        let mut infos = Vec::new();
        for queue in self.queue().siblings().await? {
            infos.push(QueueInfo {
                name: queue.name().to_string(),
                stats: queue.statistics().await?,
                workers: queue.running_workers().await?.into_iter().map(|worker| worker.id).collect(),
                activity: queue.activity().await?,
            });
        }
        Ok(infos)
    }
}

impl<A: Send + Sync> Metrics for FredStorage<A> {
    /// The figures of all queues together.
    async fn global(&self) -> Result<Vec<Statistic>, QueueError> {
        let mut sums: Vec<Statistic> = Vec::new();
        for queue in self.queue().siblings().await? {
            for row in queue.statistics().await? {
                match sums.iter_mut().find(|sum| sum.title == row.title) {
                    Some(sum) => {
                        let number = |text: &str| text.parse::<u64>().unwrap_or(0);
                        sum.value = (number(&sum.value) + number(&row.value)).to_string();
                    }
                    None => sums.push(row),
                }
            }
        }
        Ok(sums)
    }

    async fn fetch_by_queue(&self) -> Result<Vec<Statistic>, QueueError> {
        self.queue().statistics().await
    }
}

fn task_result<T: DeserializeOwned>(outcome: Outcome) -> Result<TaskResult<T>, QueueError> {
    let (status, result) = match outcome.state {
        // A result that is not kept is `null`: what handlers without a result return.
        Some(State::Completed) => {
            (Status::Done, Ok(serde_json::from_str(outcome.result.as_deref().unwrap_or("null"))?))
        }
        Some(_) => {
            (Status::Killed, Err(outcome.error.map_or_else(|| "job was cancelled".to_owned(), |error| error.message)))
        }
        None => (Status::Failed, Err("nothing is known of the job".to_owned())),
    };
    Ok(TaskResult { task_id: TaskId::from_ulid(outcome.id.ulid()), attempt: outcome.attempts as usize, status, result })
}

enum Wait {
    New(Vec<JobId>),
    Begun(Waiting),
    Over,
}

impl<A, T> WaitForCompletion<T> for FredStorage<A>
where
    Self: Backend<Error = QueueError>,
    T: DeserializeOwned + Send + 'static,
{
    type ResultStream = BoxStream<'static, Result<TaskResult<T>, QueueError>>;

    /// By notification; ends when all of the jobs have. An error in reaching Redis ends it, too.
    fn wait_for(&mut self, task_ids: impl IntoIterator<Item = TaskId>) -> Self::ResultStream {
        let ids: Vec<JobId> = task_ids.into_iter().filter_map(|id| job_id(&id)).collect();
        let queue = self.queue().clone();
        Box::pin(futures::stream::unfold((queue, Wait::New(ids)), |(queue, wait)| async move {
            let mut waiting = match wait {
                Wait::New(ids) => match queue.wait_all(&ids).await {
                    Ok(waiting) => waiting,
                    Err(error) => return Some((Err(error), (queue, Wait::Over))),
                },
                Wait::Begun(waiting) => waiting,
                Wait::Over => return None,
            };
            let outcome = waiting.next(&queue).await?;
            Some((task_result(outcome), (queue, Wait::Begun(waiting))))
        }))
    }

    async fn check_status(
        &mut self,
        task_ids: impl IntoIterator<Item = TaskId> + Send,
    ) -> Result<Vec<TaskResult<T>>, QueueError> {
        let ids: Vec<JobId> = task_ids.into_iter().filter_map(|id| job_id(&id)).collect();
        let queue = self.queue().clone();
        let outcomes = queue.outcomes(&ids).await?;
        // A job of which nothing is known has no status.
        outcomes.into_iter().filter(|outcome| outcome.state.is_some()).map(task_result).collect()
    }
}
