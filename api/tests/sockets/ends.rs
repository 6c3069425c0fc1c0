//! Ends that need a state of their own: a full process, a client that does not read, a record that cannot be read, rights that are gone.

use crate::{
    client::Client,
    frames::upgrade,
    node::{Node, node, settings, token, token_for},
    presence::eventually,
    redis::Redis,
};
use fred::interfaces::HashesInterface;
use oneiro_core::config::RealtimeSettings;
use serde_json::{Value, json};
use std::time::Duration;

fn notifications(user: u64) -> String {
    format!("/ws/notifications/?token={}", token(user))
}

#[tokio::test]
async fn a_full_process_says_when_to_come_back() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { max_connections: 1, ..settings() }).await;
    let mut first = node.connect(&notifications(1)).await;
    first.expect_nothing_more().await;
    let mut second = node.connect(&notifications(2)).await;
    assert_eq!(second.closed().await, (1013, "retry_after=5".to_owned()));
    first.expect_nothing_more().await;
}

#[tokio::test]
async fn clients_that_do_not_read_are_ended_as_slow_consumers_and_the_others_go_on() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { queue_messages: 64, queue_bytes: 64 * 1024, ..settings() }).await;
    let mut stalled = Vec::new();
    for user in 1..=3 {
        stalled.push(upgrade(node.addr, &notifications(user)).await);
    }
    let mut readers: Vec<Client> = Vec::new();
    for user in 11..=13 {
        readers.push(node.connect(&notifications(user)).await);
        readers.last_mut().unwrap().expect_nothing_more().await;
    }
    let (alerts, text) = ("alerts".parse().unwrap(), "x".repeat(16 * 1024));
    // More than the kernel's buffers and the queue can hold; the readers keep up one by one.
    for n in 0..1_000 {
        let alert = json!({ "type": "alert", "data": { "id": n, "title": "t", "content": text } });
        node.broker.publish(&alerts, alert.to_string().as_bytes()).await.unwrap();
        for reader in &mut readers {
            assert_eq!(reader.expect("alert").await["data"]["id"], n.to_string());
        }
    }
    // The frame itself may find no room, so the record tells.
    let developer = token_for(99, "developer", Duration::from_secs(600));
    eventually(async || {
        let path = "/api/developer/websocket-sessions/?open=false";
        let (status, sessions) = node.http("GET", path, &developer, "").await;
        assert_eq!(status, 200, "{sessions}");
        let closed = sessions["results"].as_array().unwrap();
        assert!(closed.iter().all(|session| session["close_code"] == 4010), "{sessions}");
        // Its queue held so many bytes, and went with it.
        assert!(closed.iter().all(|session| session["dropped"].as_u64() >= Some(4)), "{sessions}");
        let mut users: Vec<_> = closed.iter().filter_map(|session| session["user_id"].as_u64()).collect();
        users.sort_unstable();
        users == [1, 2, 3]
    })
    .await;
    for reader in &mut readers {
        reader.expect_nothing_more().await;
    }
    drop(stalled);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_ends_its_own_connections_with_an_internal_error() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let (sick, sound) = (node.dream(1).await, node.dream(1).await);
    let meta = format!("{}:m:{{dream_images_{sick}}}", node.broker.options().key_prefix);
    redis.client().await.hset::<(), _, _>(&meta, [("b", "not a record")]).await.unwrap();
    let mut client = node.connect(&format!("/ws/dream-images/{sick}/?token={}", token(1))).await;
    assert_eq!(client.closed().await, (1011, "internal error".to_owned()));
    let mut client = node.connect(&format!("/ws/dream-images/{sound}/?token={}", token(1))).await;
    client.expect("connection_established").await;
}

#[tokio::test]
async fn a_refreshed_token_keeps_only_the_channels_that_its_user_may_still_read() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let (lost, kept) = (node.dream(1).await, node.dream(1).await);
    let names = [format!("dream_images_{lost}"), format!("dream_images_{kept}")];
    let mut client = node.connect(&notifications(1)).await;
    client.send(json!({ "type": "subscribe", "channels": names })).await;
    assert_eq!(client.expect("subscription_success").await["channels"], json!(names));
    for _ in &names {
        client.expect("image_update").await;
    }
    // The dream is gone, and with it the right to read its channel.
    let meta = format!("{}:m:{{{}}}", node.broker.options().key_prefix, names[0]);
    redis.client().await.hdel::<(), _, _>(&meta, "b").await.unwrap();
    let event = |id| json!({ "type": "image_update", "dream_id": id, "images": [] }).to_string();
    let publish = async |name: &String, id: u64| {
        node.broker.publish(&name.parse().unwrap(), event(id).as_bytes()).await.unwrap();
    };
    publish(&names[0], 1).await;
    client.expect("image_update").await;
    client.send(json!({ "type": "authenticate", "token": token(1) })).await;
    client.expect("authenticated").await;
    publish(&names[0], 2).await;
    publish(&names[1], 3).await;
    let told: Value = client.expect("image_update").await;
    assert_eq!(told["dream_id"], 3, "only of the dream that is left: {told}");
    client.expect_nothing_more().await;
    client.send(json!({ "type": "subscribe", "channels": [names[0]] })).await;
    let answer = client.expect("subscription_success").await;
    assert_eq!(answer["rejected"], json!([{ "channel": names[0], "reason": "forbidden" }]));
}
