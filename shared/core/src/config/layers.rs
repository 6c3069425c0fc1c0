//! Merging the layers into one table, each value checked against the type that the defaults give its key.

use super::{Config, DEFAULTS};
use std::{collections::BTreeMap, fmt, path::Path};
use toml::{Table, Value};

/// Short environment names, and the key that each sets.
const ALIASES: &[(&str, &str, &str)] = &[
    ("HTTP_ADDR", "http", "addr"),
    ("WS_ADDR", "ws", "addr"),
    ("REDIS_URL", "redis", "url"),
    ("STORAGE_URL", "storage", "url"),
    ("PUBLIC_MEDIA_URL", "storage", "public_media_url"),
    ("JWT_SECRET", "auth", "jwt_secret"),
    ("ONEIRO_DEV_TOKENS", "auth", "dev_tokens"),
    ("WORKER_METRICS_ADDR", "worker", "metrics_addr"),
    ("RUST_LOG", "log", "filter"),
    ("LOG_FORMAT", "log", "format"),
];

/// Everything that is wrong with the configuration, one sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub(super) Vec<String>);

impl ConfigErrors {
    /// Wraps mistakes that a binary found in its own part of the settings.
    pub fn new(errors: Vec<String>) -> Self {
        Self(errors)
    }

    /// The mistakes, in the order in which the keys stand in `config/default.toml` where that is known.
    pub fn messages(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} mistake{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        for error in &self.0 {
            writeln!(f, "  - {error}")?;
        }
        write!(f, "every key, its unit and default: config/default.toml")
    }
}

impl std::error::Error for ConfigErrors {}

pub(super) fn merge(file: Option<&Path>, env: &BTreeMap<String, String>, errors: &mut Vec<String>) -> Table {
    let mut table: Table = DEFAULTS.parse().expect("config/default.toml is compiled in and tested");
    let from_env = env.get("ONEIRO_CONFIG").filter(|name| !name.is_empty()).map(Path::new);
    if let Some(path) = file.or(from_env) {
        match std::fs::read_to_string(path)
            .map_err(|error| error.to_string())
            .and_then(|text| text.parse::<Table>().map_err(|e| e.to_string()))
        {
            Ok(overlay) => apply_file(&mut table, overlay, path, errors),
            Err(error) => errors.push(format!("cannot read the settings file {}: {}", path.display(), error.trim())),
        }
    }
    apply_env(&mut table, env, errors);
    table
}

fn apply_file(table: &mut Table, overlay: Table, path: &Path, errors: &mut Vec<String>) {
    for (section, value) in overlay {
        let Some(known) = table.get_mut(&section).and_then(Value::as_table_mut) else {
            errors.push(format!("{}: there is no section [{section}]", path.display()));
            continue;
        };
        let Value::Table(keys) = value else {
            errors.push(format!("{}: [{section}] must be a table", path.display()));
            continue;
        };
        for (key, value) in keys {
            // [images] is read by the worker's pipeline, which knows more keys than have a default here.
            match known.get(&key) {
                None if section != "images" => {
                    errors.push(format!("{}: [{section}] has no key `{key}`", path.display()));
                }
                Some(default) if !default.same_type(&value) => errors.push(format!(
                    "{}: {section}.{key} must be {}, not {}",
                    path.display(),
                    article(default.type_str()),
                    article(value.type_str())
                )),
                _ => {
                    known.insert(key, value);
                }
            }
        }
    }
}

fn apply_env(table: &mut Table, env: &BTreeMap<String, String>, errors: &mut Vec<String>) {
    let long_names: Vec<(String, String, String)> = table
        .iter()
        .filter_map(|(section, value)| Some((section, value.as_table()?)))
        .flat_map(|(section, keys)| {
            keys.keys().map(move |key| (format!("ONEIRO_{section}_{key}").to_uppercase(), section.clone(), key.clone()))
        })
        .collect();
    refuse_unknown(table, &long_names, env, errors);
    let short_names = ALIASES.iter().map(|&(name, section, key)| (name.to_owned(), section.to_owned(), key.to_owned()));
    for (name, section, key) in long_names.into_iter().chain(short_names) {
        // An empty variable counts as unset: Procfile runners and compose files set empty ones freely.
        let Some(text) = env.get(&name).filter(|text| !text.is_empty()) else { continue };
        let Some(slot) = table.get_mut(&section).and_then(Value::as_table_mut).and_then(|keys| keys.get_mut(&key))
        else {
            continue;
        };
        match parse_as(slot, text) {
            Ok(value) => *slot = value,
            // The value is not repeated: it may be a secret in the wrong variable.
            Err(wanted) => errors.push(format!("{name}: sets {section}.{key}, which must be {wanted}")),
        }
    }
}

/// A misspelt variable would leave the default in force and say nothing. Names of no section are none of ours: scripts and runners have their own.
fn refuse_unknown(
    table: &Table,
    known: &[(String, String, String)],
    env: &BTreeMap<String, String>,
    errors: &mut Vec<String>,
) {
    let ours = env.iter().filter(|(name, text)| !text.is_empty() && !is_of_a_service(name)).map(|(name, _)| name);
    for name in ours.filter(|name| known.iter().all(|(known, ..)| known != *name)) {
        let section = table.keys().find(|section| {
            name.strip_prefix("ONEIRO_")
                .and_then(|rest| rest.strip_prefix(&section.to_uppercase()))
                .is_some_and(|rest| rest.starts_with('_'))
        });
        if let Some(section) = section {
            errors.push(format!("{name}: [{section}] has no key of this name that a variable can set"));
        }
    }
}

/// Whether Kubernetes sets it by itself, for a service whose name begins like ours: `ONEIRO_REDIS_PORT_6379_TCP_ADDR`.
fn is_of_a_service(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST") || name.ends_with("_PORT") || name.contains("_PORT_")
}

fn parse_as(default: &Value, text: &str) -> Result<Value, &'static str> {
    let text = text.trim();
    match default {
        Value::String(_) => Ok(Value::String(text.to_owned())),
        Value::Integer(_) => text.replace('_', "").parse().map(Value::Integer).map_err(|_| "a whole number"),
        Value::Float(_) => text.parse().map(Value::Float).map_err(|_| "a number"),
        Value::Boolean(_) => match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(Value::Boolean(true)),
            "0" | "false" | "no" | "off" => Ok(Value::Boolean(false)),
            _ => Err("true or false"),
        },
        Value::Array(_) if text.starts_with('[') => format!("v = {text}")
            .parse::<Table>()
            .ok()
            .and_then(|mut table| table.remove("v"))
            .ok_or("a list in TOML's form"),
        Value::Array(_) => {
            Ok(Value::Array(text.split(',').map(|item| Value::String(item.trim().to_owned())).collect()))
        }
        Value::Datetime(_) | Value::Table(_) => Err("set in a settings file"),
    }
}

/// Section by section, so that one section's mistake does not hide another's: one that cannot be read is checked as its default.
pub(super) fn deserialize(mut table: Table, errors: &mut Vec<String>) -> Option<Config> {
    let defaults: Table = DEFAULTS.parse().expect("config/default.toml is compiled in and tested");
    for (section, default) in &defaults {
        let mut probe = defaults.clone();
        if let Some(value) = table.get(section) {
            probe.insert(section.clone(), value.clone());
        }
        if let Err(error) = Value::Table(probe).try_into::<Config>() {
            errors.push(format!("[{section}]: {}", error.message()));
            table.insert(section.clone(), default.clone());
        }
    }
    Value::Table(table).try_into::<Config>().map_err(|error| errors.push(error.message().to_owned())).ok()
}

fn article(kind: &str) -> String {
    match kind {
        "integer" => "a whole number".to_owned(),
        "array" => "a list".to_owned(),
        "string" => "a text in quotes".to_owned(),
        "boolean" => "true or false".to_owned(),
        "float" => "a number".to_owned(),
        other => format!("a {other}"),
    }
}
