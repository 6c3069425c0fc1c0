//! Upload, see, change, try again.

use anyhow::{Context, Result};
use fred::interfaces::SortedSetsInterface;
use oneiro_tests::{Form, Oneiro, Tier, noise, photo};
use serde_json::{Value, json};

/// Fetches a URL of a variant and returns the picture's true size.
async fn fetched_size(user: &oneiro_tests::User, url: &Value) -> Result<(u32, u32)> {
    let answer = user.get(url.as_str().context("a URL")?).await?.expect(200)?;
    assert_eq!(answer.header("content-type"), "image/jpeg");
    photo::size(&answer.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_photo_is_answered_at_once_processed_and_served_in_three_sizes() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let form = Form::new("A walk", "Hills and a sky").image(1, photo::twelve_megapixels(1)?, 5);
    let form = form.text("categories", r#"["normal","lucid"]"#);
    let form = form.text("tags", r#"{"theme":["hills"],"character":["me"],"location":["north"]}"#);
    let made = ada.post_dream(form).await?.expect(201)?.json;
    let id = made["id"].as_u64().context("an id")?;
    assert_eq!(made["title"], "A walk");
    assert_eq!(made["content"], "Hills and a sky");
    assert_eq!(made["categories"], json!(["normal", "lucid"]));
    assert_eq!(made["theme_tags"], json!(["hills"]));
    assert_eq!(made["character_tags"], json!(["me"]));
    assert_eq!(made["location_tags"], json!(["north"]));
    assert_eq!(made["images"], json!([]));
    assert_eq!(made["images_status"]["status"], "processing");
    assert_eq!(made["images_status"]["websocket_url"], format!("/ws/dream-images/{id}/"));
    assert_eq!(made["images_status"]["images"], json!([]));
    let created = made["created_at"].as_str().context("a time")?;
    assert!(!created.contains(['Z', '+']), "created_at is naive, as the contract has it: {created}");

    let mut socket = ada.watch(Tier::Ws, id).await?;
    let updates = socket.updates_until("completed").await?;
    for earlier in &updates[..updates.len() - 1] {
        assert_eq!(earlier["status"], "processing");
        assert_eq!(earlier["images"], json!([]));
    }
    let done = updates.last().context("the last one")?;
    assert_eq!(done["dream_id"], id);
    assert!(done["timestamp"].is_f64(), "Unix seconds with a fraction: {done}");
    assert!(done.get("message").is_some_and(Value::is_null), "a message that is null: {done}");
    let image = &done["images"][0];
    assert_eq!(image["position"], 5);
    assert_eq!((&image["width"], &image["height"]), (&json!(4000), &json!(3000)));
    for (name, expected) in [("large", (2048, 1536)), ("medium", (1024, 768)), ("small", (320, 240))] {
        let variant = &image["variants"][name];
        assert_eq!((&variant["width"], &variant["height"]), (&json!(expected.0), &json!(expected.1)), "{name}");
        assert_eq!(fetched_size(&ada, &variant["url"]).await?, expected, "{name}");
    }
    assert_eq!(image["url"], image["variants"]["medium"]["url"]);

    let shown = ada.show(id).await?;
    assert_eq!(shown["images"], done["images"]);
    assert_eq!(shown["images_status"]["images"], done["images"]);
    assert_eq!(shown["images_status"]["status"], "completed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_keep_the_order_of_their_numbers_and_their_positions() -> Result<()> {
    let oneiro = Oneiro::builder().workers(2).start().await?;
    let ada = oneiro.user(1)?;
    // Ten comes after nine, numbers may have gaps, the large one is ready last, a file without metadata goes to the end.
    // The content has 5 UTF-16 code units: the picture sign counts as two.
    let form = Form::new("Order", "a🌄bc")
        .image(10, photo::jpeg(400, 300, 2)?, 3)
        .image(2, photo::twelve_megapixels(3)?, 3)
        .image(9, photo::jpeg(300, 400, 4)?, 0)
        .file("imageFile_12", "last.jpg", photo::jpeg(200, 100, 5)?);
    let id = ada.dream(form).await?;
    let done = ada.settled(id, "completed").await?;
    let images = done["images"].as_array().context("images")?;
    let seen: Vec<(u64, u64)> =
        images.iter().filter_map(|image| Some((image["width"].as_u64()?, image["position"].as_u64()?))).collect();
    assert_eq!(seen, [(4000, 3), (300, 0), (400, 3), (200, 5)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_taken_turned_upright_and_never_enlarged() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let form = Form::new("Formats", "text")
        .image(1, photo::fixture("phone.jpg")?, 0)
        .image(2, photo::fixture("chelsea.png")?, 0)
        .image(3, photo::encoded(640, 480, 7, image::ImageFormat::WebP)?, 0)
        .image(4, photo::encoded(100, 50, 8, image::ImageFormat::Gif)?, 0)
        .image(5, photo::fixture("text.png")?, 0)
        .image(6, photo::jpeg_with_orientation(400, 300, 8)?, 0);
    let id = ada.dream(form).await?;
    let done = ada.settled(id, "completed").await?;
    let large = |n: usize| {
        let variant = &done["images"][n]["variants"]["large"];
        (variant["width"].as_u64().unwrap_or(0), variant["height"].as_u64().unwrap_or(0))
    };
    let sizes: Vec<_> = (0..6).map(large).collect();
    // The telephone's is stored turned by a quarter and is 2400 wide; small pictures stay small.
    assert_eq!(sizes, [(2048, 1365), (451, 300), (640, 480), (100, 50), (448, 172), (300, 400)]);
    let phone = ada.get(done["images"][0]["variants"]["large"]["url"].as_str().context("a URL")?).await?.expect(200)?;
    assert_eq!(photo::size(&phone.body)?, (2048, 1365));
    // Where it was taken, with what and by whom is nobody's business.
    for metadata in [b"Exif".as_slice(), b"GPS", b"http://ns.adobe.com/xap"] {
        assert!(!phone.body.windows(metadata.len()).any(|bytes| bytes == metadata), "metadata is left");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dream_without_images_is_completed_from_the_start() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let made = ada.post_dream(Form::new("Words", "only")).await?.expect(201)?;
    let status = &made.json["images_status"];
    assert_eq!((&status["status"], &status["images"]), (&json!("completed"), &json!([])));
    let update = ada.watch(Tier::Api, made.id()?).await?.update("completed").await?;
    assert_eq!(update["images"], json!([]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_lists_and_changes_their_own_dreams_and_nobody_elses() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let (ada, bob) = (oneiro.user(1)?, oneiro.user(2)?);
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(ada.dream(Form::new(&format!("Dream {n}"), "text")).await?);
    }
    let bobs = bob.dream(Form::new("Bob's", "text")).await?;

    // Newest first, in pages.
    let mut listed = Vec::new();
    let mut path = "/api/dreams/?limit=2".to_owned();
    loop {
        let page = ada.get(&path).await?.expect(200)?.json;
        let results = page["results"].as_array().context("results")?;
        assert!(results.len() <= 2);
        listed.extend(results.iter().filter_map(|dream| dream["id"].as_u64()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/dreams/?limit=2&cursor={next}");
    }
    assert_eq!(listed, ids.iter().rev().copied().collect::<Vec<_>>());

    // Both forms of the path, with and without the slash at the end.
    let id = ids[0];
    assert_eq!(ada.get(&format!("/api/dreams/{id}")).await?.expect(200)?.id()?, id);
    let changed = json!({ "title": "Changed", "categories": ["lucid"], "tags": { "theme": ["x"], "character": [], "location": [] } });
    let answer = ada.patch(&format!("/api/dreams/{id}/"), &changed).await?.expect(200)?.json;
    assert_eq!((&answer["title"], &answer["content"]), (&json!("Changed"), &json!("text")));
    let shown = ada.show(id).await?;
    assert_eq!(
        (&shown["title"], &shown["categories"], &shown["theme_tags"]),
        (&json!("Changed"), &json!(["lucid"]), &json!(["x"]))
    );

    // Somebody else's dream is as one that does not exist.
    for path in [format!("/api/dreams/{bobs}/"), "/api/dreams/999999/".to_owned()] {
        ada.get(&path).await?.expect(404)?;
        ada.patch(&path, &json!({ "title": "mine" })).await?.expect(404)?;
        ada.delete(&path).await?.expect(404)?;
    }
    assert_eq!(bob.show(bobs).await?["title"], "Bob's");
    for id in ["0", "-1", "x", "9007199254740993", "1%2F..%2F2"] {
        let status = ada.get(&format!("/api/dreams/{id}/")).await?.status.as_u16();
        assert!([400, 404].contains(&status), "id {id} got {status}");
    }
    Ok(())
}

/// What an outage between the list and the record leaves: entries without a record, which would make pages come short.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_full_though_entries_have_no_record() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).start().await?;
    let ada = oneiro.user(1)?;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(ada.dream(Form::new(&format!("Dream {n}"), "text")).await?);
    }
    let redis = oneiro.redis_client().await?;
    let ghosts: Vec<(f64, u64)> = (1000..1005_u32).map(|id| (f64::from(id), u64::from(id))).collect();
    let _: u64 = redis.zadd("oneiro:user:1:dreams", None, None, false, false, ghosts).await?;

    let page = ada.get("/api/dreams/?limit=2").await?.expect(200)?.json;
    let listed = |page: &Value| -> Vec<u64> {
        page["results"].as_array().into_iter().flatten().filter_map(|dream| dream["id"].as_u64()).collect()
    };
    assert_eq!(listed(&page), [ids[2], ids[1]]);
    let next = page["next"].as_str().context("there is one more")?;
    let page = ada.get(&format!("/api/dreams/?limit=2&cursor={next}")).await?.expect(200)?.json;
    assert_eq!((listed(&page), &page["next"]), (vec![ids[0]], &Value::Null));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_added_to_a_dream_that_is_there() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("More", "text").image(1, photo::jpeg(300, 200, 1)?, 0)).await?;
    let first = ada.settled(id, "completed").await?;
    let mut socket = ada.watch(Tier::Ws, id).await?;
    let version = socket.update("completed").await?["version"].as_u64();
    let more = Form::default().image(1, photo::jpeg(500, 400, 2)?, 4);
    let answer = ada.post(&format!("/api/dreams/{id}/images/"), more).await?;
    assert!(answer.status.is_success(), "{}: {}", answer.status, answer.json);
    let updates = socket.updates_until("completed").await?;
    assert!(updates.iter().any(|update| update["status"] == "processing"), "it was processing in between: {updates:?}");
    let done = updates.last().context("the last one")?;
    assert!(done["version"].as_u64() > version);
    assert_eq!(done["images"].as_array().map(Vec::len), Some(2));
    assert_eq!(done["images"][0]["id"], first["images"][0]["id"], "ids are stable");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dream_is_completed_with_what_succeeded_and_says_what_failed() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let form = Form::new("Half", "text").image(1, photo::jpeg(300, 200, 1)?, 1).image(2, noise_in_a_png()?, 2);
    let id = ada.dream(form).await?;
    let done = ada.settled(id, "completed").await?;
    assert_eq!(done["images"].as_array().map(Vec::len), Some(1));
    let update = ada.watch(Tier::Ws, id).await?.update("completed").await?;
    assert_eq!(update["errors"].as_array().map(Vec::len), Some(1), "{update}");
    assert!(update["errors"][0]["code"].is_string() && update["errors"][0]["detail"].is_string());
    assert!(update["message"].is_string(), "people are told: {update}");
    Ok(())
}

/// A PNG whose header is right and whose pixels are not: only a worker can find out.
pub(crate) fn noise_in_a_png() -> Result<Vec<u8>> {
    let mut bytes = photo::encoded(400, 300, 9, image::ImageFormat::Png)?;
    let data = bytes.windows(4).position(|name| name == b"IDAT").context("a PNG has data")? + 4;
    let length = bytes.len();
    bytes[data..length - 20].copy_from_slice(&noise::random(length - 20 - data));
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_images_are_tried_again_on_request() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let (ada, bob) = (oneiro.user(1)?, oneiro.user(2)?);
    let id = ada.dream(Form::new("Broken", "text").image(1, noise_in_a_png()?, 0)).await?;
    let mut socket = ada.watch(Tier::Ws, id).await?;
    let failed = socket.update("failed").await?;
    assert_eq!(failed["images"], json!([]));
    assert!(failed["message"].is_string(), "{failed}");
    assert!(failed["errors"][0]["code"].is_string() && failed["errors"][0]["image_id"].is_u64(), "{failed}");

    let path = format!("/api/dreams/{id}/images/retry/");
    bob.post(&path, Form::default()).await?.expect(404)?;
    let answer = ada.post(&path, Form::default()).await?;
    assert!(answer.status.is_success(), "{}: {}", answer.status, answer.json);
    let updates = socket.updates_until("failed").await?;
    assert_eq!(updates[0]["status"], "processing", "{updates:?}");
    let again = updates.last().context("the last one")?;
    assert!(again["version"].as_u64() > failed["version"].as_u64(), "{failed} then {again}");

    let fine = ada.dream(Form::new("Fine", "text").image(1, photo::jpeg(100, 100, 1)?, 0)).await?;
    ada.settled(fine, "completed").await?;
    ada.post(&format!("/api/dreams/{fine}/images/retry/"), Form::default()).await?.expect(409)?;
    Ok(())
}
