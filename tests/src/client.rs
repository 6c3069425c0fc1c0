//! A user of the HTTP interface, and the requests of its contract.

use crate::{Socket, Tier, eventually, within};
use anyhow::{Context, Result, bail, ensure};
use reqwest::{Method, StatusCode, header::HeaderMap, multipart};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What a request was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as JSON; `null` where it is none.
    pub json: Value,
    /// The body as it came.
    pub body: Vec<u8>,
}

impl Answer {
    /// The answer, where it has this status.
    ///
    /// # Errors
    /// With the body, where it has another.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(
            self.status.as_u16() == status,
            "expected {status}, not {}: {}",
            self.status,
            String::from_utf8_lossy(&self.body[..self.body.len().min(2000)])
        );
        Ok(self)
    }

    /// A header's text; empty where it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The id of the dream that was answered.
    ///
    /// # Errors
    /// Where there is none.
    pub fn id(&self) -> Result<u64> {
        self.json["id"].as_u64().with_context(|| format!("no id in {}", self.json))
    }

    /// Sees that this refuses a request as the contract says: a 4xx with a code and a sentence, naming `field`.
    ///
    /// # Errors
    /// Where it does not.
    pub fn refuses(&self, field: &str) -> Result<()> {
        let text = self.json.to_string();
        ensure!(self.status.is_client_error(), "expected a 4xx, not {}: {text}", self.status);
        ensure!(self.json["code"].is_string() && self.json["detail"].is_string(), "no code and detail in {text}");
        ensure!(text.contains(field), "`{field}` is not named in {text}");
        Ok(())
    }
}

/// The multipart body of `POST /api/dreams/`.
#[derive(Debug, Default)]
pub struct Form(multipart::Form);

impl Form {
    /// A form with title and content.
    pub fn new(title: &str, content: &str) -> Self {
        Self::default().text("title", title).text("content", content)
    }

    /// Adds a text field.
    #[must_use]
    pub fn text(self, name: &str, value: impl Into<String>) -> Self {
        Self(self.0.text(name.to_owned(), value.into()))
    }

    /// Adds a file under any field name.
    #[must_use]
    pub fn file(self, field: &str, file_name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let part = multipart::Part::bytes(bytes.into()).file_name(file_name.to_owned());
        Self(self.0.part(field.to_owned(), part))
    }

    /// Adds image number `n` with its position in the content.
    #[must_use]
    pub fn image(self, n: u32, bytes: impl Into<Vec<u8>>, position: u64) -> Self {
        self.file(&format!("imageFile_{n}"), &format!("photo {n}.jpg"), bytes)
            .text(&format!("imageMetadata_{n}"), json!({ "position": position }).to_string())
    }
}

/// Somebody with or without a token.
#[derive(Debug, Clone)]
pub struct User {
    http: reqwest::Client,
    api: String,
    ws: String,
    token: Option<String>,
}

impl User {
    /// Somebody at an installation with one address for everything, with this token or none.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn at(url: &str, token: Option<String>) -> Result<Self> {
        Self::new(url.to_owned(), url.to_owned(), token)
    }

    pub(crate) fn new(api: String, ws: String, token: Option<String>) -> Result<Self> {
        // No proxy of the developer's and no redirects: what is tested is what the server said.
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { http, api, ws, token })
    }

    /// The token, as the page would hold it.
    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_default()
    }

    /// The HTTP client, for requests that this type does not make.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// A request to `api` with the user's token; `path` starts with a slash, or is a whole URL.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = if path.starts_with('/') { format!("{}{path}", self.api) } else { path.to_owned() };
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Begins a request whose body is still to come, and returns when `api` waits for it: then whatever it refuses unread has been let in.
    ///
    /// # Errors
    /// When the request is answered instead.
    pub async fn begin(&self, method: Method, path: &str, content_type: &str, length: usize) -> Result<TcpStream> {
        let address = self.api.strip_prefix("http://").context("an address without TLS")?;
        let mut stream = TcpStream::connect(address).await?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Type: {content_type}\r\n\
             Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n",
            self.token()
        );
        stream.write_all(head.as_bytes()).await?;
        let mut go_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
        within("the body is waited for", stream.read_exact(&mut go_on)).await??;
        ensure!(go_on.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&go_on));
        Ok(stream)
    }

    /// Sends a request and reads its whole answer.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer> {
        within("an answer", async {
            let response = request.send().await.context("no answer")?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = response.bytes().await.context("the answer broke off")?.to_vec();
            let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
            Ok(Answer { status, headers, json, body })
        })
        .await?
    }

    /// `GET path`.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.send(self.request(Method::GET, path)).await
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn delete(&self, path: &str) -> Result<Answer> {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// `PATCH path` with a JSON body.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Answer> {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// `POST path` with a form.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post(&self, path: &str, form: Form) -> Result<Answer> {
        self.send(self.request(Method::POST, path).multipart(form.0)).await
    }

    /// `POST /api/dreams/`; whatever is answered.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn post_dream(&self, form: Form) -> Result<Answer> {
        self.post("/api/dreams/", form).await
    }

    /// Makes a dream and returns its id.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn dream(&self, form: Form) -> Result<u64> {
        self.post_dream(form).await?.expect(201)?.id()
    }

    /// `GET /api/dreams/{id}/` of a dream that exists.
    ///
    /// # Errors
    /// When it does not.
    pub async fn show(&self, dream: u64) -> Result<Value> {
        Ok(self.get(&format!("/api/dreams/{dream}/")).await?.expect(200)?.json)
    }

    /// Waits by REST until the dream's images are in state `status`; returns the dream.
    ///
    /// # Errors
    /// When they never are, or end in another state.
    pub async fn settled(&self, dream: u64, status: &str) -> Result<Value> {
        eventually(&format!("dream {dream} is {status}"), async || {
            // A request may fail while a test breaks something; what counts is what comes of it in the end.
            let Ok(answer) = self.get(&format!("/api/dreams/{dream}/")).await else { return Ok(None) };
            let now = answer.json["images_status"]["status"].as_str().unwrap_or_default().to_owned();
            if now == status {
                return Ok(Some(answer.json));
            }
            if ["completed", "failed"].contains(&now.as_str()) {
                bail!("dream {dream} is {now}, not {status}: {}", answer.json);
            }
            Ok(None)
        })
        .await
    }

    /// Opens the dream's socket at `tier` without saying who one is.
    ///
    /// # Errors
    /// When the upgrade is refused.
    pub async fn open(&self, tier: Tier, dream: u64) -> Result<Socket> {
        let base = if tier == Tier::Api { &self.api } else { &self.ws };
        Socket::connect(&format!("{}/ws/dream-images/{dream}/", base.replacen("http", "ws", 1))).await
    }

    /// Opens the dream's socket at `tier`, authenticates and awaits `connection_established`.
    ///
    /// # Errors
    /// When the server closes instead.
    pub async fn watch(&self, tier: Tier, dream: u64) -> Result<Socket> {
        let mut socket = self.open(tier, dream).await?;
        socket.authenticate(self.token()).await?;
        let hello = socket.message().await?;
        ensure!(hello["type"] == "connection_established", "expected connection_established, not {hello}");
        ensure!(hello["dream_id"].as_str() == Some(&dream.to_string()), "the hello of dream {dream} says {hello}");
        Ok(socket)
    }
}
