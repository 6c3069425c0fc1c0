//! Names of all keys.
//!
//! Everything of one queue lies under `<prefix>{<queue>}:`; the braces are the hash tag that keeps a queue in one slot of a
//! cluster. Scripts get this text as `KEYS[1]` and derive the rest:
//!
//! | key | type | what | lives |
//! |---|---|---|---|
//! | `jobs` | hash | id (16 bytes) -> record | until a job is completed and its retention over, or deleted |
//! | `q:<prio>:<kind>:<group>` | list | ids of available jobs, oldest first | while not empty |
//! | `r:<prio>:<kind>` | list | groups with available jobs, next one first | while not empty |
//! | `parked` | hash | group at its cap -> its lanes | until a job of the group ends |
//! | `capped` | hash | running job that counts against a cap -> group | while running |
//! | `run` | hash | group -> such jobs | while not 0 |
//! | `sched`, `retry` | zset | id -> due ms | until due |
//! | `lease` | zset | id -> fencing token = worker number * 2^28 + count | while running |
//! | `done`, `cancelled`, `dead` | zset | id -> ms of the end | retention |
//! | `err`, `prog` | hash | id -> last error, progress (JSON) | with the job |
//! | `res:<id>` | string | result (JSON) | result TTL |
//! | `u:<key>` | string | id that holds a unique key | until its job ends, or its window |
//! | `ghosts` | hash | id -> places in lists that it left by cancel, delete or reschedule and where it still stands | until popped |
//! | `cancels` | set | running jobs whose cancel was asked for | until they end |
//! | `started` | hash | suspect -> worker that started it | while running |
//! | `wk:<kind>` | list | at most one token: there is work | until a worker pops it |
//! | `workers` | zset | worker number (random, 25 bits) -> lease deadline ms | while it beats, then until its jobs are recovered |
//! | `w:<n>` | hash | `f` first unused token, `info`, `beat`, `pre`, `late` | as above |
//! | `ctl:<n>` | list | commands to a worker | 60 s |
//! | `pong:<n>` | list | answers to a ping | 10 s |
//! | `kinds` | set | kinds that were ever pushed | for ever |
//! | `cfg` | hash | `paused`, `rate`, `burst`, `cap` | for ever |
//! | `rl` | hash | token bucket | for ever |
//! | `stat` | hash | counters; `bytes` that wait, `drain` rate and `drain_at` when, `mean_us` of a run, `at:<kind>` since when none is taken | for ever |
//! | `samples` | list | 13 samples of the counters, newest first | for ever |
//! | `days` | hash | day since the epoch -> jobs completed | 30 days |
//! | `waiters` | hash | ids somebody waits for | 1 h after the last wait began |
//!
//! Outside of any slot: `<prefix>queues`, the set of queue names. Pub/sub channel: `<prefix>{<queue>}:ev`.

use crate::QueueName;

/// Key prefix where nothing else is configured.
pub(crate) const DEFAULT_PREFIX: &str = "aq:";

/// The prefix of all keys of one queue.
pub(crate) fn queue_prefix(prefix: &str, queue: &QueueName) -> String {
    format!("{prefix}{{{queue}}}:")
}

/// The set of all queue names below one prefix.
pub(crate) fn registry(prefix: &str) -> String {
    format!("{prefix}queues")
}
