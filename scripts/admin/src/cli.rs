//! The command line's grammar; its `--help` is the reference.

use apalis_fred::{JobId, QueueName, State};
use clap::{Args, Parser, Subcommand};
use std::{path::PathBuf, str::FromStr};

/// Operate Oneiro: list, retry and cancel jobs, watch queues and workers, issue tokens, publish and tail events.
#[derive(Debug, Parser)]
#[command(name = "oneiro", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    /// A TOML file with settings that differ from the defaults (also: ONEIRO_CONFIG).
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Answer in JSON instead of a table.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Check the configuration, print what is in force (secrets hidden) and exit; 64 where it is wrong.
    #[arg(long)]
    pub(crate) check_config: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

const AFTER_HELP: &str = "Examples:
  oneiro queues                                  how many jobs wait, run, died
  oneiro queues forecast                         how many workers it takes
  oneiro jobs list --state dead                  what went wrong
  oneiro jobs show 01JD2...                      one job with its last error
  oneiro jobs explain 01JD2...                   why it is not running
  oneiro jobs retry --dead --all --dry-run       how many dead jobs there are to run again
  oneiro jobs retry --dead --all                 run every dead job again
  oneiro token --user 1 --username ada           a token to try the API with
  echo '{\"id\":\"1\",\"title\":\"Hi\"}' | oneiro publish notification --user 7

Environment: REDIS_URL, JWT_SECRET (for `token`), and ONEIRO_<SECTION>_<KEY> for every key of config/default.toml.
Exit status: 0 done, 1 failed, 2 wrong arguments, 64 wrong configuration.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List, show, retry, cancel and delete jobs.
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Show the queues; pause, resume and limit them, or take over a stock apalis-redis queue.
    #[command(alias = "queue")]
    Queues(QueuesArgs),
    /// Show the workers; quiet, wake, stop and ping them.
    Workers(WorkersArgs),
    /// Print a token for the API (signed with JWT_SECRET).
    Token(TokenArgs),
    /// Publish an event; its data is read from a file or standard input.
    Publish(PublishArgs),
    /// Watch events.
    #[command(subcommand)]
    Events(EventsCommand),
    /// List and end connections.
    #[command(subcommand)]
    Sockets(SocketsCommand),
}

/// Jobs of one state and queue that a listing may show: all are in memory before the first is printed.
pub(crate) const MOST_LISTED: i64 = 100_000;

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List jobs, in all states or one.
    List(ListArgs),
    /// Show one job with its arguments, progress and last error.
    Show {
        /// Its id.
        id: JobId,
    },
    /// Say why a job is where it is: what it waits for, who holds it, why it died.
    Explain {
        /// Its id.
        id: JobId,
    },
    /// Make jobs run again: by id, or with --all those of a state; not what is available or running.
    Retry(BulkArgs),
    /// Cancel jobs, waiting or running: by id, or with --all those of a state.
    Cancel(BulkArgs),
    /// Remove jobs that have ended (completed, cancelled, dead) and all that is known of them: by id, or with --all those of a state.
    /// A job whose dream has not been told of its end stays until a worker has done so.
    Delete(BulkArgs),
}

#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Of this queue only.
    #[arg(long, value_name = "NAME")]
    pub(crate) queue: Option<String>,
    /// Of this kind only, such as process_image.
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Of this group only, such as user:7.
    #[arg(long)]
    pub(crate) group: Option<String>,
    /// Whose last error contains this text.
    #[arg(long, value_name = "TEXT")]
    pub(crate) error: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// In this state only: scheduled, available, running, retryable, completed, cancelled or dead.
    #[arg(long)]
    pub(crate) state: Option<State>,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// At most so many of each state, 1 to 100000.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=MOST_LISTED))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct BulkArgs {
    /// Ids of jobs; the filters are not looked at then.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<JobId>,
    /// Instead of ids: all jobs of a state that the filters leave. Needs --dead or --state.
    #[arg(long)]
    pub(crate) all: bool,
    /// With --all: dead jobs (the same as --state dead).
    #[arg(long, requires = "all", conflicts_with = "state")]
    pub(crate) dead: bool,
    /// With --all: jobs in this state.
    #[arg(long, requires = "all")]
    pub(crate) state: Option<State>,
    /// Say what would be changed, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

#[derive(Debug, Args)]
pub(crate) struct QueuesArgs {
    #[command(subcommand)]
    pub(crate) command: Option<QueuesCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueuesCommand {
    /// Let workers take no more jobs of a queue; running ones go on.
    Pause {
        /// Its name.
        name: String,
    },
    /// Let workers take jobs of a queue again.
    Resume {
        /// Its name.
        name: String,
    },
    /// Tell how fast jobs come and go, when nothing will wait any more, and how many workers that takes.
    Forecast {
        /// How soon a job should be taken, in seconds; queues.target_wait_seconds where it is not given.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
        within: Option<u64>,
    },
    /// Bound how fast a queue's jobs start, or how many jobs of one group (of one user) run at once. In force at once, for
    /// all workers together, until it is changed.
    Limit(LimitArgs),
    /// Move the waiting jobs of a stock apalis-redis queue into one of ours. Stop its workers first.
    Adopt(AdoptArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LimitArgs {
    /// Its name.
    pub(crate) name: String,
    /// Jobs a second on average, 0.001 and up, or `off`.
    #[arg(long, value_name = "PER_SECOND", required_unless_present = "group_cap")]
    pub(crate) rate: Option<Limit<f64>>,
    /// With --rate: jobs that may start at once after a pause.
    #[arg(long, value_name = "JOBS", requires = "rate", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) burst: u32,
    /// Running jobs of one group, 1 and up, or `off`.
    #[arg(long, value_name = "JOBS")]
    pub(crate) group_cap: Option<Limit<u32>>,
}

/// A limit as it is typed: a number, or `off`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit<T> {
    Off,
    To(T),
}

impl<T: FromStr + PartialOrd + Default> FromStr for Limit<T> {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<T>() {
            Ok(value) if value > T::default() => Ok(Self::To(value)),
            _ if text == "off" => Ok(Self::Off),
            _ => Err("must be a number above 0, or `off`"),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// The stock queue: the namespace of its RedisStorage.
    pub(crate) stock: String,
    /// The queue that takes its jobs.
    #[arg(long, value_name = "NAME")]
    pub(crate) into: QueueName,
    /// What its jobs are called here: the `KIND` of the worker that will run them.
    #[arg(long)]
    pub(crate) kind: QueueName,
}

#[derive(Debug, Args)]
pub(crate) struct WorkersArgs {
    #[command(subcommand)]
    pub(crate) command: Option<WorkersCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkersCommand {
    /// Let a worker take no new jobs.
    Quiet(WorkerArgs),
    /// Let a quiet worker take jobs again.
    Wake(WorkerArgs),
    /// Tell a worker to finish what runs and stop; its process ends with it.
    Stop(WorkerArgs),
    /// Ask a worker whether it lives.
    Ping(WorkerArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The queue it serves.
    pub(crate) queue: String,
    /// Its number in that queue.
    pub(crate) number: u32,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// Whose token: a number, or a text.
    #[arg(long, value_name = "ID")]
    pub(crate) user: String,
    /// The name that others see.
    #[arg(long)]
    pub(crate) username: Option<String>,
    /// Rights, separated by blanks: publish (to publish events), developer (to read the developer endpoints), admin (of no effect yet).
    #[arg(long, default_value = "")]
    pub(crate) scope: String,
    /// Lifetime in seconds.
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub(crate) ttl: u64,
}

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// notification, alert, order_update, material_update, or any name on a custom channel.
    pub(crate) r#type: String,
    /// To this user.
    #[arg(long, value_name = "ID")]
    pub(crate) user: Option<String>,
    /// On this channel.
    #[arg(long, value_name = "NAME")]
    pub(crate) channel: Option<String>,
    /// Worth delivering for so many seconds only.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ttl: Option<u64>,
    /// File with the event's data as JSON; `-` is standard input.
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SocketsCommand {
    /// List the connections of all socket processes, the oldest of each first.
    List {
        /// Only those of this user.
        #[arg(long, value_name = "ID")]
        user: Option<String>,
        /// Only those of this process: the part of a connection's id before the dash.
        #[arg(long)]
        node: Option<String>,
        /// How many of each process.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// End every connection of a user, on whichever process; their tokens stay valid until they expire.
    Kick {
        /// Whose.
        #[arg(long, value_name = "ID")]
        user: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// Print a channel's events as they come, one JSON line each, until Ctrl-C.
    Tail {
        /// The channel, such as dream_images_123.
        channel: String,
        /// First print so many of its past events, 0 to 1000.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=1000))]
        history: u64,
    },
}
