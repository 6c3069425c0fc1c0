//! A reading of a channel, and what it says to a reader who stands somewhere.

use crate::{Position, Publication};

/// One reading of a channel's stream and end.
pub(crate) struct Read {
    pub(crate) publications: Vec<Publication>,
    pub(crate) position: Position,
    pub(super) first_retained: Option<u64>,
}

impl Read {
    /// Whether everything after `since` is still there.
    pub(crate) fn reaches_back_to(&self, since: &Position) -> bool {
        if since.epoch != self.position.epoch && !since.is_origin() {
            return false;
        }
        since.offset == self.position.offset
            || (since.offset < self.position.offset
                && self.first_retained.is_some_and(|first| first <= since.offset + 1))
    }

    /// Where a reader that stands at `since` goes on, where this does not reach back to it: in front of the oldest event that is left and that it
    /// cannot have had. In a stream that lost its end nobody knows which those are, and it goes on behind all of them.
    pub(crate) fn goes_on_at(&self, since: &Position) -> Position {
        let is_later = |first: u64| since.epoch != self.position.epoch || since.offset < first;
        match self.first_retained.filter(|first| is_later(*first)) {
            Some(first) => Position { epoch: self.position.epoch.clone(), offset: first.saturating_sub(1) },
            None => self.position.clone(),
        }
    }
}
