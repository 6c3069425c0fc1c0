//! The stored form of a job: one binary string in the `jobs` hash.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | `a` in the flow (available, scheduled, running, retryable or completed by its place), `x` cancelled, `d` dead |
//! | 1 | priority: `h`, `n`, `l` |
//! | 2..4 | attempts spent, big-endian |
//! | 4 | deaths of workers that ran it |
//! | 5..7 | attempts allowed |
//! | 7, 8, 9 | lengths of kind (plus 128 where the record has a tail), group, unique key |
//! | 10..14 | timeout in ms, 0 for none |
//! | 14..16 | length of the metadata |
//! | 16.. | kind, group, unique key (only one that ends with the job), metadata (JSON object or nothing), payload |
//! | the last 5 | the tail, where there is one: version of the arguments, big-endian (1 where there is no tail), 1 if the payload is sealed |
//!
//! The head is fixed so that scripts read it with one `string.byte`; the id is not repeated, and a waiting job of 100
//! bytes stays below 250 bytes of Redis in all.

use std::{collections::BTreeMap, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};

use crate::{Priority, QueueError};

const HEAD: usize = 16;
/// In the length of the kind, which is at most 64: the record has a tail. Scripts only have to take it off.
const HAS_TAIL: u8 = 128;
const TAIL: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) mark: u8,
    pub(crate) priority: Priority,
    pub(crate) attempts: u32,
    pub(crate) kills: u32,
    pub(crate) max_attempts: u32,
    pub(crate) timeout: Option<Duration>,
    pub(crate) kind: String,
    pub(crate) version: u32,
    /// Whether the payload is one of `seal.rs`.
    pub(crate) is_sealed: bool,
    pub(crate) group: String,
    pub(crate) unique: String,
    pub(crate) meta: Bytes,
    pub(crate) payload: Bytes,
}

fn short(what: &'static str, text: &str) -> Result<u8, QueueError> {
    u8::try_from(text.len()).map_err(|_| QueueError::TooLong { what, len: text.len(), max: 255 })
}

impl Record {
    pub(crate) fn encode(&self) -> Result<Bytes, QueueError> {
        let kind = short("kind", &self.kind)?;
        let group = short("group", &self.group)?;
        let unique = short("unique key", &self.unique)?;
        let meta = u16::try_from(self.meta.len()).map_err(|_| QueueError::TooLong {
            what: "metadata",
            len: self.meta.len(),
            max: usize::from(u16::MAX),
        })?;
        let timeout = self.timeout.map_or(0, |t| u32::try_from(t.as_millis()).unwrap_or(u32::MAX).max(1));
        let has_tail = self.version != 1 || self.is_sealed;
        let mut out = BytesMut::with_capacity(
            HEAD + TAIL + self.kind.len() + self.group.len() + self.unique.len() + self.meta.len() + self.payload.len(),
        );
        out.put_u8(self.mark);
        out.put_u8(self.priority.letter());
        out.put_u16(u16::try_from(self.attempts).unwrap_or(u16::MAX));
        out.put_u8(u8::try_from(self.kills).unwrap_or(u8::MAX));
        out.put_u16(u16::try_from(self.max_attempts).unwrap_or(u16::MAX));
        out.put_u8(if has_tail { kind | HAS_TAIL } else { kind });
        out.put_u8(group);
        out.put_u8(unique);
        out.put_u32(timeout);
        out.put_u16(meta);
        out.put_slice(self.kind.as_bytes());
        out.put_slice(self.group.as_bytes());
        out.put_slice(self.unique.as_bytes());
        out.put_slice(&self.meta);
        out.put_slice(&self.payload);
        if has_tail {
            out.put_u32(self.version);
            out.put_u8(u8::from(self.is_sealed));
        }
        Ok(out.freeze())
    }

    pub(crate) fn decode(raw: &Bytes) -> Result<Self, QueueError> {
        const SHORT: QueueError = QueueError::Corrupt { what: "a job record that is cut short" };
        let head = raw.get(..HEAD).ok_or(SHORT)?;
        let number = |a: usize| u32::from(u16::from_be_bytes([head[a], head[a + 1]]));
        let mut at = HEAD;
        let mut part = |len: usize| -> Result<Bytes, QueueError> {
            if at + len > raw.len() {
                return Err(SHORT);
            }
            at += len;
            Ok(raw.slice(at - len..at))
        };
        let kind = part(usize::from(head[7] & !HAS_TAIL))?;
        let group = part(usize::from(head[8]))?;
        let unique = part(usize::from(head[9]))?;
        let meta = part(usize::from(u16::from_be_bytes([head[14], head[15]])))?;
        let text = |bytes: Bytes| {
            String::from_utf8(bytes.into())
                .map_err(|_| QueueError::Corrupt { what: "a job record with text that is not UTF-8" })
        };
        let end = raw.len() - if head[7] & HAS_TAIL == 0 { 0 } else { TAIL };
        let payload = if at <= end { raw.slice(at..end) } else { return Err(SHORT) };
        let tail = raw.get(end..).unwrap_or_default();
        let version = tail.first_chunk().map_or(1, |version| u32::from_be_bytes(*version));
        let is_sealed = tail.last() == Some(&1);
        let timeout = u32::from_be_bytes([head[10], head[11], head[12], head[13]]);
        Ok(Self {
            mark: head[0],
            priority: Priority::from_letter(head[1]),
            attempts: number(2),
            kills: u32::from(head[4]),
            max_attempts: number(5),
            timeout: (timeout > 0).then(|| Duration::from_millis(u64::from(timeout))),
            kind: text(kind)?,
            version,
            is_sealed,
            group: text(group)?,
            unique: text(unique)?,
            meta,
            payload,
        })
    }

    /// The metadata; empty where there is none.
    pub(crate) fn metadata(&self) -> Result<BTreeMap<String, String>, QueueError> {
        if self.meta.is_empty() { Ok(BTreeMap::new()) } else { Ok(serde_json::from_slice(&self.meta)?) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_reads_back_as_it_was_written(
            attempts in 0u32..65536, kills in 0u32..256, max_attempts in 1u32..65536, timeout in 0u32..1_000_000,
            kind in "[a-z_]{1,64}", version in prop_oneof![Just(1u32), any::<u32>()], is_sealed in any::<bool>(), group in ".{0,40}", unique in ".{0,40}", meta in prop::collection::vec(any::<u8>(), 0..300),
            payload in prop::collection::vec(any::<u8>(), 0..500),
        ) {
            let record = Record {
                mark: b'a', priority: Priority::Low, attempts, kills, max_attempts,
                timeout: (timeout > 0).then(|| Duration::from_millis(u64::from(timeout))),
                kind, version, is_sealed, group, unique, meta: meta.into(), payload: payload.into(),
            };
            prop_assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
        }

        #[test]
        fn noise_is_an_error_or_a_record_but_never_a_panic(raw in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(&raw.into());
        }
    }
}
