//! What a connection begins with. A WebSocket handshake that arrives in one piece, as they do, is answered here: hyper would set up two buffers of
//! 8 KiB and its state for the one request, which is most of what ten thousand clients that come back at once would cost. Everything else, and
//! a head that comes in parts, is hyper's. Either way the same endpoint answers.

use crate::{
    listener::{Connection, Takeover, Upgrade},
    server::Addresses,
};
use bytes::Bytes;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use jiff::{Timestamp, fmt::rfc2822::DateTimePrinter};
use poem::{
    Body, Endpoint, Request, RequestParts, Response,
    http::{StatusCode, Uri, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, Write},
    pin::Pin,
    task::{Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

/// A whole handshake is shorter; a thread's, as a connection that has not said anything yet needs none.
const READ_BUFFER: usize = 16 * 1024;
/// hyper's own limit is 100, and a browser sends 15.
const MAX_HEADERS: usize = 64;
/// How the paths of sockets begin. Elsewhere an upgrade is not on offer, and an answer may have no end.
const SOCKETS: [&str; 2] = ["/ws/", "/api/v1/ws"];

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BUFFER]);
}

/// What came first.
pub(crate) enum First {
    Handshake(Box<Handshake>),
    /// Anything else, or the end of the connection.
    Other(Bytes),
}

/// A whole request for an upgrade to WebSocket.
pub(crate) struct Handshake {
    request: poem::http::Request<()>,
    /// What the client sent behind it.
    early: Bytes,
}

/// Reads once.
///
/// # Errors
/// The connection broke, or kept us waiting.
pub(crate) async fn read(connection: &mut Connection) -> io::Result<First> {
    poll_fn(|cx| {
        READ.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(&mut *connection).poll_read(cx, &mut buffer))?;
            let read = Bytes::copy_from_slice(buffer.filled());
            Poll::Ready(Ok(
                handshake(&read).map_or(First::Other(read), |handshake| First::Handshake(Box::new(handshake)))
            ))
        })
    })
    .await
}

fn handshake(read: &Bytes) -> Option<Handshake> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(len) = head.parse(read).ok()? else { return None };
    if head.method != Some("GET") || head.version != Some(1) {
        return None;
    }
    let path = head.path.filter(|path| SOCKETS.iter().any(|sockets| path.starts_with(sockets)))?;
    let mut request = poem::http::Request::new(());
    *request.uri_mut() = Uri::from_maybe_shared(read.slice_ref(path.as_bytes())).ok()?;
    let map = request.headers_mut();
    map.reserve(head.headers.len());
    for header in head.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        map.append(name, HeaderValue::from_maybe_shared(read.slice_ref(header.value)).ok()?);
    }
    let is_websocket = map.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let has_more = [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT].iter().any(|name| map.contains_key(name));
    (is_websocket && !has_more).then(|| Handshake { request, early: read.slice(len..) })
}

/// Answers a handshake; returns the connection if it was taken over, else it is closed.
///
/// # Errors
/// The client is gone.
pub(crate) async fn answer<E: Endpoint<Output = Response>>(
    mut connection: Connection,
    endpoint: &E,
    addresses: Addresses,
    handshake: Box<Handshake>,
) -> io::Result<Option<(Takeover, TcpStream, Bytes)>> {
    connection.watch().begin_exchange();
    let upgrade = Upgrade::default();
    let (mut parts, ()) = handshake.request.into_parts();
    parts.extensions.insert(upgrade.clone());
    let (local, peer) = (LocalAddr(addresses.local.into()), RemoteAddr(addresses.peer.into()));
    let request = Request::from_parts(RequestParts::from((parts, local, peer, Scheme::HTTP)), Body::empty());
    let mut response = endpoint.get_response(request).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(takeover) = upgrade.take()
    {
        connection.write_all(&head(response.status(), response.headers())).await?;
        return Ok(Some((takeover, connection.into_stream(), handshake.early)));
    }
    let body = response.take_body().into_bytes().await.map_err(io::Error::other)?;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(now) = now() {
        headers.insert(DATE, now);
    }
    let mut answer = head(response.status(), response.headers());
    answer.extend_from_slice(&body);
    connection.write_all(&answer).await?;
    connection.shutdown().await?;
    Ok(None)
}

fn now() -> Option<HeaderValue> {
    let now = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now()).ok()?;
    HeaderValue::from_str(&now).ok()
}

fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    // Writing to memory cannot fail.
    let _ = write!(head, "HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: &str =
        "GET /ws/notifications/?token=t HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n";

    fn parsed(text: &str) -> Option<Handshake> {
        handshake(&Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_whole_handshake_is_told_from_what_is_behind_it() {
        let handshake = parsed(&format!("{HANDSHAKE}behind")).unwrap();
        assert_eq!(handshake.request.uri(), "/ws/notifications/?token=t");
        assert_eq!(handshake.request.headers()["connection"], "Upgrade");
        assert_eq!(handshake.early, "behind");
        for path in ["/ws/dream-images/1", "/api/v1/ws", "/api/v1/ws/"] {
            assert!(parsed(&HANDSHAKE.replace("/ws/notifications/", path)).is_some(), "{path}");
        }
    }

    #[test]
    fn all_else_is_left_to_hyper() {
        let others = [
            String::new(),
            HANDSHAKE[..HANDSHAKE.len() - 1].to_owned(),
            HANDSHAKE.replace("GET", "POST"),
            HANDSHAKE.replace("HTTP/1.1", "HTTP/1.0"),
            HANDSHAKE.replace("WebSocket", "h2c"),
            HANDSHAKE.replace("Host: a", "Content-Length: 3"),
            HANDSHAKE.replace("Host: a", "Transfer-Encoding: chunked"),
            HANDSHAKE.replace("Host: a", "Expect: 100-continue"),
            HANDSHAKE.replace("Host: a", "Ho st: a"),
            HANDSHAKE.replace("/ws/notifications/", "/api/v1/events"),
        ];
        for other in others {
            assert!(parsed(&other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn an_answer_is_written_as_it_stands() {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        let written = head(StatusCode::SWITCHING_PROTOCOLS, &headers);
        assert_eq!(written, b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n");
    }
}
