//! Every Redis key of this crate. The literal braces are the cluster hash tag: all keys of one channel share a slot.
//!
//! | key | type | holds | written by | lives |
//! |---|---|---|---|---|
//! | `<prefix>:m:{<channel>}` | hash | `e` epoch, `o` offset, `n` nonces of the last calls, those of a minute and some 30 at most, `r` revision, `b` document | `publish.lua`, `commit.lua` | with a document: as long as it; else [`BrokerOptions::meta_ttl`](crate::BrokerOptions::meta_ttl) after the last publication, and as long as the stream |
//! | `<prefix>:s:{<channel>}` | stream | retained publications, id `<offset>-0`, field `d` | the same | history TTL after the last publication |
//! | `<prefix>:c:{<channel>}` | hash | named readers' places, `<epoch>:<offset>` | `advance_cursor.lua`; `publish.lua` prolongs it | as its writers said, and as long as the stream |
//! | `<prefix>:p:{<channel>}:..` | | presence, listed in its module | `presence*.lua` | |

use crate::ChannelName;

pub(crate) fn meta(prefix: &str, channel: &ChannelName) -> String {
    format!("{prefix}:m:{{{channel}}}")
}

pub(crate) fn stream(prefix: &str, channel: &ChannelName) -> String {
    format!("{prefix}:s:{{{channel}}}")
}

pub(crate) fn cursors(prefix: &str, channel: &ChannelName) -> String {
    format!("{prefix}:c:{{{channel}}}")
}

pub(crate) fn presence(prefix: &str, channel: &ChannelName) -> String {
    format!("{prefix}:p:{{{channel}}}")
}
