//! Reading the form part by part. Originals are stored as they arrive; a refusal removes them again.

use super::{
    body::{LimitedBody, Progress},
    fields::FieldErrors,
};
use crate::{ApiError, AppState, error::report};
use bytes::{Bytes, BytesMut};
use multer::{Field, Multipart};
use oneiro_core::{
    config::ExtraFormat,
    dreams::{DreamId, ImageId, Original},
};
use poem::{Body, Request, http::header};
use rand::RngCore;
use std::{collections::BTreeMap, sync::Arc};

/// One text field; the longest legitimate one is the content.
const MAX_TEXT_BYTES: usize = 4 * 1024 * 1024;
/// All text fields of one form.
const MAX_FORM_TEXT_BYTES: usize = 8 * 1024 * 1024;
/// Parts of one form, files and texts.
const MAX_PARTS: usize = oneiro_core::config::MAX_PARTS;
/// A field's name; ours are shorter by far.
const MAX_NAME_BYTES: usize = 128;
/// Enough of a file's beginning to tell what it is.
const SNIFF_BYTES: usize = 4096;

/// A stored file of the form.
#[derive(Debug)]
pub(crate) struct ReceivedFile {
    pub(crate) id: ImageId,
    pub(crate) secret: String,
    pub(crate) original: Original,
}

/// A form that was read. Dropped before [`Received::keep`], also where the client hung up or time ran out, it removes its files again.
pub(crate) struct Received {
    /// Text fields by name.
    pub(crate) texts: BTreeMap<String, String>,
    /// Files by their number N in `imageFile_N`.
    pub(crate) files: BTreeMap<u32, ReceivedFile>,
    /// Where the files are to be removed from; `None` where they stay.
    removes_from: Option<Arc<AppState>>,
    /// Whose upload ends with their removal: a dream without a record.
    ends_upload: Option<DreamId>,
}

impl Received {
    fn new(state: &Arc<AppState>, ends_upload: Option<DreamId>) -> Self {
        Self { texts: BTreeMap::new(), files: BTreeMap::new(), removes_from: Some(state.clone()), ends_upload }
    }

    /// The files belong to a record now, or may do so.
    pub(crate) fn keep(&mut self) {
        self.removes_from = None;
    }

    #[cfg(test)]
    pub(super) fn of_texts(texts: BTreeMap<String, String>) -> Self {
        Self { texts, files: BTreeMap::new(), removes_from: None, ends_upload: None }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let Some(state) = self.removes_from.take() else { return };
        let (files, upload) = (std::mem::take(&mut self.files), self.ends_upload);
        // Outside of a runtime there is nobody to do it: the process is ending, and the sweep will.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            for file in files.into_values() {
                if let Err(error) = state.storage.delete(&file.original.key).await {
                    tracing::warn!(
                        key = file.original.key,
                        error = report(&error),
                        "a refused upload stays until the sweep removes it"
                    );
                    return;
                }
            }
            if let Some(id) = upload
                && let Err(error) = state.dreams.end_upload(id).await
            {
                tracing::debug!(
                    dream.id = id.get(),
                    error = report(&error),
                    "a refused upload stays on the sweep's list"
                );
            }
        });
    }
}

/// Reads the form of `request` and stores its files for `dream`, which has a record unless `is_new`. On a refusal nothing of it is kept.
///
/// # Errors
/// 400, 413, 415, 503: see [`ApiError`].
pub(crate) async fn receive(
    state: &Arc<AppState>,
    request: &Request,
    body: Body,
    dream: DreamId,
    is_new: bool,
) -> Result<Received, ApiError> {
    let mut received = Received::new(state, is_new.then_some(dream));
    let boundary = request
        .header(header::CONTENT_TYPE)
        .and_then(|value| multer::parse_boundary(value).ok())
        .ok_or_else(ApiError::not_multipart)?;
    let limit = state.config.uploads.max_body_bytes;
    let announced = request.header(header::CONTENT_LENGTH).and_then(|value| value.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(ApiError::too_large(None, limit));
    }
    let body = LimitedBody::new(body, limit);
    let progress = body.progress();
    let mut form = Multipart::new(body, boundary);
    read_parts(state, &mut form, &progress, dream, &mut received).await?;
    Ok(received)
}

async fn read_parts(
    state: &Arc<AppState>,
    form: &mut Multipart<'static>,
    progress: &Progress,
    dream: DreamId,
    received: &mut Received,
) -> Result<(), ApiError> {
    let mut text_bytes = 0;
    let mut errors = FieldErrors::default();
    // One more look than parts: what comes behind the last one has to be the end.
    for part in 0..=MAX_PARTS {
        progress.note();
        let Some(field) = form.next_field().await.map_err(|error| broken(state, progress, &error))? else {
            return errors.into_result();
        };
        if part == MAX_PARTS {
            break;
        }
        progress.note();
        let Some(name) = field.name().map(str::to_owned).filter(|name| !name.is_empty()) else {
            return Err(ApiError::malformed("a part of the form has no name"));
        };
        if name.len() > MAX_NAME_BYTES {
            return Err(ApiError::malformed(format!("a part's name is longer than {MAX_NAME_BYTES} bytes")));
        }
        match name.strip_prefix("imageFile_") {
            Some(number) => {
                let Some(number) = parse_number(number) else {
                    errors.add(&printable(&name), "must end in a number from 0 to 999999");
                    return errors.into_result();
                };
                if field.file_name().is_none() && field.content_type().is_none() {
                    errors.add(&name, "must be a file, not a text");
                    return errors.into_result();
                }
                if received.files.contains_key(&number) {
                    errors.add(&name, "is given twice");
                    return errors.into_result();
                }
                if received.files.len() >= state.config.uploads.max_images {
                    errors.add(
                        &name,
                        &format!("is one image too many: a dream has at most {}", state.config.uploads.max_images),
                    );
                    return errors.into_result();
                }
                let file = store_file(state, field, progress, dream, &name, received).await?;
                received.files.insert(number, file);
            }
            None => {
                let text = read_text(state, field, progress, &name).await?;
                text_bytes += text.len();
                if text_bytes > MAX_FORM_TEXT_BYTES {
                    return Err(ApiError::too_large(Some(&printable(&name)), MAX_FORM_TEXT_BYTES as u64));
                }
                match String::from_utf8(text) {
                    // Unknown fields are ignored, not kept.
                    Ok(_) if !is_known(&name) => {}
                    Ok(text) => drop(received.texts.insert(name, text)),
                    Err(_) => errors.add(&printable(&name), "is not UTF-8 text"),
                }
            }
        }
    }
    Err(ApiError::malformed(format!("the form has more than {MAX_PARTS} parts")))
}

async fn read_text(
    state: &Arc<AppState>,
    mut field: Field<'static>,
    progress: &Progress,
    name: &str,
) -> Result<Vec<u8>, ApiError> {
    let mut text = Vec::new();
    while let Some(bytes) = field.chunk().await.map_err(|error| broken(state, progress, &error))? {
        progress.note();
        if text.len() + bytes.len() > MAX_TEXT_BYTES {
            return Err(ApiError::too_large(Some(&printable(name)), MAX_TEXT_BYTES as u64));
        }
        text.extend_from_slice(&bytes);
    }
    Ok(text)
}

async fn store_file(
    state: &Arc<AppState>,
    mut field: Field<'static>,
    progress: &Progress,
    dream: DreamId,
    name: &str,
    received: &mut Received,
) -> Result<ReceivedFile, ApiError> {
    let limit = state.config.uploads.max_file_bytes;
    let head = read_head(state, &mut field, progress).await?;
    if head.is_empty() {
        return FieldErrors::one(name, "is an empty file");
    }
    let content_type =
        sniff(&head, &state.config.uploads.extra_formats).map_err(|found| ApiError::unsupported_media(name, found))?;
    let id = state.dreams.next_image_id().await?;
    let secret = random_secret();
    let key = format!("originals/{dream}/{id}-{secret}");
    let mut upload = state.storage.upload(&key, content_type)?;
    let mut bytes = head.len() as u64;
    let mut next = Some(head);
    let outcome = loop {
        let Some(chunk) = next.take() else { break Ok(()) };
        if bytes > limit {
            break Err(ApiError::too_large(Some(name), limit));
        }
        if let Err(error) = upload.write(chunk).await {
            break Err(error.into());
        }
        match field.chunk().await {
            Ok(chunk) => {
                progress.note();
                bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                next = chunk;
            }
            Err(error) => break Err(broken(state, progress, &error)),
        }
    };
    match outcome {
        Ok(()) => {
            // Given up in its midst, or failed, this may leave a file that nobody here knows of: the sweep then has to look.
            let ends_upload = received.ends_upload.take();
            upload.finish().await?;
            received.ends_upload = ends_upload;
            metrics::histogram!("oneiro_upload_bytes").record(bytes as f64);
            Ok(ReceivedFile { id, secret, original: Original { key, bytes, content_type: content_type.to_owned() } })
        }
        Err(error) => {
            upload.abort().await;
            Err(error)
        }
    }
}

/// The beginning of a file: chunks until there is enough to sniff, or all of a shorter file.
async fn read_head(state: &Arc<AppState>, field: &mut Field<'static>, progress: &Progress) -> Result<Bytes, ApiError> {
    let mut head = BytesMut::new();
    while head.len() < SNIFF_BYTES {
        let Some(chunk) = field.chunk().await.map_err(|error| broken(state, progress, &error))? else { break };
        progress.note();
        head.extend_from_slice(&chunk);
    }
    Ok(head.freeze())
}

/// The media type by the first bytes, never by name or declaration. The error is what it is instead, where that can be told.
fn sniff(head: &[u8], extra: &[ExtraFormat]) -> Result<&'static str, Option<&'static str>> {
    match infer::get(head).map(|kind| kind.mime_type()) {
        Some(kind @ ("image/jpeg" | "image/png" | "image/webp" | "image/gif" | "image/bmp")) => Ok(kind),
        Some(kind) if extra.iter().any(|format| format.mime() == kind) => Ok(kind),
        found => Err(found),
    }
}

/// 128 random bits: image ids can be counted, URLs must not be guessable.
fn random_secret() -> String {
    let mut bytes = [0u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_known(name: &str) -> bool {
    matches!(name, "title" | "content" | "categories" | "tags") || name.starts_with("imageMetadata_")
}

fn parse_number(text: &str) -> Option<u32> {
    let canonical = (1..=6).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

/// A field's name as sent may hold anything; what we repeat of it is short and visible.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn broken(state: &Arc<AppState>, progress: &Progress, error: &multer::Error) -> ApiError {
    if progress.is_too_large() {
        return ApiError::too_large(None, state.config.uploads.max_body_bytes);
    }
    ApiError::malformed(format!("the form cannot be read: {}", report(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_canonical() {
        assert_eq!(parse_number("0"), Some(0));
        assert_eq!(parse_number("10"), Some(10));
        for bad in ["", "01", "-1", "1a", "1000000", "１"] {
            assert_eq!(parse_number(bad), None, "{bad}");
        }
    }

    #[test]
    fn types_are_told_by_bytes() {
        assert_eq!(sniff(b"\xff\xd8\xff\xe0\0\x10JFIF", &[]), Ok("image/jpeg"));
        assert_eq!(sniff(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &[]), Ok("image/png"));
        assert_eq!(sniff(b"%PDF-1.7", &[]), Err(Some("application/pdf")));
        assert_eq!(sniff(b"no image at all", &[]), Err(None));
    }

    #[test]
    fn extra_formats_are_taken_only_where_configured() {
        for (head, format) in [
            (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".as_slice(), ExtraFormat::Heic),
            (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", ExtraFormat::Avif),
            (b"II*\0\x08\0\0\0\x0b\0\0\x01", ExtraFormat::Tiff),
            (b"\0\0\0\x0cJXL \r\n\x87\n\0", ExtraFormat::Jxl),
            (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ", ExtraFormat::Jpeg2000),
            (b"8BPS\0\x01\0\0", ExtraFormat::Psd),
        ] {
            assert_eq!(sniff(head, &[]), Err(Some(format.mime())), "{format:?}");
            assert_eq!(sniff(head, &[ExtraFormat::Heic, format]), Ok(format.mime()));
        }
    }
}
