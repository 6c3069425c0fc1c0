//! What a verified token says.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, sync::Arc};

/// Largest integer that a JavaScript number holds exactly, plus one.
const JS_SAFE: u64 = 1 << 53;

/// A user's id. Tokens carry it as a number or as a string; it is compared as a string and written as a number where it is one. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Takes an id of 1 to 128 bytes without control characters.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = !text.is_empty() && text.len() <= 128 && !text.chars().any(char::is_control);
        valid.then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as a number, where it is a canonical non-negative one below 2^53.
    pub fn as_number(&self) -> Option<u64> {
        let canonical = &*self.0 == "0" || !self.0.starts_with('0');
        let digits = self.0.bytes().all(|b| b.is_ascii_digit());
        if canonical && digits { self.0.parse().ok().filter(|&n| n < JS_SAFE) } else { None }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<u64> for UserId {
    fn from(id: u64) -> Self {
        Self(id.to_string().into())
    }
}

impl Serialize for UserId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.as_number() {
            Some(number) => serializer.serialize_u64(number),
            None => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for UserId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = UserId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a user id: a non-negative whole number or a text of 1 to 128 bytes")
            }
            fn visit_u64<E: de::Error>(self, id: u64) -> Result<UserId, E> {
                Ok(UserId::from(id))
            }
            fn visit_i64<E: de::Error>(self, id: i64) -> Result<UserId, E> {
                u64::try_from(id).map(UserId::from).map_err(|_| E::invalid_value(de::Unexpected::Signed(id), &self))
            }
            fn visit_str<E: de::Error>(self, id: &str) -> Result<UserId, E> {
                UserId::parse(id).ok_or_else(|| E::invalid_value(de::Unexpected::Str(id), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A right beyond one's own data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// May publish events to anybody.
    Publish,
    /// May read the developer endpoints.
    Developer,
    /// May use an API for operators. There is none yet: `oneiro` works on Redis itself.
    Admin,
}

impl Scope {
    /// The word that stands for it in a token's `scope`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Developer => "developer",
            Self::Admin => "admin",
        }
    }
}

/// What a verified token says about its bearer.
#[derive(Debug, Clone)]
pub struct Claims {
    /// Whose token it is.
    pub user_id: UserId,
    /// Shown to others; see [`Claims::display_name`].
    pub username: Option<String>,
    /// Unix time in seconds after which the token is void.
    pub expires_at: i64,
    /// Unix time in seconds at which it was issued, where the token says so.
    pub issued_at: Option<i64>,
    pub(super) scopes: Vec<String>,
    pub(super) is_staff: bool,
}

impl Claims {
    /// Whether the token carries this scope. Staff have [`Scope::Developer`] and [`Scope::Admin`] without naming them.
    pub fn has_scope(&self, scope: Scope) -> bool {
        let staff_right = self.is_staff && scope != Scope::Publish;
        staff_right || self.scopes.iter().any(|word| word == scope.word())
    }

    /// The name shown in chat and in the welcome: `username`, else `user<id>`.
    pub fn display_name(&self) -> String {
        self.username.clone().unwrap_or_else(|| format!("user{}", self.user_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_on_the_wire_only_where_they_are_canonical_and_safe() {
        for (text, wire) in
            [("7", "7"), ("0", "0"), ("007", "\"007\""), ("9007199254740992", "\"9007199254740992\""), ("a", "\"a\"")]
        {
            let id = UserId::parse(text).unwrap();
            assert_eq!(serde_json::to_string(&id).unwrap(), wire);
            assert_eq!(serde_json::from_str::<UserId>(wire).unwrap(), id);
        }
        for bad in ["-1", "\"\"", "1.5", "null", "\"a\\u0000b\""] {
            assert!(serde_json::from_str::<UserId>(bad).is_err(), "{bad}");
        }
    }
}
