//! Variants from the object store, for stores that browsers cannot reach themselves. Originals are never served.

use crate::{ApiError, AppState};
use object_store::GetRange;
use oneiro_core::storage::{Download, IMMUTABLE};
use poem::{
    Body, Request, Response, handler,
    http::{HeaderMap, Method, StatusCode, header},
    web::{Data, Path},
};
use std::sync::Arc;

/// Streams one variant, or a part of it.
#[handler]
pub(super) async fn serve(
    state: Data<&Arc<AppState>>,
    Path(key): Path<String>,
    request: &Request,
) -> Result<Response, ApiError> {
    let kind = content_type(&key).ok_or_else(|| ApiError::not_found("file"))?;
    let range = request.header(header::RANGE).and_then(parse_range);
    let ranged = range.is_some();
    let found = state.storage.download(&format!("media/{key}"), range).await?;
    let Download { info, range, stream } = found;
    let etag = info.etag.unwrap_or_else(|| format!("\"{:x}\"", info.size));
    let etag = if etag.starts_with('"') || etag.starts_with("W/") { etag } else { format!("\"{etag}\"") };
    let response = Response::builder()
        .header(header::CACHE_CONTROL, IMMUTABLE)
        .header(header::ETAG, &etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        // A picture opened by itself runs nothing, whatever its bytes say.
        .header(header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox")
        .header("Cross-Origin-Resource-Policy", "cross-origin");
    if !ranged && is_known(request.headers(), &etag) {
        return Ok(response.status(StatusCode::NOT_MODIFIED).finish());
    }
    let mut response = response.content_type(kind).header(header::CONTENT_LENGTH, range.end - range.start);
    if ranged {
        response = response.status(StatusCode::PARTIAL_CONTENT).header(
            header::CONTENT_RANGE,
            format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), info.size),
        );
    }
    if request.method() == Method::HEAD {
        return Ok(response.finish());
    }
    let stream = futures::TryStreamExt::map_err(stream, std::io::Error::other);
    Ok(response.body(Body::from_bytes_stream(stream)))
}

/// By the key's extension, which the worker chose; anything else is not a variant.
fn content_type(key: &str) -> Option<&'static str> {
    match key.rsplit_once('.')?.1 {
        "jpg" => Some("image/jpeg"),
        "webp" => Some("image/webp"),
        "png" => Some("image/png"),
        "avif" => Some("image/avif"),
        _ => None,
    }
}

fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    known.is_some_and(|tags| {
        tags.split(',')
            .any(|tag| tag.trim() == "*" || tag.trim().trim_start_matches("W/") == etag.trim_start_matches("W/"))
    })
}

/// One byte range (RFC 9110 section 14.1.2). Several at once, other units and nonsense are ignored, as the RFC allows.
fn parse_range(value: &str) -> Option<GetRange> {
    let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", suffix) => suffix.parse().ok().filter(|&n| n > 0).map(GetRange::Suffix),
        (start, "") => start.parse().ok().map(GetRange::Offset),
        (start, end) => {
            let (start, end): (u64, u64) = (start.parse().ok()?, end.parse().ok()?);
            (start <= end).then(|| GetRange::Bounded(start..end.saturating_add(1)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_ranges_are_read_and_the_rest_ignored() {
        assert_eq!(parse_range("bytes=0-9"), Some(GetRange::Bounded(0..10)));
        assert_eq!(parse_range("bytes=5-"), Some(GetRange::Offset(5)));
        assert_eq!(parse_range("bytes=-3"), Some(GetRange::Suffix(3)));
        assert_eq!(parse_range("bytes=0-18446744073709551615"), Some(GetRange::Bounded(0..u64::MAX)));
        for ignored in [
            "",
            "bytes=",
            "bytes=-",
            "bytes=9-1",
            "bytes=0-1,3-4",
            "items=0-1",
            "bytes=-0",
            "bytes=a-b",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(parse_range(ignored), None, "{ignored}");
        }
    }
}
