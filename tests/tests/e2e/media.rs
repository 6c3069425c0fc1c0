//! Serving variants: parts, caching, and nothing but variants.

use anyhow::{Context, Result};
use oneiro_tests::{Form, Oneiro, Tier, photo};
use reqwest::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sends a request line as it is: no client normalises its path.
async fn raw_get(port: u16, path: &str) -> Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    oneiro_tests::within("an answer", stream.read_to_end(&mut answer)).await??;
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1).context("a status line")?.parse()?;
    Ok((status, answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_are_served_in_parts_and_cached_for_ever() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("Parts", "text").image(1, photo::jpeg(800, 600, 1)?, 0)).await?;
    let done = ada.settled(id, "completed").await?;
    let variant = &done["images"][0]["variants"]["medium"];
    let url = variant["url"].as_str().context("a URL")?;
    // Whoever has the address may look: an <img> sends no token.
    let anybody = oneiro.bearer(None)?;
    let whole = anybody.get(url).await?.expect(200)?;
    assert_eq!(Some(whole.body.len() as u64), variant["bytes"].as_u64());
    assert!(whole.header("cache-control").contains("immutable"), "{:?}", whole.headers);
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("x-content-type-options"), "nosniff");

    let get = |range: &'static str| anybody.request(Method::GET, url).header("range", range);
    let part = anybody.send(get("bytes=10-19")).await?.expect(206)?;
    assert_eq!(part.body, whole.body[10..20]);
    assert_eq!(part.header("content-range"), format!("bytes 10-19/{}", whole.body.len()));
    let tail = anybody.send(get("bytes=-5")).await?.expect(206)?;
    assert_eq!(tail.body, whole.body[whole.body.len() - 5..]);
    let rest = anybody.send(get("bytes=100-")).await?.expect(206)?;
    assert_eq!(rest.body, whole.body[100..]);
    anybody.send(get("bytes=99999999-")).await?.expect(416)?;

    let head = anybody.send(anybody.request(Method::HEAD, url)).await?.expect(200)?;
    assert_eq!(head.header("content-length"), whole.body.len().to_string());
    let known = anybody.request(Method::GET, url).header("if-none-match", whole.header("etag"));
    anybody.send(known).await?.expect(304)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_variants_is_served() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let original = photo::jpeg_with_orientation(400, 300, 6)?;
    let id = ada.dream(Form::new("Mine", "text").image(1, original.clone(), 0)).await?;
    ada.settled(id, "completed").await?;
    let port = oneiro.port(Tier::Api);
    for path in [
        "/media/../../../../../../etc/passwd",
        "/media/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/media/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/media//etc/passwd",
        "/media/..\\..\\etc\\passwd",
        "/media/%00",
        "/media/",
        "/media/x.jpg",
        "/media/../originals/",
        "/../../etc/passwd",
        "/..%2f..%2fCargo.toml",
    ] {
        let (status, answer) = raw_get(port, path).await?;
        let text = String::from_utf8_lossy(&answer);
        assert!(!text.contains("root:") && !text.contains("[workspace]"), "{path} leaks: {text}");
        // Whatever is not a file is not found, or is the page itself.
        assert!((400..500).contains(&status) || text.contains("<!doctype html>"), "{path} got {status}");
    }
    // The stored original has a name that nobody is told, and no address at all.
    let mut folders = vec![oneiro.storage().to_owned()];
    let mut originals = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::read(&path)? == original {
                originals += 1;
                let key = path.strip_prefix(oneiro.storage())?.display().to_string();
                for address in [format!("/media/{key}"), format!("/media/../{key}"), format!("/{key}")] {
                    let (_, answer) = raw_get(port, &address).await?;
                    assert!(!answer.windows(4).any(|bytes| bytes == b"Exif"), "{address} serves an original");
                }
            }
        }
    }
    assert!(originals <= 1);
    Ok(())
}
