//! What is kept of connections and messages holds no token.

use crate::{
    client::Client,
    node::{Node, settings, token, token_for},
    presence::eventually,
    redis::Redis,
};
use oneiro_core::config::{MessageLog, RealtimeSettings};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn tokens_are_in_no_record() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { message_log: MessageLog::Body, ..settings() }).await;
    let id = node.dream(1).await;
    let secret = token(1);
    let mut dream = node.connect(&format!("/ws/dream-images/{id}/")).await;
    dream.send(json!({ "type": "authenticate", "token": secret })).await;
    dream.expect("connection_established").await;
    dream.expect("image_update").await;
    let bearer = format!("Bearer {secret}");
    let (subprotocol, cookie) = (format!("bearer, {secret}"), format!("access_token={secret}"));
    let mut others = vec![node.connect(&format!("/ws/notifications/?token={secret}")).await];
    for header in [("authorization", &bearer), ("sec-websocket-protocol", &subprotocol), ("cookie", &cookie)] {
        others.push(Client::connect(node.addr, "/ws/notifications/", &[(header.0, header.1.as_str())]).await.unwrap());
    }
    for client in &mut others {
        client.expect_nothing_more().await;
        client.send(json!({ "type": "authenticate", "token": bearer })).await;
        client.expect("authenticated").await;
        // Mistakes of a client that means the same.
        client.send(json!({ "type": "Authenticate", "token": secret })).await;
        client.expect("error").await;
        client.send(json!({ "type": "ping", "timestamp": 1, "token": secret })).await;
        client.expect("pong").await;
        client.send(json!({ "type": "auth", "data": { "token": secret } })).await;
        client.expect("error").await;
        client.send(json!({ "type": "last", "timestamp": "kept" })).await;
        client.expect("error").await;
    }

    let developer = token_for(5, "developer", Duration::from_secs(600));
    let list = async |what: &str| -> Vec<Value> {
        let path = format!("/api/developer/websocket-{what}/?limit=1000");
        let (status, answer) = node.http("GET", &path, &developer, "").await;
        assert_eq!(status, 200, "{answer}");
        answer["results"].as_array().unwrap().clone()
    };
    let of_type = |records: &[Value], word: &str| records.iter().filter(|record| record["type"] == word).count();
    eventually(async || of_type(&list("messages").await, "last") == others.len()).await;
    let (messages, sessions) = (list("messages").await, list("sessions").await);
    assert_eq!(sessions.len(), 1 + others.len());
    assert_eq!(of_type(&messages, "authenticate"), 1 + others.len(), "that somebody signed in is on record");
    let signature = secret.rsplit('.').next().unwrap();
    for record in messages.iter().chain(&sessions) {
        assert!(!record.to_string().contains(signature), "{record}");
    }
    let last = messages.iter().find(|record| record["type"] == "last").unwrap();
    assert!(last["body"].as_str().unwrap().contains("kept"), "bodies without a token are kept: {last}");
}
