//! Plain `PUBLISH` by whoever speaks Redis and nothing of ours.

use crate::{
    client::Client,
    node::{Node, node, token},
    redis::Redis,
};
use fred::interfaces::PubsubInterface;
use serde_json::{Value, json};

async fn ready(node: &Node, path: &str) -> Client {
    let mut client = node.connect(path).await;
    if path.starts_with("/api/") {
        client.expect("connected").await;
    }
    client.expect_nothing_more().await;
    client
}

async fn subscribe(client: &mut Client, channels: &[&str]) {
    client.send(json!({ "type": "subscribe", "channels": channels })).await;
    let answer = client.expect("subscription_success").await;
    assert_eq!((&answer["channels"], answer.get("rejected")), (&json!(channels), None));
}

struct Publisher(fred::clients::Client);

impl Publisher {
    async fn publish(&self, channel: &str, payload: &str) {
        let receivers: i64 = self.0.publish(channel, payload).await.unwrap();
        assert_eq!(receivers, 1, "one process listens to {channel}");
    }

    async fn event(&self, channel: &str, event: Value) {
        self.publish(channel, &event.to_string()).await;
    }
}

#[tokio::test]
async fn a_plain_publication_reaches_every_dialect_in_its_own_words() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let publisher = Publisher(redis.client().await);
    // Positions are asked for, and must not be there: nothing of this is stored.
    let mut notifications = ready(&node, &format!("/ws/notifications/?positions=1&token={}", token(1))).await;
    let mut presence = ready(&node, &format!("/api/v1/ws?positions=1&token={}", token(1))).await;
    let mut other = ready(&node, &format!("/ws/notifications/?token={}", token(2))).await;
    subscribe(&mut notifications, &["post_1"]).await;
    subscribe(&mut presence, &["post_1", "alerts"]).await;

    let time = "2025-10-22T10:00:00.000Z";
    let data = json!({ "id": 7, "title": "t", "content": "c", "type": "k" });
    publisher.event("user_1", json!({ "type": "notification", "data": data, "timestamp": time })).await;
    assert_eq!(
        notifications.json().await,
        json!({ "type": "notification",
            "data": { "id": "7", "title": "t", "content": "c", "type": "k", "is_read": false, "created_at": time } })
    );
    assert_eq!(
        presence.json().await,
        json!({ "type": "notification", "notification_type": "k", "timestamp": time,
            "data": { "id": 7, "title": "t", "message": "c", "type": "k", "data": {}, "link": null, "created_at": time } })
    );
    other.expect_nothing_more().await;

    let alert = json!({ "type": "alert", "data": { "id": 5, "severity": "critical" }, "timestamp": time });
    publisher.event("alerts", alert).await;
    for client in [&mut notifications, &mut presence, &mut other] {
        assert_eq!(
            client.json().await,
            json!({ "type": "alert", "data": { "id": "5", "severity": "critical", "created_at": time } })
        );
    }

    let edited = json!({ "type": "edited", "data": { "by": 7 }, "anything": [1, null] });
    publisher.event("post_1", edited.clone()).await;
    assert_eq!((notifications.json().await, presence.json().await), (edited.clone(), edited));
    other.expect_nothing_more().await;

    // What is no event is not passed on, and ends nobody's connection.
    for channel in ["user_1", "alerts", "post_1"] {
        for nonsense in ["", "nonsense", "[1]", "\"text\"", "{\"type\":"] {
            publisher.publish(channel, nonsense).await;
        }
    }
    publisher.event("post_1", json!({ "type": "last" })).await;
    for client in [&mut notifications, &mut presence] {
        assert_eq!(client.json().await, json!({ "type": "last" }));
        client.send(json!({ "type": "history", "channel": "post_1" })).await;
        assert_eq!(client.expect("history").await["events"], json!([]), "nothing of it is kept");
        client.expect_nothing_more().await;
    }
    other.expect_nothing_more().await;
    // Nor does it wait for those who were away.
    let mut late = node.connect(&format!("/ws/notifications/?token={}", token(1))).await;
    late.expect_nothing_more().await;
}
