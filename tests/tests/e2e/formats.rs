//! What an installation may add: a converter for formats of its own, and processes to decode in.

use crate::dreams::noise_in_a_png;
use anyhow::Result;
use oneiro_tests::{Form, Oneiro, photo, project_root};

/// The beginning of a HEIC file is all that is looked at; the converter has to make something of the rest.
fn heic() -> Vec<u8> {
    [b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".as_slice(), &[0; 5_000]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_format_is_taken_once_there_is_a_converter_for_it() -> Result<()> {
    let plain = Oneiro::builder().workers(0).start().await?;
    let form = || Form::new("From a telephone", "text").file("imageFile_1", "photo.heic", heic());
    let refused = plain.user(1)?.post_dream(form()).await?;
    assert_eq!(refused.status.as_u16(), 415, "{}", refused.json);
    refused.refuses("imageFile_1")?;

    // A real program that gives a real photograph, whatever it is given.
    let picture = project_root().join("tests/fixtures/photos/phone.jpg");
    let converter = format!("[\"cat\", {:?}]", picture.display().to_string());
    let oneiro = Oneiro::builder()
        .env("ONEIRO_UPLOADS_EXTRA_FORMATS", "heic")
        .env("ONEIRO_WORKER_CONVERTER", &converter)
        // What is uploaded keeps to this limit; what the converter makes of it has its own.
        .env("ONEIRO_UPLOADS_MAX_FILE_BYTES", "10000")
        .start()
        .await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(form()).await?;
    let dream = ada.settled(id, "completed").await?;
    let url = dream["images"][0]["url"].as_str().unwrap_or_default();
    let variant = ada.get(url).await?.expect(200)?;
    assert!(photo::size(&variant.body)?.0 > 100, "a picture is at {url}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_converter_cannot_read_fails_with_its_reason() -> Result<()> {
    let oneiro = Oneiro::builder()
        .env("ONEIRO_UPLOADS_EXTRA_FORMATS", "heic")
        .env("ONEIRO_WORKER_CONVERTER", "[\"false\"]")
        .start()
        .await?;
    let ada = oneiro.user(1)?;
    let id = ada.dream(Form::new("Broken", "text").file("imageFile_1", "photo.heic", heic())).await?;
    let dream = ada.settled(id, "failed").await?;
    assert!(dream.to_string().contains("converter_failed"), "{dream}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_decoded_in_processes_of_their_own() -> Result<()> {
    let oneiro = Oneiro::builder().env("ONEIRO_WORKER_ISOLATE", "process").start().await?;
    let ada = oneiro.user(1)?;
    let broken = ada.dream(Form::new("Broken", "text").image(1, noise_in_a_png()?, 0)).await?;
    let dream = ada.settled(broken, "failed").await?;
    assert!(dream.to_string().contains("corrupt_image"), "{dream}");
    let form = Form::new("Fine", "text").image(1, photo::jpeg(640, 480, 1)?, 0).image(2, photo::jpeg(48, 64, 2)?, 1);
    let fine = ada.dream(form).await?;
    let dream = ada.settled(fine, "completed").await?;
    assert_eq!(dream["images"].as_array().map(Vec::len), Some(2), "{dream}");
    Ok(())
}
