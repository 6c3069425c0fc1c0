//! The converter hook with real programs: one that converts, and every way to fail.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use oneiro_worker::{ConvertError, Converter};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and its chunks";
/// Longer than any program here needs, on a machine of any load.
const PATIENCE: Duration = Duration::from_secs(120);

/// A file that is a TIFF by its first eight bytes; the converters below take those away.
fn original() -> Bytes {
    [b"II*\0\x08\0\0\0", PNG].concat().into()
}

fn script(folder: &Path, text: &str) -> String {
    let path = folder.join("convert");
    std::fs::write(&path, text).expect("a file");
    path.to_str().expect("a path in ASCII").to_owned()
}

async fn run(text: &str, arguments: &[&str], time: Duration) -> Result<Bytes, ConvertError> {
    let folder = tempfile::tempdir().expect("a folder");
    // Given to the shell: a file that was just written cannot be executed while a process that another test began holds it open.
    let mut command = vec!["/bin/sh".to_owned(), script(folder.path(), text)];
    command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    Converter::new(&command, time, PATIENCE, 1000, 2)
        .expect("a command")
        .convert(&original(), Duration::ZERO)
        .await
        .map(|converted| converted.bytes)
}

#[tokio::test]
async fn an_original_is_converted_from_standard_input_or_a_file() {
    assert_eq!(run("tail -c +9", &[], PATIENCE).await.expect("a PNG"), PNG);
    assert_eq!(run(r#"tail -c +9 "$2""#, &["--from", "{input}"], PATIENCE).await.expect("a PNG"), PNG);
    assert_eq!(run(r#"tail -c +9 "${1#file=}""#, &["file={input}"], PATIENCE).await.expect("a PNG"), PNG);
    // Nothing is expanded, and no secret of the worker's environment is passed on.
    assert_eq!(
        run(r#"[ "$1" = '$HOME;*' ] && [ -z "$CARGO_MANIFEST_DIR" ] && tail -c +9"#, &["$HOME;*"], PATIENCE)
            .await
            .expect("a PNG"),
        PNG
    );
    // One that knows enough before it has read all.
    assert_eq!(run(r"exec <&-; printf '\211PNG\r\n\032\n'", &[], PATIENCE).await.expect("a PNG"), &PNG[..8]);
}

#[tokio::test]
async fn every_failure_is_told() {
    assert!(matches!(run("tail -c +9; exit 3", &[], PATIENCE).await, Err(ConvertError::Failed)));
    assert!(matches!(run("kill -9 $$", &[], PATIENCE).await, Err(ConvertError::Failed)));
    assert!(matches!(run("cat", &[], PATIENCE).await, Err(ConvertError::NoImage)));
    assert!(matches!(run("exit 0", &[], PATIENCE).await, Err(ConvertError::NoImage)));
    assert!(matches!(run("while :; do echo flood; done", &[], PATIENCE).await, Err(ConvertError::TooLarge(1000))));
    // More than a pipe holds on standard error is no reason to hang.
    assert_eq!(run("yes complaint | head -c 300000 >&2; tail -c +9", &[], PATIENCE).await.expect("a PNG"), PNG);
    let missing = Converter::new(&["/nowhere/convert".to_owned()], PATIENCE, PATIENCE, 1000, 1).expect("a command");
    assert!(matches!(missing.convert(&original(), Duration::ZERO).await, Err(ConvertError::Start(_))));
    assert!(Converter::new(&[], PATIENCE, PATIENCE, 1000, 1).is_none());
}

/// What is told of a file that has `waited` already and meets a converter whose only place another one has.
async fn behind_another(wait: Duration, waited: Duration) -> Result<Bytes, ConvertError> {
    let command = ["/bin/sh", "-c", "cat >/dev/null; sleep 1000"].map(str::to_owned);
    let converter = Converter::new(&command, PATIENCE, wait, 1000, 1).expect("a command");
    let original = original();
    tokio::select! {
        biased;
        _ = converter.convert(&original, Duration::ZERO) => panic!("it hangs"),
        second = async {
            // Behind the first, which was asked before.
            tokio::task::yield_now().await;
            converter.convert(&original, waited).await
        } => second.map(|converted| converted.bytes),
    }
}

#[tokio::test]
async fn a_file_waits_so_long_for_its_turn() {
    let short = Duration::from_millis(50);
    assert!(matches!(behind_another(short, Duration::ZERO).await, Err(ConvertError::Busy)));
    // What it waited for before is taken off.
    let second = tokio::time::timeout(PATIENCE / 4, behind_another(PATIENCE, PATIENCE - short)).await;
    assert!(matches!(second.expect("an answer at once"), Err(ConvertError::Busy)));
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_all_that_it_started() {
    assert!(matches!(run("sleep 1000", &[], Duration::from_millis(50)).await, Err(ConvertError::TimedOut)));
    let folder = tempfile::tempdir().expect("a folder");
    let pid_file = folder.path().join("pid");
    // The grandchild holds the pipes open as well.
    let text = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait", pid_file.display());
    tokio::select! {
        _ = run(&text, &[], PATIENCE) => panic!("it hangs"),
        // Time out or cancelled: both drop what runs.
        () = eventually("the grandchild", || pid_file.exists()) => {}
    }
    let pid = std::fs::read_to_string(&pid_file).expect("it is there").trim().to_owned();
    eventually("the grandchild's end", || is_gone(&pid)).await;
}

/// Set in the process that the test below starts and kills: where its converter writes its number.
#[cfg(target_os = "linux")]
const PID_FILE: &str = "ONEIRO_TEST_CONVERTER_PID_FILE";

#[cfg(target_os = "linux")]
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "how a parent test talks to its own child process")]
async fn it_does_not_outlive_a_worker_that_is_killed() {
    if let Ok(pid_file) = std::env::var(PID_FILE) {
        let text = format!("echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 1000");
        drop(run(&text, &[], PATIENCE).await);
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let pid_file = folder.path().join("pid");
    let mut worker = tokio::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "converter::it_does_not_outlive_a_worker_that_is_killed"])
        .env(PID_FILE, &pid_file)
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("this test again");
    eventually("the converter", || pid_file.exists()).await;
    let pid = std::fs::read_to_string(&pid_file).expect("it is there").trim().to_owned();
    assert!(!is_gone(&pid), "it runs");
    worker.kill().await.expect("a worker");
    eventually("the converter's end", || is_gone(&pid)).await;
}

fn is_gone(pid: &str) -> bool {
    !std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn it_is_for_known_images_that_are_not_decoded() {
    assert!(Converter::is_for(&original()));
    assert!(Converter::is_for(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"));
    for other in [PNG, b"<svg/>", b"%PDF-1.7", b"anything"] {
        assert!(!Converter::is_for(other));
    }
}
