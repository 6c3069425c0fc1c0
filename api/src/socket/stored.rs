//! Stored events of the notification and presence dialects: one record, each dialect's own form made from it.
//!
//! A record is `{"type", "data", "timestamp", "expires_at_ms"?}` with the members of `data` as the publisher gave them. The two seeds name
//! some of them differently (`content`/`message`, `is_read`, `link`, `data`), and want ids as strings or as numbers.

use super::fields::{Fields, ObjectWriter};
use std::borrow::Cow;

/// Members of a notification's `data` that one dialect names and the other does not; the rest passes through.
const N_NOTIFICATION: [&str; 6] = ["id", "title", "content", "type", "is_read", "created_at"];
const P_NOTIFICATION: [&str; 7] = ["id", "type", "title", "message", "data", "link", "created_at"];

/// What is added to a record's members at most: `null`s, quotes, names of the other dialect.
const ADDED: usize = 128;

/// The frame of dialect N; `None` for events that it has no word for.
pub(crate) fn for_notifications(r#type: &str, record: &Fields<'_>) -> Option<Vec<u8>> {
    let data = record.object("data")?;
    let timestamp = record.raw("timestamp").map_or("null", |raw| raw.get());
    let write_data = |out: &mut ObjectWriter| {
        out.raw("id", &id(&data, true));
        if r#type == "notification" {
            out.raw("title", data.raw("title").map_or("\"\"", |raw| raw.get()))
                .raw("content", either(&data, "content", "message"))
                .raw("type", kind(record, &data))
                .raw("is_read", data.raw("is_read").map_or("false", |raw| raw.get()))
                .raw("created_at", data.raw("created_at").map_or(timestamp, |raw| raw.get()));
            pass_through(out, &data, &N_NOTIFICATION, &["message"]);
        } else {
            pass_through(out, &data, &["id"], &[]);
            let time = if r#type == "alert" { "created_at" } else { "updated_at" };
            if data.raw(time).is_none() {
                out.raw(time, timestamp);
            }
        }
    };
    match r#type {
        "notification" | "alert" | "order_update" | "material_update" => {
            let mut frame = ObjectWriter::with_capacity(record.written_len() + ADDED);
            frame.value("type", &r#type).object("data", write_data);
            Some(frame.finish())
        }
        // What only exists in the other dialect.
        "chat" | "typing" | "presence" | "user_status" => None,
        _ => Some(passed(record)),
    }
}

/// The frame of dialect P; `None` for events that it has no word for.
pub(crate) fn for_presence(r#type: &str, record: &Fields<'_>) -> Option<Vec<u8>> {
    match r#type {
        "notification" => {
            let data = record.object("data")?;
            let timestamp = record.raw("timestamp").map_or("null", |raw| raw.get());
            let kind = kind(record, &data);
            let mut frame = ObjectWriter::with_capacity(record.written_len() + ADDED);
            frame
                .value("type", &r#type)
                .raw("notification_type", kind)
                .object("data", |out| {
                    out.raw("id", &id(&data, false))
                        .raw("type", kind)
                        .raw("title", data.raw("title").map_or("\"\"", |raw| raw.get()))
                        .raw("message", either(&data, "message", "content"))
                        .raw("data", data.raw("data").map_or("{}", |raw| raw.get()))
                        .raw("link", data.raw("link").map_or("null", |raw| raw.get()))
                        .raw("created_at", data.raw("created_at").map_or(timestamp, |raw| raw.get()));
                    pass_through(out, &data, &P_NOTIFICATION, &["content", "is_read"]);
                })
                .raw("timestamp", timestamp);
            Some(frame.finish())
        }
        "alert" | "order_update" | "material_update" => None,
        _ => Some(passed(record)),
    }
}

/// An event as it was published, without what only the store needs.
pub(crate) fn passed(record: &Fields<'_>) -> Vec<u8> {
    let mut out = ObjectWriter::with_capacity(record.written_len());
    for (name, value) in record.iter().filter(|(name, _)| *name != "expires_at_ms") {
        out.raw(name, value.get());
    }
    out.finish()
}

fn kind<'a>(record: &Fields<'a>, data: &Fields<'a>) -> &'a str {
    data.raw("type").or_else(|| record.raw("notification_type")).map_or("\"notification\"", |raw| raw.get())
}

fn either<'a>(data: &Fields<'a>, first: &str, second: &str) -> &'a str {
    data.raw(first).or_else(|| data.raw(second)).map_or("\"\"", |raw| raw.get())
}

fn id<'a>(data: &Fields<'a>, as_string: bool) -> Cow<'a, str> {
    let Some(raw) = data.raw("id") else { return "null".into() };
    if as_string && raw.get().starts_with('"') {
        return raw.get().into();
    }
    data.id("id").map_or_else(|| raw.get().into(), |id| super::encode::dream_id(&id, as_string).into())
}

fn pass_through(out: &mut ObjectWriter, data: &Fields<'_>, written: &[&str], other_names: &[&str]) {
    for (name, value) in data.iter().filter(|(name, _)| !written.contains(name) && !other_names.contains(name)) {
        out.raw(name, value.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn fixture(name: &str) -> Value {
        let path = format!("{}/../tests/fixtures/wire/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        file["frame"].clone()
    }

    const T: &str = "2025-10-22T10:00:00.000Z";

    fn both(record: &Value) -> [Option<Value>; 2] {
        let text = record.to_string();
        let fields = Fields::parse(text.as_bytes()).unwrap();
        let kind = record["type"].as_str().unwrap();
        [for_notifications(kind, &fields), for_presence(kind, &fields)]
            .map(|json| json.map(|json| serde_json::from_slice(&json).unwrap()))
    }

    #[test]
    fn one_notification_has_each_dialects_form() {
        let record = json!({ "type": "notification", "timestamp": T, "expires_at_ms": 1, "data": {
            "id": 789, "type": "new_follower", "title": "新粉丝", "message": "用户 John 关注了你",
            "data": { "follower_id": 456 }, "link": "/users/456", "created_at": T } });
        let [n, p] = both(&record);
        let mut expected = fixture("n_server_notification");
        expected["data"]["data"] = json!({ "follower_id": 456 });
        expected["data"]["link"] = json!("/users/456");
        assert_eq!(n.unwrap(), expected);
        assert_eq!(p.unwrap(), fixture("p_server_notification"));
    }

    #[test]
    fn alerts_orders_and_materials_are_the_first_dialects_alone() {
        for name in ["n_server_alert", "n_server_order_update", "n_server_material_update"] {
            let mut record = fixture(name);
            record["timestamp"] = json!(T);
            let [n, p] = both(&record);
            assert_eq!(n.unwrap(), fixture(name));
            assert_eq!(p, None);
        }
    }

    #[test]
    fn chat_is_the_second_dialects_alone_and_custom_events_pass() {
        let [n, p] = both(&fixture("p_server_chat"));
        assert_eq!((n, p.unwrap()), (None, fixture("p_server_chat")));
        let [n, p] = both(&fixture("x_server_custom_event"));
        assert_eq!((n.unwrap(), p.unwrap()), (fixture("x_server_custom_event"), fixture("x_server_custom_event")));
    }
}
