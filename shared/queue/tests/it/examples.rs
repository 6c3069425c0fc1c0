//! The examples do what they say.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{redis::Server, surface::get};

/// Where cargo puts an example: beside the folder of this test.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let folder: PathBuf = test.parent().and_then(|deps| deps.parent()).unwrap().join("examples");
    Command::new(folder.join(name))
}

#[tokio::test]
async fn the_quickstart_ends_by_itself_and_every_job_as_it_says() {
    let server = Server::start().await;
    let url = format!("redis://127.0.0.1:{}", server.port);
    let output = tokio::task::spawn_blocking(move || example("quickstart").arg(url).output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "the last two are the same job: true",
        "completed: \"sent to ada at attempt 1\"",
        "completed: \"sent to grace at attempt 2\"",
        "dead: AbortError: there is no such address",
        "completed: \"sent to later at attempt 1\"",
        "completed: \"sent to once at attempt 1\"",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn the_board_serves_its_page_and_its_queue() {
    let server = Server::start().await;
    let mut board = example("board")
        .args([format!("redis://127.0.0.1:{}", server.port), "127.0.0.1:0".to_owned()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(board.stdout.take().unwrap());
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line
    });
    let line = line.await.unwrap();
    let port = line.trim_end_matches("/\n").rsplit(':').next().unwrap().parse().unwrap();
    let page = get(port, "/").await;
    let queues = get(port, "/api/v1/queues").await;
    board.kill().unwrap();
    board.wait().unwrap();
    assert!(page.contains("<!DOCTYPE html>") && page.contains(".wasm"), "{page}");
    assert!(queues.contains("\"mail\""), "{queues}");
}
