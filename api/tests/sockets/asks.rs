//! What clients ask for in ways that the plain case does not show.

use crate::{
    client::Client,
    node::{Node, node, settings, token},
    redis::Redis,
};
use oneiro_core::{
    config::RealtimeSettings,
    dreams::{Change, Dream},
};
use serde_json::{Value, json};

fn notifications(user: u64) -> String {
    format!("/ws/notifications/?token={}", token(user))
}

fn edited(n: u64) -> Value {
    json!({ "type": "edited", "channel": "post_1", "data": { "n": n } })
}

#[tokio::test]
async fn an_acknowledgement_of_another_channel_leaves_the_inbox_unread() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let path = format!("{}&acks=1", notifications(1));
    let mut client = node.connect(&path).await;
    client.send(json!({ "type": "subscribe", "channels": ["post_1"] })).await;
    client.expect("subscription_success").await;
    for n in 1..=3 {
        node.publish(edited(n)).await;
        client.expect("edited").await;
    }
    node.publish(json!({ "type": "notification", "user_id": 1, "data": { "title": "unread" } })).await;
    client.expect("notification").await;
    client.send(json!({ "type": "ack", "channel": "post_1", "seq": 3 })).await;
    client.expect_nothing_more().await;
    node.leave(client).await;
    let mut again = node.connect(&path).await;
    assert_eq!(again.expect("notification").await["data"]["title"], "unread");
    // By its own name, or without one, it is read.
    again.send(json!({ "type": "ack", "channel": "user_1", "seq": 1 })).await;
    again.expect_nothing_more().await;
    node.leave(again).await;
    node.connect(&path).await.expect_nothing_more().await;
}

#[tokio::test]
async fn a_name_given_twice_is_joined_once_and_the_bound_holds_within_one_message() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { max_channels: 3, ..settings() }).await;
    let mut client = node.connect(&notifications(1)).await;
    let channels = ["post_1", "post_1", "post_2", "post_3", "post_4", "post_5"];
    client.send(json!({ "type": "subscribe", "channels": channels })).await;
    let answer = client.expect("subscription_success").await;
    assert_eq!(answer["channels"], json!(["post_1", "post_1", "post_2", "post_3"]));
    let refused: Vec<_> = answer["rejected"].as_array().unwrap().iter().map(|one| one["reason"].clone()).collect();
    assert_eq!(refused, ["too_many", "too_many"]);
    node.publish(edited(1)).await;
    client.expect("edited").await;
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn replacing_channels_silences_no_notifications_where_they_cannot_be_asked_for_again() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut client = node.connect(&format!("/api/v1/ws?token={}", token(1))).await;
    client.expect("connected").await;
    client.send(json!({ "type": "subscribe", "mode": "replace", "channels": ["post_1"] })).await;
    client.expect("subscription_success").await;
    node.publish(json!({ "type": "notification", "user_id": 1, "data": { "title": "still here" } })).await;
    client.expect("notification").await;
}

#[tokio::test]
async fn since_is_honoured_for_channels_that_the_connection_came_with() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut client = node.connect(&notifications(1)).await;
    client.send(json!({ "type": "subscribe", "channels": ["alerts"], "since": {} })).await;
    let since = client.expect("subscription_success").await["positions"].clone();
    node.leave(client).await;
    node.publish(json!({ "type": "alert", "data": { "level": "warning", "content": "missed" } })).await;
    let mut client = node.connect(&notifications(1)).await;
    client.send(json!({ "type": "subscribe", "channels": ["alerts"], "since": since })).await;
    assert_eq!(client.expect("subscription_success").await["positions"], since);
    let resumed = client.expect("resumed").await;
    assert_eq!((&resumed["channel"], &resumed["recovered"]), (&json!("alerts"), &json!(1)));
    assert_eq!(client.expect("alert").await["data"]["content"], "missed");
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn a_long_past_comes_in_order_and_only_once() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    for n in 1..=300 {
        node.publish(edited(n)).await;
    }
    let epoch = node.broker.position(&"post_1".parse().unwrap()).await.unwrap().epoch;
    let mut client = node.connect(&notifications(1)).await;
    let since = json!({ "epoch": epoch, "offset": 10 });
    client.send(json!({ "type": "subscribe", "channels": ["post_1"], "since": since })).await;
    client.expect("subscription_success").await;
    assert_eq!(client.expect("resumed").await["recovered"], 290);
    for n in 11..=300 {
        assert_eq!(client.expect("edited").await["data"]["n"], n);
    }
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn what_is_left_of_an_inbox_comes_after_a_resume_that_failed() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { inbox_messages: 100, ..settings() }).await;
    for id in 1..=400 {
        node.publish(json!({ "type": "notification", "user_id": 1, "data": { "id": id } })).await;
    }
    let channel = "user_1".parse().unwrap();
    let epoch = node.broker.position(&channel).await.unwrap().epoch;
    let oldest = node.broker.oldest(&channel, 1).await.unwrap().publications[0].position.clone().unwrap();
    assert!(oldest.offset > 2, "some of it is gone");
    let mut client = node.connect(&format!("{}&epoch={epoch}&seq=1", notifications(1))).await;
    assert_eq!(client.expect("resume_failed").await["seq"], oldest.offset - 1);
    for seq in oldest.offset..=400 {
        assert_eq!(client.expect("notification").await["seq"], seq);
    }
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn events_whose_time_is_over_are_in_no_history() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let channel = "post_1".parse().unwrap();
    for (n, expires) in [(1, 1_000), (2, u64::MAX)] {
        let event = json!({ "type": "edited", "data": { "n": n }, "expires_at_ms": expires });
        node.broker.publish(&channel, event.to_string().as_bytes()).await.unwrap();
    }
    let mut client = node.connect(&notifications(1)).await;
    client.send(json!({ "type": "history", "channel": "post_1" })).await;
    let history = client.expect("history").await;
    let told: Vec<_> = history["events"].as_array().unwrap().iter().map(|event| event["data"]["n"].clone()).collect();
    assert_eq!(told, [2]);
}

#[tokio::test]
async fn who_comes_late_hears_that_a_dream_was_deleted() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    let begin: fn(&mut Dream) = |dream| assert!(dream.begin_delete(None));
    for change in [begin, Dream::finish_delete] {
        let announced = node.dreams.change(id, |dream| {
            change(dream);
            Change::Announce(())
        });
        announced.await.unwrap();
    }
    let mut late = node.connect(&format!("/ws/dream-images/{id}/?token={}", token(1))).await;
    late.expect("connection_established").await;
    assert_eq!(late.expect("image_update").await["status"], "delete_completed");
    let mut stranger = node.connect(&format!("/ws/dream-images/{id}/?token={}", token(2))).await;
    assert_eq!(stranger.closed().await.0, 4003);
}

#[tokio::test]
async fn a_place_that_cannot_be_is_an_answer_and_nothing_worse() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    node.publish(edited(1)).await;
    let epoch = node.broker.position(&"post_1".parse().unwrap()).await.unwrap().epoch;
    let mut client = node.connect(&notifications(1)).await;
    let since = json!({ "epoch": epoch, "offset": u64::MAX });
    client.send(json!({ "type": "subscribe", "channels": ["post_1"], "since": since })).await;
    client.expect("subscription_success").await;
    client.expect("resume_failed").await;
    client.send(json!({ "type": "resume", "channel": "post_1", "epoch": epoch, "seq": u64::MAX })).await;
    client.expect("resume_failed").await;
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn a_proxys_own_credentials_are_not_taken_for_a_token() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let proxys = [("authorization", "Basic c3RhZ2luZzpzZWNyZXQ=")];
    let mut client = Client::connect(node.addr, &notifications(1), &proxys).await.unwrap();
    client.expect_nothing_more().await;
}
