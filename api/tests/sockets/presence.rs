//! Dialect P across processes.

use crate::{
    client::Client,
    node::{Node, node, settings, token},
    redis::{PATIENCE, Redis},
};
use oneiro_core::config::RealtimeSettings;
use serde_json::{Value, json};

fn path(user: u64) -> String {
    format!("/api/v1/ws?token={}", token(user))
}

pub(crate) async fn eventually(check: impl AsyncFn() -> bool) {
    let waiting = async {
        while !check().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it comes true in time");
}

async fn enter(node: &Node, user: u64, online: u64) -> Client {
    let mut client = node.connect(&path(user)).await;
    let hello = client.expect("connected").await;
    let data = json!({ "message": format!("欢迎, name{user}!"), "user_id": user, "online_count": online });
    assert_eq!(hello, json!({ "type": "connected", "data": data }));
    client
}

/// Whoever goes is offline at once.
fn quick() -> RealtimeSettings {
    RealtimeSettings { presence_grace_seconds: 0, ..settings() }
}

#[tokio::test]
async fn users_come_and_go_once_over_two_processes() {
    let redis = Redis::start().await;
    let (one, two) = (Node::start(&redis, quick()).await, Node::start(&redis, quick()).await);
    let mut ada = enter(&one, 1, 1).await;
    let bob = enter(&two, 2, 2).await;
    let status = ada.expect("user_status").await;
    assert_eq!((&status["data"]["user_id"], &status["data"]["status"]), (&json!(2), &json!("online")));
    let bob_again = enter(&one, 2, 2).await;
    drop(bob);
    let (code, view) = one.http("GET", "/api/v1/status/2", &token(1), "").await;
    assert_eq!((code, &view["online"]), (200, &json!(true)));
    eventually(async || one.http("GET", "/api/v1/status/2", &token(1), "").await.1["connections_count"] == 1).await;
    ada.expect_nothing_more().await;
    drop(bob_again);
    let status = ada.expect("user_status").await;
    assert_eq!((&status["data"]["user_id"], &status["data"]["status"]), (&json!(2), &json!("offline")));
    assert_eq!(two.http("GET", "/api/v1/online/count", &token(1), "").await, (200, json!({ "online_count": 1 })));
    let (_, list) = two.http("GET", "/api/v1/online?limit=5", &token(1), "").await;
    assert_eq!(
        (&list["online_count"], &list["users"][0]["user_id"], list["users"].as_array().unwrap().len()),
        (&json!(1), &json!(1), 1)
    );
    assert!(list["users"][0]["last_seen"].as_str().unwrap().ends_with('Z'));
    assert_eq!(two.http("GET", "/api/v1/online", "nonsense", "").await.0, 401);
}

#[tokio::test]
async fn chat_reaches_its_receiver_wherever_and_whenever() {
    let redis = Redis::start().await;
    let (one, two) = (node(&redis).await, node(&redis).await);
    let mut ada = enter(&one, 1, 1).await;
    let mut bob = enter(&two, 2, 2).await;
    ada.expect("user_status").await;
    let sent = "2025-10-22T10:00:00.000Z";
    ada.send(json!({ "type": "message", "to_user_id": 2, "message": "Hello!", "timestamp": sent })).await;
    let chat = bob.expect("chat").await;
    assert_eq!(
        chat["data"],
        json!({ "from_user_id": 1, "from_username": "name1", "message": "Hello!", "timestamp": sent })
    );
    assert!(chat["timestamp"].is_string());
    ada.send(json!({ "type": "message", "to_user_id": 3, "message": "later" })).await;
    ada.expect_nothing_more().await;
    let mut cat = enter(&two, 3, 3).await;
    assert_eq!(cat.expect("chat").await["data"]["message"], "later");
    for wrong in [json!({ "to_user_id": 3 }), json!({ "message": "x" }), json!({ "to_user_id": -1, "message": "x" })] {
        let mut message = wrong;
        message["type"] = "message".into();
        cat.send(message).await;
        assert_eq!(cat.expect("error").await["error_code"], "INVALID_MESSAGE");
    }
    cat.send(json!({ "type": "message", "to_user_id": 1, "message": "x".repeat(20_000) })).await;
    assert_eq!(cat.expect("error").await["error_code"], "TOO_LARGE");
    one.publish(json!({ "type": "notification", "user_id": 2,
        "data": { "id": 789, "type": "new_follower", "title": "t", "message": "m", "data": { "follower_id": 456 }, "link": "/u" } }))
    .await;
    let frames = [bob.json().await, bob.json().await];
    let notification = frames.iter().find(|frame| frame["type"] == "notification").unwrap();
    assert_eq!(
        (&notification["notification_type"], &notification["data"]["id"]),
        (&json!("new_follower"), &json!(789))
    );
}

async fn next_of(client: &mut Client, kind: &str) -> Value {
    loop {
        let frame = client.json().await;
        if frame["type"] == kind {
            return frame;
        }
    }
}

#[tokio::test]
async fn typing_and_presence_are_told_to_others_only() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut ada = enter(&node, 1, 1).await;
    let mut bob = enter(&node, 2, 2).await;
    ada.expect("user_status").await;
    bob.send(json!({ "type": "typing", "data": { "is_typing": true, "context": "post_123" } })).await;
    let typing = ada.expect("typing").await;
    assert_eq!(typing["data"], json!({ "user_id": 2, "is_typing": true, "context": "post_123" }));
    bob.send(json!({ "type": "presence", "status": "away", "data": { "device": "mobile" } })).await;
    let presence = ada.expect("presence").await;
    assert_eq!(presence["data"], json!({ "user_id": 2, "status": "away", "data": { "device": "mobile" } }));
    bob.send(json!({ "type": "presence", "status": "offline" })).await;
    assert_eq!(ada.expect("user_status").await["data"]["status"], "offline");
    assert_eq!(node.http("GET", "/api/v1/status/2", &token(1), "").await.1["online"], false);
    bob.send(json!({ "type": "presence", "status": "asleep" })).await;
    assert_eq!(bob.expect("error").await["error_code"], "INVALID_MESSAGE");

    // Within a channel, only its members are told.
    let mut cat = enter(&node, 3, 2).await;
    for client in [&mut bob, &mut cat] {
        client.send(json!({ "type": "subscribe", "channels": ["post_9"] })).await;
        next_of(client, "subscription_success").await;
    }
    assert_eq!(ada.expect("user_status").await["data"]["user_id"], 3);
    bob.send(json!({ "type": "typing", "data": { "is_typing": false, "context": "post_9" } })).await;
    assert_eq!(next_of(&mut cat, "typing").await["data"]["is_typing"], false);
    ada.expect_nothing_more().await;
}

#[tokio::test]
async fn what_others_are_told_of_one_user_is_limited() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { signals_per_second_per_user: 1, ..settings() }).await;
    let mut ada = enter(&node, 1, 1).await;
    let mut bob = enter(&node, 2, 2).await;
    let mut again = enter(&node, 2, 2).await;
    ada.expect("user_status").await;
    // In bursts of four; over all connections of the user.
    let typing = json!({ "type": "typing", "data": { "is_typing": true, "context": "somewhere" } });
    for _ in 0..50 {
        bob.send(typing.clone()).await;
        again.send(json!({ "type": "presence", "status": "busy" })).await;
    }
    for client in [&mut bob, &mut again] {
        assert_eq!(next_of(client, "error").await["error_code"], "RATE_LIMITED");
        client.send(json!({ "type": "ping", "timestamp": 7 })).await;
        assert_eq!(next_of(client, "pong").await["timestamp"], 7);
    }
    // What another does comes after all that was let through.
    let mut cat = enter(&node, 3, 3).await;
    let mut told = 0;
    while ada.json().await["type"] != "user_status" {
        told += 1;
    }
    assert!((4..100).contains(&told), "{told} of 100");
    cat.send(typing).await;
    assert_eq!(next_of(&mut ada, "typing").await["data"]["user_id"], 3);
}

#[tokio::test]
async fn one_sender_does_not_fill_the_inbox_of_who_is_away() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { inbox_chats_per_sender: 3, ..quick() }).await;
    let mut ada = enter(&node, 1, 1).await;
    for n in 0..6 {
        ada.send(chat(2, format!("{n}"))).await;
        if n >= 3 {
            assert_eq!(ada.expect("error").await["error_code"], "RATE_LIMITED");
        }
    }
    // Others, and others' inboxes, are not concerned.
    ada.send(chat(3, "to another".to_owned())).await;
    let mut cat = enter(&node, 3, 2).await;
    assert_eq!(next_of(&mut cat, "chat").await["data"]["message"], "to another");
    cat.send(chat(2, "from another".to_owned())).await;
    let mut bob = enter(&node, 2, 3).await;
    for expected in ["0", "1", "2", "from another"] {
        assert_eq!(next_of(&mut bob, "chat").await["data"]["message"], expected);
    }
    // Who is here gets everything.
    for n in 0..10 {
        ada.send(chat(2, format!("here {n}"))).await;
        assert_eq!(next_of(&mut bob, "chat").await["data"]["message"], format!("here {n}"));
    }
}

fn chat(to: u64, text: String) -> Value {
    json!({ "type": "message", "to_user_id": to, "message": text })
}

/// Sends chat messages to one user; how many were accepted.
async fn send_chats(from: &mut Client, to: u64, count: u64) -> u64 {
    let mut refused = 0;
    for n in 0..count {
        from.send(chat(to, format!("{n}"))).await;
        from.send(json!({ "type": "ping", "timestamp": 4711 })).await;
        loop {
            match from.json().await["type"].as_str().unwrap() {
                "pong" => break,
                "error" => refused += 1,
                _ => {}
            }
        }
    }
    count - refused
}

#[tokio::test]
async fn messages_that_were_read_wait_no_more_whichever_process_they_were_read_from() {
    let redis = Redis::start().await;
    let settings = || RealtimeSettings { inbox_chats_per_sender: 3, ..quick() };
    let (one, two) = (Node::start(&redis, settings()).await, Node::start(&redis, settings()).await);
    let mut ada = enter(&one, 1, 1).await;
    let bob = enter(&two, 2, 2).await;
    assert_eq!(send_chats(&mut ada, 2, 5).await, 5, "who is here reads");
    two.leave(bob).await;
    let is_away = async || one.http("GET", "/api/v1/status/2", &token(1), "").await.1["online"] == false;
    eventually(is_away).await;
    assert_eq!(send_chats(&mut ada, 2, 5).await, 3, "none of those that were read count");
    let mut bob = two.connect(&path(2)).await;
    for _ in 0..3 {
        next_of(&mut bob, "chat").await;
    }
    two.leave(bob).await;
    eventually(is_away).await;
    assert_eq!(send_chats(&mut ada, 2, 5).await, 3);
}

#[tokio::test]
async fn one_sender_does_not_fill_redis_with_messages_to_users_who_may_not_exist() {
    let redis = Redis::start().await;
    let settings = || RealtimeSettings { inbox_chats_per_sender_total: 4, ..quick() };
    let (one, two) = (Node::start(&redis, settings()).await, Node::start(&redis, settings()).await);
    let mut ada = enter(&one, 1, 1).await;
    let mut cat = enter(&one, 3, 2).await;
    for nobody in 100..104 {
        assert_eq!(send_chats(&mut ada, nobody, 1).await, 1);
    }
    // One of them exists, comes, reads and goes.
    let mut bob = two.connect(&path(100)).await;
    next_of(&mut bob, "chat").await;
    two.leave(bob).await;
    eventually(async || one.http("GET", "/api/v1/status/100", &token(1), "").await.1["online"] == false).await;
    assert_eq!(send_chats(&mut ada, 104, 1).await, 1);
    assert_eq!(send_chats(&mut ada, 105, 1).await, 0);
    assert_eq!(send_chats(&mut ada, 3, 1).await, 1, "to who is here");
    assert_eq!(next_of(&mut cat, "chat").await["data"]["from_user_id"], 1);
    assert_eq!(send_chats(&mut cat, 105, 1).await, 1, "another sender");
}

#[tokio::test]
async fn one_user_sends_so_many_chat_messages_a_second() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { chats_per_second_per_user: 1, ..settings() }).await;
    let mut ada = enter(&node, 1, 1).await;
    let mut again = enter(&node, 1, 1).await;
    let mut bob = enter(&node, 2, 2).await;
    let began = std::time::Instant::now();
    let sent = send_chats(&mut ada, 2, 20).await + send_chats(&mut again, 2, 20).await;
    // In bursts of four; over all connections of the user.
    assert!((4..=5 + began.elapsed().as_secs()).contains(&sent), "{sent} in {:?}", began.elapsed());
    for _ in 0..sent {
        next_of(&mut bob, "chat").await;
    }
    bob.expect_nothing_more().await;
}

#[tokio::test]
async fn a_killed_process_leaves_no_ghosts() {
    let redis = Redis::start().await;
    let brief = || RealtimeSettings { presence_lease_seconds: 3, ..quick() };
    let (alive, dead) = (Node::start(&redis, brief()).await, Node::start(&redis, brief()).await);
    let mut ada = enter(&alive, 1, 1).await;
    let _bob = enter(&dead, 2, 2).await;
    ada.expect("user_status").await;
    dead.die();
    let status = ada.expect("user_status").await;
    assert_eq!((&status["data"]["user_id"], &status["data"]["status"]), (&json!(2), &json!("offline")));
}

#[tokio::test]
async fn a_restart_that_was_announced_takes_nobody_offline() {
    let redis = Redis::start().await;
    let (old, new) = (Node::start(&redis, quick()).await, Node::start(&redis, quick()).await);
    let mut ada = enter(&new, 1, 1).await;
    let mut bob = enter(&old, 2, 2).await;
    ada.expect("user_status").await;
    assert!(old.ctx.drain(PATIENCE).await);
    assert_eq!(bob.closed().await.0, 1012);
    // Longer than whoever is gone for good is waited for here: two ticks of the process that is left.
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    assert_eq!(new.http("GET", "/api/v1/status/2", &token(1), "").await.1["online"], true);
    let _bob = enter(&new, 2, 2).await;
    ada.expect_nothing_more().await;
}

#[tokio::test]
async fn whoever_counts_from_the_greeting_on_counts_right_while_many_come() {
    const USERS: u64 = 60;
    let redis = Redis::start().await;
    let nodes = [node(&redis).await, node(&redis).await];
    let coming = (1..=USERS).map(|user| {
        let node = &nodes[usize::from(user % 2 == 0)];
        async move {
            let mut client = node.connect(&path(user)).await;
            let mut count = client.expect("connected").await["data"]["online_count"].as_u64().unwrap();
            while count < USERS {
                let status = client.expect("user_status").await;
                assert_eq!(status["data"]["status"], "online");
                assert_ne!(status["data"]["user_id"], user, "nobody is told of themselves");
                count += 1;
            }
            client
        }
    });
    let mut clients = futures::future::join_all(coming).await;
    for client in &mut clients {
        client.expect_nothing_more().await;
    }
}
