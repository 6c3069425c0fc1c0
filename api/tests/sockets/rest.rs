//! Publishing, event streams, developer endpoints, orders from operators.

use crate::{
    node::{Node, node, settings, token, token_for},
    presence::eventually,
    redis::{PATIENCE, Redis},
};
use fred::interfaces::ClientLike;
use oneiro_core::config::{MessageLog, RealtimeSettings};
use serde_json::json;
use std::time::Duration;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

#[tokio::test]
async fn publishing_needs_the_scope_and_names_what_is_wrong() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let publisher = token_for(9, "publish", Duration::from_secs(600));
    let alert = json!({ "type": "alert", "data": {} }).to_string();
    assert_eq!(node.http("POST", "/api/v1/publish", &token(1), &alert).await.0, 403);
    assert_eq!(node.http("POST", "/api/v1/publish", "x", &alert).await.0, 401);
    for (body, field) in [
        ("nonsense", None),
        ("[]", None),
        ("{}", Some("event")),
        ("{\"type\":\"notification\"}", Some("user_id")),
        ("{\"type\":\"x\",\"channel\":\"presence\"}", Some("channel")),
        ("{\"type\":\"x\",\"channel\":\"socket_control\"}", Some("channel")),
        ("[{\"type\":\"alert\"},{\"type\":\"x\"}]", Some("1.channel")),
    ] {
        let (status, answer) = node.http("POST", "/api/v1/publish/", &publisher, body).await;
        assert_eq!(status, 400, "{body}");
        assert_eq!(
            answer["fields"].as_object().and_then(|fields| fields.keys().next().map(String::as_str)),
            field,
            "{body}"
        );
    }
}

/// The lines of an event stream behind its head.
pub(crate) async fn stream(node: &Node, query: &str, last: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    let request = format!("GET /api/v1/events?{query} HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {last}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).await.unwrap();
    assert!(line.contains(" 200 "), "{line}");
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).await.unwrap();
    }
    reader
}

pub(crate) async fn event(reader: &mut BufReader<TcpStream>) -> (String, serde_json::Value) {
    let reading = async {
        let mut id = String::new();
        loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).await.unwrap() > 0, "the stream ended");
            if let Some(rest) = line.trim_end().strip_prefix("id: ") {
                id = rest.to_owned();
            } else if let Some(data) = line.trim_end().strip_prefix("data: ") {
                return (id, serde_json::from_str(data).unwrap());
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an event in time")
}

#[tokio::test]
async fn event_streams_resume_every_channel() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let query = format!("channels=post_1,post_2&token={}", token(1));
    let mut first = stream(&node, &query, "").await;
    let publish = async |channel: &str, n: u64| {
        node.publish(json!({ "type": "edited", "channel": channel, "data": { "n": n } })).await
    };
    eventually(async || node.ctx.channel_count() >= 2).await;
    publish("post_1", 1).await;
    let (_, data) = event(&mut first).await;
    assert_eq!((&data["data"]["n"], &data["seq"]), (&json!(1), &json!(1)));
    publish("post_2", 2).await;
    let (id, _) = event(&mut first).await;
    drop(first);
    publish("post_2", 3).await;
    publish("post_1", 4).await;
    let mut second = stream(&node, &query, &id).await;
    let mut seen = [event(&mut second).await.1["data"]["n"].as_u64(), event(&mut second).await.1["data"]["n"].as_u64()];
    seen.sort_unstable();
    assert_eq!(seen, [Some(3), Some(4)]);
    publish("post_1", 5).await;
    assert_eq!(event(&mut second).await.1["data"]["n"], 5);
    assert_eq!(node.http("GET", "/api/v1/events?channels=user_2", &token(1), "").await.0, 403);
    assert_eq!(node.http("GET", "/api/v1/events", "nonsense", "").await.0, 401);
}

/// The id that a stream begins with; it tells no event.
pub(crate) async fn first_id(reader: &mut BufReader<TcpStream>) -> String {
    let mut record = String::new();
    let reading = async {
        while !record.ends_with("\n\n") {
            assert!(reader.read_line(&mut record).await.unwrap() > 0, "the stream ended");
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("a record in time");
    assert!(!record.contains("data"), "an event: {record}");
    record.trim_end().rsplit_once("id: ").unwrap().1.to_owned()
}

/// Of what comes on one's own channel, the kinds that were asked for.
#[tokio::test]
async fn an_event_stream_of_orders_brings_orders() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let notification = |n: u64| json!({ "type": "notification", "user_id": 1, "data": { "title": "t", "n": n } });
    let order = |n: u64| json!({ "type": "order_update", "user_id": 1, "data": { "n": n } });
    let query = format!("channels=alerts,orders&token={}", token(1));
    let mut first = stream(&node, &query, "").await;
    let id = first_id(&mut first).await;
    node.publish(json!([notification(1), order(2)])).await;
    assert_eq!(event(&mut first).await.1["data"]["n"], 2);
    let mut second = stream(&node, &query, &id).await;
    assert_eq!(event(&mut second).await.1["data"]["n"], 2, "of the past, too");
    // With the channel itself comes everything, and what waits.
    let mut all = stream(&node, &format!("channels=orders,user_1&token={}", token(1)), "").await;
    first_id(&mut all).await;
    for n in [1, 2] {
        assert_eq!(event(&mut all).await.1["data"]["n"], n);
    }
    node.publish(json!([notification(3), order(4)])).await;
    for (reader, n) in [(&mut first, 4), (&mut second, 4), (&mut all, 3)] {
        assert_eq!(event(reader).await.1["data"]["n"], n);
    }
}

/// Whoever is cut off before the first event goes on from where the stream began.
#[tokio::test]
async fn an_event_stream_begins_with_where_its_channels_stand() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let edited = |n: u64| json!({ "type": "edited", "channel": "post_1", "data": { "n": n } });
    node.publish(edited(1)).await;
    let query = format!("channels=post_1,post_2&token={}", token(1));
    let id = first_id(&mut stream(&node, &query, "").await).await;
    node.publish(edited(2)).await;
    let mut second = stream(&node, &query, &id).await;
    assert_eq!(event(&mut second).await.1["data"]["n"], 2, "after {id}");
}

#[tokio::test]
async fn event_streams_are_told_of_what_is_lost_and_send_a_long_past() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let query = format!("channels=post_1&token={}", token(1));
    let edited = |n: u64| json!({ "type": "edited", "channel": "post_1", "data": { "n": n } });
    let mut first = stream(&node, &query, "").await;
    node.publish(edited(0)).await;
    event(&mut first).await;
    redis.client().await.flushall::<()>(false).await.unwrap();
    // Shows that the channel is another. It may be queued before the loss is told or after.
    node.publish(edited(0)).await;
    let (mut frames, mut id) = (Vec::new(), String::new());
    for _ in 0..2 {
        let (last, frame) = event(&mut first).await;
        id = last;
        frames.push(frame);
    }
    frames.sort_by_key(|frame| frame["type"] != "edited");
    assert_eq!((&frames[0]["data"]["n"], &frames[0]["seq"]), (&json!(0), &json!(1)));
    assert_eq!((&frames[1]["type"], &frames[1]["channel"]), (&json!("resume_failed"), &json!("post_1")));
    drop(first);
    // Ten times what a connection's queue holds.
    let text = "x".repeat(60 * 1024);
    for n in 1..=175 {
        let mut event = edited(n);
        event["data"]["text"] = json!(text);
        node.publish(event).await;
    }
    let mut second = stream(&node, &query, &id).await;
    for n in 1..=175 {
        assert_eq!(event(&mut second).await.1["data"]["n"], n);
    }
    node.publish(edited(176)).await;
    assert_eq!(event(&mut second).await.1["data"]["n"], 176);
}

#[tokio::test]
async fn sessions_and_messages_are_on_record_for_developers() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { message_log: MessageLog::Body, ..settings() }).await;
    let developer = token_for(5, "developer", Duration::from_secs(600));
    assert_eq!(node.http("GET", "/api/developer/websocket-sessions/", &token(1), "").await.0, 403);
    let mut one = node.connect(&format!("/ws/notifications/?token={}", token(1))).await;
    one.expect_nothing_more().await;
    one.stream.close(None).await.unwrap();
    one.closed().await;
    let sessions = async |query: &str| {
        node.http("GET", &format!("/api/developer/websocket-sessions/{query}"), &developer, "").await.1
    };
    eventually(async || sessions("?open=false").await["results"].as_array().is_some_and(|list| list.len() == 1)).await;
    let mut two = node.connect(&format!("/ws/notifications/?token={}", token(2))).await;
    two.expect_nothing_more().await;
    eventually(async || sessions("").await["results"].as_array().is_some_and(|list| list.len() == 2)).await;
    let closed = sessions("?open=false").await["results"][0].clone();
    assert_eq!(
        (&closed["user_id"], &closed["close_code"], &closed["path"]),
        (&json!(1), &json!(1000), &json!("/ws/notifications/"))
    );
    assert!(!closed.to_string().contains("token="), "{closed}");
    assert!(closed["channels"].as_u64() >= Some(1), "{closed}");
    assert_eq!((&closed["queue_len"], &closed["dropped"]), (&json!(0), &json!(0)));
    let all = sessions("").await;
    assert_eq!(
        (&all["results"][0]["user_id"], all["results"].as_array().unwrap().len()),
        (&json!(2), 2),
        "newest first"
    );
    let page = sessions("?limit=1").await;
    let next = sessions(&format!("?limit=5&user_id=1&cursor={}", page["next"].as_str().unwrap())).await;
    assert_eq!(next["results"][0]["user_id"], 1);
    let messages = async |query: &str| {
        node.http("GET", &format!("/api/developer/websocket-messages/{query}"), &developer, "").await.1
    };
    eventually(async || !messages("?type=ping&user_id=2").await["results"].as_array().unwrap().is_empty()).await;
    let ping = messages("?type=ping&user_id=2").await["results"][0].clone();
    assert_eq!((&ping["direction"], &ping["body"]), (&json!("in"), &json!("{\"timestamp\":4711,\"type\":\"ping\"}")));
    assert_eq!(node.http("GET", "/api/developer/websocket-messages/?since=x", &developer, "").await.0, 400);
}

#[tokio::test]
async fn a_user_is_shut_out_of_every_process() {
    let redis = Redis::start().await;
    let (one, two) = (node(&redis).await, node(&redis).await);
    let path = format!("/ws/notifications/?token={}", token(1));
    let (mut a, mut b) = (one.connect(&path).await, two.connect(&path).await);
    let mut other = two.connect(&format!("/ws/notifications/?token={}", token(2))).await;
    for client in [&mut a, &mut b, &mut other] {
        client.expect_nothing_more().await;
    }
    let channel = oneiro_api::socket::CONTROL_CHANNEL.parse().unwrap();
    // Again until it is heard: a process may still be about to listen.
    eventually(async || {
        one.broker.notify(&channel, b"{\"kick\":1}").await.unwrap();
        (one.ctx.connection_count(), two.ctx.connection_count()) == (0, 1)
    })
    .await;
    assert_eq!(a.closed().await, (1000, "signed out".to_owned()));
    assert_eq!(b.closed().await.0, 1000);
    other.expect_nothing_more().await;
}

#[tokio::test]
async fn one_channel_that_is_refused_keeps_a_stream_from_no_other() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let query = format!("channels=user_2,post_1&token={}", token(1));
    let mut reader = stream(&node, &query, "").await;
    let (_, hello) = event(&mut reader).await;
    assert_eq!(hello["rejected"], json!([{ "channel": "user_2", "reason": "forbidden" }]));
    assert_eq!(hello["channels"], json!(["post_1"]));
    node.publish(json!({ "type": "edited", "channel": "post_1", "data": {} })).await;
    assert_eq!(event(&mut reader).await.1["type"], "edited");
}
