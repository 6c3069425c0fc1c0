//! Dreams whose jobs are gone for good: their users are told, and can go on.

use anyhow::{Context, Result, ensure};
use fred::interfaces::{HashesInterface, KeysInterface, SortedSetsInterface};
use oneiro_tests::{Form, Oneiro, Tier, User, eventually, photo};
use serde_json::{Value, json};
use std::{
    fs::File,
    time::{Duration, SystemTime},
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// An installation without workers whose workers look for what is stuck as often as can be.
async fn sweeping() -> Result<Oneiro> {
    let builder = Oneiro::builder().workers(0).env("ONEIRO_WORKER_SWEEP_SECONDS", "1");
    builder.env("ONEIRO_WORKER_SWEEP_AFTER_SECONDS", "1").start().await
}

/// Cancels every waiting job of a kind, as an operator may; how many there were.
async fn cancel_all(oneiro: &Oneiro, kind: &str) -> Result<usize> {
    let (code, out, errors) = oneiro.cli(&["jobs", "list", "--json"]).await?;
    ensure!(code == 0, "{out}{errors}");
    let jobs: Vec<Value> = serde_json::from_str(&out)?;
    let of_kind: Vec<_> = jobs.iter().filter(|job| job["kind"] == kind && job["state"] == "available").collect();
    for job in &of_kind {
        let (code, out, errors) = oneiro.cli(&["jobs", "cancel", job["id"].as_str().context("an id")?]).await?;
        ensure!(code == 0, "{out}{errors}");
    }
    Ok(of_kind.len())
}

/// The number of files in the object store that are originals of a dream.
fn originals(oneiro: &Oneiro, dream: u64) -> usize {
    std::fs::read_dir(oneiro.storage().join(format!("originals/{dream}"))).map_or(0, Iterator::count)
}

async fn one_image(ada: &User, title: &str) -> Result<u64> {
    ada.dream(Form::new(title, "text").image(1, photo::jpeg(64, 48, 1)?, 0)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_whose_job_is_gone_for_good_has_failed_and_can_be_asked_for_again() -> Result<()> {
    let mut oneiro = sweeping().await?;
    let ada = oneiro.user(1)?;
    let id = one_image(&ada, "Stays").await?;
    let mut socket = ada.watch(Tier::Ws, id).await?;
    ada.delete(&format!("/api/dreams/{id}/")).await?.expect(202)?;
    socket.update("delete_processing").await?;
    assert_eq!(cancel_all(&oneiro, "delete_images").await?, 1);
    oneiro.start_worker()?;
    let failed = socket.update("delete_failed").await?;
    assert!(failed["message"].as_str().is_some_and(|message| message.contains("try again")), "{failed}");
    // It is still there, as it was told; and asking again deletes it.
    ada.get(&format!("/api/dreams/{id}/")).await?.expect(200)?;
    ada.delete(&format!("/api/dreams/{id}/")).await?.expect(202)?;
    socket.update("delete_completed").await?;
    ada.get(&format!("/api/dreams/{id}/")).await?.expect(404)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dream_goes_on_after_a_deletion_that_failed() -> Result<()> {
    let mut oneiro = sweeping().await?;
    let ada = oneiro.user(1)?;
    let id = one_image(&ada, "Grows").await?;
    let mut socket = ada.watch(Tier::Ws, id).await?;
    ada.delete(&format!("/api/dreams/{id}/")).await?.expect(202)?;
    socket.update("delete_processing").await?;
    assert_eq!(cancel_all(&oneiro, "delete_images").await?, 1);
    oneiro.start_worker()?;
    socket.update("delete_failed").await?;
    let more = Form::default().image(1, photo::jpeg(48, 64, 2)?, 4);
    let added = ada.post(&format!("/api/dreams/{id}/images/"), more).await?;
    ensure!(added.status.is_success(), "{added:?}");
    let done = ada.settled(id, "completed").await?;
    assert_eq!(done["images"].as_array().map(Vec::len), Some(2), "{done}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_behind_a_deletion_that_failed_is_told() -> Result<()> {
    let mut oneiro = sweeping().await?;
    let ada = oneiro.user(1)?;
    let id = one_image(&ada, "Grows").await?;
    oneiro.start_worker()?;
    let first = ada.settled(id, "completed").await?["images"][0]["id"].clone();
    let mut socket = ada.watch(Tier::Ws, id).await?;
    let queues = async |word| {
        let (code, out, errors) = oneiro.cli(&["queues", word, "deletes"]).await?;
        ensure!(code == 0, "{out}{errors}");
        Ok(())
    };
    // The first image is asked to go, and the second comes to its outcome, before anything can be deleted.
    queues("pause").await?;
    ada.delete(&format!("/api/dreams/{id}/images/{first}/")).await?.expect(202)?;
    socket.update("delete_processing").await?;
    let redis = oneiro.redis_client().await?;
    let more = Form::default().image(1, photo::jpeg(48, 64, 2)?, 4);
    let added = ada.post(&format!("/api/dreams/{id}/images/"), more).await?;
    ensure!(added.status.is_success(), "{added:?}");
    eventually("the second image's outcome", async || {
        let (_, keys): (String, Vec<String>) =
            redis.scan_page("0", format!("*{{dream_images_{id}}}"), Some(10_000), None).await?;
        let key = keys.iter().find(|key| key.contains(":m:")).context("its record")?;
        let record: String = redis.hget(key, "b").await?;
        let record: Value = serde_json::from_str(&record)?;
        Ok(record["images"]
            .as_array()
            .is_some_and(|images| images.len() == 2 && images.iter().all(|image| image["state"]["is"] == "completed"))
            .then_some(()))
    })
    .await?;
    assert_eq!(cancel_all(&oneiro, "delete_images").await?, 1);
    queues("resume").await?;
    socket.update("delete_failed").await?;
    let told = socket.update("completed").await?;
    assert_eq!(told["images"].as_array().map(Vec::len), Some(2), "{told}");
    assert_eq!(ada.show(id).await?["images_status"]["status"], "completed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_given_twice_costs_nobody_a_dream() -> Result<()> {
    let mut oneiro = sweeping().await?;
    let (ada, bob) = (oneiro.user(1)?, oneiro.user(2)?);
    let id = one_image(&ada, "Hers").await?;
    // What a failover does that loses the last moment.
    let redis = oneiro.redis_client().await?;
    let forget = async || {
        let _: () = redis.set("oneiro:dream_id", id - 1, None, None, false).await?;
        anyhow::Ok(())
    };
    forget().await?;
    let refused = bob.post_dream(Form::new("His", "text").image(1, photo::jpeg(64, 48, 2)?, 0)).await?;
    assert_eq!(refused.status, 503, "{refused:?}");
    // Nor is the owner told that a second dream is kept which is not.
    forget().await?;
    let refused = ada.post_dream(Form::new("Another", "text")).await?;
    assert_eq!(refused.status, 503, "{refused:?}");
    oneiro.start_worker()?;
    assert_eq!(ada.settled(id, "completed").await?["title"], "Hers");
    assert_eq!(originals(&oneiro, id), 1, "what was refused is removed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_keeps_no_other_dream_waiting() -> Result<()> {
    let mut oneiro = sweeping().await?;
    let ada = oneiro.user(1)?;
    // The first in line is looked at first.
    let broken = one_image(&ada, "Broken").await?;
    let waiting = one_image(&ada, "Waiting").await?;
    assert_eq!(cancel_all(&oneiro, "process_image").await?, 2);
    let redis = oneiro.redis_client().await?;
    let (_, keys): (String, Vec<String>) =
        redis.scan_page("0", format!("*{{dream_images_{broken}}}"), Some(10_000), None).await?;
    let key = keys.iter().find(|key| key.contains(":m:")).with_context(|| format!("its record among {keys:?}"))?;
    let _: () = redis.hset(key, ("b", "no record")).await?;
    oneiro.start_worker()?;
    let failed = ada.settled(waiting, "failed").await?;
    assert_eq!(failed["images"], json!([]), "{failed}");
    eventually("the broken one is told to the operator", async || {
        let log = oneiro.worker(0)?.output()?;
        Ok(log.contains("a stuck dream could not be helped").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn originals_of_images_that_were_never_added_are_removed() -> Result<()> {
    let mut oneiro = sweeping().await?;
    let ada = oneiro.user(1)?;
    let id = one_image(&ada, "Grows").await?;
    let mut form = format!(
        "POST /api/dreams/{id}/images/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: 1000000\r\n\r\n",
        ada.token()
    )
    .into_bytes();
    for n in 1..=2 {
        let head =
            format!("--XX\r\nContent-Disposition: form-data; name=\"imageFile_{n}\"; filename=\"a.jpg\"\r\n\r\n");
        form.extend([head.as_bytes(), &photo::jpeg(64, 48, n)?, b"\r\n"].concat());
    }
    let mut stream = TcpStream::connect(("127.0.0.1", oneiro.port(Tier::Api))).await?;
    stream.write_all(&form).await?;
    eventually("the first new image is stored", async || Ok((originals(&oneiro, id) >= 2).then_some(()))).await?;
    oneiro.api()?.kill().await?;
    oneiro.start_api()?;
    oneiro.ready().await?;
    // Two hours pass.
    let past = SystemTime::now() - Duration::from_secs(7200);
    for file in std::fs::read_dir(oneiro.storage().join(format!("originals/{id}")))? {
        File::options().write(true).open(file?.path())?.set_modified(past)?;
    }
    let redis = oneiro.redis_client().await?;
    let _: () = redis.zadd("oneiro:dreams:uploading", None, None, false, false, (1.0, id)).await?;
    oneiro.start_worker()?;
    eventually("the dream's own is left", async || Ok((originals(&oneiro, id) == 1).then_some(()))).await?;
    ada.settled(id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_that_are_stored_after_their_images_deletion_are_removed() -> Result<()> {
    let mut oneiro = sweeping().await?;
    let ada = oneiro.user(1)?;
    let (gone, stays) = (one_image(&ada, "Goes").await?, one_image(&ada, "Stays").await?);
    ada.delete(&format!("/api/dreams/{gone}/")).await?.expect(202)?;
    oneiro.start_worker()?;
    let page = ada.settled(stays, "completed").await?;
    let url = page["images"][0]["url"].as_str().context("a URL")?.to_owned();
    let redis = oneiro.redis_client().await?;
    let noted: Vec<String> = eventually("the deletion", async || {
        let noted: Vec<String> = redis.zrange("oneiro:media:removed", 0, -1, None, false, None, false).await?;
        let is_gone = ada.get(&format!("/api/dreams/{gone}/")).await?.status == 404;
        Ok((is_gone && !noted.is_empty()).then_some(noted))
    })
    .await?;
    let [entry] = noted.as_slice() else { anyhow::bail!("{noted:?}") };
    let folder = entry.strip_prefix(&format!("{gone} ")).context("the dream's id")?;
    // A run of its job comes to an end late; two hours pass. Nor may a note cost an image that is still there its variants.
    let late = oneiro.storage().join(folder).join("late.jpg");
    std::fs::create_dir_all(late.parent().context("a folder")?)?;
    std::fs::write(&late, "late")?;
    let live = url.strip_prefix('/').and_then(|url| url.rsplitn(3, '/').nth(2)).context("its folder")?;
    let _: () = redis
        .zadd(
            "oneiro:media:removed",
            None,
            None,
            false,
            false,
            vec![(1.0, entry.clone()), (1.0, format!("{stays} {live}"))],
        )
        .await?;
    eventually("both notes are done with", async || {
        Ok((redis.zcard::<u64, _>("oneiro:media:removed").await? == 0).then_some(()))
    })
    .await?;
    assert!(!late.exists());
    ada.get(&url).await?.expect(200)?;
    Ok(())
}

/// Nobody waits for the answer any more, while the store is about to make the last file visible: what becomes of it is known to a record or to the sweep.
#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_at_the_last_moment_leaves_nothing_that_nobody_knows_of() -> Result<()> {
    let mut oneiro = Oneiro::builder()
        .workers(0)
        .env("ONEIRO_STORAGE_FSYNC", "true")
        .env("ONEIRO_UPLOADS_RATE_PER_MINUTE", "0")
        .env("ONEIRO_UPLOADS_MAX_CONCURRENT_PER_USER", "100")
        .start()
        .await?;
    let ada = oneiro.user(1)?;
    let mut form = b"--XX\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nLeft\r\n".to_vec();
    form.extend(b"--XX\r\nContent-Disposition: form-data; name=\"imageFile_1\"; filename=\"a.jpg\"\r\n\r\n");
    form.extend([&photo::jpeg(1200, 900, 1)?, b"\r\n--XX--\r\n".as_slice()].concat());
    let head = format!(
        "POST /api/dreams/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Type: multipart/form-data; boundary=XX\r\nContent-Length: {}\r\n\r\n",
        ada.token(),
        form.len()
    );
    for moment in 0..40 {
        let mut stream = TcpStream::connect(("127.0.0.1", oneiro.port(Tier::Api))).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&form).await?;
        tokio::time::sleep(Duration::from_micros(250) * moment).await;
        // Its end and no reset: what was sent is read.
        stream.shutdown().await?;
        drop(stream);
    }
    // Whatever is under way then comes to its end.
    oneiro.api()?.terminate()?;
    ensure!(oneiro.api()?.ended().await?.success(), "{}", oneiro.api()?.output()?);
    oneiro.start_api()?;
    oneiro.ready().await?;
    let listed = ada.get("/api/dreams/?limit=100").await?.expect(200)?.json;
    let recorded: Vec<u64> =
        listed["results"].as_array().context("a list")?.iter().filter_map(|dream| dream["id"].as_u64()).collect();
    ensure!(recorded.len() < 40, "nobody left in time");
    let redis = oneiro.redis_client().await?;
    let swept: Vec<u64> = redis.zrange("oneiro:dreams:uploading", 0, -1, None, false, None, false).await?;
    let unknown: Vec<u64> =
        (1..=40).filter(|id| originals(&oneiro, *id) > 0 && !recorded.contains(id) && !swept.contains(id)).collect();
    ensure!(unknown.is_empty(), "nobody knows of the originals of {unknown:?}");
    Ok(())
}
