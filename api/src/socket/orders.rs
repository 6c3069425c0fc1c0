//! What operators ask of every socket process on `socket_control`: to end a user's connections, to tell who is connected.

use super::{CONTROL_CHANNEL, SocketContext, conn::Conn};
use oneiro_core::{
    publish::REPLY_PREFIX,
    sockets::{Answer, MAX_LISTED, Order, Question, Socket},
};
use oneiro_events::{Event, EventError, Subscriptions};
use std::{sync::Arc, time::Duration};

/// Between two attempts to hear orders.
const HEAR_PAUSE: Duration = Duration::from_secs(2);
/// Sockets in one part of an answer: about 30 KiB.
const PART: usize = 200;

impl SocketContext {
    /// Hears orders for as long as the process runs.
    pub(crate) async fn obey(self: Arc<Self>, subscriptions: Subscriptions) {
        let channel = CONTROL_CHANNEL.parse().expect("a constant name");
        let mut orders = loop {
            match subscriptions.subscribe(&channel).await {
                Ok(orders) => break orders,
                Err(error) => tracing::warn!(error = crate::error::report(&error), "orders cannot be heard yet"),
            }
            tokio::time::sleep(HEAR_PAUSE).await;
        };
        loop {
            let Event::Publication(order) = orders.recv().await else { continue };
            match serde_json::from_slice(&order.payload) {
                Ok(Order::Kick(user)) => {
                    let count = self.registry.kick(&user);
                    tracing::info!(user.id = %user, count, "connections of a user were ended on request");
                }
                // Whoever may publish here could else have it put on any channel, past all checks.
                Ok(Order::List(question)) if !question.reply.as_str().starts_with(REPLY_PREFIX) => {
                    tracing::warn!(reply = %question.reply, "a question wants its answer on a channel that is not for answers");
                }
                Ok(Order::List(question)) => {
                    if let Err(error) = self.answer(&question).await {
                        tracing::warn!(error = crate::error::report(&error), "a question could not be answered");
                    }
                }
                Err(_) => tracing::warn!("an order was not understood"),
            }
        }
    }

    async fn answer(&self, question: &Question) -> Result<(), EventError> {
        let is_for_us = question.node.as_ref().is_none_or(|node| *node == self.node);
        let mut conns = if is_for_us { self.registry.conns() } else { Vec::new() };
        conns.retain(|(_, conn)| question.user.as_ref().is_none_or(|user| conn.user() == Some(user)));
        conns.sort_unstable_by_key(|(id, _)| *id);
        let total = conns.len();
        conns.truncate(question.limit.min(MAX_LISTED));
        let mut parts = conns.chunks(PART).peekable();
        loop {
            let sockets = parts.next().unwrap_or_default().iter().map(|(id, conn)| self.describe(*id, conn)).collect();
            let is_last = parts.peek().is_none();
            let answer = Answer { node: self.node.clone(), total, sockets, is_last };
            let answer = serde_json::to_vec(&answer).expect("an answer has only strings as map keys");
            self.broker.notify(&question.reply, &answer).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    fn describe(&self, id: u64, conn: &Conn) -> Socket {
        Socket {
            id: format!("{}-{id}", self.node),
            user_id: conn.user().cloned(),
            dialect: conn.dialect.to_owned(),
            address: conn.address.to_string(),
            connected_at_ms: conn.since_ms,
            channels: conn.channel_count(),
            queued: conn.outbox.waiting().0,
        }
    }
}
