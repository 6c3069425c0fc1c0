//! The rows of the protocol's table of decisions that no other file here asks for.

use crate::{
    client::Client,
    frames::{frame, read, upgrade},
    node::{Node, node, settings, token, token_for},
    presence::eventually,
    redis::Redis,
};
use futures::StreamExt;
use oneiro_core::config::{MessageLog, RealtimeSettings};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;

fn presence(user: u64) -> String {
    format!("/api/v1/ws?token={}", token(user))
}

fn notifications(user: u64) -> String {
    format!("/ws/notifications/?token={}", token(user))
}

async fn enter(node: &Node, user: u64) -> Client {
    let mut client = node.connect(&presence(user)).await;
    client.expect("connected").await;
    // Everything that it comes with is joined once its messages are read.
    client.expect_nothing_more().await;
    client
}

#[tokio::test]
async fn a_token_may_carry_its_scheme_wherever_it_stands() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    let token = token(1);
    let header = format!("bEARER   {token}");
    let cookie = format!("access_token=\"Bearer {token}\"");
    let own = format!("http://{}", node.addr);
    let query = format!("?token=Bearer%20{token}");
    for path in [format!("/ws/dream-images/{id}/"), "/ws/notifications/".to_owned(), "/api/v1/ws".to_owned()] {
        for (query, headers) in [
            (query.as_str(), vec![]),
            ("", vec![("authorization", header.as_str())]),
            ("", vec![("cookie", cookie.as_str()), ("origin", own.as_str())]),
        ] {
            let mut client = Client::connect(node.addr, &format!("{path}{query}"), &headers).await.unwrap();
            client.send(json!({ "type": "subscribe", "channels": [] })).await;
            // Whatever greets comes first; the answer comes only to those who are signed in.
            while client.json().await["type"] != "subscription_success" {}
        }
    }
}

#[tokio::test]
async fn without_a_token_only_a_dreams_socket_waits() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    for path in ["/ws/notifications/", "/ws/notifications", "/api/v1/ws", "/api/v1/ws/"] {
        let mut client = node.connect(path).await;
        assert_eq!(client.closed().await, (4001, "authentication failed".to_owned()), "{path}");
    }
    let mut waiting = node.connect("/ws/dream-images/1/").await;
    waiting.expect_nothing_more().await;
}

#[tokio::test]
async fn a_page_learns_the_close_code_of_a_token_that_is_refused() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let foreign = node.dream(2).await;
    let own = format!("http://{}", node.addr);
    let expired = token_for(1, "", Duration::ZERO);
    for (path, code) in [
        ("/ws/notifications/?token=x".to_owned(), 4001),
        ("/api/v1/ws?token=x".to_owned(), 4001),
        (format!("/api/v1/ws?token={expired}"), 4001),
        (format!("/ws/dream-images/{foreign}/?token={}", token(1)), 4003),
    ] {
        for headers in [vec![], vec![("origin", own.as_str())]] {
            let mut client = Client::connect(node.addr, &path, &headers).await.unwrap();
            assert_eq!(client.closed().await.0, code, "{path}");
        }
    }
}

#[tokio::test]
async fn every_path_is_served_with_and_without_its_trailing_slash() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    for path in [format!("/ws/dream-images/{id}"), "/ws/notifications".to_owned(), "/api/v1/ws".to_owned()] {
        for slash in ["", "/"] {
            // A redirect would be an error here, as it is in a browser.
            let mut client = node.connect(&format!("{path}{slash}?token={}", token(1))).await;
            client.send(json!({ "type": "ping", "timestamp": 1 })).await;
            while client.json().await["type"] != "pong" {}
        }
    }
}

#[tokio::test]
async fn nothing_of_a_dream_is_told_before_the_token() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    let path = format!("/ws/dream-images/{id}/");
    let mut stranger = node.connect(&path).await;
    stranger.expect_nothing_more().await;
    let mut owner = node.connect(&format!("{path}?token={}", token(1))).await;
    owner.expect("connection_established").await;
    owner.expect("image_update").await;
    let version = node.announce(id).await;
    assert_eq!(owner.expect("image_update").await["version"], version);
    for wish in [
        json!({ "type": "request_status", "dream_id": id.get() }),
        json!({ "type": "subscribe", "channels": [format!("dream_images_{id}"), "alerts", "post_1"] }),
        json!({ "type": "history", "channel": format!("dream_images_{id}"), "limit": 1 }),
        json!({ "type": "resume", "epoch": "abc", "seq": 0 }),
    ] {
        stranger.send(wish).await;
        assert_eq!(stranger.expect("error").await["error_code"], "FORBIDDEN");
    }
    stranger.expect_nothing_more().await;
}

#[tokio::test]
async fn pongs_of_the_other_dialects_carry_the_clients_timestamp_or_an_iso_time() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    for path in [notifications(1), presence(1)] {
        let mut client = node.connect(&path).await;
        if path.starts_with("/api") {
            client.expect("connected").await;
        }
        for raw in ["\"2025-10-22T10:00:00.000Z\"", "1649154859.1230", "1649154859123", "{\"a\":[1]}"] {
            client.send_text(&format!("{{\"type\":\"ping\",\"timestamp\":{raw}}}")).await;
            let text = client.text().await;
            assert!(text.starts_with(&format!("{{\"type\":\"pong\",\"timestamp\":{raw},\"server_time\":")), "{text}");
        }
        client.send(json!({ "type": "ping" })).await;
        let pong = client.expect("pong").await;
        let own = pong["timestamp"].as_str().unwrap();
        assert!(own.ends_with('Z') && own.len() == "2025-10-22T10:00:00.000Z".len(), "{pong}");
        assert!(pong["server_time"].is_f64(), "{pong}");
    }
}

#[tokio::test]
async fn errors_have_one_form_on_every_path() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    for path in [notifications(1), presence(1)] {
        let mut client = node.connect(&path).await;
        if path.starts_with("/api") {
            client.expect("connected").await;
        }
        for (text, code) in [
            ("{", "INVALID_JSON"),
            ("[]", "INVALID_MESSAGE"),
            ("{\"type\":\"dance\"}", "UNKNOWN_MESSAGE_TYPE"),
            ("{\"type\":\"resume\",\"channel\":\"post_1\",\"epoch\":\"abc\",\"seq\":1}", "NOT_SUBSCRIBED"),
            ("{\"type\":\"history\",\"channel\":\"user_2\"}", "FORBIDDEN"),
        ] {
            client.send_text(text).await;
            let error = client.expect("error").await;
            let mut names: Vec<_> = error.as_object().unwrap().keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(
                (&error["error_code"], names),
                (&json!(code), vec!["error_code", "message", "timestamp", "type"])
            );
        }
        client.expect_nothing_more().await;
    }
}

/// Reads, which answers the pings, to the end. No text comes: the seeds' clients of these dialects log what they do not know.
async fn answer_pings(client: &mut Client) {
    while let Some(message) = client.stream.next().await {
        assert!(matches!(message, Ok(Message::Ping(_))), "{message:?}");
    }
}

#[tokio::test]
async fn heartbeats_are_frames_of_the_protocol_and_any_answer_is_a_sign_of_life() {
    let defaults = RealtimeSettings::default();
    assert_eq!((defaults.idle_timeout_seconds, defaults.ping_interval_seconds), (75, 30));
    let redis = Redis::start().await;
    let node =
        Node::start(&redis, RealtimeSettings { idle_timeout_seconds: 5, ping_interval_seconds: 1, ..settings() }).await;
    let mut listening = Vec::new();
    for path in [notifications(1), presence(1)] {
        let mut client = node.connect(&path).await;
        if path.starts_with("/api") {
            client.expect("connected").await;
        }
        listening.push(client);
    }
    // Answers nothing, though it is sent pings as well.
    let mut silent = upgrade(node.addr, &notifications(2)).await;
    let end = async {
        let mut pings = 0;
        loop {
            match read(&mut silent).await {
                (0x89, _) => pings += 1,
                (0x88, payload) => return (pings, u16::from_be_bytes([payload[0], payload[1]])),
                other => panic!("{other:?}"),
            }
        }
    };
    let [one, two] = &mut listening[..] else { unreachable!("two were connected") };
    let (pings, code) = tokio::select! {
        end = end => end,
        () = answer_pings(one) => panic!("a connection that answers was ended"),
        () = answer_pings(two) => panic!("a connection that answers was ended"),
    };
    assert!(pings > 0);
    assert_eq!(code, 1001);
    for client in &mut listening {
        client.send(json!({ "type": "ping", "timestamp": 1 })).await;
        client.expect("pong").await;
    }
}

#[tokio::test]
async fn one_users_handshakes_are_limited_wherever_they_come_from() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { handshakes_per_second_per_user: 1, ..settings() }).await;
    let mut refused = None;
    for _ in 0..100 {
        let mut client = node.connect("/ws/dream-images/1/").await;
        client.send(json!({ "type": "authenticate", "token": token(1) })).await;
        let (code, reason) = client.closed().await;
        if code == 4029 {
            refused = Some(reason);
            break;
        }
        assert_eq!(code, 4003, "nobody's dream");
    }
    assert!(refused.is_some(), "never refused");
    let mut other = node.connect(&notifications(2)).await;
    other.expect_nothing_more().await;
}

#[tokio::test]
async fn narrowing_replaces_what_comes_by_itself_and_alerts_come_regardless() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut client = node.connect(&notifications(1)).await;
    let publish_all = async || {
        node.publish(json!([
            { "type": "notification", "user_id": 1, "data": { "title": "t" } },
            { "type": "order_update", "user_id": 1, "data": {} },
            { "type": "material_update", "user_id": 1, "data": {} },
            { "type": "edited", "channel": "post_1", "data": {} },
            { "type": "edited", "channel": "post_2", "data": {} }
        ]))
        .await;
        node.publish(json!({ "type": "alert", "data": {} })).await;
    };
    client.send(json!({ "type": "subscribe", "channels": ["post_1"] })).await;
    client.expect("subscription_success").await;
    client.send(json!({ "type": "subscribe", "channels": ["post_2", "orders"], "mode": "replace" })).await;
    assert_eq!(client.expect("subscription_success").await["channels"], json!(["post_2", "orders"]));
    client.send(json!({ "type": "unsubscribe", "channels": ["alerts"] })).await;
    client.expect("unsubscribed").await;
    publish_all().await;
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(client.json().await["type"].as_str().unwrap().to_owned());
    }
    kinds.sort();
    assert_eq!(kinds, ["alert", "edited", "order_update"]);
    client.expect_nothing_more().await;

    // It is undone by subscribing again.
    client.send(json!({ "type": "subscribe", "channels": ["notifications", "materials"] })).await;
    client.expect("subscription_success").await;
    publish_all().await;
    let mut kinds = Vec::new();
    for _ in 0..5 {
        kinds.push(client.json().await["type"].as_str().unwrap().to_owned());
    }
    kinds.sort();
    assert_eq!(kinds, ["alert", "edited", "material_update", "notification", "order_update"]);
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn a_reload_within_the_grace_is_told_to_nobody() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { presence_grace_seconds: 300, ..settings() }).await;
    let mut ada = enter(&node, 1).await;
    let bob = enter(&node, 2).await;
    assert_eq!(ada.expect("user_status").await["data"]["status"], "online");
    drop(bob);
    eventually(async || node.http("GET", "/api/v1/status/2", &token(1), "").await.1["connections_count"] == 0).await;
    let mut bob = enter(&node, 2).await;
    ada.expect_nothing_more().await;
    bob.expect_nothing_more().await;
}

#[tokio::test]
async fn telling_everybody_is_a_setting_and_has_a_cap() {
    let redis = Redis::start().await;
    for quiet in [
        RealtimeSettings { presence_broadcast: false, ..settings() },
        RealtimeSettings { presence_broadcast_limit: 1, ..settings() },
    ] {
        let node = Node::start(&redis, quiet).await;
        let mut ada = enter(&node, 1).await;
        let mut bob = enter(&node, 2).await;
        for message in [
            json!({ "type": "typing", "data": { "is_typing": true, "context": "post_1" } }),
            json!({ "type": "presence", "status": "away", "data": { "device": "mobile" } }),
        ] {
            bob.send(message).await;
        }
        bob.expect_nothing_more().await;
        ada.expect_nothing_more().await;
        // Members of a channel are told all the same.
        for client in [&mut ada, &mut bob] {
            client.send(json!({ "type": "subscribe", "channels": ["post_1"] })).await;
            client.expect("subscription_success").await;
        }
        bob.send(json!({ "type": "typing", "data": { "is_typing": true, "context": "post_1" } })).await;
        assert_eq!(ada.expect("typing").await["data"]["user_id"], 2);
    }
}

#[tokio::test]
async fn a_batch_is_answered_in_order_and_one_notification_reaches_both_dialects() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut first = node.connect(&notifications(1)).await;
    first.expect_nothing_more().await;
    let mut second = enter(&node, 1).await;
    let answers = node
        .publish(json!([
            { "type": "edited", "channel": "post_1", "data": {} },
            { "type": "edited", "channel": "post_1", "data": {} },
            { "type": "notification", "user_id": 1, "data": { "id": 5, "type": "mention", "title": "t", "content": "c" } }
        ]))
        .await;
    let places: Vec<_> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| (answer["channel"].clone(), answer["offset"].clone()))
        .collect();
    assert_eq!(places, [("post_1", 1), ("post_1", 2), ("user_1", 1)].map(|(name, at)| (json!(name), json!(at))));
    assert!(answers[0]["epoch"].is_string() && answers[0]["epoch"] == answers[1]["epoch"], "{answers}");
    let (n, p) = (first.expect("notification").await, second.expect("notification").await);
    assert_eq!(
        (&n["data"]["id"], &n["data"]["content"], &n["data"]["type"]),
        (&json!("5"), &json!("c"), &json!("mention"))
    );
    assert_eq!(
        (&p["data"]["id"], &p["data"]["message"], &p["notification_type"]),
        (&json!(5), &json!("c"), &json!("mention"))
    );
}

#[tokio::test]
async fn what_developers_see_is_filtered_and_holds_no_body_unless_configured() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { message_log: MessageLog::Meta, ..settings() }).await;
    let developer = token_for(5, "developer", Duration::from_secs(600));
    let get = async |query: &str| node.http("GET", &format!("/api/developer/{query}"), &developer, "").await;
    let mut one = node.connect(&notifications(1)).await;
    one.expect_nothing_more().await;
    let _two = enter(&node, 2).await;
    let count = async |query: &str| get(query).await.1["results"].as_array().map_or(0, Vec::len);
    eventually(async || count("websocket-sessions/").await == 2).await;
    for (filter, expected) in [
        ("path=/api/v1/ws", 1),
        ("path=/ws/notifications/", 1),
        ("path=/elsewhere", 0),
        ("open=true", 2),
        ("open=false", 0),
        ("user_id=2&open=true", 1),
        ("since=2100-01-01T00:00:00Z", 0),
        ("since=2020-01-01T00:00:00Z", 2),
    ] {
        assert_eq!(count(&format!("websocket-sessions/?{filter}")).await, expected, "{filter}");
    }
    eventually(async || count("websocket-messages/?type=ping&user_id=1").await == 1).await;
    let (_, messages) = get("websocket-messages/?type=ping&user_id=1").await;
    let body = messages["results"][0].get("body").cloned().unwrap_or_default();
    assert_eq!(body, Value::Null, "{messages}");
    assert_eq!(get("websocket-sessions/?open=perhaps").await.0, 400);
}

#[tokio::test]
async fn a_goodbye_is_answered_with_its_own_code_and_the_connection_ends() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    for code in [1000_u16, 1001, 4999] {
        let mut stream = upgrade(node.addr, &notifications(1)).await;
        stream.write_all(&frame(0x88, &code.to_be_bytes())).await.unwrap();
        assert_eq!(crate::frames::close_code(&mut stream).await, code);
    }
    eventually(async || node.ctx.connection_count() == 0).await;
}
