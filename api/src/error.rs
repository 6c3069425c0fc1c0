//! Every refusal in one form: `{"code","detail","fields"?}`. The only file that maps errors to HTTP.

use oneiro_core::{auth::AuthError, dreams::StoreError, storage::StorageError};
use poem::{
    IntoResponse, Response,
    error::ResponseError,
    http::{HeaderValue, StatusCode, header},
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// How long a client should wait when a part that we need is away. Workers and stores come back within seconds or not soon.
const RETRY_UNAVAILABLE: Duration = Duration::from_secs(5);

/// A refusal as the client sees it.
#[derive(Debug, thiserror::Error, Serialize)]
#[error("{code}: {detail}")]
pub struct ApiError {
    #[serde(skip)]
    status: StatusCode,
    code: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    fields: BTreeMap<String, String>,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), fields: BTreeMap::new(), retry_after: None }
    }

    /// 400: fields that are missing or wrong, each with what is wrong with it.
    pub fn invalid_fields(fields: BTreeMap<String, String>) -> Self {
        let names = fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Self {
            fields,
            ..Self::new(
                StatusCode::BAD_REQUEST,
                "invalid_fields",
                format!("these fields are missing or wrong: {names}"),
            )
        }
    }

    /// 400: the request as a whole cannot be read.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_request", detail)
    }

    /// 401.
    pub fn unauthorized(error: &AuthError) -> Self {
        let code = match error {
            AuthError::Missing => "not_authenticated",
            AuthError::Expired => "token_expired",
            _ => "token_invalid",
        };
        Self::new(StatusCode::UNAUTHORIZED, code, error.to_string())
    }

    /// 404.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
    }

    /// 409.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", detail)
    }

    /// 413, naming the field that was too large where one was.
    pub fn too_large(field: Option<&str>, limit_bytes: u64) -> Self {
        let detail = match field {
            Some(field) => format!("{field} is larger than the {limit_bytes} bytes allowed for one file"),
            None => format!("the request is larger than the {limit_bytes} bytes allowed"),
        };
        let fields = field
            .map(|field| (field.to_owned(), format!("must have at most {limit_bytes} bytes")))
            .into_iter()
            .collect();
        Self { fields, ..Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail) }
    }

    /// 415, naming the field whose bytes are no image that we read.
    pub fn unsupported_media(field: &str, found: Option<&str>) -> Self {
        let reason = match found {
            Some(found) => format!("is {found}, which cannot be processed; send JPEG, PNG, WebP, GIF or BMP"),
            None => "is not an image; send JPEG, PNG, WebP, GIF or BMP".to_owned(),
        };
        let fields = BTreeMap::from([(field.to_owned(), reason.clone())]);
        Self {
            fields,
            ..Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", format!("{field} {reason}"))
        }
    }

    /// 415: the body is not a form.
    pub fn not_multipart() -> Self {
        let detail = "send multipart/form-data with a boundary";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    /// 408.
    pub fn timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the request took too long to arrive")
    }

    /// 416.
    pub fn bad_range() -> Self {
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "bad_range", "the requested range is outside of the file")
    }

    /// 429.
    pub fn rate_limited(retry_after: Duration) -> Self {
        let detail = format!("too many requests; try again in {} s", retry_after.as_secs().max(1));
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail) }
    }

    /// 503: something that we need is away, or full. Nothing of the request was kept.
    pub fn unavailable(detail: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self {
            retry_after: Some(retry_after.unwrap_or(RETRY_UNAVAILABLE)),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
        }
    }

    /// 500.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "something went wrong here; it has been logged")
    }

    /// Turns whatever poem itself refuses (an unknown path, a wrong method, a body that cannot be read) into our form.
    pub fn from_poem(error: &poem::Error) -> Self {
        let status = error.status();
        let code = match status {
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
            StatusCode::FORBIDDEN => "forbidden",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
            StatusCode::PAYLOAD_TOO_LARGE => "too_large",
            status if status.is_server_error() => "internal",
            _ => "malformed_request",
        };
        let detail = if status.is_server_error() {
            "something went wrong here; it has been logged".to_owned()
        } else {
            error.to_string()
        };
        Self::new(status, code, detail)
    }
}

/// What a route's error is answered with.
pub(crate) async fn respond(error: poem::Error) -> Response {
    if error.downcast_ref::<ApiError>().is_some() || error.is_from_response() {
        return error.into_response();
    }
    let refusal = ApiError::from_poem(&error);
    if error.status() == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(%error, "a route failed");
    }
    poem::Error::from(refusal).into_response()
}

impl ResponseError for ApiError {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn as_response(&self) -> Response {
        let mut response = poem::web::Json(self).into_response();
        response.set_status(self.status);
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::NotFound(_) => Self::not_found("dream"),
            StoreError::Busy(_) => {
                Self::unavailable("the dream is being changed by too many others", Some(Duration::from_secs(1)))
            }
            StoreError::Corrupt { .. } => {
                tracing::error!(error = report(&error), "a record cannot be read");
                Self::internal()
            }
            _ => {
                tracing::warn!(error = report(&error), "the record store does not answer");
                Self::unavailable("the service cannot reach its store; nothing was kept", None)
            }
        }
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        match &error {
            StorageError::NotFound(_) | StorageError::BadKey(_) => Self::not_found("file"),
            StorageError::BadRange => Self::bad_range(),
            _ => {
                tracing::warn!(error = report(&error), "the object store failed");
                Self::unavailable("the service cannot reach its storage; nothing was kept", None)
            }
        }
    }
}

impl From<apalis_fred::QueueError> for ApiError {
    fn from(error: apalis_fred::QueueError) -> Self {
        match &error {
            apalis_fred::QueueError::Full { retry_after, .. } => {
                Self::unavailable("too many jobs are waiting already; nothing was kept", Some(*retry_after))
            }
            _ => {
                tracing::warn!(error = report(&error), "a job cannot be stored");
                Self::unavailable("the service cannot store its jobs; nothing was kept", None)
            }
        }
    }
}

/// An error with its causes in one line.
pub(crate) fn report(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}
