//! Images in processes of their own: the same bytes come out, and whatever happens to a child happens to one image only.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use image::{DynamicImage, ImageFormat, RgbImage};
use oneiro_pipeline::{Output, Processed, Settings, Target, VariantSpec, Watermark};
use oneiro_worker::{Isolation, Limits, Pool, PoolError};
use rustix::process::{Pid, Signal, kill_process};

const LIMITS: Limits = Limits { budget_mb: 2048, decode: Duration::from_secs(300), wait: Duration::from_secs(300) };
/// For what must happen at some time, on a machine of any load.
const PATIENCE: Duration = Duration::from_secs(120);

fn isolation() -> Isolation {
    Isolation { program: env!("CARGO_BIN_EXE_worker").into(), memory_mb: 4096, cpu_seconds: 300 }
}

fn pool(places: usize) -> Pool {
    Pool::processes(settings(), places, LIMITS, isolation())
}

fn settings() -> Settings {
    let mut stamped = VariantSpec::new("stamped", Target::LongEdge(90)).with_format(Output::Png);
    stamped.watermark = true;
    let mut settings = Settings::default();
    settings.variants = vec![
        stamped,
        VariantSpec::new("web", Target::LongEdge(64)).with_format(Output::WebP),
        VariantSpec::new("j", Target::LongEdge(50)),
    ];
    settings.watermark = Some(Watermark::new(picture(8, 8, ImageFormat::Png).to_vec()));
    settings
}

fn picture(width: u32, height: u32, format: ImageFormat) -> Bytes {
    let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]));
    encode(image, format)
}

fn encode(image: RgbImage, format: ImageFormat) -> Bytes {
    let mut out = Cursor::new(Vec::new());
    DynamicImage::from(image).write_to(&mut out, format).expect("encodable");
    out.into_inner().into()
}

/// An image that keeps a child busy for seconds: large, and packed with the most effort.
fn slow() -> (Settings, Bytes) {
    let mut settings = Settings::default();
    settings.variants = (0..8)
        .map(|index| {
            let mut spec =
                VariantSpec::new(format!("v{index}"), Target::LongEdge(2000 + index)).with_format(Output::WebP);
            (spec.lossless, spec.effort) = (true, 6);
            spec
        })
        .collect();
    (settings, picture(2400, 2400, ImageFormat::Bmp))
}

/// The worker's program under a name by which its processes are known: tests run side by side.
fn named_program(folder: &Path) -> PathBuf {
    let path = folder.join("worker");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_worker"), &path).expect("a link");
    path
}

/// A process of `program` that has spent CPU time, and so has an image before it.
fn busy(program: &Path) -> Option<i32> {
    let is_busy = |pid: i32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Field 14 of proc(5)'s stat: user time in ticks of 10 ms.
        let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(11)?.parse().ok()?;
        (line.starts_with(program.to_str()?) && ticks >= 20).then_some(pid)
    };
    let mut entries = std::fs::read_dir("/proc").expect("Linux");
    entries.find_map(|entry| is_busy(entry.ok()?.file_name().to_str()?.parse().ok()?))
}

/// Bytes that a process holds in memory.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.split_whitespace().next().expect("a number").parse::<u64>().expect("a number") * 1024
}

/// How many descriptors a process may have.
fn most_files(pid: i32) -> String {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("Linux");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a line of it");
    line.split_whitespace().next().expect("a number").to_owned()
}

async fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_same_bytes_come_out_as_in_a_thread() {
    let (children, threads) = (pool(2), Pool::threads(settings(), 1, LIMITS).unwrap());
    for round in 0..3 {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp] {
            let file = picture(200 + 31 * round, 120, format);
            let (a, b) = tokio::join!(children.process(file.clone()), children.process(file.clone()));
            let expected: Processed = threads.process(file).await.unwrap();
            assert_eq!(a.unwrap(), expected);
            assert_eq!(b.unwrap(), expected);
        }
    }
}

#[tokio::test]
async fn a_bad_file_has_the_same_code_and_costs_no_process() {
    let children = pool(1);
    let png = picture(300, 200, ImageFormat::Png);
    for cut in [png.slice(..png.len() / 2), png.slice(..png.len() - 30)] {
        match children.process(cut).await {
            Err(PoolError::Refused { code, is_permanent, .. }) => {
                assert_eq!((code.as_str(), is_permanent), ("truncated_image", true));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(children.process(png).await.unwrap().variants.len(), 3);
}

#[tokio::test]
async fn a_child_that_is_lost_costs_its_own_image_only() {
    let (settings, file) = slow();
    let folder = tempfile::tempdir().expect("a folder");
    let program = named_program(folder.path());
    let pool = Pool::processes(settings, 1, LIMITS, Isolation { program: program.clone(), ..isolation() });
    let small =
        Bytes::from_static(b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;");
    for signal in [Signal::KILL, Signal::TERM, Signal::SEGV, Signal::ABORT] {
        let kill = async {
            let pid = eventually("a busy child", || busy(&program)).await;
            assert_eq!(most_files(pid), "0", "it can open nothing");
            let pid = Pid::from_raw(pid).expect("a pid");
            kill_process(pid, signal).expect("a child of ours");
            if signal == Signal::SEGV {
                // Rust's own handler takes the first for a fault that will come again, as a real one does.
                eventually("the handler to be gone", || kill_process(pid, signal).is_err().then_some(())).await;
            }
        };
        let (outcome, ()) = tokio::join!(pool.process(file.clone()), kill);
        match (signal, outcome.map(drop).expect_err("its process is gone")) {
            (Signal::KILL | Signal::TERM, PoolError::Killed)
            | (Signal::SEGV | Signal::ABORT, PoolError::Crashed(_)) => {}
            (_, other) => panic!("{other}"),
        }
        assert_eq!(pool.process(small.clone()).await.expect("a new process").variants.len(), 8);
    }
    // A job that is cancelled or takes too long drops its future: its child ends at once.
    {
        let mut unwanted = std::pin::pin!(pool.process(file));
        tokio::select! {
            _ = &mut unwanted => panic!("it takes seconds"),
            _ = eventually("a busy child", || busy(&program)) => {}
        }
    }
    eventually("no busy child", || busy(&program).is_none().then_some(())).await;
    assert_eq!(pool.process(small).await.expect("a new process").variants.len(), 8);
}

#[tokio::test]
async fn memory_and_time_are_limited() {
    // 100 megapixels need some 400 MB.
    let mut large = Settings::default();
    (large.limits.max_pixels, large.limits.max_file_bytes) = (200_000_000, 1 << 30);
    let pool = Pool::processes(large, 1, LIMITS, Isolation { memory_mb: 256, ..isolation() });
    match pool.process(encode(RgbImage::new(10_000, 10_000), ImageFormat::Png)).await {
        Err(PoolError::MemoryLimit) => {}
        Err(PoolError::Refused { code, is_permanent: true, .. }) => assert_eq!(code, "memory_limit"),
        other => panic!("{other:?}"),
    }
    assert_eq!(pool.process(picture(20, 20, ImageFormat::Png)).await.expect("a small image").variants.len(), 3);

    let limits = Limits { decode: Duration::ZERO, ..LIMITS };
    let pool = Pool::processes(Settings::default(), 1, limits, isolation());
    let begun = Instant::now();
    loop {
        match pool.process(picture(2000, 2000, ImageFormat::Png)).await {
            Err(PoolError::Refused { code, is_permanent: true, .. }) => break assert_eq!(code, "decode_timeout"),
            // It was too busy to say so within its grace.
            Err(PoolError::TimedOut) if begun.elapsed() < PATIENCE => {}
            other => panic!("{other:?}"),
        }
    }

    let (settings, file) = slow();
    let pool = Pool::processes(settings, 1, LIMITS, Isolation { cpu_seconds: 0, ..isolation() });
    assert!(matches!(pool.process(file).await, Err(PoolError::TimedOut)));
}

/// The photo as a progressive one of another size: what its decoder sets up before it reads a scan.
fn progressive(photo: &[u8], side: u16) -> Bytes {
    let frame = photo.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
    let side = side.to_be_bytes();
    let sizes = [photo[frame + 2], photo[frame + 3], 8, side[0], side[1], side[0], side[1]];
    [&photo[..frame], &[0xff, 0xc2], &sizes, &photo[frame + 9..]].concat().into()
}

#[tokio::test]
async fn what_a_codec_in_c_cannot_allocate_is_told_as_memory_too() {
    // All coefficients of 64 megapixels at once: 192 MB at the least, for 24 MB of pixels at half the size.
    let photo = progressive(&picture(64, 64, ImageFormat::Jpeg), 8000);
    // Hash chains and more for 16 megapixels: several hundred MB, for 48 MB of pixels.
    let mut packed = VariantSpec::new("packed", Target::LongEdge(4000)).with_format(Output::WebP);
    packed.lossless = true;
    let mut settings = Settings::default();
    settings.variants = vec![packed];
    let flat = encode(RgbImage::new(4000, 4000), ImageFormat::Png);
    for (settings, file, memory_mb) in [(Settings::default(), photo, 192), (settings, flat, 320)] {
        let pool = Pool::processes(settings, 1, LIMITS, Isolation { memory_mb, ..isolation() });
        match pool.process(file).await {
            Err(PoolError::Refused { code, is_permanent: true, .. }) => assert_eq!(code, "memory_limit"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_child_without_images_gives_its_buffers_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = named_program(folder.path());
    let pool = Pool::processes(settings(), 1, LIMITS, Isolation { program: program.clone(), ..isolation() });
    let file = picture(4000, 3000, ImageFormat::Png);
    assert_eq!(pool.process(file.clone()).await.expect("a picture").variants.len(), 3);
    let child = eventually("a child that has worked", || busy(&program)).await;
    let pixels = 4000 * 3000 * 3;
    eventually("the child to rest", || (resident(child) < pixels).then_some(())).await;
    assert_eq!(pool.process(file).await.expect("the same again").variants.len(), 3);
    assert_eq!(busy(&program), Some(child), "the same process");
}

/// A program that answers an image as the script says.
fn impostor(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("impostor");
    // Written by a process of its own: one that is held open for writing cannot be executed, and what other tests begin at the same moment
    // would inherit our hold.
    let writer = r#"printf '#!/bin/sh\n%s\n' "$2" > "$1" && chmod 755 "$1""#;
    let status = std::process::Command::new("/bin/sh").args(["-c", writer, "sh"]).arg(&path).arg(script).status();
    assert!(status.expect("a shell").success());
    path
}

#[tokio::test]
async fn a_child_that_lost_its_mind_is_replaced() {
    for (script, expected) in [
        ("printf r; head -c 100 >/dev/null; echo nonsense; cat >/dev/null", "an unknown word"),
        (r"printf r; head -c 100 >/dev/null; printf 'a\377\377\377\377'; cat >/dev/null", "too long an answer"),
        (r"printf r; head -c 100 >/dev/null; printf 'a\002\000\000\000{}'; cat >/dev/null", "an unreadable answer"),
        ("printf r; head -c 100 >/dev/null; echo 'so long' >&2; exit 7", "so long"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let program = impostor(folder.path(), script);
        let pool = Pool::processes(settings(), 1, LIMITS, Isolation { program, ..isolation() });
        for _ in 0..2 {
            match pool.process(picture(20, 20, ImageFormat::Png)).await {
                Err(PoolError::Crashed(why)) => assert!(why.contains(expected), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let hung = Isolation { program: impostor(folder.path(), "printf r; cat >/dev/null"), ..isolation() };
    let pool = Pool::processes(settings(), 1, Limits { decode: Duration::ZERO, ..LIMITS }, hung);
    assert!(matches!(pool.process(picture(20, 20, ImageFormat::Png)).await, Err(PoolError::TimedOut)));
    let missing = Isolation { program: folder.path().join("missing"), ..isolation() };
    let pool = Pool::processes(settings(), 1, LIMITS, missing);
    assert!(matches!(pool.process(picture(20, 20, ImageFormat::Png)).await, Err(PoolError::Start(_))));
}

#[tokio::test]
async fn a_child_that_cannot_set_itself_up_is_no_images_fault() {
    for (script, expected) in [
        ("echo 'no such limit' >&2; exit 1", "no such limit"),
        ("head -c 100 >/dev/null; echo nonsense; cat >/dev/null", "an unknown word"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let program = impostor(folder.path(), script);
        let pool = Pool::processes(settings(), 1, LIMITS, Isolation { program, ..isolation() });
        for outcome in [pool.check().await, pool.process(picture(20, 20, ImageFormat::Png)).await.map(drop)] {
            match outcome {
                Err(PoolError::Start(why)) => assert!(why.to_string().contains(expected), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }
    pool(1).check().await.expect("the worker's own program");
}
