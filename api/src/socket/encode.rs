//! From a publication to the frames that its subscribers see: each form is made once, however many connections get it.

use super::{
    fields::{Fields, ObjectWriter, extend_object},
    frame::{Frame, Origin},
    stored,
};
use oneiro_events::{Position, Publication};
use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// Largest integer that a JavaScript number holds exactly, plus one.
const JS_SAFE: u64 = 1 << 53;

/// Which dialect's words a connection expects on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Dream events, the id as a number where it is one.
    DreamNumber,
    /// Dream events, the id as a string.
    DreamString,
    /// Notifications: `{type, data}`.
    Notifications,
    /// Presence and chat.
    Presence,
    /// As it was published.
    Raw,
}

/// A form and what the connection asked for on top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoding {
    pub(crate) form: Form,
    /// Adds `channel`, `epoch` and `seq` to stored events.
    pub(crate) with_position: bool,
    /// Lets `image_progress` through.
    pub(crate) with_progress: bool,
}

/// What of an event decides who gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Notification,
    Alert,
    Order,
    Material,
    /// Typing, presence, status, chat, dreams, custom: not subject to `unsubscribe` of a kind.
    Other,
}

impl Kind {
    pub(crate) fn of(r#type: &str) -> Self {
        match r#type {
            "notification" => Self::Notification,
            "alert" => Self::Alert,
            "order_update" => Self::Order,
            "material_update" => Self::Material,
            _ => Self::Other,
        }
    }
}

/// A publication taken apart once.
pub(crate) struct Parsed<'a> {
    publication: &'a Publication,
    fields: Option<Fields<'a>>,
    r#type: Cow<'a, str>,
    published_ms: u64,
    origin: Option<Arc<Origin>>,
}

impl<'a> Parsed<'a> {
    pub(crate) fn new(publication: &'a Publication) -> Self {
        let fields = Fields::parse(&publication.payload);
        let r#type = fields.as_ref().and_then(|fields| fields.text("type")).unwrap_or_default();
        let origin = publication
            .position
            .clone()
            .map(|position| Arc::new(Origin { channel: publication.channel.clone(), position }));
        let published_ms = fields.as_ref().and_then(published_ms).unwrap_or(0);
        Self { publication, fields, r#type, published_ms, origin }
    }

    pub(crate) fn kind(&self) -> Kind {
        Kind::of(&self.r#type)
    }

    pub(crate) fn r#type(&self) -> &str {
        &self.r#type
    }

    pub(crate) fn is_chat(&self) -> bool {
        self.r#type == "chat"
    }

    /// The user whose doing it tells, who is not told of it.
    pub(crate) fn author(&self) -> Option<String> {
        match &*self.r#type {
            "user_status" | "presence" | "typing" => self.fields.as_ref()?.object("data")?.id("user_id"),
            _ => None,
        }
    }

    /// Unix milliseconds after which it is no longer delivered.
    pub(crate) fn expires_at_ms(&self) -> Option<u64> {
        self.fields.as_ref()?.get("expires_at_ms")
    }

    /// Whether it was stored after that: behind it, or in another numbering.
    pub(crate) fn is_behind(&self, place: &Position) -> bool {
        let at = self.origin.as_ref().map(|origin| &origin.position);
        at.is_some_and(|at| at.epoch != place.epoch || at.offset > place.offset)
    }

    /// The frame for one encoding; `None` where connections of that form do not get this event.
    pub(crate) fn encode(&self, encoding: Encoding) -> Option<Frame> {
        let fields = self.fields.as_ref()?;
        let (json, state_key) = match encoding.form {
            Form::DreamNumber | Form::DreamString => self.dream(fields, encoding)?,
            Form::Notifications => (stored::for_notifications(&self.r#type, fields)?, 0),
            Form::Presence => (stored::for_presence(&self.r#type, fields)?, self.presence_key(fields)),
            Form::Raw => (stored::passed(fields), 0),
        };
        let json = match (&self.origin, encoding.with_position) {
            (Some(origin), true) => extend_object(&json, &position_members(origin)),
            _ => json,
        };
        let mut frame = Frame::stated(&json, state_key);
        frame.published_ms = self.published_ms;
        frame.origin = self.origin.clone();
        Some(frame)
    }

    /// An event of a dream's channel; nothing but the contract's events gets out there.
    fn dream(&self, fields: &Fields<'_>, encoding: Encoding) -> Option<(Vec<u8>, u64)> {
        let is_progress = self.r#type == "image_progress";
        if !(self.r#type == "image_update" || is_progress && encoding.with_progress) {
            return None;
        }
        let id = fields.id("dream_id")?;
        let key =
            if is_progress { key(&[&self.r#type, &id, &fields.id("image_id")?]) } else { key(&[&self.r#type, &id]) };
        let wanted = dream_id(&id, encoding.form == Form::DreamString);
        let needs_message = !is_progress && fields.raw("message").is_none();
        if !needs_message && fields.raw("dream_id")?.get() == wanted {
            return Some((self.publication.payload.to_vec(), key));
        }
        let mut writer = ObjectWriter::with_capacity(fields.written_len() + wanted.len() + 16);
        for (name, value) in fields.iter() {
            writer.raw(name, if name == "dream_id" { &wanted } else { value.get() });
        }
        if needs_message {
            writer.raw("message", "null");
        }
        Some((writer.finish(), key))
    }

    fn presence_key(&self, fields: &Fields<'_>) -> u64 {
        match &*self.r#type {
            "presence" | "typing" => {
                let data = fields.object("data");
                let of = |name: &str| data.as_ref().and_then(|data| data.id(name)).unwrap_or_default();
                key(&[&self.r#type, &of("user_id"), &of("context")])
            }
            _ => 0,
        }
    }
}

/// The event's own `timestamp`, in Unix milliseconds: a number of seconds, or an ISO time.
fn published_ms(fields: &Fields<'_>) -> Option<u64> {
    let raw = fields.raw("timestamp")?.get();
    if let Some(text) = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')) {
        return u64::try_from(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()).ok();
    }
    let seconds = raw.parse::<f64>().ok().filter(|seconds| (0.0..1e11).contains(seconds))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the range just checked")]
    Some((seconds * 1_000.0) as u64)
}

/// A dream's id as JSON text.
pub(crate) fn dream_id(id: &str, as_string: bool) -> String {
    let is_number = !as_string && id.parse::<u64>().is_ok_and(|number| number < JS_SAFE && number.to_string() == id);
    if is_number { id.to_owned() } else { serde_json::Value::from(id).to_string() }
}

/// The members that tell where a stored event stands.
pub(crate) fn position_members(origin: &Origin) -> String {
    // Names and epochs have no characters that JSON escapes.
    format!(r#""channel":"{}","epoch":"{}","seq":{}"#, origin.channel, origin.position.epoch, origin.position.offset)
}

fn key(parts: &[&str]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn publication(payload: &str, position: Option<&str>) -> Publication {
        Publication {
            channel: "dream_images_123".parse().unwrap(),
            position: position.map(|position| position.parse().unwrap()),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        }
    }

    fn encode(payload: &str, form: Form, with_position: bool, with_progress: bool) -> Option<String> {
        let publication = publication(payload, Some("abc:7"));
        let frame = Parsed::new(&publication).encode(Encoding { form, with_position, with_progress })?;
        Some(String::from_utf8(frame.json().to_vec()).unwrap())
    }

    const UPDATE: &str = r#"{"type":"image_update","dream_id":123,"status":"processing","images":[],"timestamp":1649154789.1230,"message":null}"#;

    #[test]
    fn dream_events_pass_byte_for_byte_and_ids_change_their_form_only() {
        assert_eq!(encode(UPDATE, Form::DreamNumber, false, false).as_deref(), Some(UPDATE));
        let string = encode(UPDATE, Form::DreamString, false, false).unwrap();
        assert_eq!(string, UPDATE.replace(":123,", ":\"123\","));
        assert_eq!(encode(&string, Form::DreamNumber, false, false).as_deref(), Some(UPDATE));
        let huge = UPDATE.replace(":123,", ":\"9007199254740993\",");
        assert_eq!(encode(&huge, Form::DreamNumber, false, false).as_deref(), Some(&*huge));
    }

    #[test]
    fn the_time_of_publishing_is_read_in_both_forms() {
        let read = |json: &str| published_ms(&Fields::parse(json.as_bytes()).unwrap());
        assert_eq!(read(r#"{"timestamp":1649154789.1230}"#), Some(1_649_154_789_123));
        assert_eq!(read(r#"{"timestamp":"2025-10-22T10:00:00.250Z"}"#), Some(1_761_127_200_250));
        for none in [r#"{}"#, r#"{"timestamp":"soon"}"#, r#"{"timestamp":-1}"#, r#"{"timestamp":null}"#] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn a_missing_message_is_null() {
        let bare = r#"{"type":"image_update","dream_id":"123","status":"processing"}"#;
        let sent = encode(bare, Form::DreamNumber, false, false).unwrap();
        assert_eq!(sent, r#"{"type":"image_update","dream_id":123,"status":"processing","message":null}"#);
    }

    #[test]
    fn positions_and_progress_are_only_for_those_who_asked() {
        let sent = encode(UPDATE, Form::DreamNumber, true, false).unwrap();
        assert!(sent.ends_with(r#""message":null,"channel":"dream_images_123","epoch":"abc","seq":7}"#), "{sent}");
        let progress = r#"{"type":"image_progress","dream_id":123,"image_id":1,"done":2,"total":4}"#;
        assert_eq!(encode(progress, Form::DreamNumber, false, false), None);
        assert_eq!(encode(progress, Form::DreamNumber, false, true).as_deref(), Some(progress));
    }

    #[test]
    fn nonsense_on_a_dream_channel_reaches_nobody() {
        for payload in [
            "",
            "[]",
            "{}",
            r#"{"type":"alert"}"#,
            r#"{"type":"image_update"}"#,
            r#"{"type":"image_update","dream_id":{}}"#,
        ] {
            assert_eq!(encode(payload, Form::DreamNumber, false, true), None, "{payload}");
        }
    }

    #[test]
    fn updates_of_one_dream_supersede_each_other() {
        let frame = |payload: &str| {
            let publication = publication(payload, None);
            Parsed::new(&publication)
                .encode(Encoding { form: Form::DreamNumber, with_position: false, with_progress: true })
                .unwrap()
        };
        let other = UPDATE.replace("123", "124");
        assert_eq!(frame(UPDATE).state_key, frame(&UPDATE.replace("processing", "completed")).state_key);
        assert_ne!(frame(UPDATE).state_key, frame(&other).state_key);
    }
}
