//! A queue from one end to the other: jobs that wait their turn, fail, are retried, are given up, and one that is somebody's only once.
//!
//! ```sh
//! redis-server --port 7900 --save '' &
//! cargo run -p apalis-fred --example quickstart -- redis://127.0.0.1:7900
//! ```
//!
//! It ends by itself. Kill it in the middle and start it again: what was not done is done then.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::time::Duration;

use apalis_core::{
    error::{AbortError, BoxDynError},
    worker::{builder::WorkerBuilder, context::WorkerContext},
};
use apalis_fred::{FredStorage, Job, JobContext, NewJob, Queue, RetryPolicy, Unique, WorkerOptions};
use fred::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Mail {
    to: String,
}

impl Job for Mail {
    const KIND: &'static str = "mail";

    fn retry_policy() -> RetryPolicy {
        RetryPolicy { max_attempts: 5, base: Duration::from_millis(200), cap: Duration::from_secs(60) }
    }
}

/// What it returns is kept as the job's result, for whoever waits for it.
async fn send(mail: Mail, job: JobContext) -> Result<String, BoxDynError> {
    match mail.to.as_str() {
        "nobody" => Err(AbortError::new("there is no such address: not worth another attempt").into()),
        "grace" if job.attempt() == 1 => Err("the server is busy: this is tried again".into()),
        _ => {
            job.progress(1, 1, "sent").await?;
            Ok(format!("sent to {} at attempt {}", mail.to, job.attempt()))
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxDynError> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1".to_owned());
    let client = Builder::from_config(Config::from_url(&url)?).build()?;
    client.init().await?;
    let queue = Queue::new(client, "mail".parse()?);

    let mail = |to: &str| NewJob::new(&Mail { to: to.to_owned() });
    let mut jobs = vec![
        queue.push(mail("ada")?.group("ada")).await?,
        queue.push(mail("grace")?).await?,
        queue.push(mail("nobody")?).await?,
        queue.push(mail("later")?.run_in(Duration::from_millis(500))).await?,
    ];
    // The same key while the first is not done: nothing is added, and its id comes back.
    for _ in 0..2 {
        jobs.push(queue.push(mail("once")?.unique("newsletter:once", Unique::UntilDone)).await?);
    }
    println!("{} pushed; the last two are the same job: {}", jobs.len(), jobs[4].id == jobs[5].id);
    if let Some(why) = queue.explain(&jobs[3].id).await? {
        println!("the one for later does not run yet, because {}", why.reasons.join("; "));
    }

    let context = WorkerContext::new("mailer");
    let storage = FredStorage::<Mail>::new(queue.clone(), WorkerOptions::default());
    let worker = WorkerBuilder::new(&context).backend(storage).build(send);
    let worker = tokio::spawn(async move { worker.run().await });

    for job in &jobs[..5] {
        let outcome = queue.wait(job.id).await?;
        let state = outcome.state.map_or_else(|| "unknown".to_owned(), |state| state.to_string());
        let told = outcome.result.or(outcome.error.map(|error| error.message)).unwrap_or_default();
        println!("{state}: {told}");
    }
    context.stop()?;
    worker.await??;
    Ok(())
}
