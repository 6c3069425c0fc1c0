//! The page, in a real browser.

use anyhow::{Context, Result, ensure};
use oneiro_tests::{Oneiro, Tier, browser::Browser, photo};
use serde_json::{Value, json};

/// Opens the page and signs in as a development user.
async fn sign_in(browser: &mut Browser, oneiro: &Oneiro) -> Result<()> {
    browser.open(&oneiro.url(Tier::Api)).await?;
    sign_in_as(browser, "1", "ada").await
}

/// Fills in the page's form to sign in.
async fn sign_in_as(browser: &mut Browser, id: &str, name: &str) -> Result<()> {
    browser.fill("#user-id", id).await?;
    browser.fill("#username", name).await?;
    browser.click("#sign-in").await?;
    signed_in(browser).await
}

async fn signed_in(browser: &mut Browser) -> Result<()> {
    browser.wait_for("document.querySelector('#app-view')?.offsetParent != null").await?;
    Ok(())
}

/// Number of photos in the form.
const PHOTOS: &str = "document.querySelectorAll('[data-testid=photo]').length";
/// Number of dreams in the journal.
const DREAMS: &str = "document.querySelectorAll('[data-testid=dream]').length";

/// What an expression says half a second after the page was made to do something: long enough for what must not happen.
async fn a_moment_after(browser: &mut Browser, deed: &str, expression: &str) -> Result<Value> {
    browser.evaluate(&format!("({deed}, new Promise((told) => setTimeout(told, 500)).then(() => {expression}))")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn photos_dropped_on_the_page_appear_in_the_text_at_their_positions() -> Result<()> {
    let mut oneiro = Oneiro::builder().workers(0).env("ONEIRO_DEV_TOKENS", "1").start().await?;
    let files = [("coffee.jpg", photo::fixture("phone.jpg")?), ("hills.jpg", photo::jpeg(900, 1200, 5)?)];
    let mut paths = Vec::new();
    for (name, bytes) in &files {
        let path = oneiro.artifacts().path(name);
        std::fs::write(&path, bytes)?;
        paths.push(path);
    }
    let mut browser = Browser::start(oneiro.artifacts()).await?;
    sign_in(&mut browser, &oneiro).await?;
    browser.screenshot("1-signed-in.png").await?;

    browser.fill("#title", "The cup on the hill").await?;
    let (before, after) = (
        "Somebody had left a cup of coffee for me, still warm. ☕",
        " I took it along, over soft green hills, until the sun came up.",
    );
    browser.fill("#content", &format!("{before}{after}")).await?;
    // Each photo goes where the cursor is; the browser counts in UTF-16 code units.
    let position = before.encode_utf16().count();
    let caret = |at: usize| format!("document.querySelector('#content').setSelectionRange({at}, {at})");
    browser.evaluate(&caret(position)).await?;
    browser.choose_files("#files", &paths[..1]).await?;
    browser.wait_for(&format!("{PHOTOS} === 1")).await?;
    browser.evaluate("document.querySelector('#content').setSelectionRange(99999, 99999)").await?;
    browser.choose_files("#files", &paths[1..]).await?;
    browser.wait_for(&format!("{PHOTOS} === 2")).await?;
    browser.screenshot("2-ready-to-send.png").await?;
    browser.click("#submit").await?;

    // No worker runs yet: the page must show that it waits.
    let card = "document.querySelector('[data-testid=dream]')";
    browser.wait_for(&format!("{card}?.dataset.status === 'processing'")).await?;
    browser
        .wait_for(&format!("{card}.querySelector('[data-testid=connection-state]').dataset.state === 'open'"))
        .await?;
    browser.screenshot("3-processing.png").await?;
    oneiro.start_worker()?;
    browser.wait_for(&format!("{card}.dataset.status === 'completed'")).await?;
    let loaded =
        format!("[...{card}.querySelectorAll('img')].filter(img => img.complete && img.naturalWidth > 0).length === 2");
    browser.wait_for(&loaded).await?;
    browser.screenshot("4-completed.png").await?;

    // Text, picture, text, picture: as they were placed.
    let order = browser
        .evaluate(&format!(
            "[...{card}.querySelector('[data-testid=dream-text]').children].map(part => part.dataset.position ?? part.textContent.trim())"
        ))
        .await?;
    let end = format!("{before}{after}").encode_utf16().count();
    assert_eq!(order, json!([before.trim(), position.to_string(), after.trim(), end.to_string()]));
    let shapes = browser
        .evaluate(&format!("[...{card}.querySelectorAll('img')].map(img => img.naturalWidth > img.naturalHeight)"))
        .await?;
    assert_eq!(shapes, json!([true, false]), "the cup first, turned upright");

    // A reload shows the same from REST; a narrow screen has room for it.
    browser.resize(390, 844).await?;
    browser.open(&oneiro.url(Tier::Api)).await?;
    browser.wait_for(&loaded).await?;
    browser.screenshot("5-reloaded-narrow.png").await?;
    let is_too_wide = browser.evaluate("document.documentElement.scrollWidth > innerWidth").await?;
    assert_eq!(is_too_wide, false, "nothing is wider than a telephone");

    browser.click("[data-testid=delete-dream]").await?;
    browser.click("[data-testid=confirm-delete]").await?;
    browser.wait_for("document.querySelector('[data-testid=dream]') === null").await?;
    browser.expect_no_problems()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_why_a_photo_was_refused_and_lives_through_a_restart() -> Result<()> {
    let mut oneiro = Oneiro::builder().env("ONEIRO_DEV_TOKENS", "1").start().await?;
    let mut browser = Browser::start(oneiro.artifacts()).await?;
    sign_in(&mut browser, &oneiro).await?;
    let broken = oneiro.artifacts().path("broken.png");
    std::fs::write(&broken, crate::dreams::noise_in_a_png()?)?;
    browser.fill("#title", "Broken").await?;
    browser.fill("#content", "A picture that is none").await?;
    browser.choose_files("#files", std::slice::from_ref(&broken)).await?;
    browser.click("#submit").await?;
    let card = "document.querySelector('[data-testid=dream]')";
    browser.wait_for(&format!("{card}?.dataset.status === 'failed'")).await?;
    let why = browser.evaluate(&format!("{card}.querySelector('[data-testid=dream-error]').innerText")).await?;
    ensure!(why.as_str().context("a text")?.len() > 10, "people are told why: {why}");
    browser.screenshot("1-failed.png").await?;

    // The server goes away under the open page and comes back: so does the page, by itself.
    browser.click("[data-testid=retry-dream]").await?;
    browser.wait_for(&format!("{card}?.dataset.status === 'failed'")).await?;
    oneiro.api()?.terminate()?;
    oneiro.api()?.ended().await?;
    oneiro.start_api()?;
    oneiro.ready().await?;
    let photo = oneiro.artifacts().path("fine.jpg");
    std::fs::write(&photo, photo::jpeg(640, 480, 3)?)?;
    browser.fill("#title", "After the restart").await?;
    browser.choose_files("#files", std::slice::from_ref(&photo)).await?;
    browser.click("#submit").await?;
    browser
        .wait_for(&format!("{card}?.dataset.status === 'completed' && {card}.querySelector('img')?.naturalWidth > 0"))
        .await?;
    browser.screenshot("2-after-the-restart.png").await?;
    Ok(())
}

/// Makes WebSockets that never open, as behind a proxy that swallows them, and leaves it to the test to play their server.
const SILENT_SOCKETS: &str =
    "window.sockets = []; window.WebSocket = class { constructor() { sockets.push(this); } send() {} close() {} }; 0";

const STATUS: &str = "document.querySelector('[data-testid=dream]')?.dataset.status";

/// Sends a dream with a file that is no picture.
async fn send_broken(browser: &mut Browser, oneiro: &Oneiro) -> Result<()> {
    let broken = oneiro.artifacts().path("broken.png");
    std::fs::write(&broken, crate::dreams::noise_in_a_png()?)?;
    browser.fill("#title", "Broken").await?;
    browser.choose_files("#files", std::slice::from_ref(&broken)).await?;
    browser.click("#submit").await
}

#[tokio::test(flavor = "multi_thread")]
async fn processing_again_is_seen_where_no_socket_opens() -> Result<()> {
    let mut oneiro = Oneiro::builder().env("ONEIRO_DEV_TOKENS", "1").start().await?;
    let mut browser = Browser::start(oneiro.artifacts()).await?;
    sign_in(&mut browser, &oneiro).await?;
    browser.evaluate(SILENT_SOCKETS).await?;
    send_broken(&mut browser, &oneiro).await?;
    browser.wait_for(&format!("{STATUS} === 'failed'")).await?;
    oneiro.worker(0)?.terminate()?;
    oneiro.worker(0)?.ended().await?;
    browser.click("[data-testid=retry-dream]").await?;
    browser.wait_for(&format!("{STATUS} === 'processing'")).await?;
    oneiro.start_worker()?;
    browser.wait_for(&format!("{STATUS} === 'failed'")).await?;
    browser.expect_no_problems()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_older_than_what_a_socket_told_is_dropped() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).env("ONEIRO_DEV_TOKENS", "1").start().await?;
    let mut browser = Browser::start(oneiro.artifacts()).await?;
    sign_in(&mut browser, &oneiro).await?;
    browser.evaluate(SILENT_SOCKETS).await?;
    send_broken(&mut browser, &oneiro).await?;
    browser.wait_for(&format!("{STATUS} === 'processing'")).await?;
    // The page asks, and before the answer arrives a socket opens, tells the end and breaks.
    browser
        .evaluate(
            "(() => { window.held = []; const fetched = window.fetch; window.fetch = async (...asked) => { const answer = await fetched(...asked); \
             await new Promise((go) => held.push(go)); return answer; }; })()",
        )
        .await?;
    browser.wait_for("held.length > 0").await?;
    browser
        .evaluate(
            "(() => { const socket = sockets.findLast(({ onopen }) => onopen != null); socket.onopen({}); \
             const id = Number(document.querySelector('[data-testid=dream]').dataset.dreamId); \
             const tell = (frame) => socket.onmessage({ data: JSON.stringify({ dream_id: id, ...frame }) }); \
             tell({ type: 'connection_established', message: 'hello' }); \
             tell({ type: 'image_update', status: 'completed', images: [], timestamp: 1, version: 99 }); \
             socket.onclose({ code: 1006, reason: '' }); })()",
        )
        .await?;
    browser.wait_for(&format!("{STATUS} === 'completed'")).await?;
    assert_eq!(a_moment_after(&mut browser, "held.forEach((go) => go())", STATUS).await?, "completed");
    browser.expect_no_problems()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_takes_no_more_photos_and_is_not_shown_to_the_next_user() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).env("ONEIRO_DEV_TOKENS", "1").start().await?;
    let mut browser = Browser::start(oneiro.artifacts()).await?;
    sign_in(&mut browser, &oneiro).await?;
    // The answer to the upload arrives when the test says so.
    browser
        .evaluate(
            "(() => { const send = XMLHttpRequest.prototype.send; XMLHttpRequest.prototype.send = function (body) { const told = this.onload; \
             this.onload = (event) => { window.release = () => told.call(this, event); }; send.call(this, body); }; })()",
        )
        .await?;
    browser.fill("#title", "Ada's").await?;
    browser.click("#submit").await?;
    browser.wait_for("window.release !== undefined").await?;

    // By the clipboard, and by a dialog that was left open.
    browser
        .evaluate(
            "(() => { const late = new DataTransfer(); late.items.add(new File(['x'], 'late.png', { type: 'image/png' })); \
             const paste = new ClipboardEvent('paste', { clipboardData: late, bubbles: true, cancelable: true }); \
             document.querySelector('#content').dispatchEvent(paste); \
             const input = document.querySelector('#files'); input.files = late.files; input.dispatchEvent(new Event('change')); })()",
        )
        .await?;
    let taken = format!("{PHOTOS} + document.querySelector('#files').files.length");
    assert_eq!(browser.evaluate(&taken).await?, 0, "nothing is taken that would not be sent");

    browser.click("#sign-out").await?;
    sign_in_as(&mut browser, "2", "bob").await?;
    browser.wait_for("document.querySelector('#journal-empty')?.offsetParent != null").await?;
    assert_eq!(a_moment_after(&mut browser, "release()", DREAMS).await?, 0, "Bob sees no dream of Ada's");
    browser.wait_for("document.querySelector('#upload').hidden").await?;
    browser.expect_no_problems()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_kept_for_who_wrote_it_and_shown_to_nobody_else() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).env("ONEIRO_DEV_TOKENS", "1").start().await?;
    let mut browser = Browser::start(oneiro.artifacts()).await?;
    sign_in(&mut browser, &oneiro).await?;
    let form = format!("[document.querySelector('#title').value, {PHOTOS}].join()");
    let photo = oneiro.artifacts().path("mine.jpg");
    std::fs::write(&photo, photo::jpeg(64, 48, 1)?)?;
    browser.choose_files("#files", std::slice::from_ref(&photo)).await?;
    browser.fill("#title", "Private").await?;
    browser.wait_for("document.querySelector('#draft-note').textContent !== ''").await?;
    browser.reload().await?;
    browser.wait_for(&format!("{form} === 'Private,1'")).await?;
    // Away and back again.
    browser.click("#sign-out").await?;
    sign_in_as(&mut browser, "1", "ada").await?;
    browser.wait_for(&format!("{form} === 'Private,1'")).await?;
    browser.click("#sign-out").await?;
    sign_in_as(&mut browser, "2", "bob").await?;
    assert_eq!(browser.evaluate(&form).await?, ",0", "Bob sees none of it");
    browser.reload().await?;
    signed_in(&mut browser).await?;
    assert_eq!(browser.evaluate(&form).await?, ",0", "nor later");
    browser.expect_no_problems()
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_writes_photos_only_where_it_moves_them() -> Result<()> {
    let oneiro = Oneiro::builder().workers(0).env("ONEIRO_DEV_TOKENS", "1").start().await?;
    let mut browser = Browser::start(oneiro.artifacts()).await?;
    sign_in(&mut browser, &oneiro).await?;
    browser
        .evaluate(
            "(() => { window.puts = 0; const put = IDBObjectStore.prototype.put; \
             IDBObjectStore.prototype.put = function (...stored) { window.puts += 1; return put.apply(this, stored); }; \
             window.type = (make) => { const content = document.querySelector('#content'); content.value = make(content.value); \
             content.dispatchEvent(new Event('input')); }; })()",
        )
        .await?;
    browser.fill("#content", "The sea was warm.").await?;
    browser.evaluate("document.querySelector('#content').setSelectionRange(3, 3)").await?;
    let photo = oneiro.artifacts().path("sea.jpg");
    std::fs::write(&photo, photo::jpeg(64, 48, 1)?)?;
    browser.choose_files("#files", std::slice::from_ref(&photo)).await?;
    browser.wait_for("window.puts === 1").await?;
    // Keys at some distance, for writes that wait for another are one; then longer than the pause after which a draft is kept.
    let typed = async |browser: &mut Browser, make: &str| {
        let keys = format!(
            "(async () => {{ for (let key = 0; key < 10; key += 1) {{ type({make}); await new Promise((go) => setTimeout(go, 20)); }} \
             await new Promise((go) => setTimeout(go, 1000)); return puts; }})()"
        );
        browser.evaluate(&keys).await
    };
    assert_eq!(typed(&mut browser, "(text) => `${text}!`").await?, 1, "behind the photo");
    assert_eq!(typed(&mut browser, "(text) => `!${text}`").await?, 2, "before the photo, once for all keys");
    browser.expect_no_problems()
}
