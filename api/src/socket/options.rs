//! What a connection is: the protocol that it speaks, and what its URL asks for.

use super::handshake::Caller;
use oneiro_core::config::IdForm;
use oneiro_events::{Epoch, Position};

/// Which seed's protocol a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `/ws/dream-images/{id}/`
    Dream,
    /// `/ws/notifications/`
    Notifications,
    /// `/api/v1/ws`
    Presence,
}

impl Dialect {
    /// Each at the index that it is as a number.
    pub(crate) const ALL: [Self; 3] = [Self::Dream, Self::Notifications, Self::Presence];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Dream => "dream",
            Self::Notifications => "notifications",
            Self::Presence => "presence",
        }
    }
}

/// What the client asked for in the URL.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) ids: IdForm,
    pub(crate) with_progress: bool,
    pub(crate) with_position: bool,
}

impl Options {
    /// The options, and the place to resume from.
    pub(crate) fn of(caller: &Caller, default_ids: IdForm) -> (Self, Option<Position>) {
        let is_on = |name: &str| caller.parameter(name).is_some_and(|value| matches!(&*value, "1" | "true"));
        let ids = match caller.parameter("ids").as_deref() {
            Some("mixed") => IdForm::Mixed,
            Some("string") => IdForm::String,
            Some("number") => IdForm::Number,
            _ => default_ids,
        };
        let resume = position(caller.parameter("epoch").as_deref(), caller.parameter("seq").as_deref());
        let with_position = is_on("positions") || resume.is_some();
        (Self { ids, with_progress: is_on("progress"), with_position }, resume)
    }
}

fn position(epoch: Option<&str>, seq: Option<&str>) -> Option<Position> {
    Some(Position { epoch: Epoch::parse(epoch?)?, offset: seq?.parse().ok()? })
}
