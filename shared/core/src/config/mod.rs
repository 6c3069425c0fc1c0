//! Settings: `config/default.toml` (compiled in), an optional file, then the environment; all mistakes reported together.

mod check;
mod layers;
mod realtime;
mod secret;
mod sections;

pub use check::MAX_PARTS;
pub use layers::ConfigErrors;
pub use realtime::{IdForm, MessageLog, RealtimeSettings};
pub use secret::Secret;
pub use sections::{
    AuthConfig, DreamsConfig, ExtraFormat, HttpConfig, ImagesConfig, Isolate, LogConfig, LogFormat, QueuesConfig,
    RedisConfig, StorageConfig, UploadsConfig, WorkerConfig, WsConfig,
};

use oneiro_events::BrokerOptions;
use std::{collections::BTreeMap, net::SocketAddr, path::Path};

/// The compiled-in reference of every key.
pub const DEFAULTS: &str = include_str!("../../../../config/default.toml");

/// Exit status of a process whose configuration is wrong (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

/// Which binary asks: decides what must be set and whose address `PORT` replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The HTTP server.
    Api,
    /// The socket server.
    Ws,
    /// A worker.
    Worker,
    /// The operator's command line.
    Cli,
}

/// All settings, checked.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[http]`
    pub http: HttpConfig,
    /// `[ws]`
    pub ws: WsConfig,
    /// `[redis]`
    pub redis: RedisConfig,
    /// `[storage]`
    pub storage: StorageConfig,
    /// `[auth]`
    pub auth: AuthConfig,
    /// `[uploads]`
    pub uploads: UploadsConfig,
    /// `[images]`
    pub images: ImagesConfig,
    /// `[worker]`
    pub worker: WorkerConfig,
    /// `[queues]`
    pub queues: QueuesConfig,
    /// `[dreams]`
    pub dreams: DreamsConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[realtime]`
    pub realtime: RealtimeSettings,
}

impl Config {
    /// Reads the layers from the process's environment and checks them for `role`.
    ///
    /// `file` is the optional TOML file; where it is `None`, `ONEIRO_CONFIG` may name one.
    ///
    /// # Errors
    /// Every unknown key, unreadable value and impossible setting, at once.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn load(role: Role, file: Option<&Path>) -> Result<Self, ConfigErrors> {
        Self::from_layers(
            role,
            file,
            &std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect(),
        )
    }

    /// The same from a given environment, so that tests own it.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_layers(role: Role, file: Option<&Path>, env: &BTreeMap<String, String>) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let table = layers::merge(file, env, &mut errors);
        let mut config: Option<Self> = None;
        match layers::deserialize(table, &mut errors) {
            Some(parsed) => config = Some(parsed),
            None => debug_assert!(!errors.is_empty(), "a table that does not parse leaves an error"),
        }
        if let Some(config) = &mut config {
            config.apply_port(role, env, &mut errors);
            check::check(config, role, &mut errors);
        }
        match config {
            Some(config) if errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors(errors)),
        }
    }

    /// How long events are kept and under which prefix, for every [`oneiro_events::Broker`] of the project.
    pub fn broker_options(&self) -> BrokerOptions {
        BrokerOptions {
            key_prefix: self.redis.key_prefix.clone(),
            history_len: self.dreams.history_events,
            history_ttl: self.dreams.history(),
            ..BrokerOptions::default()
        }
    }

    /// The settings in force as TOML, secrets hidden.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
    }

    /// `PORT`, as Procfile runners set it, replaces the port of the role's address unless a variable gives that address.
    fn apply_port(&mut self, role: Role, env: &BTreeMap<String, String>, errors: &mut Vec<String>) {
        let (names, addr) = match role {
            Role::Api => (["HTTP_ADDR", "ONEIRO_HTTP_ADDR"], &mut self.http.addr),
            Role::Ws => (["WS_ADDR", "ONEIRO_WS_ADDR"], &mut self.ws.addr),
            Role::Worker | Role::Cli => return,
        };
        let Some(port) = env.get("PORT").filter(|value| !value.is_empty()) else { return };
        if names.iter().any(|&name| env.get(name).is_some_and(|value| !value.is_empty())) {
            return;
        }
        match port.parse::<u16>() {
            Ok(port) => {
                if let Ok(mut parsed) = addr.parse::<SocketAddr>() {
                    parsed.set_port(port);
                    *addr = parsed.to_string();
                }
            }
            Err(_) => errors.push(format!("PORT: `{port}` is not a port number from 0 to 65535")),
        }
    }
}

#[cfg(test)]
mod tests;
