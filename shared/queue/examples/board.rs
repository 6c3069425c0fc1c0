//! apalis's board, a page in the browser, on this store: its queue, its jobs in every state, and its worker.
//!
//! ```sh
//! redis-server --port 7900 --save '' &
//! cargo run -p apalis-fred --example board -- redis://127.0.0.1:7900 127.0.0.1:8080
//! ```
//!
//! Open the address that it prints; Ctrl-C ends it. The board has no sign-in: put it behind one.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::time::Duration;

use apalis_board_api::{
    framework::{ApiBuilder, RegisterRoute},
    ui::ServeUI,
};
use apalis_core::{
    error::{AbortError, BoxDynError},
    worker::builder::WorkerBuilder,
};
use apalis_fred::{FredStorage, Job, NewJob, Queue, WorkerOptions};
use axum::{
    Router,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use fred::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Mail {
    to: String,
}

impl Job for Mail {
    const KIND: &'static str = "mail";
}

async fn send(mail: Mail) -> Result<String, BoxDynError> {
    match mail.to.as_str() {
        "nobody" => Err(AbortError::new("there is no such address").into()),
        "grace" => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok("after an hour".to_owned())
        }
        to => Ok(format!("sent to {to}")),
    }
}

/// The page's files; every other path is one of the page's own, which the browser resolves.
async fn page(uri: Uri) -> Response {
    match ServeUI::get_file(uri.path()) {
        Some(file) => {
            let kind = ServeUI::content_type(&file.path().to_string_lossy());
            ([(header::CONTENT_TYPE, kind)], file.contents().to_vec()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxDynError> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "redis://127.0.0.1".to_owned());
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let client = Builder::from_config(Config::from_url(&url)?).build()?;
    client.init().await?;
    let queue = Queue::new(client, "mail".parse()?);
    for to in ["ada", "grace", "nobody"] {
        queue.push(NewJob::new(&Mail { to: to.to_owned() })?).await?;
    }
    queue.push(NewJob::new(&Mail { to: "later".to_owned() })?.run_in(Duration::from_secs(3600))).await?;

    let storage = FredStorage::<Mail>::new(queue.clone(), WorkerOptions::default());
    let worker = WorkerBuilder::new("mailer").backend(storage).build(send);
    tokio::spawn(async move { worker.run().await });

    let shown = FredStorage::<Mail>::new(queue, WorkerOptions::default());
    let board = ApiBuilder::new(Router::new()).register("mail", shown).build();
    let listener = tokio::net::TcpListener::bind(&address).await?;
    println!("open http://{}/", listener.local_addr()?);
    axum::serve(listener, Router::new().nest("/api/v1", board).fallback(page)).await?;
    Ok(())
}
