//! From an HTTP request to an upgraded stream (RFC 6455 section 4.2), and everything a request tells about who is calling.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use oneiro_core::config::RealtimeSettings;
use poem::{
    Request, Response,
    http::{Method, StatusCode, header},
};
use sha1::{Digest, Sha1};
use std::borrow::Cow;

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The subprotocol whose second element is the token: the one place where a browser may put it besides the URL.
const BEARER: &str = "bearer";
/// What of a User-Agent is worth keeping.
const MAX_USER_AGENT: usize = 200;

/// Where a token stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Header,
    Subprotocol,
    Query,
    Cookie,
}

/// What a client said about itself.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) token: Option<(String, Source)>,
    pub(crate) address: String,
    pub(crate) user_agent: String,
    pub(crate) path: String,
    query: String,
}

impl Caller {
    pub(crate) fn of(request: &Request, settings: &RealtimeSettings) -> Self {
        let query = request.uri().query().unwrap_or_default().to_owned();
        Self {
            token: token(request, &query, settings),
            address: address(request, settings.trusted_proxies),
            user_agent: request.header(header::USER_AGENT).unwrap_or_default().chars().take(MAX_USER_AGENT).collect(),
            // Without the query: it may carry the token.
            path: request.original_uri().path().to_owned(),
            query,
        }
    }

    /// The first value of a query parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        parameter(&self.query, name)
    }
}

/// Only what may be the one is decoded: a query is looked through for every parameter, and most of it is the token.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let key = pair.split_once('=').map_or(pair, |(key, _)| key);
        if key != name && !key.contains(['%', '+']) {
            return None;
        }
        url::form_urlencoded::parse(pair.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value)
    })
}

/// Header, then subprotocol, then query, then cookie.
fn token(request: &Request, query: &str, settings: &RealtimeSettings) -> Option<(String, Source)> {
    // Another scheme is a proxy's in front, not ours.
    let is_ours = |value: &&str| {
        let value = value.trim();
        !value.is_empty() && value.split_once(' ').is_none_or(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER))
    };
    if let Some(value) = request.header(header::AUTHORIZATION).filter(is_ours) {
        return Some((value.to_owned(), Source::Header));
    }
    let offered = request.header(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    let mut offered = offered.split(',').map(str::trim);
    if offered.next().is_some_and(|first| first.eq_ignore_ascii_case(BEARER))
        && let Some(token) = offered.next().filter(|token| !token.is_empty())
    {
        return Some((token.to_owned(), Source::Subprotocol));
    }
    if let Some(token) = parameter(query, "token").filter(|token| !token.trim().is_empty()) {
        return Some((token.into_owned(), Source::Query));
    }
    if settings.cookie_name.is_empty() {
        return None;
    }
    let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let value = pairs.find(|(name, _)| *name == settings.cookie_name)?.1.trim_matches('"');
    (!value.is_empty()).then(|| (value.to_owned(), Source::Cookie))
}

/// The peer, or what the outermost trusted proxy says it is. Never the port, so that limits hold.
fn address(request: &Request, trusted_proxies: usize) -> String {
    if trusted_proxies > 0 {
        let forwarded = request.headers().get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> =
            forwarded.flat_map(|line| line.split(',')).map(str::trim).filter(|hop| !hop.is_empty()).collect();
        if let Some(hop) =
            hops.len().checked_sub(trusted_proxies).or(hops.len().checked_sub(1).map(|_| 0)).and_then(|at| hops.get(at))
        {
            return hop.chars().take(64).collect();
        }
    }
    request
        .remote_addr()
        .as_socket_addr()
        .map_or_else(|| request.remote_addr().to_string(), |addr| addr.ip().to_string())
}

/// Whether a page of this origin may connect. A request without an Origin does not come from a browser's page.
pub(crate) fn is_origin_allowed(request: &Request, settings: &RealtimeSettings, source: Option<Source>) -> bool {
    let Some(origin) = request.header(header::ORIGIN) else {
        // A cookie travels by itself, so a page must prove where it is from; only browsers send cookies unasked.
        return true;
    };
    let is_listed =
        settings.allowed_origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin));
    if is_listed {
        // `*` lists nobody in particular, which is not enough for a credential that the page never saw.
        let by_name = settings.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin));
        return by_name || source != Some(Source::Cookie) || is_same_host(request, origin);
    }
    if settings.allowed_origins.is_empty() {
        return source != Some(Source::Cookie) || is_same_host(request, origin);
    }
    is_same_host(request, origin)
}

fn is_same_host(request: &Request, origin: &str) -> bool {
    let host = request.header(header::HOST).unwrap_or_default();
    origin.split_once("://").is_some_and(|(_, authority)| !host.is_empty() && authority.eq_ignore_ascii_case(host))
}

/// The key of an upgrade request, or the response that refuses it.
pub(crate) fn upgrade_key(request: &Request) -> Result<String, Box<Response>> {
    let has_token = |name: header::HeaderName, word: &str| {
        let values = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|line| line.split(',')).any(|token| token.trim().eq_ignore_ascii_case(word))
    };
    let refuse = |status: StatusCode, why: &str| {
        let response = Response::builder().status(status).header(header::SEC_WEBSOCKET_VERSION, "13");
        let upgrade = if status == StatusCode::UPGRADE_REQUIRED {
            response.header(header::UPGRADE, "websocket")
        } else {
            response
        };
        upgrade
            .content_type("application/json")
            .body(serde_json::json!({ "code": "bad_handshake", "detail": why }).to_string())
    };
    if request.method() != Method::GET {
        return Err(Box::new(refuse(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with GET")));
    }
    if !has_token(header::UPGRADE, "websocket") || !has_token(header::CONNECTION, "upgrade") {
        return Err(Box::new(refuse(
            StatusCode::UPGRADE_REQUIRED,
            "this address speaks WebSocket; send Upgrade: websocket",
        )));
    }
    if request.header(header::SEC_WEBSOCKET_VERSION).map(str::trim) != Some("13") {
        return Err(Box::new(refuse(StatusCode::UPGRADE_REQUIRED, "only version 13 of the protocol is spoken")));
    }
    let key = request.header(header::SEC_WEBSOCKET_KEY).map(str::trim).unwrap_or_default();
    let mut decoded = [0; 18];
    if BASE64.decode_slice(key, &mut decoded) != Ok(16) {
        return Err(Box::new(refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in Base64")));
    }
    Ok(key.to_owned())
}

/// The response that switches protocols.
pub(crate) fn accept(request: &Request, key: &str) -> Response {
    let mut hasher = Sha1::new();
    hasher.update(key.as_bytes());
    hasher.update(GUID);
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, BASE64.encode(hasher.finalize()));
    let offered = request.header(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    if let Some(word) = offered.split(',').map(str::trim).find(|word| word.eq_ignore_ascii_case(BEARER)) {
        // In the client's spelling: a browser compares it with what it offered. Never the token.
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, word);
    }
    response.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)], uri: &str) -> Request {
        headers
            .iter()
            .fold(Request::builder().uri_str(uri), |builder, (name, value)| builder.header(*name, *value))
            .finish()
    }

    #[test]
    fn the_accept_key_is_the_one_of_the_rfc() {
        let response = accept(&request(&[], "/"), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(response.header(header::SEC_WEBSOCKET_ACCEPT), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn tokens_are_found_in_order() {
        let settings = RealtimeSettings::default();
        let all =
            [("authorization", "Bearer h"), ("sec-websocket-protocol", "bearer, s"), ("cookie", "a=b; access_token=c")];
        let found = |headers: &[(&str, &str)], uri: &str| Caller::of(&request(headers, uri), &settings).token;
        assert_eq!(found(&all, "/?token=q"), Some(("Bearer h".into(), Source::Header)));
        assert_eq!(found(&all[1..], "/?token=q"), Some(("s".into(), Source::Subprotocol)));
        assert_eq!(found(&all[2..], "/?token=Bearer%20q"), Some(("Bearer q".into(), Source::Query)));
        assert_eq!(found(&all[2..], "/"), Some(("c".into(), Source::Cookie)));
        assert_eq!(found(&[], "/?token="), None);
    }

    #[test]
    fn origins_are_held_against_the_list_and_cookies_need_one() {
        let open = RealtimeSettings::default();
        let listed =
            RealtimeSettings { allowed_origins: vec!["https://app.example".into()], ..RealtimeSettings::default() };
        let any = RealtimeSettings { allowed_origins: vec!["*".into()], ..RealtimeSettings::default() };
        let from = |origin: &str| request(&[("origin", origin), ("host", "api.example")], "/");
        let query = Some(Source::Query);
        let cookie = Some(Source::Cookie);
        assert!(is_origin_allowed(&from("https://evil.example"), &open, query));
        assert!(!is_origin_allowed(&from("https://evil.example"), &open, cookie));
        assert!(is_origin_allowed(&from("https://api.example"), &open, cookie));
        assert!(!is_origin_allowed(&from("https://evil.example"), &listed, query));
        assert!(is_origin_allowed(&from("https://app.example"), &listed, cookie));
        assert!(is_origin_allowed(&from("https://api.example"), &listed, query));
        assert!(is_origin_allowed(&from("https://evil.example"), &any, query));
        assert!(!is_origin_allowed(&from("https://evil.example"), &any, cookie));
        assert!(is_origin_allowed(&request(&[], "/"), &listed, cookie), "not a browser's page");
    }

    #[test]
    fn only_trusted_proxies_may_name_the_client() {
        let forwarded = request(&[("x-forwarded-for", "6.6.6.6, 9.9.9.9"), ("x-forwarded-for", "10.0.0.1")], "/");
        assert_ne!(address(&forwarded, 0), "6.6.6.6");
        assert_eq!(address(&forwarded, 1), "10.0.0.1");
        assert_eq!(address(&forwarded, 2), "9.9.9.9");
        assert_eq!(address(&forwarded, 9), "6.6.6.6");
    }

    #[test]
    fn broken_handshakes_are_refused() {
        let good = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        assert!(upgrade_key(&request(&good, "/")).is_ok());
        for missing in 0..good.len() {
            let headers: Vec<_> =
                good.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, header)| *header).collect();
            assert!(upgrade_key(&request(&headers, "/")).is_err());
        }
        let short = [good[0], good[1], good[2], ("sec-websocket-key", "c2hvcnQ=")];
        assert_eq!(upgrade_key(&request(&short, "/")).unwrap_err().status(), StatusCode::BAD_REQUEST);
    }
}
