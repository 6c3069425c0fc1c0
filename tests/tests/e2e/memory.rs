//! What one user can make the server hold in memory.

use anyhow::{Context, Result, ensure};
use oneiro_tests::{Form, Oneiro, eventually};
use reqwest::Method;
use serde_json::{Value, json};

/// The most memory that a process had so far, in KiB; what it has now where the system does not tell.
fn peak_kib(pid: u32) -> Result<u64> {
    if let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("a peak")?;
        return line.trim().trim_end_matches(" kB").parse().context("a number");
    }
    let shown = std::process::Command::new("ps").args(["-o", "rss=", "-p", &pid.to_string()]).output()?;
    String::from_utf8(shown.stdout)?.trim().parse().context("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_small_as_text_and_huge_as_a_tree_stays_small() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("Small", "text")).await?;
    let pid = oneiro.api()?.id()?;
    let before = peak_kib(pid)?;
    let tree = format!("[{}]", vec![r#"{"":0}"#; 500_000].join(","));
    let patch = |body: String| ada.request(Method::PATCH, &format!("/api/dreams/{id}/")).body(body);
    ada.send(patch(format!(r#"{{"title":"Changed","x":{tree}}}"#))).await?.expect(200)?;
    ada.send(patch(format!(r#"{{"categories":{tree}}}"#))).await?.expect(400)?.refuses("categories")?;
    ada.post_dream(Form::new("Form", "text").text("tags", format!(r#"{{"x":{}}}"#, &tree[..1_000_000])))
        .await?
        .refuses("tags")?;
    let grown = peak_kib(pid)? - before;
    ensure!(grown < 100 * 1024, "3.5 MB of JSON took {grown} KiB");
    assert_eq!(ada.show(id).await?["title"], "Changed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_whose_bodies_do_not_come_take_places_of_uploads() -> Result<()> {
    let oneiro = Oneiro::builder()
        .workers(0)
        .env("ONEIRO_UPLOADS_MAX_CONCURRENT_PER_USER", "2")
        .env("ONEIRO_UPLOADS_RATE_PER_MINUTE", "0")
        .start()
        .await?;
    let (ada, bob) = (oneiro.user(1)?, oneiro.user(2)?);
    let id = ada.dream(Form::new("Hers", "text")).await?;
    let path = format!("/api/dreams/{id}/");
    let mut slow = Vec::new();
    for _ in 0..2 {
        slow.push(ada.begin(Method::PATCH, &path, "application/json", 1000).await?);
    }
    let change = json!({ "title": "Changed" });
    ada.patch(&path, &change).await?.expect(429)?;
    bob.post_dream(Form::new("His", "text")).await?.expect(201)?;
    drop(slow);
    eventually("the places are free again", async || Ok((ada.patch(&path, &change).await?.status == 200).then_some(())))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_long_dreams_is_short_and_says_where_to_go_on() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let mut ids = Vec::new();
    for n in 0..20 {
        // Four bytes each, and as many as are allowed.
        ids.push(ada.dream(Form::new(&format!("Long {n}"), &"😴".repeat(200_000))).await?);
    }
    let mut listed = Vec::new();
    let mut pages = 0;
    let mut path = "/api/dreams/?limit=100".to_owned();
    loop {
        let page = ada.get(&path).await?.expect(200)?;
        pages += 1;
        ensure!(page.body.len() < 6 * 1024 * 1024, "{} bytes", page.body.len());
        let results = page.json["results"].as_array().context("results")?;
        ensure!(!results.is_empty(), "a page without anything looks like the end");
        listed.extend(results.iter().filter_map(|dream| dream["id"].as_u64()));
        match &page.json["next"] {
            Value::String(next) => path = format!("/api/dreams/?limit=100&cursor={next}"),
            _ => break,
        }
    }
    ids.reverse();
    assert_eq!((listed, pages > 2), (ids, true));
    Ok(())
}
