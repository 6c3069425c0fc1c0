//! The page, compiled in: one origin, no node at run time.

use poem::{Endpoint, EndpointExt, Response, Route, endpoint::make_sync, http::header};

/// Only our own scripts, styles and connections; pictures may come from a CDN.
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data: https:; connect-src 'self' ws: wss:; object-src 'none'; \
                      base-uri 'none'; frame-ancestors 'none'; form-action 'self'";

const FILES: &[(&str, &str, &[u8])] = &[
    ("/", "text/html; charset=utf-8", include_bytes!("../../../web/dist/index.html")),
    ("/app.js", "text/javascript; charset=utf-8", include_bytes!("../../../web/dist/app.js")),
    ("/app.css", "text/css; charset=utf-8", include_bytes!("../../../web/dist/app.css")),
    ("/favicon.svg", "image/svg+xml", include_bytes!("../../../web/dist/favicon.svg")),
];

pub(super) fn mount(route: Route) -> Route {
    FILES.iter().fold(route, |route, &(path, kind, bytes)| route.at(path, file(kind, bytes)))
}

fn file(kind: &'static str, bytes: &'static [u8]) -> impl Endpoint<Output = Response> {
    make_sync(move |_| {
        Response::builder()
            .content_type(kind)
            .header(header::CONTENT_SECURITY_POLICY, POLICY)
            .header(header::REFERRER_POLICY, "no-referrer")
            // The files carry no version in their names, so browsers ask each time; they are small.
            .header(header::CACHE_CONTROL, "no-cache")
            .body(bytes)
    })
    .map_to_response()
}
