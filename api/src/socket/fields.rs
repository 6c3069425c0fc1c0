//! A JSON object taken apart without touching its values: order and number tokens stay as the publisher wrote them.

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// The members of an object in their order.
#[derive(Debug)]
pub(crate) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A string that may borrow: serde's own `Cow` always copies.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some(Text(key)) = map.next_key()? {
                    if fields.len() < MAX_FIELDS {
                        fields.push((key, map.next_value()?));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// Members looked at; real messages have a dozen.
const MAX_FIELDS: usize = 64;

impl<'a> Fields<'a> {
    /// Takes an object apart; `None` where the bytes are not one.
    pub(crate) fn parse(json: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// A member's text as written; the last one where a key repeats, as in JavaScript.
    pub(crate) fn raw(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// A member read as `T`; `None` where it is absent or something else.
    pub(crate) fn get<T: Deserialize<'a>>(&self, key: &str) -> Option<T> {
        serde_json::from_str(self.raw(key)?.get()).ok()
    }

    /// A string member.
    pub(crate) fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        self.get(key).map(|Text(text)| text)
    }

    /// An object member.
    pub(crate) fn object(&self, key: &str) -> Option<Fields<'a>> {
        self.get(key)
    }

    /// An id that may be written as a string or as a number; as text.
    pub(crate) fn id(&self, key: &str) -> Option<String> {
        let raw = self.raw(key)?.get();
        if raw.starts_with('"') {
            return serde_json::from_str(raw).ok();
        }
        raw.bytes().all(|byte| byte.is_ascii_digit()).then(|| raw.to_owned())
    }

    /// How many bytes it takes to write them all.
    pub(crate) fn written_len(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.get().len() + r#""":,"#.len()).sum::<usize>() + 2
    }

    /// The members in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(key, value)| (&**key, *value))
    }
}

/// Writes an object member by member.
pub(crate) struct ObjectWriter {
    out: Vec<u8>,
    is_empty: bool,
}

impl ObjectWriter {
    pub(crate) fn new() -> Self {
        Self::with_capacity(64)
    }

    /// With room for so many bytes, so that it need not move while it grows.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut out = Vec::with_capacity(bytes);
        out.push(b'{');
        Self { out, is_empty: true }
    }

    /// Adds a member whose value is JSON text already.
    pub(crate) fn raw(&mut self, key: &str, json: &str) -> &mut Self {
        self.key(key).extend_from_slice(json.as_bytes());
        self
    }

    /// Adds a member.
    pub(crate) fn value(&mut self, key: &str, value: &impl serde::Serialize) -> &mut Self {
        serde_json::to_writer(self.key(key), value).expect("wire values have string keys only");
        self
    }

    /// Adds a member that is an object, whose own members `write` adds.
    pub(crate) fn object(&mut self, key: &str, write: impl FnOnce(&mut Self)) -> &mut Self {
        self.key(key).push(b'{');
        self.is_empty = true;
        write(self);
        self.out.push(b'}');
        self.is_empty = false;
        self
    }

    /// Begins a member; its value goes to what is returned.
    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        serde_json::to_writer(&mut self.out, key).expect("a string is written to memory");
        self.out.push(b':');
        &mut self.out
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.out.push(b'}');
        self.out
    }
}

/// Adds members behind the last one of an object. Anything else is returned as it is.
pub(crate) fn extend_object(json: &[u8], members: &str) -> Vec<u8> {
    let trimmed = json.trim_ascii_end();
    let Some(body) = trimmed.strip_suffix(b"}") else { return json.to_vec() };
    let mut out = Vec::with_capacity(json.len() + members.len() + 2);
    out.extend_from_slice(body);
    if !body.trim_ascii_end().ends_with(b"{") {
        out.push(b',');
    }
    out.extend_from_slice(members.as_bytes());
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_number_tokens_survive() {
        let json = br#"{"type":"ping","timestamp":1649154859.1230,"a":{"b":[1.0]}}"#;
        let fields = Fields::parse(json).unwrap();
        assert_eq!(fields.raw("timestamp").unwrap().get(), "1649154859.1230");
        let mut writer = ObjectWriter::new();
        for (key, value) in fields.iter() {
            writer.raw(key, value.get());
        }
        assert_eq!(writer.finish(), json);
    }

    #[test]
    fn objects_are_written_into_objects() {
        let mut writer = ObjectWriter::new();
        writer.object("none", |_| {}).object("some", |some| {
            some.raw("a", "1").object("deep", |deep| {
                deep.value("b", &"\"");
            });
            some.value("c", &2);
        });
        writer.raw("d", "[3]");
        let json = writer.finish();
        assert_eq!(json, br#"{"none":{},"some":{"a":1,"deep":{"b":"\""},"c":2},"d":[3]}"#);
        assert_eq!(Fields::parse(&json).unwrap().written_len(), json.len() + 1, "as much, but for the last comma");
    }

    #[test]
    fn ids_are_read_in_both_forms() {
        let fields = Fields::parse(br#"{"a":123,"b":"123","c":1.5,"d":-1,"e":null}"#).unwrap();
        assert_eq!(
            ["a", "b", "c", "d", "e"].map(|key| fields.id(key)),
            [Some("123".into()), Some("123".into()), None, None, None]
        );
    }

    #[test]
    fn what_is_no_object_is_none() {
        for json in ["", "[]", "1", "\"x\"", "{", "{\"a\":}", "{} x"] {
            assert!(Fields::parse(json.as_bytes()).is_none(), "{json}");
        }
    }

    #[test]
    fn members_are_added_behind_the_last() {
        assert_eq!(extend_object(b"{\"a\":1}", "\"b\":2"), b"{\"a\":1,\"b\":2}");
        assert_eq!(extend_object(b"{ } ", "\"b\":2"), b"{ \"b\":2}");
        assert_eq!(extend_object(b"[1]", "\"b\":2"), b"[1]");
    }
}
