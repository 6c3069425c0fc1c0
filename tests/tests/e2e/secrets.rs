//! Tokens stay out of everything that is written down.

use anyhow::{Context, Result, ensure};
use futures::{SinkExt, StreamExt};
use oneiro_tests::{Form, Oneiro, Tier, crowd::Member, within};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_in_no_log() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(0).env("RUST_LOG", "trace").start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("Mine", "text")).await?;
    let bad = format!("{}tampered", ada.token());
    for tier in [Tier::Api, Tier::Ws] {
        ada.watch(tier, id).await?.close().await?;
        for token in [ada.token(), bad.as_str()] {
            for path in [format!("/ws/dream-images/{id}/"), "/ws/notifications/".into(), "/api/v1/ws".into()] {
                let url = format!("ws://127.0.0.1:{}{path}?token={token}", oneiro.port(tier));
                let mut member = Member::connect(&url).await?;
                // Answered, or closed with 4001: either way the token has been read.
                let _ = member.settle().await;
            }
            reqwest::get(format!("{}/api/v1/online?token={token}", oneiro.url(tier))).await?;
            for (name, value) in [
                ("authorization", format!("Bearer {token}")),
                ("cookie", format!("access_token={token}")),
                ("sec-websocket-protocol", format!("bearer, {token}")),
            ] {
                let mut request =
                    format!("ws://127.0.0.1:{}/ws/notifications/", oneiro.port(tier)).into_client_request()?;
                request.headers_mut().insert(name, value.parse()?);
                let (mut stream, _) = within("a socket opens", connect_async(request)).await??;
                // A pong, or the end, which may come before the ping has left: as above.
                let _ = stream.send(Message::text(r#"{"type":"ping"}"#)).await;
                let _ = within("an answer", stream.next()).await?;
                let url = format!("{}/api/v1/events", oneiro.url(tier));
                reqwest::Client::new().get(&url).header(name, value).send().await?;
            }
            reqwest::get(format!("{}/api/v1/events?token={token}", oneiro.url(tier))).await?;
            let mut socket = ada.open(tier, id).await?;
            socket.authenticate(token).await?;
            socket.frame().await?;
        }
    }
    oneiro.stop().await?;
    let mut logs = 0;
    for entry in std::fs::read_dir(oneiro.artifacts().folder())? {
        let text = String::from_utf8_lossy(&std::fs::read(entry?.path())?).into_owned();
        logs += usize::from(text.contains("/ws/notifications"));
        // The signature is what makes a token usable; the tampered one has the same beginning.
        let signature = ada.token().rsplit('.').next().context("a signature")?;
        ensure!(!text.contains(signature), "a token in a log");
    }
    ensure!(logs >= 2, "both processes have logged their requests: {logs}");
    Ok(())
}
