//! The typed form of each section of `config/default.toml`, which gives every key's meaning, unit and default.

use super::Secret;
use apalis_fred::KeyRing;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, time::Duration};

macro_rules! seconds {
    ($($(#[$doc:meta])* $name:ident = $field:ident;)*) => {
        $($(#[$doc])* pub fn $name(&self) -> Duration { Duration::from_secs(self.$field) })*
    };
}

/// `[http]`: the API server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key")]
pub struct HttpConfig {
    pub addr: String,
    pub serve_sockets: bool,
    pub cors_origins: Vec<String>,
    pub request_timeout_seconds: u64,
    pub max_concurrent_uploads: usize,
    pub header_timeout_seconds: u64,
    pub max_connections: usize,
    pub shutdown_grace_seconds: u64,
    pub dev_tokens_max_ttl_seconds: u64,
}

impl HttpConfig {
    seconds! {
        /// Limit of one upload.
        request_timeout = request_timeout_seconds;
        /// Time for a request's head.
        header_timeout = header_timeout_seconds;
        /// Time for requests under way after SIGTERM.
        shutdown_grace = shutdown_grace_seconds;
    }

    /// Where `api` listens.
    pub fn socket_addr(&self) -> SocketAddr {
        self.addr.parse().expect("checked when the configuration was loaded")
    }
}

/// `[ws]`: the socket server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key")]
pub struct WsConfig {
    pub addr: String,
}

impl WsConfig {
    /// Where `ws` listens.
    pub fn socket_addr(&self) -> SocketAddr {
        self.addr.parse().expect("checked when the configuration was loaded")
    }
}

/// `[redis]`: the one shared store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key")]
pub struct RedisConfig {
    /// May carry a password, so it is hidden like one.
    pub url: Secret,
    pub key_prefix: String,
    pub connect_timeout_seconds: u64,
    pub command_timeout_seconds: u64,
    pub reconnect_max_seconds: u64,
}

impl RedisConfig {
    seconds! {
        /// Limit of one connection attempt.
        connect_timeout = connect_timeout_seconds;
        /// Limit of one command.
        command_timeout = command_timeout_seconds;
    }
}

/// `[storage]`: where originals and variants live.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key")]
pub struct StorageConfig {
    pub url: String,
    pub public_media_url: String,
    pub fsync: bool,
}

/// `[auth]`: which tokens are believed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key")]
pub struct AuthConfig {
    pub jwt_secret: Secret,
    pub algorithms: Vec<String>,
    pub public_key_file: String,
    pub jwks_file: String,
    pub issuer: String,
    pub audience: String,
    pub leeway_seconds: u64,
    pub dev_tokens: bool,
}

/// `[uploads]`: limits of what clients may send.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key")]
pub struct UploadsConfig {
    pub max_file_bytes: u64,
    pub max_body_bytes: u64,
    pub max_images: usize,
    pub max_title_chars: usize,
    pub max_content_chars: usize,
    pub max_labels: usize,
    pub max_label_chars: usize,
    pub max_concurrent_per_user: usize,
    pub rate_per_minute: u64,
    pub extra_formats: Vec<ExtraFormat>,
}

/// A format that is taken only where the configuration says so, because not every worker can make something of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "a list of names")]
pub enum ExtraFormat {
    Avif,
    Heic,
    Tiff,
    Jxl,
    Jpeg2000,
    Psd,
}

impl ExtraFormat {
    /// The media type that the upload's content is recognised as.
    pub fn mime(self) -> &'static str {
        match self {
            Self::Avif => "image/avif",
            Self::Heic => "image/heif",
            Self::Tiff => "image/tiff",
            Self::Jxl => "image/jxl",
            Self::Jpeg2000 => "image/jp2",
            Self::Psd => "image/vnd.adobe.photoshop",
        }
    }
}

/// `[images]`: handed to the pipeline as it stands; only the worker, which has the pipeline, knows its keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImagesConfig {
    /// Whose URL stands in `images[].url`.
    pub default_variant: String,
    /// Every other key, `variants` among them.
    #[serde(flatten)]
    pub pipeline: toml::Table,
}

/// `[worker]`: one worker process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key")]
pub struct WorkerConfig {
    pub concurrency: usize,
    pub memory_budget_mb: u64,
    pub shutdown_grace_seconds: u64,
    pub metrics_addr: String,
    pub sweep_seconds: u64,
    pub sweep_after_seconds: u64,
    pub decode_timeout_seconds: u64,
    pub isolate: Isolate,
    pub isolated_memory_mb: u64,
    pub converter: Vec<String>,
    pub converter_timeout_seconds: u64,
    pub converter_max_bytes: u64,
}

/// Where images are worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolate {
    /// In threads of the worker.
    Off,
    /// In processes that can do nothing else, so that a codec that crashes takes nothing with it.
    Process,
}

impl WorkerConfig {
    seconds! {
        /// Time until an image is decoded.
        decode_timeout = decode_timeout_seconds;
        /// Time of one run of the converter.
        converter_timeout = converter_timeout_seconds;
        /// Time for running jobs after SIGTERM.
        shutdown_grace = shutdown_grace_seconds;
        /// Pause between two sweeps.
        sweep_interval = sweep_seconds;
        /// When a dream in which nothing moves counts as stuck.
        sweep_after = sweep_after_seconds;
    }

    /// Images worked on at once: the setting, or one per core.
    pub fn effective_concurrency(&self) -> usize {
        match self.concurrency {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            n => n,
        }
    }
}

/// `[queues]`: where jobs wait and how they are retried.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key")]
pub struct QueuesConfig {
    pub images: String,
    pub deletes: String,
    pub max_attempts: u32,
    pub job_timeout_seconds: u64,
    pub max_depth: u64,
    pub max_waiting_mb: u64,
    pub max_wait_seconds: u64,
    pub target_wait_seconds: u64,
    pub completed_retention_seconds: u64,
    pub completed_retention_count: u64,
    pub dead_retention_seconds: u64,
    pub dead_retention_count: u64,
    pub encryption_keys: Secret,
}

impl QueuesConfig {
    seconds! {
        /// Limit of one run.
        job_timeout = job_timeout_seconds;
        /// Longest time a new job may be expected to wait.
        max_wait = max_wait_seconds;
        /// How soon a job should be taken: what the number of wanted workers is computed for.
        target_wait = target_wait_seconds;
        /// How long finished jobs can be listed.
        completed_retention = completed_retention_seconds;
        /// How long dead jobs are kept.
        dead_retention = dead_retention_seconds;
    }

    /// The keys that seal jobs' arguments, if any.
    ///
    /// # Errors
    /// What is wrong with them, without the keys.
    pub fn keys(&self) -> Result<Option<KeyRing>, String> {
        let mut ring: Option<KeyRing> = None;
        for (at, pair) in
            self.encryption_keys.expose().split(',').map(str::trim).filter(|pair| !pair.is_empty()).enumerate()
        {
            let (name, key) = pair
                .split_once(':')
                .and_then(|(name, digits)| Some((name, key_from_hex(digits)?)))
                .ok_or_else(|| format!("pair {} is not `name:key` with a key of 64 hex digits", at + 1))?;
            let with = match ring {
                None => KeyRing::new(name, &key),
                Some(ring) => ring.knows(name, &key),
            };
            ring = Some(with.map_err(|_| {
                format!("name {} is taken twice or not 1 to 64 letters, digits, `_`, `.` or `-`", at + 1)
            })?);
        }
        Ok(ring)
    }
}

fn key_from_hex(digits: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = digits
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|value| value.try_into().ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    (digits.len() == 64).then(|| bytes.try_into().ok()).flatten()
}

/// `[dreams]`: lifetimes of records and events.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key")]
pub struct DreamsConfig {
    pub tombstone_seconds: u64,
    pub history_seconds: u64,
    pub history_events: u64,
}

impl DreamsConfig {
    seconds! {
        /// How long a deleted dream's last state is kept.
        tombstone = tombstone_seconds;
        /// How long events can be replayed.
        history = history_seconds;
    }
}

/// `[log]`: what is logged, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key")]
pub struct LogConfig {
    pub filter: String,
    pub format: LogFormat,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
