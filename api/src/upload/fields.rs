//! From text fields to checked values: parse, don't check. Every mistake of a form is reported at once, under its field's name.

use super::receive::Received;
use crate::ApiError;
use oneiro_core::{
    config::UploadsConfig,
    dreams::{NewImage, NewText, TextPatch},
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Largest position: JavaScript's largest safe integer.
const MAX_POSITION: u64 = (1 << 53) - 1;

/// What is wrong, by field.
#[derive(Debug, Default)]
pub(crate) struct FieldErrors(BTreeMap<String, String>);

impl FieldErrors {
    /// Adds a mistake; the first one of a field stays.
    pub(crate) fn add(&mut self, field: &str, problem: &str) {
        self.0.entry(field.to_owned()).or_insert_with(|| problem.to_owned());
    }

    /// A refusal for one field.
    pub(crate) fn one<T>(field: &str, problem: &str) -> Result<T, ApiError> {
        Err(ApiError::invalid_fields(BTreeMap::from([(field.to_owned(), problem.to_owned())])))
    }

    /// 400 where there was a mistake.
    pub(crate) fn into_result(self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::invalid_fields(self.0)) }
    }
}

/// The four lists of labels.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) theme: Vec<String>,
    pub(crate) character: Vec<String>,
    pub(crate) location: Vec<String>,
}

/// Checks a new dream's text fields and the placement of its images.
///
/// # Errors
/// 400 naming every wrong field.
pub(crate) fn parse_text(received: &Received, limits: &UploadsConfig) -> Result<(NewText, Vec<NewImage>), ApiError> {
    let mut errors = FieldErrors::default();
    let texts = &received.texts;
    let title = match texts.get("title") {
        Some(title) => parse_title(title, limits, &mut errors),
        None => {
            errors.add("title", "is missing");
            String::new()
        }
    };
    // Browsers send every line end of a form's text as CRLF (the HTML standard's multipart encoding), but count it as one unit in the page,
    // where positions come from.
    let content = texts.get("content").map(|content| content.replace("\r\n", "\n"));
    let content = content.map(|content| parse_content(&content, limits, &mut errors)).unwrap_or_default();
    let categories = texts
        .get("categories")
        .map(|json| parse_json("categories", json, &mut errors, |v, e| parse_labels("categories", v, limits, e)));
    let tags = texts.get("tags").map(|json| parse_json("tags", json, &mut errors, |v, e| parse_tags(v, limits, e)));
    let end = utf16_length(&content);
    let images = place_images(received, end, &mut errors);
    errors.into_result()?;
    let Labels { theme, character, location } = tags.unwrap_or_default();
    let text = NewText {
        title,
        content,
        categories: categories.unwrap_or_default(),
        theme_tags: theme,
        character_tags: character,
        location_tags: location,
    };
    Ok((text, images))
}

/// The images of a form in the order of their numbers; one without metadata stands at `end`, the length of the content in UTF-16 units.
pub(crate) fn place_images(received: &Received, end: u64, errors: &mut FieldErrors) -> Vec<NewImage> {
    let files = received.files.iter();
    files
        .map(|(number, file)| {
            let name = format!("imageMetadata_{number}");
            let position = received
                .texts
                .get(&name)
                .map(|json| parse_json(&name, json, errors, |v, e| parse_position(&name, v, e)));
            NewImage {
                id: file.id,
                secret: file.secret.clone(),
                position: position.unwrap_or(end),
                original: file.original.clone(),
            }
        })
        .collect()
}

/// The members of a PATCH, as they were written: a tree of values takes a hundred times the body's size where somebody means it to.
#[derive(Deserialize)]
struct PatchBody<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    title: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    content: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    categories: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    tags: Option<&'a RawValue>,
}

/// The members of `tags`.
#[derive(Deserialize)]
struct Tags<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    theme: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    character: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    location: Option<&'a RawValue>,
}

/// A member that is there, be it `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// Checks the JSON body of a PATCH: `title`, `content`, `categories`, `tags`; each may be missing, unknown ones are ignored.
///
/// # Errors
/// 400 naming every wrong field, or what is wrong with the body.
pub(crate) fn parse_patch(body: &[u8], limits: &UploadsConfig) -> Result<TextPatch, ApiError> {
    let body: &RawValue = serde_json::from_slice(body).map_err(|_| ApiError::malformed("the body is not JSON"))?;
    let body: PatchBody<'_> = object(body)
        .ok_or_else(|| ApiError::malformed("the body must be a JSON object that names each member once"))?;
    let mut errors = FieldErrors::default();
    let text = |name: &str, json: Option<&RawValue>, errors: &mut FieldErrors| {
        json.and_then(|json| {
            let text = text_of(json);
            if text.is_none() {
                errors.add(name, "must be a text");
            }
            text
        })
    };
    let title = text("title", body.title, &mut errors).map(|title| parse_title(&title, limits, &mut errors));
    let content =
        text("content", body.content, &mut errors).map(|content| parse_content(&content, limits, &mut errors));
    let categories = body.categories.map(|json| {
        parse_json_or_text("categories", json, &mut errors, |v, e| parse_labels("categories", v, limits, e))
    });
    let tags = body.tags.map(|json| parse_json_or_text("tags", json, &mut errors, |v, e| parse_tags(v, limits, e)));
    errors.into_result()?;
    let (theme_tags, character_tags, location_tags) = match tags {
        Some(Labels { theme, character, location }) => (Some(theme), Some(character), Some(location)),
        None => (None, None, None),
    };
    Ok(TextPatch { title, content, categories, theme_tags, character_tags, location_tags })
}

fn parse_title(title: &str, limits: &UploadsConfig, errors: &mut FieldErrors) -> String {
    let title = title.trim();
    if title.is_empty() {
        errors.add("title", "must not be empty");
    } else if title.chars().count() > limits.max_title_chars {
        errors.add("title", &format!("must have at most {} characters", limits.max_title_chars));
    } else if title.chars().any(char::is_control) {
        errors.add("title", "must not contain control characters");
    }
    title.to_owned()
}

fn parse_content(content: &str, limits: &UploadsConfig, errors: &mut FieldErrors) -> String {
    if content.chars().count() > limits.max_content_chars {
        errors.add("content", &format!("must have at most {} characters", limits.max_content_chars));
    } else if content.contains('\0') {
        errors.add("content", "must not contain NUL characters");
    }
    content.to_owned()
}

/// An object's members; `None` where it is something else. A struct would be read from an array as well.
fn object<'a, T: Deserialize<'a>>(json: &'a RawValue) -> Option<T> {
    if json.get().starts_with('{') { serde_json::from_str(json.get()).ok() } else { None }
}

fn text_of(json: &RawValue) -> Option<String> {
    serde_json::from_str(json.get()).ok()
}

fn parse_json<T: Default>(
    name: &str,
    json: &str,
    errors: &mut FieldErrors,
    read: impl FnOnce(&RawValue, &mut FieldErrors) -> T,
) -> T {
    match serde_json::from_str::<&RawValue>(json) {
        Ok(value) => read(value, errors),
        Err(_) => {
            errors.add(name, "is not JSON");
            T::default()
        }
    }
}

/// As in the form, a list may also come as JSON in a string.
fn parse_json_or_text<T: Default>(
    name: &str,
    json: &RawValue,
    errors: &mut FieldErrors,
    read: impl FnOnce(&RawValue, &mut FieldErrors) -> T,
) -> T {
    match text_of(json) {
        Some(text) => parse_json(name, &text, errors, read),
        None => read(json, errors),
    }
}

/// A list of short texts.
fn parse_labels(name: &str, json: &RawValue, limits: &UploadsConfig, errors: &mut FieldErrors) -> Vec<String> {
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(json.get()) else {
        errors.add(name, "must be a JSON array of texts");
        return Vec::new();
    };
    if items.len() > limits.max_labels {
        errors.add(name, &format!("must have at most {} entries", limits.max_labels));
        return Vec::new();
    }
    let mut labels = Vec::with_capacity(items.len());
    for item in items {
        match text_of(item) {
            Some(label) if label.chars().count() > limits.max_label_chars => {
                errors.add(name, &format!("has an entry of more than {} characters", limits.max_label_chars));
            }
            Some(label) if label.chars().any(char::is_control) => {
                errors.add(name, "has an entry with control characters");
            }
            Some(label) => labels.push(label),
            None => errors.add(name, "must be a JSON array of texts"),
        }
    }
    labels
}

fn parse_tags(json: &RawValue, limits: &UploadsConfig, errors: &mut FieldErrors) -> Labels {
    let Some(tags) = object::<Tags<'_>>(json) else {
        errors.add("tags", "must be a JSON object with the arrays theme, character and location");
        return Labels::default();
    };
    let mut labels = |key: &str, json: Option<&RawValue>| {
        json.map(|json| parse_labels(&format!("tags.{key}"), json, limits, errors)).unwrap_or_default()
    };
    Labels {
        theme: labels("theme", tags.theme),
        character: labels("character", tags.character),
        location: labels("location", tags.location),
    }
}

fn parse_position(name: &str, json: &RawValue, errors: &mut FieldErrors) -> u64 {
    #[derive(Deserialize)]
    struct Placement {
        position: u64,
    }
    match object::<Placement>(json) {
        Some(Placement { position }) if position <= MAX_POSITION => position,
        _ => {
            errors.add(name, "must be a JSON object whose position is a whole number of 0 or more");
            0
        }
    }
}

/// Length in UTF-16 code units, which is what JavaScript counts.
pub(crate) fn utf16_length(text: &str) -> u64 {
    text.encode_utf16().count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> UploadsConfig {
        let config =
            oneiro_core::config::Config::from_layers(oneiro_core::config::Role::Worker, None, &BTreeMap::new());
        config.expect("the defaults are good").uploads
    }

    fn form(texts: &[(&str, &str)]) -> Received {
        let texts = texts.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        Received::of_texts(texts)
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let form = form(&[("title", "  "), ("categories", "{}"), ("tags", r#"{"theme":[1]}"#), ("content", "a\0b")]);
        let error = serde_json::to_value(parse_text(&form, &limits()).unwrap_err()).unwrap();
        let fields: Vec<&String> = error["fields"].as_object().unwrap().keys().collect();
        assert_eq!(fields, ["categories", "content", "tags.theme", "title"]);
    }

    #[test]
    fn the_seeds_form_is_read() {
        let form = form(&[
            ("title", " 梦境 "),
            ("content", "x"),
            ("categories", r#"["normal","memorable"]"#),
            ("tags", r#"{"theme":["a"],"character":[],"location":["b"]}"#),
            ("unknown", "ignored"),
        ]);
        let (text, images) = parse_text(&form, &limits()).unwrap();
        assert_eq!((text.title.as_str(), images.len()), ("梦境", 0));
        assert_eq!(text.categories, ["normal", "memorable"]);
        assert_eq!((text.theme_tags, text.location_tags), (vec!["a".to_owned()], vec!["b".to_owned()]));
    }

    #[test]
    fn line_ends_count_as_the_page_counted_them() {
        let form = form(&[("title", "t"), ("content", "a\r\nb\r\n")]);
        assert_eq!(parse_text(&form, &limits()).unwrap().0.content, "a\nb\n");
    }

    #[test]
    fn positions_are_utf16_offsets() {
        assert_eq!(utf16_length("梦😀a"), 4);
        let mut errors = FieldErrors::default();
        let read = |json: &str, errors: &mut FieldErrors| {
            parse_json("imageMetadata_0", json, errors, |value, errors| {
                parse_position("imageMetadata_0", value, errors)
            })
        };
        assert_eq!(read(r#" {"position": 50, "more": {}} "#, &mut errors), 50);
        assert!(errors.into_result().is_ok());
        for bad in [r#"{"position":-1}"#, r#"{"position":"5"}"#, "[]", "{}", r#"{"position":1.5}"#, "[5]", "null", "{"]
        {
            let mut errors = FieldErrors::default();
            read(bad, &mut errors);
            assert!(errors.into_result().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_patch_names_wrong_types_and_leaves_out_what_is_missing() {
        let read = |body: &str| parse_patch(body.as_bytes(), &limits());
        let patch = read(r#"{"title": "n", "tags": {"theme": ["t"]}, "categories": "[\"c\"]"}"#).unwrap();
        assert_eq!((patch.title.as_deref(), patch.content), (Some("n"), None));
        assert_eq!((patch.theme_tags, patch.categories), (Some(vec!["t".to_owned()]), Some(vec!["c".to_owned()])));
        assert_eq!(read("{}").unwrap().title, None);
        for (bad, field) in [
            (r#"{"title":1}"#, "title"),
            (r#"{"title":null}"#, "title"),
            (r#"{"title":""}"#, "title"),
            (r#"{"content":[]}"#, "content"),
            (r#"{"categories":"x"}"#, "categories"),
            (r#"{"categories":{}}"#, "categories"),
            (r#"{"tags":[]}"#, "tags"),
            (r#"{"tags":{"theme":null}}"#, "tags.theme"),
        ] {
            let error = serde_json::to_value(read(bad).unwrap_err()).unwrap();
            let fields: Vec<&String> = error["fields"].as_object().unwrap().keys().collect();
            assert_eq!(fields, [field], "{bad}");
        }
        for bad in ["", "[]", "null", "{", r#"{"title":"a","title":"b"}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
