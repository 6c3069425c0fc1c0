//! Clients that keep a connection waiting.

use crate::{
    client::Client,
    node::{Node, node, settings, token},
    redis::{PATIENCE, Redis},
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

const DEADLINE: Duration = Duration::from_secs(1);

/// Waits for the server to end a connection.
async fn is_cut(stream: &mut TcpStream) -> bool {
    let mut answer = Vec::new();
    // A reset is an end as well.
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.is_ok() && answer.is_empty()
}

/// A client whose handshake is complete within the deadline, however often a busy machine lets it miss that.
async fn in_time(addr: SocketAddr, path: &str) -> Client {
    let begun = std::time::Instant::now();
    loop {
        match Client::connect(addr, path, &[]).await {
            Ok(client) => return client,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
    }
}

#[tokio::test]
async fn a_request_behind_an_answer_that_still_runs_does_not_cut_it() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = oneiro_api::serve_sockets(listener, &node.ctx, DEADLINE);
    let request = format!("GET /api/v1/events?channels=post_1&token={} HTTP/1.1\r\nHost: a\r\n\r\n", token(1));
    let mut stream = loop {
        let mut stream = BufReader::new(TcpStream::connect(addr).await.unwrap());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut line = String::new();
        if stream.read_line(&mut line).await.is_ok_and(|len| len > 0) {
            assert!(line.contains(" 200 "), "{line}");
            break stream;
        }
    };
    stream.write_all(b"GET /api/v1/online/count HTTP/1.1\r\nHo").await.unwrap();
    // Two that come later and say nothing are cut for it: the time of those bytes would be over long ago.
    for _ in 0..2 {
        assert!(is_cut(&mut TcpStream::connect(addr).await.unwrap()).await);
    }
    node.publish(serde_json::json!({ "type": "edited", "channel": "post_1" })).await;
    let told = async {
        let mut line = String::new();
        while !line.starts_with("data: ") {
            line.clear();
            assert!(stream.read_line(&mut line).await.unwrap() > 0, "the stream was cut");
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("an event in time");
    server.abort();
}

#[tokio::test]
async fn a_handshake_that_trickles_in_or_never_begins_is_cut_and_open_sockets_stay() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = oneiro_api::serve_sockets(listener, &node.ctx, DEADLINE);
    let path = format!("/ws/notifications/?token={}", token(1));
    let mut open = in_time(addr, &path).await;
    open.expect_nothing_more().await;

    let mut silent = TcpStream::connect(addr).await.unwrap();
    let (mut trickling, mut rest) = TcpStream::connect(addr).await.unwrap().into_split();
    let trickle = tokio::spawn(async move {
        rest.write_all(b"GET /ws/notifications/ HTTP/1.1\r\nHost: a\r\n").await.unwrap();
        // A header every now and then, for ever: each one alone is in time.
        for n in 0.. {
            tokio::time::sleep(DEADLINE / 10).await;
            if rest.write_all(format!("X-{n}: 1\r\n").as_bytes()).await.is_err() {
                return;
            }
        }
    });
    assert!(is_cut(&mut silent).await);
    tokio::time::timeout(PATIENCE, trickle).await.expect("an end to the trickle").unwrap();
    let mut answer = Vec::new();
    // Whether it ends with a reset or without, nothing was answered.
    let _ = trickling.read_to_end(&mut answer).await;
    assert_eq!(answer, b"");
    // Both took longer than the deadline, which is none of an open socket's business.
    open.expect_nothing_more().await;
    server.abort();
}

#[tokio::test]
async fn a_later_request_on_the_same_connection_has_a_deadline_too() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = oneiro_api::serve_sockets(listener, &node.ctx, DEADLINE);
    let mut stream = loop {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(b"GET /api/v1/online/count HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut first = vec![0; 16 * 1024];
        let len = tokio::time::timeout(PATIENCE, stream.read(&mut first)).await.unwrap().unwrap_or(0);
        // A busy machine may be too slow for the deadline, and cut this one as well.
        if len > 0 {
            assert!(first[..len].starts_with(b"HTTP/1.1 401"));
            break stream;
        }
    };
    stream.write_all(b"GET /api/v1/online/count HTTP/1.1\r\nHo").await.unwrap();
    assert!(is_cut(&mut stream).await);
    server.abort();
}

#[tokio::test]
async fn a_socket_whose_other_side_is_gone_without_a_word_is_closed() {
    let redis = Redis::start().await;
    let node = Node::start(
        &redis,
        oneiro_core::config::RealtimeSettings { idle_timeout_seconds: 5, ping_interval_seconds: 1, ..settings() },
    )
    .await;
    // Reads and answers nothing from here on, as if its network had gone; the connection itself stays up.
    let mut stream = TcpStream::connect(node.addr).await.unwrap();
    let request = format!(
        "GET /ws/notifications/?token={} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        token(1)
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    let begun = std::time::Instant::now();
    while node.ctx.connection_count() == 0 || node.ctx.channel_count() == 0 {
        assert!(begun.elapsed() < PATIENCE, "the session never opened");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while node.ctx.connection_count() > 0 {
        assert!(begun.elapsed() < 2 * PATIENCE, "the session never ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(stream);
}
