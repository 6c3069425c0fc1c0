//! The Lua scripts and how they are called.

use std::sync::LazyLock;

use fred::{
    clients::{Client, WithOptions},
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, FromValue, Value, scripts::Script},
};

use crate::QueueError;

macro_rules! script {
    ($name:ident, $($file:literal),+) => {
        pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::from_lua(concat!(include_str!("lua/base.lua"), $("\n", include_str!(concat!("lua/", $file))),+)));
    };
}

script!(PUSH, "push.lua");
script!(STEP, "common.lua", "step.lua");
script!(BEAT, "common.lua", "measure.lua", "beat.lua");
script!(REGISTER, "register.lua");
script!(RECONCILE, "reconcile.lua");
script!(LEAVE, "common.lua", "leave.lua");
script!(INSPECT, "inspect.lua");
script!(CHANGE, "common.lua", "change.lua");
script!(PROGRESS, "progress.lua");
script!(MARK, "mark.lua");
script!(STATS, "stats.lua");
script!(FORECAST, "measure.lua", "forecast.lua");
script!(WORKERS, "workers.lua");
script!(CONFIGURE, "common.lua", "configure.lua");
script!(VACUUM, "common.lua", "vacuum.lua");
script!(OUTCOME, "outcome.lua");
script!(ADOPT, "adopt.lua");

/// Runs a script; when Redis has lost it (restart, `SCRIPT FLUSH`, another node) the text is sent, which also stores it.
///
/// As a custom command, because the client's own script calls ignore a call's options and are not pipelined.
pub(crate) async fn run<R: FromValue>(
    client: &WithOptions<Client>,
    script: &LazyLock<Script>,
    prefix: &str,
    args: Vec<Value>,
) -> Result<R, QueueError> {
    /// The key stands behind the script and the number of keys.
    const KEY: ClusterHash = ClusterHash::Offset(2);
    let mut words = Vec::with_capacity(args.len() + 3);
    words.push(Value::String(script.sha1().clone()));
    words.push(Value::Integer(1));
    words.push(prefix.into());
    words.extend(args);
    match client.custom(CustomCommand::new_static("EVALSHA", KEY, false), words.clone()).await {
        Err(error) if error.details().starts_with("NOSCRIPT") => {
            words[0] = Value::String(script.lua().expect("every script is made from its source").clone());
            Ok(client.custom(CustomCommand::new_static("EVAL", KEY, false), words).await?)
        }
        other => Ok(other?),
    }
}

/// How often the client may write one command.
///
/// Once, because whether a command whose connection broke is sent again is decided where its meaning is known. In a cluster
/// the client counts finding the right node as a write, so there it needs more; then each call must bear being repeated.
pub(crate) fn writes(client: &Client) -> Option<u32> {
    Some(if client.is_clustered() { 4 } else { 1 })
}
