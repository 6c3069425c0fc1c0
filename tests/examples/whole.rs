//! The whole way, measured: upload to `completed`, with server, Redis and load on one machine.
//!
//! `cargo run --profile dist -p oneiro-tests --example whole -- [CLIENTS] [PHOTOS] [SECONDS] [URL PID]` (default 8, 3, 20) after
//! `cargo build --profile dist --bins`. Each client posts a dream with so many 12 Mpx photographs, hears its socket say `completed`, and begins again.
//! Printed: pictures a second, time from the first byte sent to `completed`, CPU seconds of all server processes a picture, and peak memory.
//! With URL and PID, what is measured is another server of the same wire contract whose processes are children of PID; its tokens are signed with
//! the tests' secret. `scripts/bench-whole` starts one.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use anyhow::{Context, Result};
use oneiro_tests::{Form, Oneiro, Tier, User, photo, token};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

/// Kernel clock ticks a second, as `/proc/PID/stat` counts CPU time; 100 on every Linux that runs this.
const TICKS: f64 = 100.0;

struct Sample {
    posted: Duration,
    first_state: Duration,
    completed: Duration,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = |default: u64| args.next().map_or(Ok(default), |text| text.parse().context("this must be a number"));
    let (clients, photos, seconds) = (next(8)?, next(3)?, next(20)?);
    let target = Arc::new(match (args.next(), args.next()) {
        (Some(url), Some(pid)) => Target::Peer { url, pid },
        _ => {
            let builder = Oneiro::builder().env("RUST_LOG", "warn").env("ONEIRO_UPLOADS_RATE_PER_MINUTE", "0");
            Target::Ours(Box::new(builder.start().await?))
        }
    });
    let pictures: Vec<Vec<u8>> = (0..4).map(photo::twelve_megapixels).collect::<Result<_>>()?;
    let pictures = Arc::new(pictures);
    // Warm: code paged in, buffers grown, connections open.
    round(&target.user(999)?, &pictures, photos).await?;
    let cpu_before = target.cpu_seconds();
    let started = Instant::now();
    let until = started + Duration::from_secs(seconds);
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let (target, pictures) = (target.clone(), pictures.clone());
        tasks.spawn(async move {
            let user = target.user(client + 1)?;
            let mut samples = Vec::new();
            while Instant::now() < until {
                samples.push(round(&user, &pictures, photos).await?);
            }
            Ok::<_, anyhow::Error>(samples)
        });
    }
    let mut samples = Vec::new();
    while let Some(done) = tasks.join_next().await {
        samples.extend(done??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    let cpu = target.cpu_seconds() - cpu_before;
    let images = samples.len() as u64 * photos;
    let bytes: usize = pictures.iter().map(Vec::len).sum::<usize>() / pictures.len();
    println!("{clients} clients, {photos} photos of 12 Mpx and {:.1} MB a dream, {elapsed:.1} s", bytes as f64 / 1e6);
    println!("images/s                       {:8.2}", images as f64 / elapsed);
    println!("server CPU s an image          {:8.4}", cpu / images as f64);
    for (name, of) in [
        ("POST", &(|s: &Sample| s.posted) as &dyn Fn(&Sample) -> Duration),
        ("first state", &|s| s.first_state),
        ("completed", &|s| s.completed),
    ] {
        let mut times: Vec<Duration> = samples.iter().map(of).collect();
        times.sort_unstable();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
        println!("{name:<12} p50 / p95 ms      {:8.0} {:8.0}", at(0.5), at(0.95));
    }
    let peaks = target.peak_megabytes();
    println!("peak memory MB, all processes  {:8.1}", peaks.iter().map(|(_, peak)| peak).sum::<f64>());
    for (name, peak) in peaks {
        println!("  {name:<28} {peak:8.1}");
    }
    Ok(())
}

/// One dream from the first byte to `completed`.
async fn round(user: &User, pictures: &[Vec<u8>], photos: u64) -> Result<Sample> {
    let mut form = Form::new("bench", "a text of some length");
    for n in 0..photos {
        form = form.image(u32::try_from(n)?, pictures[n as usize % pictures.len()].clone(), n);
    }
    let started = Instant::now();
    let id = user.dream(form).await?;
    let posted = started.elapsed();
    let mut socket = user.watch(Tier::Api, id).await?;
    let mut first_state = None;
    loop {
        let update = socket.message_of_type("image_update").await?;
        first_state.get_or_insert_with(|| started.elapsed());
        if update["status"] == "completed" {
            break;
        }
    }
    let completed = started.elapsed();
    socket.close().await?;
    Ok(Sample { posted, first_state: first_state.unwrap_or(completed), completed })
}

/// What is measured.
enum Target {
    Ours(Box<Oneiro>),
    Peer { url: String, pid: String },
}

impl Target {
    fn user(&self, id: u64) -> Result<User> {
        match self {
            Self::Ours(oneiro) => oneiro.user(id),
            Self::Peer { url, .. } => User::at(url, Some(token(&serde_json::json!({ "user_id": id }), 3600)?)),
        }
    }

    /// The folders below /proc of every server process: children and theirs.
    fn processes(&self) -> Vec<PathBuf> {
        let root = match self {
            Self::Ours(_) => std::process::id().to_string(),
            Self::Peer { pid, .. } => pid.clone(),
        };
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        let all: Vec<(PathBuf, String)> =
            entries.flatten().filter_map(|entry| Some((entry.path(), stat(&entry.path())?.get(1)?.clone()))).collect();
        let mut family = vec![root];
        let mut found = Vec::new();
        while let Some(parent) = family.pop() {
            for (path, _) in all.iter().filter(|(_, of)| *of == parent) {
                family.extend(path.file_name().map(|pid| pid.to_string_lossy().into_owned()));
                found.push(path.clone());
            }
        }
        found
    }

    fn cpu_seconds(&self) -> f64 {
        let ticks = self.processes().into_iter().filter_map(|path| stat(&path)).map(|fields| {
            let field = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
            field(11) + field(12)
        });
        ticks.sum::<f64>() / TICKS
    }

    /// The most memory that each of the processes ever held, by the program's name.
    fn peak_megabytes(&self) -> Vec<(String, f64)> {
        let peak = |path: PathBuf| {
            let status = std::fs::read_to_string(path.join("status")).ok()?;
            let field = |name: &str| status.lines().find(|line| line.starts_with(name))?.split_whitespace().nth(1);
            Some((field("Name:")?.to_owned(), field("VmHWM:")?.parse::<f64>().ok()? / 1024.0))
        };
        let mut peaks: Vec<_> = self.processes().into_iter().filter_map(peak).collect();
        peaks.sort_by(|a, b| a.0.cmp(&b.0));
        peaks
    }
}

/// The fields of `/proc/PID/stat` behind the command's name, which may hold blanks.
fn stat(path: &Path) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(path.join("stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}
