//! The few calls of the Chrome DevTools Protocol that a page test needs, over one WebSocket.

use crate::within;
use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

/// Screenshots of long pages come as one message.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A connection to the browser, attached to one page.
#[derive(Debug)]
pub(super) struct DevTools {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Option<String>,
    last_id: u64,
    problems: Vec<String>,
}

impl DevTools {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let (stream, _) = within("the browser's tools answer", connect_async_with_config(url, Some(config), true))
            .await?
            .context("failed to connect to the browser")?;
        let mut tools = Self { stream, session: None, last_id: 0, problems: Vec::new() };
        let target = tools.call("Target.createTarget", json!({ "url": "about:blank" })).await?;
        let attached =
            tools.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true })).await?;
        tools.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "DOM"] {
            tools.call(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(tools)
    }

    /// Calls a method and returns its result.
    pub(super) async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        let mut request = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            request["sessionId"] = json!(session);
        }
        self.stream.send(Message::text(request.to_string())).await.context("the browser is gone")?;
        loop {
            let frame = within(method, self.stream.next()).await?.context("the browser is gone")??;
            let Message::Text(text) = frame else { continue };
            let mut message: Value = serde_json::from_str(&text)?;
            if message["id"] == id {
                if let Some(error) = message.get("error") {
                    bail!("{method}: {error}");
                }
                return Ok(message["result"].take());
            }
            self.note(&message);
        }
    }

    /// Evaluates an expression in the page; by value, or as a reference to the object.
    pub(super) async fn evaluate(&mut self, expression: &str, by_value: bool) -> Result<Value> {
        let params = json!({ "expression": expression, "returnByValue": by_value, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", params).await?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            bail!("`{expression}` threw {}", thrown["exception"]["description"]);
        }
        Ok(answer["result"].take())
    }

    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        let problem = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => params["exceptionDetails"]["exception"]["description"].to_string(),
            Some("Runtime.consoleAPICalled") if params["type"] == "error" => params["args"].to_string(),
            Some("Log.entryAdded") if params["entry"]["level"] == "error" => {
                format!("{} {}", params["entry"]["text"], params["entry"]["url"])
            }
            _ => return,
        };
        self.problems.push(problem);
    }
}
