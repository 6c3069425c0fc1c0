//! What a request for an event stream asks for.

use super::super::{
    SocketContext,
    access::{Access, access},
    channels::{SHARED, kind_named, user_channel},
    encode::Kind,
    http,
    session::rejected,
};
use crate::ApiError;
use oneiro_core::auth::Claims;
use oneiro_events::{ChannelName, Position};
use std::collections::BTreeMap;

/// What the stream carries, and the names that it may not: one of these does not keep it from the others.
pub(super) async fn channels(
    ctx: &SocketContext,
    wanted: &str,
    claims: &Claims,
) -> Result<(Vec<ChannelName>, Vec<ChannelName>), ApiError> {
    let own = user_channel(&claims.user_id);
    if wanted.trim().is_empty() {
        let shared = SHARED.iter().map(|name| name.parse().expect("a constant name"));
        return Ok((shared.chain([own]).collect(), Vec::new()));
    }
    let (mut channels, mut refused): (Vec<ChannelName>, Vec<ChannelName>) = Default::default();
    for name in names(wanted) {
        let channel: ChannelName =
            name.parse().map_err(|_| http::wrong("channels", "must be names separated by commas"))?;
        let is_granted = match access(&channel, claims, &ctx.settings) {
            Access::Granted => true,
            Access::Denied => false,
            Access::IfDream(id) => ctx.dreams.load(id).await?.is_some_and(|dream| dream.is_visible_to(claims)),
        };
        if !is_granted {
            refused.push(channel);
            continue;
        }
        if own_kind(name).is_some() && !channels.contains(&own) {
            channels.push(own.clone());
        }
        if !channels.contains(&channel) {
            channels.push(channel);
        }
    }
    if channels.len() > ctx.settings.max_channels {
        return Err(http::wrong("channels", "are too many for one stream"));
    }
    match refused.first() {
        Some(channel) if channels.is_empty() => {
            Err(rejected("forbidden", http::forbidden(&format!("the channel `{channel}` is not yours to read"))))
        }
        _ => Ok((channels, refused)),
    }
}

fn names(wanted: &str) -> impl Iterator<Item = &str> {
    wanted.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// The kind of event on one's own channel that a name stands for.
fn own_kind(name: &str) -> Option<Kind> {
    kind_named(name).filter(|kind| *kind != Kind::Alert)
}

/// What comes on one's own channel and was not asked for, where one or more kinds of it were asked for by name, and not the channel itself.
pub(super) fn muted(wanted: &str, claims: &Claims) -> Vec<Kind> {
    let own = user_channel(&claims.user_id);
    let asked: Vec<Kind> = names(wanted).filter_map(own_kind).collect();
    if asked.is_empty() || names(wanted).any(|name| name == own.as_str()) {
        return Vec::new();
    }
    [Kind::Notification, Kind::Order, Kind::Material].into_iter().filter(|kind| !asked.contains(kind)).collect()
}

/// `channel=epoch:offset,..`
pub(super) fn parse_id(text: &str) -> BTreeMap<ChannelName, Position> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.filter_map(|(channel, position)| Some((channel.parse().ok()?, position.parse().ok()?))).collect()
}
