//! Who may read which channel, in one place.

use super::{
    channels::{SHARED, is_reserved, user_channel},
    dream::channel_dream,
};
use oneiro_core::{auth::Claims, config::RealtimeSettings};
use oneiro_events::ChannelName;

/// What a user may do with a channel, as far as that can be told without looking anything up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Granted,
    Denied,
    /// Ask whether the dream is the user's to see.
    IfDream(oneiro_core::dreams::DreamId),
}

/// The one rule of who may read what.
pub(crate) fn access(channel: &ChannelName, claims: &Claims, settings: &RealtimeSettings) -> Access {
    let name = channel.as_str();
    if let Some(id) = channel_dream(channel) {
        return Access::IfDream(id);
    }
    if SHARED.contains(&name) || *channel == user_channel(&claims.user_id) {
        return Access::Granted;
    }
    // What is ours to grant one by one stays so, whatever the patterns say.
    if name.starts_with("user_") || is_reserved(name) {
        return Access::Denied;
    }
    let matches = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    if settings.open_channels.iter().any(matches) { Access::Granted } else { Access::Denied }
}
