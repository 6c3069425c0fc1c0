//! `oneiro publish`, `oneiro events` and `oneiro sockets`.

use crate::{
    cli::{EventsCommand, PublishArgs, SocketsCommand},
    show,
};
use anyhow::{Context, bail};
use fred::interfaces::ClientLike;
use oneiro_core::{
    auth::UserId,
    config::Config,
    publish::{MAX_EVENT_BYTES, NewEvent},
    redis,
    sockets::{self, Socket},
};
use oneiro_events::{Broker, ChannelName, Event, Publication, Subscriptions, SubscriptionsOptions};
use std::{
    io::Read,
    time::{Duration, UNIX_EPOCH},
};

const MAX_DATA_BYTES: u64 = MAX_EVENT_BYTES as u64;

pub(crate) fn broker(config: &Config, client: fred::clients::Client) -> Broker {
    Broker::new(client, config.broker_options())
}

pub(crate) async fn run(command: EventsCommand, config: &Config) -> anyhow::Result<()> {
    let EventsCommand::Tail { channel, history } = command;
    let channel: ChannelName = channel.parse().with_context(|| format!("`{channel}` is not a channel name"))?;
    let client = redis::connect(&config.redis).await?;
    let broker = broker(config, client);
    let subscriber = redis::connect_subscriber(&config.redis).await?;
    let subscriptions = Subscriptions::start(subscriber, broker.clone(), SubscriptionsOptions::default());
    let mut events = subscriptions.subscribe(&channel).await?;
    let past = broker.history(&channel, None, 1000).await?.publications;
    let skip = past.len().saturating_sub(usize::try_from(history).unwrap_or(usize::MAX));
    for publication in past.iter().skip(skip) {
        print(publication);
    }
    let told = past.last().and_then(|publication| publication.position.clone());
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            event = events.recv() => match event {
                Event::Publication(publication) => {
                    let is_told = matches!((&publication.position, &told), (Some(new), Some(old)) if new.epoch == old.epoch && new.offset <= old.offset);
                    if !is_told {
                        print(&publication);
                    }
                }
                Event::Gap(_) => show::text("{\"gap\":\"events were lost here; the channel's history no longer holds them\"}"),
            },
        }
    }
}

pub(crate) async fn sockets(command: SocketsCommand, config: &Config, json: bool) -> anyhow::Result<()> {
    let user_id = |user: &str| UserId::parse(user).with_context(|| format!("`{user}` is not a user id"));
    let client = redis::connect(&config.redis).await?;
    let is_clustered = client.is_clustered();
    let broker = broker(config, client);
    match command {
        SocketsCommand::Kick { user } => {
            let id = user_id(&user)?;
            let told = sockets::kick(&broker, &id).await?;
            if told == 0 && !is_clustered {
                bail!(
                    "no socket process heard it: none is connected to this Redis; the connections of user {id} go on where there are any"
                );
            }
            if json {
                return show::json(&serde_json::json!({ "told": told }));
            }
            // A node of a cluster counts its own listeners only.
            let least = if is_clustered { "at least " } else { "" };
            let processes = if told == 1 { "process was" } else { "processes were" };
            show::text(&format!("{least}{told} socket {processes} told to end the connections of user {id}"));
            Ok(())
        }
        SocketsCommand::List { user, node, limit } => {
            let user = user.as_deref().map(user_id).transpose()?;
            let subscriber = redis::connect_subscriber(&config.redis).await?;
            let subscriptions = Subscriptions::start(subscriber, broker.clone(), SubscriptionsOptions::default());
            let listing = sockets::list(&broker, &subscriptions, user, node, limit).await?;
            let is_complete = listing.is_complete;
            if json {
                show::json(&listing)?;
            } else {
                let told = listing.sockets.len();
                let rows = listing.sockets.into_iter().map(row).collect();
                let headers = ["id", "user", "dialect", "address", "since", "channels", "queued"];
                show::table(&headers, rows, "no connections");
                show::text(&format!("{told} of {} connections on {} processes", listing.total, listing.nodes));
            }
            if !is_complete {
                bail!("some socket processes did not answer in time");
            }
            Ok(())
        }
    }
}

fn row(socket: Socket) -> Vec<String> {
    let since = UNIX_EPOCH + Duration::from_millis(socket.connected_at_ms);
    let user = socket.user_id.map_or_else(|| "-".to_owned(), |user| user.to_string());
    let (channels, queued) = (socket.channels.to_string(), socket.queued.to_string());
    vec![socket.id, user, socket.dialect, socket.address, show::ago(since), channels, queued]
}

fn print(publication: &Publication) {
    let payload = serde_json::from_slice::<serde_json::Value>(&publication.payload)
        .unwrap_or_else(|_| String::from_utf8_lossy(&publication.payload).into_owned().into());
    let position =
        publication.position.as_ref().map(|p| serde_json::json!({"epoch": p.epoch.as_str(), "offset": p.offset}));
    show::text(
        &serde_json::json!({"channel": publication.channel.as_str(), "position": position, "event": payload})
            .to_string(),
    );
}

fn read_data(args: &PublishArgs) -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
    let source: Box<dyn Read> = if args.file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?)
    };
    let mut text = String::new();
    source.take(MAX_DATA_BYTES + 1).read_to_string(&mut text).context("cannot read the event's data")?;
    if text.len() as u64 > MAX_DATA_BYTES {
        bail!("the event's data is larger than {MAX_DATA_BYTES} bytes");
    }
    serde_json::from_str(&text).context("the event's data is not a JSON object")
}

pub(crate) async fn publish(args: PublishArgs, config: &Config, json: bool) -> anyhow::Result<()> {
    let user_id = match &args.user {
        Some(id) => Some(UserId::parse(id).with_context(|| format!("`{id}` is not a user id"))?),
        None => None,
    };
    let data = read_data(&args)?;
    let event = NewEvent { r#type: args.r#type, data, user_id, channel: args.channel, ttl_seconds: args.ttl };
    let event = event.accept().map_err(|wrong| {
        let problems: Vec<String> = wrong.into_iter().map(|(field, why)| format!("{field} {why}")).collect();
        anyhow::anyhow!("{}", problems.join("; "))
    })?;
    let broker = broker(config, redis::connect(&config.redis).await?);
    let published = event.publish(&broker, &config.realtime).await?;
    if json {
        return show::json(&published);
    }
    show::text(&format!("published on {} as number {}", published.channel, published.offset));
    Ok(())
}
