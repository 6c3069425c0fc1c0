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

/// A name that the stream does not carry, and why: in the words of the sockets' `rejected`.
pub(super) type Refused<'a> = (&'a str, &'static str);

/// What the stream carries, and the names that it does not: one of these does not keep it from the others.
pub(super) async fn channels<'a>(
    ctx: &SocketContext,
    wanted: &'a str,
    claims: &Claims,
) -> Result<(Vec<ChannelName>, Vec<Refused<'a>>), ApiError> {
    let own = user_channel(&claims.user_id);
    if wanted.trim().is_empty() {
        let shared = SHARED.iter().map(|name| name.parse().expect("a constant name"));
        return Ok((shared.chain([own]).collect(), Vec::new()));
    }
    let (mut channels, mut refused): (Vec<ChannelName>, Vec<Refused<'a>>) = Default::default();
    // As on the sockets, what every user has does not count.
    let mut chosen = 0;
    for name in names(wanted) {
        let Ok(channel) = name.parse::<ChannelName>() else {
            refused.push((name, "invalid_name"));
            continue;
        };
        let is_granted = match access(&channel, claims, &ctx.settings) {
            Access::Granted => true,
            Access::Denied => false,
            Access::IfDream(id) => ctx.dreams.load(id).await?.is_some_and(|dream| dream.is_visible_to(claims)),
        };
        if !is_granted {
            refused.push((name, "forbidden"));
            continue;
        }
        if own_kind(name).is_some() && !channels.contains(&own) {
            channels.push(own.clone());
        }
        if channels.contains(&channel) {
            continue;
        }
        if channel != own && !SHARED.contains(&name) {
            if chosen >= ctx.settings.max_channels {
                refused.push((name, "too_many"));
                continue;
            }
            chosen += 1;
        }
        channels.push(channel);
    }
    if channels.is_empty() {
        return Err(match refused.iter().find(|(_, reason)| *reason == "forbidden") {
            Some((name, _)) => {
                rejected("forbidden", http::forbidden(&format!("the channel `{name}` is not yours to read")))
            }
            None => http::wrong("channels", "must be names separated by commas"),
        });
    }
    Ok((channels, refused))
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
