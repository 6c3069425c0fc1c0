//! Payloads that only holders of a key can read.
//!
//! A sealed payload is: 1 (this layout with AES-256-GCM-SIV, RFC 8452), the length of the key's id, the id, a nonce of 12 bytes, the
//! ciphertext with its tag of 16. The job's id and kind are authenticated with it, so a payload cannot be moved to another job. The
//! nonce is random; this cipher stays safe should one ever repeat.

use bytes::Bytes;

use crate::{JobId, QueueError};

const LAYOUT: u8 = 1;

/// Keys that seal payloads: the first given seals what is pushed, all of them open.
///
/// To rotate, give all workers and producers a ring that `knows` the new key, then one with the new key first; drop the old
/// key when no job sealed with it is left. A worker that meets a job whose key it does not have hands it back, unspent, for one that has.
/// Payloads are sealed, and only they: kinds, groups, unique keys, metadata, errors, progress and results are stored as they are.
///
/// Keys are made with the crate's feature `encryption`; without it a ring cannot be made, and sealed jobs are handed back.
///
/// # Examples
/// ```
/// # #[cfg(feature = "encryption")]
/// # fn example(old: [u8; 32], new: [u8; 32]) -> Result<(), apalis_fred::QueueError> {
/// use apalis_fred::{KeyRing, QueueOptions};
/// let keys = KeyRing::new("2026-11", &new)?.knows("2026-05", &old)?;
/// let options = QueueOptions { keys: Some(keys), ..QueueOptions::default() };
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct KeyRing {
    keys: Vec<(String, cipher::Key)>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

/// Why a payload does not open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Its key is not in the ring, or its layout is of a later version: another worker may be able to open it.
    UnknownKey,
    /// It was changed, belongs to another job, or its key is another of the same name.
    Broken,
}

impl KeyRing {
    /// A ring whose key `id` (1 to 64 of `A-Z a-z 0-9 _ . -`; stored with each job) seals and opens. The key is 32 random bytes.
    ///
    /// # Errors
    /// [`QueueError::InvalidName`] for a bad id.
    #[cfg(feature = "encryption")]
    pub fn new(id: &str, key: &[u8; 32]) -> Result<Self, QueueError> {
        Self { keys: Vec::new() }.knows(id, key)
    }

    /// Opens what was sealed with this key, too.
    ///
    /// # Errors
    /// [`QueueError::InvalidName`] for a bad id or one that the ring has already.
    #[cfg(feature = "encryption")]
    pub fn knows(mut self, id: &str, key: &[u8; 32]) -> Result<Self, QueueError> {
        if !crate::name::is_plain_name(id) || self.ids().any(|known| known == id) {
            return Err(QueueError::InvalidName { name: id.to_owned() });
        }
        self.keys.push((id.to_owned(), cipher::Key::new(key)?));
        Ok(self)
    }

    /// The ids of its keys, the sealing one first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(id, _)| id.as_str())
    }

    pub(crate) fn seal(&self, job: JobId, kind: &str, payload: &[u8]) -> Result<Bytes, QueueError> {
        let (id, key) = self.keys.first().ok_or(QueueError::Corrupt { what: "a ring without keys" })?;
        let mut out = Vec::with_capacity(2 + id.len() + cipher::OVERHEAD + payload.len());
        out.push(LAYOUT);
        out.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(id.as_bytes());
        key.seal(&bound_to(job, kind), payload, &mut out)?;
        Ok(out.into())
    }

    pub(crate) fn open(&self, job: JobId, kind: &str, sealed: &[u8]) -> Result<Bytes, Closed> {
        if sealed.first().is_some_and(|layout| *layout != LAYOUT) {
            return Err(Closed::UnknownKey);
        }
        let id = key_of(sealed).ok_or(Closed::Broken)?;
        let (_, key) = self.keys.iter().find(|(known, _)| known == id).ok_or(Closed::UnknownKey)?;
        key.open(&bound_to(job, kind), &sealed[2 + id.len()..]).map(Bytes::from).ok_or(Closed::Broken)
    }
}

/// Opens a payload with the keys that there are, if any.
pub(crate) fn open(keys: Option<&KeyRing>, job: JobId, kind: &str, sealed: &[u8]) -> Result<Bytes, Closed> {
    keys.ok_or(Closed::UnknownKey)?.open(job, kind, sealed)
}

/// The id of the key that sealed it.
pub(crate) fn key_of(sealed: &[u8]) -> Option<&str> {
    let [LAYOUT, len, rest @ ..] = sealed else { return None };
    std::str::from_utf8(rest.get(..usize::from(*len))?).ok()
}

/// What is authenticated besides the payload.
fn bound_to(job: JobId, kind: &str) -> Vec<u8> {
    let mut bound = job.to_bytes().to_vec();
    bound.extend_from_slice(kind.as_bytes());
    bound
}

#[cfg(feature = "encryption")]
mod cipher {
    use std::sync::Arc;

    use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

    use crate::QueueError;

    pub(super) const OVERHEAD: usize = NONCE_LEN + 16;

    const FAILED: QueueError = QueueError::Corrupt { what: "a key that does not seal" };

    #[derive(Clone)]
    pub(super) struct Key(Arc<RandomizedNonceKey>);

    impl Key {
        pub(super) fn new(key: &[u8; 32]) -> Result<Self, QueueError> {
            Ok(Self(Arc::new(RandomizedNonceKey::new(&AES_256_GCM_SIV, key).map_err(|_| FAILED)?)))
        }

        /// Appends nonce, ciphertext and tag.
        pub(super) fn seal(&self, bound: &[u8], payload: &[u8], out: &mut Vec<u8>) -> Result<(), QueueError> {
            let mut text = payload.to_vec();
            let nonce = self.0.seal_in_place_append_tag(Aad::from(bound), &mut text).map_err(|_| FAILED)?;
            out.extend_from_slice(nonce.as_ref());
            out.extend_from_slice(&text);
            Ok(())
        }

        pub(super) fn open(&self, bound: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
            let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut text = text.to_vec();
            let opened = self.0.open_in_place(nonce, Aad::from(bound), &mut text).ok()?.len();
            text.truncate(opened);
            Some(text)
        }
    }
}

#[cfg(not(feature = "encryption"))]
mod cipher {
    use crate::QueueError;

    pub(super) const OVERHEAD: usize = 0;

    /// There is none.
    #[derive(Clone)]
    pub(super) enum Key {}

    impl Key {
        pub(super) fn seal(&self, _: &[u8], _: &[u8], _: &mut Vec<u8>) -> Result<(), QueueError> {
            match *self {}
        }

        pub(super) fn open(&self, _: &[u8], _: &[u8]) -> Option<Vec<u8>> {
            match *self {}
        }
    }
}

#[cfg(all(test, feature = "encryption"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_sealed_opens_for_its_job_and_kind_only(payload in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let (ring, job) = (KeyRing::new("k", &[7; 32]).unwrap(), JobId::generate());
            let sealed = ring.seal(job, "kind", &payload).unwrap();
            prop_assert_eq!(key_of(&sealed), Some("k"));
            prop_assert_eq!(ring.open(job, "kind", &sealed).unwrap(), payload);
            prop_assert_eq!(ring.open(job, "other", &sealed), Err(Closed::Broken));
            prop_assert_eq!(ring.open(JobId::generate(), "kind", &sealed), Err(Closed::Broken));
            let mut changed = sealed.to_vec();
            let at = at.index(changed.len());
            changed[at] ^= 1 << bit;
            prop_assert!(ring.open(job, "kind", &changed).is_err());
        }

        #[test]
        fn noise_never_opens(noise in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(KeyRing::new("k", &[7; 32]).unwrap().open(JobId::generate(), "kind", &noise).is_err());
        }
    }

    #[test]
    fn a_layout_to_come_is_for_another_worker_to_open() {
        let (ring, job) = (KeyRing::new("k", &[7; 32]).unwrap(), JobId::generate());
        let mut sealed = ring.seal(job, "kind", b"{}").unwrap().to_vec();
        sealed[0] = LAYOUT + 1;
        assert_eq!(ring.open(job, "kind", &sealed), Err(Closed::UnknownKey));
        assert_eq!(ring.open(job, "kind", b""), Err(Closed::Broken));
    }

    #[test]
    fn a_ring_has_each_name_once() {
        assert!(KeyRing::new("no space", &[0; 32]).is_err());
        assert!(KeyRing::new("a", &[0; 32]).unwrap().knows("a", &[1; 32]).is_err());
        let ring = KeyRing::new("b", &[0; 32]).unwrap().knows("a", &[1; 32]).unwrap();
        assert_eq!(ring.ids().collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!(format!("{ring:?}"), r#"["b", "a"]"#, "keys are never shown");
    }
}
