//! `oneiro sockets list`, as far as the processes answer it.

use crate::{
    node::{node, token},
    redis::{PATIENCE, Redis},
};
use oneiro_core::{auth::UserId, sockets};
use oneiro_events::{Subscriptions, SubscriptionsOptions};
use std::collections::HashSet;

#[tokio::test]
async fn connections_of_all_processes_are_listed_by_user_and_by_process() {
    let redis = Redis::start().await;
    let (one, two) = (node(&redis).await, node(&redis).await);
    let options = SubscriptionsOptions { attach_timeout: PATIENCE, ..SubscriptionsOptions::default() };
    let subscriptions = Subscriptions::start(redis.subscriber().await, one.broker.clone(), options);
    let list = async |user: Option<u64>, node: Option<String>, limit: usize| {
        sockets::list(&one.broker, &subscriptions, user.map(UserId::from), node, limit).await.unwrap()
    };
    let mut clients = Vec::new();
    for (at, user) in [(&one, 1), (&one, 2), (&two, 1)] {
        let mut client = at.connect(&format!("/ws/notifications/?token={}", token(user))).await;
        client.expect_nothing_more().await;
        clients.push(client);
    }
    // Not signed in yet: listed without a user.
    let _waiting = one.connect("/ws/dream-images/1/").await;

    // The processes subscribe to their orders in the background.
    let begun = std::time::Instant::now();
    let all = loop {
        let listing = list(None, None, 100).await;
        if listing.nodes == 2 && listing.sockets.len() == 4 {
            break listing;
        }
        assert!(begun.elapsed() < PATIENCE, "{listing:?}");
    };
    assert!(all.is_complete);
    assert_eq!(all.total, 4);
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
