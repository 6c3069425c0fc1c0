//! What types cannot say: addresses, URLs, key lengths, limits that contradict each other.

use super::{Config, Role};
use crate::auth;
use std::net::SocketAddr;

/// RFC 7518 section 3.2: an HS256 key must be at least as long as the hash, 32 bytes.
const MIN_SECRET_BYTES: usize = 32;

/// As many parts has a form at most: two for each image, its file and what is said of it, and the texts.
pub const MAX_PARTS: usize = 1000;

/// Long enough, and enough of them, for the sweep to see each dead job of a dream.
const MIN_DEAD_SECONDS: u64 = 600;
const MIN_DEAD: u64 = 1_000;
/// The program's own address space is some 30 MB, its buffers up to 100 MB.
const MIN_ISOLATED_MB: u64 = 256;

/// Every entry has to be an origin as browsers send it, or `*`.
pub(super) fn origins(name: &str, listed: &[String], errors: &mut Vec<String>) {
    let is_origin = |text: &str| url::Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text);
    for origin in listed.iter().filter(|origin| *origin != "*" && !is_origin(origin)) {
        errors
            .push(format!("{name}: `{origin}` is not an origin such as https://app.example or http://localhost:5173"));
    }
}

pub(super) fn check(config: &Config, role: Role, errors: &mut Vec<String>) {
    let mut addr = |name: &str, value: &str| {
        if value.parse::<SocketAddr>().is_err() {
            errors.push(format!("{name}: `{value}` is not an address such as 127.0.0.1:8000 or [::]:8000"));
        }
    };
    addr("http.addr (HTTP_ADDR)", &config.http.addr);
    addr("ws.addr (WS_ADDR)", &config.ws.addr);
    if !config.worker.metrics_addr.is_empty() {
        addr("worker.metrics_addr (WORKER_METRICS_ADDR)", &config.worker.metrics_addr);
    }
    redis(config, errors);
    if let Err(reason) = config.queues.keys() {
        errors.push(format!("queues.encryption_keys: {reason}; `openssl rand -hex 32` makes a key"));
    }
    storage(config, errors);
    if matches!(role, Role::Api | Role::Ws) {
        tokens(config, errors);
    }
    limits(config, errors);
    errors.extend(config.realtime.mistakes());
}

fn redis(config: &Config, errors: &mut Vec<String>) {
    let url = config.redis.url.expose();
    // fred reads any scheme as a plain server's; a typo should not.
    let reason = match url.split_once("://").map(|(scheme, _)| scheme) {
        Some(
            "redis" | "rediss" | "redis-sentinel" | "rediss-sentinel" | "redis-cluster" | "rediss-cluster"
            | "redis+unix",
        ) => fred::types::config::Config::from_url(url).err().map(|error| error.details().to_owned()),
        _ => Some("the scheme is not one of redis, rediss, redis-sentinel, redis-cluster".to_owned()),
    };
    if let Some(reason) = reason {
        // The URL may carry a password: the reason is told, the value is not.
        errors.push(format!("redis.url (REDIS_URL): {reason}; a good one is redis://127.0.0.1:6379/0"));
    }
    let prefix = &config.redis.key_prefix;
    if prefix.is_empty()
        || prefix.len() > 32
        || !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    {
        errors.push("redis.key_prefix: must be 1 to 32 letters, digits, `_`, `.` or `-`".to_owned());
    }
}

fn storage(config: &Config, errors: &mut Vec<String>) {
    if let Err(error) = crate::storage::parse_url(&config.storage.url) {
        errors.push(format!("storage.url (STORAGE_URL): {error}"));
    }
    let media = &config.storage.public_media_url;
    if !(media.is_empty()
        || media.starts_with('/')
        || url::Url::parse(media).is_ok_and(|url| matches!(url.scheme(), "http" | "https")))
    {
        errors.push(format!(
            "storage.public_media_url (PUBLIC_MEDIA_URL): `{media}` is neither an http(s) URL nor a path"
        ));
    }
}

fn tokens(config: &Config, errors: &mut Vec<String>) {
    let uses_secret = config.auth.algorithms.iter().any(|name| name.starts_with("HS"));
    let length = config.auth.jwt_secret.expose().len();
    if uses_secret && length == 0 {
        errors.push("auth.jwt_secret (JWT_SECRET): is not set; `openssl rand -hex 32` makes a good one".to_owned());
        return;
    }
    if uses_secret && length < MIN_SECRET_BYTES {
        errors.push(format!("auth.jwt_secret (JWT_SECRET): has {length} bytes, but needs at least {MIN_SECRET_BYTES}"));
    }
    if let Err(error) = auth::Verifier::new(&config.auth) {
        errors.push(format!("[auth]: {error}"));
    }
    if config.auth.dev_tokens && config.auth.jwt_secret.is_empty() {
        errors.push("auth.dev_tokens (ONEIRO_DEV_TOKENS): needs auth.jwt_secret to sign with".to_owned());
    } else if config.auth.dev_tokens && auth::minting_algorithm(&config.auth).is_none() {
        errors.push("auth.dev_tokens (ONEIRO_DEV_TOKENS): needs HS256, HS384 or HS512 in auth.algorithms".to_owned());
    }
}

fn limits(config: &Config, errors: &mut Vec<String>) {
    let uploads = &config.uploads;
    if uploads.max_file_bytes == 0 || uploads.max_file_bytes > uploads.max_body_bytes {
        errors.push("uploads.max_file_bytes: must be from 1 to uploads.max_body_bytes".to_owned());
    }
    for (name, value) in [
        ("http.max_concurrent_uploads", config.http.max_concurrent_uploads as u64),
        ("http.request_timeout_seconds", config.http.request_timeout_seconds),
        ("http.header_timeout_seconds", config.http.header_timeout_seconds),
        ("redis.connect_timeout_seconds", config.redis.connect_timeout_seconds),
        ("redis.command_timeout_seconds", config.redis.command_timeout_seconds),
        ("redis.reconnect_max_seconds", config.redis.reconnect_max_seconds),
        ("queues.max_attempts", u64::from(config.queues.max_attempts)),
        ("queues.job_timeout_seconds", config.queues.job_timeout_seconds),
        ("queues.target_wait_seconds", config.queues.target_wait_seconds),
        ("worker.memory_budget_mb", config.worker.memory_budget_mb),
        ("worker.sweep_seconds", config.worker.sweep_seconds),
        ("worker.sweep_after_seconds", config.worker.sweep_after_seconds),
        ("worker.decode_timeout_seconds", config.worker.decode_timeout_seconds),
        ("uploads.max_images", uploads.max_images as u64),
        ("uploads.max_concurrent_per_user", uploads.max_concurrent_per_user as u64),
        ("dreams.history_events", config.dreams.history_events),
        ("dreams.history_seconds", config.dreams.history_seconds),
    ] {
        if value == 0 {
            errors.push(format!("{name}: must be 1 or more"));
        }
    }
    // The sweep asks a dead or cancelled job what became of its image: of one that is forgotten already it would make another.
    let queues = &config.queues;
    if queues.dead_retention_seconds < MIN_DEAD_SECONDS || queues.dead_retention_count < MIN_DEAD {
        errors.push(format!(
            "queues.dead_retention_seconds, queues.dead_retention_count: must be at least {MIN_DEAD_SECONDS} and {MIN_DEAD}, \
             as dreams are told of their jobs' ends from them"
        ));
    }
    if config.worker.isolated_memory_mb < MIN_ISOLATED_MB {
        errors.push(format!(
            "worker.isolated_memory_mb: must be at least {MIN_ISOLATED_MB}, the program itself takes a part"
        ));
    }
    // A third of a job's time is for waiting; what is left must do for the converter, and for the image behind it.
    let worker = &config.worker;
    if !worker.converter.is_empty() && worker.converter_timeout_seconds * 3 >= config.queues.job_timeout_seconds * 2 {
        errors.push(
            "worker.converter_timeout_seconds: must be less than two thirds of queues.job_timeout_seconds".to_owned(),
        );
    }
    if uploads.max_images.saturating_mul(2).saturating_add(4) > MAX_PARTS {
        errors.push(format!(
            "uploads.max_images: must be at most {}, as a form has {MAX_PARTS} parts",
            (MAX_PARTS - 4) / 2
        ));
    }
    origins("http.cors_origins", &config.http.cors_origins, errors);
    // What has no record after an hour is taken for abandoned and removed.
    if config.http.request_timeout_seconds > 1800 {
        errors.push("http.request_timeout_seconds: must be at most 1800".to_owned());
    }
    for (name, queue) in [("queues.images", &config.queues.images), ("queues.deletes", &config.queues.deletes)] {
        if queue.parse::<apalis_fred::QueueName>().is_err() {
            errors.push(format!("{name}: `{queue}` is not a queue name (1 to 64 letters, digits, `_`, `.` or `-`)"));
        }
    }
    if config.queues.images == config.queues.deletes {
        errors.push("queues.images and queues.deletes: must differ".to_owned());
    }
    if tracing_subscriber::EnvFilter::try_new(&config.log.filter).is_err() {
        errors.push(format!(
            "log.filter (RUST_LOG): `{}` is not a filter such as info or info,oneiro_worker=debug",
            config.log.filter
        ));
    }
}
