//! Running a Lua step: by its hash, pipelined with other commands, loaded again when Redis forgot it.

use crate::{ChannelName, EventError, shards::Shards};
use fred::{
    clients::Client,
    error::Error,
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
    pub(crate) fn publishing(lua: &'static str, action: &'static str, shards: &Shards) -> Self {
        let command = if shards.is_clustered() { "SPUBLISH" } else { "PUBLISH" };
        Self { script: Script::from_lua(format!("local PUBLISH = '{command}'\n{lua}")), action }
    }

    /// Runs the step where the channel's keys are, which `keys` must be.
    ///
    /// # Errors
    /// [`EventError::Redis`]: no answer, or the script failed; [`EventError::ShardAway`].
    pub(crate) async fn run<R: FromValue>(
        &self,
        shards: &Shards,
        channel: &ChannelName,
        keys: &[String],
        args: Vec<Value>,
    ) -> Result<R, EventError> {
        let all = &self.arguments(keys, args);
        let send = |client: Client| async move { self.send(&client, all).await };
        let reply = shards.on(channel, self.action, send).await?;
        reply.convert().map_err(EventError::redis(self.action))
    }

    /// The same over keys of any channels, where there is no cluster.
    ///
    /// # Errors
    /// [`EventError::Redis`].
    pub(crate) async fn run_unsharded<R: FromValue>(
        &self,
        client: &Client,
        keys: &[String],
        args: Vec<Value>,
    ) -> Result<R, EventError> {
        let reply = self.send(client, &self.arguments(keys, args)).await;
        reply.and_then(Value::convert).map_err(EventError::redis(self.action))
    }

    fn arguments(&self, keys: &[String], args: Vec<Value>) -> Vec<Value> {
        let mut all = Vec::with_capacity(FIRST_KEY + keys.len() + args.len());
        all.push(Value::from(self.script.sha1().clone()));
        all.push(Value::from(keys.len() as i64));
        all.extend(keys.iter().map(|key| Value::from(key.as_str())));
        all.extend(args);
        all
    }

    async fn send(&self, client: &Client, all: &[Value]) -> Result<Value, Error> {
        // Not `Script::evalsha`: the client would send it alone and hold everything else until its answer came.
        let command = CustomCommand::new_static("EVALSHA", ClusterHash::Offset(FIRST_KEY), false);
        let first = client.custom::<Value, Value>(command.clone(), all.to_vec()).await;
        match first {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                if let Some(lua) = self.script.lua() {
                    client.script_load_cluster::<(), _>(lua.clone()).await?;
                }
                client.custom::<Value, Value>(command, all.to_vec()).await
            }
            other => other,
        }
    }
}
