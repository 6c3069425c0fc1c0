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
            LazyLock::new(|| Script::from_lua(concat!($(include_str!(concat!("lua/", $file)), "\n"),+)));
    };
}

script!(PUSH, "base.lua", "push.lua");
// What a worker at rest waits for: alone, because each function defined in front of it costs time.
script!(PUSH_ONE, "push_one.lua");
script!(CLAIM, "claim.lua");
script!(STEP, "base.lua", "common.lua", "step.lua");
script!(BEAT, "base.lua", "common.lua", "measure.lua", "beat.lua");
script!(REGISTER, "base.lua", "register.lua");
script!(RECONCILE, "base.lua", "reconcile.lua");
script!(LEAVE, "base.lua", "common.lua", "leave.lua");
script!(INSPECT, "base.lua", "inspect.lua");
script!(LIST, "base.lua", "list.lua");
script!(CHANGE, "base.lua", "common.lua", "change.lua");
script!(PROGRESS, "base.lua", "progress.lua");
script!(MARK, "base.lua", "mark.lua");
script!(STATS, "base.lua", "stats.lua");
script!(FORECAST, "base.lua", "measure.lua", "forecast.lua");
script!(WORKERS, "base.lua", "workers.lua");
script!(TELL, "base.lua", "tell.lua");
script!(CONFIGURE, "base.lua", "common.lua", "configure.lua");
script!(VACUUM, "base.lua", "common.lua", "vacuum.lua");
script!(OUTCOME, "base.lua", "outcome.lua");
script!(ADOPT, "base.lua", "adopt.lua");

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
