//! A headless Chromium and its one page, driven as a person would: it opens addresses, fills fields, chooses files, looks.

mod devtools;

use crate::{Artifacts, Process, Spawn, eventually};
use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use devtools::DevTools;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Size of the window in CSS pixels: a small laptop's.
const WINDOW: (u32, u32) = (1280, 900);

/// A running browser with one empty page. Dropping it kills the browser.
#[derive(Debug)]
pub struct Browser {
    tools: DevTools,
    artifacts: Artifacts,
    _process: Process,
    _profile: TempDir,
}

impl Browser {
    /// Starts the browser that `CHROME` names, or the Chromium or Chrome that is installed.
    ///
    /// # Errors
    /// When there is none or it does not start; its log is in the artifacts.
    pub async fn start(artifacts: &Artifacts) -> Result<Self> {
        let profile =
            tempfile::Builder::new().prefix("oneiro-browser-").tempdir().context("failed to make a profile")?;
        let mut spawn = Spawn::new(program()?);
        // No look at the network beyond the page under test, no first-run dialogues, a free port for the tools.
        for flag in [
            "--headless=new",
            "--disable-gpu",
            "--disable-quic",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-default-browser-check",
            "--hide-scrollbars",
            "--remote-debugging-port=0",
        ] {
            spawn = spawn.arg(flag);
        }
        // Chromium's sandbox refuses to run as root, which is what a container often is. Nobody else loses it.
        if rustix::process::geteuid().is_root() {
            spawn = spawn.arg("--no-sandbox");
        }
        let spawn = spawn
            .arg(format!("--window-size={},{}", WINDOW.0, WINDOW.1))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank");
        let mut process = spawn.start(artifacts.path("browser.log"))?;
        let url = eventually("the browser opens its tools' port", async || {
            if process.has_ended()? {
                bail!("the browser ended:\n{}", process.output()?);
            }
            let output = process.output()?;
            Ok(output
                .split("DevTools listening on ")
                .nth(1)
                .and_then(|rest| rest.split_once('\n'))
                .map(|(url, _)| url.trim().to_owned()))
        })
        .await?;
        let tools = DevTools::connect(&url).await?;
        Ok(Self { tools, artifacts: artifacts.clone(), _process: process, _profile: profile })
    }

    /// Opens an address and waits until it has loaded.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub async fn open(&mut self, url: &str) -> Result<()> {
        let answer = self.tools.call("Page.navigate", json!({ "url": url })).await?;
        if let Some(error) = answer["errorText"].as_str() {
            bail!("failed to open {url}: {error}");
        }
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'").await?;
        Ok(())
    }

    /// Loads the page anew and waits until it has loaded.
    ///
    /// # Errors
    /// When it does not.
    pub async fn reload(&mut self) -> Result<()> {
        // The old document answers until the new one is there.
        self.evaluate("window.isOld = true").await?;
        self.tools.call("Page.reload", json!({})).await?;
        self.wait_for("window.isOld === undefined && document.readyState === 'complete'").await?;
        Ok(())
    }

    /// The value of a JavaScript expression (awaited where it is a promise).
    ///
    /// # Errors
    /// When it throws.
    pub async fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let mut answer = self.tools.evaluate(expression, true).await?;
        Ok(answer["value"].take())
    }

    /// Waits until a JavaScript expression is truthy; returns its value.
    ///
    /// # Errors
    /// When it never is; a screenshot of that moment is in the artifacts.
    pub async fn wait_for(&mut self, expression: &str) -> Result<Value> {
        let found = eventually(&format!("the page says `{expression}`"), async || {
            // While a page loads, an expression may find no document to run in.
            let value = self.evaluate(expression).await.unwrap_or(Value::Null);
            let is_truthy = !matches!(&value, Value::Null | Value::Bool(false)) && value != 0 && value != "";
            Ok(is_truthy.then_some(value))
        })
        .await;
        if found.is_err() {
            self.screenshot("waited-in-vain.png").await?;
        }
        found
    }

    /// Clicks the first element that matches a CSS selector, once it is there.
    ///
    /// # Errors
    /// When it never is.
    pub async fn click(&mut self, selector: &str) -> Result<()> {
        self.wait_for(&format!("document.querySelector({})", quoted(selector)).replacen("document", "!!document", 1))
            .await?;
        self.evaluate(&format!("document.querySelector({}).click()", quoted(selector))).await?;
        Ok(())
    }

    /// Types into a field as a person would, in place of what it held.
    ///
    /// # Errors
    /// When there is no such field.
    pub async fn fill(&mut self, selector: &str, text: &str) -> Result<()> {
        let field = quoted(selector);
        self.wait_for(&format!("!!document.querySelector({field})")).await?;
        self.evaluate(&format!(
            "(() => {{ const field = document.querySelector({field}); field.focus(); field.select?.(); }})()"
        ))
        .await?;
        self.tools.call("Input.insertText", json!({ "text": text })).await?;
        self.wait_for(&format!("document.querySelector({field}).value === {}", quoted(text))).await?;
        Ok(())
    }

    /// Chooses files in an `<input type="file">`.
    ///
    /// # Errors
    /// When there is no such input.
    pub async fn choose_files(&mut self, selector: &str, files: &[PathBuf]) -> Result<()> {
        self.wait_for(&format!("!!document.querySelector({})", quoted(selector))).await?;
        let input = self.tools.evaluate(&format!("document.querySelector({})", quoted(selector)), false).await?;
        let object = input["objectId"].as_str().with_context(|| format!("`{selector}` is no element"))?;
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        self.tools.call("DOM.setFileInputFiles", json!({ "objectId": object, "files": files })).await?;
        Ok(())
    }

    /// Keeps a picture of the whole page as `name` in the artifacts, once what fades in has done so.
    ///
    /// # Errors
    /// When the browser gives none.
    pub async fn screenshot(&mut self, name: &str) -> Result<PathBuf> {
        // Animations without an end (a progress bar) are not waited for; one that is taken away counts as done.
        self.evaluate(
            "Promise.allSettled(document.getAnimations().filter(animation => \
             Number.isFinite(animation.effect.getComputedTiming().endTime)).map(animation => animation.finished)).then(() => true)",
        )
        .await?;
        let answer = self
            .tools
            .call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }))
            .await?;
        let data = answer["data"].as_str().context("no picture in the answer")?;
        let path = self.artifacts.path(name);
        std::fs::write(&path, STANDARD.decode(data)?).context("failed to write a screenshot")?;
        Ok(path)
    }

    /// Shows the page as on a screen of this size in CSS pixels.
    ///
    /// # Errors
    /// When the browser does not take the size.
    pub async fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.tools.call("Emulation.setDeviceMetricsOverride", size).await?;
        Ok(())
    }

    /// What went wrong in the page so far: uncaught exceptions and errors that it logged or that the browser logged for it.
    pub fn problems(&self) -> &[String] {
        self.tools.problems()
    }

    /// Sees that nothing went wrong in the page.
    ///
    /// # Errors
    /// With what did.
    pub fn expect_no_problems(&self) -> Result<()> {
        ensure!(self.problems().is_empty(), "the page had problems: {:#?}", self.problems());
        Ok(())
    }
}

/// A string as a JavaScript literal.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[expect(clippy::disallowed_methods, reason = "names the browser, no setting of the product")]
fn program() -> Result<PathBuf> {
    if let Some(chosen) = std::env::var_os("CHROME").filter(|chosen| !chosen.is_empty()) {
        return Ok(chosen.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let in_path = std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name)));
    let on_macos = ["Google Chrome", "Chromium"]
        .map(|name| Path::new("/Applications").join(format!("{name}.app/Contents/MacOS/{name}")));
    in_path
        .chain(on_macos)
        .find(|program| program.is_file())
        .context("no Chromium found: run scripts/setup --tests, or set CHROME")
}
