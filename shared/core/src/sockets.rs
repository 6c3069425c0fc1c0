//! Asking the socket processes: who is connected, and ending connections. Nothing about a connection is kept in Redis; the processes are asked
//! over [`CONTROL_CHANNEL`], and those that are connected to Redis at that moment answer.

use crate::{
    auth::UserId,
    publish::{CONTROL_CHANNEL, REPLY_PREFIX},
};
use oneiro_events::{Broker, ChannelName, Event, EventError, Subscription, Subscriptions};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Most sockets that one process tells in answer to one question.
pub const MAX_LISTED: usize = 10_000;
/// How long processes may take to begin their answers, and to go on with them.
const PATIENCE: Duration = Duration::from_secs(2);

/// What every socket process is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// End the connections of this user.
    Kick(UserId),
    /// Tell of the connections.
    List(Question),
}

/// Which connections to tell of, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The channel to answer on.
    pub reply: ChannelName,
    /// Only those of this user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// Only those of this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Most sockets of one process, the oldest first; at most [`MAX_LISTED`].
    pub limit: usize,
}

/// A part of one process's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The process.
    pub node: String,
    /// How many of its connections fit the question, told or not.
    pub total: usize,
    /// Those of this part.
    pub sockets: Vec<Socket>,
    /// Whether no part follows.
    pub is_last: bool,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// Its name among those of all processes: the process, a dash, a number.
    pub id: String,
    /// Whose it is; `None` before it has signed in.
    pub user_id: Option<UserId>,
    /// `dream`, `notifications`, `presence` or `sse`.
    pub dialect: String,
    /// The client's address, as the trusted proxies tell it. Never a token.
    pub address: String,
    /// Unix milliseconds.
    pub connected_at_ms: u64,
    /// Channels that it has joined.
    pub channels: usize,
    /// Frames that wait for it.
    pub queued: usize,
}

/// What the processes answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// By process, the oldest connection of each first.
    pub sockets: Vec<Socket>,
    /// How many there are, told or not.
    pub total: usize,
    /// How many processes answered in full.
    pub nodes: usize,
    /// Whether every process that heard the question did. In a Redis Cluster it is not known who heard it.
    pub is_complete: bool,
}

/// Ends every connection of a user, on whichever process it is. Those that are connected to Redis at this moment hear it; it is not kept.
/// Returns how many processes heard it, in a Redis Cluster those of one node only.
///
/// # Errors
/// [`EventError`] where Redis did not take it.
pub async fn kick(broker: &Broker, user: &UserId) -> Result<u64, EventError> {
    tell(broker, &Order::Kick(user.clone())).await
}

/// Asks every socket process for its connections: of one user, of one process, or all; at most `limit` of each process.
///
/// # Errors
/// [`EventError`] where Redis does not answer. A process that does not is left out, and the listing says so.
pub async fn list(
    broker: &Broker,
    subscriptions: &Subscriptions,
    user: Option<UserId>,
    node: Option<String>,
    limit: usize,
) -> Result<Listing, EventError> {
    let reply: ChannelName = format!("{REPLY_PREFIX}{:016x}", rand::random::<u64>()).parse()?;
    let mut answers = subscriptions.subscribe(&reply).await?;
    let question = Question { reply, user, node, limit: limit.min(MAX_LISTED) };
    let asked = tell(broker, &Order::List(question)).await?;
    let limit = limit.min(MAX_LISTED);
    let mut found: BTreeMap<String, Told> = BTreeMap::new();
    while (found.values().filter(|told| told.is_over).count() as u64) < asked {
        let Some(answer) = next(&mut answers).await else { break };
        let told = found.entry(answer.node).or_default();
        told.sockets.extend(answer.sockets);
        told.total = answer.total;
        told.is_over |= answer.is_last;
    }
    let nodes = found.values().filter(|told| told.is_whole(limit)).count();
    let total = found.values().map(|told| told.total).sum();
    let sockets = found.into_values().flat_map(|told| told.sockets).collect();
    Ok(Listing { sockets, total, nodes, is_complete: nodes as u64 >= asked })
}

/// What one process told so far.
#[derive(Default)]
struct Told {
    sockets: Vec<Socket>,
    total: usize,
    /// The last part has come.
    is_over: bool,
}

impl Told {
    /// Whether no part was lost on the way: nothing is stored of an answer, and so nothing comes again.
    fn is_whole(&self, limit: usize) -> bool {
        self.is_over && self.sockets.len() == self.total.min(limit)
    }
}

/// The next part of an answer; `None` where none comes in time.
async fn next(answers: &mut Subscription) -> Option<Answer> {
    loop {
        let event = tokio::time::timeout(PATIENCE, answers.recv()).await.ok()?;
        if let Event::Publication(publication) = event
            && let Ok(answer) = serde_json::from_slice(&publication.payload)
        {
            return Some(answer);
        }
    }
}

/// How many processes heard it.
async fn tell(broker: &Broker, order: &Order) -> Result<u64, EventError> {
    let channel = CONTROL_CHANNEL.parse()?;
    let order = serde_json::to_vec(order).expect("an order has only strings as map keys");
    broker.notify(&channel, &order).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_written_as_documented() {
        let kick: Order = serde_json::from_str(r#"{"kick": 7}"#).unwrap();
        assert_eq!(kick, Order::Kick(UserId::from(7)));
        let list: Order = serde_json::from_str(r#"{"list": {"reply": "socket_replies_1", "limit": 10}}"#).unwrap();
        let reply = "socket_replies_1".parse().unwrap();
        assert_eq!(list, Order::List(Question { reply, user: None, node: None, limit: 10 }));
    }
}
