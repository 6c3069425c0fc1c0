//! Receiving a dream's form: text fields into memory within limits, files straight into the object store, never the whole body in memory.

mod body;
mod fields;
mod receive;

pub(crate) use fields::{FieldErrors, parse_patch, parse_text, place_images, utf16_length};
pub(crate) use receive::{Received, receive};
