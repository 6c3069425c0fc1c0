//! Settings of one worker.

use std::time::Duration;

use super::canary::Canary;

/// Settings of a worker (one [`FredStorage`](crate::FredStorage) given to one apalis worker).
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Jobs that run at once; give apalis's `.concurrency(n)` the same number. 1 and up. Default 10.
    pub concurrency: usize,
    /// Jobs held ready beyond those that run, 0 and up. Default 0: every leased job runs, so that after a worker's death exactly
    /// the jobs that ran count a lost attempt. More hides the round trip for jobs of less than a few milliseconds.
    pub prefetch: usize,
    /// How long running jobs may take to end after the worker was told to stop; then they go back without spending an
    /// attempt. Default 25 seconds.
    pub shutdown_grace: Duration,
    /// How long a handler may take to end after its job's cancel; then it is dropped. Default 5 seconds.
    pub cancel_grace: Duration,
    /// A worker of which every slot is held by a job that runs longer than this (or than its own timeout, where it has one), or that
    /// leaves fetched jobs unstarted for so long, is told as [`Health::Stuck`](crate::Health::Stuck); nothing else follows. Set it above
    /// the longest job without timeout. Default 10 minutes.
    pub stuck_after: Duration,
    /// Looks at this worker, without Redis. Default: one of its own.
    pub canary: Canary,
    /// What [`WorkerRecord::host`](crate::WorkerRecord::host) says. Default: the machine's name, where the system tells it.
    pub host: String,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            concurrency: 10,
            prefetch: 0,
            shutdown_grace: Duration::from_secs(25),
            cancel_grace: Duration::from_secs(5),
            stuck_after: Duration::from_secs(600),
            canary: Canary::default(),
            host: host_name(),
        }
    }
}

impl WorkerOptions {
    /// Jobs that may be leased at once.
    pub(crate) fn room(&self) -> usize {
        self.concurrency.max(1) + self.prefetch
    }
}

/// The machine's name as Linux tells it; empty elsewhere.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}
