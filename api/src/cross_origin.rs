//! Pages of other origins that may call the API (`http.cors_origins`). Our own page, and whoever sends no `Origin`, is let through as it is.

use crate::error::respond;
use poem::{
    Endpoint, EndpointExt, Request, Response, Result, Route,
    endpoint::BoxEndpoint,
    http::{HeaderMap, Method, header},
    middleware::Cors,
};
use std::sync::Arc;

/// The routes, with the headers that browsers want for foreign pages.
pub(crate) fn allow(route: Route, origins: &[String]) -> BoxEndpoint<'static, Response> {
    // Before the headers are added: those who add them make a text of an error.
    let plain = Arc::new(route.catch_all_error(respond));
    if origins.is_empty() {
        return plain.boxed();
    }
    // Tokens travel in a header, never in a cookie that a foreign page could use, so even any origin may be allowed.
    let cors = Cors::new()
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, header::HeaderName::from_static("last-event-id")])
        .expose_headers([header::RETRY_AFTER])
        .allow_credentials(false)
        .max_age(3600);
    let cors = if origins.iter().any(|origin| origin == "*") {
        cors.allow_origins_fn(|_| true)
    } else {
        cors.allow_origins(origins.iter().map(String::as_str))
    };
    CrossOrigin { foreign: plain.clone().with(cors).catch_all_error(respond).boxed(), plain }.boxed()
}

struct CrossOrigin<E> {
    plain: E,
    foreign: BoxEndpoint<'static, Response>,
}

impl<E: Endpoint<Output = Response>> Endpoint for CrossOrigin<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        // Sockets have an allow-list of their own.
        if is_foreign(request.headers()) && !request.headers().contains_key(header::UPGRADE) {
            self.foreign.call(request).await
        } else {
            self.plain.call(request).await
        }
    }
}

/// Browsers send `Origin` with every POST, also to the page's own host.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &poem::http::HeaderValue| value.to_str().ok());
    let Some(origin) = text(header::ORIGIN) else { return false };
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    text(header::HOST).is_none_or(|own| !own.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use poem::{get, handler, http::StatusCode};

    #[handler]
    fn hello() -> &'static str {
        "hello"
    }

    #[tokio::test]
    async fn listed_pages_and_our_own_get_in_and_others_do_not() {
        let app = allow(Route::new().at("/", get(hello)), &["https://app.example".to_owned()]);
        for (origin, status) in [
            (None, StatusCode::OK),
            (Some("https://api.example"), StatusCode::OK),
            (Some("https://app.example"), StatusCode::OK),
            (Some("https://evil.example"), StatusCode::FORBIDDEN),
        ] {
            let request = Request::builder().uri_str("/").header("host", "api.example");
            let request = match origin {
                Some(origin) => request.header("origin", origin),
                None => request,
            };
            let response = app.get_response(request.finish()).await;
            assert_eq!(response.status(), status, "{origin:?}");
            let allowed = response.header("access-control-allow-origin");
            assert_eq!(allowed, origin.filter(|origin| origin.contains("app.")), "{origin:?}");
        }
        // Errors have our form, whoever asks.
        for (origin, path, code) in
            [("https://app.example", "/nothing", "not_found"), ("https://evil.example", "/", "forbidden")]
        {
            let request = Request::builder().uri_str(path).header("host", "api.example").header("origin", origin);
            let body: serde_json::Value =
                app.get_response(request.finish()).await.into_body().into_json().await.expect("JSON");
            assert_eq!(body["code"], code, "{body}");
        }
    }
}
