//! How event streams begin and end.

use crate::{
    node::{Node, node, settings, token, token_for},
    presence::eventually,
    redis::{PATIENCE, Redis},
};
use oneiro_core::config::RealtimeSettings;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

struct Answer {
    status: u16,
    head: String,
    body: BufReader<TcpStream>,
}

/// Asks for a stream. The connection ends with the answer, so that the end of a stream can be seen.
async fn ask(node: &Node, query: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    let mut request = format!("GET /api/v1/events?{query} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", node.addr);
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
    let mut body = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(body.read_line(&mut head).await.unwrap() > 0, "a whole head: {head}");
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body }
}

async fn stream(node: &Node, token: &str) -> Answer {
    let answer = ask(node, &format!("channels=post_1&token={token}"), &[]).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.to_lowercase().contains("content-type: text/event-stream"), "{}", answer.head);
    answer
}

impl Answer {
    /// Reads up to the line that holds this, which must come. All that was read.
    async fn line_with(&mut self, text: &str) -> String {
        let reading = async {
            let mut lines = String::new();
            while !lines.contains(text) {
                assert!(self.body.read_line(&mut lines).await.unwrap() > 0, "the stream ended without {text}");
            }
            lines
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("a line in time")
    }

    /// Everything up to the end of the answer, which must come.
    async fn rest(mut self) -> String {
        let mut rest = String::new();
        tokio::time::timeout(PATIENCE, self.body.read_to_string(&mut rest)).await.expect("an end in time").unwrap();
        rest
    }

    /// The stream's last event, which must be a goodbye: its code and reason.
    async fn goodbye(self) -> (u64, String) {
        let rest = self.rest().await;
        let (_, last) = rest.rsplit_once("event: close").unwrap_or_else(|| panic!("no goodbye in {rest:?}"));
        let lines: Vec<&str> = last.lines().collect();
        assert_eq!(lines[0], "", "the event's name and no more: {rest:?}");
        let data: Value = serde_json::from_str(lines[1].strip_prefix("data: ").unwrap()).unwrap();
        assert!(lines[2].is_empty() && !last.contains("\ndata: {\"type\""), "nothing behind it: {rest:?}");
        (data["code"].as_u64().unwrap(), data["reason"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    // Long enough to get in on a busy machine.
    let brief = stream(&node, &token_for(1, "", Duration::from_secs(6))).await;
    let long = stream(&node, &token(1)).await;
    assert_eq!(node.ctx.connection_count(), 2);
    assert_eq!(brief.goodbye().await, (4001, "token_expired".to_owned()));
    eventually(async || node.ctx.connection_count() == 1).await;
    drop(long);
    eventually(async || node.ctx.connection_count() == 0).await;
}

#[tokio::test]
async fn a_stream_ends_with_its_token_though_there_is_more_to_tell() {
    const EVENTS: usize = 900;
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let channel = "post_1".parse().unwrap();
    let event = json!({ "type": "edited", "data": { "text": "x".repeat(40 * 1024) } }).to_string();
    let mut end = node.broker.publish(&channel, event.as_bytes()).await.unwrap();
    for _ in 1..EVENTS {
        end = node.broker.publish(&channel, event.as_bytes()).await.unwrap();
    }
    let ttl = Duration::from_secs(5);
    let query = format!("channels=post_1&token={}", token_for(1, "", ttl));
    let last = format!("post_1={}:0", end.epoch);
    let answer = ask(&node, &query, &[("Last-Event-ID", &last)]).await;
    assert_eq!(answer.status, 200);
    // A client that is slower than what it asked for.
    tokio::time::sleep(ttl + Duration::from_secs(1)).await;
    let rest = answer.rest().await;
    assert!(rest.contains("token_expired"));
    let told = rest.matches("\"edited\"").count();
    assert!(told < EVENTS, "all {told} events");
}

#[tokio::test]
async fn what_waits_for_a_user_comes_over_a_stream_and_not_again() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let notification = |id: u64| json!({ "type": "notification", "user_id": 1, "data": { "id": id, "title": "t" } });
    let read = async || node.broker.cursor(&"user_1".parse().unwrap(), "notifications").await.unwrap();
    let query = format!("token={}", token(1));
    node.publish(notification(1)).await;
    // Worth nothing late.
    node.publish(json!({ "type": "edited", "user_id": 1, "data": {} })).await;
    node.publish(notification(2)).await;
    // Neither moves the cursor: one that brings some kinds only, one whose client acknowledges.
    for (query, first) in [(format!("channels=orders&{query}"), 3), (format!("acks=1&{query}"), 1)] {
        let mut answer = ask(&node, &query, &[]).await;
        if first == 3 {
            node.publish(json!({ "type": "order_update", "user_id": 1, "data": { "id": 3 } })).await;
        }
        answer.line_with(&format!("\"id\":\"{first}\"")).await;
        drop(answer);
        eventually(async || node.ctx.connection_count() == 0).await;
        assert_eq!(read().await, None);
    }
    let mut answer = ask(&node, &query, &[]).await;
    let mut told = Vec::new();
    for id in 1..=3 {
        told.push(answer.line_with(&format!("\"id\":\"{id}\"")).await);
    }
    assert!(told.iter().all(|lines| !lines.contains("edited")), "{told:?}");
    node.publish(notification(4)).await;
    answer.line_with("\"id\":\"4\"").await;
    eventually(async || read().await.is_some_and(|position| position.offset == 5)).await;
    drop(answer);
    node.publish(notification(5)).await;
    let mut again = ask(&node, &query, &[]).await;
    let lines = again.line_with("\"id\":\"5\"").await;
    assert!(!lines.contains("\"id\":\"4\""), "{lines}");
}

/// An answer without an end must not be waited for, whatever else its request asks for.
#[tokio::test]
async fn a_stream_that_is_asked_to_be_a_socket_is_a_stream() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let query = format!("channels=post_1&token={}", token(1));
    let mut answer = ask(&node, &query, &[("Upgrade", "websocket")]).await;
    assert_eq!(answer.status, 200);
    node.publish(json!({ "type": "edited", "channel": "post_1", "data": { "n": 1 } })).await;
    answer.line_with("\"n\":1").await;
    drop(answer);
    eventually(async || node.ctx.connection_count() == 0).await;
}

#[tokio::test]
async fn a_user_who_is_shut_out_loses_their_streams() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let (one, mut two) = (stream(&node, &token(1)).await, stream(&node, &token(2)).await);
    let channel = oneiro_api::socket::CONTROL_CHANNEL.parse().unwrap();
    // Again until it is heard: the process may still be about to listen.
    eventually(async || {
        node.broker.notify(&channel, b"{\"kick\":1}").await.unwrap();
        node.ctx.connection_count() == 1
    })
    .await;
    assert_eq!(one.goodbye().await, (1000, "signed out".to_owned()));
    node.publish(json!({ "type": "edited", "channel": "post_1", "data": { "n": 1 } })).await;
    two.line_with("\"n\":1").await;
    node.ctx.drain(PATIENCE).await;
    assert_eq!(two.goodbye().await.0, 1012, "the other's went on");
}

#[tokio::test]
async fn a_drain_says_goodbye_to_streams_behind_what_they_were_to_get() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { drain_retry_after_seconds: [3, 3], ..settings() }).await;
    let streams = [stream(&node, &token(1)).await, stream(&node, &token(2)).await];
    assert!(node.ctx.drain(PATIENCE).await, "all are gone in time");
    assert_eq!(node.ctx.connection_count(), 0);
    for stream in streams {
        assert_eq!(stream.goodbye().await, (1012, "retry_after=3".to_owned()));
    }
    let late = ask(&node, &format!("token={}", token(1)), &[]).await;
    assert_eq!(late.status, 503);
    assert!(late.head.to_lowercase().contains("retry-after: "), "{}", late.head);
}

#[tokio::test]
async fn pages_of_other_origins_get_no_stream() {
    let redis = Redis::start().await;
    let allowed_origins = vec!["https://app.example".to_owned()];
    let listed = Node::start(&redis, RealtimeSettings { allowed_origins, ..settings() }).await;
    let open = node(&redis).await;
    let cookie = format!("access_token={}", token(1));
    let query = format!("token={}", token(1));
    let evil = ("Origin", "https://evil.example");
    let app = ("Origin", "https://app.example");
    for (node, query, headers, status) in [
        (&listed, query.as_str(), vec![], 200),
        (&listed, &query, vec![app], 200),
        (&listed, &query, vec![evil], 403),
        (&listed, &query, vec![("Origin", "null")], 403),
        (&listed, "", vec![app, ("Cookie", &cookie)], 200),
        (&listed, "", vec![evil, ("Cookie", &cookie)], 403),
        // Without a list a page may come from anywhere with a token that it holds, but not with one that the browser adds.
        (&open, &query, vec![evil], 200),
        (&open, "", vec![evil, ("Cookie", &cookie)], 403),
        (&open, "", vec![("Origin", &format!("http://{}", open.addr)), ("Cookie", &cookie)], 200),
    ] {
        let answer = ask(node, query, &headers).await;
        assert_eq!(answer.status, status, "{headers:?}");
    }
}

#[tokio::test]
async fn names_that_a_stream_cannot_have_keep_it_from_no_other() {
    let redis = Redis::start().await;
    let settings = RealtimeSettings { max_channels: 1, ..settings() };
    let node = Node::start(&redis, settings).await;
    let token = token(1);
    // What every user has does not count, as on the sockets.
    let names = "alerts,orders,user_1,no%20name,post_1,user_2,post_2,post_1";
    let mut answer = ask(&node, &format!("channels={names}&token={token}"), &[]).await;
    assert_eq!(answer.status, 200);
    let lines = answer.line_with("subscription_success").await;
    let hello = lines.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let hello: Value = serde_json::from_str(hello).unwrap();
    let refused = [("no name", "invalid_name"), ("user_2", "forbidden"), ("post_2", "too_many")];
    let refused = refused.map(|(channel, reason)| json!({ "channel": channel, "reason": reason }));
    assert_eq!(hello["rejected"], json!(refused));
    assert_eq!(hello["channels"], json!(["alerts", "user_1", "orders", "post_1"]));
    node.publish(json!({ "type": "edited", "channel": "post_1", "data": {} })).await;
    answer.line_with("edited").await;
    for (names, status) in [("no%20name", 400), ("no%20name,user_2", 403)] {
        assert_eq!(ask(&node, &format!("channels={names}&token={token}"), &[]).await.status, status, "{names}");
    }
}
