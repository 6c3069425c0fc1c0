//! Clients that do not keep to the protocol, byte by byte.

use crate::{
    node::{Node, node, settings, token},
    redis::{PATIENCE, Redis},
};
use oneiro_core::config::RealtimeSettings;
use serde_json::json;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// An upgraded connection without a library.
pub(crate) async fn upgrade(addr: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(
        head.starts_with("http/1.1 101") && head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{head}"
    );
    stream
}

/// A masked frame; the mask of zeros leaves the payload readable.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
    out
}

/// The next frame's first byte and payload.
pub(crate) async fn read(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let reading = async {
        let first = stream.read_u8().await.unwrap();
        let len = match stream.read_u8().await.unwrap() {
            126 => usize::from(stream.read_u16().await.unwrap()),
            127 => usize::try_from(stream.read_u64().await.unwrap()).unwrap(),
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload).await.unwrap();
        (first, payload)
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("a frame in time")
}

pub(crate) async fn close_code(stream: &mut TcpStream) -> u16 {
    loop {
        if let (0x88, payload) = read(stream).await {
            return u16::from_be_bytes([payload[0], payload[1]]);
        }
    }
}

#[tokio::test]
async fn broken_frames_end_the_connection_with_their_code() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", vec![0x81, 0x02, b'{', b'}'], 1002),
        ("binary", frame(0x82, b"{}"), 1003),
        ("bad utf-8", frame(0x81, b"\xff"), 1007),
        ("too big", frame(0x81, &vec![b' '; 65_537]), 1009),
        ("too big, announced only", vec![0x81, 0xff, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff], 1009),
        ("compressed without asking", frame(0xc1, b"x"), 1002),
        ("fragmented ping", frame(0x09, b""), 1002),
        ("unknown opcode", frame(0x83, b""), 1002),
        ("continuation of nothing", frame(0x80, b""), 1002),
        ("half a close code", frame(0x88, b"\x03"), 1002),
    ];
    for (name, bytes, code) in cases {
        let mut stream = upgrade(node.addr, "/ws/dream-images/1/").await;
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(close_code(&mut stream).await, code, "{name}");
    }
}

#[tokio::test]
async fn fragments_pings_and_goodbyes_are_answered() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut stream = upgrade(node.addr, "/ws/dream-images/1/").await;
    let mut bytes = frame(0x01, b"{\"type\":");
    bytes.extend(frame(0x89, b"abc"));
    bytes.extend(frame(0x80, b"\"ping\",\"timestamp\":7}"));
    for byte in bytes {
        stream.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(read(&mut stream).await, (0x8a, b"abc".to_vec()));
    let (first, payload) = read(&mut stream).await;
    assert_eq!(
        (first, serde_json::from_slice::<serde_json::Value>(&payload).unwrap()["timestamp"].clone()),
        (0x81, json!(7))
    );
    stream.write_all(&frame(0x88, &4321_u16.to_be_bytes())).await.unwrap();
    assert_eq!(close_code(&mut stream).await, 4321);
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "and then the end");
}

#[tokio::test]
async fn messages_that_are_no_messages_are_errors_not_ends() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let id = node.dream(1).await;
    let mut client = node.connect(&format!("/ws/dream-images/{id}?token={}", token(1))).await;
    client.expect("connection_established").await;
    client.expect("image_update").await;
    for (text, code) in [
        ("", "INVALID_JSON"),
        ("{", "INVALID_JSON"),
        ("[]", "INVALID_MESSAGE"),
        ("null", "INVALID_MESSAGE"),
        ("{}", "INVALID_MESSAGE"),
        ("{\"type\":1}", "INVALID_MESSAGE"),
        ("{\"type\":\"dance\"}", "UNKNOWN_MESSAGE_TYPE"),
        ("{\"type\":\"authenticate\"}", "INVALID_MESSAGE"),
        ("{\"type\":\"subscribe\",\"channels\":\"x\"}", "INVALID_MESSAGE"),
        ("{\"type\":\"resume\"}", "INVALID_MESSAGE"),
        ("{\"type\":\"ack\",\"seq\":-1}", "INVALID_MESSAGE"),
    ] {
        client.send_text(text).await;
        let error = client.expect("error").await;
        assert_eq!(error["error_code"], code, "{text}");
        assert!(error["message"].is_string() && error["timestamp"].as_str().unwrap().ends_with('Z'), "{error}");
    }
    let deep = format!("{{\"type\":{}", "[".repeat(20_000));
    client.send_text(&deep).await;
    assert_eq!(client.expect("error").await["error_code"], "INVALID_JSON");
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go_and_slows_nobody() {
    let redis = Redis::start().await;
    let node = Node::start(&redis, RealtimeSettings { queue_messages: 64, queue_bytes: 64 * 1024, ..settings() }).await;
    let path = format!("/ws/notifications/?token={}", token(1));
    let stalled = upgrade(node.addr, &path).await;
    let mut reader = node.connect(&path).await;
    reader.expect_nothing_more().await;
    let channel = "user_1".parse().unwrap();
    let text = "x".repeat(16 * 1024);
    // More than the kernel's buffers and the queue can hold; the reader keeps up one by one.
    for n in 0..1_000 {
        let event = json!({ "type": "notification", "data": { "id": n, "title": "t", "content": text } });
        node.broker.publish(&channel, event.to_string().as_bytes()).await.unwrap();
        assert_eq!(reader.expect("notification").await["data"]["id"], n.to_string());
    }
    tokio::time::timeout(PATIENCE, async {
        while node.ctx.connection_count() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the stalled connection is gone");
    drop(stalled);
}

#[tokio::test]
async fn requests_that_are_no_upgrades_are_told_so() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    stream
        .write_all(
            format!("GET /ws/notifications/ HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", node.addr).as_bytes(),
        )
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 426") && answer.to_lowercase().contains("sec-websocket-version: 13"),
        "{answer}"
    );
}
