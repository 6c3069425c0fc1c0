//! What a connection is sent of the past while it is set up, and what happens meanwhile.

use crate::{
    node::{Node, node, token},
    presence::eventually,
    redis::Redis,
};
use oneiro_events::{ChannelName, Position};
use serde_json::{Value, json};

fn path(user: u64) -> String {
    format!("/ws/notifications/?token={}", token(user))
}

/// Events that no socket's buffers hold: as long as a client takes the first one only, the server is still sending the others.
const MANY: u64 = 30;

async fn store_many(node: &Node, channel: &str, r#type: &str) -> Position {
    let channel: ChannelName = channel.parse().unwrap();
    let title = "x".repeat(1 << 20);
    let mut last = Position::origin();
    for id in 1..=MANY {
        let event =
            json!({ "type": r#type, "data": { "id": id, "title": title }, "timestamp": "2025-10-22T10:00:00.000Z" });
        last = node.broker.publish(&channel, event.to_string().as_bytes()).await.unwrap();
    }
    last
}

#[tokio::test]
async fn custom_events_that_come_while_a_connection_is_set_up_are_delivered() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let end = store_many(&node, "user_1", "notification").await;
    for (n, resume) in [(1, String::new()), (2, format!("&epoch={}&seq=0", end.epoch))] {
        let mut client = node.connect(&format!("{}{resume}", path(1))).await;
        if !resume.is_empty() {
            client.expect("resumed").await;
        }
        client.expect("notification").await;
        node.publish(json!({ "type": "edited", "user_id": 1, "data": { "n": n } })).await;
        loop {
            let frame = client.json().await;
            // The earlier one comes again to who resumes from before it.
            if frame["type"] == "edited" && frame["data"]["n"] == n {
                break;
            }
        }
        client.expect_nothing_more().await;
        node.leave(client).await;
    }
}

#[tokio::test]
async fn what_was_trimmed_while_a_client_took_its_past_is_told() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let end = store_many(&node, "post_1", "edited").await;
    let mut client = node.connect(&path(1)).await;
    let since = json!({ "epoch": end.epoch, "offset": 0 });
    client.send(json!({ "type": "subscribe", "channels": ["post_1"], "since": since })).await;
    client.expect("subscription_success").await;
    client.expect("resumed").await;
    assert_eq!(client.expect("edited").await["seq"], 1);
    // More than are retained.
    let channel = "post_1".parse().unwrap();
    let (last, small) = (end.offset + 1_300, json!({ "type": "edited", "data": {} }).to_string());
    for _ in end.offset..last {
        node.broker.publish(&channel, small.as_bytes()).await.unwrap();
    }
    let mut seen = 1;
    let mut gaps = 0;
    while seen < last {
        let frame = client.json().await;
        let seq = frame["seq"].as_u64().unwrap();
        if frame["type"] == "resume_failed" {
            gaps += 1;
            assert!(seq > seen, "{seq} after {seen}");
            seen = seq;
        } else {
            seen += 1;
            assert_eq!(seq, seen);
        }
    }
    assert_eq!(gaps, 1);
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn kinds_that_were_unsubscribed_do_not_come_back_with_a_resume() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut client = node.connect(&path(1)).await;
    client.expect_nothing_more().await;
    node.leave(client).await;
    let first = node.publish(json!({ "type": "notification", "user_id": 1, "data": { "title": "t" } })).await;
    node.publish(json!({ "type": "order_update", "user_id": 1, "data": { "order_no": "SO-1" } })).await;
    let mut client = node.connect(&path(1)).await;
    client.expect("notification").await;
    client.expect("order_update").await;
    client.send(json!({ "type": "unsubscribe", "channels": ["notifications"] })).await;
    client.expect("unsubscribed").await;
    client.send(json!({ "type": "resume", "channel": "user_1", "epoch": first["epoch"], "seq": 0 })).await;
    client.expect("resumed").await;
    assert_eq!(client.expect("order_update").await["data"]["order_no"], "SO-1");
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn who_has_nothing_to_read_has_read_everything() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let channel = "user_1".parse().unwrap();
    // Neither is worth delivering late to this dialect, so nothing of it is written, and nothing can be acknowledged.
    node.publish(json!({ "type": "edited", "user_id": 1 })).await;
    let end = node.publish(json!({ "type": "chat", "user_id": 1, "data": { "message": "hello" } })).await;
    let end: Position = format!("{}:{}", end["epoch"].as_str().unwrap(), end["offset"]).parse().unwrap();
    let mut client = node.connect(&format!("{}&acks=1", path(1))).await;
    client.expect_nothing_more().await;
    eventually(async || node.broker.cursor(&channel, "notifications").await.unwrap().as_ref() == Some(&end)).await;
    let unread: Value = node.publish(json!({ "type": "notification", "user_id": 1, "data": { "title": "t" } })).await;
    assert_eq!(client.expect("notification").await["seq"], unread["offset"]);
    node.leave(client).await;
    let mut client = node.connect(&format!("{}&acks=1", path(1))).await;
    assert_eq!(client.expect("notification").await["seq"], unread["offset"], "it was not acknowledged");
}
