//! The dream socket: who may listen, and that nobody who may misses anything.

use anyhow::{Context, Result};
use oneiro_tests::{Form, Frame, Oneiro, Tier, photo, token};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_from_the_start_sees_processing_and_completed() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let mut oneiro = oneiro;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("Live", "text").image(1, photo::jpeg(400, 300, 1)?, 0)).await?;
    let mut through_api = ada.watch(Tier::Api, id).await?;
    let mut through_ws = ada.watch(Tier::Ws, id).await?;
    for socket in [&mut through_api, &mut through_ws] {
        assert_eq!(socket.message_of_type("image_update").await?["status"], "processing", "the snapshot");
    }
    oneiro.start_worker()?;
    let (one, other) = (through_api.update("completed").await?, through_ws.update("completed").await?);
    assert_eq!(one, other, "both tiers tell the same");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_client_gets_the_state_at_once() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("Late", "text").image(1, photo::jpeg(400, 300, 1)?, 0)).await?;
    ada.settled(id, "completed").await?;
    let mut socket = ada.watch(Tier::Ws, id).await?;
    let first = socket.message().await?;
    assert_eq!((&first["type"], &first["status"]), (&json!("image_update"), &json!("completed")));
    assert_eq!(first["images"].as_array().map(Vec::len), Some(1));

    socket.send(&json!({ "type": "request_status", "dream_id": id })).await?;
    assert_eq!(socket.message_of_type("image_update").await?, first);
    // Both ways of writing an id are understood.
    socket.send(&json!({ "type": "request_status", "dream_id": id.to_string() })).await?;
    assert_eq!(socket.message_of_type("image_update").await?, first);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_closed_with_4001() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("Mine", "text")).await?;
    let expired = token(&json!({ "user_id": 1 }), -3600)?;
    let unsigned = "eyJhbGciOiJub25lIn0.eyJ1c2VyX2lkIjoxLCJleHAiOjQxMDI0NDQ4MDB9.";
    let forged = format!("{}x", ada.token());
    for bad in ["", "nonsense", "Bearer ", &expired, unsigned, &forged] {
        for tier in [Tier::Api, Tier::Ws] {
            let mut socket = ada.open(tier, id).await?;
            socket.authenticate(bad).await?;
            assert_eq!(socket.close_code().await?, 4001, "token `{bad}` at {tier:?}");
        }
        let somebody = oneiro.bearer((!bad.is_empty()).then(|| bad.trim().to_owned()))?;
        somebody.get("/api/dreams/").await?.expect(401)?;
    }
    // The right one is taken with and without its scheme.
    let mut socket = ada.open(Tier::Ws, id).await?;
    socket.authenticate(&format!("Bearer {}", ada.token())).await?;
    assert_eq!(socket.message().await?["type"], "connection_established");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_peoples_and_unknown_dreams_are_closed_with_4003() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let (ada, bob) = (oneiro.user(1)?, oneiro.user(2)?);
    let id = ada.dream(Form::new("Mine", "text")).await?;
    for (who, dream) in [(&bob, id), (&bob, 424_242), (&ada, 424_242)] {
        for tier in [Tier::Api, Tier::Ws] {
            let mut socket = who.open(tier, dream).await?;
            socket.authenticate(who.token()).await?;
            assert_eq!(socket.close_code().await?, 4003, "dream {dream} at {tier:?}");
        }
    }
    // Asking for another's dream over one's own socket is an error, and the socket stays.
    let bobs = bob.dream(Form::new("Bob's", "text")).await?;
    let mut socket = bob.watch(Tier::Ws, bobs).await?;
    socket.send(&json!({ "type": "request_status", "dream_id": id })).await?;
    assert!(socket.message_of_type("error").await?["message"].is_string());
    socket.send(&json!({ "type": "request_status", "dream_id": bobs })).await?;
    assert_eq!(socket.message_of_type("image_update").await?["dream_id"], bobs);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_authenticates_is_closed_with_4008() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("Mine", "text")).await?;
    // The contract's time is 30 seconds, which is within the tests' patience.
    let mut socket = ada.open(Tier::Ws, id).await?;
    assert_eq!(socket.close_code().await?, 4008);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_the_address_authenticates_without_a_message() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("Mine", "text")).await?;
    for path in [format!("/ws/dream-images/{id}/"), format!("/ws/dream-images/{id}")] {
        let url = format!("ws://127.0.0.1:{}{path}?token={}", oneiro.port(Tier::Ws), ada.token());
        let mut socket = oneiro_tests::Socket::connect(&url).await?;
        assert_eq!(socket.message().await?["type"], "connection_established");
        assert_eq!(socket.message().await?["type"], "image_update");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_with_their_own_timestamp_and_nonsense_with_an_error() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("Mine", "text")).await?;
    let mut socket = ada.watch(Tier::Ws, id).await?;
    socket.update("completed").await?;
    for timestamp in [json!(1_744_111_111_111_u64), json!(1_744_111_111.25), json!("2025-04-08T10:00:00.000Z")] {
        socket.send(&json!({ "type": "ping", "timestamp": timestamp })).await?;
        assert_eq!(socket.message_of_type("pong").await?["timestamp"], timestamp);
    }
    for nonsense in ["no json", "[]", "7", "{}", r#"{"type":"dance"}"#, r#"{"type":7}"#] {
        socket.send_text(nonsense).await?;
        assert!(socket.message_of_type("error").await?["message"].is_string(), "{nonsense}");
    }
    socket.send(&json!({ "type": "ping", "timestamp": 1 })).await?;
    assert_eq!(socket.message_of_type("pong").await?["timestamp"], 1, "the socket still works");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_tells_its_sockets_to_come_back() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("Mine", "text")).await?;
    let mut socket = ada.watch(Tier::Ws, id).await?;
    oneiro.ws()?.terminate()?;
    let reason = loop {
        if let Frame::Close(code, reason) = socket.frame().await? {
            assert_eq!(code, 1012);
            break reason;
        }
    };
    assert!(reason.contains("retry_after="), "{reason}");
    let status = oneiro.ws()?.ended().await?;
    assert!(status.success(), "{status}");
    oneiro.start_ws()?;
    oneiro.ready().await?;
    let first = ada.watch(Tier::Ws, id).await?.message().await.context("after the restart")?;
    assert_eq!(first["type"], "image_update");
    Ok(())
}
