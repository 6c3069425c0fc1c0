//! Dialect N, channels, and the inbox.

use crate::{
    client::Client,
    node::{Node, node, settings, token},
    redis::Redis,
};
use fred::interfaces::ClientLike;
use oneiro_core::config::RealtimeSettings;
use serde_json::{Value, json};

fn path(user: u64) -> String {
    format!("/ws/notifications/?token={}", token(user))
}

async fn ready(node: &Node, path: &str) -> Client {
    let mut client = node.connect(path).await;
    client.expect_nothing_more().await;
    client
}

fn notification(user: u64, id: u64) -> Value {
    json!({ "type": "notification", "user_id": user, "data": { "id": id, "title": "t", "content": "c", "type": "k" } })
}

#[tokio::test]
async fn each_kind_reaches_its_audience_without_a_subscription() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut one = ready(&node, &path(1)).await;
    let mut two = ready(&node, path(2).trim_end_matches('/')).await;
    let answer = node.publish(notification(1, 7)).await;
    assert_eq!((&answer["channel"], &answer["offset"]), (&json!("user_1"), &json!(1)));
    let frame = one.expect("notification").await;
    assert_eq!(frame.as_object().unwrap().keys().collect::<Vec<_>>(), ["data", "type"], "the seed's frame and no more");
    assert_eq!((&frame["data"]["id"], &frame["data"]["is_read"]), (&json!("7"), &json!(false)));
    node.publish(json!([{ "type": "alert", "data": { "title": "fire", "severity": "critical" } },
        { "type": "order_update", "user_id": 2, "data": { "order_no": "SO-1", "status": "shipped" } },
        { "type": "material_update", "user_id": 2, "data": { "code": "M-1", "stock_quantity": 3 } }]))
        .await;
    assert_eq!(one.expect("alert").await["data"]["severity"], "critical");
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(two.json().await["type"].as_str().unwrap().to_owned());
    }
    kinds.sort();
    assert_eq!(kinds, ["alert", "material_update", "order_update"]);
    one.expect_nothing_more().await;
    let mut nobody = node.connect("/ws/notifications/").await;
    assert_eq!(nobody.closed().await.0, 4001);
}

#[tokio::test]
async fn subscribing_is_acknowledged_and_narrowing_is_opt_in() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut client = ready(&node, &path(1)).await;
    let asked = json!(["notifications", "alerts", "orders"]);
    for _ in 0..2 {
        client.send(json!({ "type": "subscribe", "channels": asked })).await;
        assert_eq!(client.json().await, json!({ "type": "subscription_success", "channels": asked }));
    }
    client.send(json!({ "type": "subscribe", "channels": ["alerts", "user_2", "post_1", "a b", "secret"] })).await;
    let answer = client.expect("subscription_success").await;
    assert_eq!(answer["channels"], json!(["alerts", "post_1"]));
    let reasons: Vec<_> =
        answer["rejected"].as_array().unwrap().iter().map(|r| r["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["forbidden", "invalid_name", "forbidden"]);
    client.expect_nothing_more().await;
    node.publish(json!({ "type": "edited", "channel": "post_1", "data": { "by": 7 } })).await;
    assert_eq!(client.expect("edited").await["data"]["by"], 7);

    client.send(json!({ "type": "unsubscribe", "channels": ["notifications", "post_1"] })).await;
    client.expect("unsubscribed").await;
    node.publish(notification(1, 1)).await;
    node.publish(json!({ "type": "edited", "channel": "post_1" })).await;
    node.publish(json!({ "type": "alert", "data": {} })).await;
    client.expect("alert").await;
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn what_comes_while_a_user_is_away_waits() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    drop(ready(&node, &path(1)).await);
    node.publish(notification(1, 1)).await;
    node.publish(json!({ "type": "notification", "user_id": 1, "ttl_seconds": 1, "data": { "id": 2 } })).await;
    node.publish(notification(1, 3)).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let mut client = node.connect(&path(1)).await;
    for id in ["1", "3"] {
        assert_eq!(
            client.expect("notification").await["data"]["id"],
            id,
            "what has outlived its time is not delivered"
        );
    }
    client.expect_nothing_more().await;
    node.leave(client).await;
    let mut again = node.connect(&path(1)).await;
    again.expect_nothing_more().await;
}

#[tokio::test]
async fn unacknowledged_events_come_again() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let path = format!("{}&acks=1", path(1));
    let mut client = ready(&node, &path).await;
    for id in 1..=3 {
        node.publish(notification(1, id)).await;
        assert_eq!(client.expect("notification").await["seq"], id);
    }
    client.send(json!({ "type": "ack", "seq": 2 })).await;
    client.expect_nothing_more().await;
    node.leave(client).await;
    let mut again = node.connect(&path).await;
    assert_eq!(again.expect("notification").await["seq"], 3);
    again.expect_nothing_more().await;
}

#[tokio::test]
async fn a_channel_is_followed_from_a_position_and_its_history_is_read() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut first = None;
    for n in 1..=3 {
        let answer = node.publish(json!({ "type": "edited", "channel": "post_1", "data": { "n": n } })).await;
        first.get_or_insert(answer);
    }
    let first = first.unwrap();
    let mut client = ready(&node, &path(1)).await;
    let since = json!({ "epoch": first["epoch"], "offset": 1 });
    client.send(json!({ "type": "subscribe", "channels": ["post_1"], "since": since })).await;
    client.expect("subscription_success").await;
    assert_eq!(client.expect("resumed").await["recovered"], 2);
    for seq in [2, 3] {
        let event = client.expect("edited").await;
        assert_eq!((&event["seq"], &event["channel"]), (&json!(seq), &json!("post_1")));
    }
    client.send(json!({ "type": "history", "channel": "post_1", "limit": 2 })).await;
    let history = client.expect("history").await;
    let seqs: Vec<_> = history["events"].as_array().unwrap().iter().map(|event| event["seq"].clone()).collect();
    assert_eq!((json!(seqs), &history["seq"]), (json!([2, 3]), &json!(3)));
    client.send(json!({ "type": "history", "channel": "user_2" })).await;
    assert_eq!(client.expect("error").await["error_code"], "FORBIDDEN");
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn a_channel_that_begins_anew_is_delivered_to_connections_that_stood_further_on() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut client = ready(&node, &format!("{}&positions=1", path(1))).await;
    let edited = |n: u64| json!({ "type": "edited", "channel": "post_1", "data": { "n": n } });
    for n in 1..=5 {
        node.publish(edited(n)).await;
    }
    client.send(json!({ "type": "subscribe", "channels": ["post_1"] })).await;
    assert_eq!(client.expect("subscription_success").await["positions"]["post_1"]["offset"], 5);
    redis.client().await.flushall::<()>(false).await.unwrap();
    // The first one shows that the channel is another. It may be queued before the loss is told or after.
    node.publish(edited(6)).await;
    let mut frames = [client.json().await, client.json().await];
    frames.sort_by_key(|frame| frame["type"] != "edited");
    let [event, failed] = frames;
    assert_eq!((&event["data"]["n"], &event["seq"]), (&json!(6), &json!(1)));
    assert_eq!((&failed["type"], &failed["channel"]), (&json!("resume_failed"), &json!("post_1")));
    assert_eq!(failed["epoch"], event["epoch"]);
    for n in 7..=13 {
        node.publish(edited(n)).await;
        assert_eq!(client.expect("edited").await["data"]["n"], n);
    }
    client.expect_nothing_more().await;
}

/// All notifications that a user who was away is sent; the next connection must get none of them again.
async fn waiting(node: &Node) -> Vec<u64> {
    let mut client = node.connect(&path(1)).await;
    client.send(json!({ "type": "ping" })).await;
    let mut ids = Vec::new();
    loop {
        let frame = client.json().await;
        if frame["type"] == "pong" {
            break;
        }
        ids.push(frame["data"]["id"].as_str().unwrap().parse().unwrap());
    }
    node.leave(client).await;
    ready(node, &path(1)).await;
    ids
}

#[tokio::test]
async fn more_than_a_queue_holds_waits_for_a_user_and_arrives() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let text = "x".repeat(16 * 1024);
    for first in [0, 50] {
        let events: Vec<Value> = (first..first + 50)
            .map(|id| json!({ "type": "notification", "user_id": 1, "data": { "id": id, "title": text } }))
            .collect();
        node.publish(events.into()).await;
    }
    assert_eq!(waiting(&node).await, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn all_that_is_left_of_a_long_inbox_arrives() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { inbox_messages: 1_100, ..settings() }).await;
    for first in [0, 400, 800] {
        node.publish((first..first + 400).map(|id| notification(1, id)).collect()).await;
    }
    let arrived = waiting(&node).await;
    assert!(arrived[0] <= 100, "no more than the inbox holds is lost: {}", arrived[0]);
    assert_eq!(arrived, (arrived[0]..1_200).collect::<Vec<_>>());
}
