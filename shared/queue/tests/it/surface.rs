//! apalis's own tools on this store: the board's API over HTTP, and the Prometheus layer.

use std::sync::Arc;

use apalis::layers::prometheus::PrometheusLayer;
use apalis_board_api::framework::{ApiBuilder, RegisterRoute};
use apalis_core::{
    task::data::Data,
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{FredStorage, NewJob, State, WorkerOptions};
use metrics_exporter_prometheus::PrometheusBuilder;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    redis::{Server, eventually},
    worker::{Act, Play, act, start},
};

/// The body of a page.
pub(crate) async fn get(port: u16, path: &str) -> String {
    exchange(port, &format!("GET {path}"), "").await
}

async fn request(port: u16, head: &str, body: &str) -> Value {
    serde_json::from_str(&exchange(port, head, body).await).unwrap()
}

/// One request on one connection; the answer's body.
async fn exchange(port: u16, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let length = body.len();
    let text = format!(
        "{head} HTTP/1.1\r\nHost: board\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    body.to_owned()
}

#[tokio::test]
async fn the_board_lists_queues_jobs_and_workers_over_http_and_pushes() {
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let worker = start(&queue, WorkerOptions::default());
    let done = queue.push(act(Act::Return("yes".into()), "done")).await.unwrap().id;
    let dead = queue.push(act(Act::Abort, "dead")).await.unwrap().id;
    queue.push(act(Act::Succeed, "later").run_in(std::time::Duration::from_secs(3600))).await.unwrap();
    eventually("ended", || async {
        let stats = queue.stats().await.unwrap();
        (stats.completed, stats.dead) == (1, 1)
    })
    .await;
    let storage = FredStorage::<Play>::new(queue.clone(), WorkerOptions::default());
    let board = ApiBuilder::new(axum::Router::new()).register("q", storage).build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move { axum::serve(listener, board).await });

    let queues = request(port, "GET /queues", "").await;
    assert_eq!((queues.as_array().unwrap().len(), queues[0]["name"].as_str()), (1, Some("q")), "{queues}");
    let workers = request(port, "GET /workers", "").await;
    assert_eq!((workers.as_array().unwrap().len(), workers[0]["queue"].as_str()), (1, Some("q")), "{workers}");
    assert_eq!(request(port, "GET /queues/q/workers", "").await.as_array().unwrap().len(), 1);
    let statistics = request(port, "GET /overview", "").await;
    let completed = statistics.as_array().unwrap().iter().find(|s| s["title"] == "DONE_JOBS");
    assert_eq!(completed.and_then(|s| s["value"].as_str()), Some("1"), "{statistics}");
    assert!(!request(port, "GET /queues/q/stats", "").await.as_array().unwrap().is_empty());
    for (status, label) in [("Done", "done"), ("Killed", "dead"), ("Pending", "later")] {
        let tasks = request(port, &format!("GET /queues/q/tasks?status={status}&page=1&page_size=10"), "").await;
        assert_eq!(tasks.as_array().unwrap().len(), 1, "{status}: {tasks}");
        assert_eq!(tasks[0]["args"]["label"].as_str(), Some(label), "{tasks}");
    }
    assert_eq!(request(port, "GET /tasks?page=1&page_size=10&status=Done", "").await.as_array().unwrap().len(), 1);
    for (id, label) in [(done, "done"), (dead, "dead")] {
        let task = request(port, &format!("GET /queues/q/tasks/{id}"), "").await;
        assert_eq!(task["args"]["label"].as_str(), Some(label), "{task}");
    }
    let play = Play { act: Act::Succeed, label: "from the board".into() };
    request(port, "PUT /queues/q/tasks", &serde_json::to_string(&play).unwrap()).await;
    eventually("ran", || async { worker.log.of("from the board") == [1] }).await;
    serving.abort();
    worker.stop().await;
}

async fn fall(label: String, seen: Data<Arc<Mutex<Vec<String>>>>) -> Result<(), std::io::Error> {
    seen.lock().push(label.clone());
    if label == "bad" { Err(std::io::Error::other("as told")) } else { Ok(()) }
}

/// On one thread, because the recorder is that thread's own.
#[tokio::test]
async fn apaliss_prometheus_layer_counts_what_ran_and_how_it_ended() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let server = Server::start().await;
    let queue = server.queue("q").await;
    let seen = Arc::new(Mutex::new(Vec::<String>::new()));
    let context = WorkerContext::new("counted");
    let storage = FredStorage::<String>::of_kind(queue.clone(), "fall", WorkerOptions::default()).unwrap();
    let worker = WorkerBuilder::new(&context)
        .backend(storage)
        .data(Arc::clone(&seen))
        .layer(PrometheusLayer::default())
        .build(fall);
    let task = tokio::spawn(async move { worker.run().await.unwrap() });
    for label in ["good", "good", "bad"] {
        let body = serde_json::to_vec(label).unwrap();
        queue.push(NewJob::raw("fall", body).unwrap().max_attempts(1)).await.unwrap();
    }
    eventually("ended", || async {
        let stats = queue.stats().await.unwrap();
        (stats.completed, stats.dead) == (2, 1)
    })
    .await;
    let text = metrics.render();
    let count = |status: &str| {
        let wanted = |line: &&str| line.starts_with("tasks_total{") && line.contains(&format!("status=\"{status}\""));
        text.lines().find(wanted).and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok())
    };
    assert_eq!((count("Ok"), count("Err")), (Some(2), Some(1)), "{text}");
    assert!(text.contains("task_duration_seconds"), "{text}");
    let job = queue.jobs(&apalis_fred::JobFilter::in_state(State::Dead)).await.unwrap();
    assert_eq!(job.jobs.len(), 1);
    context.stop().unwrap();
    task.await.unwrap();
}
