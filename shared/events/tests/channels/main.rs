//! Channels on a real Redis.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

#[path = "../support/redis.rs"]
mod redis;

mod broker;
mod cluster;
mod presence;
mod sentinel;
#[path = "../support/servers.rs"]
mod servers;
mod subscriptions;

use oneiro_events::{Broker, BrokerOptions, ChannelName};

async fn broker(redis: &redis::Redis) -> Broker {
    Broker::new(redis.client().await, BrokerOptions::default())
}

fn channel(name: &str) -> ChannelName {
    name.parse().unwrap()
}
