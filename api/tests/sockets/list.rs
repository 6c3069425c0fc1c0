//! `oneiro sockets list`, as far as the processes answer it.

use crate::{
    node::{node, token},
    presence::eventually,
    redis::{PATIENCE, Redis},
};
use oneiro_core::{
    auth::UserId,
    publish::CONTROL_CHANNEL,
    sockets::{self, Answer, Order, Question},
};
use oneiro_events::{Event, Subscriptions, SubscriptionsOptions};
use serde_json::json;
use std::collections::HashSet;

#[tokio::test]
async fn connections_of_all_processes_are_listed_by_user_and_by_process() {
    let redis = Redis::start().await;
    let (one, two) = (node(&redis).await, node(&redis).await);
    let options = SubscriptionsOptions { attach_timeout: PATIENCE, ..SubscriptionsOptions::default() };
    let subscriptions = Subscriptions::start(redis.subscriber().await, one.broker.clone(), options);
    // A process may be too busy to answer in time, and subscribes to its orders in the background; the listing says so.
    let list = async |user: Option<u64>, node: Option<String>, limit: usize| {
        let begun = std::time::Instant::now();
        loop {
            let listing = sockets::list(&one.broker, &subscriptions, user.map(UserId::from), node.clone(), limit);
            let listing = listing.await.unwrap();
            if listing.is_complete && listing.nodes == 2 {
                return listing;
            }
            assert!(begun.elapsed() < PATIENCE, "{listing:?}");
        }
    };
    let mut clients = Vec::new();
    for (at, user) in [(&one, 1), (&one, 2), (&two, 1)] {
        let mut client = at.connect(&format!("/ws/notifications/?token={}", token(user))).await;
        client.expect_nothing_more().await;
        clients.push(client);
    }
    // Not signed in yet: listed without a user.
    let _waiting = one.connect("/ws/dream-images/1/").await;
    eventually(async || one.ctx.connection_count() == 3).await;
    let all = list(None, None, 100).await;
    assert_eq!((all.total, all.sockets.len()), (4, 4));
    assert_eq!(all.sockets.iter().map(|socket| &socket.id).collect::<HashSet<_>>().len(), 4);
    let signed_in: Vec<_> = all.sockets.iter().filter(|socket| socket.user_id.is_some()).collect();
    assert!(signed_in.iter().all(|socket| socket.dialect == "notifications" && socket.channels == 5));
    assert!(all.sockets.iter().all(|socket| socket.address == "127.0.0.1" && socket.connected_at_ms > 0));

    let of_user = list(Some(1), None, 100).await;
    assert_eq!((of_user.sockets.len(), of_user.total), (2, 2));
    let node = of_user.sockets[0].id.split('-').next().unwrap().to_owned();
    let of_node = list(None, Some(node.clone()), 100).await;
    assert!(of_node.sockets.iter().all(|socket| socket.id.starts_with(&node)));
    assert_eq!(of_node.total, of_node.sockets.len());

    let first = list(None, None, 1).await;
    assert_eq!((first.sockets.len(), first.total), (2, 4), "one of each process");
    drop(clients);
}

#[tokio::test]
async fn an_answer_that_lacks_a_part_is_not_complete() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let options = || SubscriptionsOptions { attach_timeout: PATIENCE, ..SubscriptionsOptions::default() };
    let asking = Subscriptions::start(redis.subscriber().await, node.broker.clone(), options());
    let other = Subscriptions::start(redis.subscriber().await, node.broker.clone(), options());
    // Another process, the first part of whose answer is lost.
    let mut orders = other.subscribe(&CONTROL_CHANNEL.parse().unwrap()).await.unwrap();
    let broker = node.broker.clone();
    let answering = tokio::spawn(async move {
        loop {
            let Event::Publication(order) = orders.recv().await else { continue };
            let Order::List(question) = serde_json::from_slice(&order.payload).unwrap() else { continue };
            let answer = Answer { node: "other".to_owned(), total: 300, sockets: Vec::new(), is_last: true };
            broker.notify(&question.reply, &serde_json::to_vec(&answer).unwrap()).await.unwrap();
        }
    });
    // It may be too busy to answer in time.
    eventually(async || {
        let listing = sockets::list(&node.broker, &asking, None, None, 1_000).await.unwrap();
        assert!(listing.total < 300 || !listing.is_complete, "{listing:?}");
        listing.total >= 300
    })
    .await;
    answering.abort();
}

#[tokio::test]
async fn answers_go_to_channels_for_answers_only() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let options = SubscriptionsOptions { attach_timeout: PATIENCE, ..SubscriptionsOptions::default() };
    let subscriptions = Subscriptions::start(redis.subscriber().await, node.broker.clone(), options);
    let mut victim = subscriptions.subscribe(&"post_1".parse().unwrap()).await.unwrap();
    let question = Question { reply: "post_1".parse().unwrap(), user: None, node: None, limit: 10 };
    let order = serde_json::to_vec(&Order::List(question)).unwrap();
    let control = CONTROL_CHANNEL.parse().unwrap();
    // The process subscribes to its orders in the background.
    eventually(async || node.broker.notify(&control, &order).await.unwrap() > 0).await;
    // Orders are obeyed one after the other: the answer to this one comes behind what the first could have caused.
    eventually(async || sockets::list(&node.broker, &subscriptions, None, None, 10).await.unwrap().nodes == 1).await;
    node.broker.publish(&"post_1".parse().unwrap(), &serde_json::to_vec(&json!({ "n": 1 })).unwrap()).await.unwrap();
    match tokio::time::timeout(PATIENCE, victim.recv()).await.expect("an event in time") {
        Event::Publication(publication) => assert!(publication.position.is_some(), "{publication:?}"),
        gap => panic!("{gap:?}"),
    }
}
