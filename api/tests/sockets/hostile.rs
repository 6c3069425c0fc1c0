//! What a hostile client or page tries, and that it costs nobody else their connection.

use crate::{
    client::Client,
    frames::{close_code, frame, read, upgrade},
    node::{Node, node, settings, token},
    presence::eventually,
    redis::{PATIENCE, Redis},
};
use oneiro_core::config::RealtimeSettings;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Error;

const ORIGIN: &str = "https://app.example";

fn fragments(count: usize) -> Vec<u8> {
    let mut bytes = frame(0x01, b"");
    for _ in 1..count {
        bytes.extend(frame(0x00, b""));
    }
    bytes
}

/// Frames that a client must not send (RFC 6455 sections 5.2 to 5.5, 7.4, 8.1), each with the code that answers it.
fn violations() -> Vec<(String, Vec<u8>, u16)> {
    let mut cases: Vec<(String, Vec<u8>, u16)> = [
        ("a ping of 126 bytes", frame(0x89, &[b'x'; 126]), 1002),
        ("a pong of 126 bytes", frame(0x8a, &[b'x'; 126]), 1002),
        ("a close of 126 bytes", frame(0x88, &[0x03; 126]), 1002),
        ("a ping that announces 2^40 bytes", vec![0x89, 0xff, 0, 0, 1, 0, 0, 0, 0, 0], 1002),
        ("a fragmented pong", frame(0x0a, b"x"), 1002),
        ("a fragmented close", frame(0x08, b""), 1002),
        ("an unmasked ping", vec![0x89, 0x00], 1002),
        ("an unmasked close", vec![0x88, 0x02, 0x03, 0xe8], 1002),
        ("the second reserved bit", frame(0xa1, b"{}"), 1002),
        ("the third reserved bit", frame(0x91, b"{}"), 1002),
        ("a reserved bit on a ping", frame(0xc9, b""), 1002),
        ("a message inside another", [frame(0x01, b"{"), frame(0x81, b"}")].concat(), 1002),
        ("a length not in its shortest form", vec![0x81, 0xfe, 0, 1, 0, 0, 0, 0, b'x'], 1002),
        ("a close code of none", frame(0x88, &1005_u16.to_be_bytes()), 1002),
        ("a close code below all", frame(0x88, &999_u16.to_be_bytes()), 1002),
        ("a close reason that is no text", frame(0x88, b"\x03\xe8\xff"), 1007),
        ("a character that breaks off", [frame(0x01, b"\"\xc3"), frame(0x80, b"\"")].concat(), 1007),
        ("a character that never ends", [frame(0x01, b"\"\xe2\x82"), frame(0x80, b"")].concat(), 1007),
        ("half a surrogate pair", [frame(0x01, b"\"\xed"), frame(0x80, b"\xa0\x80\"")].concat(), 1007),
        ("fragments that are too big together", [frame(0x01, &[b' '; 65_536]), frame(0x80, b" ")].concat(), 1009),
        ("fragments without end", fragments(1_025), 1008),
    ]
    .map(|(name, bytes, code)| (name.to_owned(), bytes, code))
    .into();
    // Opcode 3 is among the cases of `frames`.
    for opcode in [0x4, 0x5, 0x6, 0x7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        cases.push((format!("opcode {opcode:#x}"), frame(0x80 | opcode, b""), 1002));
    }
    cases
}

#[tokio::test]
async fn what_the_protocol_forbids_ends_the_offender_alone() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut bystander = node.connect(&format!("/ws/notifications/?token={}", token(1))).await;
    for (name, bytes, code) in violations() {
        let mut stream = upgrade(node.addr, "/ws/dream-images/1/").await;
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(close_code(&mut stream).await, code, "{name}");
        bystander.expect_nothing_more().await;
    }
    eventually(async || node.ctx.connection_count() == 1).await;
    node.publish(json!({ "type": "alert", "data": {} })).await;
    bystander.expect("alert").await;
}

#[tokio::test]
async fn a_character_cut_by_fragments_is_whole_again() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut stream = upgrade(node.addr, "/ws/dream-images/1/").await;
    let text = "{\"type\":\"ping\",\"timestamp\":\"☕\"}".as_bytes();
    let (last, start) = text.split_last().unwrap();
    let mut bytes = frame(0x01, b"");
    for byte in start {
        bytes.extend(frame(0x00, &[*byte]));
    }
    bytes.extend(frame(0x80, &[*last]));
    stream.write_all(&bytes).await.unwrap();
    let (first, payload) = read(&mut stream).await;
    assert_eq!((first, serde_json::from_slice::<Value>(&payload).unwrap()["timestamp"].clone()), (0x81, json!("☕")));
}

#[tokio::test]
async fn a_control_frame_may_be_as_long_as_125_bytes() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut stream = upgrade(node.addr, "/ws/dream-images/1/").await;
    stream.write_all(&frame(0x89, &[b'x'; 125])).await.unwrap();
    assert_eq!(read(&mut stream).await, (0x8a, vec![b'x'; 125]));
}

/// The head of the answer to a handshake with these further headers; those of an upgrade that are named replace its own.
async fn head(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let host = addr.to_string();
    let usual = [
        ("Host", host.as_str()),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let kept = usual.iter().filter(|(name, _)| !headers.iter().any(|(other, _)| other == name));
    let lines: String = kept.chain(headers).map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    stream.write_all(format!("{method} {path} HTTP/1.1\r\n{lines}\r\n").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    let reading = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer in time");
    (String::from_utf8(head).unwrap().to_lowercase(), stream)
}

#[tokio::test]
async fn offered_extensions_and_unknown_subprotocols_are_declined_and_the_connection_works() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    for offered in [
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits, permessage-deflate"),
        ("Sec-WebSocket-Extensions", "x-unknown; \"quoted"),
        ("Sec-WebSocket-Protocol", "graphql-ws, mqtt"),
    ] {
        let (head, mut stream) = head(node.addr, "GET", "/ws/dream-images/1/", &[offered]).await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(!head.contains("sec-websocket-extensions") && !head.contains("sec-websocket-protocol"), "{head}");
        stream.write_all(&frame(0x81, b"{\"type\":\"ping\",\"timestamp\":7}")).await.unwrap();
        let (first, payload) = read(&mut stream).await;
        assert_eq!((first, &payload[..1]), (0x81, &b"{"[..]), "whole, and not compressed");
    }
}

#[tokio::test]
async fn handshakes_that_are_not_whole_are_refused_with_their_status() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    for (method, header, status) in [
        ("GET", ("Sec-WebSocket-Version", "8"), 426),
        ("GET", ("Connection", "keep-alive"), 426),
        ("GET", ("Upgrade", "h2c"), 426),
        ("GET", ("Sec-WebSocket-Key", "dGhlIHNhbXBsZQ=="), 400),
        ("GET", ("Sec-WebSocket-Key", "not base64"), 400),
        ("POST", ("Content-Length", "0"), 405),
    ] {
        let (head, _) = head(node.addr, method, "/ws/notifications/", &[header]).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{header:?}: {head}");
        assert!(head.contains("sec-websocket-version: 13"), "{head}");
    }
    assert_eq!(node.ctx.connection_count(), 0);
    node.connect(&format!("/ws/notifications/?token={}", token(1))).await.expect_nothing_more().await;
}

/// The status of a handshake from a page of this origin.
async fn status(node: &Node, path: &str, headers: &[(&'static str, &str)]) -> u16 {
    match Client::connect(node.addr, path, headers).await.map_err(|error| *error) {
        Ok(_) => 101,
        Err(Error::Http(response)) => {
            let body: Value = serde_json::from_slice(response.body().as_deref().unwrap_or_default()).unwrap();
            assert!(body["code"].is_string() && body["detail"].is_string(), "{body}");
            response.status().as_u16()
        }
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn only_pages_of_the_listed_origins_and_the_servers_own_may_connect() {
    let redis = Redis::start().await;
    let listed = RealtimeSettings { allowed_origins: vec![ORIGIN.to_owned()], ..settings() };
    let node = Node::start(&redis, listed).await;
    let own = format!("http://{}", node.addr);
    let token = token(1);
    let paths = [
        format!("/ws/dream-images/1/?token={token}"),
        format!("/ws/notifications/?token={token}"),
        format!("/api/v1/ws?token={token}"),
    ];
    for path in &paths {
        for (origin, expected) in [
            (None, 101),
            (Some(ORIGIN), 101),
            (Some("HTTPS://APP.EXAMPLE"), 101),
            (Some(own.as_str()), 101),
            (Some("null"), 403),
            (Some(""), 403),
            (Some("https://evil.example"), 403),
            (Some("http://app.example"), 403),
            (Some("https://app.example:8443"), 403),
            (Some("https://app.example.evil.example"), 403),
            (Some("https://evil.example/https://app.example"), 403),
        ] {
            let headers: Vec<_> = origin.map(|origin| ("origin", origin)).into_iter().collect();
            assert_eq!(status(&node, path, &headers).await, expected, "{origin:?} at {path}");
        }
    }
    // A cookie is taken from a listed page, and from none that is not.
    let cookie = format!("access_token={token}");
    for (origin, expected) in [(ORIGIN, 101), ("null", 403), ("https://evil.example", 403)] {
        let headers = [("cookie", cookie.as_str()), ("origin", origin)];
        assert_eq!(status(&node, "/ws/notifications/", &headers).await, expected, "{origin}");
    }
}

#[tokio::test]
async fn a_list_of_everybody_lets_no_foreign_page_use_a_cookie() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { allowed_origins: vec!["*".to_owned()], ..settings() }).await;
    let own = format!("http://{}", node.addr);
    let token = token(1);
    let cookie = format!("access_token={token}");
    for (origin, with_cookie, with_query) in [("https://evil.example", 403, 101), ("null", 403, 101), (&own, 101, 101)]
    {
        let headers = [("cookie", cookie.as_str()), ("origin", origin)];
        assert_eq!(status(&node, "/ws/notifications/", &headers).await, with_cookie, "{origin}");
        let path = format!("/ws/notifications/?token={token}");
        assert_eq!(status(&node, &path, &[("origin", origin)]).await, with_query, "{origin}");
    }
}

#[tokio::test]
async fn pings_and_pongs_count_as_messages() {
    let redis = Redis::start().await;
    let limited = RealtimeSettings { messages_per_second: 1, message_burst: 5, ..settings() };
    let node = Node::start(&redis, limited).await;
    for (name, first) in [("pings", 0x89), ("pongs", 0x8a)] {
        let mut stream = upgrade(node.addr, &format!("/ws/notifications/?token={}", token(1))).await;
        stream.write_all(&frame(first, b"x").repeat(100)).await.unwrap();
        let mut answers = 0;
        let code = loop {
            match read(&mut stream).await {
                (0x88, payload) => break u16::from_be_bytes([payload[0], payload[1]]),
                (0x8a, _) => answers += 1,
                other => panic!("{name}: {other:?}"),
            }
        };
        assert_eq!(code, 4029, "{name}");
        assert!(if first == 0x89 { (5..100).contains(&answers) } else { answers == 0 }, "{name}: {answers} answers");
    }
}
