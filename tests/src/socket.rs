//! A client of the dream socket as the seeds' browsers are.

use crate::within;
use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, protocol::CloseFrame},
};

/// What the server sent.
#[derive(Debug, Clone)]
pub enum Frame {
    /// A JSON message.
    Message(Value),
    /// The end: code and reason; code 1006 where the connection ended without a close frame.
    Close(u16, String),
}

/// An open WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Socket {
    /// Opens `url` (`ws://...`).
    ///
    /// # Errors
    /// When the upgrade is refused.
    pub async fn connect(url: &str) -> Result<Self> {
        let (stream, _) =
            within("a socket opens", connect_async(url)).await?.with_context(|| format!("failed to open {url}"))?;
        Ok(Self { stream })
    }

    /// Sends a JSON message.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send(&mut self, message: &Value) -> Result<()> {
        self.send_text(&message.to_string()).await
    }

    /// Sends any text.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn send_text(&mut self, text: &str) -> Result<()> {
        self.stream.send(Message::text(text)).await.context("failed to send on the socket")
    }

    /// Sends `authenticate`.
    ///
    /// # Errors
    /// When the socket is closed.
    pub async fn authenticate(&mut self, token: &str) -> Result<()> {
        self.send(&json!({ "type": "authenticate", "token": token })).await
    }

    /// The next frame; the server's own heartbeats are answered and left out.
    ///
    /// # Errors
    /// When none comes, or one that is no JSON.
    pub async fn frame(&mut self) -> Result<Frame> {
        loop {
            let frame = match within("a frame", self.stream.next()).await? {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
                    if message["type"] == "ping" {
                        self.send(&json!({ "type": "pong", "timestamp": message["timestamp"] })).await?;
                        continue;
                    }
                    Frame::Message(message)
                }
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    Frame::Close(code.into(), reason.to_string())
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(None)) | Err(_)) | None => Frame::Close(1006, String::new()),
                Some(Ok(other)) => bail!("unexpected frame {other:?}"),
            };
            return Ok(frame);
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// When the server closes instead.
    pub async fn message(&mut self) -> Result<Value> {
        match self.frame().await? {
            Frame::Message(message) => Ok(message),
            Frame::Close(code, reason) => bail!("closed with {code} `{reason}`"),
        }
    }

    /// The next message of this type; others are passed over.
    ///
    /// # Errors
    /// When the server closes instead.
    pub async fn message_of_type(&mut self, wanted: &str) -> Result<Value> {
        loop {
            let message = self.message().await?;
            if message["type"] == wanted {
                return Ok(message);
            }
        }
    }

    /// Every `image_update` up to and with the first in state `status`.
    ///
    /// # Errors
    /// When the server closes before.
    pub async fn updates_until(&mut self, status: &str) -> Result<Vec<Value>> {
        let mut seen = Vec::new();
        loop {
            let update = self
                .message_of_type("image_update")
                .await
                .with_context(|| format!("no image_update `{status}` after {seen:?}"))?;
            let is_last = update["status"] == status;
            seen.push(update);
            if is_last {
                return Ok(seen);
            }
        }
    }

    /// The first `image_update` in state `status`.
    ///
    /// # Errors
    /// When the server closes before.
    pub async fn update(&mut self, status: &str) -> Result<Value> {
        self.updates_until(status).await?.pop().context("the last one is what was waited for")
    }

    /// The code with which the server closes; messages before it are passed over.
    ///
    /// # Errors
    /// When it does not close.
    pub async fn close_code(&mut self) -> Result<u16> {
        loop {
            if let Frame::Close(code, _) = self.frame().await? {
                return Ok(code);
            }
        }
    }

    /// Closes from this side.
    ///
    /// # Errors
    /// When the socket broke before.
    pub async fn close(mut self) -> Result<()> {
        self.stream.close(None).await.context("failed to close the socket")
    }
}
