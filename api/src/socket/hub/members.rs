//! Who is in a channel.

use crate::socket::{conn::Conn, encode::Encoding};
use oneiro_events::Position;
use std::sync::Arc;

pub(super) struct Member {
    pub(super) conn: Arc<Conn>,
    pub(super) encoding: Encoding,
    /// No stored events yet: the session is about to read them.
    pub(super) is_held: bool,
    /// Stored events of its epoch up to here are not delivered: the session has sent them. `None`: the process has dispatched that far. Boxed, as
    /// few need it and there are hundreds of thousands of members.
    pub(super) sent: Option<Box<Position>>,
}

/// Members at places that stay theirs, so that a channel of a hundred thousand finds each at once.
#[derive(Default)]
pub(super) struct Places {
    taken: Vec<Option<Member>>,
    free: Vec<u32>,
}

impl Places {
    pub(super) fn put(&mut self, member: Member) -> u32 {
        member.conn.joined();
        match self.free.pop() {
            Some(place) => {
                self.taken[place as usize] = Some(member);
                place
            }
            None => {
                if self.taken.is_empty() {
                    // Most channels are a user's own, with one member.
                    self.taken.reserve_exact(1);
                }
                self.taken.push(Some(member));
                u32::try_from(self.taken.len() - 1).expect("fewer connections than file descriptors")
            }
        }
    }

    pub(super) fn remove(&mut self, place: u32) {
        if let Some(member) = self.taken[place as usize].take() {
            member.conn.left();
        }
        self.free.push(place);
        if self.free.len() == self.taken.len() {
            *self = Self::default();
        }
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Member> {
        self.taken.get_mut(place as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.taken.iter().flatten()
    }

    /// Has everything behind `end` delivered again, whoever has been sent what stood there before.
    pub(super) fn rewind(&mut self, end: &Position) {
        for sent in self.taken.iter_mut().flatten().filter_map(|member| member.sent.as_mut()) {
            if sent.epoch == end.epoch && sent.offset > end.offset {
                **sent = end.clone();
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.taken.len() - self.free.len()
    }
}
