//! Dialect D.

use crate::{
    client::Client,
    node::{Node, node, settings, token, token_for},
    redis::{PATIENCE, Redis},
};
use fred::interfaces::{ClientLike, PubsubInterface};
use fred::types::{ClusterHash, CustomCommand};
use oneiro_core::config::{IdForm, RealtimeSettings};
use serde_json::json;
use std::time::Duration;
use tokio_tungstenite::tungstenite::Error;

const GREETING: &str = "连接已建立，等待图片处理状态更新";

fn path(id: impl std::fmt::Display) -> String {
    format!("/ws/dream-images/{id}/")
}

#[tokio::test]
async fn the_first_message_authenticates_and_the_state_follows_the_greeting() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    for form in [token(1), format!("Bearer {}", token(1)), format!(" bearer  {} ", token(1))] {
        for path in [path(id), path(id).trim_end_matches('/').to_owned()] {
            let mut client = node.connect(&path).await;
            client.send(json!({ "type": "authenticate", "token": form })).await;
            let hello = client.json().await;
            assert_eq!(
                hello,
                json!({ "type": "connection_established", "dream_id": id.to_string(), "message": GREETING })
            );
            let state = client.expect("image_update").await;
            assert_eq!(
                (&state["dream_id"], &state["status"], &state["images"]),
                (&json!(id.get()), &json!("completed"), &json!([]))
            );
            assert!(state["timestamp"].is_f64() && state["message"].is_null() && state.get("seq").is_none(), "{state}");
            client.expect_nothing_more().await;
        }
    }
}

#[tokio::test]
async fn a_token_is_found_wherever_it_may_stand() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    let token = token(1);
    let bearer = format!("Bearer {token}");
    let subprotocol = format!("bearer, {token}");
    let cookie = format!("a=b; access_token={token}");
    let host = format!("http://{}", node.addr);
    for headers in [
        vec![("authorization", bearer.as_str())],
        vec![("sec-websocket-protocol", subprotocol.as_str())],
        vec![("cookie", cookie.as_str()), ("origin", host.as_str())],
    ] {
        let mut client = Client::connect(node.addr, &path(id), &headers).await.unwrap();
        assert_eq!(
            client.protocol.as_deref(),
            headers.iter().any(|(name, _)| *name == "sec-websocket-protocol").then_some("bearer")
        );
        client.expect("connection_established").await;
        client.expect("image_update").await;
    }
    let mut client = node.connect(&format!("{}?token={token}", path(id))).await;
    client.expect("connection_established").await;

    let foreign = [("cookie", cookie.as_str()), ("origin", "https://evil.example")];
    match Client::connect(node.addr, &path(id), &foreign).await.map(|_| ()).map_err(|error| *error) {
        Err(Error::Http(response)) => assert_eq!(response.status(), 403),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn refusals_have_their_codes() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    for bad in ["", "nonsense", "a.b.c", "Bearer "] {
        let mut client = node.connect(&path(id)).await;
        client.send(json!({ "type": "authenticate", "token": bad })).await;
        assert_eq!(client.closed().await.0, 4001, "{bad}");
    }
    let mut client = node.connect(&format!("{}?token=nonsense", path(id))).await;
    assert_eq!(client.closed().await.0, 4001);
    let other = token(2);
    for foreign in [id.to_string(), "999999".to_owned()] {
        let mut client = node.connect(&format!("{}?token={other}", path(foreign))).await;
        assert_eq!(client.closed().await, (4003, "forbidden".to_owned()));
    }
    for wrong in ["0", "-1", "abc", "9007199254740992", "1.5", "%F0%9F%98%80"] {
        let mut client = node.connect(&path(wrong)).await;
        assert_eq!(client.closed().await.0, 4003, "{wrong}");
    }
}

#[tokio::test]
async fn nobody_waits_for_a_token_for_ever() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { auth_timeout_seconds: 1, ..settings() }).await;
    let id = node.dream(1).await;
    let mut client = node.connect(&path(id)).await;
    client.send(json!({ "type": "request_status", "dream_id": id.get() })).await;
    assert_eq!(client.expect("error").await["error_code"], "FORBIDDEN");
    assert_eq!(client.closed().await.0, 4008);
}

#[tokio::test]
async fn events_arrive_live_in_order_with_the_ids_that_were_asked_for() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    let token = token(1);
    let mut clients = Vec::new();
    for (ids, hello, event) in [
        ("", json!(id.to_string()), json!(id.get())),
        ("&ids=string", json!(id.to_string()), json!(id.to_string())),
        ("&ids=number", json!(id.get()), json!(id.get())),
    ] {
        let mut client = node.connect(&format!("{}?token={token}{ids}", path(id))).await;
        assert_eq!(client.expect("connection_established").await["dream_id"], hello);
        assert_eq!(client.expect("image_update").await["dream_id"], event);
        clients.push((client, event));
    }
    let versions = [node.announce(id).await, node.announce(id).await];
    for (client, event) in &mut clients {
        for version in versions {
            let update = client.expect("image_update").await;
            assert_eq!((&update["version"], &update["dream_id"]), (&json!(version), &*event));
        }
        client.expect_nothing_more().await;
    }
}

#[tokio::test]
async fn a_server_wide_form_of_ids_is_the_default() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { ids: IdForm::String, ..settings() }).await;
    let id = node.dream(1).await;
    let mut client = node.connect(&format!("{}?token={}", path(id), token(1))).await;
    client.expect("connection_established").await;
    assert_eq!(client.expect("image_update").await["dream_id"], id.to_string());
}

#[tokio::test]
async fn a_plain_publish_of_the_documented_json_is_delivered() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    let mut client = node.connect(&format!("{}?token={}", path(id), token(1))).await;
    client.expect("connection_established").await;
    client.expect("image_update").await;
    let redis = redis.client().await;
    let channel = format!("dream_images_{id}");
    for junk in ["", "not json", "{\"type\":\"evil\"}", "[1]"] {
        redis.publish::<(), _, _>(&channel, junk).await.unwrap();
    }
    let event = json!({ "type": "image_update", "dream_id": id.to_string(), "status": "completed",
        "images": [{ "id": 1, "url": "https://example.com/1.jpg", "position": 50 }], "timestamp": 1649154799.456 });
    redis.publish::<(), _, _>(&channel, event.to_string()).await.unwrap();
    let update = client.expect("image_update").await;
    assert_eq!(update["dream_id"], id.get());
    assert_eq!(
        (&update["images"], &update["timestamp"], &update["message"]),
        (&event["images"], &event["timestamp"], &json!(null))
    );
}

#[tokio::test]
async fn progress_is_for_those_who_ask() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    let mut plain = node.connect(&format!("{}?token={}", path(id), token(1))).await;
    let mut curious = node.connect(&format!("{}?token={}&progress=1", path(id), token(1))).await;
    for client in [&mut plain, &mut curious] {
        client.expect("connection_established").await;
        client.expect("image_update").await;
    }
    let progress = json!({ "type": "image_progress", "dream_id": id.get(), "image_id": 1, "done": 2, "total": 4 });
    node.dreams.publish_transient(id, &progress).await.unwrap();
    assert_eq!(curious.expect("image_progress").await, progress);
    plain.expect_nothing_more().await;
}

#[tokio::test]
async fn timestamps_come_back_as_they_were_written() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    let mut client = node.connect(&path(id)).await;
    for raw in [
        "1649154859123",
        "1649154859.1230",
        "1.0",
        "\"2025-10-22T10:00:00.000Z\"",
        "null",
        "123456789012345678901234567890",
    ] {
        client.send_text(&format!("{{\"type\":\"ping\",\"timestamp\":{raw}}}")).await;
        let text = client.text().await;
        assert!(text.starts_with(&format!("{{\"type\":\"pong\",\"timestamp\":{raw},\"server_time\":")), "{text}");
    }
    client.send(json!({ "type": "ping" })).await;
    assert!(client.expect("pong").await["timestamp"].is_f64());
}

#[tokio::test]
async fn the_state_is_told_on_request_and_only_to_those_who_may_see_it() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let (mine, also_mine, foreign) = (node.dream(1).await, node.dream(1).await, node.dream(2).await);
    let mut client = node.connect(&format!("{}?token={}", path(mine), token(1))).await;
    client.expect("connection_established").await;
    client.expect("image_update").await;
    for (asked, answered) in
        [(json!(mine.get()), mine), (json!(mine.to_string()), mine), (json!(also_mine.get()), also_mine)]
    {
        client.send(json!({ "type": "request_status", "dream_id": asked })).await;
        assert_eq!(client.expect("image_update").await["dream_id"], answered.get());
    }
    client.send(json!({ "type": "request_status" })).await;
    assert_eq!(client.expect("image_update").await["dream_id"], mine.get());
    client.send(json!({ "type": "request_status", "dream_id": foreign.get() })).await;
    assert_eq!(client.expect("error").await["error_code"], "FORBIDDEN");
    client.send(json!({ "type": "request_status", "dream_id": [] })).await;
    assert_eq!(client.expect("error").await["error_code"], "INVALID_MESSAGE");
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn a_token_is_refreshed_in_place_and_its_end_is_the_connections() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    let short = token_for(1, "", Duration::from_secs(8));
    let mut refreshed = node.connect(&format!("{}?token={short}", path(id))).await;
    let mut left_alone = node.connect(&format!("{}?token={short}", path(id))).await;
    refreshed.expect("connection_established").await;
    refreshed.expect("image_update").await;
    refreshed.send(json!({ "type": "authenticate", "token": token(1) })).await;
    refreshed.expect("connection_established").await;
    refreshed.expect("image_update").await;
    assert_eq!(left_alone.closed().await, (4001, "token_expired".to_owned()));
    let version = node.announce(id).await;
    assert_eq!(refreshed.expect("image_update").await["version"], version, "delivered once");
    refreshed.expect_nothing_more().await;
    refreshed.send(json!({ "type": "authenticate", "token": token(2) })).await;
    assert_eq!(refreshed.closed().await.0, 4001);
}

#[tokio::test]
async fn silence_ends_a_connection_and_heartbeats_come() {
    let redis = Redis::start().await;
    let node =
        Node::start(&redis, RealtimeSettings { idle_timeout_seconds: 5, ping_interval_seconds: 1, ..settings() }).await;
    let id = node.dream(1).await;
    let mut client = node.connect(&format!("{}?token={}", path(id), token(1))).await;
    client.expect("connection_established").await;
    client.expect("image_update").await;
    let ping = client.expect("ping").await;
    assert!(ping["timestamp"].is_u64(), "{ping}");
    drop(client);

    // Raw, so that nothing answers the pings.
    let silent =
        Node::start(&redis, RealtimeSettings { idle_timeout_seconds: 5, ping_interval_seconds: 100, ..settings() })
            .await;
    let mut raw = silent.connect(&path(id)).await;
    assert_eq!(raw.closed().await, (1001, "idle timeout".to_owned()));
    let legacy =
        RealtimeSettings { idle_timeout_seconds: 5, ping_interval_seconds: 100, legacy_1006: true, ..settings() };
    let mut raw = Node::start(&redis, legacy).await.connect(&path(id)).await;
    assert_eq!(raw.closed().await.0, 1006);
}

#[tokio::test]
async fn missed_events_come_in_order_and_what_is_lost_is_said() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    let auth = format!("{}?token={}", path(id), token(1));
    let mut client = node.connect(&format!("{auth}&positions=1")).await;
    client.expect("connection_established").await;
    let seen = client.expect("image_update").await;
    assert_eq!((&seen["channel"], &seen["seq"]), (&json!(format!("dream_images_{id}")), &json!(1)));
    drop(client);
    let missed = [node.announce(id).await, node.announce(id).await];
    let epoch = seen["epoch"].as_str().unwrap();

    let mut back = node.connect(&format!("{auth}&epoch={epoch}&seq=1")).await;
    back.expect("connection_established").await;
    assert_eq!(back.expect("resumed").await["recovered"], 2);
    for (version, seq) in missed.into_iter().zip([2, 3]) {
        let update = back.expect("image_update").await;
        assert_eq!((&update["version"], &update["seq"]), (&json!(version), &json!(seq)));
    }
    let live = node.announce(id).await;
    assert_eq!(back.expect("image_update").await["version"], live);
    back.expect_nothing_more().await;

    // The same in a message, on a connection that has begun to deliver.
    let mut late = node.connect(&auth).await;
    late.expect("connection_established").await;
    assert_eq!(late.expect("image_update").await["version"], live);
    late.send(json!({ "type": "resume", "epoch": epoch, "seq": 2 })).await;
    assert_eq!(late.expect("resumed").await["recovered"], 2);
    assert_eq!(
        [late.expect("image_update").await["seq"].clone(), late.expect("image_update").await["seq"].clone()],
        [3, 4]
    );
    late.expect_nothing_more().await;

    let mut lost = node.connect(&format!("{auth}&epoch=feedfacecafe&seq=1")).await;
    lost.expect("connection_established").await;
    let failed = lost.expect("resume_failed").await;
    assert_eq!((&failed["seq"], &failed["reason"]), (&json!(4), &json!("history_lost")));
    assert_eq!(lost.expect("image_update").await["version"], live);
    lost.expect_nothing_more().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_subscriptions_cost_no_client_an_event_and_repeat_none() {
    const CLIENTS: usize = 40;
    const EVENTS: u64 = 300;
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = node.connect(&format!("{}?token={}", path(id), token(1))).await;
        client.expect("connection_established").await;
        let mut version = client.expect("image_update").await["version"].as_u64().unwrap();
        readers.spawn(async move {
            while version < EVENTS {
                let update = client.expect("image_update").await;
                version += 1;
                assert_eq!(update["version"], version);
            }
        });
    }
    let admin = redis.client().await;
    while node.announce(id).await < EVENTS {
        if rand::random::<u8>() < 8 {
            let kill = CustomCommand::new_static("CLIENT", ClusterHash::Random, false);
            let _: i64 = admin.custom(kill, vec!["KILL", "TYPE", "pubsub"]).await.unwrap();
        }
    }
    tokio::time::timeout(PATIENCE, readers.join_all()).await.unwrap();
}

#[tokio::test]
async fn a_drain_says_when_to_come_back_and_ends() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { drain_retry_after_seconds: [2, 4], ..settings() }).await;
    let id = node.dream(1).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = node.connect(&format!("{}?token={}", path(id), token(1))).await;
        client.expect("connection_established").await;
        clients.push(client);
    }
    let drain = tokio::spawn({
        let ctx = node.ctx.clone();
        async move { ctx.drain(PATIENCE).await }
    });
    for client in &mut clients {
        let (code, reason) = client.closed().await;
        assert_eq!(code, 1012);
        assert!(["retry_after=2", "retry_after=3", "retry_after=4"].contains(&reason.as_str()), "{reason}");
    }
    drop(clients);
    assert!(drain.await.unwrap());
    assert_eq!(node.ctx.connection_count(), 0);
    let mut late = node.connect(&path(id)).await;
    assert_eq!(late.closed().await.0, 1012);
}

#[tokio::test]
async fn limits_are_kept() {
    let redis = Redis::start().await;
    let strict = RealtimeSettings {
        messages_per_second: 1,
        message_burst: 3,
        connections_per_user: 1,
        handshakes_per_second_per_address: 1,
        ..settings()
    };
    let node = Node::start(&redis, strict).await;
    let id = node.dream(1).await;
    let auth = format!("{}?token={}", path(id), token(1));
    let mut first = node.connect(&auth).await;
    first.expect("connection_established").await;
    let mut second = node.connect(&auth).await;
    assert_eq!(second.closed().await.0, 4009);
    first.expect("image_update").await;
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        // The connection may end while these are on their way.
        let _ = futures::SinkExt::send(
            &mut first.stream,
            tokio_tungstenite::tungstenite::Message::text("{\"type\":\"ping\"}"),
        )
        .await;
    }
    let mut answers = 0;
    while first.json().await["type"] == "pong" {
        answers += 1;
    }
    // Three at once, and one a second.
    let most = 3 + begun.elapsed().as_secs() + 1;
    assert!((3..=most).contains(&answers), "{answers} of 100");
    assert_eq!(first.closed().await.0, 4029);
    let refused = async {
        for _ in 0..100 {
            if let Err(error) = Client::connect(node.addr, &path(id), &[]).await {
                return *error;
            }
        }
        panic!("never refused")
    };
    match refused.await {
        Error::Http(response) => {
            assert_eq!(response.status(), 429);
            assert!(response.headers().contains_key("retry-after"));
        }
        other => panic!("{other:?}"),
    }
}
