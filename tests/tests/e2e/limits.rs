//! How much one user may upload, how much of it at once, and how a list is asked for.

use anyhow::{Context, Result, ensure};
use oneiro_tests::{Answer, Form, Oneiro, Tier, User, eventually, photo, within};
use reqwest::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sees that this is a 429 as the contract has it, and returns after how many seconds to come back.
fn retry_after(answer: &Answer) -> Result<u64> {
    ensure!(answer.status == 429, "expected 429, not {}: {}", answer.status, answer.json);
    ensure!(answer.json["code"] == "rate_limited" && answer.json["detail"].is_string(), "{}", answer.json);
    answer.header("retry-after").parse().context("Retry-After is a number of seconds")
}

async fn listed(user: &User) -> Result<usize> {
    Ok(user.get("/api/dreams/?limit=100").await?.expect(200)?.json["results"].as_array().context("a list")?.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn more_uploads_a_minute_than_allowed_are_told_when_to_come_back() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).env("ONEIRO_UPLOADS_RATE_PER_MINUTE", "3").start().await?;
    let (ada, bob) = (oneiro.user(1)?, oneiro.user(2)?);
    let mut accepted = 0;
    let refused = loop {
        let answer = ada.post_dream(Form::new("One more", "text")).await?;
        if answer.status != 201 {
            break answer;
        }
        accepted += 1;
        // The minute may have ended once on the way.
        ensure!(accepted <= 6, "nobody counts");
    };
    ensure!(accepted >= 3, "only {accepted} were let in");
    let wait = retry_after(&refused)?;
    ensure!((1..=60).contains(&wait), "within a minute, not in {wait} s");
    assert_eq!(listed(&ada).await?, accepted, "reading is not limited, and nothing of a refused upload is kept");
    bob.post_dream(Form::new("Another's", "text")).await?.expect(201)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_uploads_so_much_at_once_and_no_more() -> Result<()> {
    let oneiro = Oneiro::builder()
        .workers(0)
        .env("ONEIRO_UPLOADS_MAX_CONCURRENT_PER_USER", "1")
        .env("ONEIRO_UPLOADS_RATE_PER_MINUTE", "0")
        .start()
        .await?;
    let (ada, bob) = (oneiro.user(1)?, oneiro.user(2)?);
    let slow = ada.begin(Method::POST, "/api/dreams/", "multipart/form-data; boundary=XX", 1000).await?;
    let refused = ada.post_dream(Form::new("At once", "text")).await?;
    assert_eq!(retry_after(&refused)?, 1);
    bob.post_dream(Form::new("Another's", "text")).await?.expect(201)?;
    let metrics = reqwest::get(format!("{}/metrics", oneiro.url(Tier::Api))).await?.text().await?;
    ensure!(metrics.contains(r#"oneiro_uploads_refused_total{reason="user"} 1"#), "it is counted: {metrics}");
    drop(slow);
    eventually("the place is free again", async || {
        let answer = ada.post_dream(Form::new("After it", "text")).await?;
        if answer.status == 201 {
            return Ok(Some(()));
        }
        retry_after(&answer).map(|_| None)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_as_a_whole_is_refused_announced_or_not() -> Result<()> {
    let oneiro = Oneiro::builder()
        .workers(0)
        .env("ONEIRO_UPLOADS_MAX_BODY_BYTES", "200000")
        .env("ONEIRO_UPLOADS_MAX_FILE_BYTES", "150000")
        .start()
        .await?;
    let ada = oneiro.user(1)?;
    // Announced: refused before a byte of it is sent.
    let mut stream = TcpStream::connect(("127.0.0.1", oneiro.port(Tier::Api))).await?;
    let head = format!(
        "POST /api/dreams/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 200001\r\n\
         Connection: close\r\nContent-Type: multipart/form-data; boundary=XX\r\n\r\n",
        ada.token()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    within("an answer", stream.read_to_string(&mut answer)).await??;
    ensure!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("200000"), "{answer}");

    // Not announced: no file is too large, but all of them are.
    let mut body = String::from("--XX\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nTitle\r\n").into_bytes();
    let mut picture = photo::jpeg(64, 48, 1)?;
    picture.resize(120_000, 0);
    for n in 1..=2 {
        let part =
            format!("--XX\r\nContent-Disposition: form-data; name=\"imageFile_{n}\"; filename=\"a.jpg\"\r\n\r\n");
        body.extend(part.as_bytes());
        body.extend(&picture);
        body.extend(b"\r\n");
    }
    body.extend(b"--XX--\r\n");
    let pieces: Vec<Result<Vec<u8>, std::io::Error>> = body.chunks(10_000).map(|piece| Ok(piece.to_vec())).collect();
    let request = ada
        .request(Method::POST, "/api/dreams/")
        .header("content-type", "multipart/form-data; boundary=XX")
        .body(reqwest::Body::wrap_stream(futures::stream::iter(pieces)));
    let answer = ada.send(request).await?.expect(413)?;
    answer.refuses("200000")?;
    assert_eq!(listed(&ada).await?, 0);
    let originals = oneiro.storage().join("originals");
    eventually("no file of it is left", async || {
        let left = std::fs::read_dir(&originals).map(|dreams| {
            dreams
                .flatten()
                .filter_map(|dream| std::fs::read_dir(dream.path()).ok())
                .flat_map(Iterator::flatten)
                .count()
        });
        Ok((left.unwrap_or(0) == 0).then_some(()))
    })
    .await?;
    // One of them alone is well.
    let id = ada.dream(Form::new("Fits", "text").image(1, picture, 0)).await?;
    assert_eq!(ada.show(id).await?["title"], "Fits");
    Ok(())
}

/// Refused for the sender's sake, before a byte of the body is read: the sender hears of it, and what it asks next on the connection is answered.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_at_once_gets_to_read_why_and_may_go_on() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let nobody = oneiro.bearer(None)?;
    let mut stream = TcpStream::connect(("127.0.0.1", oneiro.port(Tier::Api))).await?;
    let length = 1_000_000;
    let head = format!(
        "POST /api/dreams/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\n\r\n"
    );
    for _ in 0..2 {
        stream.write_all(head.as_bytes()).await?;
        within("the body is taken", stream.write_all(&vec![b'x'; length])).await??;
        let answer = read_answer(&mut stream).await?;
        ensure!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("connection: close"), "{answer}");
    }
    // One that asks before it sends is told without sending, and so is one that announces much; what it sends all the same resets nothing.
    for (header, sends) in
        [("Expect: 100-continue\r\nContent-Length: 900000", 0), ("Content-Length: 300000000000", 9_000_000)]
    {
        let mut stream = TcpStream::connect(("127.0.0.1", oneiro.port(Tier::Api))).await?;
        stream
            .write_all(format!("POST /api/dreams/ HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n").as_bytes())
            .await?;
        within("the body is taken", stream.write_all(&vec![b'x'; sends])).await??;
        let mut answer = String::new();
        within("an answer and the end", stream.read_to_string(&mut answer)).await??;
        ensure!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("connection: close"), "{answer}");
    }
    // One that breaks off has no end that could be read.
    let mut stream = TcpStream::connect(("127.0.0.1", oneiro.port(Tier::Api))).await?;
    let broken = "POST /api/dreams/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n";
    stream.write_all(broken.as_bytes()).await?;
    let mut answer = String::new();
    within("an answer and the end", stream.read_to_string(&mut answer)).await??;
    ensure!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("connection: close"), "{answer}");
    // As it happens to clients: one connection, each request answered.
    let form = || Form::new("Mine", "text").image(1, vec![7; 1_000_000], 0);
    for _ in 0..10 {
        nobody.post_dream(form()).await?.expect(401)?;
        nobody.get("/healthz").await?.expect(200)?;
    }
    Ok(())
}

/// An answer whose length is told, whole.
async fn read_answer(stream: &mut TcpStream) -> Result<String> {
    let mut answer = Vec::new();
    loop {
        let read = within("an answer", stream.read_buf(&mut answer)).await??;
        ensure!(read > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        let text = String::from_utf8_lossy(&answer).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("a length")?;
        if body.len() >= length.parse()? {
            return Ok(String::from_utf8(answer)?);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_asked_for_in_pages_of_one_to_a_hundred() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.insert(0, ada.dream(Form::new(&format!("Number {n}"), "text")).await?);
    }
    for limit in ["0", "101", "-1", "1.5", "x", "", "99999999999999999999"] {
        let answer = ada.get(&format!("/api/dreams/?limit={limit}")).await?;
        answer.refuses("limit").with_context(|| format!("limit={limit}"))?;
        assert_eq!((answer.status.as_u16(), answer.json["fields"]["limit"].is_string()), (400, true), "limit={limit}");
    }
    for cursor in ["0", "-1", "x", "1.5", "007", "9007199254740992", "99999999999999999999"] {
        let answer = ada.get(&format!("/api/dreams/?cursor={cursor}")).await?;
        answer.refuses("cursor").with_context(|| format!("cursor={cursor}"))?;
        assert_eq!(
            (answer.status.as_u16(), answer.json["fields"]["cursor"].is_string()),
            (400, true),
            "cursor={cursor}"
        );
    }
    assert_eq!(listed(&ada).await?, 3, "a hundred is the most, and allowed");
    let mut seen = Vec::new();
    let mut path = "/api/dreams/?limit=1".to_owned();
    for _ in 0..=ids.len() {
        let page = ada.get(&path).await?.expect(200)?.json;
        let results = page["results"].as_array().context("a list")?;
        ensure!(results.len() <= 1, "no more than asked for: {page}");
        seen.extend(results.iter().filter_map(|dream| dream["id"].as_u64()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/dreams/?limit=1&cursor={next}");
    }
    assert_eq!(seen, ids, "each once, the newest first, and then an end");
    Ok(())
}
