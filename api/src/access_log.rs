//! One log line and one measurement a request. Never the query: it may carry a token.

use poem::{Endpoint, IntoResponse, Middleware, PathPattern, Request, Response, Result, http::Method};
use std::time::Instant;
use tracing::Instrument;

/// A method may be any word; a label may not.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// The middleware.
pub(crate) struct AccessLog;

impl<E: Endpoint> Middleware<E> for AccessLog {
    type Output = AccessLogEndpoint<E>;

    fn transform(&self, ep: E) -> Self::Output {
        AccessLogEndpoint(ep)
    }
}

pub(crate) struct AccessLogEndpoint<E>(E);

impl<E: Endpoint> Endpoint for AccessLogEndpoint<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let started = Instant::now();
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let span = tracing::info_span!("http.request", %method, path);
        let response = match self.0.call(request).instrument(span).await {
            Ok(response) => response.into_response(),
            Err(error) => error.into_response(),
        };
        let elapsed = started.elapsed();
        let status = response.status().as_u16();
        // Labels come from closed sets: the pattern of the route, never the path.
        let pattern = response.data::<PathPattern>().map(|pattern| &*pattern.0);
        // Empty where nothing below a prefix answers to the path.
        let route = pattern.filter(|pattern| !pattern.is_empty()).unwrap_or("none").to_owned();
        metrics::counter!("oneiro_http_requests_total", "method" => known(&method), "route" => route.clone(), "status" => status.to_string())
            .increment(1);
        metrics::histogram!("oneiro_http_request_seconds", "route" => route).record(elapsed.as_secs_f64());
        let duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if path == "/healthz" || path == "/readyz" || path == "/metrics" {
            tracing::debug!(%method, path, status, duration_ms, "request answered");
        } else {
            tracing::info!(%method, path, status, duration_ms, "request answered");
        }
        Ok(response)
    }
}
