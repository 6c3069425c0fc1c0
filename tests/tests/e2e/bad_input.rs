//! What no honest client sends. Each is refused with the field named, or ends as a `failed` event naming image and reason, and the
//! next request works.

use crate::dreams::noise_in_a_png;
use anyhow::{Context, Result, ensure};
use oneiro_tests::{Answer, Form, Oneiro, Tier, User, noise, photo};
use reqwest::Method;
use serde_json::json;

/// The request after a refused one.
async fn expect_still_working(user: &User) -> Result<()> {
    let id = user.dream(Form::new("Fine", "text").image(1, photo::jpeg(64, 48, 1)?, 0)).await?;
    user.settled(id, "completed").await?;
    Ok(())
}

/// A body of one's own making.
async fn post_raw(user: &User, content_type: &str, body: Vec<u8>) -> Result<Answer> {
    let request = user.request(Method::POST, "/api/dreams/").header("content-type", content_type).body(body);
    user.send(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_fields_are_refused_by_name() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let fine = || Form::new("Title", "text");
    let refused: Vec<(&str, Form)> = vec![
        ("title", Form::default().text("content", "text")),
        ("title", Form::new("", "text")),
        ("title", Form::new("  \t ", "text")),
        ("title", Form::new(&"x".repeat(10_000), "text")),
        ("title", Form::new("a\0b", "text")),
        ("content", Form::new("Title", "a\0b")),
        ("content", Form::new("Title", &"x".repeat(300_000))),
        ("categories", fine().text("categories", "{}")),
        ("categories", fine().text("categories", "normal")),
        ("categories", fine().text("categories", "[1,2]")),
        ("categories", fine().text("categories", "null")),
        ("tags", fine().text("tags", "[]")),
        ("tags", fine().text("tags", r#"{"theme":"x"}"#)),
        ("tags", fine().text("tags", r#"{"theme":[{}]}"#)),
        ("imageMetadata_1", fine().file("imageFile_1", "a.jpg", photo::jpeg(8, 8, 1)?).text("imageMetadata_1", "5")),
        (
            "imageMetadata_1",
            fine().file("imageFile_1", "a.jpg", photo::jpeg(8, 8, 1)?).text("imageMetadata_1", r#"{"position":-1}"#),
        ),
        (
            "imageMetadata_1",
            fine().file("imageFile_1", "a.jpg", photo::jpeg(8, 8, 1)?).text("imageMetadata_1", r#"{"position":"1"}"#),
        ),
        ("imageMetadata_1", fine().file("imageFile_1", "a.jpg", photo::jpeg(8, 8, 1)?).text("imageMetadata_1", "{")),
    ];
    for (field, form) in refused {
        let what = format!("{form:?}");
        ada.post_dream(form).await?.refuses(field).with_context(|| what)?;
    }
    // Every mistake of a form is told at once.
    let both = Form::default().text("categories", "7");
    let answer = ada.post_dream(both).await?;
    answer.refuses("title")?;
    answer.refuses("categories")?;
    assert_eq!(ada.get("/api/dreams/").await?.json["results"], json!([]), "nothing of a refused form is kept");
    expect_still_working(&ada).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_no_pictures_are_refused_or_fail_with_a_reason() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let whole = photo::jpeg(800, 600, 1)?;
    let files: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("one byte", vec![0xff]),
        ("noise", noise::random(5000)),
        ("text", b"dear diary".to_vec()),
        ("svg", br#"<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>"#.to_vec()),
        ("html", b"<!doctype html><script>alert(1)</script>".to_vec()),
        ("pdf", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n".to_vec()),
        ("png bomb", noise::png_bomb(40_000)),
        ("jpeg bomb", noise::jpeg_bomb()),
        ("png with broken data", noise_in_a_png()?),
        ("jpeg header only", whole[..200].to_vec()),
        ("jpeg signature and noise", [&[0xff, 0xd8, 0xff, 0xe0][..], &noise::random(3000)].concat()),
    ];
    for (what, bytes) in files {
        let answer = ada.post_dream(Form::new("Bad", "text").image(3, bytes, 0)).await?;
        if answer.status.is_client_error() {
            answer.refuses("imageFile_3").context(what)?;
        } else {
            let id = answer.expect(201).context(what)?.id()?;
            let failed = ada.watch(Tier::Ws, id).await?.update("failed").await.context(what)?;
            let error = &failed["errors"][0];
            ensure!(
                error["image_id"].is_u64() && error["code"].is_string() && error["detail"].is_string(),
                "{what}: {failed}"
            );
            ensure!(failed["message"].is_string(), "{what}: {failed}");
        }
    }
    expect_still_working(&ada).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_megabytes_of_noise_are_too_large() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    // With a picture's first bytes, so that the size is what it is refused for.
    let mut bytes = photo::jpeg(640, 480, 1)?;
    bytes.extend(noise::random(64 << 20));
    match ada.post_dream(Form::new("Big", "text").image(1, bytes, 0)).await {
        Ok(answer) => answer.expect(413)?.refuses("imageFile_1")?,
        // The server may close while the client still sends; then no answer can be read.
        Err(error) => ensure!(format!("{error:#}").contains("no answer"), "{error:#}"),
    }
    let left: Vec<_> = std::fs::read_dir(oneiro.storage())?.collect();
    assert!(left.len() <= 2, "nothing of it stays in the store: {left:?}");
    expect_still_working(&ada).await
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_bodies_are_refused() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let multipart = "multipart/form-data; boundary=XX";
    let open = "--XX\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nTitle\r\n";
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        (multipart, b"".to_vec()),
        (multipart, b"no boundary at all".to_vec()),
        // Cut off in the middle of a field, and before the last boundary.
        (multipart, b"--XX\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nTit".to_vec()),
        (multipart, open.as_bytes().to_vec()),
        // A part without a name, one without headers, one whose text is not UTF-8.
        (multipart, format!("{open}--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XX--\r\n").into_bytes()),
        (multipart, b"--XX\r\n\r\nx\r\n--XX--\r\n".to_vec()),
        (multipart, b"--XX\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\n\xff\xfe\r\n--XX--\r\n".to_vec()),
        ("multipart/form-data", open.as_bytes().to_vec()),
        ("application/json", br#"{"title":"x"}"#.to_vec()),
        ("text/plain", b"title".to_vec()),
        ("nonsense", b"title".to_vec()),
    ];
    for (content_type, body) in bodies {
        let what = format!("{content_type}: {}", String::from_utf8_lossy(&body));
        let answer = post_raw(&ada, content_type, body).await?;
        answer.refuses("").with_context(|| what)?;
    }
    assert_eq!(ada.get("/api/dreams/").await?.json["results"], json!([]), "nothing of a refused form is kept");
    expect_still_working(&ada).await
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_file_names_name_no_file() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    let names =
        ["../../../../etc/passwd", "/etc/passwd", "..\\..\\x.jpg", "a\u{202e}gpj.exe", "x.svg", "con", "🌄.jpg", ""];
    let mut form = Form::new("Names", "text");
    for (n, name) in names.iter().enumerate() {
        form = form.file(&format!("imageFile_{n}"), name, photo::jpeg(64, 48, 1)?);
    }
    let id = ada.dream(form).await?;
    let done = ada.settled(id, "completed").await?;
    let images = done["images"].as_array().context("images")?;
    assert_eq!(images.len(), names.len());
    for image in images {
        let url = image["url"].as_str().context("a URL")?;
        assert!(!url.contains("..") && !url.contains("passwd"), "{url}");
        ada.get(url).await?.expect(200)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_numbers_of_images_are_refused_or_ignored_but_never_break_anything() -> Result<()> {
    let oneiro = Oneiro::start().await?;
    let ada = oneiro.user(1)?;
    for field in
        ["imageFile_", "imageFile_x", "imageFile_-1", "imageFile_99999999999999999999", "imageFile_1_2", "file"]
    {
        let answer = ada.post_dream(Form::new("Odd", "text").file(field, "a.jpg", photo::jpeg(64, 48, 1)?)).await?;
        if answer.status.is_client_error() {
            answer.refuses("").context(field)?;
        } else {
            answer.expect(201).context(field)?;
        }
    }
    // The same number twice: one of both is meant, so the caller must choose.
    let twice = Form::new("Twice", "text").image(1, photo::jpeg(64, 48, 1)?, 0).image(1, photo::jpeg(48, 64, 1)?, 0);
    ada.post_dream(twice).await?.refuses("imageFile_1")?;
    // More images than a dream may have.
    let mut many = Form::new("Many", "text");
    let tiny = photo::jpeg(8, 8, 1)?;
    for n in 0..101 {
        many = many.image(n, tiny.clone(), 0);
    }
    ada.post_dream(many).await?.refuses("")?;
    expect_still_working(&ada).await
}
