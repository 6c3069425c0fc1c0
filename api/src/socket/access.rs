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

#[cfg(test)]
mod tests {
    use super::*;
    use oneiro_core::{
        auth::{UserId, Verifier, mint},
        config::{Config, Role, Secret},
        publish::{CONTROL_CHANNEL, MESSAGES_CHANNEL, PRESENCE_CHANNEL, REPLY_PREFIX, SESSIONS_CHANNEL},
    };
    use std::{collections::BTreeMap, time::Duration};

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    /// What a verified token of this user says.
    fn claims(user: &str, scopes: &str) -> Claims {
        let env = BTreeMap::from([("JWT_SECRET".to_owned(), SECRET.to_owned())]);
        let config = Config::from_layers(Role::Ws, None, &env).unwrap();
        let user = UserId::parse(user).unwrap();
        let token = mint(&Secret::new(SECRET), &user, None, scopes, Duration::from_secs(600)).unwrap();
        Verifier::new(&config.auth).unwrap().verify(&token).unwrap()
    }

    fn open(patterns: &[&str]) -> RealtimeSettings {
        let open_channels = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        RealtimeSettings { open_channels, ..RealtimeSettings::default() }
    }

    fn asked(name: &str, claims: &Claims, settings: &RealtimeSettings) -> Access {
        access(&name.parse().unwrap(), claims, settings)
    }

    #[test]
    fn what_is_ours_is_never_open_whatever_the_patterns_and_scopes_say() {
        let replies = format!("{REPLY_PREFIX}1a2b3c4d");
        let names = [
            "user_8",
            "user_77",
            "user_07",
            "user_",
            "user_x-37",
            "user_x-612062",
            "user_h-00",
            "presence",
            "socket_control",
            "records_sessions",
            "records_messages",
            PRESENCE_CHANNEL,
            CONTROL_CHANNEL,
            SESSIONS_CHANNEL,
            MESSAGES_CHANNEL,
            &replies,
            // Begin like a dream's channel, and are none.
            "dream_images_",
            "dream_images_0",
            "dream_images_x",
            "dream_images_7_extra",
        ];
        for scopes in ["", "publish developer admin"] {
            let claims = claims("7", scopes);
            for name in names {
                let by_name = open(&["*", "user_*", "presence*", "socket_*", "records_*", "dream_images_*", name]);
                for settings in [&open(&["*"]), &by_name] {
                    assert_eq!(asked(name, &claims, settings), Access::Denied, "{name} with `{scopes}`");
                }
            }
        }
    }

    #[test]
    fn ones_own_channel_is_the_only_one_of_a_user() {
        // Ids that a channel's name cannot hold are written in another way; nobody can take an id that reads like it.
        for (user, own) in [("7", "user_7"), ("a b", "user_x-612062"), ("x-612062", "user_x-782d363132303632")] {
            for settings in [open(&[]), open(&["*"])] {
                assert_eq!(asked(own, &claims(user, ""), &settings), Access::Granted, "{own}");
                for other in ["8", "a c", "x-7", "x-612063"] {
                    assert_eq!(asked(own, &claims(other, ""), &settings), Access::Denied, "{own} asked by {other}");
                }
            }
        }
        assert_eq!(asked("user_x-612062", &claims("x-612062", ""), &open(&["*"])), Access::Denied);
    }

    #[test]
    fn shared_channels_are_everybodys_and_dreams_are_looked_up() {
        for settings in [open(&[]), open(&["*"]), open(&["dream_images_*"])] {
            for user in ["7", "a b"] {
                for name in ["notifications", "alerts", "orders", "materials"] {
                    assert_eq!(asked(name, &claims(user, ""), &settings), Access::Granted, "{name}");
                }
                let dream = oneiro_core::dreams::DreamId::parse("42").unwrap();
                assert_eq!(asked("dream_images_42", &claims(user, "admin"), &settings), Access::IfDream(dream));
            }
        }
    }

    #[test]
    fn other_channels_are_open_where_a_pattern_says_so() {
        let claims = claims("7", "publish developer admin");
        let granted = |name: &str, patterns: &[&str]| match asked(name, &claims, &open(patterns)) {
            Access::Granted => true,
            Access::Denied => false,
            Access::IfDream(id) => panic!("{name} is no dream, nor is {id}"),
        };
        for (name, patterns) in [
            ("post_1", ["post_*"].as_slice()),
            ("post_", &["post_*"]),
            ("post_1", &["room_*", "post_*"]),
            ("lobby", &["lobby"]),
            ("anything", &["*"]),
            // A word that begins like one of ours is not ours.
            ("users", &["*"]),
            ("presence_of_mind", &["*"]),
        ] {
            assert!(granted(name, patterns), "{name} {patterns:?}");
        }
        for (name, patterns) in [
            ("post_1", [].as_slice()),
            ("post_1", &["post_"]),
            ("post_1", &["room_*", "posts_*"]),
            ("apost_1", &["post_*"]),
            ("Post_1", &["post_*"]),
            ("lobby2", &["lobby"]),
            ("a.lobby", &["lobby"]),
            // A star stands for anything only at the end.
            ("a_b", &["*_b"]),
            ("post_1", &["p*_1"]),
        ] {
            assert!(!granted(name, patterns), "{name} {patterns:?}");
        }
        let defaults = RealtimeSettings::default();
        for (name, access) in [
            ("post_1", Access::Granted),
            ("room_1", Access::Granted),
            ("public_1", Access::Granted),
            ("secret_1", Access::Denied),
        ] {
            assert_eq!(asked(name, &claims, &defaults), access, "{name}");
        }
    }
}
