//! Running a Lua step: by its hash, pipelined with other commands, loaded again when Redis forgot it.

use crate::EventError;
use fred::{
    clients::Client,
    interfaces::{ClientLike, LuaInterface},
    types::{ClusterHash, CustomCommand, FromValue, Value, scripts::Script},
};

/// Position of the first key among EVALSHA's arguments: after the hash and the number of keys.
const FIRST_KEY: usize = 2;

/// One Lua file, hashed once.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    script: Script,
    action: &'static str,
}

impl Step {
    /// `action` is the verb phrase that errors tell.
    pub(crate) fn new(lua: &'static str, action: &'static str) -> Self {
        Self { script: Script::from_lua(lua), action }
    }

    /// A step that publishes: in a cluster on the shard that holds the channel's keys, for which the channel's name is its own hash tag.
    pub(crate) fn publishing(lua: &'static str, action: &'static str, client: &Client) -> Self {
        let command = if client.is_clustered() { "SPUBLISH" } else { "PUBLISH" };
        Self { script: Script::from_lua(format!("local PUBLISH = '{command}'\n{lua}")), action }
    }

    /// Runs the step on the node that holds `keys`.
    ///
    /// # Errors
    /// [`EventError::Redis`]: no answer, or the script failed.
    pub(crate) async fn run<R: FromValue>(
        &self,
        client: &Client,
        keys: &[String],
        args: Vec<Value>,
    ) -> Result<R, EventError> {
        let mut all = Vec::with_capacity(FIRST_KEY + keys.len() + args.len());
        all.push(Value::from(self.script.sha1().clone()));
        all.push(Value::from(keys.len() as i64));
        all.extend(keys.iter().map(|key| Value::from(key.as_str())));
        all.extend(args);
        // Not `Script::evalsha`: the client would send it alone and hold everything else until its answer came.
        let command = CustomCommand::new_static("EVALSHA", ClusterHash::Offset(FIRST_KEY), false);
        let first = client.custom::<Value, Value>(command.clone(), all.clone()).await;
        let reply = match first {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                if let Some(lua) = self.script.lua() {
                    client.script_load_cluster::<(), _>(lua.clone()).await.map_err(EventError::redis(self.action))?;
                }
                client.custom::<Value, Value>(command, all).await
            }
            other => other,
        };
        reply.and_then(Value::convert).map_err(EventError::redis(self.action))
    }
}
