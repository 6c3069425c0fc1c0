//! Resuming from a place that no event told.

use crate::{
    node::{node, token},
    redis::Redis,
};
use serde_json::json;

#[tokio::test]
async fn a_client_that_saw_no_event_resumes_from_where_it_subscribed() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    let path = format!("/ws/notifications/?positions=1&token={}", token(1));
    node.publish(json!({ "type": "edited", "channel": "post_1", "data": { "n": 1 } })).await;
    let mut client = node.connect(&path).await;
    let subscribe = json!({ "type": "subscribe", "channels": ["post_1", "post_2", "alerts"] });
    client.send(subscribe.clone()).await;
    let answer = client.expect("subscription_success").await;
    let positions = answer["positions"].clone();
    assert_eq!(positions["post_1"]["offset"], 1);
    assert_eq!(positions["post_2"], json!({ "epoch": "", "offset": 0 }), "nothing was ever stored there");
    assert!(positions["alerts"].is_object(), "a channel that the connection came with");
    client.expect_nothing_more().await;
    client.stream.close(None).await.unwrap();

    node.publish(json!({ "type": "edited", "channel": "post_1", "data": { "n": 2 } })).await;
    node.publish(json!({ "type": "edited", "channel": "post_2", "data": { "n": 3 } })).await;
    let mut client = node.connect(&path).await;
    let mut resuming = subscribe;
    resuming["since"] = positions;
    client.send(resuming).await;
    let answer = client.expect("subscription_success").await;
    assert_eq!(answer["positions"]["post_1"]["offset"], 1, "until what was missed has come, it stays where it was");
    for (channel, n) in [("post_1", 2), ("post_2", 3)] {
        let resumed = client.expect("resumed").await;
        assert_eq!((&resumed["channel"], &resumed["recovered"]), (&json!(channel), &json!(1)));
        assert_eq!(client.expect("edited").await["data"]["n"], n);
    }
    let resumed = client.expect("resumed").await;
    assert_eq!((&resumed["channel"], &resumed["recovered"]), (&json!("alerts"), &json!(0)));
    client.expect_nothing_more().await;
}

#[tokio::test]
async fn the_first_event_of_a_channel_is_not_lost_to_who_joins_at_that_moment() {
    let redis = Redis::start().await;
    let node = node(&redis).await;
    // Each user's channel is new, and its first event is published while the user connects: it comes live, or with what waits.
    let connections = (0..40).map(|user| {
        let node = &node;
        async move {
            let path = format!("/ws/notifications/?token={}", token(user));
            let event = json!({ "type": "notification", "user_id": user, "data": { "title": "first" } });
            let (mut client, _) = tokio::join!(node.connect(&path), node.publish(event));
            assert_eq!(client.expect("notification").await["data"]["title"], "first");
            client.expect_nothing_more().await;
        }
    });
    futures::future::join_all(connections).await;
}
