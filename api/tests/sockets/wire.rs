//! Every recorded frame against a real server: what it sends has that form, and what a client sends is understood. The TypeScript
//! client's tests read the same files, so that neither side drifts from the other.

use crate::{
    client::Client,
    node::{Node, SECRET, node, settings, token},
    redis::Redis,
};
use oneiro_core::{
    auth::{UserId, mint},
    clock,
    config::{RealtimeSettings, Secret},
    dreams::{
        Change, Dream, DreamId, ImageFailure, ImageId, ImageResult, ImageState, NewImage, NewText, Original,
        VariantRecord,
    },
};
use serde_json::{Value, json};
use std::{cell::RefCell, collections::BTreeMap, path::Path, time::Duration};

/// Members whose value depends on the moment or on the server's data: only their kind is compared.
const VOLATILE: [&str; 9] =
    ["dream_id", "epoch", "offset", "online_count", "seq", "server_time", "timestamp", "url", "version"];

/// The files that no test has used yet.
struct Fixtures(RefCell<BTreeMap<String, Value>>);

impl Fixtures {
    fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wire");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let frames = files.filter_map(|path| {
            let content: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            // The table of close codes is no frame; the server's own table is held to it.
            let frame = content.get("frame")?.clone();
            Some((path.file_stem().unwrap().to_str().unwrap().to_owned(), frame))
        });
        Self(RefCell::new(frames.collect()))
    }

    /// A frame, once.
    fn take(&self, name: &str) -> Value {
        self.0.borrow_mut().remove(name).unwrap_or_else(|| panic!("no fixture {name}, or it was used before"))
    }

    /// Holds what a server sent to the fixture.
    fn hold(&self, name: &str, sent: &Value) {
        let expected = self.take(name);
        if let Err(at) = compare("", &expected, sent) {
            panic!("{name} differs at `{at}`\nfixture: {expected}\nserver:  {sent}");
        }
    }
}

/// The path of the first difference.
fn compare(name: &str, expected: &Value, sent: &Value) -> Result<(), String> {
    let is_same = match (expected, sent) {
        (Value::Object(left), Value::Object(right)) => {
            if left.len() != right.len() {
                return Err(format!("{name}: its members"));
            }
            for (key, value) in left {
                let other = right.get(key).ok_or_else(|| format!("{name}.{key}"))?;
                compare(&format!("{name}.{key}"), value, other)?;
            }
            true
        }
        (Value::Array(left), Value::Array(right)) => {
            for (at, (left, right)) in left.iter().zip(right).enumerate() {
                compare(&format!("{name}.{at}"), left, right)?;
            }
            left.len() == right.len()
        }
        _ if VOLATILE.contains(&name.rsplit('.').next().unwrap_or_default()) => match (expected, sent) {
            (Value::Number(left), Value::Number(right)) => left.is_f64() == right.is_f64(),
            // Both are ISO times, or neither is.
            (Value::String(left), Value::String(right)) => {
                !right.is_empty() && left.parse::<jiff::Timestamp>().is_ok() == right.parse::<jiff::Timestamp>().is_ok()
            }
            _ => false,
        },
        _ => expected == sent,
    };
    if is_same { Ok(()) } else { Err(name.to_owned()) }
}

#[test]
fn differences_are_found() {
    let frame = json!({ "type": "x", "timestamp": 1.5, "data": { "list": [{ "id": 1 }], "at": null } });
    assert_eq!(compare("", &frame, &frame), Ok(()));
    for (pointer, value) in [
        ("/type", json!("y")),
        ("/timestamp", json!(1)),
        ("/timestamp", json!("2025-10-22T10:00:00.000Z")),
        ("/data/list", json!([])),
        ("/data/list/0/id", json!("1")),
        ("/data/list/0", json!({ "id": 1, "more": 2 })),
        ("/data/at", json!(0)),
    ] {
        let mut other = frame.clone();
        *other.pointer_mut(pointer).unwrap() = value;
        assert!(compare("", &frame, &other).is_err(), "{other}");
    }
}

fn image(id: u64) -> ImageId {
    ImageId::new(id).unwrap()
}

/// A dream of user 1 that waits for its images.
async fn dream(node: &Node, positions: &[u64]) -> DreamId {
    let id = node.dreams.begin().await.unwrap();
    let images = (1..).zip(positions).map(|(n, position)| NewImage {
        id: image(n),
        secret: format!("s{n}"),
        position: *position,
        original: Original { key: format!("originals/{n}"), bytes: 1, content_type: "image/jpeg".to_owned() },
    });
    let text = NewText { title: "t".into(), ..NewText::default() };
    let dream = Dream::new(id, UserId::from(1), text, images.collect(), clock::naive_local(), clock::unix_seconds());
    node.dreams.create(&dream).await.unwrap();
    id
}

fn completed() -> ImageState {
    let variant = |name: &str, width, height, bytes| {
        let key = format!("media/1/v1-{name}.jpg");
        (name.to_owned(), VariantRecord { key, width, height, bytes, format: "jpeg".to_owned() })
    };
    ImageState::Completed(ImageResult {
        width: 2048,
        height: 1536,
        placeholder: "1QcSHQRnh493V4dIh4eXh1h4kJUI".to_owned(),
        dominant_color: "#6b7f94".to_owned(),
        perceptual_hash: "0123456789abcdef".to_owned(),
        default_variant: "large".to_owned(),
        variants: [variant("large", 2048, 1536, 412_345), variant("small", 320, 240, 20_912)].into(),
    })
}

fn failed(code: &str, detail: &str) -> ImageState {
    ImageState::Failed(ImageFailure { code: code.to_owned(), detail: detail.to_owned() })
}

/// Makes a move of the dream and tells it, as the worker and the API do.
async fn announce(node: &Node, id: DreamId, mut change: impl FnMut(&mut Dream)) {
    let told = node.dreams.change(id, |dream| {
        change(dream);
        Change::Announce(())
    });
    told.await.unwrap();
}

/// A signed-in socket of a dream, with the state that greeted it.
async fn watch(node: &Node, id: DreamId, query: &str) -> (Client, Value) {
    let mut client = node.connect(&format!("/ws/dream-images/{id}/?token={}{query}", token(1))).await;
    client.expect("connection_established").await;
    let state = client.expect("image_update").await;
    (client, state)
}

/// What the server answers to a message.
async fn reply(client: &mut Client, message: &Value) -> Value {
    client.send(message.clone()).await;
    client.json().await
}

/// The dialect of a dream's socket, on the dream with the fixtures' number.
async fn dream_socket(node: &Node, fixtures: &Fixtures) {
    while node.dreams.begin().await.unwrap().get() < 122 {}
    let id = dream(node, &[50, 100]).await;
    assert_eq!(id.get(), 123);
    for name in ["d_client_authenticate", "d_client_authenticate_bare"] {
        let mut client = node.connect("/ws/dream-images/123/").await;
        let mut message = fixtures.take(name);
        let scheme = if message["token"].as_str().unwrap().starts_with("Bearer ") { "Bearer " } else { "" };
        message["token"] = json!(format!("{scheme}{}", token(1)));
        let hello = reply(&mut client, &message).await;
        assert_eq!(hello["dream_id"], "123");
        if scheme.is_empty() {
            fixtures.hold("d_server_connection_established", &hello);
            fixtures.hold("d_server_image_update_processing", &client.json().await);
        }
    }
    let (_, state) = watch(node, id, "&ids=string").await;
    fixtures.hold("d_server_image_update_string_id", &state);
    let (_, state) = watch(node, id, "&positions=1").await;
    fixtures.hold("d_server_image_update_with_position", &state);

    let (mut client, _) = watch(node, id, "&progress=1").await;
    fixtures.hold("d_server_pong", &reply(&mut client, &fixtures.take("d_client_ping")).await);
    let float = fixtures.take("d_client_ping_float");
    assert_eq!(reply(&mut client, &float).await["timestamp"], float["timestamp"]);
    client.send(fixtures.take("d_client_pong")).await;
    client.expect_nothing_more().await;
    let state = reply(&mut client, &fixtures.take("d_client_request_status")).await;
    assert_eq!((&state["type"], &state["dream_id"]), (&json!("image_update"), &json!(123)));
    fixtures.hold("d_server_error", &reply(&mut client, &json!({ "type": "request_status", "dream_id": 124 })).await);
    let progress = json!({ "type": "image_progress", "dream_id": 123, "image_id": 1, "done": 2, "total": 4 });
    node.dreams.publish_transient(id, &progress).await.unwrap();
    fixtures.hold("d_server_image_progress", &client.json().await);

    announce(node, id, |dream| {
        for n in [1, 2] {
            dream.settle(image(n), 1, completed()).unwrap();
        }
    })
    .await;
    fixtures.hold("d_server_image_update_completed", &client.json().await);
    announce(node, id, |dream| assert!(dream.begin_delete(None))).await;
    fixtures.hold("d_server_image_update_delete_processing", &client.json().await);
    announce(node, id, Dream::fail_delete).await;
    fixtures.hold("d_server_image_update_delete_failed", &client.json().await);
    announce(node, id, Dream::leave_deletion).await;
    client.expect("image_update").await;
    announce(node, id, |dream| assert!(dream.begin_delete(None))).await;
    client.expect("image_update").await;
    announce(node, id, Dream::finish_delete).await;
    fixtures.hold("d_server_image_update_delete_completed", &client.json().await);
}

/// Dreams that do not go well.
async fn failures(node: &Node, fixtures: &Fixtures) {
    let one = dream(node, &[0]).await;
    let (mut client, _) = watch(node, one, "").await;
    announce(node, one, |dream| {
        dream.settle(image(1), 1, failed("unsupported_format", "the file is not an image")).unwrap();
    })
    .await;
    fixtures.hold("d_server_image_update_failed", &client.json().await);

    let two = dream(node, &[50, 100]).await;
    let (mut client, _) = watch(node, two, "").await;
    announce(node, two, |dream| {
        dream.settle(image(1), 1, completed()).unwrap();
        dream.settle(image(2), 1, failed("corrupt_image", "the file ends before the picture does")).unwrap();
    })
    .await;
    fixtures.hold("d_server_image_update_partial", &client.json().await);
}

async fn heartbeat(redis: &Redis, fixtures: &Fixtures) {
    let node = Node::start(redis, RealtimeSettings { ping_interval_seconds: 1, ..settings() }).await;
    let id = node.dream(1).await;
    let mut client = node.connect(&format!("/ws/dream-images/{id}/?token={}", token(1))).await;
    // On a busy machine one comes before the greeting.
    let ping = loop {
        let frame = client.json().await;
        if frame["type"] == "ping" {
            break frame;
        }
    };
    fixtures.hold("d_server_ping", &ping);
}

async fn notifications(node: &Node, fixtures: &Fixtures) {
    let mut client = node.connect(&format!("/ws/notifications/?token={}", token(1))).await;
    fixtures.hold("n_server_pong", &reply(&mut client, &fixtures.take("n_client_ping")).await);
    fixtures.hold("n_server_subscription_success", &reply(&mut client, &fixtures.take("n_client_subscribe")).await);
    let rejected = reply(&mut client, &json!({ "type": "subscribe", "channels": ["alerts", "user_9"] })).await;
    fixtures.hold("n_server_subscription_success_rejected", &rejected);
    fixtures.hold("n_server_error", &reply(&mut client, &json!({ "type": "dance" })).await);
    for name in ["n_server_notification", "n_server_order_update", "n_server_material_update", "n_server_alert"] {
        let mut event = fixtures.0.borrow()[name].clone();
        if name != "n_server_alert" {
            event["user_id"] = json!(1);
        }
        node.publish(event).await;
        fixtures.hold(name, &client.json().await);
    }
}

async fn presence(node: &Node, fixtures: &Fixtures) {
    let enter = async |user: u64, name: &str| {
        let ttl = Duration::from_secs(3_600);
        let token = mint(&Secret::new(SECRET), &UserId::from(user), Some(name), "", ttl).unwrap();
        let mut client = node.connect(&format!("/api/v1/ws?token={token}")).await;
        let hello = client.json().await;
        // Everything that it comes with is joined once its messages are read.
        client.expect_nothing_more().await;
        (client, hello)
    };
    let (mut ada, hello) = enter(123, "ada").await;
    fixtures.hold("p_server_connected", &hello);
    let (mut john, _) = enter(456, "John").await;
    fixtures.hold("p_server_user_status", &ada.json().await);
    fixtures.hold("p_server_pong", &reply(&mut ada, &fixtures.take("p_client_ping")).await);
    ada.send_text("{").await;
    fixtures.hold("p_server_error", &ada.json().await);
    john.send(fixtures.take("p_client_typing")).await;
    fixtures.hold("p_server_typing", &ada.json().await);
    let mut presence = fixtures.take("p_client_presence");
    john.send(presence.clone()).await;
    assert_eq!(ada.expect("presence").await["data"]["data"], presence["data"]);
    presence["data"]["device"] = json!("desktop");
    john.send(presence).await;
    fixtures.hold("p_server_presence", &ada.json().await);
    let mut message = fixtures.take("p_client_message");
    ada.send(message.clone()).await;
    let chat = john.expect("chat").await;
    assert_eq!((&chat["data"]["from_user_id"], &chat["data"]["message"]), (&json!(123), &message["message"]));
    message["to_user_id"] = json!(123);
    john.send(message).await;
    fixtures.hold("p_server_chat", &ada.json().await);
    let data = fixtures.0.borrow()["p_server_notification"]["data"].clone();
    node.publish(json!({ "type": "notification", "user_id": 123, "data": data })).await;
    fixtures.hold("p_server_notification", &ada.json().await);
}

async fn extensions(node: &Node, fixtures: &Fixtures) {
    let mut client = node.connect(&format!("/ws/notifications/?token={}", token(2))).await;
    let since = fixtures.take("x_client_subscribe_since");
    let granted = reply(&mut client, &since).await;
    assert_eq!((&granted["type"], &granted["channels"]), (&json!("subscription_success"), &since["channels"]));
    assert_eq!(client.expect("resume_failed").await["channel"], "post_123");
    let mut event = fixtures.0.borrow()["x_server_custom_event"].clone();
    event["channel"] = json!("post_123");
    let mut plain = node.connect(&format!("/ws/notifications/?token={}", token(3))).await;
    plain.send(json!({ "type": "subscribe", "channels": ["post_123"] })).await;
    plain.expect("subscription_success").await;
    node.publish(event).await;
    fixtures.hold("x_server_custom_event", &plain.json().await);
    assert!(client.expect("edited").await["seq"].is_u64(), "who resumes is told positions");
    let mut late = node.connect(&format!("/ws/notifications/?positions=1&token={}", token(4))).await;
    let subscribed = reply(&mut late, &json!({ "type": "subscribe", "channels": ["post_123"] })).await;
    fixtures.hold("x_server_subscription_success_positions", &subscribed);
    fixtures.hold("x_server_history", &reply(&mut client, &fixtures.take("x_client_history")).await);
    fixtures.hold("x_server_unsubscribed", &reply(&mut client, &fixtures.take("x_client_unsubscribe")).await);
    let narrowed = reply(&mut client, &fixtures.take("x_client_subscribe_replace")).await;
    assert_eq!((&narrowed["type"], &narrowed["channels"]), (&json!("subscription_success"), &json!(["alerts"])));
    client.send(fixtures.take("x_client_ack")).await;
    client.expect_nothing_more().await;
}

/// On the dream with the fixtures' number, before it is deleted.
async fn resuming(node: &Node, fixtures: &Fixtures) {
    while node.dreams.begin().await.unwrap().get() < 122 {}
    let id = dream(node, &[50]).await;
    let (_, state) = watch(node, id, "&positions=1").await;
    for _ in 0..2 {
        announce(node, id, |_| {}).await;
    }
    let (mut client, _) = watch(node, id, "").await;
    let mut resume = fixtures.take("x_client_resume");
    fixtures.hold("x_server_resume_failed", &reply(&mut client, &resume).await);
    client.expect("image_update").await;
    resume["epoch"] = state["epoch"].clone();
    resume["seq"] = state["seq"].clone();
    fixtures.hold("x_server_resumed", &reply(&mut client, &resume).await);
    for _ in 0..2 {
        client.expect("image_update").await;
    }
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn every_recorded_frame_is_what_a_real_server_sends_or_understands() {
    let fixtures = Fixtures::read();
    let redis = Redis::start().await;
    let first = node(&redis).await;
    dream_socket(&first, &fixtures).await;
    failures(&first, &fixtures).await;
    heartbeat(&redis, &fixtures).await;
    notifications(&first, &fixtures).await;
    presence(&first, &fixtures).await;
    extensions(&first, &fixtures).await;
    // Another installation, whose dreams are counted from 1 again.
    let redis = Redis::start().await;
    resuming(&node(&redis).await, &fixtures).await;
    let unused: Vec<_> = fixtures.0.into_inner().into_keys().collect();
    assert_eq!(unused, Vec::<String>::new(), "fixtures that no server was held to");
}
