use crate::{
    broker, channel,
    redis::{PATIENCE, Redis},
};
use fred::interfaces::{ClientLike, KeysInterface, PubsubInterface};
use fred::types::{ClusterHash, CustomCommand};
use oneiro_events::{
    Broker, BrokerOptions, Event, Position, Publication, Subscription, Subscriptions, SubscriptionsOptions,
};
use std::time::Duration;

async fn subscriptions(redis: &Redis, broker: &Broker) -> Subscriptions {
    Subscriptions::start(
        redis.subscriber().await,
        broker.clone(),
        SubscriptionsOptions { attach_timeout: PATIENCE, ..SubscriptionsOptions::default() },
    )
}

async fn next(subscription: &mut Subscription) -> Event {
    tokio::time::timeout(PATIENCE, subscription.recv()).await.expect("an event in time")
}

async fn next_publication(subscription: &mut Subscription) -> Publication {
    match next(subscription).await {
        Event::Publication(publication) => publication,
        Event::Gap(gap) => panic!("{gap:?}"),
    }
}

fn number(publication: &Publication) -> u64 {
    std::str::from_utf8(&publication.payload).unwrap().parse().unwrap()
}

/// Cuts every connection that is subscribed to something.
async fn cut_subscribers(redis: &Redis) {
    let client = redis.client().await;
    let kill = CustomCommand::new_static("CLIENT", ClusterHash::Random, false);
    let cut: i64 = client.custom(kill, vec!["KILL", "TYPE", "pubsub"]).await.unwrap();
    assert!(cut >= 1);
}

#[tokio::test]
async fn stored_and_plain_publications_are_delivered_in_order() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let subscriptions = subscriptions(&redis, &broker).await;
    let name = channel("dream_images_1");
    let before = broker.publish(&name, b"{\"n\":0}").await.unwrap();
    let mut subscription = subscriptions.subscribe(&name).await.unwrap();
    assert_eq!(*subscription.position(), before);
    broker.publish(&name, b"{\"n\":1}").await.unwrap();
    redis.client().await.publish::<(), _, _>(name.as_str(), "{\"n\":2}").await.unwrap();
    broker.notify(&name, b"{\"n\":3}").await.unwrap();
    let first = next_publication(&mut subscription).await;
    assert_eq!((first.position.map(|p| p.offset), &first.payload[..]), (Some(2), &b"{\"n\":1}"[..]));
    let mut plain = [next_publication(&mut subscription).await, next_publication(&mut subscription).await];
    plain.sort_by(|a, b| a.payload.cmp(&b.payload));
    assert_eq!((plain[0].position.as_ref(), &plain[0].payload[..]), (None, &b"{\"n\":2}"[..]));
    assert_eq!((plain[1].position.as_ref(), &plain[1].payload[..]), (None, &b"{\"n\":3}"[..]));
}

#[tokio::test]
async fn a_burst_of_plain_publishes_is_delivered_whole() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    // More than the client library holds, and delivered while others are busy.
    let burst = 40_000;
    let options =
        SubscriptionsOptions { attach_timeout: PATIENCE, receiver_capacity: burst, ..SubscriptionsOptions::default() };
    let subscriptions = Subscriptions::start(redis.subscriber().await, broker, options);
    let name = channel("user_1");
    let mut subscription = subscriptions.subscribe(&name).await.unwrap();
    let client = redis.client().await.pipeline();
    for n in 0..burst {
        client.publish::<(), _, _>(name.as_str(), n.to_string()).await.unwrap();
    }
    client.last::<()>().await.unwrap();
    for n in 0..burst as u64 {
        assert_eq!(number(&next_publication(&mut subscription).await), n);
    }
}

#[tokio::test]
async fn stored_events_that_find_no_room_are_read_from_the_stream() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let options =
        SubscriptionsOptions { attach_timeout: PATIENCE, backlog_bytes: 2_000, ..SubscriptionsOptions::default() };
    let subscriptions = Subscriptions::start(redis.subscriber().await, broker.clone(), options);
    let name = channel("user_1");
    let mut subscription = subscriptions.subscribe(&name).await.unwrap();
    let payloads: Vec<String> = (0..900).map(|n| n.to_string()).collect();
    futures::future::join_all(payloads.iter().map(|payload| broker.publish(&name, payload.as_bytes()))).await;
    for offset in 1..=payloads.len() as u64 {
        let publication = next_publication(&mut subscription).await;
        assert_eq!(publication.position.map(|position| position.offset), Some(offset));
    }
}

#[tokio::test]
async fn every_listener_of_a_channel_is_told_and_the_last_one_unsubscribes() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let subscriptions = subscriptions(&redis, &broker).await;
    let name = channel("a");
    let mut one = subscriptions.subscribe(&name).await.unwrap();
    let mut two = subscriptions.subscribe(&name).await.unwrap();
    assert_eq!(subscriptions.channel_count(), 1);
    broker.publish(&name, b"1").await.unwrap();
    assert_eq!((number(&next_publication(&mut one).await), number(&next_publication(&mut two).await)), (1, 1));
    drop(one);
    broker.publish(&name, b"2").await.unwrap();
    assert_eq!(number(&next_publication(&mut two).await), 2);
    drop(two);
    let client = redis.client().await;
    tokio::time::timeout(PATIENCE, async {
        loop {
            let channels: Vec<String> = client.pubsub_channels("*").await.unwrap();
            if channels.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the process unsubscribes");
    // And comes back when somebody asks again.
    let mut three = subscriptions.subscribe(&name).await.unwrap();
    broker.publish(&name, b"3").await.unwrap();
    assert_eq!(number(&next_publication(&mut three).await), 3);
}

#[tokio::test]
async fn hundreds_of_channels_subscribe_at_once() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let subscriptions = subscriptions(&redis, &broker).await;
    let names: Vec<_> = (0..1_500).map(|n| channel(&format!("user_{n}"))).collect();
    let mut open = futures::future::try_join_all(names.iter().map(|name| subscriptions.subscribe(name))).await.unwrap();
    futures::future::try_join_all(names.iter().enumerate().map(|(n, name)| {
        let broker = broker.clone();
        async move { broker.publish(name, n.to_string().as_bytes()).await }
    }))
    .await
    .unwrap();
    for (n, subscription) in open.iter_mut().enumerate() {
        assert_eq!(number(&next_publication(subscription).await), n as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_costs_no_event_and_repeats_none() {
    const EVENTS: u64 = 3_000;
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let subscriptions = subscriptions(&redis, &broker).await;
    let name = channel("a");
    let mut subscription = subscriptions.subscribe(&name).await.unwrap();
    let publisher = tokio::spawn({
        let (broker, name) = (Broker::new(redis.client().await, broker.options().clone()), name.clone());
        async move {
            for n in 1..=EVENTS {
                broker.publish(&name, n.to_string().as_bytes()).await.unwrap();
            }
        }
    });
    for expected in 1..=EVENTS {
        assert_eq!(number(&next_publication(&mut subscription).await), expected);
        if expected % 700 == 0 {
            cut_subscribers(&redis).await;
        }
    }
    publisher.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_redis_costs_no_event_and_repeats_none() {
    let mut redis = Redis::start().await;
    let options = BrokerOptions::default();
    let broker = broker(&redis).await;
    let subscriptions = subscriptions(&redis, &broker).await;
    let name = channel("a");
    let mut subscription = subscriptions.subscribe(&name).await.unwrap();
    broker.publish(&name, b"1").await.unwrap();
    assert_eq!(number(&next_publication(&mut subscription).await), 1);
    for round in 0..3_u64 {
        redis.restart().await;
        // A publisher of its own connects at once, so these go out while the subscriber is likely still away.
        let other = Broker::new(redis.client().await, options.clone());
        for n in 0..10 {
            other.publish(&name, (2 + round * 10 + n).to_string().as_bytes()).await.unwrap();
        }
    }
    for expected in 2..32 {
        assert_eq!(number(&next_publication(&mut subscription).await), expected);
    }
}

#[tokio::test]
async fn what_redis_forgot_is_told_as_a_gap() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let subscriptions = subscriptions(&redis, &broker).await;
    let name = channel("a");
    let mut subscription = subscriptions.subscribe(&name).await.unwrap();
    let first = broker.publish(&name, b"1").await.unwrap();
    assert_eq!(number(&next_publication(&mut subscription).await), 1);
    redis.client().await.flushall::<()>(false).await.unwrap();
    let second = broker.publish(&name, b"2").await.unwrap();
    match next(&mut subscription).await {
        Event::Gap(gap) => assert_eq!((gap.from, gap.to), (first, Position { epoch: second.epoch, offset: 0 })),
        other => panic!("{other:?}"),
    }
    // What is still there is no part of the gap.
    assert_eq!(number(&next_publication(&mut subscription).await), 2);
    broker.publish(&name, b"3").await.unwrap();
    assert_eq!(number(&next_publication(&mut subscription).await), 3);
}

#[tokio::test]
async fn the_first_event_after_a_silence_that_outlived_the_numbering_is_delivered() {
    let redis = Redis::start().await;
    let brief = Duration::from_millis(1);
    let options = BrokerOptions { history_ttl: brief, meta_ttl: brief, ..BrokerOptions::default() };
    let (broker, forgetful) = (broker(&redis).await, Broker::new(redis.client().await, options));
    let subscriptions = subscriptions(&redis, &broker).await;
    let name = channel("user_1");
    let mut subscription = subscriptions.subscribe(&name).await.unwrap();
    for n in 1..=3_u64 {
        forgetful.publish(&name, n.to_string().as_bytes()).await.unwrap();
        while broker.position(&name).await.unwrap() != Position::origin() {
            tokio::time::sleep(brief).await;
        }
    }
    broker.publish(&name, b"4").await.unwrap();
    let mut numbers = Vec::new();
    while numbers.last() != Some(&4) {
        if let Event::Publication(publication) = next(&mut subscription).await {
            numbers.push(number(&publication));
        }
    }
}

#[tokio::test]
async fn what_was_not_trimmed_yet_is_delivered_behind_the_gap() {
    let redis = Redis::start().await;
    let options = BrokerOptions { history_len: 10, ..BrokerOptions::default() };
    let broker = Broker::new(redis.client().await, options);
    let subscriber = redis.subscriber().await;
    let options = SubscriptionsOptions { attach_timeout: PATIENCE, ..SubscriptionsOptions::default() };
    let subscriptions = Subscriptions::start(subscriber.clone(), broker.clone(), options);
    let name = channel("a");
    let mut subscription = subscriptions.subscribe(&name).await.unwrap();
    broker.publish(&name, b"1").await.unwrap();
    assert_eq!(number(&next_publication(&mut subscription).await), 1);
    // Behind the back of the subscriptions: what is published now is lost to pub/sub.
    subscriber.unsubscribe(name.as_str()).await.unwrap();
    subscriber.ping::<String>(None).await.unwrap();
    for n in 2..=500 {
        broker.publish(&name, n.to_string().as_bytes()).await.unwrap();
    }
    subscriber.force_reconnection().await.unwrap();
    let first = match next(&mut subscription).await {
        Event::Gap(gap) => gap.to.offset + 1,
        other => panic!("{other:?}"),
    };
    assert!((300..=491).contains(&first), "what is retained begins at {first}");
    for expected in first..=500 {
        assert_eq!(number(&next_publication(&mut subscription).await), expected);
    }
}

#[tokio::test]
async fn a_reader_that_lags_is_told_of_the_gap_and_goes_on() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let options =
        SubscriptionsOptions { receiver_capacity: 4, attach_timeout: PATIENCE, ..SubscriptionsOptions::default() };
    let subscriptions = Subscriptions::start(redis.subscriber().await, broker.clone(), options);
    let name = channel("a");
    let mut slow = subscriptions.subscribe(&name).await.unwrap();
    // Told after the slow one, so when it has an event the slow one's queue has seen it.
    let mut quick = subscriptions.subscribe(&name).await.unwrap();
    let mut last = slow.position().clone();
    for n in 1..=10 {
        last = broker.publish(&name, n.to_string().as_bytes()).await.unwrap();
        assert_eq!(number(&next_publication(&mut quick).await), n);
    }
    for expected in 1..=4 {
        assert_eq!(number(&next_publication(&mut slow).await), expected);
    }
    match next(&mut slow).await {
        Event::Gap(gap) => assert_eq!((gap.from.offset, gap.to), (4, last)),
        other => panic!("{other:?}"),
    }
    broker.publish(&name, b"11").await.unwrap();
    assert_eq!(number(&next_publication(&mut slow).await), 11);
    assert_eq!(number(&next_publication(&mut quick).await), 11);
}

#[tokio::test]
async fn one_channel_that_cannot_be_read_keeps_no_other_from_healing() {
    let redis = Redis::start().await;
    let broker = broker(&redis).await;
    let subscriber = redis.subscriber().await;
    let options = SubscriptionsOptions { attach_timeout: PATIENCE, ..SubscriptionsOptions::default() };
    let subscriptions = Subscriptions::start(subscriber.clone(), broker.clone(), options);
    let names: Vec<_> = (0..40).map(|n| channel(&format!("user_{n}"))).collect();
    let mut readers =
        futures::future::try_join_all(names.iter().map(|name| subscriptions.subscribe(name))).await.unwrap();
    // Behind the back of the subscriptions: what is published now is lost to pub/sub.
    subscriber.unsubscribe(names.iter().map(ToString::to_string).collect::<Vec<_>>()).await.unwrap();
    subscriber.ping::<String>(None).await.unwrap();
    for name in &names {
        broker.publish(name, b"1").await.unwrap();
    }
    let (client, meta) = (redis.client().await, format!("{}:m:{{user_20}}", broker.options().key_prefix));
    client.rename::<(), _, _>(&meta, "aside").await.unwrap();
    client.set::<(), _, _>(&meta, "not a hash", None, None, false).await.unwrap();
    subscriber.force_reconnection().await.unwrap();
    for (n, reader) in readers.iter_mut().enumerate().filter(|(n, _)| *n != 20) {
        assert_eq!(number(&next_publication(reader).await), 1, "user_{n}");
    }
    // Others join meanwhile, and the sick one is not forgotten.
    let mut late = subscriptions.subscribe(&channel("late")).await.unwrap();
    broker.publish(&channel("late"), b"2").await.unwrap();
    assert_eq!(number(&next_publication(&mut late).await), 2);
    client.rename::<(), _, _>("aside", &meta).await.unwrap();
    assert_eq!(number(&next_publication(&mut readers[20]).await), 1);
}
