//! From text fields to checked values: parse, don't check. Every mistake of a form is reported at once, under its field's name.

use super::receive::Received;
use crate::ApiError;
use oneiro_core::{
    config::UploadsConfig,
    dreams::{NewImage, NewText, TextPatch},
};
use serde_json::Value;
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

/// Checks the JSON body of a PATCH: `title`, `content`, `categories`, `tags`; each may be missing, unknown ones are ignored.
///
/// # Errors
/// 400 naming every wrong field.
pub(crate) fn parse_patch(body: &Value, limits: &UploadsConfig) -> Result<TextPatch, ApiError> {
    let Some(fields) = body.as_object() else { return Err(ApiError::malformed("the body must be a JSON object")) };
    let mut errors = FieldErrors::default();
    let text = |name: &str, errors: &mut FieldErrors| match fields.get(name) {
        None => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => {
            errors.add(name, "must be a text");
            None
        }
    };
    let title = text("title", &mut errors).map(|title| parse_title(&title, limits, &mut errors));
    let content = text("content", &mut errors).map(|content| parse_content(&content, limits, &mut errors));
    // As in the form, a list may also come as JSON in a string.
    let json = |name: &str, errors: &mut FieldErrors| match fields.get(name) {
        Some(Value::String(json)) => Some(parse_json(name, json, errors, |value, _| value.clone())),
        other => other.cloned(),
    };
    let categories =
        json("categories", &mut errors).map(|value| parse_labels("categories", &value, limits, &mut errors));
    let tags = json("tags", &mut errors).map(|value| parse_tags(&value, limits, &mut errors));
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

fn parse_json<T: Default>(
    name: &str,
    json: &str,
    errors: &mut FieldErrors,
    read: impl FnOnce(&Value, &mut FieldErrors) -> T,
) -> T {
    match serde_json::from_str::<Value>(json) {
        Ok(value) => read(&value, errors),
        Err(_) => {
            errors.add(name, "is not JSON");
            T::default()
        }
    }
}

/// A list of short texts.
pub(crate) fn parse_labels(name: &str, value: &Value, limits: &UploadsConfig, errors: &mut FieldErrors) -> Vec<String> {
    let Some(items) = value.as_array() else {
        errors.add(name, "must be a JSON array of texts");
        return Vec::new();
    };
    if items.len() > limits.max_labels {
        errors.add(name, &format!("must have at most {} entries", limits.max_labels));
        return Vec::new();
    }
    let mut labels = Vec::with_capacity(items.len());
    for item in items {
        match item.as_str() {
            Some(label) if label.chars().count() > limits.max_label_chars => {
                errors.add(name, &format!("has an entry of more than {} characters", limits.max_label_chars));
            }
            Some(label) if label.chars().any(char::is_control) => {
                errors.add(name, "has an entry with control characters");
            }
            Some(label) => labels.push(label.to_owned()),
            None => errors.add(name, "must be a JSON array of texts"),
        }
    }
    labels
}

fn parse_tags(value: &Value, limits: &UploadsConfig, errors: &mut FieldErrors) -> Labels {
    let Some(groups) = value.as_object() else {
        errors.add("tags", "must be a JSON object with the arrays theme, character and location");
        return Labels::default();
    };
    let mut labels = |key: &str| {
        groups.get(key).map(|value| parse_labels(&format!("tags.{key}"), value, limits, errors)).unwrap_or_default()
    };
    Labels { theme: labels("theme"), character: labels("character"), location: labels("location") }
}

fn parse_position(name: &str, value: &Value, errors: &mut FieldErrors) -> u64 {
    match value.get("position").and_then(Value::as_u64) {
        Some(position) if position <= MAX_POSITION => position,
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
        assert_eq!(parse_position("imageMetadata_0", &serde_json::json!({"position": 50}), &mut errors), 50);
        for bad in [
            serde_json::json!({"position": -1}),
            serde_json::json!({"position": "5"}),
            serde_json::json!([]),
            serde_json::json!({"position": 1.5}),
        ] {
            let mut errors = FieldErrors::default();
            parse_position("imageMetadata_0", &bad, &mut errors);
            assert!(errors.into_result().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_patch_names_wrong_types_and_leaves_out_what_is_missing() {
        let patch = parse_patch(&serde_json::json!({"title": "n", "tags": {"theme": ["t"]}}), &limits()).unwrap();
        assert_eq!((patch.title.as_deref(), patch.content), (Some("n"), None));
        assert_eq!(patch.theme_tags, Some(vec!["t".to_owned()]));
        for bad in [
            serde_json::json!({"title": 1}),
            serde_json::json!({"title": ""}),
            serde_json::json!({"categories": "x"}),
            serde_json::json!([]),
        ] {
            assert!(parse_patch(&bad, &limits()).is_err(), "{bad}");
        }
    }
}
